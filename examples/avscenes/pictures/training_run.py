"""Draws what a run has learned: learning curves, localisation maps, adjacency, similarity."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import PowerNorm
from matplotlib.patches import Rectangle
from torch import Tensor

from avcontrast import functional, metrics
from avcontrast.plots import as_picture, prediction_cut, show_map
from avscenes.models.vectors import pooled
from avscenes.pictures import style
from avscenes.pictures.gallery import draw_gallery
from avscenes.pictures.overlays import draw_truth, legend, shorten
from avscenes.sets.testsets import NamedTests
from avscenes.testing.retrieval import Features
from avscenes.testing.run import Tested

_CURVES = {
    "loss": "total loss",
    "info_nce": "contrastive (InfoNCE)",
    "fns_audio": "FNS, audio adjacency",
    "fns_visual": "FNS, visual adjacency",
    "tne": "TNE",
    "localization": "localisation, $s_L$",
    "alignment": "alignment, $s_A$",
}


def draw_all(
    output: Path,
    tests: NamedTests,
    tested: Tested,
    *,
    name: str,
    warmup_epochs: int,
    temperature: float,
) -> None:
    """Draw every picture into the output folder."""
    with (output / "metrics.csv").open(newline="", encoding="utf-8") as file:
        history = [
            {column: float(value) for column, value in row.items()} for row in csv.DictReader(file)
        ]
    draw_learning_curves(output / "learning_curves.png", history, warmup_epochs, name)
    draw_localisation(output / "localization.png", tests, tested, name)
    draw_gallery(output / "gallery.png", tests, tested, name)
    features, labels = tested.features, tests.labelled.labels[tested.rows]
    assert features is not None, "no set that is trained on lacks retrieval"
    names = tests.labelled.class_names
    draw_adjacency(output / "adjacency.png", features, labels, names, temperature, name)
    if len(names) > 1:
        draw_similarity(output / "similarity.png", features, labels, names, name)


def draw_learning_curves(
    path: Path, history: list[dict[str, float]], warmup_epochs: int, name: str
) -> None:
    """Draw each term over the epochs, in training and on held-out pairs.

    The first `warmup_epochs` are shaded; give 0 where no other term joins the contrastive one.
    """
    epochs = [row["epoch"] + 1 for row in history]
    marker = "o" if len(epochs) < 3 else ""  # of a run that is too short to be a line
    terms = [term for term in _CURVES if f"train_{term}" in history[0]]
    panels = len(terms) + 3
    columns = 3 if panels == 6 else 4
    lines = panels // columns
    with style.figure(path, 10.5, 2.8 * lines) as figure:
        figure.suptitle(f"Learning curves ({name})", x=0.012, ha="left")
        axes = figure.subplots(lines, columns).flat
        for term in terms:
            axis = next(axes)
            for stage, colour, label in (
                ("train", style.BLUE, "training"),
                ("validation", style.VERMILION, "held-out pairs"),
            ):
                values = [row[f"{stage}_{term}"] for row in history]
                axis.plot(epochs, values, color=colour, label=label, marker=marker)
            axis.set_title(_CURVES[term])
        for column, title in (
            ("validation_pair_recall_5", "held-out pair recall@5"),
            ("learning_rate", "learning rate"),
        ):
            axis = next(axes)
            values = [row[column] for row in history]
            axis.plot(epochs, values, color=style.INK, marker=marker)
            axis.set_title(title)
            axis.set_ylim(bottom=0)
        handles, labels = figure.axes[0].get_legend_handles_labels()
        for axis in figure.axes[:-1]:
            axis.set_xlabel("epoch")
            axis.margins(x=0.02)
            if warmup_epochs:
                end = min(warmup_epochs, epochs[-1]) + 0.5
                axis.axvspan(0.5, end, color="#f0f0f0", zorder=0)
        last = next(axes)
        last.axis("off")
        if warmup_epochs:
            handles.append(Rectangle((0, 0), 1, 1, color="#e4e4e4"))
            labels.append("warm-up, contrastive term alone")
        last.legend(handles, labels, loc="center left", fontsize=10)


def draw_localisation(path: Path, tests: NamedTests, tested: Tested, name: str) -> None:
    """Draw test images of different classes with heat map, true boxes and the predicted quarter.

    The images are the first ones of up to twelve classes, or, where there are no classes, twelve
    spread evenly over the test; none is picked for its result.
    """
    test = tests.labelled
    labels, ciou = test.labels[tested.rows], tested.columns.get("model_ciou_quarter")
    places = [int((labels == label).nonzero()[0]) for label in torch.unique(labels)]
    if len(places) == 1:
        places = list(range(len(labels)))
    if len(places) > 12:
        places = [places[at] for at in np.linspace(0, len(places) - 1, 12).round().astype(int)]
    rows = tested.rows[places].tolist()
    size = test.image_size
    heat = metrics.upsample(tested.maps[places], (size, size))
    columns = min(4, len(rows))
    lines = -(-len(rows) // columns)
    with style.figure(path, 3.0 * columns, 1.62 * lines + 0.9) as figure:
        figure.suptitle(f"Localisation of test sounds ({name})", x=0.012, ha="left")
        grid = figure.subplots(lines, columns * 2, squeeze=False)
        for axis in grid.flat:
            axis.axis("off")
        for number, (place, row) in enumerate(zip(places, rows, strict=True)):
            plain, overlaid = grid[number // columns, number % columns * 2 :][:2]
            picture = as_picture(test.pairs[row][0])
            plain.imshow(picture)
            plain.set_title(shorten(test.class_names[int(test.labels[row])], 21), fontsize=8)
            show_map(overlaid, picture, heat[number], prediction_cut(heat[number], 0.75, 0.0))
            if ciou is not None:
                overlaid.set_title(f"cIoU {ciou[place]:.2f}", fontsize=8, fontweight="normal")
            for axis in (plain, overlaid):
                draw_truth(axis, test, row, size, size)
        true = "true box" if test.located else None
        legend(figure, true, "predicted: top quarter of the map")


def _ordered_by_class(labels: Tensor, most: int = 96) -> Tensor:
    """Return places of samples, the same number of each of up to twelve classes, by class."""
    classes, counts = torch.unique(labels, return_counts=True)
    chosen = classes[counts.argsort(descending=True, stable=True)[:12]].sort().values
    each = max(1, most // len(chosen))
    return torch.cat([(labels == label).nonzero().flatten()[:each] for label in chosen])


def draw_adjacency(
    path: Path,
    features: Features,
    labels: Tensor,
    class_names: Sequence[str],
    temperature: float,
    name: str,
) -> None:
    """Draw the three row-wise softmax matrices of FNAC for a batch, ordered by class."""
    places = _ordered_by_class(labels)
    visual, audio, labels = features.visual[places], features.audio[places], labels[places]
    matrices = {
        "audio adjacency": functional.adjacency(audio, temperature),
        "visual adjacency": functional.adjacency(pooled(visual), temperature, normalize=False),
        "cross-modal match": (functional.max_similarity(visual, audio) / temperature).softmax(1),
    }
    edges = ((labels[1:] != labels[:-1]).nonzero().flatten() + 0.5).tolist()
    order = " by class" if len(class_names) > 1 else ""
    with style.figure(path, 10.5, 3.7) as figure:
        figure.suptitle(f"Adjacency, {len(places)} test pairs{order} ({name})", x=0.012, ha="left")
        for axis, (title, matrix) in zip(figure.subplots(1, 3), matrices.items(), strict=True):
            same = (labels[:, None] == labels).to(matrix)
            share = (matrix * same).sum(dim=1).mean()
            norm = PowerNorm(0.4, vmin=0, vmax=float(matrix.quantile(0.995)))
            shown = axis.imshow(
                matrix.numpy(), cmap=style.SEQUENTIAL, norm=norm, interpolation="nearest"
            )
            axis.set_title(title)
            axis.grid(False)
            axis.set_xticks([])
            axis.set_yticks([])
            if order:
                axis.set_xlabel(f"{share:.0%} of a row lies in its own class")
            for edge in edges:
                axis.axhline(edge, color="white", lw=0.3)
                axis.axvline(edge, color="white", lw=0.3)
            bar = figure.colorbar(shown, ax=axis, shrink=0.72, pad=0.02, extend="max")
            bar.ax.tick_params(labelsize=7)
            bar.outline.set_visible(False)
        figure.axes[0].set_ylabel(f"rows: samples{order}")


def draw_similarity(
    path: Path, features: Features, labels: Tensor, class_names: Sequence[str], name: str
) -> None:
    """Draw the cross-modal similarity of a batch of one class and of one of all classes."""
    classes, counts = torch.unique(labels, return_counts=True)
    size = min(12, len(classes), int(counts.max()))
    first = [int((labels == label).nonzero()[0]) for label in classes]
    most = classes[counts.argmax()]
    batches = {
        "all of different classes": torch.tensor(first[:size]),
        f"all of one class: {class_names[int(most)]}": (labels == most).nonzero().flatten()[:size],
    }
    matrices = {
        title: functional.max_similarity(features.visual[places], features.audio[places])
        for title, places in batches.items()
    }
    both = torch.cat([matrix.flatten() for matrix in matrices.values()])
    low, high = both.min().item(), both.max().item()
    with style.figure(path, 8.2, 4.5) as figure:
        figure.suptitle(f"Cross-modal similarity of two test batches ({name})", x=0.012, ha="left")
        axes = figure.subplots(1, 2)
        for axis, (title, matrix) in zip(axes, matrices.items(), strict=True):
            shown = axis.imshow(matrix.numpy(), cmap=style.SEQUENTIAL, vmin=low, vmax=high)
            own = matrix.diag().mean()
            other = (matrix.sum() - matrix.diag().sum()) / max(1, matrix.numel() - len(matrix))
            axis.set_title(title)
            axis.set_xlabel(f"sounds\nmean: own pair {own:.2f}, other pairs {other:.2f}")
            axis.set_ylabel("images")
            axis.grid(False)
            axis.set_xticks([])
            axis.set_yticks([])
        bar = figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.02)
        bar.set_label("highest cosine over the positions")
        bar.outline.set_visible(False)
