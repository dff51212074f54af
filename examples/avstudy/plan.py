"""What is run: settings of the data, methods, and the file that names and freezes them."""

from __future__ import annotations

import hashlib
import itertools
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import BaseModel
from typing_extensions import NotRequired, TypedDict

from avscenes.files.errors import UserError
from avscenes.files.strict import (
    TOML,
    Amount,
    Count,
    Portion,
    Positive,
    Share,
    Whole,
    checked,
    read_file,
)
from avscenes.scenes.scene import Design
from avstudy.opponents import SoftKind

STUDY, QUICK, ELIMINATION, FIELD, DIGITS, QUICK_DIGITS = (
    Path(__file__).with_name(f"{name}.toml")
    for name in ("study", "quick", "elimination", "field", "digits", "digits-quick")
)
ADJACENCY_WEIGHTS = ("fns_audio_weight", "fns_visual_weight", "tne_weight")


class Setting(NamedTuple):
    """Synthetic scenes and the length of the training, which all methods share."""

    classes: Count
    size: Count
    hop: Count
    object_strength: Amount
    object_share: Portion
    scene_level: Amount
    scene_share: Portion
    scene_source: Literal["background", "bystander"]
    train_size: Count
    test_size: Count
    batch_size: Count
    classes_per_batch: Whole  # 0: batches are drawn whatever the class
    epochs: Count
    warm_start_epochs: Whole

    @property
    def design(self) -> Design:
        """How its scenes are made."""
        return Design(*(getattr(self, name) for name in Design._fields))


class DigitSetting(NamedTuple):
    """The same of written and spoken digits, see `avstudy.digits`."""

    size: Count
    hop: Count
    second_voice: Amount  # loudness of the silent digit's name, over that of the other
    train_size: Count
    test_size: Count
    batch_size: Count
    classes_per_batch: Whole  # as of scenes
    epochs: Count
    warm_start_objects: Count
    warm_start_epochs: Whole

    @property
    def classes(self) -> int:
        """How many digits there are."""
        return 10


class Method(NamedTuple):
    """A loss, and what can be tuned about it."""

    # Which pairs the contrast leaves out, see `avstudy.training.left_out`.
    ignore: Literal["nothing", "same-class", "shown", "random"]
    fns_audio_weight: Amount
    fns_visual_weight: Amount
    tne_weight: Amount
    threshold: Share
    anchor: Literal["visual", "audio"]
    mask: Literal["hard", "soft"]
    adjacency_reduction: Literal["mean", "batchmean"]
    detach_adjacency: bool
    # Share of the epochs without adjacency terms, without elimination and with hard targets.
    warmup: Portion
    temperature: Positive
    learning_rate: Positive
    # The rest came later: rows that do not say so have these values.
    # hardpos has its neighbours by image alone, alignment the plain and the augmented view.
    contrast: Literal["nce", "debiased", "soft-targets", "lvs", "hardpos", "alignment"] = "nce"
    elimination: Literal["none", "visual", "audio", "both"] = "none"
    elimination_level: Portion = 0.65
    class_prior: Share = 0.1  # of debiased, see `avstudy.opponents`
    soft_share: Portion = 0.5  # of soft targets
    soft_kind: SoftKind = "swapped"
    positive_form: Literal["sum", "mean", "inside", "outside"] = "sum"  # of hardpos
    neighbours: Count = 10  # of an image, which are hard positives; see `nearest_images`

    @property
    def unused(self) -> str | None:
        """What it asks for that its contrast has no part in, or None."""
        if self.contrast == "nce":
            return None
        idle = {"ignore": "nothing", "elimination": "none", **dict.fromkeys(ADJACENCY_WEIGHTS, 0)}
        return next((name for name, value in idle.items() if getattr(self, name) != value), None)


class _Drawn(TypedDict):
    stage: str
    seed: Whole


class Comparison(TypedDict):
    """Two methods that are compared in a setting."""

    setting: str
    measure: str
    method: str
    reference: str


# `measure`, which decides between the trials, or several, whose mean does; and what was tried, by
# the kind of method.
Trials = dict[str, str | list[str]]


class Report(TypedDict):
    """What the report shows."""

    reference: str
    ceiling: str | list[str]  # of several, the better one in a setting
    settings: dict[str, str]
    curves: list[str]
    primary: list[Comparison]
    gaps: list[Comparison]
    matrices: _Drawn
    tuning: dict[str, Trials]
    labels: NotRequired[dict[str, str]]


class Run(NamedTuple):
    """One training, from which one row comes."""

    stage: str
    setting: str
    method: str
    condition: str  # of the machine, see `avstudy.runner.CONDITIONS`
    seed: int  # of scenes, weights, order and augmentation
    test_seed: int
    data: Setting | DigitSetting
    loss: Method

    @property
    def name(self) -> str:
        """What tells it from all other runs of a plan; fit for a file."""
        return "_".join(str(part) for part in self[:5])


class Plan(NamedTuple):
    """Everything that the file says."""

    digest: str  # of the file, so that a row tells which version it was run under
    report: Report
    settings: dict[str, Setting] | dict[str, DigitSetting]
    methods: dict[str, Method]
    tuned: dict[str, dict[str, Method]]  # by setting, methods that are its own
    runs: list[Run]

    def method(self, setting: str, name: str) -> Method:
        """Return what a method is in a setting."""
        return {**self.methods, **self.tuned.get(setting, {})}[name]

    def stages(self) -> list[str]:
        """Return the names of the stages in order."""
        return list(dict.fromkeys(run.stage for run in self.runs))


Kind = TypeVar("Kind", Setting, DigitSetting)


class _Block(BaseModel, strict=True, extra="forbid"):
    stage: str
    settings: list[str]
    methods: list[str]
    seeds: list[Whole]
    conditions: list[str] = ["plain"]
    test_seed: Whole | None = None  # the seed itself


class _File(BaseModel, strict=True, extra="forbid"):
    data: Literal["scenes", "digits"] = "scenes"
    settings: dict[str, dict[str, Any]]
    methods: dict[str, dict[str, Any]]
    tuned: dict[str, dict[str, Any]] = {}
    runs: list[_Block]
    report: Report


class _Tables(BaseModel, Generic[Kind], strict=True, extra="forbid"):
    settings: dict[str, Kind]
    methods: dict[str, Method]
    tuned: dict[str, dict[str, Method]]


def read_plan(path: Path) -> Plan:
    """Read a plan and list its runs.

    Raises:
        UserError: When the file cannot be read, or lacks something or has something unknown.
    """
    content = checked(_File, read_file(path, TOML), str(path))
    try:
        methods = _whole(content.methods)
        whole = {
            "settings": _whole(content.settings),
            "methods": methods,
            "tuned": {name: _whole(own, methods) for name, own in _whole(content.tuned).items()},
        }
        tables: _Tables[Setting] | _Tables[DigitSetting]
        if content.data == "scenes":
            tables = checked(_Tables[Setting], whole, str(path))
        else:
            tables = checked(_Tables[DigitSetting], whole, str(path))
        plan = Plan("", content.report, tables.settings, tables.methods, tables.tuned, [])
        runs = [run for block in content.runs for run in _runs(block, plan)]
    except KeyError as error:
        raise UserError(f"{path}: there is no {error}") from error
    named = {f"methods.{name}": method for name, method in plan.methods.items()}
    for setting, own in plan.tuned.items():
        named |= {f"tuned.{setting}.{name}": method for name, method in own.items()}
    for name, method in named.items():
        if method.unused is not None:
            raise UserError(
                f"{path}: {name}.{method.unused}: is of no use with contrast "
                f"{method.contrast!r}, got {getattr(method, method.unused)!r}"
            )
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
    return plan._replace(digest=digest, runs=runs)


def _whole(
    table: dict[str, dict[str, Any]], known: dict[str, dict[str, Any]] | None = None
) -> dict[str, dict[str, Any]]:
    """Return the entries of a table; those that are `like` an earlier or known one change it."""
    whole: dict[str, dict[str, Any]] = {}
    for name, entry in table.items():
        own = {key: value for key, value in entry.items() if key != "like"}
        start = {**(known or {}), **whole}[entry["like"]] if "like" in entry else {}
        whole[name] = {**start, **own}
    return whole


def _runs(block: _Block, plan: Plan) -> list[Run]:
    """Return the runs of a block; those of a seed follow each other and share what they read."""
    return [
        Run(
            block.stage,
            setting,
            method,
            condition,
            seed,
            seed if block.test_seed is None else block.test_seed,
            plan.settings[setting],
            plan.method(setting, method),
        )
        for seed, setting, condition, method in itertools.product(
            block.seeds, block.settings, block.conditions, block.methods
        )
    ]
