"""What processes that share a data set are asked to do with a metric."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F

from avcontrast.metrics import accumulators


def samples(name):
    """Return the arguments of ``update`` for a whole data set of 23 samples."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(23, 20, 20)
    for i, gt in enumerate(truth):
        gt[i // 2 : 20 - i % 5, i // 3 : 14] = i % 4 > 0
    noise = torch.rand(23, 20, 20, generator=generator)
    if name == "MaskMetric":
        return 0.3 * truth + 0.7 * noise, truth
    maps = F.adaptive_avg_pool2d(truth + noise, 5)
    truth[5] *= 0.5
    if name == "SilenceMetric":
        return maps, truth, truth.flatten(1).any(dim=1)
    return maps, truth


def shared_metric(name, sizes, rounds=1):
    """Return the results of a process that has ``sizes[rank]`` samples."""
    metric = getattr(accumulators, name)()
    start = sum(sizes[: dist.get_rank()])
    own = [part[start : start + sizes[dist.get_rank()]] for part in samples(name)]
    results = []
    for _ in range(rounds):
        for some in zip(*(torch.split(part, 4) for part in own), strict=True):
            if len(some[0]):
                metric.update(*some)
        results.append(metric.compute())
    return results
