import csv
import os
import subprocess
import sys

import distributed_benchmark
import pytest
import torch
import torch.distributed as dist
from distributed_benchmark import Findings, complaints, counted
from measuring import Error

COLUMNS = [
    *("date", "device", "device_name", "cores", "threads", "python", "torch", "avcontrast"),
    *("communication", "dtype", "batch", "channels", "height", "width"),
    *("processes", "rank", "backend", "mode", "rounds", "clock"),
    *("p20_ms", "median_ms", "p80_ms", "wall_p20_ms", "wall_median_ms", "wall_p80_ms"),
    *("extra_bytes", "sent_bytes", "formula_bytes", "maps_bytes"),
    *("loss_error", "gradient_error"),
]

DOUBLED = """
import sys
import distributed_benchmark
from avcontrast.ops import _adjacency

once = _adjacency.all_reduce

def twice(*arguments, **options):
    once(*arguments, **options)
    return once(*arguments, **options)

_adjacency.all_reduce = twice
sys.exit(distributed_benchmark.main(sys.argv[1:]))
"""


def run(*arguments):
    return distributed_benchmark.main([str(argument) for argument in arguments])


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results" / "distributed.csv"


@pytest.mark.dist
def test_smoke_run(results, capsys):
    assert run("--smoke", "--processes", 1, 2, "--output", results) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("date ")
    assert f"cores        {distributed_benchmark.cores()}\n" in printed
    assert "dense      s (6 b d + 6 b + 16) + 1024 W\n" in printed
    assert "blockwise  s (6 b d + 11 b + 16) + 1024 W\n" in printed
    assert "2 processes: as a single one in float64" in printed

    with results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    keys = [(row["processes"], row["rank"], row["backend"], row["mode"]) for row in rows]
    assert len(set(keys)) == len(keys) == (1 + 2) * 2 * 3
    for row in rows:
        assert row["sent_bytes"] == row["formula_bytes"]
        assert 0 < float(row["p20_ms"]) <= float(row["median_ms"]) <= float(row["p80_ms"])
        assert 0 < float(row["wall_p20_ms"]) <= float(row["wall_median_ms"])
        assert int(row["extra_bytes"]) > 0
        assert float(row["loss_error"]) <= 1e-9
        assert float(row["gradient_error"]) <= 1e-8
        assert (row["communication"], row["clock"], row["batch"]) == ("gloo", "process", "12")
    b, d, maps = 12, 8, 12 * 8 * 9
    expected = {
        "dense": (4 * (6 * b * d + 6 * b + 16) + 2 * 1024) // 2,
        "blockwise": (4 * (6 * b * d + 11 * b + 16) + 2 * 1024) // 2,
    }
    for row in rows:
        if row["mode"] == "both":
            alone = row["processes"] == "1"
            assert int(row["sent_bytes"]) == (0 if alone else expected[row["backend"]])
            assert int(row["maps_bytes"]) == (0 if alone else 4 * (maps + b * d) // 2)


@pytest.mark.dist
def test_a_collective_too_many_fails_the_run(results, tmp_path):
    script = tmp_path / "doubled.py"
    script.write_text(DOUBLED)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    folder = os.path.dirname(distributed_benchmark.__file__)
    finished = subprocess.run(
        [*launcher, "--nproc-per-node=2", script, "--smoke", "--output", results],
        env={**os.environ, "PYTHONPATH": folder, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert finished.returncode != 0
    columns_twice = (4 * (6 * 96 + 11 * 12 + 6 * 12 + 16) + 2 * 1024) // 2
    assert (
        f"blockwise both, b=12, rank 1 of 2: sent {columns_twice} bytes, the formula says 2472"
    ) in finished.stderr
    assert "dense forward" not in finished.stderr
    assert "milliseconds" not in finished.stdout
    assert not results.exists()


@pytest.mark.parametrize("error", [Error(1e-8, 0.0), Error(0.0, 1e-7), Error(0.0, float("nan"))])
def test_the_gate_stops_at_another_loss(error, results, capsys):
    findings = Findings(2, {"dense": Error(0.0, 0.0), "blockwise": error}, [])
    options = distributed_benchmark.parse(["--smoke", "--output", str(results)])
    assert distributed_benchmark.report(iter([findings]), options) == 1
    assert complaints(findings)[0] in capsys.readouterr().err
    assert "blockwise in 2 processes differs from a single one: loss by" in complaints(findings)[0]
    assert not results.exists()


def test_what_goes_round_is_counted(monkeypatch):
    for name in distributed_benchmark.RING:
        monkeypatch.setattr(dist, name, lambda *arguments, **options: "done", raising=False)
    large, small = torch.ones(4, 3), torch.ones(2, 3)
    with counted() as payloads:
        assert dist.all_gather_single(large, small, group=None) == "done"
        dist.reduce_scatter_single(small, large)
        dist.all_reduce(small)
        with pytest.raises(RuntimeError, match="the bytes of broadcast are not counted"):
            dist.broadcast(small, 0)
    dist.all_reduce(small)
    assert payloads == [large.nbytes, large.nbytes, 2 * small.nbytes]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--processes", "0"], "expected a positive integer, got 0"),
        (["--processes", "5", "--smoke"], "b=12 cannot be split evenly among 5 processes"),
        (["--backends", "triton"], "invalid choice: 'triton'"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    assert message in capsys.readouterr().err
