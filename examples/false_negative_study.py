r"""Measure when false negatives hurt, and how much of the harm FNS and TNE undo.

    python examples/false_negative_study.py            # everything, about two hours on 2 cores
    python examples/false_negative_study.py --quick    # the same machinery, tiny, in two minutes
    python examples/false_negative_study.py --report --output-dir docs/evidence   # draw it again
    python examples/false_negative_study.py --cluster slurm   # each run a job of a cluster

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
from avscenes.options.parser import OneLineParser
from avstudy import runner
from avstudy.cluster import KINDS, Cluster
from avstudy.plan import QUICK, STUDY, read_plan


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
    add = parser.add_argument_group("more than one machine").add_argument
    add("--cluster", choices=KINDS, help="make each run a job, of Slurm or of this machine")
    add("--cluster-time", type=int, default=60, metavar="MINUTES", help="limit of each job")
    add("--cluster-parallel", type=int, default=100, metavar="N", help="jobs side by side")
    add("--cluster-memory", type=int, default=4, metavar="GB", help="memory of each job")
    add("--cluster-partition", metavar="NAME", help="the cluster's own choice if not given")
    return parser


def run(options: argparse.Namespace) -> None:
    """Do what the options ask for."""
    try:
        from avstudy import report, rows
    except ModuleNotFoundError as error:
        raise UserError(f'the study needs {error.name}: pip install ".[study]"') from error
    plan = read_plan(QUICK if options.quick else STUDY)
    name = "false-negatives-quick" if options.quick else "false-negatives"
    folder = options.output_dir or Path("runs") / name
    if not options.report:
        for name in ("jobs", "cluster_time", "cluster_parallel", "cluster_memory"):
            if (value := getattr(options, name)) < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        machines = options.cluster and Cluster(
            options.cluster,
            options.cluster_time,
            options.cluster_parallel,
            options.cluster_memory,
            options.cluster_partition,
        )
        stages = options.stages or plan.stages()
        unknown = [stage for stage in stages if stage not in plan.stages()]
        if unknown:
            raise UserError(f"--stages: no {unknown[0]}; there are {', '.join(plan.stages())}")
        for stage in stages:
            print(f"{stage}", flush=True)
            try:
                chosen = [run for run in plan.runs if run.stage == stage]
                runner.run_all(chosen, folder, options.jobs, plan.digest, machines)
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
