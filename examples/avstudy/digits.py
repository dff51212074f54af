"""Scenes of something real: two handwritten digits in an image, one of which is spoken.

The images of digits are those that scikit-learn brings along, the recordings are a user's, see
`avstudy.recordings`. Every fifth image of a class is for testing, whatever the seed. With the same
files, a scene is a pure function of (seed, split, index).
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from torch import Tensor, nn
from torch.nn import functional as F

from avscenes.media.augmentation import scale_images
from avscenes.models.encoders import SmallTrunk
from avscenes.scenes.drawing import Array, turned_box
from avscenes.scenes.scene import SPLITS, Box, Scene, SceneSet, overlap, stacked
from avscenes.scenes.sounds import LENGTH
from avstudy.plan import DigitSetting
from avstudy.recordings import DIGITS, Recordings, read_recordings

_LOUDNESS = 0.1  # root mean square of a recording
_NOISE = 0.004
_ROTATION = np.pi / 15  # at most
_BATCH, _RATE = 64, 1e-2  # of the warm start


@functools.cache
def written(split: str) -> list[list[Array]]:
    """Return images of digits [8, 8] in [0, 1] of a split, `train` or `test`, by class."""
    from sklearn.datasets import load_digits

    found = load_digits()
    by_class = [found.images[found.target == label] / 16 for label in range(DIGITS)]
    return [
        [image for place, image in enumerate(images) if (place % 5 == 4) == (split == "test")]
        for images in by_class
    ]


def make_scene(
    seed: int,
    split: str,
    index: int,
    setting: DigitSetting,
    spoken: list[list[Array]] | None = None,
) -> Scene:
    """Return the scene with this number.

    `spoken` are the recordings of the split, by digit; without them nothing is said.
    """
    rng = np.random.default_rng([seed, SPLITS.index(split), index])
    label = index % DIGITS
    silent_label = (label + 1 + int(rng.integers(DIGITS - 1))) % DIGITS
    box, silent_box = _random_box(rng), _random_box(rng)
    while overlap(box, silent_box) > 0.12:
        box, silent_box = _random_box(rng), _random_box(rng)
    canvas = _ground(rng, setting.size)
    in_front = rng.random() < 0.5
    order = [(silent_label, silent_box), (label, box)]
    masks = {}
    for which, where in order if in_front else reversed(order):
        masks[which] = _draw(rng, canvas, where, _one_of(rng, written(split)[which]))
    mask = masks[label] if in_front else masks[label] & ~masks[silent_label]
    wave = np.zeros(LENGTH)
    if spoken is not None:
        wave = _LOUDNESS * _say(rng, spoken[label])
        wave = wave + _NOISE * rng.normal(size=LENGTH)
        # A stream of its own, so that settings that differ in this alone share everything else.
        other = np.random.default_rng([seed, SPLITS.index(split), index, 1])
        if setting.second_voice:
            wave = wave + setting.second_voice * _LOUDNESS * _say(other, spoken[silent_label])
    return Scene(_quantised(canvas), wave, box, mask, label, silent_label)


def make_scenes(
    seed: int, split: str, count: int, setting: DigitSetting, recordings: Recordings
) -> SceneSet:
    """Return the first `count` scenes of a split, `train` or `test`."""
    spoken = read_recordings(recordings.folder, split)
    scenes = [make_scene(seed, split, index, setting, spoken) for index in range(count)]
    return stacked(scenes, setting.hop)


def make_objects(seed: int, count: int, size: int) -> tuple[Tensor, Tensor]:
    """Return single digits of the training split, uint8 [n, 3, size, size], and labels [n]."""
    images = []
    for index in range(count):
        rng = np.random.default_rng([seed, SPLITS.index("warm-start"), index])
        canvas = _ground(rng, size)
        _draw(rng, canvas, _random_box(rng), _one_of(rng, written("train")[index % DIGITS]))
        images.append(_quantised(canvas))
    return torch.from_numpy(np.stack(images)).movedim(-1, 1), torch.arange(count) % DIGITS


def warm_start(trunk: SmallTrunk, images: Tensor, labels: Tensor, epochs: int, seed: int) -> None:
    """Teach a trunk to name single digits: the stand-in for an ImageNet initialisation."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = nn.Linear(trunk.channels, DIGITS)
    optimizer = torch.optim.Adam([*trunk.parameters(), *head.parameters()], lr=_RATE)
    scaled = scale_images(images)
    steps = max(1, len(images) // _BATCH)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, epochs * steps)
    trunk.train()
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)
        for rows in torch.split(order[: steps * _BATCH], _BATCH):
            loss = F.cross_entropy(head(trunk(scaled[rows]).mean(dim=(-2, -1))), labels[rows])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            scheduler.step()


def _one_of(rng: np.random.Generator, items: list[Array]) -> Array:
    return items[int(rng.integers(len(items)))]


def _say(rng: np.random.Generator, spoken: list[Array]) -> Array:
    """Return a recording somewhere in a second, with unit root mean square before that."""
    word = _one_of(rng, spoken)[:LENGTH]
    start = int(rng.integers(LENGTH - len(word) + 1))
    wave = np.zeros(LENGTH)
    wave[start : start + len(word)] = word / np.sqrt(np.mean(word**2))
    return wave


def _random_box(rng: np.random.Generator) -> Box:
    side = rng.uniform(0.38, 0.55)
    x0, y0 = rng.uniform(0, 1 - side, size=2)
    return (x0, y0, x0 + side, y0 + side)


def _ground(rng: np.random.Generator, size: int) -> Array:
    """Return smooth colours [size, size, 3] between the dark and the light of the digits."""
    knots = torch.from_numpy(rng.uniform(0.25, 0.75, size=(1, 3, 4, 4)))
    smooth = F.interpolate(knots, (size, size), mode="bicubic", align_corners=False)
    canvas: Array = smooth[0].movedim(0, -1).numpy().copy()
    return canvas


def _draw(rng: np.random.Generator, canvas: Array, box: Box, image: Array) -> NDArray[np.bool_]:
    """Write a digit into a box of `canvas` [size, size, 3], dark or light, and return its mask."""
    size = len(canvas)
    rows, columns, u, v = turned_box(box, size, rng.uniform(-_ROTATION, _ROTATION))
    places = [(side + 1) * len(image) / 2 - 0.5 for side in (v, u)]
    ink = map_coordinates(image, places, order=3).clip(0, 1)
    light = rng.uniform(0.85, 1) if rng.random() < 0.5 else rng.uniform(0, 0.15)
    window = canvas[rows, columns]
    window += ink[..., None] * (light - window)
    mask = np.zeros((size, size), dtype=bool)
    mask[rows, columns] = ink >= 0.5
    return mask


def _quantised(canvas: Array) -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = (canvas.clip(0, 1) * 255).round().astype(np.uint8)
    return image
