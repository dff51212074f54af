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

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

import avcontrast
from avscenes.files.errors import UserError
from avscenes.files.whole_files import write_json, write_table
from avscenes.models.encoders import ResNet18
from avscenes.models.object_maps import load_object_network
from avscenes.options.parser import ModelParser
from avscenes.pictures.gallery import draw_gallery
from avscenes.pictures.one_pair import draw_pair
from avscenes.sets.testsets import NamedTests, read_tests
from avscenes.testing.figures import all_figures, counts, sample_rows
from avscenes.testing.run import Tested, run_tests
from avscenes.testing.settings import OnePair, Options, WholeSet, check, complete
from avscenes.testing.table import describe, table
from avscenes.training.trained import Trained, load_trained

DESCRIPTION = """\
Evaluate a checkpoint of train_fnac.py on a test set, or draw the heat map of one image and sound.

What is not given is as in the run of the checkpoint."""


def build_parser() -> ModelParser[Options]:
    """Return the parser of the command line."""
    groups = {"dataset": "a test set", "image": "one pair, instead of a test set"}
    return ModelParser(Options, "evaluate.py", DESCRIPTION, groups=groups)


def check_free(option: str, path: Path) -> None:
    """Raise `UserError` when there is something already, or nothing can be made there."""
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise UserError(f"{option}: {path} holds results already; name another place")
    nearest = next(parent for parent in path.absolute().parents if parent.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK)):
        raise UserError(f"{option}: cannot make {path}: {nearest} is no writable folder")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a folder that takes its place at the end, and is removed when something goes wrong."""
    partial = path.with_name(f".{path.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.is_dir():
            path.rmdir()
        partial.replace(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def caption(trained: Trained, tests: NamedTests, tested: Tested, settings: WholeSet) -> str:
    """Return what the figures of a table belong to."""
    silent, lost = int((~tested.visible).sum()), len(tested.skipped)
    epoch = f" (epoch {trained.epoch})" if trained.epoch else ""
    lines = [
        f"{settings.checkpoint}{epoch}, {settings.dataset}: {len(tested.rows)} pairs"
        + (f", {silent} of them silent" if tests.labelled.silent else "")
        + (f", {lost} left out" if lost else ""),
        describe(settings.protocol),
    ]
    if tested.objects is not None:
        lines.append(f"mix: {1 - settings.object_share:g} model + {settings.object_share:g} OGL")
    return "\n".join(lines)


def evaluate(options: Options) -> None:
    """Test a checkpoint, and write and print what comes out."""
    trained = load_trained(options.checkpoint, options.device)
    settings = complete(options, trained.folder, trained.settings)
    output = settings.output_dir
    check_free("--output-dir", output)
    objects = _object_network(options)
    tests = read_tests(settings.dataset, settings.test_size, dict(settings))
    tested = run_tests(trained, objects, tests, settings)
    for entry in tested.skipped:
        print(f"left out: clip {entry.clip}: {entry.reason}")
    results = all_figures(tests, tested, dataset=settings.dataset, protocol=settings.protocol)
    title = caption(trained, tests, tested, settings)
    text = f"{title}\n\n{table(results, settings.protocol)}"
    with whole_folder(output) as folder:
        write_json(
            folder / "metrics.json",
            {
                **results,
                "checkpoint": str(settings.checkpoint),
                "epoch": trained.epoch,
                "dataset": settings.dataset,
                "protocol": settings.protocol,
                "object_share": None if objects is None else settings.object_share,
                **counts(tests, tested, settings.dataset),
                "avcontrast": avcontrast.__version__,
                "torch": torch.__version__,
            },
        )
        rows = sample_rows(tests, tested)
        write_table(folder / "samples.csv", list(rows[0]), rows)
        if tested.skipped:
            lost = [{"clip": entry.clip, "reason": entry.reason} for entry in tested.skipped]
            write_table(folder / "left_out.csv", ["clip", "reason"], lost)
        (folder / "table.txt").write_text(f"{text}\n", encoding="utf-8")
        draw_gallery(
            folder / "gallery.png",
            tests,
            tested,
            protocol=settings.protocol,
            object_share=settings.object_share,
            name=f"{settings.dataset}, {settings.protocol}",
        )
    print(f"{text}\n\nwritten to {output}")


def draw_one(pair: OnePair) -> None:
    """Draw the heat map of one image and one sound."""
    check_free("--output", pair.output)
    trained = load_trained(pair.checkpoint, pair.device)
    draw_pair(trained, _object_network(pair), pair)
    print(f"written to {pair.output}")


def _object_network(options: Options) -> ResNet18 | None:
    if options.object_weights is None:
        return None
    return load_object_network(options.object_weights, options.device)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    try:
        options = build_parser().read(arguments)
        check(options)
        if options.image is None:
            evaluate(options)
        else:
            draw_one(OnePair.model_validate(options.model_dump(exclude_none=True)))
    except UserError as error:
        print(f"evaluate.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 128 + 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
