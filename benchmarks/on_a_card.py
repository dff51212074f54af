"""Everything that a card is needed for, in one command and within a given time.

    python benchmarks/on_a_card.py                 12 minutes; writes benchmarks/results/card-NAME
    python benchmarks/on_a_card.py --budget 9 --only tests "loss *"
    python benchmarks/on_a_card.py --rehearse      tiny sizes in Triton's interpreter, no card

The steps run one after the other, each in a process of its own and for no longer than its share of
the time that is left; a step that ends early leaves its time to the others. After each step all
results are written, as CSV files and one JSON, so that nothing is lost when the time ends. A step
whose packages are not there is skipped. ``card_report.py`` makes tables and plots of the folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

from card_steps import ROOT, Step, script, steps

RESULTS = ROOT / "benchmarks" / "results"
RECORD = "card.json"
MINUTES = 12.0
LEAST_SECONDS = 1.0
"""Left, without which no step is started."""

SAID_LINES = 60
"""Of what a step printed that are kept."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--budget", type=float, default=MINUTES, metavar="MINUTES", help="for all steps together"
    )
    parser.add_argument("--only", nargs="+", metavar="STEP", help="names or patterns of steps")
    parser.add_argument("--rehearse", action="store_true", help="without a card, at tiny sizes")
    parser.add_argument("--list", action="store_true", help="print the names of the steps")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for the results")
    options = parser.parse_args(arguments)
    chosen = [
        step
        for step in steps(options.rehearse)
        if options.only is None or any(fnmatch(step.name, pattern) for pattern in options.only)
    ]
    if not chosen:
        parser.error(f"--only: no step is called {' or '.join(options.only)}; see --list")
    if options.list:
        print("\n".join(step.name for step in chosen))
        return 0
    started = time.monotonic()
    facts = read_facts(options.rehearse)
    if not options.rehearse and facts.get("device") != "cuda":
        print("no CUDA device is available; --rehearse does without", file=sys.stderr)
        return 2
    folder = options.output or default_folder(options.rehearse, facts)
    record = begin(folder, options.rehearse, facts)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what ran so far is kept
    outcomes = run_all(chosen, record, folder, started + 60 * options.budget)
    print(f"wrote {folder}")
    return 0 if set(outcomes) <= {"done", "skipped"} else 1


def read_facts(rehearse: bool) -> dict[str, Any]:
    """Return what the card and the versions are; in a process of its own, which leaves the card."""
    command = [sys.executable, *script("card_measurements.py", rehearse, "facts")]
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment(rehearse), check=False
    )
    if done.returncode:
        raise SystemExit(f"the package cannot be used here: {done.stderr.strip()[-300:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def environment(rehearse: bool) -> dict[str, str]:
    """Return the variables of a step: the package is found where it is not installed."""
    folders = [str(ROOT / name) for name in ("src", "benchmarks", "tests", "examples")]
    folders += filter(None, [os.environ.get("PYTHONPATH")])
    variables = {"PYTHONPATH": os.pathsep.join(folders), "PYTHONUNBUFFERED": "1"}
    variables["PYTEST_ADDOPTS"] = ""  # that of another test run may ask for what is not here
    return {**os.environ, **variables, **({"TRITON_INTERPRET": "1"} if rehearse else {})}


def default_folder(rehearse: bool, facts: dict[str, Any]) -> Path:
    """Return where the results of this card are; those of a rehearsal are not among them."""
    if rehearse:
        return ROOT / "build" / "card-rehearsal"
    name = re.sub(r"[^a-z0-9]+", "-", facts["device_name"].lower()).strip("-")
    return RESULTS / f"card-{name}"


def begin(folder: Path, rehearse: bool, facts: dict[str, Any]) -> dict[str, Any]:
    """Return the record to go on with: that of the folder, if it is of this card and versions."""
    path = folder / RECORD
    record: dict[str, Any] = {"rehearsal": rehearse, "facts": facts, "steps": [], "tests": []}
    if path.is_file():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before["rehearsal"] != rehearse or identity(before["facts"]) != identity(facts):
            raise SystemExit(f"{folder} holds the results of another card or of other versions")
        record |= {"steps": before["steps"], "tests": before["tests"]}
    write_record(record, folder)
    return record


def identity(facts: dict[str, Any]) -> list[Any]:
    """Return what has to be the same for results that are put together."""
    return [facts.get(name) for name in ("device_name", "torch", "triton", "cuda", "driver")]


def write_record(record: dict[str, Any], folder: Path) -> None:
    """Write the JSON as a whole."""
    write_text(folder / RECORD, json.dumps(record, indent=1) + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a file as a whole, so that it is there at any moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


def run_all(
    chosen: Sequence[Step], record: dict[str, Any], folder: Path, deadline: float
) -> list[str]:
    """Run steps until a moment of the monotonic clock; return what became of each."""
    outcomes = []
    for number, step in enumerate(chosen):
        left = deadline - time.monotonic()
        limit = time_limit(left, step, chosen[number:])
        print(f"{step.name}: at most {max(limit, 0):.0f} s", flush=True)
        with tempfile.TemporaryDirectory() as scratch:
            outcome = run_step(step, limit, Path(scratch), environment(record["rehearsal"]))
            keep(step, outcome, Path(scratch), record, folder)
        print(f"  {outcome['outcome']} {outcome['seconds']:.0f} s {outcome['reason']}", flush=True)
        outcomes.append(outcome["outcome"])
        if outcomes[-1] == "interrupted":
            break
    return outcomes


def time_limit(left: float, step: Step, rest: Sequence[Step]) -> float:
    """Return a step's share of the time that is left, of which it is the first to have one."""
    if not step.share:
        return left
    return left * step.share / sum(other.share for other in rest)


def run_step(step: Step, limit: float, scratch: Path, variables: dict[str, str]) -> dict[str, Any]:
    """Run a step and return what became of it."""
    told = {"step": step.name, "outcome": "skipped", "seconds": 0.0, "limit_s": round(limit, 1)}
    lacking = [name for name in step.needs if find_spec(name) is None]
    lacking += [name for name in [step.program] if name and which(name) is None]
    if lacking:
        return {**told, "reason": f"without {', '.join(lacking)}", "said": []}
    if limit < LEAST_SECONDS:
        return {**told, "reason": "no time was left", "said": []}
    command = [str(scratch / "output") if part == "OUTPUT" else part for part in step.command]
    started = time.monotonic()
    with (scratch / "said").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            stdout=said,
            stderr=subprocess.STDOUT,
            env={**variables, "TEST_OUTCOMES": str(scratch / "outcomes.jsonl")},
            start_new_session=True,
        )
        try:
            status = process.wait(limit)
            outcome = ("failed", f"exit status {status}") if status else ("done", "")
        except subprocess.TimeoutExpired:
            outcome = "out of time", "its results so far are kept"
        except KeyboardInterrupt:
            outcome = "interrupted", "its results so far are kept"
        finally:
            end(process)
    lines = (scratch / "said").read_text(encoding="utf-8", errors="replace").splitlines()
    seconds = round(time.monotonic() - started, 1)
    found = {"outcome": outcome[0], "reason": outcome[1], "seconds": seconds}
    return {**told, **found, "said": lines[-SAID_LINES:]}


def end(process: subprocess.Popen[bytes]) -> None:
    """End a step with all processes that it has started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def keep(
    step: Step, outcome: dict[str, Any], scratch: Path, record: dict[str, Any], folder: Path
) -> None:
    """Put what a step has left in the place of what it left before, and write everything."""
    tests = scratch / "outcomes.jsonl"
    if tests.is_file():
        lines = tests.read_text(encoding="utf-8").splitlines()
        others = [test for test in record["tests"] if test["step"] != step.name]
        record["tests"] = others + [{"step": step.name, **json.loads(line)} for line in lines]
    output = scratch / "output"
    table = output / "metrics.csv" if output.is_dir() else output
    if table.is_file():
        add_rows(folder / step.output, step.name, table)
    others = [one for one in record["steps"] if one["step"] != step.name]
    record["steps"] = [*others, outcome]
    write_record(record, folder)


def add_rows(path: Path, name: str, table: Path) -> None:
    """Put the lines of a table into the file of all steps, in the place of those before."""
    with table.open(newline="", encoding="utf-8") as file:
        rows = [{"step": name, **row} for row in csv.DictReader(file)]
    before = []
    if path.is_file():
        with path.open(newline="", encoding="utf-8") as file:
            before = [row for row in csv.DictReader(file) if row["step"] != name]
    rows = before + rows
    if not rows:
        return
    partial = path.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[-1]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(partial, path)


if __name__ == "__main__":
    sys.exit(main())
