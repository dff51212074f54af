"""Every kernel is compiled for the GPUs that are not here."""

from __future__ import annotations

import csv
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


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["raw", "single"])
def test_products_of_the_forward_kernel_overlap(precision, tmp_path):
    """That the sums are set to zero within the loop makes nothing wait; the largest tile counts."""
    table = tmp_path / "kernels.csv"
    options = ("--arch", "90", "--positions", "49", "--only", f"maximum {precision}")
    done = run(*options, "--output", str(table), TRITON_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    with table.open(newline="") as file:
        largest = next(csv.DictReader(file))
    assert largest["serialized"] == "False"
    assert int(largest["products_under_way"]) >= 1
    assert int(largest["copies_under_way"]) >= 2
    assert float(largest["compile_seconds"]) > 0


def test_what_is_under_way_is_read():
    ptx = "wgmma.wait_group.sync.aligned 1;\nwgmma.wait_group.sync.aligned 0;\n"
    ptx += "cp.async.wait_group \t2;\ncp.async.wait_group \t4;"
    assert compile_kernels.most(compile_kernels.PRODUCTS_LEFT, ptx) == 1
    assert compile_kernels.most(compile_kernels.COPIES_LEFT, ptx) == 4
    assert compile_kernels.most(compile_kernels.COPIES_LEFT, "mma.sync;") == 0


def test_the_interpreter_cannot_compile():
    done = run(TRITON_INTERPRET="1")
    assert done.returncode == 2
    assert "TRITON_INTERPRET is set" in done.stderr
