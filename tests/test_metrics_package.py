"""What ``avcontrast.metrics`` exports, and that the documentation has it."""

import inspect
from pathlib import Path

import pytest

from avcontrast import metrics
from avcontrast.metrics import accumulators

API = (Path(__file__).parents[1] / "docs" / "api.rst").read_text(encoding="utf-8")
SECTIONS = ("Args:", "Shape:", "Returns:", "Raises:", "Example:", "Source:")
FUNCTIONS = [name for name in metrics.__all__ if inspect.isfunction(getattr(metrics, name))]


def test_names_are_not_repeated():
    for module in (metrics, accumulators):
        assert len(set(module.__all__)) == len(module.__all__)
    assert len(FUNCTIONS) == 34


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_says_what_it_takes_gives_and_raises(name):
    function = getattr(metrics, name)
    text = inspect.getdoc(function)
    places = [text.find(f"\n{section}\n") for section in SECTIONS if section != "Shape:"]
    assert -1 not in places
    assert places == sorted(places)
    assert "\nShape:\n" in text or name in ("success_rate", "ground_truth_map")
    arguments = text[text.index("\nArgs:\n") : places[1]]
    for argument in inspect.signature(function).parameters:
        assert f"\n    {argument}: " in arguments, argument
    assert ">>> " in text


@pytest.mark.parametrize("name", accumulators.__all__)
def test_every_accumulator_is_documented(name):
    assert f".. autoclass:: {name}\n" in API
    text = inspect.getdoc(getattr(accumulators, name))
    for argument in inspect.signature(getattr(accumulators, name)).parameters:
        assert f"\n    {argument}: " in text, argument


@pytest.mark.parametrize("name", metrics.__all__)
def test_every_name_is_on_the_page(name):
    kinds = ("autofunction", "autoclass", "py:data")
    assert any(f".. {kind}:: {name}" in API for kind in kinds)
