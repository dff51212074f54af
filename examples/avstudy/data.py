"""Scenes and warm-started trunks, made once and kept in a folder for the other runs of a seed."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avscenes.files.whole_files import write_whole
from avscenes.models.encoders import SmallTrunk
from avscenes.models.warm_start import warm_start
from avscenes.models.weights import read_weights
from avscenes.scenes.scene import SceneSet, make_objects, make_scenes
from avstudy import digits
from avstudy.plan import DigitSetting, Run, Setting
from avstudy.recordings import Recordings

WARM_START_OBJECTS = 1_536


def _kept(folder: Path, name: object, make: Callable[[], Mapping[str, Tensor]]) -> Any:  # noqa: ANN401
    """Return what is in the folder under a name, made and written first if it is not there."""
    path = folder / f"{hashlib.sha256(repr(name).encode()).hexdigest()[:24]}.pt"
    if not path.is_file():
        content = io.BytesIO()
        torch.save(dict(make()), content)
        # Two may make the same, on two machines even: beside each other, and of equal content.
        own = path.with_suffix(f".{uuid.uuid4().hex}")
        write_whole(own, content.getvalue())
        own.replace(path)
    return read_weights("--output-dir", path)


def scenes(
    folder: Path,
    seed: int,
    split: str,
    count: int,
    setting: Setting | DigitSetting,
    recordings: Recordings | None = None,
) -> SceneSet:
    """Return scenes, from the folder if they were made before; those of digits need recordings."""
    name: tuple[object, ...]
    if isinstance(setting, Setting):
        name = ("scenes", seed, split, count, *setting.design)
        make = partial(make_scenes, seed, split, count, setting.design)
    elif recordings is None:
        raise ValueError("digits need recordings")
    else:
        look = (setting.size, setting.hop, setting.second_voice)
        name = ("digits", seed, split, count, *look, recordings.digest)
        make = partial(digits.make_scenes, seed, split, count, setting, recordings)
    return SceneSet(**_kept(folder, name, lambda: make()._asdict()))


def sets_of(run: Run, folder: Path, recordings: Recordings | None) -> tuple[SceneSet, SceneSet]:
    """Return what a run is trained on and what it is tested on."""
    setting = run.data
    train = scenes(folder, run.seed, "train", setting.train_size, setting, recordings)
    test = scenes(folder, run.test_seed, "test", setting.test_size, setting, recordings)
    return train, test


def warm_trunk(folder: Path, seed: int, setting: Setting | DigitSetting, trunk: SmallTrunk) -> None:
    """Give an image trunk the weights that single objects have taught it."""
    epochs, size = setting.warm_start_epochs, setting.size
    name: tuple[object, ...] = ("trunk", seed, epochs, size)
    if isinstance(setting, DigitSetting):
        name = ("digits", *name, setting.warm_start_objects)

    def make() -> Mapping[str, Tensor]:
        if isinstance(setting, DigitSetting):
            images, labels = digits.make_objects(seed, setting.warm_start_objects, size)
            digits.warm_start(trunk, images, labels, epochs, seed)
        else:
            objects = make_objects(seed, WARM_START_OBJECTS, size)
            warm_start(trunk, objects, epochs=epochs, seed=seed)
        return trunk.state_dict()

    if epochs:
        trunk.load_state_dict(_kept(folder, name, make))
