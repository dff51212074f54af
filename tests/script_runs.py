"""Runs the scripts of the example in this process, and reads what they print and write."""

from __future__ import annotations

import csv
import json
import time


def run_script(script, *options):
    """Return the status that a script ends with, whose module is given."""
    try:
        return script.main([str(option) for option in options])
    except SystemExit as stop:
        return stop.code


def fault_of(capsys, script, *options):
    """Run with options that are wrong and return the one line that it prints."""
    assert run_script(script, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    begin = f"{script.__name__}.py: error: "
    assert line.startswith(begin)
    return line.removeprefix(begin)


def read_rows(path):
    """Return the rows of a table as dictionaries."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def change_settings(run, **changes):
    """Change the settings that are stored in the folder of a run."""
    config = run / "config.json"
    settings = json.loads(config.read_text())["settings"]
    config.write_text(json.dumps({"settings": settings | changes}))


def read_metrics(run):
    """Return the figures of a run that do not depend on the machine."""
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["seconds"]
    return metrics


def wait_for_rows(process, table, count, log):
    """Wait until another process has written rows of a table; `log` is what it prints."""
    deadline = time.monotonic() + 1200
    while not (table.exists() and len(read_rows(table)) >= count):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.005)
