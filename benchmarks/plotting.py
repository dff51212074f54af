"""The pictures of the documentation, from the results of ``loss_benchmark.py`` alone."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

Record = dict[str, str]
Curve = list[tuple[int, float]]

# Colours that the colour-blind can tell apart; in grey the markers do.
STYLES = {
    "dense": ("#D55E00", "s"),
    "dense-compiled": ("#AA4499", "^"),
    "released": ("#000000", "P"),
    "released-compiled": ("#E69F00", "v"),
    "blockwise": ("#0072B2", "o"),
    "triton": ("#009E73", "D"),
    "triton-stream": ("#56B4E9", "X"),
}
NAMES = {
    "dense": "dense, eager",
    "dense-compiled": "dense, torch.compile",
    "released": "released, eager",
    "released-compiled": "released, max-autotune",
}
EMPHASISED = ("blockwise", "triton", "triton-stream")
BUDGET = "limit, 2N + 7b² + 16 MB"
GREY = "#5A5A5A"
PICTURES = {"time": (".svg",), "memory": (".svg", ".png")}
LABEL_GAP = 0.068
"""Least distance between two labels, as a share of the height of the axes."""


def draw(results: Path, folder: Path, warning: str = "") -> list[Path]:
    """Draw time and memory against the batch size and return the files.

    ``auto`` has no line: at each size it is one of the others. A ``warning`` is written across.

    Raises:
        ValueError: if the file holds no results.
    """
    with results.open(newline="") as file:
        both = [row for row in csv.DictReader(file) if row.get("mode") == "both"]
    if not both:
        raise ValueError(f"{results} holds no results of this benchmark")
    records = largest_series(both)
    folder.mkdir(parents=True, exist_ok=True)
    figures = {"time": time_figure(records), "memory": memory_figure(records)}
    paths = []
    with matplotlib.rc_context({"svg.hashsalt": "avcontrast"}):  # equal results, equal files
        for name, figure in figures.items():
            if warning:
                figure.text(0.1, 0.45, warning, fontsize=15, color="#C00000", rotation=15)
            for suffix in PICTURES[name]:
                path = folder / f"{name}{suffix}"
                metadata = {"Date": None} if suffix == ".svg" else {}
                figure.savefig(path, dpi=160, metadata=metadata)
                paths.append(path)
    return paths


def largest_series(records: list[Record]) -> list[Record]:
    """Return the records of that channel number and map size which has most batch sizes."""

    def shape(record: Record) -> tuple[str, str, str]:
        return record["channels"], record["height"], record["width"]

    batches = Counter(shape for shape, _ in {(shape(row), row["batch"]) for row in records})
    most = max(batches, key=lambda one: (batches[one], one))
    return [record for record in records if shape(record) == most]


def curves(records: list[Record], value: Callable[[Record], float]) -> dict[str, Curve]:
    """Return a value against the batch size for each implementation."""
    result = defaultdict(list)
    for record in records:
        if record["implementation"] in STYLES:
            result[record["implementation"]].append((int(record["batch"]), value(record)))
    return {name: sorted(result[name]) for name in STYLES if name in result}


def time_figure(records: list[Record]) -> Figure:
    """Draw the time of forward and backward."""
    first = records[0]
    lines = curves(records, lambda row: float(row["median_ms"]))
    figure, axes = empty_figure("Time of forward and backward", records, lines)
    for name, curve in lines.items():
        add_line(axes, name, curve)
    spread = curves(records, lambda row: float(row["p20_ms"]))
    upper = curves(records, lambda row: float(row["p80_ms"]))
    for name in lines:
        batch, low = zip(*spread[name], strict=True)
        axes.fill_between(
            batch, low, [y for _, y in upper[name]], color=STYLES[name][0], alpha=0.15, lw=0
        )
    fit_axes(axes, [y for curve in lines.values() for _, y in curve], milliseconds)
    axes.set_ylabel(f"{first['clock']} time, median and 20-80% range")
    label_ends(axes, {name: curve[-1] for name, curve in lines.items()}, milliseconds)
    return figure


def memory_figure(records: list[Record]) -> Figure:
    """Draw the extra memory of forward and backward, and the budget."""
    lines = curves(records, lambda row: float(row["extra_bytes"]))
    budget = sorted({(int(row["batch"]), float(row["budget_bytes"])) for row in records})
    figure, axes = empty_figure("Extra memory of forward and backward", records, lines)
    axes.plot(*zip(*budget, strict=True), color=GREY, lw=1.2, ls=(0, (4, 3)), zorder=1)
    for name, curve in lines.items():
        add_line(axes, name, curve)
    shown = [*lines.values(), budget]
    fit_axes(axes, [y for curve in shown for _, y in curve], byte_size)
    axes.set_ylabel("peak beyond inputs and their gradients")
    ends = {name: curve[-1] for name, curve in lines.items()}
    label_ends(axes, {**ends, "budget": budget[-1]}, byte_size)
    return figure


def empty_figure(title: str, records: list[Record], lines: dict[str, Curve]) -> tuple[Figure, Axes]:
    """Return a figure with its title, what was measured where, and the axis of batch sizes."""
    first = records[0]
    figure = Figure(figsize=(7.2, 4.4), facecolor="white")
    axes = figure.add_axes((0.115, 0.135, 0.6, 0.68))
    threads = f", {first['threads']} thread" + "s" * (first["threads"] != "1")
    loss = {"fnac": "FNACLoss", "nce": "InfoNCE"}[first["loss"]]
    dtype = first["dtype"]
    if first.get("matmul_precision", "highest") != "highest":  # results of old have no such column
        dtype += f" ({first['matmul_precision']})"
    figure.text(0.02, 0.94, title, fontsize=13, weight="bold")
    figure.text(
        0.02,
        0.885,
        f"{loss}, d = {first['channels']}, {first['height']}x{first['width']} positions, "
        f"{dtype}; {first['device_name']}{threads if first['device'] == 'cpu' else ''}, "
        f"torch {first['torch']}, {first['date']}",
        fontsize=8.5,
        color=GREY,
    )
    batches = sorted({batch for curve in lines.values() for batch, _ in curve})
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(batches))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.0f}"))
    axes.set_xlabel("batch size b")
    axes.set_yscale("log")
    axes.grid(axis="y", color="#E3E3E3", lw=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#B0B0B0")
    axes.tick_params(colors=GREY, length=3, labelsize=9)
    axes.xaxis.label.set(color=GREY, size=9.5)
    axes.yaxis.label.set(color=GREY, size=9.5)
    return figure, axes


def add_line(axes: Axes, name: str, curve: Curve) -> None:
    """Draw one implementation."""
    color, marker = STYLES[name]
    thick = name in EMPHASISED
    axes.plot(
        *zip(*curve, strict=True),
        color=color,
        marker=marker,
        ms=5.5,
        lw=2.4 if thick else 1.6,
        mec="white",
        mew=0.8,
        zorder=3 if thick else 2,
    )


def fit_axes(axes: Axes, values: list[float], unit: Callable[[float], str]) -> None:
    """Set the limits of the value axis, with ticks at 1, 3, 10, 30, ... in round units."""
    low, high = min(values) / 1.5, max(values) * 1.5
    ticks = [step * 10.0**power for power in range(-6, 15) for step in (1, 3)]
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: unit(y)))


def label_ends(
    axes: Axes, ends: dict[str, tuple[int, float]], unit: Callable[[float], str]
) -> None:
    """Name each line at its right end, apart from each other."""
    to_axes = axes.transScale + axes.transLimits
    right = max(batch for batch, _ in ends.values())
    x, _ = to_axes.transform((right, next(iter(ends.values()))[1]))
    lowest = -1.0
    for name, (batch, value) in sorted(ends.items(), key=lambda item: item[1][1]):
        _, y = to_axes.transform((batch, value))
        lowest = max(y, lowest + LABEL_GAP)
        color = STYLES[name][0] if name in STYLES else GREY
        axes.text(
            x + 0.03,
            lowest,
            BUDGET if name == "budget" else f"{NAMES.get(name, name)}, {unit(value)}",
            transform=axes.transAxes,
            color=color,
            fontsize=9,
            weight="bold" if name in EMPHASISED else "normal",
            va="center",
        )


def milliseconds(value: float) -> str:
    """Return a time as text."""
    if value >= 1e3:
        return f"{value / 1e3:.2g} s"
    return f"{value:.0f} ms" if value >= 10 else f"{value:.2g} ms"


def byte_size(value: float) -> str:
    """Return a number of bytes as text."""
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= limit:
            return (
                f"{value / limit:.2g} {unit}"
                if value < 100 * limit
                else f"{value / limit:.0f} {unit}"
            )
    return f"{value:.0f} bytes"
