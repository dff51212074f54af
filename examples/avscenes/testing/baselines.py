"""What the boxes of a test set alone decide: ceiling, scores without a model, areas, overlap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from avcontrast import metrics
from avscenes.files.errors import UserError
from avscenes.sets.ids import finder
from avscenes.sets.lists import read_ids
from avscenes.sets.overlap import check_overlap
from avscenes.sets.vggss import Annotation

SIZE = 224
_AT_ONCE = 200


class Findings(NamedTuple):
    """What is known of every clip, in order."""

    area: Tensor  # share of the image [n]
    subset: Tensor  # index into `metrics.AREA_SUBSETS` [n]
    at_centre: Tensor  # whether the object covers the centre of the image [n]
    ciou: dict[tuple[str, str], Tensor]  # by protocol and predictor, [n] each


def centre_square(size: int) -> Tensor:
    """Return a map that falls off from the centre in squares, as the centre disc does in rings."""
    offset = (2 * torch.arange(size) - (size - 1)).abs()
    return 1 - torch.maximum(offset[:, None], offset) / (size - 1)


def truth_in_parts(annotations: Mapping[str, Annotation]) -> Iterator[Tensor]:
    """Yield the ground truth of the clips, some at a time.

    Raises:
        UserError: When the boxes of a clip are no shares of an image.
    """
    maps = []
    for clip, annotation in annotations.items():
        try:
            maps.append(metrics.ground_truth_map(annotation.boxes, SIZE, clip=True))
        except ValueError as error:
            raise UserError(f"--annotations: {clip}: {error}") from error
        if len(maps) == _AT_ONCE:
            yield torch.stack(maps)
            maps = []
    if maps:
        yield torch.stack(maps)


def find(annotations: Mapping[str, Annotation], protocols: Sequence[str], seed: int) -> Findings:
    """Score what needs no model, and the best possible map, on the boxes of every clip.

    Args:
        annotations: Of at least one clip.
        protocols: Names in `metrics.PROTOCOLS`.
        seed: Of the random maps, which are the same under every protocol.

    Raises:
        UserError: When the boxes of a clip are no shares of an image.
    """
    generator = torch.Generator().manual_seed(seed)
    still = {
        "centre disc": metrics.centre_disc(SIZE),
        "centre square": centre_square(SIZE),
        "constant map": torch.zeros(SIZE, SIZE),
    }
    area, subset, at_centre = [], [], []
    ciou: dict[tuple[str, str], list[Tensor]] = {}
    for truth in truth_in_parts(annotations):
        covered = truth > 0
        area.append(covered.double().mean(dim=(1, 2)))
        subset.append(metrics.area_subset(truth))
        at_centre.append(covered[:, SIZE // 2, SIZE // 2])
        noise = torch.rand(len(truth), 7, 7, generator=generator)
        for protocol in protocols:
            rules = metrics.PROTOCOLS[protocol]
            how = rules.threshold, rules.inclusive
            scores = {"best possible map": metrics.ciou_ceiling(truth, *how)}
            for name, heat in still.items():
                scores[name] = metrics.consensus_iou(heat.expand_as(truth), truth, *how)
            scores["random 7 x 7 map"] = metrics.localization_ciou(noise, truth, rules)
            for name, values in scores.items():
                ciou.setdefault((protocol, name), []).append(values)
    return Findings(
        torch.cat(area),
        torch.cat(subset),
        torch.cat(at_centre),
        {key: torch.cat(parts) for key, parts in ciou.items()},
    )


def report(annotations: Mapping[str, Annotation], findings: Findings) -> str:
    """Return everything as text."""
    boxes = [len(annotation.boxes) for annotation in annotations.values()]
    classes = {annotation.class_name for annotation in annotations.values()}
    area = findings.area
    lines = [
        f"{len(boxes):,} clips of {len(classes):,} classes, {boxes.count(1):,} with one box, "
        f"{int((area == 0).sum()):,} whose boxes cover nothing",
        f"share of the image: mean {area.mean():.2%}, median {area.quantile(0.5):.2%}; "
        f"below a quarter {_percent(area < 0.25)}",
        "; ".join(
            f"{name} {_percent(findings.subset == number)}"
            for number, name in enumerate(metrics.AREA_SUBSETS)
        ),
        f"pointing: a random pixel {area.mean():.2%}, the centre {_percent(findings.at_centre)}",
    ]
    for protocol in dict.fromkeys(protocol for protocol, _ in findings.ciou):
        lines += ["", f"{protocol:<26}success@0.5     AUC  mean cIoU"]
        for (where, name), ciou in findings.ciou.items():
            if where == protocol:
                lines.append(
                    f"  {name:<24}{100 * metrics.success_rate(ciou):>11.2f}"
                    f"{100 * metrics.success_auc(ciou):>8.2f}{100 * ciou.mean():>11.2f}"
                )
    return "\n".join(lines)


def _percent(flags: Tensor) -> str:
    return f"{flags.double().mean():.2%}"


def overlap(train_list: Path, clips: Sequence[str]) -> str:
    """Return how many of the test clips are in a training list."""
    train = read_ids("--train-list", train_list)
    shared = check_overlap(train, clips, allow=True)
    return (
        f"{len(shared):,} of these {len(clips):,} clips ({len(shared) / len(clips):.2%}) are among "
        f"the {len(train):,} of {train_list}"
    )


def chosen(annotations: Mapping[str, Annotation], test_list: Path | None) -> dict[str, Annotation]:
    """Return the annotations of the clips in a list; without one all of them.

    Raises:
        UserError: When a clip of the list has none, since the figures would be those of others.
    """
    if test_list is None:
        return dict(annotations)
    clips = read_ids("--test-list", test_list)
    written = finder(annotations)
    names = {clip: written(clip) for clip in clips}
    without = [clip for clip, name in names.items() if name is None]
    if without:
        raise UserError(
            f"--test-list: {len(without)} of the {len(clips)} clips of {test_list} have no entry "
            f"in --annotations (first {without[0]})"
        )
    return {clip: annotations[name] for clip, name in names.items() if name is not None}
