import csv
import json

import numpy as np
import pytest
import soundfile
import torch

from avscenes.files.errors import UserError
from avscenes.sets.avsbench import read_split
from avscenes.sets.clips import ClipPairs, Skipped, check_files, clips_in
from avscenes.sets.extended import read_silent_pairs
from avscenes.sets.lists import read_ids
from avscenes.sets.vggss import read_annotations
from avscenes.training.data import clip_data
from avscenes.training.settings import Settings


def test_clips_have_the_published_shapes_and_the_crop_is_seeded(tmp_path, make_clip):
    make_clip(tmp_path, "a", size=(320, 180))
    pairs = ClipPairs(clips_in(tmp_path, ["a"]), seed=0)
    image, spectrogram = pairs[0]
    assert image.shape == (3, 224, 224)
    assert spectrogram.shape == (1, 257, 200)
    assert spectrogram.dtype == torch.float32
    first, again, other = pairs[1, 0], pairs[1, 0], pairs[2, 0]
    assert first[0].shape == (3, 224, 224)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_unusable_clips_are_named_with_their_reason(tmp_path, make_clip):
    clips = ["good", "no-frame", "no-sound", "cut-frame", "text-sound", "empty", "infinite"]
    for clip in clips:
        make_clip(tmp_path, clip, size=(64, 64))
    (tmp_path / "frames" / "no-frame.jpg").unlink()
    (tmp_path / "audio" / "no-sound.wav").unlink()
    frame = tmp_path / "frames" / "cut-frame.jpg"
    frame.write_bytes(frame.read_bytes()[:400])
    (tmp_path / "audio" / "text-sound.wav").write_text("no sound at all")
    soundfile.write(tmp_path / "audio" / "empty.wav", np.zeros(0), 16_000)
    soundfile.write(
        tmp_path / "audio" / "infinite.wav", np.full(100, np.inf), 16_000, subtype="FLOAT"
    )
    skipped = check_files("train", clips_in(tmp_path, clips), workers=2)
    assert [entry.clip for entry in skipped] == clips[1:]
    reasons = {entry.clip: entry.reason for entry in skipped}
    assert reasons["no-frame"].startswith("no frame")
    assert reasons["no-sound"].startswith("no sound")
    assert "truncated" in reasons["cut-frame"].lower()
    assert reasons["empty"] == "no samples"
    assert reasons["infinite"] == "samples that are not finite"
    assert all(reasons.values())
    assert not any("\n" in reason for reason in reasons.values())


def test_a_clip_that_breaks_later_stops_the_run_with_its_name(tmp_path, make_clip):
    make_clip(tmp_path, "gone")
    pairs = ClipPairs(clips_in(tmp_path, ["gone"]), seed=0)
    (tmp_path / "audio" / "gone.wav").unlink()
    with pytest.raises(RuntimeError, match=r"clip gone in .* is not any more"):
        pairs[0]


def test_lists_hold_one_id_a_line_or_in_the_first_column(tmp_path):
    path = tmp_path / "ids.csv"
    path.write_text("--8puiAGLhs_000030\n\n10007936344,0\r\n a_b \n--8puiAGLhs_000030\n")
    assert read_ids("--test-list", path) == ["--8puiAGLhs_000030", "10007936344", "a_b"]


STRAY = [
    ('a_1,"people marching,test\nb_2,dog,test\nc_3,cat,test\n', 1),
    ('a_1,dog,test\nb_2,"people marching,test', 2),
    ('a_1,dog,test\n\nb_2,"people\nc_3,marching",test\nd_4,cat,test\n', 3),
    ('a_1,dog,test\n"b_2,dog,test\nc_3,"cat",test\n', 2),
    ('a_1,"people" marching,test\n', 1),
    ('"a_1\nb_2\n"c_3\n', 1),
]


@pytest.mark.parametrize(("content", "line"), STRAY)
@pytest.mark.parametrize(
    ("header", "read"),
    [
        ("", lambda path: read_ids("--option", path)),
        ("video,audio,label\n", lambda path: read_silent_pairs("--option", path)),
        ("name,category,split\n", lambda path: read_split("--option", path, "test")),
    ],
)
def test_a_stray_quote_is_an_error_that_names_the_line(tmp_path, header, read, content, line):
    (tmp_path / "list.csv").write_text(header + content)
    line += bool(header)
    message = rf"^--option: cannot read line {line} of .*list\.csv, where quoted cells must end on"
    with pytest.raises(UserError, match=message) as caught:
        read(tmp_path / "list.csv")
    assert "\n" not in str(caught.value)


def test_quotes_in_their_places_are_fine(tmp_path):
    path = tmp_path / "ids.csv"
    path.write_bytes(b'\xef\xbb\xbf"a,1","people ""marching"", far",test\r\nb"2,5" wide\rc_3')
    assert read_ids("--test-list", path) == ["a,1", 'b"2', "c_3"]


def test_a_repeated_id_with_another_class_is_an_error(tmp_path):
    path = tmp_path / "ids.csv"
    path.write_text("a,dog,test\nb,cat\na, dog\nb\na,dog,test,3\n")
    assert read_ids("--test-list", path) == ["a", "b"]
    for again in ("a,cat,test", "a.jpg,cat", "a,dog,train"):
        path.write_text(f"x,cat\na,dog,test\n\n{again}\n")
        message = (
            r"^--test-list: line 4 of .*ids\.csv repeats a\S* of line 2 with '.*' after it, not"
        )
        with pytest.raises(UserError, match=message):
            read_ids("--test-list", path)


def test_ids_in_another_spelling_count_once(tmp_path):
    path = tmp_path / "ids.csv"
    seconds, short = "abcdefghijk_000030", "abcdefghijk_30000_35000"
    path.write_text(f"abcdefghijk_30000_40000\n{seconds}\n{short}\n1.jpg\n1.wav\n1\na.b\n")
    assert read_ids("--option", path) == ["abcdefghijk_30000_40000", short, "1.jpg", "a.b"]


def test_annotations_keep_every_box(tmp_path):
    path = tmp_path / "vggss.json"
    boxes = [[0.1, 0.2, 0.6, 0.9], [-2.88e16, 0.3, 0.98, 0.57]]
    path.write_text(json.dumps([{"file": "x", "class": "dog, barking", "bbox": boxes}]))
    annotations = read_annotations(path)
    assert annotations["x"].class_name == "dog, barking"
    assert annotations["x"].boxes == boxes


@pytest.fixture
def vggsound(tmp_path, make_clip):
    for clip in range(12):
        make_clip(tmp_path / "train", f"train{clip}", size=(32, 32))
    for clip in range(4):
        make_clip(tmp_path / "test", f"test{clip}", size=(32, 32), seconds=1)
    (tmp_path / "train.txt").write_text("\n".join(f"train{clip}" for clip in range(12)))
    (tmp_path / "test.csv").write_text("\n".join(f"test{clip}" for clip in range(4)))
    entries = [
        {"file": f"test{clip}", "class": "ab"[clip % 2], "bbox": [[0, 0, 0.5, 0.5]]}
        for clip in range(4)
    ]
    (tmp_path / "vggss.json").write_text(json.dumps(entries))
    return Settings(
        data_root=str(tmp_path / "train"),
        test_root=str(tmp_path / "test"),
        train_list=str(tmp_path / "train.txt"),
        test_list=str(tmp_path / "test.csv"),
        annotations=str(tmp_path / "vggss.json"),
        validation_size=3,
        batch_size=2,
        workers=1,
        max_missing=0.2,
        dataset="vggsound",
    )


def test_held_out_clips_are_no_training_clips(tmp_path, vggsound):
    data, skipped = clip_data(vggsound, tmp_path / "skipped.csv")
    assert skipped == []
    assert (data.train_size, data.validation_size) == (9, 3)
    assert not set(data.train.clips) & set(data.validation.clips)
    test = data.test.labelled
    assert data.test.names == ["test0", "test1", "test2", "test3"]
    assert test.class_names == ["a", "b"]
    assert test.labels.tolist() == [0, 1, 0, 1]
    assert test.truth(0).sum().item() == 112 * 112


def test_a_lost_clip_is_left_out_and_moves_no_other(tmp_path, vggsound):
    before, _ = clip_data(vggsound, tmp_path / "skipped.csv")
    lost = before.train.clips[4]
    (tmp_path / "train" / "audio" / f"{lost}.wav").unlink()
    after, skipped = clip_data(vggsound, tmp_path / "skipped.csv")
    assert [(entry.split, entry.clip) for entry in skipped] == [("train", lost)]
    assert after.train.clips == [clip for clip in before.train.clips if clip != lost]
    assert after.validation.clips == before.validation.clips


def test_a_known_list_of_left_out_clips_is_used_as_it_is(tmp_path, vggsound):
    whole, _ = clip_data(vggsound, tmp_path / "skipped.csv")
    entry = Skipped("train", whole.train.clips[0], "was broken then")
    lost = Skipped("test", "test1", "was broken too")
    with (tmp_path / "skipped.csv").open("w", newline="") as file:
        csv.writer(file).writerows([Skipped._fields, entry, lost])
    tolerant = vggsound.model_copy(update={"max_missing": 0.25})
    again, skipped = clip_data(tolerant, tmp_path / "skipped.csv")
    assert skipped == [entry, lost]
    assert again.train.clips == whole.train.clips[1:]
    assert again.test.names == ["test0", "test2", "test3"]
    assert again.test.skipped == [lost]


def test_too_many_lost_clips_stop_the_run(tmp_path, vggsound):
    for clip in range(1, 4):
        (tmp_path / "test" / "audio" / f"test{clip}.wav").unlink()
    with pytest.raises(UserError, match=r"--test-list: 3 of 4 test clips .* first test1: no sound"):
        clip_data(vggsound, tmp_path / "skipped.csv")


@pytest.mark.parametrize(
    ("trained", "tested"),
    [("train3", "train3"), ("abcdefghijk_000030", "abcdefghijk_30000_40000")],
)
def test_test_clips_in_the_training_list_are_counted(
    tmp_path, vggsound, make_clip, trained, tested
):
    make_clip(tmp_path / "train", trained, size=(32, 32))
    make_clip(tmp_path / "test", tested, size=(32, 32))
    with (tmp_path / "train.txt").open("a") as file:
        file.write(f"\n{trained}\n")
    (tmp_path / "test.csv").write_text(f"test0\n{tested}\n")
    entries = [{"file": clip, "class": "a", "bbox": []} for clip in ("test0", tested)]
    (tmp_path / "vggss.json").write_text(json.dumps(entries))
    with pytest.raises(UserError, match=r"--train-list contains 1 of the 2 clips of --test-list"):
        clip_data(vggsound, tmp_path / "skipped.csv")
    allowing = vggsound.model_copy(update={"allow_overlap": True})
    data, _ = clip_data(allowing, tmp_path / "skipped.csv")
    assert data.test_ids_in_training == 1
    assert [data.test.labelled.truth(row).sum().item() for row in (0, 1)] == [0, 0]
