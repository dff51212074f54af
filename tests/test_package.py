from __future__ import annotations

import csv
import importlib
import pkgutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import avcontrast

ROOT = Path(__file__).parents[1]
HEAVY = ("triton", "matplotlib", "lightning", "torchmetrics", "scipy", "torch._dynamo")


def loaded_after(statement):
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_importing_loads_nothing_heavy():
    """Compared with torch alone, whose own imports are not ours to choose."""
    added = loaded_after("import avcontrast") - loaded_after("import torch")
    assert "avcontrast.losses" in added
    assert not [name for name in added if name.startswith(HEAVY)]


def test_the_check_of_imports_can_fail():
    added = loaded_after("import scipy") - loaded_after("import torch")
    assert [name for name in added if name.startswith(HEAVY)]


def test_public_names_exist_and_say_what_they_are():
    assert sorted(avcontrast.__all__) == sorted(set(avcontrast.__all__))
    for module in (avcontrast, avcontrast.functional, avcontrast.ops, avcontrast.losses):
        for name in module.__all__:
            value = getattr(module, name)
            if callable(value):
                assert value.__doc__, name


@pytest.mark.parametrize(
    "name", [module.name for module in pkgutil.walk_packages(avcontrast.__path__, "avcontrast.")]
)
def test_every_module_imports_and_has_a_text(name):
    assert importlib.import_module(name).__doc__


def test_version_is_the_installed_one():
    assert metadata.version("avcontrast") == avcontrast.__version__
    requirements = " ".join(
        line for line in metadata.requires("avcontrast") if "extra ==" not in line
    )
    assert {part.split(">")[0] for part in requirements.split()} == {"torch", "einops", "numpy"}


def test_the_example_of_the_readme_runs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["loss"].isfinite()
    assert names["visual_encoder"].weight.grad.abs().sum() > 0


def test_the_figures_of_the_readme_are_the_measured_ones():
    with (ROOT / "benchmarks" / "results" / "loss_cpu.csv").open(newline="") as file:
        measured = [
            row
            for row in csv.DictReader(file)
            if row["mode"] == "both" and row["channels"] == "512"
        ]
    batches = list(dict.fromkeys(row["batch"] for row in measured))
    lines = []
    for batch in batches:
        found = {row["implementation"]: row for row in measured if row["batch"] == batch}
        ran = [found[name] for name in ("dense", "dense-compiled", "blockwise")]
        times = [f"{float(row['median_ms']):.0f}" for row in ran]
        extra = [f"{float(row['extra_bytes']) / 1e6:.0f}" for row in ran]
        ours = found["blockwise"]
        product = f"{float(ours['median_ms']) / float(ours['product_ms']):.1f}"
        lines.append(f"| {' | '.join([batch, *times, product, *extra])} |")
    assert len(lines) >= 6
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for line in lines:
        assert line in text
    assert measured[0]["torch"] in text
    assert measured[0]["date"] in text
