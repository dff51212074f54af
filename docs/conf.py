"""Sphinx configuration. Builds without a network, and so do the pages that it makes."""

from __future__ import annotations

import atexit
import csv
import doctest
import importlib.util
import shutil
import sys
import tempfile
import zlib
from math import nan
from pathlib import Path
from types import ModuleType

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from torch.distributed import ProcessGroup

import avcontrast
from avcontrast import functional, losses, metrics, ops, plots, schedules
from avcontrast.metrics import accumulators

sys.path.append(str(Path(__file__).parents[1] / "examples"))

from avscenes.files.markdown import markdown_table

HERE = Path(__file__).parent
project = "avcontrast"
author = "The avcontrast authors"
copyright = author
version = release = avcontrast.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "evidence/*"]  # the tables are parts of a page
nitpicky = True

html_theme = "furo"
html_title = f"avcontrast {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "friendly"
pygments_dark_style = "github-dark"

myst_enable_extensions = ["amsmath", "dollarmath", "substitution"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"
copybutton_copy_empty_lines = False

# The docstrings' examples run under pytest; only those of the guides run here.
doctest_test_doctest_blocks = ""
doctest_default_flags = doctest.ELLIPSIS | doctest.DONT_ACCEPT_TRUE_FOR_1
trim_doctest_flags = True

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Shape", "Source"]
# Imported for type checkers only, and autodoc reads the annotations without one.
functional.ProcessGroup = losses.ProcessGroup = ProcessGroup


# --- links to other projects, from readable lists instead of downloads ---

INVENTORIES = Path(tempfile.mkdtemp(prefix="avcontrast-docs-"))
atexit.register(shutil.rmtree, INVENTORIES, ignore_errors=True)


def write_inventory(name: str) -> str:
    """Turn a readable list of names into an inventory that intersphinx loads."""
    lines = (HERE / f"{name}-inventory.txt").read_text(encoding="utf-8").splitlines()
    rows = (line.split() for line in lines if line and not line.startswith("#"))
    body = "".join(f"{entry} {role} 1 {page} -\n" for entry, role, page in rows)
    head = f"# Sphinx inventory version 2\n# Project: {name}\n# Version: stable\n"
    path = INVENTORIES / f"{name}.inv"
    compressed = zlib.compress(body.encode())
    path.write_bytes(f"{head}# The remainder is compressed using zlib.\n".encode() + compressed)
    return str(path)


intersphinx_mapping = {
    "torch": ("https://docs.pytorch.org/docs/stable/", write_inventory("torch")),
    "python": ("https://docs.python.org/3/", write_inventory("python")),
    "numpy": ("https://numpy.org/doc/stable/", write_inventory("numpy")),
    "matplotlib": ("https://matplotlib.org/stable/", write_inventory("matplotlib")),
}


# --- maths without a network: of 24 MB of MathJax, the one script and the fonts that it loads ---

MATHJAX_SCRIPT = "tex-chtml-full.js"
MATHJAX_FONTS = "output/chtml/fonts/woff-v2"
mathjax_path = f"mathjax/{MATHJAX_SCRIPT}"


def copy_mathjax(app: Sphinx, exception: Exception | None) -> None:
    if exception or app.builder.format != "html":
        return
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise ExtensionError("the maths needs the package sphinx-mathjax-offline")
    source = Path(spec.origin).parent / "static" / "mathjax"
    target = Path(app.outdir) / "_static" / "mathjax"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / MATHJAX_SCRIPT, target)
    shutil.copytree(source / MATHJAX_FONTS, target / MATHJAX_FONTS, dirs_exist_ok=True)


# --- the results of the benchmark, as tables ---

IMPLEMENTATIONS = ("dense", "dense-compiled", "blockwise")


def benchmark_tables(path: Path) -> dict[str, str]:
    """Return time and memory of forward and backward as Markdown, and what they were made with."""
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
        "benchmark_time": markdown_table(time, texts=0),
        "benchmark_memory": markdown_table(memory, texts=0),
        "benchmark_machine": (
            f"{one['device_name']}, {one['threads']} thread, {one['dtype']}, "
            f"PyTorch {one['torch']}, {one['date']}"
        ),
    }


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
        "distributed_table": markdown_table(table, texts=0),
        "distributed_machine": (
            f"{one['device_name']}, {one['cores']} cores, {one['threads']} thread a process, "
            f"{one['communication']}, {one['dtype']}, PyTorch {one['torch']}, {one['date']}"
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
        "data_table": markdown_table(table),
        "data_machine": (
            f"{one['device_name']}, Pillow {one['pillow']}, PyTorch {one['torch']}, "
            f"load {one['load']} before, {one['date']}"
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
        "metrics_table": markdown_table(table),
        "metrics_machine": (
            f"{one['device_name']}, {int(one['maps']):,} maps of {one['size']} x {one['size']}, "
            f"PyTorch {one['torch']}, load {one['load']} before, {one['date']}"
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
    table = [["step", "kernel", "tile", "warps", "registers", "shared KB", "spilled"]]
    first = {row["kernel"]: row for row in reversed(rows)}
    for name, step in KERNELS.items():
        row = first[name]
        shared = f"{float(row['shared_bytes']) / 1024:.0f}"
        numbers = row["warps"], row["registers"], shared, row["spilled_bytes"]
        table.append([step, name.removesuffix(" 49"), row["tile"] or "an image", *numbers])
    return {
        "kernel_table": markdown_table(table, texts=0),
        "kernel_compiler": f"Triton {rows[0]['triton']}",
        "kernel_count": f"{len(rows)}",
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
    return f"{mode}, corners {'aligned' if align_corners else 'not aligned'}"


myst_substitutions = {
    **benchmark_tables(HERE.parent / "benchmarks" / "results" / "loss_cpu.csv"),
    **distributed_tables(HERE.parent / "benchmarks" / "results" / "distributed_cpu.csv"),
    **data_tables(HERE.parent / "benchmarks" / "results" / "data_cpu.csv"),
    **metrics_tables(HERE.parent / "benchmarks" / "results" / "metrics_cpu.csv"),
    **kernel_tables(HERE.parent / "benchmarks" / "results" / "kernels.csv"),
    "protocol_table": protocol_table(),
    "small_pairs": f"{ops.SMALL_PAIR_BYTES // 2**20}",
    "small_elements": f"{ops.SMALL_MAP_ELEMENTS:,}",
    "small_similarity": f"{ops.SMALL_SIMILARITY_ELEMENTS:,}",
    "small_batch": str(ops.SMALL_MAP_ELEMENTS // (512 * 7 * 7)),
}


# --- every public name is on a page; sphinx.ext.coverage passes over re-exports and constants ---


def defined_in(module: ModuleType, value: object) -> bool:
    return getattr(value, "__module__", None) == module.__name__


def public_names(modules: tuple[ModuleType, ...]) -> set[str]:
    """Return what the modules export; without ``__all__``, what they define themselves."""
    names = set()
    for module in modules:
        own = [
            n for n, v in vars(module).items() if getattr(v, "__module__", "") == module.__name__
        ]
        exported = getattr(module, "__all__", [n for n in own if not n.startswith("_")])
        names |= {f"{module.__name__}.{name}" for name in exported}
    return names


PUBLIC = public_names((avcontrast, functional, metrics, accumulators, ops, plots, schedules))


def check_coverage(app: Sphinx, exception: Exception | None) -> None:
    if exception:
        return
    documented = set(app.env.domaindata["py"]["objects"])
    if missing := sorted(PUBLIC - documented):
        raise ExtensionError(f"public names without documentation: {', '.join(missing)}")


def show_public_bases(
    app: Sphinx, name: str, described: object, options: object, bases: list[type]
) -> None:
    shown = ((one,) if not one.__name__.startswith("_") else one.__bases__ for one in bases)
    bases[:] = [base for public in shown for base in public]


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-bases", show_public_bases)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", check_coverage)
