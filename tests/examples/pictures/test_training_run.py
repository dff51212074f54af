from argparse import Namespace

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from set_runs import by_hand, files_of
from small_sets import write_set

from avcontrast import metrics
from avscenes.pictures import training_run as pictures
from avscenes.sets.testsets import read_tests
from avscenes.testing import evaluation
from avscenes.testing.retrieval import Features

HISTORY = [f"{stage}_{term}" for stage in ("train", "validation") for term in pictures._CURVES]


SETTINGS = {
    **{"dataset": "flickr", "loss": "fnac", "seed": 0, "warmup_epochs": 3, "temperature": 0.03},
    **{"fns_audio_weight": 100.0, "fns_visual_weight": 100.0, "tne_weight": 100.0},
}


def write_history(folder):
    columns = ["epoch", "learning_rate", "validation_pair_recall_5", *HISTORY]
    rows = [columns, ["0"] * len(columns)]
    (folder / "metrics.csv").write_text("".join(f"{','.join(row)}\n" for row in rows))


@pytest.fixture
def flickr(tmp_path, encoders):
    """Three clips without classes, and what an untrained model makes of them."""
    options, names, _ = write_set("flickr", tmp_path)
    named = {key[2:].replace("-", "_"): path for key, path in options.items()}
    test = read_tests(Namespace(dataset="flickr", test_size=3, **named)).labelled
    _, visual, audio = by_hand(encoders, files_of("flickr", names[:3], tmp_path))
    return test, evaluation.evaluate(Features(visual, audio), test)


def test_a_training_is_scored_with_the_votes_of_two(flickr):
    test, tested = flickr
    maps = torch.einsum(
        "ndhw,nd->nhw",
        torch.nn.functional.normalize(tested.features.visual, dim=1),
        torch.nn.functional.normalize(tested.features.audio, dim=1),
    )
    truth = torch.stack([metrics.ground_truth_map(boxes, 224, 2) for boxes in test.boxes])
    ciou = metrics.localization_ciou(maps, truth)
    assert tested.metrics["model_mean_ciou_half"] == pytest.approx(ciou.mean().item(), abs=1e-6)
    report = evaluation.report(tested.metrics)
    assert "own pair, image to sound" in report
    assert "same class" not in report


@pytest.mark.parametrize(
    ("change", "shaded"),
    [
        ({}, True),
        ({"loss": "nce"}, False),
        ({"loss": "tne", "tne_weight": 0.0}, False),
        ({"loss": "tne", "fns_audio_weight": 0.0}, True),
        ({"warmup_epochs": 0}, False),
    ],
)
def test_a_warm_up_is_shaded_where_there_is_one(flickr, tmp_path, monkeypatch, change, shaded):
    write_history(tmp_path)
    labels, spans = [], []
    legend, axvspan = Axes.legend, Axes.axvspan
    monkeypatch.setattr(Axes, "legend", lambda *a, **b: (labels.extend(a[2]), legend(*a, **b))[1])
    monkeypatch.setattr(Axes, "axvspan", lambda *a, **b: (spans.append(a), axvspan(*a, **b))[1])
    monkeypatch.setattr(pictures, "draw_localisation", lambda *_: None)
    monkeypatch.setattr(pictures, "draw_adjacency", lambda *_: None)
    pictures.draw_all(tmp_path, *flickr, Namespace(**{**SETTINGS, **change}))
    assert ("warm-up, contrastive term alone" in labels) == shaded
    assert bool(spans) == shaded


def test_pictures_of_clips_without_classes(flickr, tmp_path, monkeypatch):
    test, tested = flickr
    write_history(tmp_path)
    titles = []
    suptitle = Figure.suptitle
    monkeypatch.setattr(
        Figure, "suptitle", lambda *a, **more: (titles.append(a[1]), suptitle(*a, **more))[1]
    )
    shown = []
    draw = pictures.draw_truth
    monkeypatch.setattr(pictures, "draw_truth", lambda *a: (shown.append(a[2]), draw(*a))[1])
    pictures.draw_all(tmp_path, test, tested, Namespace(**{**SETTINGS, "loss": "nce"}))
    assert sorted(set(shown)) == [0, 1, 2]
    assert "Adjacency, 3 test pairs (flickr, nce, seed 0)" in titles
    assert {path.name for path in tmp_path.glob("*.png")} == {
        *("learning_curves.png", "localization.png", "adjacency.png")
    }
