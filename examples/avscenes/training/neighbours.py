"""Makes lists of the nearest samples of a training set, in parts, so that a stopped run goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm  # type: ignore[import-untyped]

from avscenes.files.errors import UserError
from avscenes.files.strict import JSON, read_file
from avscenes.files.whole_files import write_json
from avscenes.models.object_maps import enlarged, load_object_network
from avscenes.models.vectors import pooled
from avscenes.scenes.scene import make_scenes
from avscenes.sets.annotated import Sample, labelled_set
from avscenes.sets.clips import Skipped, clips_in
from avscenes.sets.ids import one_spelling
from avscenes.sets.labelled import LabelledSet
from avscenes.sets.loaders import DATA_SEED
from avscenes.sets.neighbour_lists import write_arrays, write_neighbours
from avscenes.sets.own import read_labels
from avscenes.sets.readable import readable_batches
from avscenes.sets.scene_pairs import scene_test_set
from avscenes.training.data import ids_to_train_on
from avscenes.training.nearest import ROWS, nearest
from avscenes.training.settings import Settings
from avscenes.training.trained import Trained

PART = 4_096  # samples whose features are in a file


class Samples(NamedTuple):
    """What is trained on."""

    names: list[str]
    pairs: LabelledSet
    labels: Tensor | None  # class of each sample, -1 where it is not known


class Encoders(NamedTuple):
    """What makes vectors [b, d] of inputs on the CPU."""

    image: Callable[[Tensor], Tensor]
    sound: Callable[[Tensor], Tensor] | None


def read_samples(settings: Settings, labels: Path | None) -> Samples:
    """Return the samples that a run trains on.

    Raises:
        UserError: When a folder or a list is missing or of no use.
    """
    if settings.dataset == "synthetic":
        assert settings.train_size is not None
        scenes = make_scenes(DATA_SEED, "train", settings.train_size)
        names = [str(number) for number in range(settings.train_size)]
        return Samples(names, scene_test_set(scenes, []), scenes.labels)
    assert settings.data_root is not None
    clips = clips_in(settings.data_root, ids_to_train_on(settings))
    names = [clip.name for clip in clips]
    pairs = labelled_set([Sample(clip) for clip in clips])
    return Samples(names, pairs, None if labels is None else _classes(names, labels))


def _classes(names: list[str], path: Path) -> Tensor:
    classes = read_labels(path)
    numbers = {name: number for number, name in enumerate(sorted(set(classes.values())))}
    labels = [numbers.get(classes.get(one_spelling(name), ""), -1) for name in names]
    known = sum(label >= 0 for label in labels)
    if known < 2:
        raise UserError(f"--labels: {path} has the classes of {known} of the {len(names)} clips")
    return torch.tensor(labels)


def load_image_network(path: Path, device: str) -> Callable[[Tensor], Tensor]:
    """Return the image network with torchvision's weights, as what makes a vector of an image.

    Raises:
        UserError: When the file cannot be read or is not a ResNet-18.
    """
    network = load_object_network(path, device, "--image-weights")
    return lambda images: network(enlarged(images.to(device))).mean(dim=(2, 3))


def encoders_of(trained: Trained | None, image: Callable[[Tensor], Tensor] | None) -> Encoders:
    """Return the encoders of a checkpoint, or another one for images; one of them has to be there.

    The vector of an image is the mean over the positions of its features at unit length.
    """
    if trained is None:
        assert image is not None
        return Encoders(image, None)
    visual, audio = trained.visual, trained.audio
    like = next(visual.parameters())
    return Encoders(
        image or (lambda images: pooled(visual(images.to(like)))),
        lambda spectrograms: audio(spectrograms.to(like)),
    )


def digest_of(path: Path) -> str:
    """Return what tells the content of a file from any other."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def claim(folder: Path, about: dict[str, Any]) -> None:
    """Begin in a folder, or go on in one that was begun with the same settings.

    Raises:
        UserError: When the parts in it were made with others.
    """
    path = folder / "about.json"
    if not path.exists():
        write_json(path, about)
        return
    before = read_file(path, JSON, "--output-dir")
    if before != about:
        known = before if isinstance(before, dict) else {}
        names = ", ".join(name for name in about if known.get(name) != about[name])
        raise UserError(
            f"--output-dir: the parts in {folder} are of other lists, which differ in {names}; "
            "remove that folder, or name another --output-dir"
        )


@torch.no_grad()
def encode(
    folder: Path, samples: Samples, encoders: Encoders, *, batch_size: int, workers: int
) -> None:
    """Write the features of all samples in parts, but for those that are there."""
    count = len(samples.names)
    with tqdm(total=count, desc="encoding", leave=False, disable=None) as bar:
        for rows in _blocks(count, PART):
            path = _features_path(folder, rows)
            if path.exists():
                bar.update(len(rows))
                continue
            kept: list[int] = []
            found: dict[str, list[NDArray[Any]]] = {"image": [], "sound": []}
            broken: list[tuple[int, str]] = []
            for batch in readable_batches(samples.pairs, rows, batch_size, workers):
                bar.update(len(batch.rows) + len(batch.broken))
                broken += batch.broken
                if batch.rows:
                    kept += batch.rows
                    found["image"].append(encoders.image(batch.images).float().cpu().numpy())
                    if encoders.sound is not None:
                        vectors = encoders.sound(batch.spectrograms)
                        found["sound"].append(vectors.float().cpu().numpy())
            write_arrays(
                path,
                rows=np.array(kept, dtype=np.int64),
                broken=np.array([row for row, _ in broken], dtype=np.int64),
                reasons=np.array([reason for _, reason in broken], dtype=np.str_),
                **{kind: np.concatenate(parts) for kind, parts in found.items() if parts},
            )


def encoded(folder: Path, samples: Samples) -> tuple[Tensor, list[Skipped]]:
    """Return which samples have features, and those that could not be read."""
    rows: list[int] = []
    broken: list[Skipped] = []
    for part in _blocks(len(samples.names), PART):
        with np.load(_features_path(folder, part)) as arrays:
            rows += arrays["rows"].tolist()
            for row, reason in zip(arrays["broken"], arrays["reasons"], strict=True):
                broken.append(Skipped("train", samples.names[int(row)], str(reason)))
    return torch.tensor(rows, dtype=torch.int64), broken


def unit_features(folder: Path, samples: Samples, kind: str) -> Tensor:
    """Return the features of all samples that have some, at unit length, [n, d].

    Raises:
        UserError: When some are not finite.
    """
    parts = []
    for rows in _blocks(len(samples.names), PART):
        with np.load(_features_path(folder, rows)) as arrays:
            if kind in arrays:
                parts.append(F.normalize(torch.from_numpy(arrays[kind]), dim=1))
    features = torch.cat(parts)
    if not features.isfinite().all():
        raise UserError(f"the {kind} features are not finite; the encoder is of no use")
    return features


def search(folder: Path, kind: str, features: Tensor, k: int, *, rows: int = ROWS) -> Tensor:
    """Return the `k` nearest others of each sample, int64 [n, k]; blocks that are there are kept.

    Args:
        folder: Of the blocks.
        kind: What the features are of.
        features: Vectors of unit length, [n, d].
        k: Number of neighbours, below n.
        rows: Number of samples in a block.
    """
    count = len(features)
    lists = torch.empty(count, k, dtype=torch.int64)
    with tqdm(total=count, desc=f"{kind} neighbours", leave=False, disable=None) as bar:
        for block in _blocks(count, rows):
            path = folder / f"{kind}-{block.start:09d}.npz"
            if not path.exists():
                found = nearest(features, block, k)
                write_arrays(path, lists=found.cpu().numpy().astype(np.int32))
            with np.load(path) as arrays:
                lists[block.start : block.stop] = torch.from_numpy(arrays["lists"])
            bar.update(len(block))
    return lists


def write_lists(path: Path, names: list[str], lists: dict[str, Tensor]) -> None:
    """Write the file of neighbours; without those by sound it has no `audio_neighbours`."""
    if "sound" in lists:
        write_neighbours(path, names, lists["image"], lists["sound"])
    else:
        write_arrays(path, ids=np.array(names), image_neighbours=lists["image"].numpy())


def _blocks(count: int, size: int) -> list[range]:
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _features_path(folder: Path, rows: range) -> Path:
    return folder / f"features-{rows.start:09d}.npz"
