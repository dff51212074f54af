"""Writes the tables of the guides that come from results and from the code, between their markers.

    python docs/tables.py            # after a benchmark, or a change of a protocol
    python docs/tables.py --check    # say which pages are not up to date

A table named `name` stands between `<!-- table name -->` and `<!-- end -->`, so that a page reads
the same wherever it is looked at.
"""

from __future__ import annotations

import csv
import re
import sys
from math import nan
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE.parent / "benchmarks" / "results"
sys.path.append(str(HERE.parent / "examples"))

from avcontrast import metrics  # noqa: E402
from avscenes.files.markdown import markdown_table  # noqa: E402

BLOCK = re.compile(r"<!-- table (?P<name>[a-z]+) -->\n.*?<!-- end -->", re.DOTALL)

IMPLEMENTATIONS = ("dense", "dense-compiled", "blockwise")


def benchmark_tables(path: Path) -> dict[str, str]:
    """Return time and memory of forward and backward, and what they were made with."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["mode"] == "both"]
    sizes: dict[tuple[str, ...], dict[str, dict[str, str]]] = {}
    for row in rows:
        size = row["batch"], row["channels"], f"{row['height']}x{row['width']}"
        sizes.setdefault(size, {})[row["implementation"]] = row

    head = ["batch", "d", "map", "`dense`", "compiled", "`blockwise`"]
    time = [[*head, "against `dense`", "against compiled"]]
    memory = [[*head, "against `dense`", "bound"]]
    for size, found in sizes.items():
        ms, extra = (
            [float(found[name][column]) if name in found else nan for name in IMPLEMENTATIONS]
            for column in ("median_ms", "extra_bytes")
        )
        dense, compiled, blockwise = ms
        gains = f"{dense / blockwise:.2f} x", f"{compiled / blockwise:.2f} x"
        time.append([*size, *(f"{one:.1f}" for one in ms), *gains])
        megabytes = (f"{one / 1e6:.1f}" for one in extra)
        bound = f"{float(found['blockwise']['budget_bytes']) / 1e6:.0f}"
        memory.append([*size, *megabytes, f"{extra[0] / extra[2]:.1f} x", bound])
    one = rows[0]
    return {
        "time": markdown_table(time, texts=0),
        "memory": (
            f"{markdown_table(memory, texts=0)}\n\n"
            f"*Made with `benchmarks/loss_benchmark.py` on: {one['device_name']}, "
            f"{one['threads']} thread, {one['dtype']}, PyTorch {one['torch']}, {one['date']}.*"
        ),
    }


LOSSES = {
    "InfoNCE": "infonce_cpu.csv",
    "FNACLoss": "loss_cpu.csv",
    "InfoNCE of vectors": "vectors_cpu.csv",
}


def product_table(folder: Path) -> str:
    """Return what `auto` takes in times the one product, and in calls of operators."""
    head, lines = ["batch"], {}
    for place, (loss, name) in enumerate(LOSSES.items()):
        head += [loss, "calls"]
        with (folder / name).open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["channels"] == "512"]
        for row in rows:
            if (row["implementation"], row["mode"]) == ("auto", "both"):
                line = lines.setdefault(int(row["batch"]), ["-"] * 2 * len(LOSSES))
                times = float(row["median_ms"]) / float(row["product_ms"])
                line[2 * place : 2 * place + 2] = [f"{times:.1f}", row["operators"]]
    table = [head, *([str(batch), *line] for batch, line in sorted(lines.items()))]
    made = f"{row['device_name']}, {row['threads']} thread, {row['date']}"
    return f"{markdown_table(table, texts=0)}\n\n*512 channels, maps of 7x7; {made}.*"


def vector_table(path: Path) -> str:
    """Return time and memory of vectors beside the form of CLIP, which makes the matrix twice."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["mode"] == "both"]
    found = {(row["batch"], row["implementation"]): row for row in rows}
    table = [["batch", "CLIP's form, ms", "`auto`, ms", "of its time", "CLIP's, MB", "`auto`, MB"]]
    for batch in dict.fromkeys(row["batch"] for row in rows):
        released, ours = found[batch, "released"], found[batch, "auto"]
        times = float(released["median_ms"]), float(ours["median_ms"])
        extra = (f"{float(row['extra_bytes']) / 1e6:.1f}" for row in (released, ours))
        share = f"{times[1] / times[0]:.2f}"
        table.append([batch, *(f"{time:.1f}" for time in times), share, *extra])
    one = rows[0]
    made = f"{one['device_name']}, {one['threads']} thread, PyTorch {one['torch']}, {one['date']}"
    return f"{markdown_table(table, texts=0)}\n\n*512 channels, fp32; {made}.*"


def distributed_tables(path: Path) -> dict[str, str]:
    """Return what each of several processes took, the slowest or largest of them."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["mode"] == "both"]
    groups: dict[tuple[str, ...], list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault((row["batch"], row["backend"], row["processes"]), []).append(row)
    table = [["batch", "backend", "processes", "ms", "extra MB", "sent MB", "maps, MB"]]
    for (batch, backend, processes), found in groups.items():
        time, extra, sent, maps = (
            max(float(row[column]) for row in found)
            for column in ("median_ms", "extra_bytes", "sent_bytes", "maps_bytes")
        )
        sizes = (f"{one / 1e6:.1f}" for one in (extra, sent, maps))
        table.append([batch, f"`{backend}`", processes, f"{time:.0f}", *sizes])
    one = rows[0]
    return {
        "distributed": (
            f"{markdown_table(table, texts=0)}\n\n"
            f"*Made with `benchmarks/distributed_benchmark.py` on: {one['device_name']}, "
            f"{one['cores']} cores, {one['threads']} thread a process, {one['communication']}, "
            f"{one['dtype']}, PyTorch {one['torch']}, {one['date']}.*"
        ),
    }


def data_tables(path: Path) -> dict[str, str]:
    """Return what each stage of the input takes, and what it was measured with."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    table = [["stage", "ms of a core", "samples/s"]]
    for row in rows:
        # Workers are other processes, whose time this one does not know.
        spent = "" if "worker" in row["stage"] else f"{float(row['process_ms']):.2f}"
        table.append([row["stage"], spent, f"{float(row['samples_per_s']):.0f}"])
    one = rows[0]
    return {
        "data": (
            f"{markdown_table(table)}\n\n"
            f"*Made with `benchmarks/data_benchmark.py` on: {one['device_name']}, "
            f"Pillow {one['pillow']}, PyTorch {one['torch']}, load {one['load']} before, "
            f"{one['date']}.*"
        ),
    }


def metrics_tables(path: Path) -> dict[str, str]:
    """Return how long the scores of a test set take, by the number of threads."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    threads = sorted({row["threads"] for row in rows}, key=int)
    seconds = {(row["task"], row["threads"]): float(row["wall_s"]) for row in rows}
    table = [["scores", *(f"{n} thread{'' if n == '1' else 's'}, s" for n in threads)]]
    for task in dict.fromkeys(row["task"] for row in rows):
        table.append([task, *(f"{seconds[task, n]:.1f}" for n in threads)])
    one = rows[0]
    return {
        "metrics": (
            f"{markdown_table(table)}\n\n"
            f"*Made with `benchmarks/metrics_benchmark.py` on: {one['device_name']}, "
            f"{int(one['maps']):,} maps of {one['size']} x {one['size']}, "
            f"PyTorch {one['torch']}, load {one['load']} before, {one['date']}.*"
        ),
    }


KERNELS = {
    "prepare split 49": "K0",
    "maximum split 49": "K1",
    "maximum single 49": "K1",
    "maximum raw 49": "K1",
    "terms split visual": "K2",
    "gradients split visual": "K3",
    "to vectors split 49": "K4",
    "to maps split 49": "K5",
}


def kernel_tables(path: Path) -> dict[str, str]:
    """Return what the compiler made of the kernels, and which one it was."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["arch"] == "90"]
    rows = [row for row in rows if not row["kernel"].endswith((" 196", " 1024"))]  # 7x7 alone
    table = [["step", "kernel", "tile", "warps", "registers", "shared KB", "spilled"]]
    first = {row["kernel"]: row for row in reversed(rows)}
    for name, step in KERNELS.items():
        row = first[name]
        shared = f"{float(row['shared_bytes']) / 1024:.0f}"
        numbers = row["warps"], row["registers"], shared, row["spilled_bytes"]
        table.append([step, name.removesuffix(" 49"), row["tile"] or "an image", *numbers])
    return {
        "kernels": (
            f"{markdown_table(table, texts=0)}\n\n"
            f"*Some of the {len(rows)} variants for `sm_90`; Triton {rows[0]['triton']}, "
            "512 channels, 7x7.*"
        ),
    }


EVALUATORS = {
    "ezvsl-test": "EZ-VSL: test",
    "ezvsl-train": "EZ-VSL: choice of the epoch",
    "fnac-test": "FNAC: test",
    "fnac-test2": "FNAC: second test",
    "fnac-train": "FNAC: choice of the epoch",
    "slavc-test": "SLAVC: test, relative prediction",
    "slavc-test-absolute": "SLAVC: test, absolute scores",
    "slavc-train": "SLAVC: during training",
    "lvs": "LVS: test",
    "ssltie": "SSL-TIE: test",
    "alignment": "SSL-Alignment: other models, and other sets than VGG-SS",
    "alignment-adaptive": "the same, adaptive",
    "alignment-vggss": "SSL-Alignment: its own model and LVS on VGG-SS, SSL-TIE everywhere",
    "alignment-vggss-adaptive": "the same, adaptive",
}
COMPARED = {True: "`>=`", False: "`>`", "maximum": "`>`, or equal to the maximum"}
THRESHOLDS = {"half": "half", "area": "object", "fixed": "0.5"}


def protocol_table() -> str:
    """Return the published protocols as Markdown; one that has no evaluator is an error."""
    rows = [["name", "evaluator", "resized", "object map", "compared", "threshold"]]
    for name, rules in metrics.PROTOCOLS.items():
        resized = resizing(rules.mode, rules.align_corners)
        objects = resizing(rules.object_mode, rules.object_align_corners)
        same = "the same" if objects == resized else objects
        compared = COMPARED[rules.inclusive]
        threshold = THRESHOLDS[str(rules.threshold)]
        rows.append([f"`{name}`", EVALUATORS[name], resized, same, compared, threshold])
    return markdown_table(rows, texts=len(rows[0]))


def resizing(mode: str, align_corners: bool) -> str:
    """Return how a map is resized, in words."""
    return f"{mode}, corners {'aligned' if align_corners else 'not aligned'}"


def all_tables() -> dict[str, str]:
    """Return every table under its name."""
    return {
        **benchmark_tables(RESULTS / "loss_cpu.csv"),
        "products": product_table(RESULTS),
        "vectors": vector_table(RESULTS / "vectors_cpu.csv"),
        **distributed_tables(RESULTS / "distributed_cpu.csv"),
        **data_tables(RESULTS / "data_cpu.csv"),
        **metrics_tables(RESULTS / "metrics_cpu.csv"),
        **kernel_tables(RESULTS / "kernels.csv"),
        "protocols": protocol_table(),
    }


def filled(text: str, tables: dict[str, str]) -> str:
    """Return a page with its tables."""
    return BLOCK.sub(
        lambda found: f"<!-- table {found['name']} -->\n{tables[found['name']]}\n<!-- end -->", text
    )


def main() -> int:
    """Write the pages, or say which are to be written, and return the exit status."""
    tables, stale = all_tables(), []
    for path in sorted(HERE.glob("*.md")):
        before = path.read_text(encoding="utf-8")
        after = filled(before, tables)
        if after != before:
            stale.append(path.name)
            if "--check" not in sys.argv:
                path.write_text(after, encoding="utf-8")
    if stale:
        print("to be written:" if "--check" in sys.argv else "written:", ", ".join(stale))
    return int("--check" in sys.argv and bool(stale))


if __name__ == "__main__":
    sys.exit(main())
