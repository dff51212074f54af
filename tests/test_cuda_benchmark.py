"""The benchmark of the losses on a CUDA device; without one, a stand-in tells it what it would."""

import dataclasses
import shlex
from contextlib import nullcontext

import loss_benchmark
import measuring
import on_cuda
import parity
import pytest
import torch
from benchmark_runs import read, run

MEGABYTE = 10**6
SIZE = measuring.Size(6, 8, 3, 3)
GRADIENT_BYTES = 4 * (6 * 8 * 3 * 3 + 6 * 8)


class Graph:
    replays = 0

    def replay(self):
        Graph.replays += 1


class Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        pass

    def elapsed_time(self, end):
        return 0.25


class Stream:
    def wait_stream(self, other):
        pass


@pytest.fixture
def stand_in(monkeypatch):
    """Graphs that compute nothing, of a megabyte each."""
    segments = [{"segment_pool_id": (0, 0), "total_size": 7}]

    def graph(_):
        segments.append({"segment_pool_id": (0, 1), "total_size": MEGABYTE})
        return nullcontext()

    for name, fake in {
        "Stream": Stream,
        "Event": Event,
        "CUDAGraph": Graph,
        "current_stream": Stream,
        "stream": lambda _: nullcontext(),
        "graph": graph,
        "synchronize": lambda: None,
        "memory_snapshot": lambda: segments,
    }.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(on_cuda, "flush_cache", lambda: None)
    monkeypatch.setattr(Graph, "replays", 0)
    return segments


@pytest.fixture
def cuda_options(monkeypatch):
    """Options as a machine with a CUDA device reads them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (40 * 10**9, 80 * 10**9))
    return lambda *arguments: loss_benchmark.parse(["--device", "cuda", *arguments])


def measure(*arguments):
    options = loss_benchmark.parse(["--smoke", "--graph", "--batch-sizes", "6", *arguments])
    about = measuring.environment("cpu", 1) | on_cuda.versions("cpu")
    return loss_benchmark.measure(SIZE, options, about)


def test_default_sizes_and_implementations(cuda_options):
    options = cuda_options()
    batches = [256, 1024, 4096, 8192, 16384, 32768, 65536]
    assert [size.batch for size in options.sizes if size[1:] == (512, 7, 7)] == batches
    assert [size.batch for size in options.sizes if size[1:] == (512, 14, 14)] == batches[:5]
    assert len(options.sizes) == 12
    assert options.implementations == [
        *("released", "released-compiled", "blockwise", "triton", "triton-stream", "auto")
    ]
    assert options.memory_limit == 40
    assert "released-compiled" not in cuda_options("--smoke").implementations
    assert parity.LARGEST_EXACT_BATCH["cuda"] == 8192


def commands():
    for name in ("README.md", "NOTES.md"):
        text = (loss_benchmark.ROOT / "benchmarks" / name).read_text(encoding="utf-8")
        for line in text.replace("\\\n", "").splitlines():
            _, found, arguments = line.partition("benchmarks/loss_benchmark.py --device")
            if found:
                yield f"--device{arguments}"


@pytest.mark.parametrize("command", list(commands()))
def test_commands_of_the_text(command, cuda_options):
    arguments = shlex.split(command, comments=True)
    if "--plot" in arguments:
        arguments += ["--output", __file__]  # some file that exists
    assert loss_benchmark.parse(arguments).device == "cuda"


def test_the_text_has_commands():
    assert len(list(commands())) >= 6


def test_graph_is_left_out_on_the_cpu(tmp_path, capsys):
    results = tmp_path / "loss.csv"
    assert run("--smoke", "--graph", "--output", results) == 0
    assert "--graph is left out: CUDA graphs need --device cuda" in capsys.readouterr().out
    assert {row["mode"] for row in read(results)} == {"forward", "backward", "both"}


def test_graphs_are_measured(stand_in):
    rows = {(row.implementation, row.mode): row for row in measure()}
    assert {mode for _, mode in rows} == {"forward", "backward", "both", "graph"}
    row = rows["blockwise", "graph"]
    assert (row.p20_ms, row.median_ms, row.p80_ms, row.rounds) == (0.25, 0.25, 0.25, 2)
    assert row.extra_bytes == MEGABYTE - GRADIENT_BYTES
    assert rows["blockwise", "both"].extra_bytes != row.extra_bytes
    assert row.wall_median_ms >= 0
    assert Graph.replays == 3 * (1 + 1 + 2)  # parity, warm-up and two rounds of three


def test_large_batches_have_no_graph(stand_in, monkeypatch):
    assert on_cuda.LARGEST_GRAPH_BATCH == 512
    monkeypatch.setattr(parity, "LARGEST_GRAPH_BATCH", 5)
    assert "graph" not in {row.mode for row in measure()}


def test_graph_that_computes_something_else(stand_in, monkeypatch):
    def capture(step):
        replay = on_cuda.capture(step)
        return replay._replace(results=[1.01 * result for result in replay.results])

    monkeypatch.setattr(parity, "capture", capture)
    with pytest.raises(parity.ParityError, match=r"dense at b=6 .* as a CUDA graph differs"):
        measure()


def test_step_that_cannot_be_captured(stand_in, monkeypatch, capsys):
    def graph(_):
        raise RuntimeError("not while capturing\nmore")

    monkeypatch.setattr(torch.cuda, "graph", graph)
    assert "graph" not in {row.mode for row in measure()}
    assert (
        "blockwise does not run as a CUDA graph: not while capturing\n" in capsys.readouterr().out
    )


def test_graphs_of_the_compiler_are_recorded_first_and_their_memory_counted(stand_in, monkeypatch):
    calls = []

    def criterion(visual, audio):
        calls.append(1)
        if len(calls) == on_cuda.WARM_UPS:
            stand_in.append({"segment_pool_id": (0, 1), "total_size": MEGABYTE})
        return (visual.exp().sum((2, 3)) * audio).sum()

    step = measuring.Step(criterion, *measuring.features(SIZE, torch.float32, "cpu"))
    first = parity.first_replays(step)
    assert len(calls) == on_cuda.WARM_UPS + 1
    assert first.held == MEGABYTE - GRADIENT_BYTES
    for result, again in zip(first.results, parity.evaluate(step)):
        assert torch.equal(result, again)
    candidate = parity.Candidate("name", "released", step, measuring.Error(0, 0), first.held, None)
    assert loss_benchmark.memory(candidate) == dict.fromkeys(measuring.MODES, first.held)


def test_only_the_compiler_with_graphs_counts_them(stand_in, capsys):
    implementation = parity.IMPLEMENTATIONS["released-compiled"]
    assert implementation.replays_graphs("cuda")
    assert not implementation.replays_graphs("cpu")
    assert not parity.IMPLEMENTATIONS["dense-compiled"].replays_graphs("cuda")
    options = loss_benchmark.parse(["--graph"])
    options.device = "cuda"
    limit = measuring.Error(0, 0)
    assert parity.replay_of("released-compiled", SIZE, None, (), limit, options) is None
    assert "released-compiled makes CUDA graphs of its own" in capsys.readouterr().out


def test_table_tells_effective_speed(tmp_path):
    rows = [dataclasses.replace(row, device="cuda") for row in measure_plainly()]
    size = {"batch": 4096, "channels": 512, "height": 7, "width": 7, "median_ms": 2.0}
    rows = [dataclasses.replace(row, **size) for row in rows]
    title, header, *lines = loss_benchmark.table(rows).splitlines()
    assert "TFLOP/s: 2 b^2 h w d forward" in title
    column = header.split("  ")
    assert "TFLOP/s" in column
    # 2 * 4096**2 * 49 * 512 = 0.842e12 operations, once, twice and three times in 2 ms.
    for line, speed in zip(lines, ("420.9", "841.8", "1262.7")):
        assert f" {speed} " in line


def measure_plainly():
    options = loss_benchmark.parse(["--smoke", "--implementations", "blockwise"])
    about = measuring.environment("cpu", 1) | on_cuda.versions("cpu")
    return loss_benchmark.measure(SIZE, options, about)


def test_size_that_does_not_fit_is_left_out(tmp_path, monkeypatch, capsys):
    def measure(size, options, about, exact=loss_benchmark.measure):
        if size.batch == 6:
            raise torch.OutOfMemoryError("CUDA out of memory.\nmore")
        return exact(size, options, about)

    monkeypatch.setattr(loss_benchmark, "measure", measure)
    assert run("--smoke", "--output", tmp_path / "loss.csv") == 0
    assert "b=6 d=8 3x3 is left out: CUDA out of memory.\n" in capsys.readouterr().out
    assert {row["batch"] for row in read(tmp_path / "loss.csv")} == {"12"}


def test_implementation_that_does_not_fit_beside_the_others(tmp_path, monkeypatch, capsys):
    def time_once(candidate, threads, exact=loss_benchmark.time_once):
        if candidate.name == "dense":
            raise torch.OutOfMemoryError("CUDA out of memory.\nmore")
        return exact(candidate, threads)

    monkeypatch.setattr(loss_benchmark, "time_once", time_once)
    assert run("--smoke", "--output", tmp_path / "loss.csv") == 0
    printed = capsys.readouterr().out
    assert "dense does not run beside the others: CUDA out of memory.\n" in printed
    assert {row["implementation"] for row in read(tmp_path / "loss.csv")} == {"blockwise", "auto"}


def test_versions(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 580.1\necho 580.1\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(on_cuda, "version", lambda name: {"triton": "3.7"}[name])
    assert on_cuda.versions("cuda") == {"cuda": "13.0", "driver": "580.1", "triton": "3.7"}
    tool.write_text("#!/bin/sh\necho no device\nexit 9\n")
    assert on_cuda.versions("cuda")["driver"] == ""


def test_versions_where_there_are_none(tmp_path, monkeypatch):
    def version(name):
        raise on_cuda.PackageNotFoundError(name)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(on_cuda, "version", version)
    assert on_cuda.versions("cuda") == {"cuda": "", "driver": "", "triton": ""}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_a_cuda_device(dtype, tmp_path):
    results = tmp_path / "loss.csv"
    names = ("released", "released-compiled", "blockwise", "triton", "triton-stream")
    assert run("--smoke", "--device", "cuda", "--graph", "--dtype", dtype, "--batch-sizes", 64,
               "--implementations", *names, "--output", results) == 0  # fmt: skip
    modes = {(row["implementation"], row["mode"]) for row in read(results)}
    assert {name for name, mode in modes if mode == "both"} == set(names)
    assert ("triton", "graph") in modes
    assert ("released-compiled", "graph") not in modes
    assert all(float(row["median_ms"]) > 0 for row in read(results))
