"""Reads a finished run: its settings and the encoders of one of its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from avscenes.files.errors import UserError
from avscenes.files.strict import checked
from avscenes.models.encoders import AudioEncoder, VisualEncoder, build_encoders
from avscenes.models.vectors import Projections, projections_of
from avscenes.models.weights import is_released, load_released, read_weights, state_of
from avscenes.training.settings import Settings, encoder_options, read_stored


class Trained(NamedTuple):
    """What a checkpoint and the settings beside it say."""

    folder: Path  # of the run
    settings: Settings
    epoch: int  # counted from 1; 0 when the file does not tell
    visual: VisualEncoder
    audio: AudioEncoder
    projections: Projections | None = None


def load_trained(path: Path, device: str | torch.device) -> Trained:
    """Return the encoders of a checkpoint in evaluation mode, and its projections if it has any.

    A checkpoint of the released FNAC or EZ-VSL code has no settings beside it; it gets those that
    were published.

    Raises:
        UserError: When the checkpoint or the settings of its run are missing, cannot be read or do
            not belong together.
    """
    if not path.is_file():
        raise UserError(f"--checkpoint: there is no file {path}")
    checkpoint = read_weights("--checkpoint", path)
    state = state_of(checkpoint)
    if is_released(state):
        folder, settings = path.absolute().parent, Settings(dataset="vggsound")
        visual, audio = build_encoders(settings.encoder)
        load_released(visual, audio, state, f"--checkpoint: {path}")
        epoch = int(checkpoint.get("epoch", 0))
    else:
        folder, settings = _read_settings(path)
        if "epoch" not in checkpoint or not state:
            raise UserError(f"--checkpoint: {path} is no checkpoint of train_fnac.py")
        try:
            visual, audio = build_encoders(**encoder_options(settings))
            _load(visual, "visual.", state)
            _load(audio, "audio.", state)
        except RuntimeError as error:
            raise UserError(
                f"--checkpoint: {path} does not fit the settings in {folder / 'config.json'}"
            ) from error
        epoch = int(checkpoint["epoch"]) + 1
    projections = projections_of(state, device)
    visual, audio = visual.to(device).eval(), audio.to(device).eval()
    return Trained(folder, settings, epoch, visual, audio, projections)


def _read_settings(path: Path) -> tuple[Path, Settings]:
    """Return the folder of the run and its settings; it holds the checkpoint, or `checkpoints/`."""
    folders = path.absolute().parent, path.absolute().parent.parent
    folder = next((f for f in folders if (f / "config.json").is_file()), None)
    if folder is None:
        raise UserError(
            f"--checkpoint: there is no config.json in {folders[1]}, the folder of the run"
        )
    config = folder / "config.json"
    stored = read_stored("--checkpoint", config)
    # That of another version may hold more, and what it lacks had the default.
    known = {name: value for name, value in stored.items() if name in Settings.model_fields}
    return folder, checked(Settings, known, f"--checkpoint: {config}")


def _load(encoder: nn.Module, prefix: str, state: Mapping[str, Any]) -> None:
    own = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    encoder.load_state_dict(own)
