"""Sphinx configuration. Builds without a network, and so do the pages that it makes."""

from __future__ import annotations

import atexit
import doctest
import importlib.util
import shutil
import tempfile
import zlib
from importlib.metadata import metadata
from pathlib import Path
from types import ModuleType

from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from torch.distributed import ProcessGroup

import avcontrast
from avcontrast import (
    _alignment,
    _tri_map,
    functional,
    localization_losses,
    losses,
    metrics,
    ops,
    plots,
    schedules,
)
from avcontrast.metrics import accumulators

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
exclude_patterns = ["_build", "evidence/**"]  # the tables are parts of a page
nitpicky = True

html_theme = "furo"
html_title = f"avcontrast {release}"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_copy_source = False
html_logo = "_static/logo.svg"
html_favicon = "_static/logo.svg"
REPOSITORY = next(
    (
        address
        for name, _, address in (
            url.partition(", ") for url in metadata(project).get_all("Project-URL", [])
        )
        if name.lower() in ("repository", "source")
    ),
    "",
)
html_theme_options = {
    "navigation_with_keys": True,
    **(
        {"source_repository": REPOSITORY, "source_branch": "main", "source_directory": "docs/"}
        if REPOSITORY
        else {}
    ),
}
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"

myst_enable_extensions = ["amsmath", "dollarmath"]
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
for module in (_alignment, _tri_map, functional, localization_losses, losses):
    module.ProcessGroup = ProcessGroup


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
