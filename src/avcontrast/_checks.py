"""Every check of an argument, and the message that goes with it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

NUMBERS = (int, float, np.integer, np.floating)
SIDES = ("visual", "audio", "both")
BACKENDS = ("triton", "triton-stream", "blockwise", "dense")
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SMALLEST_TEMPERATURE = torch.finfo(torch.float32).tiny  # what is smaller may be 0 in fp32


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_temperature(temperature: float | Tensor, *, read_tensor: bool = False) -> None:
    """Raise unless ``temperature`` is a positive finite number or a 0-dim floating tensor.

    The value of a tensor is read only on request: on an accelerator that waits for the device.
    """
    if isinstance(temperature, Tensor):
        if temperature.ndim != 0 or not temperature.is_floating_point():
            raise ValueError(
                "temperature must be a number or a 0-dim floating-point tensor, got a tensor of "
                f"shape {tuple(temperature.shape)} and dtype {temperature.dtype}"
            )
        if not read_tensor or temperature.is_meta:
            return
        if temperature.requires_grad and not temperature.is_leaf:
            raise ValueError(
                "temperature must be a number or a leaf tensor, got the result of a computation, "
                "whose graph is gone after one backward pass; pass such a temperature to the "
                "functions of avcontrast.functional, anew for each batch"
            )
        temperature = temperature.item()
    check_number("temperature", temperature)
    if not temperature >= SMALLEST_TEMPERATURE:
        raise ValueError(f"temperature must be positive and finite, got {temperature!r}")


def check_number(name: str, value: object) -> None:
    """Raise unless ``value`` is a finite real number."""
    if isinstance(value, bool) or not isinstance(value, NUMBERS):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not -math.inf < value < math.inf:
        raise ValueError(f"{name} must be finite, got {value!r}")


def check_weight(name: str, value: object) -> None:
    """Raise unless ``value`` is a finite number that is not negative."""
    check_number(name, value)
    if value < 0:  # type: ignore[operator]
        raise ValueError(f"{name} must not be negative, got {value!r}")


def check_threshold(name: str, value: object) -> None:
    """Raise unless ``value`` lies in [0, 1)."""
    check_number(name, value)
    if not 0 <= value < 1:  # type: ignore[operator]
        raise ValueError(f"{name} must lie in [0, 1), got {value!r}")


def check_level(name: str, value: object) -> None:
    """Raise unless ``value`` lies in [0, 1]."""
    check_number(name, value)
    if not 0 <= value <= 1:  # type: ignore[operator]
        raise ValueError(f"{name} must lie in [0, 1], got {value!r}")


def check_flag(name: str, value: object) -> None:
    """Raise unless ``value`` is a bool."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be a bool, got {type(value).__name__}")


CHECKS: dict[str, Callable[[str, Any], None]] = {
    **dict.fromkeys(("normalize", "gather_distributed"), check_flag),
    **dict.fromkeys(("symmetric", "detach_adjacency"), check_flag),
    **dict.fromkeys(("audio_weight", "visual_weight"), check_weight),
    **dict.fromkeys(("fns_audio_weight", "fns_visual_weight", "tne_weight"), check_weight),
    "regularization": check_weight,
    "threshold": check_threshold,
    "elimination": partial(check_choice, allowed=("none", *SIDES)),
    "elimination_level": check_level,
    "reduction": partial(check_choice, allowed=("mean", "sum", "none")),
    "gradient_reduction": partial(check_choice, allowed=("mean", "sum")),
    "backend": partial(check_choice, allowed=("auto", *BACKENDS)),
    "pooling": partial(check_choice, allowed=("max", "mean")),
    "adjacency_reduction": partial(check_choice, allowed=("mean", "batchmean")),
    "mask": partial(check_choice, allowed=("hard", "soft")),
    "anchor": partial(check_choice, allowed=("visual", "audio")),
}
"""How each setting of a loss is checked; the modules and the functions have the same ones."""


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise unless these settings of a loss, its temperature aside, can be used."""
    for name, value in settings.items():
        if name not in ("group", "terms"):
            CHECKS[name](name, value)
    if settings.get("group") is not None and not settings["gather_distributed"]:
        raise ValueError("group has no effect without gather_distributed=True")
    if "audio_weight" in settings and not (settings["audio_weight"] or settings["visual_weight"]):
        raise ValueError("audio_weight and visual_weight are both 0, which leaves nothing")


def check_features(
    visual: Tensor, audio: Tensor, *, map_for: str = "", paired: bool = True
) -> None:
    """Raise unless the two feature tensors can be contrasted.

    Args:
        visual: what should be (b, d, h, w) or (b, d).
        audio: what should be (b, d).
        map_for: name of the loss that needs a feature map; empty if vectors will do.
        paired: whether both must hold the same number of samples.
    """
    for name, value in (("visual", visual), ("audio", audio)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    shapes = f"visual {tuple(visual.shape)} and audio {tuple(audio.shape)}"
    if visual.ndim == 2 and audio.ndim == 4:
        raise ValueError(
            f"got {shapes}: the arguments look swapped, the order is (visual, audio) with "
            "visual (b, d, h, w) or (b, d) and audio (b, d)"
        )
    if visual.ndim not in (2, 4):
        raise ValueError(f"visual must be (b, d, h, w) or (b, d), got {shapes}")
    if audio.ndim != 2:
        hint = "; pool it over time and frequency first" if audio.ndim > 2 else ""
        raise ValueError(f"audio must be (b, d), got {shapes}{hint}")
    if map_for and visual.ndim != 4:
        raise ValueError(
            f"{map_for} needs a visual feature map (b, d, h, w), because it compares positions "
            f"within the image; got {shapes}"
        )
    if visual.numel() == 0 or audio.numel() == 0:
        raise ValueError(f"visual and audio must not be empty, got {shapes}")
    if paired and visual.shape[0] != audio.shape[0]:
        raise ValueError(f"visual and audio must hold the same number of pairs, got {shapes}")
    if visual.shape[1] != audio.shape[1]:
        hint = ""
        if visual.ndim == 4 and visual.shape[3] == audio.shape[1]:
            hint = "; visual looks channels-last (b, h, w, d): use visual.permute(0, 3, 1, 2)"
        raise ValueError(
            f"visual and audio must have the same number of channels, got {shapes}{hint}"
        )
    for name, value in (("visual", visual), ("audio", audio)):
        check_dtype(name, value)
    if visual.device != audio.device:
        raise ValueError(
            f"visual and audio must be on one device, got {visual.device} and {audio.device}"
        )
    autocast = not visual.is_meta and torch.is_autocast_enabled(visual.device.type)
    if visual.dtype != audio.dtype and not autocast:
        raise TypeError(
            "visual and audio must have one dtype outside autocast, "
            f"got {visual.dtype} and {audio.dtype}"
        )


def check_ignore(ignore: object, visual: Tensor, processes: int) -> None:
    """Raise unless ``ignore`` is None or has a bool for each own image and each audio."""
    if ignore is None:
        return
    if not isinstance(ignore, Tensor):
        raise TypeError(f"ignore must be a torch.Tensor or None, got {type(ignore).__name__}")
    if ignore.dtype != torch.bool:
        raise TypeError(f"ignore must be torch.bool, got {ignore.dtype}")
    expected = (visual.shape[0], visual.shape[0] * processes)
    if ignore.shape != expected:
        names = "(b, b)" if processes == 1 else "(b_local, b_global)"
        raise ValueError(
            f"ignore must be {names}, here {expected}, with a row for each image of this process "
            f"and a column for each audio of the whole batch, got {tuple(ignore.shape)}"
        )
    if ignore.device != visual.device:
        raise ValueError(
            f"ignore must be on the features' device {visual.device}, got {ignore.device}"
        )


def check_vectors(name: str, features: Tensor) -> None:
    """Raise unless ``features`` is a floating-point tensor (b, d)."""
    if not isinstance(features, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(features).__name__}")
    if features.ndim != 2 or features.numel() == 0:
        raise ValueError(f"{name} must be (b, d) and not empty, got shape {tuple(features.shape)}")
    check_dtype(name, features)


def check_dtype(name: str, features: Tensor) -> None:
    """Raise unless the features have a dtype that the losses compute with."""
    if features.dtype not in DTYPES:
        raise TypeError(
            f"{name} must be float16, bfloat16, float32 or float64, got {features.dtype}"
        )


def check_picture(size: tuple[int, ...], pixels: tuple[int, ...]) -> None:
    """Raise unless an image of a size has pixels of the shape (h, w, 3)."""
    if len(pixels) != 3 or pixels[2] != 3:
        expected = "(3, h, w) of a tensor or (h, w, 3) of an array"
        raise ValueError(f"image must have the shape {expected}, got {size}")


def check_drawn(count: int, columns: int, **beside: Sequence[object] | Tensor | None) -> None:
    """Raise unless there are maps to draw, and as many of everything that is drawn with them."""
    if count < 1 or columns < 1:
        raise ValueError(f"maps and columns must be at least 1, got {count} and {columns}")
    for name, given in beside.items():
        if given is not None and len(given) != count:
            raise ValueError(f"{name} must be as many as maps, {count}, got {len(given)}")
