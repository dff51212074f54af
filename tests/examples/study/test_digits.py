"""Scenes of written and spoken digits, with beeps for recordings."""

import sys

import numpy as np
import pytest
import soundfile
import torch
from false_negative_study import main
from spoken_digits import NUMBERS, RATE, beep, pitch, record

from avscenes.files.errors import UserError
from avscenes.files.whole_files import write_json
from avscenes.models.encoders import build_encoders
from avstudy import data, digits, recordings, rows, runner, training
from avstudy.plan import QUICK_DIGITS, read_plan

PLAN = read_plan(QUICK_DIGITS)
PLAIN, VOICES = PLAN.settings["plain"], PLAN.settings["second-voice"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return record(tmp_path_factory.mktemp("spoken"))


@pytest.fixture(scope="module")
def spoken(folder):
    return recordings.find_recordings(folder)


@pytest.fixture(scope="module")
def scenes(spoken):
    return digits.make_scenes(3, "test", 30, PLAIN, spoken)


def test_a_scene_depends_on_seed_split_and_index_alone(scenes, spoken):
    for one, other in zip(scenes, digits.make_scenes(3, "test", 12, PLAIN, spoken)):
        assert torch.equal(one[:12], other)
    for seed, split in ((4, "test"), (3, "train")):
        other = digits.make_scenes(seed, split, 12, PLAIN, spoken)
        assert not any(torch.equal(*images) for images in zip(scenes.images, other.images))


def test_two_digits_of_different_classes_lie_in_their_boxes(scenes):
    assert scenes.images.shape == (30, 3, 32, 32)
    assert scenes.images.dtype == torch.uint8
    assert scenes.spectrograms.shape == (30, 1, 64, 16)
    assert scenes.labels.bincount().tolist() == [3] * 10
    assert (scenes.labels != scenes.silent_labels).all()
    sides = scenes.boxes[:, 2:] - scenes.boxes[:, :2]
    assert sides.min() >= 0.38
    assert sides.max() <= 0.55
    assert scenes.boxes.min() >= 0
    assert scenes.boxes.max() <= 1
    for box, mask in zip(scenes.boxes, scenes.masks):
        y, x = mask.nonzero().unbind(1)
        assert mask.sum() > 10
        x0, y0, x1, y1 = (32 * box).tolist()
        assert int(x0) <= x.min() <= x.max() < x1
        assert int(y0) <= y.min() <= y.max() < y1


def test_a_fifth_of_the_images_and_the_first_numbers_are_for_the_test(folder):
    train, test = digits.written("train"), digits.written("test")
    for label in range(10):
        assert len(train[label]) / len(test[label]) == pytest.approx(4, abs=0.2)
        seen = {image.tobytes() for image in train[label]}
        assert not seen & {image.tobytes() for image in test[label]}
    assert sum(map(len, train)) + sum(map(len, test)) == 1_797
    lengths = {
        split: {len(wave) for waves in recordings.read_recordings(folder, split) for wave in waves}
        for split in ("train", "test")
    }
    assert lengths == {"test": {2_400}, "train": {3_040, 3_120}}


def heard(wave):
    """Return how loud each digit's beep is."""
    spectrum = np.abs(np.fft.rfft(wave))
    return np.array([spectrum[pitch(digit) - 3 : pitch(digit) + 4].max() for digit in range(10)])


def test_the_second_voice_says_the_silent_digit_and_changes_nothing_else(folder):
    waves = recordings.read_recordings(folder, "train")
    for index in range(12):
        alone, both = (
            digits.make_scene(0, "train", index, setting, waves) for setting in (PLAIN, VOICES)
        )
        assert np.array_equal(alone.image, both.image)
        assert np.array_equal(alone.mask, both.mask)
        assert (alone.label, alone.silent_label) == (both.label, both.silent_label)
        assert np.sqrt(np.mean(alone.wave**2)) == pytest.approx(0.1 * 0.62, abs=0.005)
        loudness, added = heard(alone.wave), heard(both.wave - alone.wave)
        assert loudness.argmax() == alone.label
        assert added.argmax() == alone.silent_label
        assert added.max() / loudness.max() == pytest.approx(0.3, abs=0.03)


def test_a_long_recording_is_cut_after_a_second():
    waves = [[beep(digit, 1.5)] for digit in range(10)]
    wave = digits.make_scene(0, "train", 0, PLAIN, waves).wave
    assert wave.shape == (8_000,)
    assert np.sqrt(np.mean(wave**2)) == pytest.approx(0.1, abs=0.005)


def test_digits_are_shifted_by_three_pixels_and_never_mirrored(scenes):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.arange(32.0).expand(32, 32).clone()
    ramp = scenes._replace(images=pixels.to(torch.uint8).expand(30, 3, 32, 32))
    rows = torch.arange(30).repeat(4)
    images, _ = training.augmented(ramp, rows, generator, digits=True)
    middle = images[:, 0, 16, 8:24]
    assert (middle.diff(dim=1) > 0).all()
    moved = ((middle[:, 0] * 0.25 + 0.45) * 255).round() - 8
    assert sorted(set(moved.tolist())) == [-3, -2, -1, 0, 1, 2, 3]


def test_the_warm_start_tells_digits_apart():
    images, labels = digits.make_objects(0, 320, 32)
    assert labels.bincount().tolist() == [32] * 10
    torch.manual_seed(0)
    trunk = build_encoders("small")[0].trunk
    before = torch.random.get_rng_state()
    digits.warm_start(trunk, images, labels, 6, 0)
    assert torch.equal(before, torch.random.get_rng_state())
    with torch.no_grad():
        vectors = trunk(training.scale_images(images)).mean(dim=(2, 3))
    means = torch.stack([vectors[labels == label].mean(dim=0) for label in range(10)])
    nearest = torch.cdist(vectors, means).argmin(dim=1)
    assert (nearest == labels).double().mean() > 0.5


def test_what_is_kept_belongs_to_its_recordings(tmp_path, spoken):
    def kept(setting, found):
        data.scenes(tmp_path, 0, "test", 4, setting, found)
        return len(list(tmp_path.iterdir()))

    assert kept(PLAIN, spoken) == kept(PLAIN, spoken) == 1
    assert kept(PLAIN._replace(epochs=9), spoken) == 1
    assert kept(VOICES, spoken) == 2
    assert kept(PLAIN, spoken._replace(digest="other")) == 3


def test_the_digest_is_that_of_the_recordings(tmp_path, spoken):
    other = record(tmp_path / "other")
    assert recordings.find_recordings(other).digest == spoken.digest
    soundfile.write(other / "recordings" / "3_nobody_9.wav", beep(4), RATE)
    assert recordings.find_recordings(other).digest != spoken.digest


def test_a_run_of_elimination_says_what_it_left_out(tmp_path, spoken):
    run = next(run for run in PLAN.runs if run.method == "elimination")
    try:
        result = runner.execute(runner.Task(run, tmp_path, "", spoken))
    finally:
        torch.use_deterministic_algorithms(False)
    assert result["made_by"]["recordings"] == spoken.digest
    assert 0 <= result["measures"]["retrieval"] <= 1
    for point in (*result["curve"], result["measures"]):
        assert 0 <= point["left_out"] < 0.5
        assert {"left_out_same_class", "left_out_shown"} < {*point}


def test_a_result_of_other_recordings_is_not_taken(tmp_path, spoken):
    run = PLAN.runs[0]
    result = {"run": runner.described(run), "made_by": {"recordings": spoken.digest}}
    write_json(runner.result_path(tmp_path, run), result)
    assert runner.read_result(tmp_path, run, spoken) is not None
    with pytest.raises(UserError, match=rf"recordings {spoken.digest}, these are other; name"):
        runner.read_result(tmp_path, run, spoken._replace(digest="other"))


@pytest.mark.slow
def test_the_study_of_digits_runs_from_its_command_line(tmp_path, folder):
    arguments = ["--data", "digits", "--recordings", folder, "--quick", "--output-dir", tmp_path]
    assert main([str(argument) for argument in arguments]) == 0
    found = rows.read_rows(tmp_path / rows.RUNS)
    assert list(found.method) == [run.method for run in PLAN.runs]
    assert list(found.left_out.notna()) == [run.method == "elimination" for run in PLAN.runs]
    assert {path.name for path in tmp_path.glob("*.png")} > {"effects.png", "curves.png"}


@pytest.mark.parametrize(
    ("numbers", "files", "message"),
    [
        (
            NUMBERS,
            {"README.md": None},
            r"README\.md is not named \{digit\}_\{speaker\}_\{number\}\.wav$",
        ),
        (
            NUMBERS,
            {"b.wav": None, "c.wav": None},
            r"b\.wav is not named \{digit\}.*\.wav, nor are 1 more$",
        ),
        (NUMBERS, {"5_nobody_10.wav": None}, r"cannot read .*5_nobody_10\.wav: "),
        (
            NUMBERS,
            {"5_nobody_10.wav": (beep(5), 16_000)},
            r"5_nobody_10\.wav must be mono at 8000 Hz, got 1 channels at 16000 Hz",
        ),
        (
            NUMBERS,
            {"5_nobody_10.wav": (np.zeros((80, 2)), RATE)},
            r"5_nobody_10\.wav must be mono at 8000 Hz, got 2 channels at 8000 Hz",
        ),
        (NUMBERS, {"5_nobody_10.wav": (np.zeros(800), RATE)}, r"5_nobody_10\.wav is silent"),
        (NUMBERS, {"5_nobody_10.wav": (np.zeros(0), RATE)}, r"5_nobody_10\.wav is silent"),
        ((0, 1), {}, r"too few recordings: none of digit 0 with a number from 8, .* the train"),
        ((8, 9), {}, r"too few recordings: none of digit 0 with a number below 8, .* the test"),
    ],
)
def test_a_folder_that_is_wrong_is_one_line(tmp_path, numbers, files, message):
    record(tmp_path, numbers)
    for name, sound in files.items():
        path = tmp_path / "recordings" / name
        if sound is None:
            path.write_text("no sound")
        else:
            soundfile.write(path, *sound)
    with pytest.raises(UserError, match=rf"^--recordings: .*{message}") as error:
        recordings.find_recordings(tmp_path)
    assert "\n" not in str(error.value)


def test_without_scikit_learn_one_line_says_what_to_install(tmp_path, monkeypatch, capsys, folder):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    arguments = ["--data", "digits", "--recordings", str(folder), "--output-dir", str(tmp_path)]
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert said.endswith('error: --data digits needs scikit-learn: pip install ".[study]"\n')
