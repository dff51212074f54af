import numpy as np
import pytest
import soundfile
import torch

from avscenes.media.specaugment import SILENCE
from avscenes.media.transforms import TRANSFORMS
from avscenes.sets import clips
from avscenes.sets.clips import ClipPairs, check_files, clips_in


def test_jpg_comes_before_png_and_wav_before_flac(tmp_path, make_clip):
    make_clip(tmp_path, "both", suffix="png")
    soundfile.write(tmp_path / "audio" / "both.flac", np.zeros(10), 16_000)
    assert clips_in(tmp_path, ["both"])[0].frame.suffix == ".png"
    make_clip(tmp_path, "both", suffix="JPG")
    clip, missing = clips_in(tmp_path, ["both", "-a.b_000010"])
    assert (clip.frame.name, clip.sound.name) == ("both.JPG", "both.wav")
    (tmp_path / "audio" / "both.wav").unlink()
    assert clips_in(tmp_path, ["both"])[0].sound.suffix == ".flac"
    assert missing.frame == tmp_path / "frames" / "-a.b_000010.jpg"


def test_files_may_lie_side_by_side(tmp_path, make_clip):
    make_clip(tmp_path, "a", size=(32, 32))
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in (tmp_path / "frames" / "a.jpg", tmp_path / "audio" / "a.wav"):
        path.rename(flat / path.name)
    assert check_files("test", clips_in(flat, ["a"]), workers=1) == []


def test_missing_files_are_named(tmp_path, make_clip):
    make_clip(tmp_path, "a", size=(32, 32))
    skipped = check_files("test", clips_in(tmp_path, ["b", "a"], ["a", "b"]), workers=1)
    reasons = [(entry.clip, entry.reason) for entry in skipped]
    assert reasons == [
        ("b", f"no frame {tmp_path}/frames/b.jpg or .png"),
        ("a", f"no sound {tmp_path}/audio/b.wav"),
    ]


def test_an_id_names_its_own_files_before_those_of_another_spelling(tmp_path, make_clip):
    for name in ("x", "x.mp4", "abcdefghijk_000030", "abcdefghijk_60000_70000", "y.jpg"):
        make_clip(tmp_path, name, size=(32, 32))
    names = ["x", "x.mp4", "x.jpg", "abcdefghijk_30000_40000", "abcdefghijk_000060.wav", "y"]
    found = [(clip.name, clip.frame.stem, clip.sound.stem) for clip in clips_in(tmp_path, names)]
    files = ["x", "x.mp4", "x", "abcdefghijk_000030", "abcdefghijk_60000_70000", "y.jpg"]
    assert found == [(name, file, file) for name, file in zip(names, files, strict=True)]
    # Other clips of the same video are not taken for this one.
    others = ["abcdefghijk_30000_35000", "abcdefghijk_30500_40500", "abcdefghijk_000031", "z.jpg"]
    reasons = [entry.reason for entry in check_files("test", clips_in(tmp_path, others), workers=1)]
    assert reasons[2:] == [
        f"no frame {tmp_path}/frames/{name}.jpg or .png" for name in ("abcdefghijk_000031", "z")
    ]
    assert len(reasons) == 4


def test_transforms_differ_in_their_masks(tmp_path, make_clip):
    make_clip(tmp_path, "a", size=(64, 64))
    clips = clips_in(tmp_path, ["a"])
    masked = {}
    for name in ("fnac", "fnac-released", "ez-vsl", "slavc"):
        pairs = ClipPairs(clips, seed=0, transform=TRANSFORMS[name])
        plain = pairs[0][1]
        changed = [(pairs[epoch, 0][1] != plain) for epoch in range(8)]
        masked[name] = sum(int(part.sum()) for part in changed)
        image, again = pairs[0, 0][0], pairs[0, 0][0]
        assert torch.equal(image, again)
        if name == "fnac-released":
            assert any((pairs[epoch, 0][1] == 0).any() for epoch in range(8))
        if name == "fnac":
            assert not any((pairs[epoch, 0][1] > -0.3).any() for epoch in range(8))
    assert masked["ez-vsl"] == masked["slavc"] == 0
    assert masked["fnac"] > 0
    assert masked["fnac-released"] > 0


def test_strong_views_change_image_and_place_of_the_sound_with_the_epoch(tmp_path, make_clip):
    make_clip(tmp_path, "a", size=(640, 480), seconds=9)
    pairs = ClipPairs(clips_in(tmp_path, ["a"]), seed=0, transform=TRANSFORMS["alignment"])
    plain, views = pairs[0], [pairs[epoch, 0] for epoch in range(3)]
    for image, sound in views:
        assert image.shape == plain[0].shape
        assert sound.shape == plain[1].shape
        assert image.isfinite().all()
        assert not torch.equal(sound, plain[1])
    assert not torch.equal(views[0][0], views[1][0])
    assert not torch.equal(views[0][1], views[1][1])
    assert all(torch.equal(*both) for both in zip(pairs[1, 0], views[1]))


def test_training_decodes_large_jpegs_smaller_and_tests_do_not(tmp_path, make_clip, monkeypatch):
    make_clip(tmp_path, "a", size=(1280, 720))
    sizes = []

    def decode(clip, *settings):
        image, wave = whole(clip, *settings)
        sizes.append(image.size)
        return image, wave

    whole = clips._decode
    monkeypatch.setattr(clips, "_decode", decode)
    files = clips_in(tmp_path, ["a"])
    pairs = ClipPairs(files, seed=0)
    plain, augmented = pairs[0][0], pairs[0, 0][0]
    assert plain.shape == augmented.shape == (3, 224, 224)
    # What is checked before a run is the whole file.
    assert check_files("training", files, workers=1) == []
    assert sizes == [(1280, 720), (640, 360), (1280, 720)]


def test_a_silent_clip_is_used(tmp_path, make_clip):
    make_clip(tmp_path, "silent", size=(32, 32))
    soundfile.write(tmp_path / "audio" / "silent.wav", np.zeros((400, 2)), 48_000)
    clips = clips_in(tmp_path, ["silent"])
    assert check_files("test", clips, workers=1) == []
    spectrogram = ClipPairs(clips, seed=0)[0][1]
    assert spectrogram.unique().tolist() == pytest.approx([SILENCE])
