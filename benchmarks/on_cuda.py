"""What the benchmark of the losses needs on a CUDA device alone: its versions and its graphs."""

from __future__ import annotations

import gc
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from typing import NamedTuple

import torch
from measuring import Lap, Step, flush_cache
from torch import Tensor

GRAPH = "graph"
"""The mode of a step, forward and backward, that is replayed as a CUDA graph."""

LARGEST_GRAPH_BATCH = 512
"""Beyond it a step takes longer than its launches, which are all that a graph saves."""

WARM_UPS = 3
"""Runs before a graph is there: PyTorch's compiler allocates in the first and records later."""


def versions(device: str) -> dict[str, str]:
    """Return the versions that speed on a card depends on, empty where there is no such thing."""
    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = ""
    return {
        "cuda": torch.version.cuda or "",
        "driver": driver_version() if device == "cuda" else "",
        "triton": triton,
    }


def driver_version() -> str:
    """Return the version of the driver, or nothing if its own tool does not say."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ""
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader"]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    return told.stdout.partition("\n")[0].strip() if told.returncode == 0 else ""


def graph_bytes() -> int:
    """Return the memory that belongs to CUDA graphs, in whole segments of the allocator.

    A replay allocates nothing, so that no other counter sees what it works in.
    """
    gc.collect()
    segments = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
    return sum(one["total_size"] for one in segments if one["segment_pool_id"] != (0, 0))


class Replay(NamedTuple):
    """A step as a CUDA graph.

    Args:
        graph: what to replay.
        results: the loss and the gradients, which each replay writes again.
        held: bytes of the graph beyond the gradients.
    """

    graph: torch.cuda.CUDAGraph
    results: tuple[Tensor, ...]
    held: int


def capture(step: Step) -> Replay:
    """Return forward and backward as a single CUDA graph."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    current = torch.cuda.current_stream()
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            step.backward(step.forward())
    current.wait_stream(stream)
    before = graph_bytes()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step.forward()
        gradients = step.backward(loss)
    held = graph_bytes() - before - sum(gradient.nbytes for gradient in gradients)
    return Replay(graph, (loss.detach(), *gradients), max(0, held))


def time_replay(replay: Replay) -> dict[str, Lap]:
    """Replay once and return what it took."""
    flush_cache()
    start, end = (
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
    torch.cuda.synchronize()
    began = time.perf_counter()
    start.record()
    replay.graph.replay()
    end.record()
    torch.cuda.synchronize()
    wall = 1e3 * (time.perf_counter() - began)
    return {GRAPH: Lap(start.elapsed_time(end), wall)}
