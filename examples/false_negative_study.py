r"""Measure when false negatives hurt, and how much of the harm FNS and TNE undo.

    python examples/false_negative_study.py            # everything, about two hours on 2 cores
    python examples/false_negative_study.py --study elimination   # the loss that undoes harm
    python examples/false_negative_study.py --study field         # LVS, HardPos, Alignment
    python examples/false_negative_study.py --quick    # the same machinery, tiny, in two minutes
    python examples/false_negative_study.py --report --output-dir docs/evidence   # draw it again
    python examples/false_negative_study.py --cluster slurm   # each run a job of a cluster
    python examples/false_negative_study.py --data digits --recordings FOLDER   # something real

Every run leaves a file of its own in the output folder; a study that was interrupted goes on where
it was. What is run is written down in `avstudy/study.toml`, `elimination.toml`, `field.toml` and
`digits.toml`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel

from avscenes.files.errors import UserError
from avscenes.files.output import writing_to
from avscenes.files.strict import Count, File, OneOf, option
from avscenes.options.parser import ModelParser
from avstudy import recordings, runner
from avstudy.cluster import KINDS, Cluster
from avstudy.plan import DIGITS, ELIMINATION, FIELD, QUICK, QUICK_DIGITS, STUDY, Plan, read_plan

# The plan and the output folder, by the data, the study and whether it is the quick one.
PLANS = {
    ("scenes", "fnac", False): (STUDY, "false-negatives"),
    ("scenes", "fnac", True): (QUICK, "false-negatives-quick"),
    ("scenes", "elimination", False): (ELIMINATION, "elimination"),
    ("scenes", "field", False): (FIELD, "field"),
    ("digits", "elimination", False): (DIGITS, "digits"),
    ("digits", "elimination", True): (QUICK_DIGITS, "digits-quick"),
}


class Options(BaseModel, strict=True, frozen=True):
    """The options."""

    data: Literal["scenes", "digits"] = option(
        "scenes", "synthetic scenes, or written and spoken digits"
    )
    study: Literal["fnac", "elimination", "field"] | None = option(
        None,
        "what FNAC undoes, what elimination does, or what the other losses of the field do; of "
        "digits there is the second alone",
    )
    recordings: File | None = option(
        None,
        "of spoken digits: a clone of the Free Spoken Digit Dataset",
        title="FOLDER",
    )
    output_dir: File | None = option(
        None,
        "runs/false-negatives, runs/elimination, runs/field or runs/digits, [-quick], if not given",
    )
    quick: bool = option(False, "few, short runs that show it works")
    stages: list[str] | None = option(None, "run only these", title="STAGE")
    jobs: Count = option(os.cpu_count() or 1, "runs side by side")
    report: bool = option(False, "only draw from the CSV files")
    cluster: Annotated[str, OneOf(KINDS)] | None = option(
        None, "make each run a job, of Slurm or of this machine"
    )
    cluster_time: Count = option(60, "limit of each job", title="MINUTES")
    cluster_parallel: Count = option(100, "jobs side by side", title="N")
    cluster_memory: Count = option(4, "memory of each job", title="GB")
    cluster_partition: str | None = option(
        None, "the cluster's own choice if not given", title="NAME"
    )


def run(options: Options) -> None:
    """Do what the options ask for."""
    which = options.study or ("fnac" if options.data == "scenes" else "elimination")
    if (options.data, which, options.quick) not in PLANS:
        quick = " --quick" if options.quick else ""
        raise UserError(f"there is no --data {options.data} --study {which}{quick}")
    path, name = PLANS[options.data, which, options.quick]
    plan = read_plan(path)
    folder = options.output_dir or Path("runs") / name
    with writing_to(folder, "; make room, and the same command goes on from here"):
        study(options, plan, folder)


def study(options: Options, plan: Plan, folder: Path) -> None:
    """Run what is missing, and draw."""
    try:
        from avstudy import report, rows
    except ModuleNotFoundError as error:
        raise UserError(f'the study needs {error.name}: pip install ".[study]"') from error
    if not options.report:
        machines = None
        if options.cluster is not None:
            machines = Cluster(
                options.cluster,
                options.cluster_time,
                options.cluster_parallel,
                options.cluster_memory,
                options.cluster_partition,
            )
        spoken = find_recordings(options)
        stages = options.stages or plan.stages()
        unknown = [stage for stage in stages if stage not in plan.stages()]
        if unknown:
            raise UserError(f"--stages: no {unknown[0]}; there are {', '.join(plan.stages())}")
        for stage in stages:
            print(f"{stage}", flush=True)
            try:
                chosen = [run for run in plan.runs if run.stage == stage]
                runner.run_all(chosen, folder, options.jobs, plan.digest, machines, spoken)
            finally:
                rows.collect(plan, folder)
    for path in report.write(plan, folder):
        print(path)


def find_recordings(options: Options) -> recordings.Recordings | None:
    """Look through the recordings that digits need."""
    if options.data == "scenes":
        if options.recordings is not None:
            raise UserError("--recordings is of no use without --data digits")
        return None
    if options.recordings is None:
        raise UserError("--data digits needs --recordings FOLDER")
    if find_spec("sklearn") is None:
        raise UserError('--data digits needs scikit-learn: pip install ".[study]"')
    return recordings.find_recordings(options.recordings)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    description = (__doc__ or "").split("\n")[0]
    groups = {"cluster": "more than one machine"}
    parser = ModelParser(Options, "false_negative_study.py", description, groups=groups)
    return parser.run(run, arguments, "the same command goes on from here")


if __name__ == "__main__":
    sys.exit(main())
