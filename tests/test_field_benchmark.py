import csv

import field_benchmark
import pytest
import torch


def test_each_loss_is_measured_beside_its_plain_form(tmp_path, capsys):
    output, threads = tmp_path / "field.csv", torch.get_num_threads()
    try:
        assert field_benchmark.main(["--smoke", "--output", str(output)]) == 0
    finally:
        torch.set_num_threads(threads)
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["loss"], int(row["batch"])) for row in rows] == [
        (loss, size.batch)
        for loss in ("alignment", "soft mask")
        for size in field_benchmark.SMOKE_SIZES
    ]
    assert str(output) in capsys.readouterr().out
    for row in rows:
        ratio = float(row["plain_ms"]) / float(row["ours_ms"])
        assert float(row["times_as_fast"]) == pytest.approx(ratio, rel=1)
        assert int(row["plain_bytes"]) > 0
        assert int(row["ours_bytes"]) > 0


def test_a_form_that_differs_is_not_measured(tmp_path, monkeypatch):
    exact = field_benchmark.plain_alignment
    monkeypatch.setattr(field_benchmark, "plain_alignment", lambda *inputs: 1.01 * exact(*inputs))
    with pytest.raises(SystemExit, match="alignment at b=6 d=8 3x3 differs from its plain form"):
        field_benchmark.main(["--smoke", "--output", str(tmp_path / "field.csv")])


def test_the_published_results_keep_the_memory_that_is_promised():
    path = field_benchmark.ROOT / "benchmarks" / "results" / "field_cpu.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["loss"] for row in rows} == set(field_benchmark.SIZES)
    for row in rows:
        size = field_benchmark.Size(
            *(int(row[name]) for name in ("batch", "channels", "height", "width"))
        )
        if row["loss"] == "soft mask":
            assert int(row["ours_bytes"]) <= size.memory_budget
        else:
            assert int(row["ours_bytes"]) <= 1.25 * int(row["plain_bytes"])
