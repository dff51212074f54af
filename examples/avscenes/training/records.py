"""What a run writes down: settings, a table of epochs, and checkpoints from which it can go on.

Every file is written beside its place and then moved there, so that a run that is killed leaves the
old file or the new one and never a part.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.plugins.io import TorchCheckpointIO

from avscenes.files.errors import UserError
from avscenes.files.whole_files import write_table, write_whole
from avscenes.models.weights import read_weights


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint onto the CPU; nothing in it may be code.

    Raises:
        UserError: When it cannot be read.
    """
    checkpoint = read_weights("--output-dir", path)
    if not {"epoch", "state_dict"} <= checkpoint.keys():
        raise UserError(f"--output-dir: {path} is no checkpoint of train_fnac.py")
    return checkpoint


class Start(NamedTuple):
    """A checkpoint to go on from, the epochs that are behind it, and why it is not the last."""

    path: Path
    epochs: int
    fault: str | None


def newest_checkpoint(folder: Path) -> Start | None:
    """Return the last checkpoint that can be read, or else the best; None when there is neither.

    Raises:
        UserError: When there is one, and none that can be read.
    """
    last, best = folder / "last.ckpt", folder / "best.ckpt"
    if not (last.exists() or best.exists()):
        return None
    faults: list[str] = []
    for path in (last, best):
        try:
            epochs = load_checkpoint(path)["epoch"] + 1
        except UserError as error:
            faults.append(str(error))
        else:
            return Start(path, epochs, faults[0] if faults else None)
    raise UserError(f"{faults[0]}; nor can {best.name} be read: start a new run in another folder")


class WholeFileCheckpoints(TorchCheckpointIO):
    """Writes checkpoints as whole files, and reads them without executing anything."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: object = None
    ) -> None:
        """Write a checkpoint."""
        content = io.BytesIO()
        torch.save(checkpoint, content)
        write_whole(Path(path), content.getvalue())

    def load_checkpoint(
        self, path: str | Path, map_location: object = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint."""
        return load_checkpoint(Path(path))


class EpochBar(TQDMProgressBar):
    """Lightning's bar for the batches of an epoch, without a second one for its validation."""

    def __init__(self) -> None:
        super().__init__(leave=False)

    def init_validation_tqdm(self) -> Tqdm:
        """Return a bar that is not shown."""
        return Tqdm(disable=True)


class EpochTable(Callback):
    """Keeps one row of metrics an epoch and writes them as `metrics.csv`.

    The rows are part of the checkpoint, so a resumed run neither repeats nor loses one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the rows of a checkpoint."""
        self.rows = state_dict["rows"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Add the row of the epoch that ends, validation included."""
        logged = sorted(trainer.callback_metrics.items())
        values = {name: value.item() for name, value in logged}
        self.rows = [*self.rows, {"epoch": trainer.current_epoch, **values}]
        if trainer.is_global_zero:
            write_table(self.path, list(self.rows[0]), self.rows)


class LastAndBest(Checkpoint):
    """Saves `last.ckpt` after every epoch, and `best.ckpt` when a validation metric is lowest.

    Lightning's `ModelCheckpoint` renews `last.ckpt` only when the monitored metric improves, and
    binds its memory of the best value to the path of the folder.
    """

    def __init__(self, folder: Path, monitor: str) -> None:
        self.folder = folder
        self.monitor = monitor
        self.best_value: float | None = None
        self.best_epoch: int | None = None

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        return {"best_value": self.best_value, "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best value so far."""
        self.best_value = state_dict["best_value"]
        self.best_epoch = state_dict["best_epoch"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save; the best one first, so that the last one knows of it."""
        value = trainer.callback_metrics[self.monitor].item()
        if self.best_value is None or value < self.best_value:
            self.best_value, self.best_epoch = value, trainer.current_epoch
            trainer.save_checkpoint(self.folder / "best.ckpt")
        trainer.save_checkpoint(self.folder / "last.ckpt")
