"""The steps of ``on_a_card.py``: what runs, in which order, and for how long.

It needs nothing but the standard library, so that a step without its packages is skipped alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

PRECISIONS = {
    "bf16": ("--dtype", "bfloat16"),
    "high": ("--dtype", "float32", "--matmul-precision", "high"),
    "highest": ("--dtype", "float32", "--matmul-precision", "highest"),
}
EAGER = ("released", "blockwise", "triton", "triton-stream")
COMPILED = ("released-compiled", "triton")


class Step(NamedTuple):
    """A step.

    Args:
        name: of the step.
        command: what to run; OUTPUT in it stands for the file that it writes.
        share: of the time, in seconds of twelve minutes; 0 for what runs if there is time left.
        output: the file of results that its lines are added to.
        needs: packages, without which it is skipped.
        program: the same of a program.
    """

    name: str
    command: tuple[str, ...]
    share: float
    output: str = ""
    needs: tuple[str, ...] = ()
    program: str = ""


def steps(rehearse: bool) -> list[Step]:
    """Return all steps in their order."""
    return [
        *test_steps(rehearse),
        *(
            measure_step(f"first step {name}", "first-step", 14, rehearse, *precision)
            for name, precision in PRECISIONS.items()
        ),
        *loss_steps(rehearse),
        measure_step("largest batch", "largest", 60, rehearse),
        loss_step("loss 65536 bf16", 65536, "bf16", ("triton", "triton-stream"), 35, rehearse),
        *note_steps(rehearse),
        example_step(rehearse),
        *(
            loss_step(f"compiled {batch} {name}", batch, name, COMPILED, 0, rehearse)
            for batch, name in (
                *((1024, "high"), (1024, "highest"), (8192, "bf16"), (8192, "high")),
                *((256, "bf16"), (16384, "bf16")),
                *((256, "high"), (16384, "high"), (256, "highest"), (16384, "highest")),
            )
        ),
    ]


def test_steps(rehearse: bool) -> list[Step]:
    """Return the tests of all files that have some for a GPU, the fast half first."""
    marked = (path for path in sorted((ROOT / "tests").glob("test_*.py")))
    files = [str(path) for path in marked if "mark.gpu" in path.read_text(encoding="utf-8")]
    # Without the settings of the whole test run, which need more packages.
    options: tuple[str, ...] = (
        "-q",
        "-o",
        "addopts=",
        "--noconftest",
        "--import-mode=importlib",
        "-W",
        "default",
    )
    options += ("-p", "no:cacheprovider", "-p", "kept_outcomes", "--continue-on-collection-errors")
    if rehearse:
        options += ("-k", "two_runs or ties")
        files = [str(ROOT / "tests" / "test_triton.py")]
    elif find_spec("xdist") is not None:
        options += ("-n", str(min(8, os.cpu_count() or 1)))
    return [
        Step(
            name,
            ("-m", "pytest", *options, "-m", chosen, *files),
            share,
            needs=("pytest",),
        )
        for name, chosen, share in (
            ("tests", "not slow" if rehearse else "gpu and not slow", 110),
            ("slow tests", "not slow" if rehearse else "gpu and slow", 50),
        )
    ]


def loss_steps(rehearse: bool) -> list[Step]:
    """Return the benchmark of the loss at each size, first without the compiler."""
    return [
        *(
            loss_step(f"loss {batch} {name}", batch, name, EAGER, share, rehearse)
            for batch, share in ((1024, 11), (4096, 14), (256, 8), (16384, 20))
            for name in PRECISIONS
        ),
        *(
            loss_step(f"compiled {batch} {name}", batch, name, COMPILED, share, rehearse)
            for batch, name, share in (
                *((4096, "bf16", 45), (4096, "high", 35)),
                *((1024, "bf16", 30), (4096, "highest", 30)),
            )
        ),
    ]


def loss_step(
    name: str,
    batch: int,
    precision: str,
    implementations: Sequence[str],
    share: float,
    rehearse: bool,
    *more: str,
) -> Step:
    """Return a run of the benchmark of the loss."""
    options = (*PRECISIONS[precision], "--output", "OUTPUT", *more)
    if rehearse:
        names = [one.replace("released-compiled", "dense") for one in implementations]
        options += ("--device", "cpu", "--smoke", "--channels", "8", "--positions", "3x3")
        options += ("--batch-sizes", "6", "--implementations", *names)
    else:
        rounds = ("--repeats", "3", "--seconds", "0" if batch > 20_000 else "2")
        options += ("--device", "cuda", "--batch-sizes", str(batch), *rounds)
        options += ("--implementations", *implementations)
    return Step(name, script("loss_benchmark.py", rehearse, *options), share, "loss.csv")


def note_steps(rehearse: bool) -> list[Step]:
    """Return those of the measurements in ``NOTES.md`` that no other step makes."""
    sizes = (4096, 128)
    return [
        *(
            measure_step(f"kernels {batch} {name}", "kernels", 10, rehearse, *precision,
                         "--batch-size", str(batch))
            for batch in sizes
            for name, precision in PRECISIONS.items()
            if batch == sizes[0] or name == "bf16"
        ),
        measure_step("one-hot products", "one-hot", 12, rehearse),
        measure_step("L2 cache", "l2", 25, rehearse)._replace(program="ncu"),
        *(
            loss_step(f"graph {batch} bf16", batch, "bf16", EAGER, 10, rehearse, "--graph")
            for batch in (128, 256, 512)
        ),
    ]  # fmt: skip


def measure_step(name: str, what: str, share: float, rehearse: bool, *more: str) -> Step:
    """Return one of the other measurements."""
    output = f"{what.replace('-', '_')}.csv"
    options = (what, "--output", "OUTPUT", *more)
    if rehearse:
        options += ("--device", "cpu", "--batch-size", "6", "--channels", "16")
        options += ("--positions", "2x2", "--largest", "12")
    return Step(name, script("card_measurements.py", rehearse, *options), share, output)


def example_step(rehearse: bool) -> Step:
    """Return an epoch of the example, on scenes that are made on the spot."""
    options = ["--dataset", "synthetic", "--encoder", "resnet18", "--epochs", "1"]
    options += ["--warm-start-epochs", "0", "--warmup-epochs", "0", "--output-dir", "OUTPUT"]
    sizes = (16, 8, 8, 8) if rehearse else (2048, 128, 504, 256)
    names = ("--train-size", "--validation-size", "--test-size", "--batch-size")
    for name, size in zip(names, sizes, strict=True):
        options += [name, str(size)]
    options += ["--accelerator", "cpu"] if rehearse else ["--precision", "bf16-mixed"]
    command = (str(ROOT / "examples" / "train_fnac.py"), *options)
    needs = ("lightning", "pydantic", "scipy", "tqdm", "matplotlib", "PIL", "soundfile")
    return Step("example", command, 55, "example.csv", needs)


def script(name: str, rehearse: bool, *options: str) -> tuple[str, ...]:
    """Return how a script of this folder is run, in a rehearsal with the interpreter."""
    path = str(ROOT / "benchmarks" / name)
    first = (str(ROOT / "benchmarks" / "interpreted.py"),) if rehearse else ()
    return (*first, path, *options)
