r"""Measure when false negatives hurt, and how much of the harm FNS and TNE undo.

    python examples/false_negative_study.py            # everything, about two hours on 2 cores
    python examples/false_negative_study.py --quick    # the same machinery, tiny, in two minutes
    python examples/false_negative_study.py --report --output-dir docs/evidence   # draw it again

Every run leaves a file of its own in the output folder; a study that was interrupted goes on where
it was. What is run is written down in `avstudy/study.toml`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from avscenes.files.errors import UserError
from avscenes.files.output import writing_to
from avscenes.options.parser import OneLineParser
from avstudy import report, rows, runner
from avstudy.plan import QUICK, STUDY, Plan, read_plan


def build_parser() -> OneLineParser:
    """Return the parser of the command line."""
    parser = OneLineParser(
        prog="false_negative_study.py",
        description=(__doc__ or "").split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--output-dir", type=Path, help="runs/false-negatives[-quick] if not given")
    parser.add_argument("--quick", action="store_true", help="few, short runs that show it works")
    parser.add_argument("--stages", nargs="+", metavar="STAGE", help="run only these")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs side by side")
    parser.add_argument("--report", action="store_true", help="only draw from the CSV files")
    return parser


def run(options: argparse.Namespace) -> None:
    """Do what the options ask for."""
    plan = read_plan(QUICK if options.quick else STUDY)
    name = "false-negatives-quick" if options.quick else "false-negatives"
    folder = options.output_dir or Path("runs") / name
    with writing_to(folder, "; make room, and the same command goes on from here"):
        study(options, plan, folder)


def study(options: argparse.Namespace, plan: Plan, folder: Path) -> None:
    """Run what is missing, and draw."""
    if not options.report:
        if options.jobs < 1:
            raise UserError(f"--jobs must be at least 1, got {options.jobs}")
        stages = options.stages or plan.stages()
        unknown = [stage for stage in stages if stage not in plan.stages()]
        if unknown:
            raise UserError(f"--stages: no {unknown[0]}; there are {', '.join(plan.stages())}")
        for stage in stages:
            print(f"{stage}", flush=True)
            try:
                runner.run_all(
                    [r for r in plan.runs if r.stage == stage], folder, options.jobs, plan.digest
                )
            finally:
                rows.collect(plan, folder)
    for path in report.write(plan, folder):
        print(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    try:
        run(build_parser().parse_args(arguments))
    except UserError as error:
        print(f"false_negative_study.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 128 + 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
