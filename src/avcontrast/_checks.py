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
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
LAYOUTS = ("channels-first", "channels-last")
SMALLEST_TEMPERATURE = torch.finfo(torch.float32).tiny  # what is smaller may be 0 in fp32


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Raise unless ``value`` is one of ``allowed``."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_temperature(temperature: float | Tensor, *, read_tensor: bool = False) -> None:
    """Raise unless ``temperature`` is a positive finite number or a 0-dim floating tensor.

    The value of a tensor is read only on request: on an accelerator that waits for the device. Each
    call makes sure of it without a wait, see :mod:`avcontrast.ops._temperature`.
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


def check_learning(temperature: float | Tensor, learn: object, lowest: object) -> None:
    """Raise unless a temperature that was checked can be learned, if it shall be."""
    check_flag("learn_temperature", learn)
    if learn and isinstance(temperature, Tensor):
        raise TypeError(
            "temperature must be a number with learn_temperature=True, which makes a parameter of "
            "its logarithm, got a tensor"
        )
    if lowest is None:
        return
    if not learn:
        raise ValueError("min_temperature has no effect without learn_temperature=True")
    check_number("min_temperature", lowest)
    if not SMALLEST_TEMPERATURE <= lowest <= temperature:  # type: ignore[operator]
        raise ValueError(
            "min_temperature must be positive and not above temperature, where learning starts, "
            f"got min_temperature={lowest!r} and temperature={temperature!r}"
        )


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


def check_positive(name: str, value: object) -> None:
    """Raise unless ``value`` is a finite number above 0."""
    check_number(name, value)
    if not value > 0:  # type: ignore[operator]
        raise ValueError(f"{name} must be positive, got {value!r}")


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
    **dict.fromkeys(("has_positives", "tri_map", "background"), check_flag),
    "suppression_ignores": check_flag,
    **dict.fromkeys(("audio_weight", "visual_weight"), check_weight),
    **dict.fromkeys(("localization_weight", "alignment_weight"), check_weight),
    **dict.fromkeys(("fns_audio_weight", "fns_visual_weight", "tne_weight"), check_weight),
    "regularization": check_weight,
    "threshold": check_threshold,
    "elimination": partial(check_choice, allowed=("none", *SIDES)),
    "elimination_level": check_level,
    "mask_threshold": check_number,
    "background_threshold": check_number,
    "mask_temperature": check_positive,
    "reduction": partial(check_choice, allowed=("mean", "sum", "none")),
    "pairing_reduction": partial(check_choice, allowed=("mean", "sum")),
    "gradient_reduction": partial(check_choice, allowed=("mean", "sum")),
    "backend": partial(check_choice, allowed=("auto", *BACKENDS)),
    "pooling": partial(check_choice, allowed=("max", "mean", "soft-mask")),
    "visual_layout": partial(check_choice, allowed=LAYOUTS),
    "audio_layout": partial(check_choice, allowed=LAYOUTS),
    "audio_pooling": partial(check_choice, allowed=("mean", "max")),
    "adjacency_reduction": partial(check_choice, allowed=("mean", "batchmean")),
    "positive_form": partial(check_choice, allowed=("outside", "inside", "sum", "mean")),
    "mask": partial(check_choice, allowed=("hard", "soft")),
    "anchor": partial(check_choice, allowed=("visual", "audio")),
    "form": partial(check_choice, allowed=("code", "paper")),
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
    weights = [settings.get(f"{term}_weight", 1) for term in ("localization", "alignment")]
    if not any(weights):
        raise ValueError(
            "localization_weight and alignment_weight are both 0, which leaves nothing"
        )


MAP_SHAPES = {
    "channels-first": "(b, d, h, w) or (b, d, n)",
    "channels-last": "(b, h, w, d) or (b, n, d)",
}
AUDIO_SHAPES = {"channels-first": "(b, d) or (b, d, t)", "channels-last": "(b, d) or (b, t, d)"}


def check_features(
    visual: Tensor,
    audio: Tensor,
    *,
    visual_layout: str = "channels-first",
    audio_layout: str = "channels-first",
    map_for: str = "",
    paired: bool = True,
    frames: bool = True,
) -> None:
    """Raise unless the two feature tensors can be contrasted.

    Args:
        visual: what should be (b, d), or have any number of axes of positions before or after d.
        audio: what should be (b, d), or have an axis of time too.
        visual_layout: where the channels of ``visual`` are, one of ``LAYOUTS``.
        audio_layout: the same of ``audio``.
        map_for: name of the loss that needs a feature map; empty if vectors will do.
        paired: whether both must hold the same number of samples.
        frames: whether ``audio`` may be a sequence.
    """
    for name, layout in (("visual_layout", visual_layout), ("audio_layout", audio_layout)):
        CHECKS[name](name, layout)
    for name, value in (("visual", visual), ("audio", audio)):
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    shapes = f"visual {tuple(visual.shape)} and audio {tuple(audio.shape)}"
    map_shapes = MAP_SHAPES[visual_layout]
    audio_shapes = AUDIO_SHAPES[audio_layout] if frames else "(b, d)"
    visual_shapes = f"{map_shapes} or (b, d)"
    if 2 <= visual.ndim <= 3 < audio.ndim:
        raise ValueError(
            f"got {shapes}: the arguments look swapped, the order is (visual, audio) with "
            f"visual {visual_shapes} and audio {audio_shapes}"
        )
    if visual.ndim < 2:
        raise ValueError(f"visual must be {visual_shapes}, got {shapes}")
    if audio.ndim != 2 and not (frames and audio.ndim == 3):
        hint = "; pool it over frequency first" if audio.ndim > 3 else ""
        if not frames:
            hint = "; pool it over time and frequency first" if audio.ndim > 2 else ""
        raise ValueError(f"audio must be {audio_shapes}, got {shapes}{hint}")
    if map_for and visual.ndim == 2:
        raise ValueError(
            f"{map_for} needs a visual feature map {map_shapes}, because it compares positions "
            f"within the image; got {shapes}"
        )
    if visual.numel() == 0 or audio.numel() == 0:
        raise ValueError(f"visual and audio must not be empty, got {shapes}")
    if paired and visual.shape[0] != audio.shape[0]:
        raise ValueError(f"visual and audio must hold the same number of pairs, got {shapes}")
    if _channels(visual, visual_layout) != _channels(audio, audio_layout):
        hint = _layouts_that_fit(visual, audio, visual_layout, audio_layout)
        raise ValueError(
            f"visual and audio must have the same number of channels, got {shapes} with "
            f"visual_layout={visual_layout!r} and audio_layout={audio_layout!r}{hint}"
        )
    for name, value in (("visual", visual), ("audio", audio)):
        check_dtype(name, value)
    if visual.device != audio.device:
        raise ValueError(
            f"visual and audio must be on one device, got {visual.device} and {audio.device}"
        )


def _channels(features: Tensor, layout: str) -> int:
    return features.shape[1 if layout == "channels-first" else -1]


def _layouts_that_fit(visual: Tensor, audio: Tensor, visual_layout: str, audio_layout: str) -> str:
    """Return a hint at the layouts with which both have equally many channels, if there are any."""
    given = {"visual_layout": visual_layout, "audio_layout": audio_layout}
    other = dict(zip(LAYOUTS, reversed(LAYOUTS), strict=True))
    for changed in (("visual_layout",), ("audio_layout",), ("visual_layout", "audio_layout")):
        tried = {name: other[given[name]] if name in changed else given[name] for name in given}
        if _channels(visual, tried["visual_layout"]) == _channels(audio, tried["audio_layout"]):
            return "; they fit with " + " and ".join(f"{name}={tried[name]!r}" for name in changed)
    return ""


def check_grid(grid: Sequence[int] | None, positions: int) -> None:
    """Raise unless ``grid`` is None or the shape of a map with so many positions."""
    if grid is None:
        return
    many = isinstance(grid, tuple | list)
    if not many or not all(isinstance(size, int | np.integer) for size in grid):
        raise TypeError(f"grid must be integers, such as (h, w), or None, got {grid!r}")
    if math.prod(grid) != positions or min(grid, default=0) < 1:
        raise ValueError(f"grid must hold the {positions} positions of visual, got {grid!r}")


def check_pairs(name: str, mask: object, visual: Tensor, processes: int) -> None:
    """Raise unless ``mask`` is None or has a bool for each own image and each audio."""
    if mask is None:
        return
    if not isinstance(mask, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor or None, got {type(mask).__name__}")
    if mask.dtype != torch.bool:
        raise TypeError(f"{name} must be torch.bool, got {mask.dtype}")
    expected = (visual.shape[0], visual.shape[0] * processes)
    if mask.shape != expected:
        names = "(b, b)" if processes == 1 else "(b_local, b_global)"
        raise ValueError(
            f"{name} must be {names}, here {expected}, with a row for each image of this process "
            f"and a column for each audio of the whole batch, got {tuple(mask.shape)}"
        )
    if mask.device != visual.device:
        raise ValueError(
            f"{name} must be on the features' device {visual.device}, got {mask.device}"
        )


def check_form(form: object, anchor: object) -> None:
    """Raise unless there is a tri-map loss of this form with this anchor."""
    CHECKS["form"]("form", form)
    CHECKS["anchor"]("anchor", anchor)
    if form == "code" and anchor == "audio":
        raise ValueError("anchor must be 'visual' with form='code', got 'audio'")


def check_views(name: str, views: object, other: str, others: object) -> None:
    """Raise unless both are lists of views, all of one shape each, that can be contrasted."""
    for which, value in ((name, views), (other, others)):
        if isinstance(value, Tensor) or not isinstance(value, Sequence):
            raise TypeError(
                f"{which} must be a list of views, one tensor each, got {type(value).__name__}"
            )
        if not value:
            raise ValueError(f"{which} must hold at least one view, got none")
        for view in value:
            if not isinstance(view, Tensor):
                raise TypeError(f"{which} must hold tensors, got {type(view).__name__}")
        shapes = [tuple(view.shape) for view in value]
        if len(set(shapes)) > 1:
            raise ValueError(f"{which} must hold views of one shape, got {shapes}")
    for view in views:  # type: ignore[attr-defined]
        for against in others:  # type: ignore[attr-defined]
            try:
                check_features(view, against, frames=False)
            except (TypeError, ValueError) as error:
                raise type(error)(f"of the views of {name} and {other}: {error}") from None


def check_counts(**views: Sequence[Tensor]) -> None:
    """Raise unless two lists hold equally many views, of equally many samples."""
    (name, first), (other, second) = views.items()
    if len(first) != len(second):
        raise ValueError(
            f"{other} must hold one view for each of {name}, got {len(second)} for {len(first)}"
        )
    if first[0].shape[0] != second[0].shape[0]:
        raise ValueError(
            f"{other} must hold as many samples as {name}, "
            f"got {second[0].shape[0]} and {first[0].shape[0]}"
        )


def check_integers(name: str, value: object, shape: tuple[int | None, ...]) -> None:
    """Raise unless ``value`` is a tensor of integers of this shape; None stands for any size."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{name} must be int64 or int32, got {value.dtype}")
    fits = value.ndim == len(shape) and all(
        size > 0 and wanted in (None, size) for size, wanted in zip(value.shape, shape, strict=True)
    )
    if not fits:
        names = ", ".join("k" if size is None else str(size) for size in shape)
        raise ValueError(
            f"{name} must be ({names}{',' * (len(shape) == 1)}), got {tuple(value.shape)}"
        )


def check_labels(labels: object, visual: Tensor) -> None:
    """Raise unless ``labels`` is None or has an integer for each pair of this process."""
    if labels is None:
        return
    if not isinstance(labels, Tensor):
        raise TypeError(f"labels must be a torch.Tensor or None, got {type(labels).__name__}")
    if labels.dtype not in INTEGERS:
        raise TypeError(f"labels must be integers, got {labels.dtype}")
    if labels.shape != visual.shape[:1]:
        raise ValueError(
            f"labels must be (b,), here {tuple(visual.shape[:1])}, one for each pair of this "
            f"process, got {tuple(labels.shape)}"
        )
    if labels.device != visual.device:
        raise ValueError(
            f"labels must be on the features' device {visual.device}, got {labels.device}"
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
