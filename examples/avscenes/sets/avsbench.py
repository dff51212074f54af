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


def avsbench_samples(
    root: Path, videos: list[dict[str, str]], *, several: bool = False
) -> list[Sample]:
    """Return the frames of videos with one source, whose folders are named by classes, or several.

    Args:
        root: Folder with `visual_frames`, `audio_wav` and `gt_masks`.
        videos: Of the test, as `read_split` returns them.
        several: Whether they are of MS3, which has no classes, and not of S4.
    """
    samples = []
    for row in videos:
        category = "" if several else row["category"]
        folder = Path("test", category)
        sounds = root / "audio_wav" / folder
        # The name under which the folder has the video.
        video = finder(files_by_name(sounds, (".wav",)))(row["video"])
        video = video or without_ending(row["video"])
        frames = root / "visual_frames" / ("" if several else folder) / video
        for number in FRAMES:
            name = f"{video}_{number}"
            frame = f"{video}.mp4_{number}.png" if several else f"{name}.png"
            clip = Clip(name, frames / frame, sounds / f"{video}.wav")
            mask = root / "gt_masks" / folder / video / f"{name}.png"
            samples.append(Sample(clip, category, mask=mask))
    return samples
