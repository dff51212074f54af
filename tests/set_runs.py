"""Runs `evaluate.py` on a small test set, and makes maps and ground truth a second time by hand."""

from __future__ import annotations

import json
import re
from itertools import chain

import evaluate
import torch
from script_runs import read_rows, run_script

from avcontrast import functional, metrics
from avscenes.media.audio import SAMPLE_RATE, load_wave
from avscenes.media.images import load_frame, load_mask, plain_frame
from avscenes.media.spectrogram import published_spectrogram
from avscenes.sets.flickr import read_boxes
from avscenes.sets.testsets import KINDS

SETS = [name for name in KINDS if name != "synthetic"]
MASKS = ["avsbench-s4", "avsbench-ms3", "is3-masks"]


def run(checkpoint, dataset, options, *more):
    return run_script(
        evaluate,
        *("--checkpoint", checkpoint, "--dataset", dataset),
        *chain(*options.items()),
        *("--workers", 0, "--max-missing", 0.5, "--device", "cpu", "--batch-size", 4, *more),
    )


def evaluated(checkpoint, dataset, options, *more):
    """Return the figures and the rows of samples."""
    assert run(checkpoint, dataset, options, "--output-dir", checkpoint.parent / "out", *more) == 0
    rows = read_rows(checkpoint.parent / "out" / "samples.csv")
    return json.loads((checkpoint.parent / "out" / "metrics.json").read_text()), rows


def cells_of(printed):
    """Return the cells of each line of a table by their label."""
    lines = [re.split(r" {2,}", line) for line in printed.splitlines() if line]
    return {label: cells for label, *cells in lines}


@torch.no_grad()
def by_hand(encoders, files):
    """Return maps and features of pairs of files."""
    visual = torch.cat([encoders[0](plain_frame(load_frame(image))[None]) for image, _ in files])
    waves = [load_wave(sound) for _, sound in files]
    spectrograms = [published_spectrogram(wave, SAMPLE_RATE).float() for wave in waves]
    audio = torch.cat([encoders[1](spectrogram[None, None]) for spectrogram in spectrograms])
    return functional.localization_map(visual, audio), visual, audio


def files_of(dataset, names, root):
    """Return the image and the sound of each sample, found without the readers under test."""
    every = {path.name: path for path in root.rglob("*.*") if "gt_" not in str(path)}
    found = []
    for name in names:
        video, _, sound = name.partition("+")
        if dataset.startswith("avsbench"):
            sound = name.rpartition("_")[0]
            video = name if dataset.endswith("s4") else f"{sound}.mp4_{name[-1]}"
            found.append((every[f"{video}.png"], every[f"{sound}.wav"]))
        else:
            found.append((every[f"{video}.jpg"], every[f"{sound or video}.wav"]))
    return found


def truth_of(dataset, names, root):
    """Return the ground truth of samples that show a source."""
    if dataset in MASKS:
        masks = {path.stem: path for path in root.rglob("gt_*/**/*.png")}
        return torch.stack([load_mask(masks[name]) for name in names])
    if "flickr" in dataset:
        found = [read_boxes(root / "boxes" / f"{name}.xml") for name in names]
        return torch.stack([metrics.ground_truth_map(boxes, 224, 2) for boxes in found])
    if dataset == "is3":
        entries = json.loads((root / "is3.json").read_text())
        boxes = {e["image"][5:-4]: [[v / 224 for v in e["gt_box"]]] for e in entries}
    else:
        boxes = {e["file"]: e["bbox"] for e in json.loads((root / "vggss.json").read_text())}
    return torch.stack([metrics.ground_truth_map(boxes[name], 224) for name in names])
