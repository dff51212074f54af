import json

import pytest

from avscenes.files.errors import UserError
from avscenes.sets.annotated import annotated_set
from avscenes.sets.lists import read_ids
from avscenes.sets.vggss import check_open_set, read_annotations, vggss_samples

HEARD, UNHEARD = "zpWuikVorYg_000032", "ORaz32CQ29k_000130"


@pytest.fixture
def annotations(tmp_path):
    entries = [
        {"file": HEARD, "class": "elk bugling", "bbox": [[0.403125, 0.253125, 0.6, 0.75]]},
        {
            "file": UNHEARD,
            "class": "coyote howling",
            "bbox": [[0.121875, 0.171875, 0.6, 0.853125], [0.765625, 0.275, 0.984375, 0.565625]],
        },
        {"file": "MKC9LvRivTM_000030", "class": "elk bugling", "bbox": [[0.5, 0.5, 0.5, 0.9]]},
        {"file": "pixels_____1_000000", "class": "elk bugling", "bbox": [[0, 35, 110, 200]]},
        {"file": "widths_____1_000000", "class": "elk bugling", "bbox": [[0.5, 0.5, 0.2, 0.4]]},
    ]
    (tmp_path / "vggss.json").write_text(json.dumps(entries))
    return read_annotations(tmp_path / "vggss.json")


def test_a_set_is_the_clips_of_a_list_with_their_boxes(tmp_path, make_clip, annotations):
    names = [UNHEARD, HEARD, "MKC9LvRivTM_000030"]
    for name in names:
        make_clip(tmp_path, name, size=(64, 48), rate=22_050, seconds=1)
    left_out = ["not_annotated", "pixels_____1_000000", "widths_____1_000000", "JIemsK_0lXc_000364"]
    for name in left_out[:3]:
        make_clip(tmp_path, name, size=(32, 32))
    (tmp_path / "test.csv").write_text("\n".join([*names, *left_out]))
    listed = read_ids("--test-list", tmp_path / "test.csv")
    data, skipped = annotated_set(vggss_samples(tmp_path, listed, annotations), workers=1)
    reasons = {entry.clip: entry.reason for entry in skipped}
    assert reasons.pop("not_annotated") == "no entry in --annotations"
    assert "boxes must be shares of the image" in reasons.pop("pixels_____1_000000")
    assert reasons.pop("widths_____1_000000") == (
        "no box has an area, got [0.5, 0.5, 0.2, 0.4] (x, y, width, height?)"
    )
    assert list(reasons) == ["JIemsK_0lXc_000364"]
    assert data.pairs.clips == names
    assert data.class_names == ["coyote howling", "elk bugling"]
    assert data.labels.tolist() == [0, 1, 1]
    assert data.visible.all()
    truth = [data.truth(row) for row in range(3)]
    assert truth[0].shape == (224, 224)
    rows = 191 - 38, 126 - 61
    assert truth[0].sum().item() == rows[0] * (134 - 27) + rows[1] * (220 - 171)
    # A box without an area: the clip stays, as in the published numbers.
    assert truth[2].sum().item() == 0
    image, spectrogram = data.pairs[0]
    assert image.shape == (3, 224, 224)
    assert spectrogram.shape == (1, 257, 200)


def test_clips_find_their_annotations_however_ids_are_written(tmp_path, make_clip, annotations):
    make_clip(tmp_path, HEARD, size=(32, 32), seconds=1)
    make_clip(tmp_path, "ORaz32CQ29k_130000_140000", size=(32, 32), seconds=1)
    names = ["zpWuikVorYg_32000_42000", f"{UNHEARD}.mp4", "zpWuikVorYg_32000_37000"]
    data, skipped = annotated_set(vggss_samples(tmp_path, names, annotations), workers=1)
    assert data.pairs.clips == names[:2]
    assert data.labels.tolist() == [1, 0]
    assert [len(boxes) for boxes in data.boxes] == [1, 2]
    # Half of a clip is another one.
    assert [entry.clip for entry in skipped] == names[2:]
    with pytest.raises(UserError, match="it shares 1 classes with --test-list"):
        check_open_set(names[:1], ["MKC9LvRivTM_30000_40000"], annotations)


@pytest.mark.parametrize(
    "file", ["a_________1_000030", "a_________1_30000_40000", "a_________1_000030.jpg"]
)
def test_a_second_annotation_of_a_clip_is_an_error(tmp_path, file):
    path = tmp_path / "vggss.json"
    first = {"file": "a_________1_000030", "class": "dog", "bbox": [[0, 0, 0.5, 0.5]]}
    path.write_text(json.dumps([first, {**first, "file": file}]))
    assert list(read_annotations(path)) == [first["file"]]
    for change in ({"class": "cat"}, {"bbox": [[0, 0, 1, 1]]}, {"bbox": [*first["bbox"], [0] * 4]}):
        path.write_text(json.dumps([first, {**first, "file": file, **change}]))
        message = (
            r"^--annotations: entry 1 of .*vggss\.json is a second one of 'a_________1_000030'"
        )
        with pytest.raises(UserError, match=message):
            read_annotations(path)


def test_a_key_that_comes_twice_in_an_entry_is_an_error(tmp_path):
    path = tmp_path / "vggss.json"
    path.write_text('[{"file": "a", "class": "dog", "bbox": [], "class": "dog"}]')
    assert read_annotations(path)["a"].class_name == "dog"
    path.write_text('[{"file": "a", "class": "dog", "bbox": [], "class": "cat"}]')
    with pytest.raises(UserError, match=r"cannot read .*vggss\.json: an entry has 'class' twice"):
        read_annotations(path)


def test_nothing_usable_is_an_error(tmp_path, annotations):
    samples = vggss_samples(tmp_path / "nowhere", [HEARD], annotations)
    with pytest.raises(UserError, match=rf"none of the 1 test clips .* first {HEARD}: no frame "):
        annotated_set(samples, workers=1)


def test_the_halves_of_the_open_set_share_no_class(annotations):
    check_open_set([HEARD, "unknown"], [UNHEARD], annotations)
    message = (
        r"^--other-half: it shares 1 classes with --test-list .first 'elk bugling'.; both must"
    )
    with pytest.raises(UserError, match=message):
        check_open_set([HEARD], [UNHEARD, "MKC9LvRivTM_000030"], annotations)
