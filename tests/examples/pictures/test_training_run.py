from unittest.mock import Mock, create_autospec

import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from set_runs import by_hand, files_of
from small_sets import read_set

from avcontrast import metrics
from avscenes.pictures import training_run as pictures
from avscenes.testing.figures import all_figures
from avscenes.testing.run import Conditions, Networks, run_part, whole_test
from avscenes.testing.table import table

TERMS = {
    "fnac": ("loss", "info_nce", "fns_audio", "fns_visual", "tne"),
    "lvs": ("loss",),
    "alignment": ("loss", "localization", "alignment"),
}


def write_history(folder, terms=TERMS["fnac"]):
    history = [f"{stage}_{term}" for stage in ("train", "validation") for term in terms]
    columns = ["epoch", "learning_rate", "validation_pair_recall_5", *history]
    rows = [columns, ["0"] * len(columns)]
    (folder / "metrics.csv").write_text("".join(f"{','.join(row)}\n" for row in rows))


@pytest.fixture
def flickr(tmp_path, encoders):
    """Three clips without classes, and what an untrained model makes of them."""
    tests, names, _ = read_set("flickr", tmp_path, 3)
    how = Conditions("flickr", "ezvsl-test")
    part = run_part(Networks(*encoders), tests, how, batch_size=2, workers=0, max_missing=0)
    maps, _, _ = by_hand(encoders, files_of("flickr", names[:3], tmp_path))
    return tests, whole_test([part], tests, how, 0), maps


def test_a_training_is_scored_with_the_votes_of_two(flickr):
    tests, tested, maps = flickr
    boxes = tests.labelled.boxes
    truth = torch.stack([metrics.ground_truth_map(several, 224, 2) for several in boxes])
    ciou = metrics.localization_ciou(maps, truth)
    results = all_figures(tests, tested)
    assert results["model_mean_ciou_half"] == pytest.approx(ciou.mean().item(), abs=1e-4)
    printed = table(results, "ezvsl-test")
    assert "own pair, image to sound" in printed
    assert "same class" not in printed


def watched(monkeypatch, owner, name):
    """Return a mock of a function that does what the function does."""
    original = getattr(owner, name)
    mock = create_autospec(original, side_effect=original)
    monkeypatch.setattr(owner, name, mock)
    return mock


def draw_curves(flickr, folder, monkeypatch, *, warmup_epochs=0):
    """Draw the curves of a training alone."""
    tests, tested, _ = flickr
    for other in ("draw_localisation", "draw_gallery", "draw_adjacency"):
        monkeypatch.setattr(pictures, other, Mock())
    settings = {"warmup_epochs": warmup_epochs, "temperature": 0.03}
    pictures.draw_all(folder, tests, tested, name="", **settings)


@pytest.mark.parametrize("epochs", [0, 3])
def test_a_warm_up_is_shaded_where_there_is_one(flickr, tmp_path, monkeypatch, epochs):
    write_history(tmp_path)
    legend, span = (watched(monkeypatch, Axes, name) for name in ("legend", "axvspan"))
    draw_curves(flickr, tmp_path, monkeypatch, warmup_epochs=epochs)
    labels = [label for call in legend.call_args_list for label in call.args[2]]
    assert ("warm-up, contrastive term alone" in labels) == bool(epochs)
    assert span.called == bool(epochs)


@pytest.mark.parametrize("loss", TERMS)
def test_a_loss_has_a_curve_for_each_of_its_terms(flickr, tmp_path, monkeypatch, loss):
    write_history(tmp_path, TERMS[loss])
    title = watched(monkeypatch, Axes, "set_title")
    draw_curves(flickr, tmp_path, monkeypatch)
    expected = [pictures._CURVES[term] for term in TERMS[loss]]
    titles = [call.args[1] for call in title.call_args_list]
    assert titles == [*expected, "held-out pair recall@5", "learning rate"]
    assert (tmp_path / "learning_curves.png").stat().st_size > 1_000


def test_pictures_of_clips_without_classes(flickr, tmp_path, monkeypatch):
    tests, tested, _ = flickr
    write_history(tmp_path)
    suptitle = watched(monkeypatch, Figure, "suptitle")
    truth = watched(monkeypatch, pictures, "draw_truth")
    name = "flickr, nce, seed 0"
    pictures.draw_all(tmp_path, tests, tested, name=name, warmup_epochs=0, temperature=0.03)
    assert {call.args[2] for call in truth.call_args_list} == {0, 1, 2}
    titles = [call.args[1] for call in suptitle.call_args_list]
    assert "Adjacency, 3 test pairs (flickr, nce, seed 0)" in titles
    assert {path.name for path in tmp_path.glob("*.png")} == {
        *("learning_curves.png", "localization.png", "adjacency.png", "gallery.png")
    }
