import csv

import loss_benchmark
import pytest
import torch

from avcontrast import FNACLoss, ops

NUMBERS = ("p20_ms", "median_ms", "p80_ms", "wall_median_ms")


def run(*arguments):
    threads = torch.get_num_threads()
    try:
        return loss_benchmark.main([str(argument) for argument in arguments])
    finally:
        torch.set_num_threads(threads)


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results" / "loss.csv"


def test_smoke_run_and_its_pictures(results, tmp_path, capsys):
    assert run("--smoke", "--output", results) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("date ")
    assert "threads      1\n" in printed
    assert f"torch        {torch.__version__}\n" in printed
    reason = ops.unsupported_reasons("triton", torch.ones(2, 2, 1, 1), torch.ones(2, 2))[0]
    assert f"triton does not run: {reason}" in printed
    assert printed.count("parity with dense in float64") == 2
    chosen = ops.select_backend("auto", torch.ones(6, 8, 3, 3), torch.ones(6, 8))
    assert f"auto ({chosen})" in printed

    rows = read(results)
    keys = [(row["batch"], row["implementation"], row["mode"]) for row in rows]
    assert len(set(keys)) == len(keys) == 2 * 3 * 3
    assert {row["implementation"] for row in rows} == {"dense", "blockwise", "auto"}
    for row in rows:
        p20, median, p80, wall = (float(row[name]) for name in NUMBERS)
        assert 0 < p20 <= median <= p80
        assert wall > 0
        assert 0 < int(row["extra_bytes"]) <= int(row["budget_bytes"])
        assert float(row["loss_error"]) <= 1e-5
        assert float(row["gradient_error"]) <= 1e-3
        assert row["rounds"] == "2"
        assert (row["clock"], row["threads"], row["dtype"]) == ("process", "1", "float32")
        assert row["device_name"]
        assert row["torch"] == torch.__version__

    images = tmp_path / "images"
    assert run("--plot", "--output", results, "--images", images) == 0
    assert {path.name for path in images.iterdir()} == {"time.svg", "memory.svg", "memory.png"}
    assert (images / "memory.png").read_bytes().startswith(b"\x89PNG")
    first = (images / "time.svg").read_bytes()
    assert run("--plot", "--output", results, "--images", images) == 0
    assert (images / "time.svg").read_bytes() == first


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_other_dtypes_threads_and_loss(dtype, results):
    assert (
        run(
            *("--smoke", "--dtype", dtype, "--threads", 2, "--loss", "nce"),
            *("--batch-sizes", 5, "--channels", 4, "--positions", "2x3", "--output", results),
        )
        == 0
    )
    row = read(results)[0]
    assert (row["dtype"], row["clock"], row["loss"]) == (dtype, "wall", "nce")
    assert [row[name] for name in ("batch", "channels", "height", "width")] == ["5", "4", "2", "3"]
    assert int(row["budget_bytes"]) == 2 * 5 * 4 * 2 * 3 + 7 * 5**2 + 16_000_000


@pytest.mark.slow
def test_compiled_form(results):
    assert run("--smoke", "--implementations", *loss_benchmark.BASELINES, "--batch-sizes", 6,
               "--output", results) == 0  # fmt: skip
    assert {row["implementation"] for row in read(results)} == set(loss_benchmark.BASELINES)


def wrong_loss(value):
    return 1.01 * value


def wrong_gradient(value):
    return 1.01 * value - 0.01 * value.detach()


def not_a_number(value):
    return value * float("nan")


@pytest.mark.parametrize("change", [wrong_loss, wrong_gradient, not_a_number])
def test_gate_stops_at_an_implementation_that_differs(change, results, monkeypatch, capsys):
    exact = ops.blockwise.contrast
    monkeypatch.setattr(
        ops.blockwise, "contrast", lambda *inputs: [change(value) for value in exact(*inputs)]
    )
    assert run("--smoke", "--output", results) == 1
    printed = capsys.readouterr()
    assert "blockwise at b=6 d=8 3x3 differs from dense in float64: loss by" in printed.err
    assert "median" not in printed.out
    assert not results.exists()


def test_plain_form_beyond_the_memory_limit_is_reported(results, capsys):
    assert run("--smoke", "--memory-limit", 1e-6, "--output", results) == 0
    printed = capsys.readouterr().out
    assert "dense does not run: needs about" in printed
    assert "parity with blockwise in float64" in printed
    assert "dense" not in {row["implementation"] for row in read(results)}


def test_nothing_can_run(results, capsys):
    assert run("--smoke", "--implementations", "triton", "--output", results) == 1
    assert "no implementation could run" in capsys.readouterr().err
    assert not results.exists()


def test_extra_memory_is_what_was_allocated():
    visual, audio = torch.ones(4, 1000, requires_grad=True), torch.ones(4, requires_grad=True)

    def criterion(visual, audio):
        return (visual.exp() * audio[:, None]).sum()

    step = loss_benchmark.Step(criterion, visual, audio)
    extra = loss_benchmark.extra_bytes(step)
    exponentials = products = visual.nbytes
    assert extra["forward"] >= exponentials + products
    assert extra["forward"] <= exponentials + products + 1000
    assert extra["both"] == max(extra["forward"], extra["backward"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch-sizes", "0"], "expected a positive integer, got 0"),
        (["--batch-sizes", "x"], "invalid positive value: 'x'"),
        (["--positions", "7"], "expected HxW, as in 7x7, got '7'"),
        (["--implementations", "magic"], "invalid choice: 'magic'"),
        (["--plot", "--output", "nowhere.csv"], "there is no file nowhere.csv"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        run(*arguments)
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="tells what happens without CUDA")
def test_no_cuda_device(capsys):
    with pytest.raises(SystemExit, match="2"):
        run("--device", "cuda")
    assert "no CUDA device is available" in capsys.readouterr().err


def test_plot_of_another_file(tmp_path, capsys):
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    assert run("--plot", "--output", path, "--images", tmp_path / "images") == 2
    assert "holds no results" in capsys.readouterr().err
    assert not (tmp_path / "images").exists()


def test_every_backend_is_measured():
    backends = {one.backend for one in loss_benchmark.IMPLEMENTATIONS.values()}
    assert backends == {*ops.BACKENDS, "auto"}
    assert isinstance(loss_benchmark.LOSSES["fnac"](), FNACLoss)
