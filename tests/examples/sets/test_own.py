import json
import re
from pathlib import Path

import pytest
from small_sets import write_image, write_sound

from avscenes.files.errors import UserError
from avscenes.options.training import parse
from avscenes.sets.avsbench import read_split
from avscenes.sets.extended import read_silent_pairs
from avscenes.sets.flickr import read_boxes as read_flickr_boxes
from avscenes.sets.is3 import read_entries
from avscenes.sets.lists import read_ids
from avscenes.sets.own import own_samples, pairs_in, read_boxes, read_labels, split_of
from avscenes.training.data import clip_data
from avscenes.training.run_folder import start_run


def write_pairs(root, names, *, flat=False):
    for number, name in enumerate(names):
        write_image(root / ("" if flat else "frames") / f"{name}.png", number, (5, 8))
        write_sound(root / ("" if flat else "audio") / f"{name}.wav", number)
    return root


@pytest.mark.parametrize("flat", [False, True])
def test_every_image_with_a_sound_of_its_name_is_a_pair(tmp_path, flat):
    write_pairs(tmp_path, ["b", "a", "c.1"], flat=flat)
    folders = (tmp_path, tmp_path) if flat else (tmp_path / "frames", tmp_path / "audio")
    write_image(folders[0] / "mute.jpg", 1, (5, 8))
    write_sound(folders[1] / "dark.wav", 1)
    found = pairs_in("--data-root", tmp_path)
    assert found.pairs == ["a", "b", "c.1"]
    assert found.unpaired == [("unpaired", "dark", "no image"), ("unpaired", "mute", "no sound")]


def test_a_folder_without_pairs(tmp_path):
    with pytest.raises(
        UserError, match=r"^--data-root: .* holds no image with a sound of the same"
    ):
        pairs_in("--data-root", tmp_path)


def test_a_clip_stays_in_its_part_when_others_are_added():
    names = [f"clip{number}" for number in range(400)]
    few, many = split_of(names[:200], 0.2), split_of(names[::-1], 0.2)
    for before, after in zip(few, many, strict=True):
        assert set(before) == set(after) & set(names[:200])
    assert sorted(name for part in many for name in part) == sorted(names)
    assert [len(part) for part in many] == pytest.approx([320, 40, 40], abs=15)


def test_clips_of_one_video_stay_together():
    names = [f"abcdefghij{video}_{start:06d}" for video in "klmnopqrstuvwxyz" for start in (3, 40)]
    for part in split_of(names, 0.5):
        assert {f"{name[:11]}_000003" for name in part} <= set(part)


def test_very_few_clips_fill_every_part():
    assert [len(part) for part in split_of(list("abcdef"), 0.01)] == [2, 2, 2]
    with pytest.raises(ValueError, match="1 of 5 pairs are left to train on"):
        split_of(list("abcde"), 0.01)


def test_clips_to_test_on_may_be_named():
    names = [f"clip{number}" for number in range(100)]
    split = split_of(names, 0.2, ["clip7.wav", "elsewhere"])
    assert split.test == ["clip7.wav", "elsewhere"]
    assert sorted([*split.train, *split.validation]) == sorted({*names} - {"clip7"})
    assert set(split.validation) == set(split_of(names, 0.2).validation) - {"clip7"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,dog\nb\n", "line 2 of {} must be an id and a class, got 'b'"),
        ("a,dog\na.wav,cat\n", "line 2 of {} has a.wav again, of the class 'cat' and not 'dog'"),
        ("\n", "{} holds no classes"),
    ],
)
def test_classes_are_read_strictly(tmp_path, text, message):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=re.escape("--labels: " + message.format(path))):
        read_labels(path)


def write_boxes(path, names, **more):
    entries = [{"file": name, "bbox": [[0.1, 0.2, 0.6, 0.9]], **more} for name in names]
    path.write_text(json.dumps(entries))
    return path


def test_boxes_choose_what_is_tested_and_classes_come_from_either_file(tmp_path):
    root = write_pairs(tmp_path, "abc")
    boxes = write_boxes(tmp_path / "boxes.json", "bc", **{"class": "dog"})
    labels = tmp_path / "labels.csv"
    labels.write_text("a,cat\nb,bird\n")

    def read(*files, clips=None):
        return [
            (one.clip.name, one.class_name, len(one.boxes), one.fault)
            for one in own_samples("--test-root", root, clips, *files)
        ]

    assert read() == [("a", "", 0, None), ("b", "", 0, None), ("c", "", 0, None)]
    assert read(boxes) == [("b", "dog", 1, None), ("c", "dog", 1, None)]
    assert read(boxes, clips=["a", "c"]) == [("c", "dog", 1, None)]
    assert read(boxes, labels) == [("b", "bird", 1, None), ("c", "", 1, "no class in --labels")]
    assert read(None, labels, clips=["a"]) == [("a", "cat", 0, None)]
    with pytest.raises(UserError, match=r"^--annotations: .* has none of the 1 test clips"):
        read(boxes, clips=["a"])
    write_boxes(boxes, "b", bbox=[])
    assert read(boxes) == [("b", "", 0, "no box in --annotations")]


@pytest.fixture
def folder(tmp_path):
    return write_pairs(tmp_path / "own", [f"clip{number}" for number in range(12)])


def parts(tmp_path, folder, *options, known=None):
    settings = parse(
        [
            *("--dataset", "clips", "--data-root", str(folder)),
            *("--workers", "1", "--output-dir", str(tmp_path / "run"), *map(str, options)),
        ]
    )
    data, skipped = clip_data(settings, known)
    return settings, data, skipped


def test_a_folder_is_all_that_training_needs(tmp_path, folder):
    settings, data, skipped = parts(tmp_path, folder)
    assert (settings.batch_size, settings.validation_size, settings.held_out) == (4, 2, 0.2)
    assert skipped == []
    assert sorted([*data.train.clips, *data.validation.clips, *data.test.names]) == sorted(
        f"clip{number}" for number in range(12)
    )
    assert not data.test.labelled.located
    assert parts(tmp_path, folder, "--batch-size", 3)[0].batch_size == 3
    assert parts(tmp_path, folder, "--devices", 3)[0].batch_size == 6
    # Of three held-out clips two processes can share two.
    _, data, _ = parts(tmp_path, folder, "--devices", 2, "--held-out", 0.4)
    assert data.validation_size % 2 == 0


def test_clips_with_boxes_are_tested_on_and_never_trained_on(tmp_path, folder):
    boxes = write_boxes(tmp_path / "boxes.json", ["clip3", "clip8", "gone"])
    _, data, skipped = parts(tmp_path, folder, "--annotations", boxes, "--max-missing", 0.5)
    assert data.test.names == ["clip3", "clip8"]
    assert data.test.labelled.located
    assert not {"clip3", "clip8"} & {*data.train.clips, *data.validation.clips}
    assert [entry.clip for entry in skipped] == ["gone"]
    assert skipped[0].reason.startswith("no frame ")
    # Where all have boxes, names decide as they do without.
    write_boxes(boxes, [f"clip{number}" for number in range(12)])
    assert parts(tmp_path, folder, "--annotations", boxes)[1].test.names == (
        parts(tmp_path, folder)[1].test.names
    )
    (tmp_path / "test.txt").write_text("clip0\nclip1\n")
    options = ("--annotations", boxes, "--test-list", tmp_path / "test.txt")
    assert parts(tmp_path, folder, *options)[1].test.names == ["clip0", "clip1"]


def test_a_test_folder_of_its_own(tmp_path, folder):
    other = write_pairs(tmp_path / "other", ["x", "y", "clip0"])
    with pytest.raises(UserError, match="--data-root contains 1 of the 3 clips of --test-root"):
        parts(tmp_path, folder, "--test-root", other)
    _, data, _ = parts(tmp_path, folder, "--test-root", other, "--allow-overlap")
    assert data.test.names == ["clip0", "x", "y"]
    assert data.train_size + data.validation_size == 12


def test_a_resumed_run_keeps_its_clips(tmp_path, folder):
    settings, first, skipped = parts(tmp_path, folder)
    start_run(settings, settings.output_dir, skipped, first.split)
    write_pairs(folder, [f"new{number}" for number in range(9)])
    data, _ = clip_data(settings, settings.output_dir / "skipped.csv")
    assert data.digest == first.digest
    assert data.train.clips == first.train.clips
    assert (settings.output_dir / "lists" / "test.txt").read_text().split() == first.test.names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--validation-size", "3"], "--validation-size does not go with --dataset clips; it has"),
        (["--held-out", "1"], None),
        (
            ["--batch-size", "9"],
            "--batch-size 9 is larger than the 8 readable clips of",
        ),
        (
            ["--held-out", "0.98"],
            r"--data-root: 1 of 12 pairs are left .* in .*; add clips",
        ),
    ],
)
def test_sizes_that_a_folder_does_not_allow(tmp_path, folder, capsys, options, message):
    if message is None:
        with pytest.raises(SystemExit):
            parts(tmp_path, folder, *options)
        assert "--held-out: must be above 0 and below 1, got '1'" in capsys.readouterr().err
        return
    with pytest.raises(UserError, match=message):
        parts(tmp_path, folder, *options)


def test_the_documented_samples_are_read(tmp_path):
    page = Path(__file__).parents[3] / "docs" / "data.md"
    text = page.read_text(encoding="utf-8").split("## Annotation formats")[1].split("\n## ")[0]
    samples = re.findall(r"```\w+\n(.*?)```", text, flags=re.DOTALL)
    paths = [tmp_path / str(number) for number in range(len(samples))]
    for path, sample in zip(paths, samples, strict=True):
        path.write_text(sample)
    ids, labels, boxes, flickr, is3, silent, videos = paths
    assert len(read_ids("--train-list", ids)) == len(read_labels(labels)) == 2
    assert [len(entry.boxes) for entry in read_boxes(boxes).values()] == [1, 2]
    assert read_labels(labels)["gklbB7TYoK4_000030"] == "siren, ambulance"
    assert read_flickr_boxes(flickr)[0] == [31 / 256, 77 / 256, 149 / 256, 243 / 256]
    assert read_entries(is3)[0].box == [12 / 224, 40 / 224, 130 / 224, 205 / 224]
    assert len(read_silent_pairs("--silent-list", silent)) == 1
    assert read_split("--test-list", videos, "test")[0]["category"] == "ambulance_siren"
