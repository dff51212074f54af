r"""Train an image and a sound encoder with the FNAC loss, and see what it localises.

    python examples/train_fnac.py               # synthetic scenes, about a minute on 2 CPU cores
    python examples/train_fnac.py --loss nce    # the same without the adjacency terms
    python examples/train_fnac.py --loss lvs    # the loss of another method; hardpos, alignment
    python examples/train_fnac.py --devices 2   # the same batches, shared by two processes
    python examples/train_fnac.py --dataset vggsound \
        --data-root vggsound/train --train-list vggss_144k.txt --test-root vggsound/test \
        --test-list vggss_test.csv --annotations vggss.json --image-weights resnet18.pth
    python examples/train_fnac.py --recipe fnac-vggsound-144k ...   # and the same files
    python examples/train_fnac.py --dataset clips --data-root FOLDER   # clips of your own

Everything a run makes lies in its output folder: settings, metrics of every epoch, final metrics,
checkpoints, pictures. An interrupted run goes on with `--resume`. The test set is touched once, at
the end; `best.ckpt` has the lowest contrastive loss on held-out training pairs.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger

import avcontrast
from avscenes.files.errors import UserError
from avscenes.files.output import check_free, check_writable, writing_to
from avscenes.files.whole_files import write_whole
from avscenes.models.encoders import ResNet18, build_encoders
from avscenes.models.vectors import projections_of
from avscenes.models.warm_start import warm_start
from avscenes.models.weights import load_encoders, load_image_weights
from avscenes.options.training import parse
from avscenes.pictures.training_run import draw_all
from avscenes.scenes.scene import make_objects
from avscenes.sets.clips import Skipped, Unusable
from avscenes.sets.loaders import DATA_SEED, train_loader, validation_loader
from avscenes.sets.testsets import KINDS
from avscenes.testing.results import caption, write_left_out, write_results
from avscenes.testing.run import Conditions, Networks, fed, run_part, whole_test
from avscenes.training.alignment import ProjectedAlignment
from avscenes.training.data import Data, clip_data, synthetic_data
from avscenes.training.interruption import Interruption
from avscenes.training.module import Criterion, LocalisationModule, monitor_of
from avscenes.training.processes import (
    SameData,
    check_launcher,
    describe_processes,
    first_process,
    leave_group,
    parts_on_first,
    process_rank,
    say,
)
from avscenes.training.records import (
    EpochBar,
    EpochTable,
    LastAndBest,
    WholeFileCheckpoints,
    load_checkpoint,
    newest_checkpoint,
)
from avscenes.training.run_folder import start_run, write_skipped
from avscenes.training.settings import (
    OTHER_METHODS,
    Settings,
    adjacency_weights,
    encoder_options,
    has_warmup,
)

WARM_START_OBJECTS = 1_536
TWO_OBJECTS = (
    "each image shows a silent object too, and nothing in it tells which one sounds: same-class\n"
    "R@1 between images and sounds ends near 0.5; a region is where the image's own map peaks"
)


def build_module(settings: Settings) -> LocalisationModule:
    """Return the model with freshly drawn or given weights."""
    seed_everything(settings.seed, verbose=False)
    visual, audio = build_encoders(**encoder_options(settings))
    if settings.image_weights is not None and isinstance(visual.trunk, ResNet18):
        load_image_weights(visual.trunk, settings.image_weights)
    if settings.init_from is not None:
        for part in load_encoders(visual, audio, settings.init_from, "--init-from"):
            say(f"note: --init-from {settings.init_from} has no {part}, which starts anew")
    return LocalisationModule(visual, audio, build_criterion(settings, visual.dim), settings)


def build_criterion(settings: Settings, dim: int) -> Criterion:
    """Return the loss, over the batch of all processes, of features with `dim` channels."""
    if settings.loss == "lvs":
        return avcontrast.TriMapLoss(
            settings.temperature,
            form=settings.tri_map_form,
            gather_distributed=True,
        )
    if settings.loss == "hardpos":
        return avcontrast.HardPositiveLoss(
            settings.temperature,
            positive_form=settings.positive_form,
            gather_distributed=True,
        )
    if settings.loss == "alignment":
        loss = avcontrast.AlignmentLoss(settings.temperature, gather_distributed=True)
        return ProjectedAlignment(loss, dim)
    fns_audio, fns_visual, tne = adjacency_weights(settings)
    return avcontrast.FNACLoss(
        settings.temperature,
        fns_audio_weight=fns_audio,
        fns_visual_weight=fns_visual,
        tne_weight=tne,
        adjacency_reduction=settings.adjacency_reduction,
        threshold=settings.threshold,
        anchor=settings.anchor,
        elimination="both" if settings.loss == "elimination" else "none",
        elimination_level=settings.elimination_level,
        gather_distributed=True,
    )


def describe_recipe(settings: Settings) -> None:
    """Say which recipe is run, and what it or the loss needs that is not there."""
    if settings.loss == "hardpos" and settings.neighbours is None:
        say("note: without --neighbours the own pairs are the only positives")
    if settings.loss == "alignment" and settings.neighbours is None:
        say("note: without --neighbours there are two views, and none of a neighbour")
    if settings.recipe is None and settings.dataset != "clips":
        return
    if settings.recipe is not None:
        say(f"recipe {settings.recipe}")
    without = not (settings.image_weights or settings.init_from)
    if settings.encoder == "resnet18" and settings.loss not in OTHER_METHODS and without:
        say(
            "note: published runs start from ImageNet weights (--image-weights); "
            "this one starts from none"
        )


def load_data(settings: Settings, output: Path) -> tuple[Data, list[Skipped]]:
    """Make or read the data, and name the clips that are left out."""
    if settings.dataset == "synthetic":
        say(f"making {settings.train_size} + {settings.test_size} synthetic scenes")
        return synthetic_data(settings), []
    # Only what this very run has written tells which clips to leave out.
    written = (output / "config.json").exists() and (settings.resume or not first_process())
    try:
        data, skipped = clip_data(settings, output / "skipped.csv" if written else None)
    except Unusable as error:
        if not first_process():
            raise
        raise UserError(f"{error}; the list: {write_skipped(output, error.skipped)}") from error
    for entry in skipped[:10]:
        say(f"left out: {entry.split} clip {entry.clip}: {entry.reason}")
    if len(skipped) > 10:
        say(f"left out: {len(skipped) - 10} more")
    if data.split is not None:
        say(
            f"{data.train_size} pairs to train on in batches of {settings.batch_size}, "
            f"{data.validation_size} to choose a checkpoint by, {len(data.test.names)} to test on"
        )
    if data.test_ids_in_training:
        say(f"note: {data.test_ids_in_training} test clips are also in the training list")
    return data, skipped


def build_trainer(settings: Settings, output: Path, callbacks: list[Callback]) -> Trainer:
    """Return Lightning's trainer with our records and further callbacks."""
    check_launcher(settings.devices, settings.num_nodes)
    several = settings.devices * settings.num_nodes > 1
    on_gpus = settings.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    try:
        return Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            precision=settings.precision,  # type: ignore[arg-type]
            max_epochs=settings.epochs,
            sync_batchnorm=several and on_gpus,  # torch has it for GPUs only
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            use_distributed_sampler=False,  # the order of the samples knows about ranks itself
            enable_model_summary=False,
            plugins=[WholeFileCheckpoints()],
            logger=find_spec("tensorboard") is not None
            and TensorBoardLogger(output, name="tensorboard", version=""),
            callbacks=[
                *callbacks,
                EpochBar(),
                EpochTable(output / "metrics.csv"),
                LastAndBest(output / "checkpoints", monitor_of(settings)),
            ],
        )
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        # The exceptions of lightning.fabric for a precision or device that the machine lacks.
        reason = " ".join(str(error).split())
        raise UserError(f"--precision, --accelerator or --devices: {reason}") from error


def train(settings: Settings, module: LocalisationModule, data: Data, trainer: Trainer) -> None:
    """Train, from the last checkpoint when there is one."""
    checkpoints = settings.output_dir / "checkpoints"
    start = newest_checkpoint(checkpoints) if settings.resume else None
    if start is not None:
        if start.fault is not None:
            say(f"{start.fault}; what came after {start.path.name} is trained again")
            if first_process():
                write_whole(checkpoints / "last.ckpt", start.path.read_bytes())
        say(f"going on after epoch {start.epochs} of {settings.epochs}")
    elif settings.resume:
        say("there is no checkpoint yet: starting anew")
    if start is None and settings.warm_start_epochs and first_process():
        # The others receive the weights of process 0 when the training starts.
        say(f"visual warm start: {settings.warm_start_epochs} epochs on single objects")
        warm_start(
            module.visual.trunk,
            make_objects(DATA_SEED, WARM_START_OBJECTS),
            epochs=settings.warm_start_epochs,
            seed=settings.seed,
        )
    if trainer.precision == "64-true":
        # Lightning reads a checkpoint into the module before it makes it double.
        module.double()
    if settings.compile:
        module.visual.compile()
        module.audio.compile()
    own = {"workers": settings.workers, "rank": trainer.global_rank, "world": trainer.world_size}
    size = min(settings.batch_size, data.validation_size)
    trainer.fit(
        module,
        train_loader(data.train, data.train_size, settings.batch_size, seed=settings.seed, **own),
        validation_loader(data.validation, data.validation_size, size, **own),
        ckpt_path=None if start is None else start.path,
    )


def finish(
    settings: Settings,
    module: LocalisationModule,
    data: Data,
    trainer: Trainer,
    started: float,
) -> None:
    """Test the chosen checkpoint once; on process 0, draw, and print the table."""
    output = settings.output_dir
    path = output / "checkpoints" / f"{settings.evaluate}.ckpt"
    checkpoint = load_checkpoint(path)
    module.load_state_dict(checkpoint["state_dict"])
    seconds = time.monotonic() - started
    module.to(trainer.strategy.root_device).eval()
    tests, rank, world = data.test, trainer.global_rank, trainer.world_size
    how = Conditions(settings.dataset, KINDS[settings.dataset].protocol)
    part = run_part(
        Networks(
            fed(module.visual),
            fed(module.audio),
            projections=projections_of(module.state_dict(), module.device),
        ),
        tests,
        how,
        batch_size=settings.batch_size // world,
        workers=settings.workers,
        max_missing=settings.max_missing,
        rank=rank,
        world=world,
    )
    parts = parts_on_first(part, rank, world)
    if parts is None:
        return
    try:
        tested = whole_test(parts, tests, how, settings.max_missing)
    except Unusable as error:
        raise UserError(f"{error}; the list: {write_left_out(output, error.skipped)}") from error
    for entry in tested.skipped[len(tests.skipped) :]:
        say(f"left out: test clip {entry.clip}: {entry.reason}")
    draw_all(
        output,
        tests,
        tested,
        name=f"{settings.dataset}, {settings.loss}, seed {settings.seed}",
        warmup_epochs=settings.warmup_epochs if has_warmup(settings) else 0,
        temperature=settings.temperature,
    )
    epoch = checkpoint["epoch"] + 1
    about = {
        "checkpoint": settings.evaluate,
        "epoch": epoch,
        "train_samples": data.train_size,
        "validation_samples": data.validation_size,
        "test_ids_in_training": data.test_ids_in_training,
        "seconds": round(seconds, 1),
    }
    text = write_results(output, tests, tested, caption(tests, tested, path, epoch), about)
    if settings.dataset == "synthetic":
        say(TWO_OBJECTS)
    say(f"\n{text}\n\nwritten to {output}")


def run(settings: Settings, interruption: Interruption) -> None:
    """Do everything, in order."""
    started = time.monotonic()
    output = settings.output_dir
    same_data = SameData()
    trainer = build_trainer(settings, output, [interruption, same_data])
    if first_process() and settings.resume:
        check_writable("--output-dir", output)
    elif first_process():
        advice = "go on with them by --resume, or name another folder"
        check_free("--output-dir", output, claim="config.json", advice=advice)
    module = build_module(settings)
    data, skipped = load_data(settings, output)
    same_data.digest = data.digest
    if first_process():
        start_run(settings, output, skipped, data.split)
    describe_recipe(settings)
    describe_processes(settings, trainer)
    train(settings, module, data, trainer)
    interruption.check()
    finish(settings, module, data, trainer, started)
    leave_group()


def quieten() -> None:
    """Silence what Lightning says about choices that are made on purpose here."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    # Scenes are held in memory, where worker processes only cost time.
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    # Lightning's own use of a name that torch is about to drop.
    warnings.filterwarnings("ignore", ".*LeafSpec.*is deprecated.*")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    quieten()
    settings = None
    interruption = Interruption()
    try:
        with interruption.listening():
            settings = parse(arguments)
            advice = f"; make room, then --resume --output-dir {settings.output_dir}"
            with writing_to(settings.output_dir, advice):
                run(settings, interruption)
    except UserError as error:
        where = "" if first_process() else f" in process {process_rank()}"
        print(f"train_fnac.py: error{where}: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit):
        # Lightning turns Ctrl-C into SystemExit; the parser raises it before there are settings.
        if settings is None:
            raise
        started = (settings.output_dir / "config.json").exists()
        how = f"; go on with --resume --output-dir {settings.output_dir}" if started else ""
        if first_process():
            print(f"interrupted{how}", file=sys.stderr)
        return 128 + 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
