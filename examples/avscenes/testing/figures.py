"""Every figure of an evaluation, and a row for each of its samples."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from avcontrast import metrics
from avscenes.sets.testsets import KINDS, NamedTests
from avscenes.testing.retrieval import retrieval
from avscenes.testing.run import Tested
from avscenes.testing.scoring import chance_f_score, chosen, figures, interactive_figures
from avscenes.testing.silence import silence_figures


def all_figures(tests: NamedTests, tested: Tested) -> dict[str, float]:
    """Return the figures that fit a test set by flat names.

    Localisation and retrieval are of samples whose source is in the image.
    """
    rules = metrics.PROTOCOLS[tested.how.protocol]
    located = tests.labelled.located
    results = figures(chosen(tested.columns, tested.visible), rules) if located else {}
    if tests.labelled.silent:
        results.update(silence_figures(tested.columns, tested.visible, rules))
    if tested.f_scores:
        results.update({f"{who}_f_score": value for who, value in tested.f_scores.items()})
        results["ceiling_f_score"] = 1.0
        results["chance_f_score"] = chance_f_score(tested.columns["gt_area"])
    if KINDS[tested.how.dataset].interactive:
        places, scenes = whole_scenes(tests, tested)
        if scenes:
            some = chosen(tested.columns, torch.tensor(places))
            results.update(interactive_figures(some, scenes, rules))
    if tested.features is not None:
        labels = tests.labelled.labels[tested.rows[tested.visible]]
        results.update(retrieval(tested.features, labels, tested.projected))
    return results


def whole_scenes(tests: NamedTests, tested: Tested) -> tuple[list[int], list[str]]:
    """Return the samples of scenes with two sounds or more, and what the scenes are called.

    A scene that lost a sound, perhaps the harder one, would count too much.
    """
    names = [scene_of(tests.names[row]) for row in tested.rows.tolist()]
    sounds = Counter(names)
    places = [place for place, name in enumerate(names) if sounds[name] > 1]
    return places, [names[place] for place in places]


def scene_of(name: str) -> str:
    """Return the name of a sample without its last part, which is that of the sound."""
    return name.rpartition("_")[0]


def counts(tests: NamedTests, tested: Tested) -> dict[str, int]:
    """Return how many samples of which kind the figures are made of."""
    found = {"test_samples": len(tested.rows), "left_out": len(tested.skipped)}
    if tests.labelled.silent:
        found["silent_samples"] = int((~tested.visible).sum())
    if KINDS[tested.how.dataset].interactive:
        found["whole_scenes"] = len(set(whole_scenes(tests, tested)[1]))
    return found


def sample_rows(tests: NamedTests, tested: Tested) -> list[dict[str, Any]]:
    """Return a row a sample: its name, its class and its scores.

    Where the source is not in the image there is nothing to find, and those scores are left blank.
    """
    test = tests.labelled
    columns = {name: column.tolist() for name, column in tested.columns.items()}
    visible = tested.visible.tolist()
    rows = []
    for place, row in enumerate(tested.rows.tolist()):
        kept = {
            name: _cell(values[place]) if visible[place] or name.endswith("_confidence") else ""
            for name, values in columns.items()
        }
        rows.append(
            {
                "id": tests.names[row],
                "class": test.class_names[int(test.labels[row])],
                **({"visible": int(visible[place])} if test.silent else {}),
                **kept,
            }
        )
    return rows


def _cell(value: float | bool) -> float | int:
    return int(value) if isinstance(value, bool) else round(value, 6)
