r"""Train an image and a sound encoder with the FNAC loss, and see what it localises.

    python examples/train_fnac.py               # synthetic scenes, about a minute on 2 CPU cores
    python examples/train_fnac.py --loss nce    # the same without the adjacency terms
    python examples/train_fnac.py --dataset vggsound \
        --data-root vggsound/train --train-list vggss_144k.txt --test-root vggsound/test \
        --test-list vggss_test.csv --annotations vggss.json --image-weights resnet18.pth

Everything a run makes lies in its output folder: settings, metrics of every epoch, final metrics,
checkpoints, pictures. An interrupted run goes on with `--resume`. The test set is touched once, at
the end; `best.ckpt` has the lowest contrastive loss on held-out training pairs.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path

import lightning
import torch
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

import avcontrast
from avscenes import evaluation, pictures
from avscenes.datasets import Data, plain_loader, train_loader
from avscenes.encoders import ResNet18, build_encoders, load_image_weights
from avscenes.errors import UserError
from avscenes.module import MONITOR, LocalisationModule
from avscenes.options import LOSSES, parse
from avscenes.pretraining import warm_start
from avscenes.records import (
    EpochBar,
    EpochTable,
    LastAndBest,
    WholeFileCheckpoints,
    load_checkpoint,
    write_json,
    write_table,
)
from avscenes.scenes import make_objects
from avscenes.sources import DATA_SEED, synthetic_data, vggsound_data

WARM_START_OBJECTS = 1_536
TWO_OBJECTS = (
    "each image shows a silent object too, and nothing in it tells which one sounds: same-class\n"
    "R@1 between images and sounds ends near 0.5; a region is where the image's own map peaks"
)


def build_module(settings: argparse.Namespace) -> LocalisationModule:
    """Return the model with freshly drawn or given weights."""
    seed_everything(settings.seed, verbose=False)
    visual, audio = build_encoders(settings.encoder, settings.image_dropout)
    if settings.image_weights is not None and isinstance(visual.trunk, ResNet18):
        load_image_weights(visual.trunk, Path(settings.image_weights))
    fns_audio, fns_visual, tne = LOSSES[settings.loss]
    criterion = avcontrast.FNACLoss(
        settings.temperature,
        fns_audio_weight=settings.fns_audio_weight if fns_audio else 0.0,
        fns_visual_weight=settings.fns_visual_weight if fns_visual else 0.0,
        tne_weight=settings.tne_weight if tne else 0.0,
        threshold=settings.threshold,
    )
    return LocalisationModule(
        visual,
        audio,
        criterion,
        learning_rate=settings.lr,
        schedule=settings.schedule,
        weight_decay=settings.weight_decay,
        warmup_epochs=settings.warmup_epochs,
        seed=settings.seed,
    )


def load_data(settings: argparse.Namespace, output: Path) -> Data:
    """Make or read the data, and name the clips that are left out."""
    if settings.dataset == "synthetic":
        say(f"making {settings.train_size} + {settings.test_size} synthetic scenes")
        return synthetic_data(settings)
    # Only what this very run has written tells which clips to leave out.
    known = output / "skipped.csv" if settings.resume or not first_process() else None
    data, skipped = vggsound_data(settings, known)
    for entry in skipped[:10]:
        say(f"left out: {entry.split} clip {entry.clip}: {entry.reason}")
    if len(skipped) > 10:
        say(f"left out: {len(skipped) - 10} more")
    if data.test_ids_in_training:
        say(f"note: {data.test_ids_in_training} test clips are also in the training list")
    if first_process():
        rows = [entry._asdict() for entry in skipped]
        write_table(output / "skipped.csv", ["split", "clip", "reason"], rows)
    return data


def check_output(settings: argparse.Namespace, output: Path) -> None:
    """Raise `UserError` when the folder holds another run or cannot be made."""
    if not settings.resume and (output / "config.json").exists():
        raise UserError(
            f"--output-dir: {output} holds a run already; "
            "go on with it by --resume, or name another folder"
        )
    nearest = next(path for path in (output, *output.absolute().parents) if path.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise UserError(f"--output-dir: cannot make {output}: {nearest} is no writable folder")


def start_run(settings: argparse.Namespace, output: Path) -> None:
    """Write the settings down, which claims the output folder."""
    stored = {name: value for name, value in vars(settings).items() if name != "resume"}
    versions = {
        "avcontrast": avcontrast.__version__,
        "lightning": lightning.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    write_json(output / "config.json", {"settings": stored, "versions": versions})


def build_trainer(settings: argparse.Namespace, output: Path) -> Trainer:
    """Return Lightning's trainer with our records."""
    try:
        return Trainer(
            accelerator=settings.accelerator,
            devices=settings.devices,
            num_nodes=settings.num_nodes,
            precision=settings.precision,
            max_epochs=settings.epochs,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
            use_distributed_sampler=False,  # the order of the samples knows about ranks itself
            enable_model_summary=False,
            plugins=[WholeFileCheckpoints()],
            logger=TensorBoardLogger(output, name="tensorboard", version=""),
            callbacks=[
                EpochBar(),
                EpochTable(output / "metrics.csv"),
                LastAndBest(output / "checkpoints", MONITOR),
            ],
        )
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        # The exceptions of lightning.fabric for a precision or device that the machine lacks.
        reason = " ".join(str(error).split())
        raise UserError(f"--precision, --accelerator or --devices: {reason}") from error


def train(
    settings: argparse.Namespace, module: LocalisationModule, data: Data, trainer: Trainer
) -> None:
    """Train, from the last checkpoint when there is one."""
    output = Path(settings.output_dir)
    last = output / "checkpoints" / "last.ckpt"
    going_on = settings.resume and last.is_file()
    if going_on:
        say(f"going on after epoch {load_checkpoint(last)['epoch'] + 1} of {settings.epochs}")
    elif settings.warm_start_epochs:
        say(f"visual warm start: {settings.warm_start_epochs} epochs on single objects")
        warm_start(
            module.visual.trunk,
            make_objects(DATA_SEED, WARM_START_OBJECTS),
            epochs=settings.warm_start_epochs,
            seed=settings.seed,
        )
    if settings.compile:
        module.visual.compile()
        module.audio.compile()
    workers, size = settings.workers, data.validation_size
    trainer.fit(
        module,
        train_loader(
            data.train, data.train_size, settings.batch_size, seed=settings.seed, workers=workers
        ),
        plain_loader(
            data.validation, min(settings.batch_size, size), workers=workers, drop_last=True
        ),
        ckpt_path=last if going_on else None,
    )


def finish(
    settings: argparse.Namespace, module: LocalisationModule, data: Data, seconds: float
) -> None:
    """Test the chosen checkpoint once, draw, and print the tables."""
    output = Path(settings.output_dir)
    path = output / "checkpoints" / f"{settings.evaluate}.ckpt"
    checkpoint = load_checkpoint(path)
    module.load_state_dict(checkpoint["state_dict"])
    features = evaluation.encode(module, data.test, settings.batch_size, settings.workers)
    tested = evaluation.evaluate(features, data.test)
    epoch = checkpoint["epoch"] + 1
    pictures.draw_all(output, data.test, tested, settings)
    write_json(
        output / "metrics.json",
        {
            **tested.metrics,
            "checkpoint": settings.evaluate,
            "epoch": epoch,
            "train_samples": data.train_size,
            "validation_samples": data.validation_size,
            "test_samples": len(data.test.labels),
            "test_ids_in_training": data.test_ids_in_training,
            "seconds": round(seconds, 1),
        },
    )
    say(f"tested {path} (epoch {epoch}) on {len(data.test.labels)} pairs; pictures in {output}")
    if settings.dataset == "synthetic":
        say(TWO_OBJECTS)
    say(f"\n{evaluation.report(tested.metrics)}")


def run(settings: argparse.Namespace) -> None:
    """Do everything, in order."""
    started = time.monotonic()
    output = Path(settings.output_dir)
    if first_process():
        check_output(settings, output)
    module = build_module(settings)
    trainer = build_trainer(settings, output)
    data = load_data(settings, output)
    if first_process():
        start_run(settings, output)
    if trainer.world_size > 1:
        say(f"{trainer.world_size} processes: each contrasts its own {settings.batch_size} pairs")
    train(settings, module, data, trainer)
    if trainer.is_global_zero:
        finish(settings, module, data, time.monotonic() - started)


def first_process() -> bool:
    """Return whether this process is the one that writes and speaks."""
    return bool(getattr(rank_zero_only, "rank", 0) == 0)


def say(line: str) -> None:
    """Print a line, once however many processes there are."""
    if first_process():
        print(line, flush=True)


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
    try:
        settings = parse(arguments)
        run(settings)
    except UserError as error:
        print(f"train_fnac.py: error: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit):
        # Lightning turns Ctrl-C into SystemExit; the parser raises it before there are settings.
        if settings is None:
            raise
        started = (Path(settings.output_dir) / "config.json").exists()
        how = f"; go on with --resume --output-dir {settings.output_dir}" if started else ""
        print(f"interrupted{how}", file=sys.stderr)
        return 128 + 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
