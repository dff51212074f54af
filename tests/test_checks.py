"""The text of every error is part of the interface."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.distributed as dist

from avcontrast import (
    FalseNegativeSuppression,
    FNACLoss,
    InfoNCE,
    TrueNegativeEnhancement,
    functional,
)

VISUAL = torch.randn(4, 6, 3, 3)
AUDIO = torch.randn(4, 6)
LOSSES = (InfoNCE, FalseNegativeSuppression, TrueNegativeEnhancement, FNACLoss)
MAP_LOSSES = {
    TrueNegativeEnhancement: "true negative enhancement",
    FNACLoss: "the FNAC loss",
}

BAD_FEATURES = {
    "swapped": (
        (AUDIO, VISUAL),
        ValueError,
        "got visual (4, 6) and audio (4, 6, 3, 3): the arguments look swapped",
    ),
    "visual rank": (
        (VISUAL[:, 0, 0, 0], AUDIO),
        ValueError,
        "visual must be (b, d, h, w) or (b, d, n) or (b, d), got visual (4,) and audio (4, 6)",
    ),
    "audio rank": (
        (VISUAL, AUDIO[:, :, None, None]),
        ValueError,
        "audio must be (b, d) or (b, d, t), got visual (4, 6, 3, 3) and audio (4, 6, 1, 1); pool "
        "it over frequency first",
    ),
    "audio scalar": (
        (VISUAL, torch.tensor(1.0)),
        ValueError,
        "audio must be (b, d) or (b, d, t), got visual (4, 6, 3, 3) and audio ()",
    ),
    "batch": (
        (VISUAL, AUDIO[:3]),
        ValueError,
        "must hold the same number of pairs, got visual (4, 6, 3, 3) and audio (3, 6)",
    ),
    "channels": (
        (VISUAL, AUDIO[:, :5]),
        ValueError,
        "must have the same number of channels, got visual (4, 6, 3, 3) and audio (4, 5) with "
        "visual_layout='channels-first' and audio_layout='channels-first'",
    ),
    "channels last": (
        (VISUAL.permute(0, 2, 3, 1), AUDIO),
        ValueError,
        "; they fit with visual_layout='channels-last'",
    ),
    "audio channels last": (
        (VISUAL, torch.ones(4, 5, 6)),
        ValueError,
        "; they fit with audio_layout='channels-last'",
    ),
    "both channels last": (
        (torch.ones(4, 9, 6), torch.ones(4, 5, 6)),
        ValueError,
        "; they fit with visual_layout='channels-last' and audio_layout='channels-last'",
    ),
    "empty": ((VISUAL[:0], AUDIO[:0]), ValueError, "visual and audio must not be empty"),
    "integers": (
        (VISUAL.long(), AUDIO),
        TypeError,
        "visual must be float16, bfloat16, float32 or float64, got torch.int64",
    ),
    "integer audio": (
        (VISUAL, AUDIO.int()),
        TypeError,
        "audio must be float16, bfloat16, float32 or float64, got torch.int32",
    ),
    "devices": (
        (VISUAL, AUDIO.to("meta")),
        ValueError,
        "visual and audio must be on one device, got cpu and meta",
    ),
    "no tensor": ((VISUAL, AUDIO.tolist()), TypeError, "audio must be a torch.Tensor, got list"),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("case", BAD_FEATURES)
def test_features(case, loss):
    inputs, error, message = BAD_FEATURES[case]
    with pytest.raises(error, match=re.escape(message)):
        loss()(*inputs)


@pytest.mark.parametrize("loss", MAP_LOSSES)
def test_map_needed(loss):
    message = f"{MAP_LOSSES[loss]} needs a visual feature map (b, d, h, w) or (b, d, n), because"
    with pytest.raises(ValueError, match=re.escape(message)):
        loss()(VISUAL[:, :, 0, 0], AUDIO)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    ("temperature", "error", "message"),
    [
        (0.0, ValueError, "temperature must be positive and finite, got 0.0"),
        (-1, ValueError, "temperature must be positive and finite, got -1"),
        (float("nan"), ValueError, "temperature must be finite, got nan"),
        (float("inf"), ValueError, "temperature must be finite, got inf"),
        ("0.1", TypeError, "temperature must be a number, got str"),
        (True, TypeError, "temperature must be a number, got bool"),
        (1e-46, ValueError, "temperature must be positive and finite, got 1e-46"),
        (
            torch.tensor(0.1, requires_grad=True).exp(),
            ValueError,
            "got the result of a computation",
        ),
        (torch.tensor(-0.1), ValueError, "temperature must be positive and finite, got -0.1"),
        (torch.ones(1), ValueError, "0-dim floating-point tensor, got a tensor of shape (1,)"),
        (torch.tensor(1), ValueError, "0-dim floating-point tensor, got a tensor of shape ()"),
    ],
)
def test_temperature(loss, temperature, error, message):
    with pytest.raises(error, match=re.escape(message)):
        loss(temperature)


def test_temperature_on_another_device():
    message = "temperature must be on the features' device cpu, got meta"
    with pytest.raises(ValueError, match=re.escape(message)):
        InfoNCE(torch.tensor(0.1, device="meta"))(VISUAL, AUDIO)


SETTINGS = [
    (LOSSES, {"reduction": "avg"}, "reduction must be one of 'mean', 'sum', 'none', got 'avg'"),
    (LOSSES, {"backend": "cuda"}, "backend must be one of 'auto', "),
    (LOSSES, {"group": object()}, "group has no effect without gather_distributed=True"),
    (
        LOSSES,
        {"visual_layout": "b n d"},
        "visual_layout must be one of 'channels-first', 'channels-last', got 'b n d'",
    ),
    (LOSSES, {"audio_layout": None}, "audio_layout must be one of 'channels-first', "),
    (LOSSES, {"audio_pooling": "none"}, "audio_pooling must be one of 'mean', 'max', got 'none'"),
    (
        LOSSES[:1],
        {"pooling": "avg"},
        "pooling must be one of 'max', 'mean', 'soft-mask', got 'avg'",
    ),
    (LOSSES[1:], {"adjacency_reduction": "sum"}, "adjacency_reduction must be one of 'mean', "),
    (LOSSES[2:], {"threshold": 1.0}, "threshold must lie in [0, 1), got 1.0"),
    (LOSSES[2:], {"threshold": -0.1}, "threshold must lie in [0, 1), got -0.1"),
    (LOSSES[2:], {"mask": "none"}, "mask must be one of 'hard', 'soft', got 'none'"),
    (LOSSES[1::2], {"anchor": "image"}, "anchor must be one of 'visual', 'audio', got 'image'"),
    (LOSSES[1:2], {"audio_weight": -1}, "audio_weight must not be negative, got -1"),
    (
        LOSSES[1:2],
        {"audio_weight": 0, "visual_weight": 0},
        "audio_weight and visual_weight are both 0",
    ),
    (LOSSES[3:], {"tne_weight": float("inf")}, "tne_weight must be finite, got inf"),
    (LOSSES[3:], {"fns_audio_weight": -2}, "fns_audio_weight must not be negative, got -2"),
    (LOSSES[3:], {"fns_visual_weight": -2}, "fns_visual_weight must not be negative, got -2"),
]
FUNCTIONS = {
    InfoNCE: functional.info_nce,
    FalseNegativeSuppression: functional.false_negative_suppression,
    TrueNegativeEnhancement: functional.true_negative_enhancement,
    FNACLoss: functional.fnac,
}


@pytest.mark.parametrize(("losses", "settings", "message"), SETTINGS)
def test_settings_fail_when_built_and_when_called(losses, settings, message):
    for loss in losses:
        with pytest.raises(ValueError, match=re.escape(message)):
            loss(**settings)
        with pytest.raises(ValueError, match=re.escape(message)):
            FUNCTIONS[loss](VISUAL, AUDIO, **settings)


@pytest.mark.parametrize("loss", LOSSES)
def test_flags_are_bools(loss):
    for flag in ("normalize", "gather_distributed"):
        with pytest.raises(TypeError, match=f"{flag} must be a bool, got str"):
            loss(**{flag: "yes"})


def test_numbers_of_numpy_are_numbers():
    criterion = FNACLoss(np.float32(0.5), tne_weight=np.int64(3))
    assert torch.equal(criterion(VISUAL, AUDIO), FNACLoss(0.5, tne_weight=3)(VISUAL, AUDIO))


def test_regularization():
    for value, error, message in (
        (-0.5, ValueError, "regularization must not be negative, got -0.5"),
        (float("nan"), ValueError, "regularization must be finite, got nan"),
        (torch.tensor(1.0), TypeError, "regularization must be a number, got Tensor"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            FNACLoss()(VISUAL, AUDIO, regularization=value)


def test_functional_forms():
    with pytest.raises(ValueError, match="localization_map needs a visual feature map"):
        functional.localization_map(AUDIO, AUDIO)
    with pytest.raises(ValueError, match=r"features must be \(b, d\) and not empty, got shape"):
        functional.adjacency(VISUAL)
    with pytest.raises(TypeError, match=r"features must be float16, .*, got torch.int64"):
        functional.adjacency(AUDIO.long())
    with pytest.raises(TypeError, match=r"features must be a torch.Tensor, got list"):
        functional.adjacency([[1.0]])
    with pytest.raises(ValueError, match="temperature must be positive and finite, got 0"):
        functional.adjacency(AUDIO, 0)
    with pytest.raises(ValueError, match="must have the same number of channels"):
        functional.max_similarity(VISUAL, AUDIO[:2, :3])
    for function in (functional.max_similarity, functional.likely_false_negatives):
        with pytest.raises(ValueError, match="audio_pooling must be one of 'mean', 'max', got 3"):
            function(VISUAL, AUDIO, audio_pooling=3)
    with pytest.raises(ValueError, match="one of 'mean', 'max', 'none', got 'sum'"):
        functional.localization_map(VISUAL, AUDIO, audio_pooling="sum")


def test_grid():
    for grid, error, message in (
        ((3, 4), ValueError, "grid must hold the 9 positions of visual, got (3, 4)"),
        ((-3, -3), ValueError, "grid must hold the 9 positions of visual, got (-3, -3)"),
        ((), ValueError, "grid must hold the 9 positions of visual, got ()"),
        (9, TypeError, "grid must be integers, such as (h, w), or None, got 9"),
        ((3, 3.0), TypeError, "grid must be integers, such as (h, w), or None, got (3, 3.0)"),
    ):
        with pytest.raises(error, match=re.escape(message)):
            functional.localization_map(VISUAL, AUDIO, grid=grid)


def test_one_process_has_nothing_to_gather(tmp_path):
    alone = InfoNCE()(VISUAL, AUDIO)
    assert torch.equal(InfoNCE(gather_distributed=True)(VISUAL, AUDIO), alone)
    store = dist.FileStore(str(tmp_path / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        assert torch.equal(InfoNCE(gather_distributed=True)(VISUAL, AUDIO), alone)
    finally:
        dist.destroy_process_group()
