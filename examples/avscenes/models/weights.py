"""Fills encoders from files: torchvision's image network, our checkpoints, released checkpoints.

The released code of FNAC and EZ-VSL saves both networks, with torchvision's names, and both
projections in one state dict under the names of `_RELEASED_PARTS`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from avscenes.files.errors import UserError, reason_of
from avscenes.models.encoders import AudioEncoder, ResNet18, VisualEncoder
from avscenes.models.file_kinds import kind_of
from avscenes.models.numpy_values import NUMPY_VALUES

_RELEASED_PARTS = ("imgnet.", "img_proj.", "audnet.", "aud_proj.")
_NOT_RELEASED = " is not the ResNet-18 pair of the released FNAC and EZ-VSL code"
_SHOWN = 3
# Names of modules that DataParallel and torch.compile wrap around others.
_WRAPPERS = ("module", "_orig_mod")
_CUT_SHORT = re.compile("truncated|unexpected EOF|Ran out of input|finding central directory")


def read_weights(option: str, path: Path) -> dict[str, Any]:
    """Read a checkpoint or a state dict onto the CPU; nothing in it may be code.

    Raises:
        UserError: When the file cannot be read or holds something else.
    """
    try:
        with torch.serialization.safe_globals(NUMPY_VALUES):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UserError(f"{option}: cannot read {path}: {_why(path, error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{option}: {path} holds no state dict but a {type(content).__name__}")
    return content


def _why(path: Path, error: Exception) -> str:
    """Return why a file is of no use; what torch.load says of files of another kind helps few."""
    if isinstance(error, OSError):
        return reason_of(error)
    try:
        kind = kind_of(path)
    except OSError as fault:
        return reason_of(fault)
    if kind is not None:
        return f"it is {kind}"
    if isinstance(error, EOFError) or _CUT_SHORT.search(str(error)):
        return "it is a file that was cut short"
    telling = isinstance(error, RuntimeError | UnpicklingError)
    return reason_of(error) if telling else "it is no file of PyTorch"


def state_of(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state dict in a checkpoint, ours or a released one, or the file that is one.

    What DataParallel and torch.compile put into names is taken out.
    """
    state = next(
        (checkpoint[key] for key in ("state_dict", "model") if key in checkpoint), checkpoint
    )
    if not isinstance(state, Mapping):
        return {}
    names = {str(name): _bare(str(name)) for name in state}
    counts = Counter(names.values())
    # Where two names would become one, neither is changed.
    return {
        names[str(name)] if counts[names[str(name)]] == 1 else str(name): value
        for name, value in state.items()
    }


def _bare(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def is_released(state: Mapping[str, Any]) -> bool:
    """Return whether the names are those of the released FNAC and EZ-VSL code."""
    return any(name.startswith(_RELEASED_PARTS) for name in state)


def load_image_weights(trunk: ResNet18, path: Path, option: str = "--image-weights") -> None:
    """Load torchvision's ResNet-18 state dict; its classifier is left out, anything else must fit.

    Raises:
        UserError: When the file cannot be read or is not a ResNet-18.
    """
    state = state_of(read_weights(option, path))
    state = {name: value for name, value in state.items() if not name.startswith("fc.")}
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
    image, sound = _released_parts(visual, audio, source)
    _fill(image | sound, state, f"{source}{_NOT_RELEASED}")


def _released_parts(
    visual: VisualEncoder, audio: AudioEncoder, source: str
) -> tuple[dict[str, nn.Module], dict[str, nn.Module]]:
    """Return the modules of both encoders by the beginnings of their released names."""
    if not isinstance(visual.trunk, ResNet18) or not isinstance(visual.trunk.bn1, nn.BatchNorm2d):
        raise UserError(
            f"{source} is a checkpoint of the released FNAC or EZ-VSL code, which needs "
            "--encoder resnet18 and --norm batch"
        )
    image_trunk, image_projection, audio_trunk, audio_projection = _RELEASED_PARTS
    return (
        {image_trunk: visual.trunk, image_projection: visual.projection},
        {audio_trunk: audio.trunk, audio_projection: audio.projection},
    )


def load_encoders(visual: VisualEncoder, audio: AudioEncoder, path: Path, option: str) -> list[str]:
    """Fill encoders from a checkpoint of ours or from a released one, which may hold one of them.

    Returns:
        What the file does not have: nothing, "image encoder" or "audio encoder". That encoder is
        left as it is; of one that the file has, every entry must fit.

    Raises:
        UserError: When the file cannot be read or is of other encoders.
    """
    state, source = state_of(read_weights(option, path)), f"{option}: {path}"
    image: dict[str, nn.Module] = {"visual.": visual}
    sound: dict[str, nn.Module] = {"audio.": audio}
    otherwise = f"{source} is no checkpoint of these encoders"
    if is_released(state):
        image, sound = _released_parts(visual, audio, source)
        otherwise = f"{source}{_NOT_RELEASED}"
    else:
        state = {k: value for k, value in state.items() if k.startswith(("visual.", "audio."))}
    named = {"image encoder": image, "audio encoder": sound}
    found = {
        what: parts
        for what, parts in named.items()
        if any(name.startswith(tuple(parts)) for name in state)
    }
    wanted = found or named  # without either, all of it is missing
    _fill({k: module for parts in wanted.values() for k, module in parts.items()}, state, otherwise)
    return [what for what in named if what not in wanted]


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
            if not isinstance(state[name], Tensor) or state[name].shape != expected[name].shape
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
