"""Make frames/ID.jpg and audio/ID.wav from the video files in a folder.

    python examples/prepare.py VIDEOS OUT

ID is the name of a video without its ending. Started again, it goes on where it stopped.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, Field

from avscenes.files.strict import Count, File, option
from avscenes.options.parser import ModelParser
from avscenes.sets.preparation import SILENT, Failure, Note, Summary, prepare

_SHOWN = 20


class Options(BaseModel, strict=True, frozen=True):
    """The options."""

    videos: File = Field(title="VIDEOS", description="folder of video files")
    out: File = Field(title="OUT", description="folder to make frames and audio in")
    workers: Count = option(
        os.cpu_count() or 1, "processes that decode (default: one for each CPU core)"
    )


def _listed(rows: Sequence[Failure | Note]) -> list[str]:
    lines = [f"  {video}: {text}" for video, text in rows[:_SHOWN]]
    return lines + ([f"  and {len(rows) - _SHOWN} more"] if len(rows) > _SHOWN else [])


def report(summary: Summary, out: Path) -> str:
    """Return the lines that end a run."""
    failures, notes = summary.failures, summary.notes
    lines = [
        f"{summary.made} videos prepared, {summary.there_before} done before, "
        f"{len(failures)} failed",
        *_listed(failures),
    ]
    if failures:
        lines.append(f"all failures: {out / 'failed.csv'}")
    if notes:
        noted, silent = len({note.video for note in notes}), sum(n.note == SILENT for n in notes)
        lines += [f"{noted} of the clips have a note, {silent} of them a silent sound"]
        lines += [*_listed(notes), f"all notes: {out / 'notes.csv'}"]
    if summary.left:
        count = sum(left.files for left in summary.left)
        lines.append(f"{count} files were not taken for videos:")
        lines += [
            f"  {what}: {number}, first {path}" for what, number, path in summary.left[:_SHOWN]
        ]
        lines.append(f"all endings: {out / 'left.csv'}")
    if summary.listed:
        lines.append(f"{summary.listed} clips to train on are in {out / 'clips.txt'}")
    return "\n".join(lines)


def run(settings: Options) -> int:
    """Prepare the videos and say what came of it; 1 when some failed."""
    summary = prepare(settings.videos, settings.out, settings.workers)
    print(report(summary, settings.out))
    return 1 if summary.failures else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 when all is done, 1 when some failed, 2 for wrong usage."""
    description = "Make frames/ID.jpg and audio/ID.wav from video files."
    parser = ModelParser(Options, "prepare.py", description, positional=("videos", "out"))
    return parser.run(run, arguments, "the same command goes on where it stopped")


if __name__ == "__main__":
    sys.exit(main())
