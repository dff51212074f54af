"""Every setting of a run, with its default for each dataset."""

from __future__ import annotations

from typing import Any

from avscenes.files.errors import UserError

LOSSES = {
    # name: which of the three adjacency terms are switched on, as (fns_audio, fns_visual, tne)
    "nce": (False, False, False),
    "fns-audio": (True, False, False),
    "fns-visual": (False, True, False),
    "fns": (True, True, False),
    "tne": (False, False, True),
    "fnac": (True, True, True),
}

COMMON: dict[str, Any] = {
    "recipe": None,
    "loss": "fnac",
    "temperature": 0.03,
    "fns_audio_weight": 100.0,
    "fns_visual_weight": 100.0,
    "tne_weight": 100.0,
    "anchor": "visual",
    "threshold": 0.6,
    "init_from": None,
    "image_weights": None,
    "norm": "batch",
    "weight_decay": 1e-4,
    "evaluate": "last",
    "precision": "32-true",
    "accelerator": "auto",
    "devices": 1,
    "num_nodes": 1,
    "compile": False,
    "seed": 0,
    "data_root": None,
    "train_list": None,
    "test_root": None,
    "test_list": None,
    "annotations": None,
    "allow_overlap": False,
    "max_missing": 0.05,
}
_SCENES: dict[str, Any] = {
    "train_size": 512,
    "validation_size": 128,
    "test_size": 504,
    "transform": None,
    "encoder": "small",
    "image_dropout": 0.0,
    "warm_start_epochs": 12,
    "epochs": 40,
    "warmup_epochs": 10,
    "batch_size": 128,
    "lr": 3e-3,
    "schedule": "one-cycle",
    "workers": 0,
}
CLIPS: dict[str, Any] = {
    "train_size": None,
    "validation_size": 512,
    "test_size": None,
    "transform": "fnac",
    "encoder": "resnet18",
    "image_dropout": 0.9,
    "warm_start_epochs": 0,
    "epochs": 30,
    "warmup_epochs": 5,
    "batch_size": 256,
    "lr": 1e-4,
    "schedule": "constant",
    "workers": 8,
}
BY_DATASET = {"synthetic": _SCENES, "vggsound": CLIPS, "flickr": CLIPS}
FOLDER_OPTIONS = ("data_root", "train_list", "test_root", "test_list", "annotations")
# These do not change what is to be learned; a run may go on with other ones.
CHANGEABLE = ("accelerator", "devices", "num_nodes", "workers", "output_dir", "evaluate")


def flag(name: str) -> str:
    """Return how a setting is written on the command line."""
    return f"--{name.replace('_', '-')}"


def defaults(dataset: str) -> dict[str, Any]:
    """Return every setting of a run on a dataset but its output folder."""
    return {"dataset": dataset, **COMMON, **BY_DATASET[dataset]}


def adjacency_weights(settings: Any) -> tuple[float, float, float]:  # noqa: ANN401
    """Return the weights of the adjacency terms of a run: FNS of audio and of images, and TNE."""
    fns_audio, fns_visual, tne = LOSSES[settings.loss]
    return (
        settings.fns_audio_weight if fns_audio else 0.0,
        settings.fns_visual_weight if fns_visual else 0.0,
        settings.tne_weight if tne else 0.0,
    )


def check_split(what: str, size: int, settings: dict[str, Any]) -> None:
    """Raise `UserError` unless a batch of that size has equal parts for all processes."""
    devices, nodes = settings["devices"], settings["num_nodes"]
    if size % (devices * nodes):
        raise UserError(
            f"{what} cannot be split evenly over {devices * nodes} processes "
            f"(--devices {devices} x --num-nodes {nodes})"
        )
