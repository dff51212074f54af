"""Every setting of a run, with its type, its default for each data set and what it means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from avcontrast import HardPositiveLoss, TriMapLoss
from avscenes.files.errors import UserError
from avscenes.files.strict import (
    JSON,
    Amount,
    Count,
    File,
    OneOf,
    Portion,
    Positive,
    Share,
    Whole,
    Within,
    option,
    read_file,
)
from avscenes.media.transforms import TRANSFORMS
from avscenes.models.encoders import MAP_STRIDES, NORMS

# Losses that have contrasts of their own.
OTHER_METHODS = ("lvs", "hardpos", "alignment")
LOSSES = {
    # name: which of the three adjacency terms are switched on, as (fns_audio, fns_visual, tne)
    "nce": (False, False, False),
    "fns-audio": (True, False, False),
    "fns-visual": (False, True, False),
    "fns": (True, True, False),
    "tne": (False, False, True),
    "fnac": (True, True, True),
    # Likely false negatives are left out of the contrastive term instead.
    "elimination": (False, False, False),
    **dict.fromkeys(OTHER_METHODS, (False, False, False)),
}
_CONTRASTS = tuple(name for name in LOSSES if name not in OTHER_METHODS)
# Options that only some losses have.
TAKEN_BY = {
    "tri_map_form": ("lvs",),
    "positive_form": ("hardpos",),
    "neighbours": ("hardpos", "alignment"),
    "combine_neighbours": ("hardpos",),
    **dict.fromkeys(
        (
            *("adjacency_reduction", "fns_audio_weight", "fns_visual_weight", "tne_weight"),
            *("anchor", "threshold", "elimination_level", "warmup_epochs"),
        ),
        _CONTRASTS,
    ),
}
FOLDER_OPTIONS = ("data_root", "train_list", "test_root", "test_list", "annotations")
NEEDED = {
    "synthetic": (),
    "vggsound": FOLDER_OPTIONS,
    "flickr": FOLDER_OPTIONS,
    "clips": ("data_root",),
}
# These do not change what is to be learned; a run may go on with other ones.
CHANGEABLE = ("accelerator", "devices", "num_nodes", "workers", "output_dir", "evaluate")


def either(scenes: object, clips: object, text: str) -> Any:  # noqa: ANN401
    """Return a field with one default for scenes and one for clips."""
    if "(default: " not in text:
        shown = ("all" if value is None else f"{value}" for value in (scenes, clips))
        text += f" (default: {' / '.join(shown)})"
    return Field(
        default_factory=lambda known: scenes if known["dataset"] == "synthetic" else clips,
        description=text,
    )


def adjacency_weight(text: str) -> Any:  # noqa: ANN401
    """Return a field whose default is the published weight, at the batch size of the data set."""

    def published(known: dict[str, Any]) -> float:
        if known["adjacency_reduction"] == "mean":
            return 100.0
        return 100 / 128 if known["dataset"] == "synthetic" else 100 / 256

    text += f" (default: {100 / 128} / {100 / 256}; with --adjacency-reduction mean 100)"
    return Field(default_factory=published, description=text)


def _temperature(known: dict[str, Any]) -> float:
    if known["loss"] == "lvs":
        return float(TriMapLoss(form=known["tri_map_form"]).temperature)
    if known["loss"] == "hardpos":
        return float(HardPositiveLoss(positive_form=known["positive_form"]).temperature)
    return 0.07 if known["loss"] == "alignment" else 0.03


def _map_stride(known: dict[str, Any]) -> int:
    """Return that of 14 x 14 positions for the methods that were published with them."""
    if known["encoder"] == "resnet18" and known["loss"] in OTHER_METHODS:
        return 16
    return MAP_STRIDES[known["encoder"]][0]


def _projection(known: dict[str, Any]) -> Literal["linear", "none"]:
    return "none" if known["loss"] in OTHER_METHODS else "linear"


def _output_dir(known: dict[str, Any]) -> Path:
    recipe = known["recipe"]
    name = f"{known['dataset']}-{known['loss']}" if recipe is None else Path(recipe).stem
    return Path(f"runs/{name}-seed{known['seed']}")


class Settings(BaseModel, strict=True, frozen=True, extra="forbid"):
    """The settings of a run; those that are not given have the defaults of their data set."""

    recipe: str | None = option(
        None, "settings from below or from a TOML file", title="NAME_OR_FILE"
    )

    dataset: Literal["synthetic", "vggsound", "flickr", "clips"] = option(
        "synthetic", "clips are of your own, without boxes or with them"
    )
    data_root: File | None = option(
        None, "folder with frames/ID.jpg or .png and audio/ID.wav to train on"
    )
    train_list: File | None = option(
        None, "ids to train on, one a line (clips: if not given, every pair of --data-root)"
    )
    test_root: File | None = option(None, "folder with frames/ and audio/ to test on")
    test_list: File | None = option(None, "ids to test on, one a line (vggss_test.csv)")
    annotations: File | None = option(
        None, "classes and boxes of the test clips (vggss.json), or the folder of Flickr's ID.xml"
    )
    labels: File | None = option(None, "classes of the test clips, ID,CLASS a line (clips)")
    held_out: Within | None = Field(
        default_factory=lambda known: 0.2 if known["dataset"] == "clips" else None,
        description="share of the pairs that is held out, the first half of it to test on (clips; "
        "default: 0.2)",
    )
    allow_overlap: bool = option(False, "train although clips of --test-list are in --train-list")
    train_size: Count | None = either(512, None, "number of pairs to train on")
    validation_size: Count = either(128, 512, "number of further training pairs that are held out")
    test_size: Count | None = either(504, None, "number of test pairs")
    max_missing: Share = option(0.05, "stop when more than this share of a list is unreadable")
    transform: Annotated[str, OneOf(TRANSFORMS)] | None = either(
        None,
        "fnac",
        "what happens to a clip in training, as published (default: fnac; not for scenes)",
    )

    loss: Annotated[str, OneOf(LOSSES)] = option(
        "fnac",
        "terms beside the contrastive one; or the loss of LVS, HardPos or Cross-Modal Alignment",
    )
    tri_map_form: Literal["code", "paper"] = option(
        "code", "that of the released code or of the paper (lvs)"
    )
    positive_form: Literal["sum", "mean", "inside", "outside"] = option(
        "sum",
        "how several positives count (hardpos; sum is as recalled of the paper, which has no code, "
        "and learned nothing on the scenes, where inside did)",
    )
    neighbours: File | None = option(
        None,
        "lists of the nearest training samples, .npz: further positives (hardpos), or a further "
        "view of each image and sound (alignment)",
    )
    combine_neighbours: Literal["and", "or"] = option(
        "and", "neighbours by image and by sound, or by either (hardpos)"
    )
    temperature: Positive = Field(
        default_factory=_temperature,
        description="of every similarity (default: 0.03; lvs and alignment 0.07; lvs --tri-map-form"
        " paper and hardpos with sum or mean 1, since they have none; else 0.07)",
    )
    adjacency_reduction: Literal["mean", "batchmean"] = option(
        "batchmean",
        "of each row of the adjacency terms: its sum, of which a weight means the same at any "
        "batch size, or its mean, as published",
    )
    fns_audio_weight: Amount = adjacency_weight("weight of the audio adjacency")
    fns_visual_weight: Amount = adjacency_weight("weight of the visual adjacency")
    tne_weight: Amount = adjacency_weight("weight of true-negative enhancement")
    anchor: Literal["visual", "audio"] = option(
        "visual", "whose rows the adjacencies are compared with in false-negative suppression"
    )
    threshold: Share = option(0.6, "of the localised region in true-negative enhancement")
    elimination_level: Portion = option(
        0.65, "how nearly as well as the own pair what is left out has to match"
    )
    warmup_epochs: Whole = either(
        10, 5, "epochs with the contrastive term alone, of which nothing is left out"
    )

    encoder: Literal["small", "resnet18"] = either("small", "resnet18", "both encoders")
    map_stride: Count = Field(
        default_factory=_map_stride,
        description="pixels between the positions of a map: 8 or 16 (small), 16 or 32 (resnet18: "
        "14 x 14 or 7 x 7 of 224) (default: 8 / 32; resnet18 with lvs, hardpos and alignment 16)",
    )
    projection: Literal["linear", "none"] = Field(
        default_factory=_projection,
        description="of both features, after the networks (default: linear; lvs, hardpos and "
        "alignment none)",
    )
    norm: Annotated[str, OneOf(NORMS)] = option("batch", "normalisation in the encoders")
    image_weights: File | None = option(
        None, "torchvision's ResNet-18 weights for the image encoder"
    )
    init_from: File | None = option(
        None,
        "start from the encoders, or one of them, of a checkpoint: of this script, or of the "
        "released FNAC or EZ-VSL code",
    )
    image_dropout: Share = either(0.0, 0.9, "share of the image features dropped in training")
    warm_start_epochs: Whole = either(12, 0, "epochs of the visual warm start (synthetic only)")

    epochs: Count = either(40, 30, "passes over the training pairs")
    batch_size: Count = either(128, 256, "pairs in a batch of all processes together")
    lr: Positive = either(3e-3, 1e-4, "highest learning rate of Adam")
    schedule: Literal["constant", "one-cycle"] = either(
        "one-cycle", "constant", "of the learning rate"
    )
    weight_decay: Amount = option(1e-4, "of Adam")
    evaluate: Literal["last", "best"] = option("last", "checkpoint that is tested")
    seed: Whole = option(0, "of weights, order and augmentation; the data stay the same")

    precision: str = option("32-true", "as Lightning names it: 32-true, bf16-mixed, 16-mixed, ...")
    accelerator: str = option("auto", "as Lightning names it: cpu, gpu, ...")
    devices: Count = option(1, "processes on each machine, which share every batch")
    num_nodes: Count = option(1, "machines")
    workers: Whole = either(0, 8, "processes that read data, for each that trains")
    compile: bool = option(False, "compile both encoders")

    output_dir: File = Field(
        default_factory=_output_dir,
        description="(default: runs/DATASET-LOSS-seedSEED, or runs/RECIPE-seedSEED)",
    )
    resume: bool = option(
        False,
        "go on from the last checkpoint of --output-dir, with the settings stored there",
        exclude=True,  # it is not stored with the others
    )


def read_stored(place: str, config: Path) -> dict[str, Any]:
    """Return the settings that a run wrote down when it started, as they stand in its file.

    Raises:
        UserError: When there is no such file, or it is no `config.json` of a run.
    """
    content = read_file(config, JSON, place)
    stored = content.get("settings") if isinstance(content, dict) else None
    if not isinstance(stored, dict):
        raise UserError(f"{place}: {config} holds no settings of a run")
    return stored


def adjacency_weights(settings: Settings) -> tuple[float, float, float]:
    """Return the weights of the adjacency terms of a run: FNS of audio and of images, and TNE."""
    fns_audio, fns_visual, tne = LOSSES[settings.loss]
    return (
        settings.fns_audio_weight if fns_audio else 0.0,
        settings.fns_visual_weight if fns_visual else 0.0,
        settings.tne_weight if tne else 0.0,
    )


def encoder_options(settings: Settings) -> dict[str, Any]:
    """Return what the encoders of a run are built with."""
    return {
        "kind": settings.encoder,
        "image_dropout": settings.image_dropout,
        "norm": settings.norm,
        "map_stride": settings.map_stride,
        "projected": settings.projection == "linear",
    }


def has_warmup(settings: Settings) -> bool:
    """Return whether something is switched on after the first epochs of a run."""
    later = any(adjacency_weights(settings)) or settings.loss == "elimination"
    return later and settings.warmup_epochs > 0


def check_split(what: str, size: int, settings: Settings) -> None:
    """Raise `UserError` unless a batch of that size has equal parts for all processes."""
    devices, nodes = settings.devices, settings.num_nodes
    if size % (devices * nodes):
        raise UserError(
            f"{what} cannot be split evenly over {devices * nodes} processes "
            f"(--devices {devices} x --num-nodes {nodes})"
        )
