import json

import numpy as np
import pytest
import soundfile
from PIL import Image

from avscenes.files.errors import UserError
from avscenes.sets.annotated import annotated_set
from avscenes.sets.is3 import is3_samples, read_entries

NAME = "accordion_female_10438_accordion"
ENTRY = {
    "image": f"/elsewhere/visual_frames/{NAME}.jpg",
    "audio": f"/elsewhere/audio_wav/{NAME}.wav",
    "gt_box": [47.0, 99.0, 154.0, 185.0],
}


@pytest.fixture
def root(tmp_path):
    for folder in ("images", "audio_wav", "gt_segmentation"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (224, 224)).save(tmp_path / "images" / f"{NAME}.jpg")
    soundfile.write(tmp_path / "audio_wav" / f"{NAME}.wav", np.ones(800) / 2, 16_000)
    mask = Image.new("L", (448, 448))
    mask.paste(255, (0, 0, 100, 60))
    mask.save(tmp_path / "gt_segmentation" / f"{NAME}.png")
    (tmp_path / "boxes.json").write_text(json.dumps([ENTRY]))
    return tmp_path


@pytest.mark.parametrize(("masks", "area"), [(False, 107 * 86), (True, 50 * 30)])
def test_boxes_or_masks(root, masks, area):
    samples = is3_samples(root, read_entries(root / "boxes.json"), masks=masks)
    data, skipped = annotated_set(samples, workers=1)
    assert skipped == []
    assert data.pairs.clips == [NAME]
    assert data.class_names == ["accordion"]
    assert data.truth(0).sum().item() == area


def test_a_second_box_of_an_image_with_the_same_sound_is_an_error(root):
    other = {**ENTRY, "audio": "x.wav", "gt_box": [0, 0, 9, 9]}
    (root / "boxes.json").write_text(json.dumps([ENTRY, ENTRY, other]))
    assert len(read_entries(root / "boxes.json")) == 2
    (root / "boxes.json").write_text(json.dumps([ENTRY, {**ENTRY, "gt_box": [0, 0, 9, 9]}]))
    with pytest.raises(UserError, match=r"^--annotations: entry 1 of .* is a second one of 'accor"):
        read_entries(root / "boxes.json")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (None, "must be a valid dictionary"),
        ({}, "image: is missing"),
        ({**ENTRY, "gt_box": [1, 2, 3]}, "gt_box: must be four numbers .*, got "),
        ({**ENTRY, "gt_box": None}, "gt_box: must be four numbers .*, got None"),
        ({**ENTRY, "audio": ""}, "audio: must be the path of a file, got ''"),
        ({**ENTRY, "image": 3}, "image: must be the path of a file, got 3"),
    ],
)
def test_another_form_is_an_error(root, entry, message):
    (root / "boxes.json").write_text(json.dumps([ENTRY, entry]))
    with pytest.raises(UserError, match=rf"^--annotations: {root}/boxes.json: entry 1: {message}"):
        read_entries(root / "boxes.json")
