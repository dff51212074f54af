"""The documentation builds without a network, has every public name, and its examples are true."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType, SimpleNamespace
from urllib.parse import unquote, urlsplit

import pytest

import avcontrast
from avcontrast import ops

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
WITHOUT_A_NETWORK = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
LOADING_TAGS = {"script", "img", "source", "iframe", "embed", "video", "audio"}
LOADING_LINKS = {"stylesheet", "icon", "preload", "preconnect", "manifest"}

for name in ("sphinx", "furo", "myst_parser", "yaml"):
    pytest.importorskip(name, reason="the docs need the extra 'docs'")


def sphinx_build(builder: str, source: Path, output: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "-b", builder]
    command += ["-c", str(DOCS), "-d", str(output.with_suffix(".doctrees"))]
    return subprocess.run(
        [*command, str(source), str(output)],
        capture_output=True,
        text=True,
        timeout=1200,
        env={**os.environ, **WITHOUT_A_NETWORK},
    )


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("docs") / "html"
    run = sphinx_build("html", DOCS, output)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return output


class Assets(HTMLParser):
    """What a browser loads by itself when it shows a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag in LOADING_TAGS and values.get("src"):
            self.found.append(str(values["src"]))
        relations = set(str(values.get("rel")).split())
        if tag == "link" and relations & {
            "stylesheet",
            "icon",
            "preload",
            "preconnect",
            "manifest",
        }:
            self.found.append(str(values["href"]))


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(pages: Path) -> None:
    checked = 0
    for page in pages.rglob("*.html"):
        for asset in Assets(page).found:
            url = urlsplit(asset)
            assert not url.scheme or url.scheme == "data", f"{page.name} loads {asset}"
            assert not url.netloc, f"{page.name} loads {asset}"
            if url.path and not url.scheme:
                target = (page.parent / unquote(url.path)).resolve()
                assert target.is_file(), f"{page.name} misses {asset}"
                checked += 1
    assert checked > 50
    for sheet in pages.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        loaded = re.findall(r"url\(\s*['\"]?([^)'\"]+)", text) + re.findall(r"@import\s+(.*)", text)
        assert not [one for one in loaded if "//" in one and not one.startswith("data:")], sheet


@pytest.mark.slow
def test_maths_is_local_and_has_its_fonts(pages: Path) -> None:
    theory = pages / "theory.html"
    scripts = [asset for asset in Assets(theory).found if "mathjax" in asset]
    assert [urlsplit(one).path for one in scripts] == ["_static/mathjax/tex-chtml-full.js"]
    fonts = list((pages / "_static/mathjax/output/chtml/fonts/woff-v2").glob("*.woff"))
    assert len(fonts) > 10
    assert theory.read_text(encoding="utf-8").count('class="eqno"') == 16


@pytest.mark.slow
def test_references_to_pytorch_are_links(pages: Path) -> None:
    text = (pages / "api.html").read_text(encoding="utf-8")
    assert 'href="https://docs.pytorch.org/docs/stable/tensors.html#torch.Tensor"' in text


@pytest.mark.slow
def test_pages_do_not_show_where_they_were_built(pages: Path) -> None:
    for page in pages.rglob("*.html"):
        assert str(ROOT) not in page.read_text(encoding="utf-8"), page.name


@pytest.mark.slow
def test_examples_of_the_guides_are_true(tmp_path: Path) -> None:
    run = sphinx_build("doctest", DOCS, tmp_path / "doctest")
    assert run.returncode == 0, run.stdout + run.stderr
    results = (tmp_path / "doctest" / "output.txt").read_text(encoding="utf-8")
    documents = set(re.findall(r"^Document: (\w+)", results, flags=re.MULTILINE))
    guides = {"index", "quickstart", "recipes", "theory", "metrics", "numbers", "backends"}
    assert guides <= documents


@pytest.mark.slow
def test_build_fails_when_a_page_is_wrong(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "index.md").write_text("# Empty\n\n{func}`avcontrast.functional.no_such_name`\n")
    run = sphinx_build("html", source, tmp_path / "html")
    assert run.returncode != 0
    assert "reference target not found: avcontrast.functional.no_such_name" in run.stderr


@pytest.mark.slow
def test_build_fails_without_the_public_names(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "index.md").write_text("# Empty\n")
    run = sphinx_build("html", source, tmp_path / "html")
    assert run.returncode != 0
    message = run.stdout + run.stderr
    assert "public names without documentation: avcontrast.Alignment" in message
    assert ", avcontrast.FNACComponents, " in message


@pytest.fixture(scope="module")
def conf() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_conf", DOCS / "conf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def app_with(documented: set[str]) -> SimpleNamespace:
    objects = dict.fromkeys(documented)
    return SimpleNamespace(env=SimpleNamespace(domaindata={"py": {"objects": objects}}))


@pytest.mark.parametrize(
    "name",
    [
        "avcontrast.FNACLoss",
        "avcontrast.functional.adjacency",
        "avcontrast.metrics.centre_disc",
        "avcontrast.ops.unsupported_reasons",
        "avcontrast.schedules.warmup",
    ],
)
def test_coverage_names_what_is_missing(conf: ModuleType, name: str) -> None:
    from sphinx.errors import ExtensionError

    conf.check_coverage(app_with(conf.PUBLIC), None)
    with pytest.raises(ExtensionError, match=f"without documentation: {re.escape(name)}$"):
        conf.check_coverage(app_with(conf.PUBLIC - {name}), None)


def test_coverage_has_every_export(conf: ModuleType) -> None:
    modules = (
        avcontrast,
        avcontrast.functional,
        avcontrast.metrics,
        avcontrast.ops,
    )
    for module in modules:
        assert {f"{module.__name__}.{name}" for name in module.__all__} <= conf.PUBLIC


def test_a_new_public_name_must_be_documented(
    conf: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(avcontrast.functional, "__all__", ["brand_new"])
    assert "avcontrast.functional.brand_new" in conf.public_names((avcontrast.functional,))


def test_the_tables_of_the_guides_are_those_of_the_results(
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = importlib.util.spec_from_file_location("docs_tables", DOCS / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    texts = {path: path.read_text(encoding="utf-8") for path in DOCS.glob("*.md")}
    found = tables.all_tables()
    stale = [path.name for path, text in texts.items() if tables.filled(text, found) != text]
    assert stale == []
    placed = {one["name"] for text in texts.values() for one in tables.BLOCK.finditer(text)}
    assert placed == {*found}
    changed = tables.filled(texts[DOCS / "numbers.md"], {**found, "protocols": "| other |"})
    assert changed != texts[DOCS / "numbers.md"]


def test_the_sizes_of_auto_are_those_of_the_code() -> None:
    text = (DOCS / "backends.md").read_text(encoding="utf-8")
    sizes = ops.SMALL_MAP_ELEMENTS, ops.SMALL_SIMILARITY_ELEMENTS
    assert all(f"up to {size:,}" in text for size in sizes)
    assert f"has up to {ops.SMALL_PAIR_BYTES // 2**20} MiB" in text
    assert f"{ops.SMALL_MAP_ELEMENTS // (512 * 7 * 7)} pairs" in text


def test_code_stands_out_from_its_ground(conf: ModuleType) -> None:
    from pygments.styles import get_style_by_name

    for name in (conf.pygments_style, conf.pygments_dark_style):
        style = get_style_by_name(name)
        for token, how in style:
            if how["color"]:
                ratio = contrast(how["color"], style.background_color.lstrip("#"))
                assert ratio >= 4.5, (name, token)


def contrast(*colours: str) -> float:
    """Return the contrast of two colours as WCAG 2 defines it."""
    lights = []
    for colour in colours:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(lights) + 0.05) / (min(lights) + 0.05)


def test_options_on_the_training_page_exist() -> None:
    import evaluate

    from avscenes.options import training
    from avscenes.training.settings import LOSSES

    text = (DOCS / "training.md").read_text(encoding="utf-8")
    parsers = training.build_parser(), evaluate.build_parser()
    known = {name for p in parsers for name in re.findall(r"--[a-z][a-z-]+", p.format_help())}
    launchers = {"--nproc-per-node", "--nnodes", "--rdzv-backend", "--rdzv-endpoint"}
    launchers |= {"--nodes", "--ntasks-per-node", "--gpus-per-node", "--kill-on-bad-exit"}
    launchers |= {"--time", "--job-name"}
    named = set(re.findall(r"--[a-z][a-z-]+", text)) - {"--help"} - launchers
    assert len(named) > 10
    assert named <= known
    assert all(f"`{name}`" in text for name in LOSSES)


def test_citation_is_of_this_version_and_of_the_paper() -> None:
    import yaml

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == avcontrast.__version__
    assert citation["license"] == "Apache-2.0"
    paper = citation["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == (
        ["Sun", "Zhang", "Wang", "Liu", "Zhong", "Feng", "Guo", "Zhang", "Barnes"]
    )
    assert (paper["year"], paper["start"], paper["end"]) == (2023, 6420, 6429)
    assert paper["doi"] == "10.1109/CVPR52729.2023.00621"


def test_changelog_has_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(avcontrast.__version__)} - ", text, flags=re.MULTILINE)
