"""AVSBench: five frames of each video with masks of what sounds, one source (S4) or more (MS3)."""

from __future__ import annotations

from pathlib import Path

from avscenes.files.errors import UserError
from avscenes.sets.annotated import Sample
from avscenes.sets.clips import Clip, files_by_name
from avscenes.sets.ids import finder, without_ending
from avscenes.sets.lists import Row, read_rows

FRAMES = range(1, 6)
SPLITS = ("train", "val", "test")


def read_split(option: str, path: Path, split: str) -> list[dict[str, str]]:
    """Return the rows of `s4_meta_data.csv` or `ms3_meta_data.csv` that belong to a split.

    The first column is the name of the video, `split` its split and `category`, in S4, its class.
    A video that is repeated counts once.

    Raises:
        UserError: When the file cannot be read, has another form, a video with two classes, or no
            row of the split.
    """
    header, *rows = read_rows(option, path) or [Row(1, [])]
    columns = [cell.strip() for cell in header.cells]
    if "split" not in columns[1:]:
        raise UserError(f"{option}: {path} must have a header with a column 'split'")
    videos: dict[str, dict[str, str]] = {}
    needed = max(columns.index(name) for name in ("split", "category") if name in columns)
    for line, cells in rows:
        row = dict(zip(columns, (cell.strip() for cell in cells), strict=False))
        # A comma in a cell without quotes moves the split to another column.
        moved = any(cells[len(columns) :]) and row["split"] not in SPLITS
        if len(cells) <= needed or moved:
            raise UserError(
                f"{option}: line {line} of {path} must have {len(columns)} columns, as the header, "
                f"got {','.join(cells)!r}"
            )
        if row["split"] != split:
            continue
        video = {"video": row[columns[0]], "category": row.get("category", "")}
        if (first := videos.setdefault(video["video"], video)) != video:
            raise UserError(
                f"{option}: line {line} of {path} has {video['video']} again, of the class "
                f"{video['category']!r} and not {first['category']!r}"
            )
    if not videos:
        raise UserError(f"{option}: {path} has no video of the split {split!r}")
    return list(videos.values())


def _written(folder: Path, video: str) -> str:
    """Return the name under which a folder of sounds has a video."""
    return finder(files_by_name(folder, (".wav",)))(video) or without_ending(video)


def s4_samples(root: Path, videos: list[dict[str, str]], split: str = "test") -> list[Sample]:
    """Return the frames of single-source videos; those of the training split have one mask only."""
    samples = []
    for row in videos:
        category = row["category"]
        video = _written(root / "audio_wav" / split / category, row["video"])
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
        video = _written(root / "audio_wav" / split, row["video"])
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
