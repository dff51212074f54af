"""AVSBench: five frames of each video with masks of what sounds, one source (S4) or more (MS3)."""

from __future__ import annotations

import csv
from pathlib import Path

from avscenes.files.errors import UserError, reason_of
from avscenes.sets.annotated import Sample
from avscenes.sets.clips import Clip

FRAMES = range(1, 6)


def read_split(option: str, path: Path, split: str) -> list[dict[str, str]]:
    """Return the rows of `s4_meta_data.csv` or `ms3_meta_data.csv` that belong to a split.

    The first column is the name of the video, `split` its split and `category`, in S4, its class.

    Raises:
        UserError: When the file cannot be read, has another form, or no row of the split.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.DictReader(lines)
            columns = list(reader.fieldnames or [])
            rows = [row for row in reader if row.get("split") == split]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{option}: cannot read {path}: {reason_of(error)}") from error
    if "split" not in columns[1:]:
        raise UserError(f"{option}: {path} must have a header with a column 'split'")
    if not rows:
        raise UserError(f"{option}: {path} has no video of the split {split!r}")
    return [{"video": row[columns[0]] or "", "category": row.get("category") or ""} for row in rows]


def s4_samples(root: Path, videos: list[dict[str, str]], split: str = "test") -> list[Sample]:
    """Return the frames of single-source videos; those of the training split have one mask only."""
    samples = []
    for row in videos:
        video, category = row["video"], row["category"]
        place = Path(split, category, video)
        for number in FRAMES if split != "train" else FRAMES[:1]:
            name = f"{video}_{number}"
            clip = Clip(
                name,
                root / "visual_frames" / place / f"{name}.png",
                root / "audio_wav" / split / category / f"{video}.wav",
            )
            mask = root / "gt_masks" / place / f"{name}.png"
            samples.append(Sample(clip, category, mask=mask))
    return samples


def ms3_samples(root: Path, videos: list[dict[str, str]], split: str = "test") -> list[Sample]:
    """Return the frames of videos with several sources."""
    samples = []
    for row in videos:
        video = row["video"]
        for number in FRAMES:
            name = f"{video}_{number}"
            clip = Clip(
                name,
                root / "visual_frames" / video / f"{video}.mp4_{number}.png",
                root / "audio_wav" / split / f"{video}.wav",
            )
            mask = root / "gt_masks" / split / video / f"{name}.png"
            samples.append(Sample(clip, mask=mask))
    return samples
