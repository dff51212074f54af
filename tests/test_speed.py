"""A guard against losing the speed; the figures come from benchmarks/loss_benchmark.py."""

from __future__ import annotations

import time

import pytest
import torch
from reference import features

from avcontrast import FNACLoss


@pytest.mark.slow
def test_blockwise_is_faster_than_dense():
    """Process time on one thread, in the best of some rounds: other work counts little."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    visual, audio = features(512, 256, dtype=torch.float32)
    seconds = {"dense": [], "blockwise": []}
    try:
        for number in range(12):
            for backend, measured in seconds.items():
                start = time.process_time()
                FNACLoss(backend=backend)(visual, audio).backward()
                measured.append(time.process_time() - start)
            dense, blockwise = map(min, seconds.values())
            if number >= 2 and dense > 1.2 * blockwise:
                break
    finally:
        torch.set_num_threads(threads)
    assert dense > 1.2 * blockwise
