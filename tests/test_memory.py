"""The memory contract, measured: every allocation of a forward and backward pass is counted."""

from __future__ import annotations

import pytest
import torch
from reference import features
from torch.profiler import ProfilerActivity, profile

from avcontrast import FNACLoss, InfoNCE, functional


def extra_bytes(step):
    """Return the highest number of bytes held beyond what was there before, and what is left."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    held = highest = 0
    events = profiler.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return highest, held


def loss_step(criterion, b, d, size):
    visual, audio = features(b, d, size, dtype=torch.float32)

    def step():
        criterion(visual, audio).backward()

    return step, 4 * (visual.numel() + audio.numel())


def test_the_measurement_sees_a_tensor():
    highest, held = extra_bytes(lambda: torch.zeros(1000, 1000).add_(1).sum())
    assert 4e6 <= highest < 4.1e6
    assert held < 1000


@pytest.mark.parametrize(
    ("backend", "b", "d", "size"),
    [
        ("blockwise", 256, 512, (7, 7)),
        ("blockwise", 1024, 256, (7, 7)),
        ("blockwise", 256, 64, (14, 14)),
        ("blockwise", 2048, 16, (3, 3)),
        ("blockwise", 4096, 64, (1, 1)),
        pytest.param("blockwise", 4096, 64, (7, 7), marks=pytest.mark.slow),
        ("auto", 64, 512, (7, 7)),
        ("auto", 1024, 8, (4, 4)),
        ("auto", 512, 256, (1, 1)),
        ("auto", 513, 250, (1, 1)),
    ],
)
def test_extra_memory_within_the_contract(backend, b, d, size):
    step, gradients = loss_step(FNACLoss(backend=backend), b, d, size)
    highest, held = extra_bytes(step)
    assert held == pytest.approx(gradients, abs=1e5)
    elements = b * d * size[0] * size[1]
    assert highest - gradients <= 2 * elements + 7 * b**2 + 16e6


def test_at_least_eight_times_less_than_dense():
    """The published case: b = 1024, d = 256, 7 x 7."""
    extra = {}
    for backend in ("dense", "blockwise"):
        step, gradients = loss_step(FNACLoss(backend=backend), 1024, 256, (7, 7))
        extra[backend] = extra_bytes(step)[0] - gradients
    assert extra["dense"] > 2 * 4 * 1024**2 * 49
    assert extra["dense"] >= 8 * extra["blockwise"]


def test_contrast_alone_and_similarity_alone_stay_within_it_too():
    b, d, size = 1024, 64, (7, 7)
    budget = 2 * b * d * 49 + 7 * b**2 + 16e6
    for criterion in (
        InfoNCE(backend="blockwise"),
        InfoNCE(backend="blockwise", pooling="mean"),
        lambda v, a: functional.max_similarity(v, a, backend="blockwise").mean(),
    ):
        step, gradients = loss_step(criterion, b, d, size)
        # The gradient of a similarity that the user holds is one more b x b matrix, theirs.
        assert extra_bytes(step)[0] - gradients <= budget + 4 * b**2
