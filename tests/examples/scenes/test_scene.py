from itertools import pairwise

import numpy as np
import pytest
import torch

from avscenes.scenes.scene import (
    CLASSES,
    SIZE,
    Design,
    class_name,
    make_objects,
    make_scene,
    make_scenes,
    overlap,
    shape_of,
    texture_of,
)
from avscenes.scenes.sounds import LENGTH, SAMPLE_RATE, make_sound, noise_band, pitch


@pytest.fixture(scope="module")
def scenes():
    return [make_scene(0, "train", index) for index in range(96)]


def test_a_scene_depends_on_seed_split_and_index_alone():
    first = make_scene(3, "test", 17)
    np.random.default_rng().random(100)
    torch.rand(100)
    again = make_scene(3, "test", 17)
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(first.wave, again.wave)
    assert first.box == again.box
    for other in (make_scene(4, "test", 17), make_scene(3, "train", 17), make_scene(3, "test", 29)):
        assert not np.array_equal(first.image, other.image)
        assert not np.array_equal(first.wave, other.wave)


def test_a_longer_set_starts_with_the_shorter_one():
    short, long = make_scenes(0, "validation", 3), make_scenes(0, "validation", 5)
    for few, many in zip(short, long):
        assert torch.equal(few, many[:3])


def test_shapes_and_types(scenes):
    stacked = make_scenes(0, "train", 2)
    assert stacked.images.shape == (2, 3, SIZE, SIZE)
    assert stacked.images.dtype == torch.uint8
    assert stacked.spectrograms.shape == (2, 1, 64, 64)
    assert stacked.spectrograms.dtype == torch.float32
    assert stacked.boxes.shape == (2, 4)
    assert stacked.masks.shape == (2, SIZE, SIZE)
    assert scenes[0].wave.shape == (LENGTH,)


def test_boxes_follow_the_rules(scenes):
    boxes = np.array([scene.box for scene in scenes])
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2:] <= 1).all()
    assert (sides >= 0.4).all()
    assert (sides <= 0.6).all()
    assert sides.max() - sides.min() > 0.15


def test_overlap_is_a_share_of_the_smaller_box():
    assert overlap((0, 0, 0.5, 0.5), (0.5, 0.5, 1, 1)) == 0
    assert overlap((0, 0, 0.5, 0.5), (0.25, 0, 1, 1)) == pytest.approx(0.5)
    assert overlap((0, 0, 1, 1), (0.4, 0.4, 0.6, 0.6)) == pytest.approx(1)


def test_the_mask_lies_inside_the_box_and_shows_the_object(scenes):
    for scene in scenes:
        rows, columns = np.nonzero(scene.mask)
        x0, y0, x1, y1 = (value * SIZE for value in scene.box)
        assert columns.min() >= np.floor(x0)
        assert columns.max() <= np.ceil(x1)
        assert rows.min() >= np.floor(y0)
        assert rows.max() <= np.ceil(y1)
        assert scene.mask.sum() > 0.2 * (x1 - x0) * (y1 - y0)


def test_classes_are_balanced_and_the_silent_object_is_of_another_one(scenes):
    labels = [scene.label for scene in scenes]
    assert np.bincount(labels).tolist() == [8] * CLASSES
    assert all(scene.label != scene.silent_label for scene in scenes)
    assert len({scene.silent_label for scene in scenes}) == CLASSES


def test_no_two_classes_look_alike():
    looks = {(shape_of(label), texture_of(label)) for label in range(CLASSES)}
    assert len(looks) == CLASSES
    assert len({class_name(label) for label in range(CLASSES)}) == CLASSES


def hue_of(scene):
    """Return the mean hue inside the mask as an angle."""
    red, green, blue = scene.image[scene.mask].mean(axis=0) / 255
    return np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue)


def test_colour_inside_the_mask_tells_the_class(scenes):
    angles = {}
    for scene in scenes:
        turn = (hue_of(scene) / (2 * np.pi) - scene.label / CLASSES + 0.5) % 1 - 0.5
        angles.setdefault(scene.label, []).append(turn)
    # A class is 1 / 12 of a turn wide and its jitter is 0.3 of that.
    assert max(abs(np.mean(values)) for values in angles.values()) < 0.6 / CLASSES


def test_pitch_regions_of_the_classes_do_not_meet():
    regions = sorted((pitch(c, 12, -1.2), pitch(c, 12, 1.2)) for c in range(12))
    assert all(high < low for (_, high), (low, _) in pairwise(regions))
    assert regions[0][0] > 150
    assert regions[-1][1] < 150 * 2**2.4


def test_the_jitter_moves_the_pitch_of_the_sound():
    def strongest(jitter):
        wave = make_sound(
            np.random.default_rng(0), 0, 12, jitter=jitter, loudness=0.5, scene_hue=None
        )
        return np.fft.rfftfreq(LENGTH, 1 / SAMPLE_RATE)[np.abs(np.fft.rfft(wave)).argmax()]

    assert strongest(-1.0) == pytest.approx(pitch(0, 12, -1.0), abs=1.5)
    assert strongest(1.0) == pytest.approx(pitch(0, 12, 1.0), abs=1.5)


def test_noise_band_lies_where_it_is_asked_for():
    power = np.abs(np.fft.rfft(noise_band(np.random.default_rng(0), 1000.0, 0.5))) ** 2
    frequency = np.fft.rfftfreq(LENGTH, 1 / SAMPLE_RATE)
    assert np.average(frequency, weights=power) == pytest.approx(1000, rel=0.05)


def test_every_timbre_is_finite_and_starts_after_its_onset():
    for label in range(24):
        wave = make_sound(
            np.random.default_rng(label), label, 24, jitter=0.5, loudness=0.5, scene_hue=0.3
        )
        assert np.isfinite(wave).all()
        assert 0.02 < np.sqrt(np.mean(wave**2)) < 1


def test_single_objects_cover_shapes_textures_and_hues():
    objects = make_objects(0, 200)
    assert set(objects.shapes.tolist()) == set(objects.textures.tolist()) == set(range(8))
    assert objects.hues.min() < 0.1
    assert objects.hues.max() > 0.9
    assert torch.equal(make_objects(0, 3).images, objects.images[:3])


def scene_of(index=5, **changes):
    return make_scene(0, "train", index, Design(**changes))


def test_the_cues_are_in_the_sound_alone():
    plain = scene_of(object_share=1.0, scene_share=0.0)
    for changes in (
        {"object_share": 0.0, "scene_share": 0.0},
        {"scene_share": 1.0},
        {"scene_share": 1.0, "scene_level": 0.2},
        {"scene_share": 1.0, "scene_source": "bystander"},
    ):
        other = scene_of(**changes)
        assert np.array_equal(other.mask, plain.mask)
        assert other.box == plain.box
        # Only the noise of the sensor, which is drawn after the sound, is another one.
        assert np.abs(other.image.astype(float) - plain.image).max() < 0.04 * 255 * 8
        assert not np.array_equal(other.wave, plain.wave)
    assert np.array_equal(scene_of(scene_share=0.0, scene_level=0.2).wave, plain.wave)


def test_a_strong_jitter_moves_the_hue_too():
    strong, weak = (scene_of(object_strength=strength).image for strength in (1.0, 0.0))
    assert not np.array_equal(strong, weak)


def correlation(first, second):
    return np.corrcoef(first, second)[0, 1]


@pytest.fixture
def sounds_asked_for(monkeypatch):
    """What the scenes ask of their sounds, instead of the sounds."""
    asked = []

    def note(rng, label, classes, **how):
        asked.append(how)
        return np.zeros(LENGTH)

    monkeypatch.setattr("avscenes.scenes.scene.make_sound", note)
    return asked


@pytest.mark.parametrize(("share", "expected"), [(1.0, 1.0), (0.0, 0.0), (0.5, 0.5)])
def test_the_share_of_scenes_whose_pitch_follows_the_hue(sounds_asked_for, share, expected):
    hues = [
        hue_of(make_scene(0, "train", index, Design(object_share=share)))
        for index in range(0, 120 * 12, 12)
    ]
    jitters = [how["jitter"] for how in sounds_asked_for]
    assert correlation(hues, jitters) == pytest.approx(expected, abs=0.25)


def test_the_band_follows_what_it_is_told_to(sounds_asked_for):
    scenes = {
        source: [
            make_scene(0, "train", i, Design(scene_share=1.0, scene_source=source))
            for i in range(48)
        ]
        for source in ("background", "bystander")
    }
    asked = [how["scene_hue"] for how in sounds_asked_for]
    for place, scene in enumerate(scenes["bystander"]):
        # The jitter reaches 0.3 of the width of a class to either side.
        away = asked[48 + place] - scene.silent_label / CLASSES
        assert abs(away) <= 0.3 / CLASSES
    silent = [scene.silent_label for scene in scenes["background"]]
    assert abs(correlation(asked[:48], silent)) < 0.4


@pytest.mark.parametrize("classes", [2, 4, 6, 24])
def test_other_numbers_of_classes_and_sizes(classes):
    made = make_scenes(0, "train", 2 * classes, Design(classes=classes, size=32, hop=250))
    assert made.images.shape == (2 * classes, 3, 32, 32)
    assert made.masks.shape == (2 * classes, 32, 32)
    assert made.spectrograms.shape == (2 * classes, 1, 64, 32)
    assert made.labels.bincount().tolist() == [2] * classes
    assert made.silent_labels.max() < classes
    assert (made.labels != made.silent_labels).all()
    assert make_objects(0, 2, 32).images.shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": 1}, "classes must be 2 to 24 and no multiple of 5, got 1"),
        ({"classes": 25}, "classes must be 2 to 24 and no multiple of 5, got 25"),
        ({"classes": 10}, "classes must be 2 to 24 and no multiple of 5, got 10"),
        ({"scene_source": "sky"}, "scene_source must be 'background' or 'bystander', got 'sky'"),
    ],
)
def test_a_design_that_cannot_be_drawn_says_why(changes, message):
    with pytest.raises(ValueError, match=message):
        scene_of(**changes)
