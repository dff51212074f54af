from itertools import pairwise

import numpy as np
import pytest
import torch

from avscenes.scenes import (
    CLASSES,
    SIZE,
    class_name,
    make_objects,
    make_scene,
    make_scenes,
    overlap,
    shape_of,
    texture_of,
)
from avscenes.sounds import LENGTH, SAMPLE_RATE, make_sound, noise_band, pitch


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


def test_colour_inside_the_mask_tells_the_class(scenes):
    angles = {}
    for scene in scenes:
        pixels = scene.image[scene.mask].mean(axis=0) / 255
        red, green, blue = pixels
        hue = np.arctan2(np.sqrt(3) * (green - blue), 2 * red - green - blue) % (2 * np.pi)
        turn = (hue / (2 * np.pi) - scene.label / CLASSES + 0.5) % 1 - 0.5
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
