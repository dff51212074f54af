r"""Evaluate a trained model on a test set, beside what it has to be compared with.

    python examples/evaluate.py --checkpoint RUN/checkpoints/best.ckpt
    python examples/evaluate.py --checkpoint RUN/checkpoints/best.ckpt --protocol lvs \
        --object-weights resnet18.pth --output-dir results/lvs
    python examples/evaluate.py --checkpoint RUN/checkpoints/best.ckpt --dataset avsbench-s4 \
        --test-root AVSBench/Single-source/s4_data --test-list s4_meta_data.csv
    python examples/evaluate.py --checkpoint RUN/checkpoints/best.ckpt \
        --image street.jpg --sound siren.wav --output heat.png

The first three write a table, every figure, the scores of every sample and a gallery into a folder
of their own; the last draws one heat map.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

import avcontrast
from avscenes.files.errors import UserError
from avscenes.files.output import check_free, writing_to
from avscenes.files.whole_files import write_json, write_table
from avscenes.models.encoders import ResNet18
from avscenes.models.object_maps import load_object_network
from avscenes.options.evaluation import complete, parse
from avscenes.pictures.gallery import draw_gallery
from avscenes.pictures.one_pair import draw_pair
from avscenes.sets.clips import Skipped, Unusable
from avscenes.sets.testsets import NamedTests, read_tests
from avscenes.testing.figures import all_figures, counts, sample_rows
from avscenes.testing.run import Tested, run_tests
from avscenes.testing.table import describe, table
from avscenes.training.trained import Trained, load_trained

LEFT_OUT = "left_out.csv"


def write_left_out(folder: Path, skipped: Sequence[Skipped]) -> None:
    """Write down which samples cannot be used, and why."""
    rows = [{"clip": entry.clip, "reason": entry.reason} for entry in skipped]
    write_table(folder / LEFT_OUT, ["clip", "reason"], rows)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a folder that takes its place at the end, and is removed when something goes wrong."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.is_dir():
            (path / LEFT_OUT).unlink(missing_ok=True)  # of an evaluation that was stopped
            path.rmdir()
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def caption(
    trained: Trained, tests: NamedTests, tested: Tested, options: argparse.Namespace
) -> str:
    """Return what the figures of a table belong to."""
    silent, lost = int((~tested.visible).sum()), len(tested.skipped)
    epoch = f" (epoch {trained.epoch})" if trained.epoch else ""
    lines = [
        f"{options.checkpoint}{epoch}, {options.dataset}: {len(tested.rows)} pairs"
        + (f", {silent} of them silent" if tests.labelled.silent else "")
        + (f", {lost} left out" if lost else ""),
        describe(options.protocol),
    ]
    if tested.objects is not None:
        lines.append(f"mix: {1 - options.object_share:g} model + {options.object_share:g} OGL")
    return "\n".join(lines)


def evaluate(options: argparse.Namespace) -> None:
    """Test a checkpoint, and write and print what comes out."""
    trained = load_trained(options.checkpoint, options.device)
    complete(options, trained.folder, trained.settings)
    output = Path(options.output_dir)
    check_free("--output-dir", output, leftover=LEFT_OUT)
    objects = _object_network(options)
    try:
        tests = read_tests(options)
        tested = run_tests(trained, objects, tests, options)
    except Unusable as error:
        with writing_to(output):
            write_left_out(output, error.skipped)
        raise UserError(f"{error}; the list: {output / LEFT_OUT}") from error
    for entry in tested.skipped:
        print(f"left out: clip {entry.clip}: {entry.reason}")
    results = all_figures(tests, tested, dataset=options.dataset, protocol=options.protocol)
    title = caption(trained, tests, tested, options)
    text = f"{title}\n\n{table(results, options.protocol)}"
    with writing_to(output), whole_folder(output) as folder:
        write_json(
            folder / "metrics.json",
            {
                **results,
                "checkpoint": str(options.checkpoint),
                "epoch": trained.epoch,
                "dataset": options.dataset,
                "protocol": options.protocol,
                "object_share": None if objects is None else options.object_share,
                **counts(tests, tested, options.dataset),
                "avcontrast": avcontrast.__version__,
                "torch": torch.__version__,
            },
        )
        rows = sample_rows(tests, tested)
        write_table(folder / "samples.csv", list(rows[0]), rows)
        if tested.skipped:
            write_left_out(folder, tested.skipped)
        (folder / "table.txt").write_text(f"{text}\n", encoding="utf-8")
        draw_gallery(
            folder / "gallery.png",
            tests,
            tested,
            protocol=options.protocol,
            object_share=options.object_share,
            name=f"{options.dataset}, {options.protocol}",
        )
    print(f"{text}\n\nwritten to {output}")


def draw_one(options: argparse.Namespace) -> None:
    """Draw the heat map of one image and one sound."""
    check_free("--output", Path(options.output))
    trained = load_trained(options.checkpoint, options.device)
    with writing_to(Path(options.output).absolute().parent):
        draw_pair(trained, _object_network(options), options)
    print(f"written to {options.output}")


def _object_network(options: argparse.Namespace) -> ResNet18 | None:
    if options.object_weights is None:
        return None
    return load_object_network(options.object_weights, options.device)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    try:
        options = parse(arguments)
        if options.image is None:
            evaluate(options)
        else:
            draw_one(options)
    except UserError as error:
        print(f"evaluate.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 128 + 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
