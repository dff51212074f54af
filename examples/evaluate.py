r"""Evaluate a trained model on a test set, beside what it has to be compared with.

    python examples/evaluate.py --checkpoint RUN/checkpoints/best.ckpt
    python examples/evaluate.py --checkpoint RUN/checkpoints/best.ckpt --protocol lvs \
        --object-weights resnet18.pth --output-dir results/lvs
    python examples/evaluate.py --checkpoint RUN/checkpoints/best.ckpt --dataset avsbench-s4 \
        --test-root AVSBench/Single-source/s4_data --test-list s4_meta_data.csv
    python examples/evaluate.py --checkpoint RUN/checkpoints/best.ckpt \
        --image street.jpg --sound siren.wav --output heat.png
    python examples/evaluate.py --checkpoint RUN/checkpoints/best.ckpt \
        --video street.mp4 --output heat.mp4 --strip heat.png

The first three write a table, every figure, the scores of every sample and a gallery into a folder
of their own; the fourth draws one heat map, the last one a map over each frame of a video.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from avscenes.files.errors import UserError
from avscenes.files.output import check_free, writing_to
from avscenes.media.footage import Unreadable, read_footage
from avscenes.models.encoders import ResNet18
from avscenes.models.object_maps import load_object_network
from avscenes.options.parser import ModelParser
from avscenes.pictures.heat_video import heat_video
from avscenes.pictures.one_pair import draw_pair
from avscenes.pictures.report import write_report
from avscenes.sets.clips import Unusable
from avscenes.sets.testsets import read_tests
from avscenes.testing.results import LEFT_OUT, caption, write_left_out
from avscenes.testing.run import Conditions, Networks, fed, run_part, whole_test
from avscenes.testing.settings import OnePair, OneVideo, Options, check, complete
from avscenes.testing.towers import trained_towers
from avscenes.training.trained import load_trained

DESCRIPTION = """\
Evaluate a checkpoint of train_fnac.py on a test set, or draw the heat map of one image and sound,
or over a video.

What is not given is as in the run of the checkpoint."""


def build_parser() -> ModelParser[Options]:
    """Return the parser of the command line."""
    groups = {
        "dataset": "a test set",
        "image": "one pair, instead of a test set",
        "video": "a video, instead of a test set",
    }
    return ModelParser(Options, "evaluate.py", DESCRIPTION, groups=groups)


def evaluate(options: Options) -> None:
    """Test a checkpoint, and write and print what comes out."""
    trained = load_trained(options.checkpoint, options.device)
    settings = complete(options, trained.folder, trained.settings)
    output = settings.output_dir
    check_free("--output-dir", output, leftover=LEFT_OUT)
    networks = Networks(
        fed(trained.visual), fed(trained.audio), _object_network(options), trained.projections
    )
    how = Conditions(settings.dataset, settings.protocol, settings.object_share)
    try:
        tests = read_tests(settings.dataset, settings.test_size, dict(settings))
        part = run_part(
            networks,
            tests,
            how,
            batch_size=settings.batch_size,
            workers=settings.workers,
            max_missing=settings.max_missing,
        )
        tested = whole_test([part], tests, how, settings.max_missing)
    except Unusable as error:
        with writing_to(output):
            listed = write_left_out(output, error.skipped)
        raise UserError(f"{error}; the list: {listed}") from error
    for entry in tested.skipped:
        print(f"left out: clip {entry.clip}: {entry.reason}")
    about = {"checkpoint": str(settings.checkpoint), "epoch": trained.epoch}
    with writing_to(output):
        title = caption(tests, tested, settings.checkpoint, trained.epoch)
        report = write_report(output, tests, tested, title, about)
    print(f"{report.text}\n\nwritten to {output}")


def draw_one(pair: OnePair) -> None:
    """Draw the heat map of one image and one sound."""
    check_free("--output", pair.output)
    trained = load_trained(pair.checkpoint, pair.device)
    with writing_to(pair.output.absolute().parent):
        draw_pair(trained, _object_network(pair), pair)
    print(f"written to {pair.output}")


def draw_video(options: OneVideo) -> None:
    """Draw the heat maps of a video over its frames."""
    check_free("--output", options.output)
    if options.strip is not None:
        check_free("--strip", options.strip)
    towers = trained_towers(load_trained(options.checkpoint, options.device))
    with writing_to(options.output.absolute().parent):
        try:
            footage = read_footage(options.video)
        except Unreadable as error:
            raise UserError(f"--video: {error}") from error
        for note in footage.notes:
            print(f"note: {note}")
        heat_video(
            towers,
            footage,
            options.output,
            strip=options.strip,
            batch_size=options.batch_size,
        )
    for path in filter(None, (options.output, options.strip)):
        print(f"written to {path}")


def _object_network(options: Options) -> ResNet18 | None:
    if options.object_weights is None:
        return None
    return load_object_network(options.object_weights, options.device)


def run(options: Options) -> None:
    """Do what the options ask for."""
    check(options)
    given = options.model_dump(exclude_none=True)
    if options.video is not None:
        draw_video(OneVideo.model_validate(given))
    elif options.image is not None:
        draw_one(OnePair.model_validate(given))
    else:
        evaluate(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    return build_parser().run(run, arguments, "nothing was written")


if __name__ == "__main__":
    sys.exit(main())
