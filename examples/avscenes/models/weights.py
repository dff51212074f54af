"""Fills encoders from files: torchvision's image network, our checkpoints, released checkpoints.

The released code of FNAC and EZ-VSL saves both networks, with torchvision's names, and both
projections in one state dict under the names of `_RELEASED_PARTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import nn

from avscenes.files.errors import UserError, reason_of
from avscenes.models.encoders import AudioEncoder, ResNet18, VisualEncoder

_RELEASED_PARTS = ("imgnet.", "img_proj.", "audnet.", "aud_proj.")
_SHOWN = 3


def _numpy_scalar(module: str) -> Callable[[np.dtype[Any], bytes], object]:
    """Return what rebuilds a NumPy number that a NumPy with that module has pickled."""

    def scalar(kind: np.dtype[Any], data: bytes) -> object:
        return np.frombuffer(data, kind)[0]

    # torch.load compares these with what the file names.
    scalar.__module__, scalar.__name__, scalar.__qualname__ = module, "scalar", "scalar"
    return scalar


# Beside the weights, the released checkpoints hold their best scores as NumPy numbers.
_SAFE: list[Any] = [
    *(_numpy_scalar(module) for module in ("numpy.core.multiarray", "numpy._core.multiarray")),
    *(np.dtype, np.dtypes.Float64DType),
]


def read_weights(option: str, path: Path) -> dict[str, Any]:
    """Read a checkpoint or a state dict onto the CPU; nothing in it may be code.

    Raises:
        UserError: When the file cannot be read or holds something else.
    """
    try:
        with torch.serialization.safe_globals(_SAFE):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load answers a file of another kind with many types of error, few of which help.
        telling = isinstance(error, OSError | RuntimeError | UnpicklingError)
        reason = reason_of(error) if telling else "it is no file of PyTorch"
        raise UserError(f"{option}: cannot read {path}: {reason}") from error
    if not isinstance(content, dict):
        raise UserError(f"{option}: {path} holds no state dict but a {type(content).__name__}")
    return content


def state_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state dict in a checkpoint, ours or a released one, or the file that is one.

    The prefix that DataParallel puts in front of every name is taken off.
    """
    state = next(
        (checkpoint[key] for key in ("state_dict", "model") if key in checkpoint), checkpoint
    )
    if not isinstance(state, Mapping):
        return {}
    return {str(name).removeprefix("module."): value for name, value in state.items()}


def is_released(state: Mapping[str, Any]) -> bool:
    """Return whether the names are those of the released FNAC and EZ-VSL code."""
    return any(name.startswith(_RELEASED_PARTS) for name in state)


def load_image_weights(trunk: ResNet18, path: Path, option: str = "--image-weights") -> None:
    """Load torchvision's ResNet-18 state dict; its classifier is left out, anything else must fit.

    Raises:
        UserError: When the file cannot be read or is not a ResNet-18.
    """
    state = read_weights(option, path)
    state = {name: value for name, value in state.items() if not str(name).startswith("fc.")}
    _fill({"": trunk}, state, f"{option}: {path} is not a ResNet-18 with torchvision's names")


def load_released(
    visual: VisualEncoder, audio: AudioEncoder, state: Mapping[str, Any], source: str
) -> None:
    """Fill the ResNet-18 pair from the state dict of a released checkpoint; every entry must fit.

    Args:
        visual: Image encoder.
        audio: Audio encoder.
        state: Of the checkpoint, see `state_of`.
        source: What errors start with: the option and the file.

    Raises:
        UserError: When the encoders are others, or an entry is missing, unknown or misshapen.
    """
    if not isinstance(visual.trunk, ResNet18) or not isinstance(visual.trunk.bn1, nn.BatchNorm2d):
        raise UserError(
            f"{source} is a checkpoint of the released FNAC or EZ-VSL code, which needs "
            "--encoder resnet18 and --norm batch"
        )
    modules = (visual.trunk, visual.projection, audio.trunk, audio.projection)
    _fill(
        dict(zip(_RELEASED_PARTS, modules, strict=True)),
        state,
        f"{source} is not the ResNet-18 pair of the released FNAC and EZ-VSL code",
    )


def load_encoders(visual: VisualEncoder, audio: AudioEncoder, path: Path, option: str) -> None:
    """Fill encoders from a checkpoint of ours or from a released one.

    Raises:
        UserError: When the file cannot be read or is of other encoders.
    """
    state, source = state_of(read_weights(option, path)), f"{option}: {path}"
    if is_released(state):
        load_released(visual, audio, state, source)
        return
    parts = {"visual.": visual, "audio.": audio}
    own = {name: value for name, value in state.items() if name.startswith(tuple(parts))}
    _fill(parts, own, f"{source} is no checkpoint of these encoders")


def _fill(parts: Mapping[str, nn.Module], state: Mapping[str, Any], otherwise: str) -> None:
    """Load a state dict into modules by the prefixes of its names, or raise `UserError`."""
    expected = {
        f"{prefix}{name}": value
        for prefix, module in parts.items()
        for name, value in module.state_dict().items()
    }
    faults = {
        "missing": expected.keys() - state.keys(),
        "unknown": state.keys() - expected.keys(),
        "of another shape": {
            name
            for name in expected.keys() & state.keys()
            if getattr(state[name], "shape", None) != expected[name].shape
        },
    }
    if any(faults.values()):
        said = "; ".join(f"{what} {_listed(names)}" for what, names in faults.items() if names)
        raise UserError(f"{otherwise}: {said}")
    for prefix, module in parts.items():
        names = module.state_dict()
        module.load_state_dict({name: state[f"{prefix}{name}"] for name in names})


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(map(str, names))
    more = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return ", ".join(ordered[:_SHOWN]) + more
