import csv

import elimination_benchmark
import pytest
import torch

from avcontrast import functional


def test_both_losses_are_measured_on_features_of_which_some_are_left_out(tmp_path, capsys):
    output, threads = tmp_path / "elimination.csv", torch.get_num_threads()
    try:
        assert elimination_benchmark.main(["--smoke", "--output", str(output)]) == 0
    finally:
        torch.set_num_threads(threads)
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["batch"]) for row in rows] == [6, 12]
    assert str(output) in capsys.readouterr().out
    for row, size in zip(rows, elimination_benchmark.SMOKE_SIZES):
        out = functional.likely_false_negatives(*elimination_benchmark.kinds_of(size))
        assert float(row["left_out"]) == pytest.approx(out.double().mean().item(), abs=1e-4)
        assert out.any()
        assert float(row["time_ratio"]) > 0
        plain, ours = int(row["plain_bytes"]), int(row["elimination_bytes"])
        assert int(row["added_bytes"]) == ours - plain <= 16 * size.batch + 10**6


def test_the_published_results_keep_the_limits():
    with (elimination_benchmark.ROOT / "benchmarks/results/elimination_cpu.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["batch"]) for row in rows] == [128, 256, 512, 1024]
    for row in rows:
        assert float(row["time_ratio"]) <= 1.05
        assert int(row["added_bytes"]) <= 16 * int(row["batch"]) + 10**6
