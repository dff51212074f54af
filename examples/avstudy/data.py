"""Scenes and warm-started trunks, made once and kept in a folder for the other runs of a seed."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avscenes.files.whole_files import write_whole
from avscenes.models.encoders import SmallTrunk
from avscenes.models.warm_start import warm_start
from avscenes.models.weights import read_weights
from avscenes.scenes.scene import Design, SceneSet, make_objects, make_scenes
from avstudy.plan import Setting

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


def scenes(folder: Path, seed: int, split: str, count: int, design: Design) -> SceneSet:
    """Return scenes, from the folder if they were made before."""
    name = ("scenes", seed, split, count, *design)
    return SceneSet(
        **_kept(folder, name, lambda: make_scenes(seed, split, count, design)._asdict())
    )


def warm_trunk(folder: Path, seed: int, setting: Setting, trunk: SmallTrunk) -> None:
    """Give an image trunk the weights that single objects have taught it."""
    epochs, size = setting.warm_start_epochs, setting.size

    def make() -> Mapping[str, Tensor]:
        objects = make_objects(seed, WARM_START_OBJECTS, size)
        warm_start(trunk, objects, epochs=epochs, seed=seed)
        return trunk.state_dict()

    if epochs:
        trunk.load_state_dict(_kept(folder, ("trunk", seed, epochs, size), make))
