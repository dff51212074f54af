"""Tables and plots of what ``on_a_card.py`` has measured, for README and documentation.

    PYTHONPATH=examples python benchmarks/card_report.py benchmarks/results/card-NAME

writes ``report.md`` into the folder, and with matplotlib the plots of time and memory beside it.
Of a rehearsal both say that nothing was measured.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

from card_steps import PRECISIONS
from loss_benchmark import ratio
from measuring import shown
from on_a_card import RECORD, write_text

from avscenes.files.markdown import markdown_table

Row = dict[str, str]

REHEARSAL = "REHEARSAL: nothing here was measured on a card"
BASELINES = ("released", "released-compiled")
OURS = ("blockwise", "triton", "triton-stream")
NAMES = (*BASELINES, "dense", *OURS)
STEADY = ("step", "device_name", "torch", "triton", "date")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of the results")
    options = parser.parse_args(arguments)
    path = options.folder / RECORD
    if not path.is_file():
        parser.error(f"there is no {path}; benchmarks/on_a_card.py writes it")
    record = json.loads(path.read_text(encoding="utf-8"))
    plots = draw(record, options.folder) if find_spec("matplotlib") is not None else []
    text = "\n\n".join(sections(record, options.folder, plots)) + "\n"
    write_text(options.folder / "report.md", text)
    print(f"wrote {shown(options.folder / 'report.md')}")
    return 0


def sections(record: dict[str, Any], folder: Path, plots: list[Path]) -> Iterator[str]:
    """Yield the parts of the report; of what was not measured there is none."""
    facts = record["facts"]
    if record["rehearsal"]:
        yield f"# {REHEARSAL}"
    else:
        yield f"# {facts['device_name']}"
    yield of_facts(facts)
    yield "## Tests"
    yield from of_tests(record)
    loss = read(folder, "loss.csv")
    for name, precision in PRECISIONS.items():
        rows = [row for row in loss if of_precision(row, precision)]
        for mode, title in (("both", "forward and backward"), ("graph", "as a CUDA graph")):
            found = [row for row in rows if row["mode"] == mode]
            if found:
                yield f"## Time, {title}, {name}, in milliseconds"
                yield of_loss(found, "median_ms", 1.0)
        if rows:
            yield f"## Extra memory, {name}, in MB"
            yield of_loss([row for row in rows if row["mode"] == "both"], "extra_bytes", 1e6)
    for file, title in (
        ("largest.csv", "Largest batches"),
        ("first_step.csv", "First steps"),
        ("kernels.csv", "Kernels of a step"),
        ("one_hot.csv", "One direction backward in cuBLAS"),
        ("l2.csv", "Traffic of the L2 cache"),
        ("example.csv", "Example: an epoch"),
    ):
        rows = read(folder, file)
        if rows:
            yield f"## {title}"
            yield as_it_is(rows)
    yield from (f"![{path.stem}]({path.name})" for path in plots)
    yield "## Steps"
    steps = record["steps"]
    yield markdown_table(
        [["step", "outcome", "seconds"]]
        + [[s["step"], f"{s['outcome']} {s['reason']}".strip(), str(s["seconds"])] for s in steps]
    )


def read(folder: Path, name: str) -> list[Row]:
    """Return the lines of a file of results, if there is one."""
    path = folder / name
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def of_facts(facts: dict[str, Any]) -> str:
    """Return card, versions and date in a line."""
    names = ("device_name", "driver", "cuda", "torch", "triton", "avcontrast", "date")
    return ", ".join(f"{name.split('_')[0]} {facts[name]}" for name in names if facts.get(name))


def of_tests(record: dict[str, Any]) -> Iterator[str]:
    """Yield what the tests gave, and if all passed the line that lets auto take the kernels."""
    tests = record["tests"]
    halves = ("tests", "slow tests")
    lines = [["run", "passed", "failed", "skipped"]]
    for half in halves:
        counts = Counter(test["outcome"] for test in tests if test["step"] == half)
        lines.append([half, *(str(counts[name]) for name in lines[0][1:])])
    yield markdown_table(lines)
    failed = [test for test in tests if test["outcome"] == "failed"]
    if failed:
        yield "\n".join(f"- `{test['test']}`: {test['said']}" for test in failed)
    done = {step["step"] for step in record["steps"] if step["outcome"] == "done"}
    if not record["rehearsal"] and not failed and done >= set(halves):
        facts = record["facts"]
        names = ("device_name", "torch", "triton", "driver", "date")
        values = ", ".join(json.dumps(facts[name]) for name in names)
        yield f"Whole: `PassedRun({tuple(facts['capability'])}, {values})`"


def of_precision(row: Row, options: tuple[str, ...]) -> bool:
    """Return whether a line was measured with the options of a precision."""
    asked = dict(zip(options[::2], options[1::2], strict=True))
    precision = asked.get("--matmul-precision", row["matmul_precision"])
    return (row["dtype"], row["matmul_precision"]) == (asked["--dtype"], precision)


def of_loss(rows: list[Row], column: str, unit: float) -> str:
    """Return a value of each implementation at each batch, and how much less ours takes.

    That is compared within a step alone: the compiled form runs beside the kernels, in another one.
    """
    names = [name for name in NAMES if any(row["implementation"] == name for row in rows)]
    found = {(row["batch"], row["implementation"]): float(row[column]) for row in first_of(rows)}
    gains: dict[tuple[str, str, str], str] = {}
    for step in dict.fromkeys(row["step"] for row in rows):
        one = {row["implementation"]: row for row in rows if row["step"] == step}
        for plain, ours in product(set(BASELINES) & one.keys(), set(OURS) & one.keys()):
            gain = ratio(float(one[plain][column]), float(one[ours][column]))
            gains.setdefault((one[ours]["batch"], ours, plain), f"{gain} x")
    pairs = sorted({key[1:] for key in gains}, key=lambda pair: [NAMES.index(n) for n in pair])
    lines = [["batch", *names, *(f"{ours} against {plain}" for ours, plain in pairs)]]
    for batch in sorted({row["batch"] for row in rows}, key=int):
        values = [found.get((batch, name)) for name in names]
        line = ["" if value is None else f"{value / unit:.2f}" for value in values]
        lines.append([batch, *line, *(gains.get((batch, *pair), "") for pair in pairs)])
    return markdown_table(lines, texts=0)


def first_of(rows: list[Row]) -> list[Row]:
    """Return the first line of each implementation at each batch."""
    first: dict[tuple[str, str], Row] = {}
    for row in rows:
        first.setdefault((row["batch"], row["implementation"]), row)
    return list(first.values())


def as_it_is(rows: list[Row]) -> str:
    """Return all columns in which lines differ, below what is the same in all of them."""
    names = list(rows[0])
    same = {name for name in names if len({row[name] for row in rows}) == 1}
    same |= {name for name in STEADY if name in names}
    if len(rows) == 1:
        same = set()
    shown_names = [name for name in names if name not in same]
    head = ", ".join(f"{name} {rows[0][name]}" for name in names if name in same - {"step"})
    table = markdown_table([shown_names, *([row[name] for name in shown_names] for row in rows)])
    return f"{head}\n\n{table}" if head else table


def draw(record: dict[str, Any], folder: Path) -> list[Path]:
    """Draw time and memory against the batch size in each precision; return the plots."""
    from plotting import draw

    rows = [row for row in read(folder, "loss.csv") if row["mode"] == "both"]
    paths = []
    for name, precision in PRECISIONS.items():
        found = first_of([row for row in rows if of_precision(row, precision)])
        if not found:
            continue
        with tempfile.TemporaryDirectory() as scratch:
            table = Path(scratch) / "loss.csv"
            with table.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(found[0]))
                writer.writeheader()
                writer.writerows(found)
            for path in draw(table, Path(scratch), REHEARSAL if record["rehearsal"] else ""):
                if path.suffix == ".svg":
                    paths.append(path.replace(folder / f"{path.stem}-{name}.svg"))
    return paths


if __name__ == "__main__":
    sys.exit(main())
