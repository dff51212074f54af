"""The settings of a run: from the command line, a recipe, the defaults, or the run resumed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from avscenes.files.errors import UserError
from avscenes.files.strict import checked, flag, flags
from avscenes.models.encoders import MAP_STRIDES
from avscenes.options.parser import ModelParser
from avscenes.options.recipes import read_recipe, shipped
from avscenes.training.own_clips import with_sizes
from avscenes.training.processes import first_process
from avscenes.training.records import newest_checkpoint
from avscenes.training.settings import (
    CHANGEABLE,
    FOLDER_OPTIONS,
    NEEDED,
    TAKEN_BY,
    Settings,
    check_split,
    read_stored,
)

DESCRIPTION = """\
Train an image and a sound encoder with a contrastive loss and measure how well they localise.

Without arguments: synthetic scenes, made on the spot, in about a minute. Defaults that depend on
the dataset are written as SYNTHETIC / CLIPS; --recipe sets what a publication did."""
GROUPS = {
    "dataset": "data",
    "loss": "loss",
    "encoder": "model",
    "epochs": "training",
    "precision": "machine",
    "output_dir": "output",
}


def build_parser() -> ModelParser[Settings]:
    """Return the parser of the command line."""
    recipes = "recipes:\n  " + "\n  ".join(shipped())
    parser = ModelParser(Settings, "train_fnac.py", DESCRIPTION, groups=GROUPS, epilog=recipes)
    parser.silent = not first_process()
    return parser


def parse(arguments: Sequence[str] | None = None) -> Settings:
    """Return the settings of the run, checked against each other.

    Raises:
        UserError: When options contradict each other, or the run that is to be resumed.
    """
    command = build_parser().read(arguments)
    given = command.model_dump(exclude_unset=True)
    recipe = {} if command.recipe is None else read_recipe(command.recipe)
    settings = Settings.model_validate({**recipe, **given, "resume": command.resume})
    if settings.resume:
        settings = _resumed(settings, given)
    else:
        # A recipe may be for another loss than the one that was asked for instead.
        _check_loss(settings, given.keys() if "loss" in given else {*recipe, *given})
    _check(settings)
    if settings.dataset == "clips" and not settings.resume:
        settings = with_sizes(settings, {*recipe, *given})
    _check_sizes(settings)
    return settings


def _resumed(settings: Settings, given: dict[str, Any]) -> Settings:
    """Return the settings of the run in the output folder, with those that may change."""
    config = settings.output_dir / "config.json"
    stored = read_stored("--resume", config)
    others = stored.keys() ^ (Settings.model_fields.keys() - {"resume"})
    if others:
        names = ", ".join(sorted(others))
        raise UserError(f"--resume: {config} is from another version; it differs in {names}")
    before = checked(Settings, stored, f"--resume: {config}")
    changed = {name: value for name, value in given.items() if value != getattr(before, name)}
    for name, value in changed.items():
        if name == "epochs" and before.schedule == "constant":
            _check_epochs(settings)
        elif name not in CHANGEABLE:
            rate = f", and with --schedule {before.schedule} the learning rate of every step"
            raise UserError(
                f"{flag(name)} is {value} but the run was started with {getattr(before, name)}"
                f"{f'{rate} depends on it' if name == 'epochs' else ''}; "
                "leave the option out, or start a new run in another --output-dir"
            )
    return before.model_copy(update={**changed, "output_dir": settings.output_dir, "resume": True})


def _check_epochs(settings: Settings) -> None:
    start = newest_checkpoint(settings.output_dir / "checkpoints")
    done = 0 if start is None else start.epochs
    if settings.epochs < done:
        raise UserError(
            f"--epochs is {settings.epochs} but the run has done {done} already; "
            "name as many or more, or leave the option out"
        )


def _check_loss(settings: Settings, named: Collection[str]) -> None:
    """Check the named options against the loss, of which each has its own."""
    for name, losses in TAKEN_BY.items():
        if name in named and settings.loss not in losses:
            raise UserError(f"--loss {settings.loss} takes no {flag(name)}")
    if "combine_neighbours" in named and settings.neighbours is None:
        raise UserError("--combine-neighbours needs --neighbours")


def _check(settings: Settings) -> None:
    folders = settings.dataset != "synthetic"
    missing = [name for name in NEEDED[settings.dataset] if getattr(settings, name) is None]
    if missing:
        raise UserError(f"--dataset {settings.dataset} needs {flags(missing)}")
    for name in (*FOLDER_OPTIONS, "transform"):
        if not folders and getattr(settings, name) is not None:
            raise UserError(f"{flag(name)} needs --dataset vggsound, flickr or clips")
    for name in ("labels", "held_out"):
        if settings.dataset != "clips" and getattr(settings, name) is not None:
            raise UserError(f"{flag(name)} needs --dataset clips")
    if settings.image_weights is not None and settings.encoder != "resnet18":
        raise UserError("--image-weights needs --encoder resnet18")
    if settings.image_weights is not None and settings.norm != "batch":
        raise UserError("--image-weights needs --norm batch")
    strides = MAP_STRIDES[settings.encoder]
    if settings.map_stride not in strides:
        raise UserError(
            f"--encoder {settings.encoder} has a --map-stride of {min(strides)} or {max(strides)}, "
            f"got {settings.map_stride}"
        )
    if folders and settings.warm_start_epochs:
        raise UserError("--warm-start-epochs needs --dataset synthetic")
    for name in ("image_weights", "warm_start_epochs"):
        value = getattr(settings, name)
        if settings.init_from is not None and value:
            raise UserError(f"--init-from and {flag(name)} {value} exclude each other")


def _check_sizes(settings: Settings) -> None:
    size, batch, validation = settings.train_size, settings.batch_size, settings.validation_size
    if size is not None and batch > size:
        raise UserError(f"--batch-size {batch} is larger than --train-size {size}")
    check_split(f"--batch-size {batch}", batch, settings)
    # Of own clips as many are taken as can be shared.
    if validation < batch and settings.dataset != "clips":
        check_split(f"--validation-size {validation}", validation, settings)
