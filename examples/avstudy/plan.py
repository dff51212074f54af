"""What is run: settings of the data, methods, and the file that names and freezes them."""

from __future__ import annotations

import hashlib
import itertools
import sys
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from avscenes.files.errors import UserError
from avscenes.scenes.scene import Design

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

STUDY, QUICK = (Path(__file__).with_name(f"{name}.toml") for name in ("study", "quick"))


class Setting(NamedTuple):
    """The data and the length of the training, which all methods share."""

    classes: int
    size: int
    hop: int
    object_strength: float
    object_share: float
    scene_level: float
    scene_share: float
    scene_source: str
    train_size: int
    test_size: int
    batch_size: int
    classes_per_batch: int  # 0: batches are drawn whatever the class
    epochs: int
    warm_start_epochs: int

    @property
    def design(self) -> Design:
        """How its scenes are made."""
        return Design(*(getattr(self, name) for name in Design._fields))


class Method(NamedTuple):
    """A loss, and what can be tuned about it."""

    ignore: str  # which pairs the contrast leaves out, see `avstudy.training.left_out`
    fns_audio_weight: float
    fns_visual_weight: float
    tne_weight: float
    threshold: float
    anchor: str
    mask: str
    adjacency_reduction: str
    detach_adjacency: bool
    warmup: float  # share of the epochs without adjacency terms
    temperature: float
    learning_rate: float


class Run(NamedTuple):
    """One training, from which one row comes."""

    stage: str
    setting: str
    method: str
    condition: str  # of the machine, see `avstudy.runner.CONDITIONS`
    seed: int  # of scenes, weights, order and augmentation
    test_seed: int
    data: Setting
    loss: Method

    @property
    def name(self) -> str:
        """What tells it from all other runs of a plan; fit for a file."""
        return "_".join(str(part) for part in self[:5])


class Plan(NamedTuple):
    """Everything that the file says."""

    digest: str  # of the file, so that a row tells which version it was run under
    report: dict[str, Any]
    settings: dict[str, Setting]
    methods: dict[str, Method]
    runs: list[Run]

    def stages(self) -> list[str]:
        """Return the names of the stages in order."""
        return list(dict.fromkeys(run.stage for run in self.runs))


def read_plan(path: Path) -> Plan:
    """Read a plan and list its runs.

    Raises:
        UserError: When the file cannot be read, or lacks something or has something unknown.
    """
    try:
        content = path.read_bytes()
        entries = tomllib.loads(content.decode())
        settings = _table(Setting, entries["settings"])
        methods = _table(Method, entries["methods"])
        runs = [run for block in entries["runs"] for run in _runs(block, settings, methods)]
        report = entries["report"]
    except KeyError as error:
        raise UserError(f"{path}: there is no {error}") from error
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from error
    digest = hashlib.sha256(content).hexdigest()[:12]
    return Plan(digest, report, settings, methods, runs)


Fields = TypeVar("Fields", Setting, Method)


def _table(kind: type[Fields], entries: dict[str, dict[str, Any]]) -> dict[str, Fields]:
    """Return the settings or methods of a table; all but the first change another one."""
    table: dict[str, Fields] = {}
    for name, entry in entries.items():
        like = entry.pop("like", None)
        unknown = entry.keys() - set(kind._fields)
        if unknown:
            raise ValueError(f"{name}: {kind.__name__.lower()}s have no {', '.join(unknown)}")
        table[name] = kind(**entry) if like is None else table[like]._replace(**entry)
    return table


def _runs(
    block: dict[str, Any], settings: dict[str, Setting], methods: dict[str, Method]
) -> list[Run]:
    """Return the runs of a block; those of a seed follow each other and share what they read."""
    return [
        Run(
            block["stage"],
            setting,
            method,
            condition,
            seed,
            block.get("test_seed", seed),
            settings[setting],
            methods[method],
        )
        for seed, setting, condition, method in itertools.product(
            block["seeds"], block["settings"], block.get("conditions", ["plain"]), block["methods"]
        )
    ]
