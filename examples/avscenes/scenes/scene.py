"""Synthetic audio-visual scenes: two objects in a cluttered image, one of which sounds.

Class decides hue region, shape and texture of an object, and pitch region, timbre and rhythm of its
sound. Two samples of the same class differ by a jitter that hue and pitch share, so instances can
be told apart: they are false negatives. Every scene is a pure function of (seed, split, index).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from avscenes.media.spectrogram import log_frequency_spectrogram
from avscenes.scenes.drawing import SHAPES, TEXTURES, draw_background, draw_object
from avscenes.scenes.sounds import SAMPLE_RATE, make_sound

CLASSES = 12
SIZE = 64
SPLITS = ("train", "validation", "test", "warm-start")
_SUPERSAMPLING = 2

Box = tuple[float, float, float, float]


class Design(NamedTuple):
    """What governs how scenes are made, and what tells two of the same class apart.

    Two cues mark an instance. The one on the object is a jitter that moves hue and pitch; the one
    in the scene is a weak band of noise whose centre follows the hue of something silent.
    """

    classes: int = CLASSES  # at most 24, and no multiple of 5
    size: int = SIZE  # of the images, in pixels
    hop: int = 125  # audio samples between frames; a second has 8000
    object_strength: float = 1.0  # how far the jitter reaches; 1 is 0.3 of the width of a class
    object_share: float = 1.0  # of the samples whose pitch follows the jitter of the hue
    scene_level: float = 0.08  # root mean square of the band; the object's is 0.25 to 0.37
    scene_share: float = 0.5  # of the samples that have the band
    scene_source: str = "background"  # whose hue it follows; or "bystander", the silent object


STANDARD = Design()


class Scene(NamedTuple):
    """One synthetic sample and everything that is known about it."""

    image: NDArray[np.uint8]  # [size, size, 3]
    wave: NDArray[np.float64]  # [8000]
    box: Box  # of the sounding object
    mask: NDArray[np.bool_]  # visible part of the sounding object, [size, size]
    label: int
    silent_label: int


class SceneSet(NamedTuple):
    """Many scenes as tensors."""

    images: Tensor  # uint8 [n, 3, size, size]
    spectrograms: Tensor  # float32 [n, 1, 64, frames]
    boxes: Tensor  # float64 [n, 4] as x0, y0, x1, y1 in shares of the image
    masks: Tensor  # bool [n, size, size]
    labels: Tensor  # int64 [n]
    silent_labels: Tensor  # int64 [n]


class ObjectSet(NamedTuple):
    """Single-object images for the visual warm start, with what is to be predicted."""

    images: Tensor  # uint8 [n, 3, size, size]
    shapes: Tensor  # int64 [n]
    textures: Tensor  # int64 [n]
    hues: Tensor  # float32 [n] in [0, 1)


def shape_of(label: int) -> int:
    """Return the shape number of a class."""
    return label % 8


def texture_of(label: int) -> int:
    """Return the texture number of a class."""
    return (label + 3 * (label // 8)) % 8


def class_name(label: int) -> str:
    """Return a readable name; shape and texture tell classes apart without the hue."""
    return f"{TEXTURES[texture_of(label)]} {SHAPES[shape_of(label)]}"


def overlap(first: Box, second: Box) -> float:
    """Return the shared area of two boxes as a share of the smaller one."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (first, second)]
    return max(width, 0.0) * max(height, 0.0) / min(areas)


def _random_box(rng: np.random.Generator) -> Box:
    width, height = rng.uniform(0.4, 0.6, size=2)
    x0, y0 = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return (x0, y0, x0 + width, y0 + height)


def _finish(rng: np.random.Generator, canvas: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Average the supersampled canvas, add sensor noise and quantise."""
    side = canvas.shape[0] // _SUPERSAMPLING
    small = canvas.reshape(side, _SUPERSAMPLING, side, _SUPERSAMPLING, 3).mean(axis=(1, 3))
    small = small + rng.normal(scale=0.04, size=small.shape)
    image: NDArray[np.uint8] = (small.clip(0, 1) * 255).round().astype(np.uint8)
    return image


def make_scene(seed: int, split: str, index: int, design: Design = STANDARD) -> Scene:
    """Return the scene with this number; the same arguments always give the same scene.

    Raises:
        ValueError: When the design has too few or too many classes, or an unknown source.
    """
    classes, size = design.classes, design.size
    if not (2 <= classes <= 24 and classes % 5):  # else two sounds are alike, or two pitches
        raise ValueError(f"classes must be 2 to 24 and no multiple of 5, got {classes}")
    if design.scene_source not in ("background", "bystander"):
        raise ValueError(
            f"scene_source must be 'background' or 'bystander', got {design.scene_source!r}"
        )
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    # Classes take turns, so that every split is balanced.
    label = index % classes
    silent_label = (label + 1 + int(rng.integers(classes - 1))) % classes
    jitter, silent_jitter = rng.uniform(-1, 1, size=2)

    box, silent_box = _random_box(rng), _random_box(rng)
    while overlap(box, silent_box) > 0.12:
        box, silent_box = _random_box(rng), _random_box(rng)
    background_hue = rng.random()
    canvas = draw_background(rng, size * _SUPERSAMPLING, background_hue)
    in_front = rng.random() < 0.5
    order = [(silent_label, silent_jitter, silent_box), (label, jitter, box)]
    masks = {}
    for which, how, where in order if in_front else reversed(order):
        masks[which] = draw_object(
            canvas,
            where,
            shape=shape_of(which),
            texture=texture_of(which),
            hue=(which + 0.3 * design.object_strength * how) / classes,
            rotation=rng.uniform(-0.45, 0.45),
        )
    mask = masks[label] if in_front else masks[label] & ~masks[silent_label]

    # A stream of its own, so that designs that differ in this alone share everything else.
    other = np.random.default_rng([seed, SPLITS.index(split), index, 1])
    follows = other.random() < design.object_share
    heard_jitter = jitter if follows else other.uniform(-1, 1)
    silent_hue = (silent_label + 0.3 * design.object_strength * silent_jitter) / classes
    scene_hue = background_hue if design.scene_source == "background" else silent_hue
    area = (box[2] - box[0]) * (box[3] - box[1])
    wave = make_sound(
        rng,
        label,
        classes,
        jitter=design.object_strength * (heard_jitter + rng.normal(scale=0.1)),
        loudness=0.15 + 0.6 * area,
        scene_hue=scene_hue if rng.random() < design.scene_share else None,
        scene_level=design.scene_level,
    )
    blocks = mask.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING)
    visible = blocks.mean(axis=(1, 3)) >= 0.5
    return Scene(_finish(rng, canvas), wave, box, visible, label, silent_label)


def make_scenes(seed: int, split: str, count: int, design: Design = STANDARD) -> SceneSet:
    """Return the first `count` scenes of a split."""
    scenes = [make_scene(seed, split, index, design) for index in range(count)]
    return stacked(scenes, design.hop)


def stacked(scenes: Sequence[Scene], hop: int) -> SceneSet:
    """Return scenes as tensors, with spectrograms of so many samples between frames."""
    waves = torch.from_numpy(np.stack([scene.wave for scene in scenes])).float()
    return SceneSet(
        images=torch.from_numpy(np.stack([scene.image for scene in scenes])).movedim(-1, 1),
        spectrograms=log_frequency_spectrogram(waves, SAMPLE_RATE, hop=hop).unsqueeze(1),
        boxes=torch.tensor([scene.box for scene in scenes], dtype=torch.float64),
        masks=torch.from_numpy(np.stack([scene.mask for scene in scenes])),
        labels=torch.tensor([scene.label for scene in scenes]),
        silent_labels=torch.tensor([scene.silent_label for scene in scenes]),
    )


def make_objects(seed: int, count: int, size: int = SIZE) -> ObjectSet:
    """Return single objects whose shape, texture and hue are drawn independently of each other.

    They are not the classes of the scenes: with 8 shapes, 8 textures and any hue, a class is met
    once in a few hundred.
    """
    objects = []
    for index in range(count):
        rng = np.random.default_rng([seed, SPLITS.index("warm-start"), index])
        shape, texture, hue = int(rng.integers(8)), int(rng.integers(8)), rng.random()
        canvas = draw_background(rng, size * _SUPERSAMPLING, rng.random())
        draw_object(
            canvas,
            _random_box(rng),
            shape=shape,
            texture=texture,
            hue=hue,
            rotation=rng.uniform(-0.45, 0.45),
        )
        objects.append((_finish(rng, canvas), shape, texture, hue))
    images, shapes, textures, hues = zip(*objects, strict=True)
    return ObjectSet(
        torch.from_numpy(np.stack(images)).movedim(-1, 1),
        torch.tensor(shapes),
        torch.tensor(textures),
        torch.tensor(hues, dtype=torch.float32),
    )
