"""Bytes, time and memory of each process where several share a batch.

    python benchmarks/distributed_benchmark.py            1, 2 and 4 processes on this machine
    python benchmarks/distributed_benchmark.py --smoke    tiny sizes, a few seconds
    torchrun --nproc-per-node 2 benchmarks/distributed_benchmark.py    the processes of torchrun

With ``--device cuda`` each process has a GPU of its own and they talk by NCCL, otherwise by gloo.

The processes must first give the loss and the gradients of a single one that has the whole batch,
in float64. Then the full FNAC loss is measured, forward and backward, at a global batch that stays
the same however many share it. Bytes are counted at each collective and held against the formula;
if they differ, the exit status is 1. They are what a ring sends, the least that is possible: of B
bytes, W processes send (W - 1)/W B each to gather or to reduce-scatter them, twice that to
all-reduce them. What the backend in use puts on the wire may be more.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import os
import pickle
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from measuring import (
    DTYPES,
    MODES,
    ROOT,
    TOLERANCES,
    Error,
    Lap,
    Size,
    Step,
    aligned,
    chosen_sizes,
    clock_name,
    distance,
    environment,
    extra_bytes,
    features,
    positions,
    positive,
    shown,
    time_step,
    write,
)
from torch import Tensor
from torch.multiprocessing.spawn import spawn

from avcontrast import FNACLoss

T = TypeVar("T")

BACKENDS = ("dense", "blockwise")
PROCESSES = (1, 2, 4)
COMMUNICATION = {"cpu": "gloo", "cuda": "nccl"}
SIZES = {
    "cpu": [Size(256, 512, 7, 7), Size(1024, 512, 7, 7)],
    "cuda": [Size(1024, 512, 7, 7), Size(4096, 512, 7, 7)],
}
SMOKE_SIZES = [Size(12, 8, 3, 3)]
PARITY_PAIRS = 6
"""Pairs of each process when its loss is compared with that of a single one."""

RING = {
    "all_gather_single": (0, 1),
    "all_gather_into_tensor": (0, 1),
    "reduce_scatter_single": (1, 1),
    "reduce_scatter_tensor": (1, 1),
    "all_reduce": (0, 2),
}
"""For each collective the argument whose bytes go round the ring, and how often they do."""

NOT_COUNTED = (
    *("all_gather", "all_to_all", "all_to_all_single", "batch_isend_irecv", "broadcast", "gather"),
    *("isend", "reduce", "reduce_scatter", "scatter", "send"),
)


class Exchange(NamedTuple):
    """What one pass sends round the ring, in numbers: ``vectors`` b d + ``columns`` b + ``sums``.

    Args:
        vectors: gathered, or reduce-scattered as gradients.
        columns: numbers a sample.
        sums: of single numbers.
    """

    vectors: int
    columns: int
    sums: int


# Both gather audio, pooled and source vectors, and all-reduce four terms and their gradients.
# Blockwise all-reduces a maximum and two sums a column, and gathers the gradients of five terms a
# sample. Dense all-reduces a maximum and one sum a column, and the gradient of that sum.
EXCHANGES = {
    "blockwise": {"forward": Exchange(3, 2 * 3, 2 * 4), "backward": Exchange(3, 5, 2 * 4)},
    "dense": {"forward": Exchange(3, 2 * 2, 2 * 4), "backward": Exchange(3, 2 * 1, 2 * 4)},
}
AGREEMENT_BYTES = 1024
"""What each process tells the others before the forward pass."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the results: what one pass of one backend took in one of the processes."""

    date: str
    device: str
    device_name: str
    cores: int
    threads: int
    python: str
    torch: str
    avcontrast: str
    communication: str
    dtype: str
    batch: int
    channels: int
    height: int
    width: int
    processes: int
    rank: int
    backend: str
    mode: str
    rounds: int
    clock: str
    p20_ms: float
    median_ms: float
    p80_ms: float
    wall_p20_ms: float
    wall_median_ms: float
    wall_p80_ms: float
    extra_bytes: int
    sent_bytes: int
    formula_bytes: int
    maps_bytes: int
    loss_error: float
    gradient_error: float


class Findings(NamedTuple):
    """What a group of processes found out; no rows where the errors are too large."""

    processes: int
    errors: dict[str, Error]
    rows: list[Row]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = parse(arguments)
    if launched():
        join(int(os.environ["LOCAL_RANK"]), options)
        findings = measure(options)
        dist.barrier()
        if dist.get_rank() > 0:
            return 1 if complaints(findings) else 0
        results = iter([findings])
    else:
        results = (spawned(processes, options) for processes in options.processes)
    return report(results, options)


def launched() -> bool:
    """Whether something like torchrun has started this process as one of several."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, complete with the sizes to run and the file of results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--processes",
        type=positive,
        nargs="+",
        metavar="W",
        help="default 1 2 4, on CUDA those that have a GPU each; torchrun knows its own",
    )
    parser.add_argument("--batch-sizes", type=positive, nargs="+", metavar="B", help="global ones")
    parser.add_argument("--channels", type=positive, metavar="D", help="default 512")
    parser.add_argument("--positions", type=positions, metavar="HxW", help="default 7x7")
    parser.add_argument("--repeats", type=positive, metavar="N", help="rounds (default 9)")
    parser.add_argument("--threads", type=positive, default=1, help="of each process")
    parser.add_argument("--device", choices=SIZES, default="cpu")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="16-bit features run under autocast"
    )
    parser.add_argument("--backends", choices=BACKENDS, nargs="+", default=BACKENDS)
    parser.add_argument(
        "--output",
        type=Path,
        metavar="CSV",
        help="file of results (default benchmarks/results/distributed_*.csv)",
    )
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, few rounds")
    options = parser.parse_args(arguments)

    if options.output is None:
        kind = f"smoke_{options.device}" if options.smoke else options.device
        options.output = ROOT / "benchmarks" / "results" / f"distributed_{kind}.csv"
    options.repeats = options.repeats or (2 if options.smoke else 9)
    options.sizes = chosen_sizes(SMOKE_SIZES if options.smoke else SIZES[options.device], options)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: no CUDA device is available")
    if launched():
        options.processes = [int(os.environ["WORLD_SIZE"])]
    else:
        room = torch.cuda.device_count() if options.device == "cuda" else max(PROCESSES)
        options.processes = options.processes or [count for count in PROCESSES if count <= room]
        if options.device == "cuda" and max(options.processes) > room:
            parser.error(f"--processes: there are {room} CUDA devices, one for each process")
    for size in options.sizes:
        for processes in options.processes:
            if size.batch % processes:
                parser.error(f"b={size.batch} cannot be split evenly among {processes} processes")
    return options


def spawned(processes: int, options: argparse.Namespace) -> Findings:
    """Return what new processes on this machine find out."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = (processes, folder, options)
        spawn(work, arguments, nprocs=processes)  # type: ignore[no-untyped-call]
        findings: Findings = pickle.loads((Path(folder) / "findings").read_bytes())
    return findings


def work(rank: int, processes: int, folder: str, options: argparse.Namespace) -> None:
    """Be one of the new processes; the first writes down what they find out."""
    join(rank, options, (Path(folder) / "store").as_uri(), rank, processes)
    findings = measure(options)
    if rank == 0:
        (Path(folder) / "findings").write_bytes(pickle.dumps(findings))
    dist.barrier()
    end(0)


def end(status: int) -> NoReturn:
    """End a process of a group at once: tearing gloo down now and then aborts it (torch 2.13)."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def join(
    local_rank: int,
    options: argparse.Namespace,
    meeting_place: str = "env://",
    rank: int = -1,
    processes: int = -1,
) -> None:
    """Make this process one of the group, with a GPU of its own if it runs on one."""
    torch.set_num_threads(options.threads)
    device = None
    if options.device == "cuda":
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    dist.init_process_group(
        COMMUNICATION[options.device],
        init_method=meeting_place,
        rank=rank,
        world_size=processes,
        device_id=device,
    )


def measure(options: argparse.Namespace) -> Findings:
    """Return what the processes of the group find out together, alike in each of them."""
    processes = dist.get_world_size()
    found = gathered({backend: parity(backend, options.device) for backend in options.backends})
    errors = {
        backend: Error(*np.max([own[backend] for own in found], axis=0).tolist())
        for backend in options.backends
    }
    rows: list[Row] = []
    if all(error.within(TOLERANCES[torch.float64]) for error in errors.values()):
        own_rows = [row for size in options.sizes for row in measure_size(size, errors, options)]
        rows = [row for several in gathered(own_rows) for row in several]
    return Findings(processes, errors, rows)


def gathered(value: T) -> list[T]:
    """Return what each process of the group has, in the order of their ranks."""
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def parity(backend: str, device: str) -> Error:
    """Return how far this process is from a single one with the whole batch, in float64."""
    processes = dist.get_world_size()
    inputs = features(Size(PARITY_PAIRS * processes, 8, 3, 3), torch.float64, device)
    truth, *all_gradients = evaluate(Step(FNACLoss(backend="dense"), *inputs))
    own_inputs = [own_part(tensor).requires_grad_() for tensor in inputs]
    loss, *gradients = evaluate(Step(shared_loss(backend), *own_inputs))
    averaged = (gradient / processes for gradient in gradients)
    return distance((loss, *averaged), (truth, *map(own_part, all_gradients)))


def shared_loss(backend: str) -> FNACLoss:
    """Return the loss of all processes together."""
    return FNACLoss(backend=backend, gather_distributed=True)


def own_part(tensor: Tensor) -> Tensor:
    """Return a copy of the rows of a global tensor that belong to this process."""
    return tensor.detach().tensor_split(dist.get_world_size())[dist.get_rank()].clone()


def evaluate(step: Step) -> tuple[Tensor, ...]:
    """Return the loss and the gradients."""
    loss = step.forward()
    return loss.detach(), *step.backward(loss)


def measure_size(
    size: Size, errors: dict[str, Error], options: argparse.Namespace
) -> Iterator[Row]:
    """Yield the results of this process: first bytes, then rounds in turns, then memory."""
    processes, dtype = dist.get_world_size(), DTYPES[options.dtype]
    inputs = [own_part(tensor).requires_grad_() for tensor in features(size, dtype, options.device)]
    steps = {backend: Step(shared_loss(backend), *inputs) for backend in options.backends}
    sent = {backend: sent_bytes(step) for backend, step in steps.items()}
    laps = time_in_turns(steps, options)
    maps = on_the_ring((size.features + size.batch * size.channels) * dtype.itemsize, processes)
    for backend, step in steps.items():
        extra = extra_bytes(step)
        for mode in MODES:
            times = np.array([lap[mode] for lap in laps[backend]])
            clock, wall = np.percentile(times, (20, 50, 80), axis=0).round(4).T.tolist()
            row = {
                **about(options),
                **size._asdict(),
                "communication": COMMUNICATION[options.device],
                "dtype": options.dtype,
                "processes": processes,
                "rank": dist.get_rank(),
                "backend": backend,
                "mode": mode,
                "rounds": len(times),
                "clock": clock_name(options.device, options.threads),
                **dict(zip(("p20_ms", "median_ms", "p80_ms"), clock, strict=True)),
                **dict(zip(("wall_p20_ms", "wall_median_ms", "wall_p80_ms"), wall, strict=True)),
                "extra_bytes": extra[mode],
                "sent_bytes": sent[backend][mode],
                "formula_bytes": formula(backend, mode, size, dtype, processes),
                "maps_bytes": 0 if mode == "backward" else maps,
                "loss_error": float(f"{errors[backend].loss:.2g}"),
                "gradient_error": float(f"{errors[backend].gradient:.2g}"),
            }
            yield Row(**row)


def about(options: argparse.Namespace) -> dict[str, str | int]:
    """Return where and with what the numbers are made."""
    return {**environment(options.device, options.threads), "cores": cores()}


def cores() -> int:
    """Return how many cores the processes have, all of them together."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def sent_bytes(step: Step) -> dict[str, int]:
    """Return what this process sends in each pass, counted at the collectives."""
    processes = dist.get_world_size()
    with counted() as forward:
        loss = step.forward()
    with counted() as backward:
        step.backward(loss)
    payloads = (sum(forward), sum(backward), sum(forward + backward))
    return {
        mode: on_the_ring(payload, processes) for mode, payload in zip(MODES, payloads, strict=True)
    }


@contextmanager
def counted() -> Iterator[list[int]]:
    """Fill a list with the bytes of each collective, by what goes round the ring."""
    payloads: list[int] = []

    def counting(name: str) -> Callable[..., Any]:
        call = getattr(dist, name)
        position, times = RING[name]

        def count(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            payloads.append(times * args[position].nbytes)
            return call(*args, **kwargs)

        return count

    def refusing(name: str) -> Callable[..., Any]:
        def refuse(*_: object, **__: object) -> None:
            raise RuntimeError(f"the bytes of {name} are not counted")

        return refuse

    replaced = {name: counting(name) for name in RING if hasattr(dist, name)}
    replaced |= {name: refusing(name) for name in NOT_COUNTED}
    with mock.patch.dict(vars(dist), replaced):
        yield payloads


def on_the_ring(payload: int, processes: int) -> int:
    """Return the bytes that each process sends."""
    return payload * (processes - 1) // processes


def formula(backend: str, mode: str, size: Size, dtype: torch.dtype, processes: int) -> int:
    """Return the bytes that each process should send."""
    itemsize = torch.promote_types(dtype, torch.float32).itemsize
    payload = 0
    for name, exchange in EXCHANGES[backend].items():
        if mode in (name, "both"):
            vectors = exchange.vectors * size.batch * size.channels
            payload += itemsize * (vectors + exchange.columns * size.batch + exchange.sums)
            payload += AGREEMENT_BYTES * processes * (name == "forward")
    return on_the_ring(payload, processes)


def time_in_turns(
    steps: dict[str, Step], options: argparse.Namespace
) -> dict[str, list[dict[str, Lap]]]:
    """Run every backend once a round, all processes at the same time, and return every lap."""
    laps: dict[str, list[dict[str, Lap]]] = {backend: [] for backend in steps}
    order = random.Random(0)  # alike in all processes, which must run the same one
    gc.collect()
    gc.disable()
    try:
        for _ in range(options.repeats):
            for backend in order.sample(list(steps), len(steps)):
                dist.barrier()
                laps[backend].append(time_step(steps[backend], options.threads))
    finally:
        gc.enable()
    return laps


def report(results: Iterator[Findings], options: argparse.Namespace) -> int:
    """Print and write the results of each group, and return the exit status."""
    for name, value in about(options).items():
        print(f"{name.replace('_', ' '):<12} {value}")
    print("\nW processes send (W - 1)/W of these bytes each, s being those of a number:")
    for backend in options.backends:
        print(f"  {backend:<10} {formula_text(backend)}")
    rows: list[Row] = []
    for findings in results:
        if wrong := complaints(findings):
            print(*wrong, "no results are reported", sep="\n", file=sys.stderr)
            return 1
        loss, gradient = map(max, zip(*findings.errors.values(), strict=True))
        print(
            f"{named(findings.processes)}: as a single one in float64, loss within {loss:.1e}, "
            f"gradients within {gradient:.1e}; bytes as the formula says"
        )
        rows += findings.rows
    for size in options.sizes:
        print(f"\n{size}, fnac loss, {options.dtype}")
        print(table([row for row in rows if Size(*(vars(row)[k] for k in Size._fields)) == size]))
    if options.device == "cpu" and max(options.processes) * options.threads > cores():
        print(f"\nwith more threads than the {cores()} cores, wall times count the wait for a core")
    write(rows, options.output)
    print(f"\nwrote {shown(options.output)}")
    return 0


def complaints(findings: Findings) -> list[str]:
    """Return what is not as it should be."""
    limit = TOLERANCES[torch.float64]
    wrong = [
        f"parity failed: {backend} in {named(findings.processes)} differs from a single one: "
        f"loss by {error.loss:.2g} (allowed {limit.loss:.2g}), "
        f"gradients by {error.gradient:.2g} (allowed {limit.gradient:.2g})"
        for backend, error in findings.errors.items()
        if not error.within(limit)
    ]
    return wrong + [
        f"{row.backend} {row.mode}, b={row.batch}, rank {row.rank} of {row.processes}: "
        f"sent {row.sent_bytes} bytes, the formula says {row.formula_bytes}"
        for row in findings.rows
        if row.sent_bytes != row.formula_bytes
    ]


def named(processes: int) -> str:
    """Return how many processes there are, in words."""
    return "1 process" if processes == 1 else f"{processes} processes"


def formula_text(backend: str) -> str:
    """Return the formula of both passes as text."""
    vectors, columns, sums = map(sum, zip(*EXCHANGES[backend].values(), strict=True))
    return f"s ({vectors} b d + {columns} b + {sums}) + {AGREEMENT_BYTES} W"


def table(rows: list[Row]) -> str:
    """Return forward and backward at one size as aligned text: of each group its slowest process.

    Memory is that of the process that needs most.
    """
    header = ["processes", "backend", "p20", "median", "p80", "wall p20", "median", "p80"]
    lines = [[*header, "extra MB", "sent MB", "formula", "maps"]]
    groups: dict[tuple[int, str], list[Row]] = {}
    for row in rows:
        if row.mode == "both":
            groups.setdefault((row.processes, row.backend), []).append(row)
    for (processes, backend), group in groups.items():
        slowest = max(group, key=lambda row: row.median_ms)
        times = (slowest.p20_ms, slowest.median_ms, slowest.p80_ms)
        walls = (slowest.wall_p20_ms, slowest.wall_median_ms, slowest.wall_p80_ms)
        most = max(row.extra_bytes for row in group)
        sizes = (most, slowest.sent_bytes, slowest.formula_bytes, slowest.maps_bytes)
        numbers = [f"{number:.2f}" for number in (*times, *walls)]
        numbers += [f"{number / 1e6:.3f}" for number in sizes]
        lines.append([str(processes), backend, *numbers])
    title = (
        f"milliseconds ({rows[0].clock} clock, then wall) of {rows[0].rounds} rounds, in the "
        "slowest process; MB in each; maps: to gather feature maps instead, once"
    )
    return f"{title}\n{aligned(lines)}"


if __name__ == "__main__":
    status = main()
    if launched():
        end(status)
    sys.exit(status)
