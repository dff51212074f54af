from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import avcontrast

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
    text = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["loss"].isfinite()
    assert names["visual_encoder"].weight.grad.abs().sum() > 0
