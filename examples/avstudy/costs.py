"""What a loss takes beside the features and their gradients."""

from __future__ import annotations

import os

import torch
from torch.profiler import ProfilerActivity, profile

from avscenes.testing.retrieval import Features
from avstudy.plan import Method
from avstudy.training import criterion_of


def loss_megabytes(method: Method, features: Features, batch_size: int) -> float:
    """Return the most that is allocated during the forward and backward pass of one batch."""
    rows = torch.arange(batch_size) % len(features.audio)
    visual, audio = (part[rows].requires_grad_() for part in features)
    criterion = criterion_of(method)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else each trace prints lines of its own
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        criterion(visual, audio).backward()
    assert trace.profiler is not None
    held = highest = 0
    for event in sorted(trace.profiler.kineto_results.events(), key=lambda one: one.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return round(highest / 1e6, 2)
