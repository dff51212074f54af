import csv

import data_benchmark
import metrics_benchmark
import pytest
import torch

from avcontrast import metrics


def run(module, *arguments):
    threads = torch.get_num_threads()
    try:
        return module.main([str(argument) for argument in arguments])
    finally:
        torch.set_num_threads(threads)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_stage_of_the_input_is_measured(tmp_path, capsys):
    output = tmp_path / "results" / "data.csv"
    assert run(data_benchmark, "--quick", "--workers", 0, 1, "--output", output) == 0
    rows = {row["stage"]: row for row in read(output)}
    assert set(data_benchmark.OF_A_SAMPLE) < set(rows)
    assert {"training sample", "loader, 0 workers", "loader, 1 worker", "prepare a video"} < set(
        rows
    )
    for stage, row in rows.items():
        assert float(row["process_ms"]) > 0, stage
        assert float(row["samples_per_s"]) == pytest.approx(1e3 / float(row["wall_ms"]), rel=0.05)
        assert (row["rounds"], row["threads"], row["device"]) == ("1", "1", "cpu")
        assert float(row["load"]) >= 0
        assert all(row[name] for name in ("date", "device_name", "torch", "pillow", "av"))
    # A sample is made of its stages; one round on a busy machine says no more than this.
    parts = sum(float(rows[stage]["process_ms"]) for stage in data_benchmark.OF_A_SAMPLE)
    assert 0.3 < float(rows["training sample"]["process_ms"]) / parts < 3
    printed = capsys.readouterr().out
    assert "bottleneck: " in printed
    assert "samples/s; a batch of 256 every" in printed


def rows_of(**process_ms):
    common = dict.fromkeys(data_benchmark.Row.__dataclass_fields__, "")
    return [
        data_benchmark.Row(
            **{
                **common,
                "load": 0.5,
                "rounds": 3,
                "stage": stage.replace("_", " "),
                "process_ms": ms,
                "wall_ms": ms,
                "samples_per_s": 1e3 / ms,
            }
        )
        for stage, ms in process_ms.items()
    ]


def test_the_report_names_what_takes_most():
    rows = rows_of(decode_image=3.0, spectrogram=5.0, masks=2.0, test_sample=40.0, loader=4.0)
    report = data_benchmark.report(rows)
    assert "bottleneck: spectrogram, 50% of the 10.00 ms" in report
    assert "fastest: loader, 250 samples/s; a batch of 256 every 1.02 s" in report
    assert report.startswith("a sample, medians of 3 rounds, load 0.5")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--files", "0"], "expected a positive integer, got 0"),
        (["--workers", "0", "-1"], "--workers: must be at least 0, got -1"),
        (["--files", "32", "--batch", "600"], "--batch: must be at most 512 for 32 files"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(data_benchmark, *arguments)
    assert message in capsys.readouterr().err


def test_every_metric_is_measured(tmp_path, capsys):
    output = tmp_path / "metrics.csv"
    assert run(metrics_benchmark, "--quick", "--threads", 1, "--output", output) == 0
    rows = read(output)
    assert [row["task"] for row in rows] == list(metrics_benchmark.TASKS)
    for row in rows:
        assert float(row["wall_s"]) > 0
        assert (row["maps"], row["size"], row["threads"]) == ("40", "224", "1")
    assert "goal" not in capsys.readouterr().out


@pytest.mark.parametrize(("count", "batch"), [(40, 16), (2_500, 256), (1_000, 300), (7, 10)])
def test_as_many_maps_are_scored_as_are_asked_for(count, batch):
    pool = metrics_benchmark.samples(min(4, count))
    pool = pool._replace(maps=torch.zeros(min(1_000, count), 1, 1))
    parts = metrics_benchmark.batches(pool, count, batch)
    sizes = [part.stop - part.start for part in parts]
    assert sum(sizes) == count
    assert max(sizes) <= batch
    assert all(part.stop <= len(pool.maps) for part in parts)


def test_no_time_is_reported_for_wrong_scores(tmp_path, monkeypatch, capsys):
    exact = metrics.consensus_iou
    monkeypatch.setattr(metrics, "consensus_iou", lambda *inputs: 1.001 * exact(*inputs))
    output = tmp_path / "metrics.csv"
    assert run(metrics_benchmark, "--quick", "--output", output) == 1
    printed = capsys.readouterr()
    assert "scores differ from a plain loop: map 0, half" in printed.err
    assert "wall" not in printed.out
    assert not output.exists()
