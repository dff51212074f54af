"""Every kernel is compiled for the GPUs that are not here."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

compile_kernels = pytest.importorskip("compile_kernels", reason="needs the package triton")

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "compile_kernels.py"


def run(*arguments, **environment):
    clean = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, str(SCRIPT), *arguments],
        capture_output=True,
        text=True,
        env={**clean, **environment},
    )


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["80", "90"])
def test_no_kernel_spills_or_misses_the_tensor_cores(tmp_path, arch):
    done = run("--arch", arch, "--positions", "49", TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith(f"sm_{arch}\n")
    assert done.stdout.endswith("no kernel has a fault\n")
    for kernel in ("prepare", "maximum", "statistics", "combine", "terms", "gradients", "along"):
        assert f"\n{kernel}" in done.stdout
    for kernel in ("to vectors", "to maps", "product", "finish"):
        assert f"\n{kernel}" in done.stdout
    if arch == "90":
        maximum = next(line for line in done.stdout.splitlines() if "split 49" in line)
        assert int(maximum.rstrip().removesuffix("waits").split()[-1]) >= 3


def test_faults_are_found_and_decide_the_exit_status(monkeypatch, capsys):
    case = next(compile_kernels.matrix_cases(compile_kernels.tiles.HOPPER))
    assert case.matrix
    outcome = compile_kernels.Outcome(100, 1024, 0, 4)
    for change, said in (
        ({}, []),
        ({"spilled": 8}, ["spills 8 bytes"]),
        ({"shared": 2**20}, ["does not fit"]),
        ({"tensor_memory": 640}, ["does not fit"]),
        ({"matrix_instructions": 0}, ["no tensor cores"]),
        ({"serialized": True}, []),
    ):
        changed = outcome._replace(**change)
        assert compile_kernels.faults(case, changed, 90) == said
        monkeypatch.setattr(compile_kernels, "compile_case", lambda *_, made=changed: made)
        monkeypatch.setattr(compile_kernels.tiles, "INTERPRETED", False)
        assert compile_kernels.main(["--arch", "90", "--only", case.name]) == bool(said)
        assert all(fault in capsys.readouterr().out for fault in said)


def test_serialized_matrix_instructions_are_shown(capsys, monkeypatch):
    case = next(compile_kernels.matrix_cases(compile_kernels.tiles.HOPPER))
    made = compile_kernels.Outcome(100, 1024, 0, 4, serialized=True)
    monkeypatch.setattr(compile_kernels, "compile_case", lambda *_: made)
    assert " waits" in compile_kernels.line_of(compile_kernels.row_of(case, 90))
    said = "ptxas info : (C7514) Potential Performance Loss: wgmma.mma_async instructions are"
    assert compile_kernels.SERIALIZED.search(said)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "kernel", "positions"),
    [
        ("100", "maximum split", "49"),
        ("100", "gradients split", "49"),
        ("120", "maximum split", "49"),
        ("120", "to vectors split", "49"),
        ("86", "gradients split", "49"),
        ("90", "finish", "1024"),
        ("90", "product", "49"),
    ],
)
def test_tiles_of_other_cards_and_sizes(arch, kernel, positions, tmp_path):
    options = ("--arch", arch, "--positions", positions, "--only", kernel)
    done = run(*options, TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_interpreter_cannot_compile():
    done = run(TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert "TRITON_INTERPRET is set" in done.stderr
