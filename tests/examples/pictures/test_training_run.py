import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from set_runs import by_hand, files_of
from small_sets import write_set

from avcontrast import metrics
from avscenes.pictures import training_run as pictures
from avscenes.sets.testsets import read_tests
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
    options, names, _ = write_set("flickr", tmp_path)
    named = {key[2:].replace("-", "_"): path for key, path in options.items()}
    tests = read_tests("flickr", 3, named)
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


@pytest.mark.parametrize("epochs", [0, 3])
def test_a_warm_up_is_shaded_where_there_is_one(flickr, tmp_path, monkeypatch, epochs):
    tests, tested, _ = flickr
    write_history(tmp_path)
    labels, spans = [], []
    legend, axvspan = Axes.legend, Axes.axvspan
    monkeypatch.setattr(Axes, "legend", lambda *a, **b: (labels.extend(a[2]), legend(*a, **b))[1])
    monkeypatch.setattr(Axes, "axvspan", lambda *a, **b: (spans.append(a), axvspan(*a, **b))[1])
    for other in ("draw_localisation", "draw_gallery", "draw_adjacency"):
        monkeypatch.setattr(pictures, other, lambda *_: None)
    pictures.draw_all(tmp_path, tests, tested, name="", warmup_epochs=epochs, temperature=0.03)
    assert ("warm-up, contrastive term alone" in labels) == bool(epochs)
    assert bool(spans) == bool(epochs)


@pytest.mark.parametrize("loss", TERMS)
def test_a_loss_has_a_curve_for_each_of_its_terms(flickr, tmp_path, monkeypatch, loss):
    tests, tested, _ = flickr
    write_history(tmp_path, TERMS[loss])
    titles = []
    title = Axes.set_title
    monkeypatch.setattr(Axes, "set_title", lambda *a, **b: (titles.append(a[1]), title(*a, **b))[1])
    for other in ("draw_localisation", "draw_gallery", "draw_adjacency"):
        monkeypatch.setattr(pictures, other, lambda *_: None)
    pictures.draw_all(tmp_path, tests, tested, name="", warmup_epochs=0, temperature=0.03)
    expected = [pictures._CURVES[term] for term in TERMS[loss]]
    assert titles == [*expected, "held-out pair recall@5", "learning rate"]
    assert (tmp_path / "learning_curves.png").stat().st_size > 1_000


def test_pictures_of_clips_without_classes(flickr, tmp_path, monkeypatch):
    tests, tested, _ = flickr
    write_history(tmp_path)
    titles = []
    suptitle = Figure.suptitle
    monkeypatch.setattr(
        Figure, "suptitle", lambda *a, **more: (titles.append(a[1]), suptitle(*a, **more))[1]
    )
    shown = []
    draw = pictures.draw_truth
    monkeypatch.setattr(pictures, "draw_truth", lambda *a: (shown.append(a[2]), draw(*a))[1])
    name = "flickr, nce, seed 0"
    pictures.draw_all(tmp_path, tests, tested, name=name, warmup_epochs=0, temperature=0.03)
    assert sorted(set(shown)) == [0, 1, 2]
    assert "Adjacency, 3 test pairs (flickr, nce, seed 0)" in titles
    assert {path.name for path in tmp_path.glob("*.png")} == {
        *("learning_curves.png", "localization.png", "adjacency.png", "gallery.png")
    }
