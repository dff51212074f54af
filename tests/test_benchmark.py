import implementations
import loss_benchmark
import measuring
import parity
import plotting
import pytest
import released_form
import torch
from benchmark_runs import read, run

from avcontrast import FNACLoss, InfoNCE, ops

NUMBERS = ("p20_ms", "median_ms", "p80_ms", "wall_median_ms")


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results" / "loss.csv"


def test_smoke_run_and_its_pictures(results, tmp_path, capsys):
    assert run("--smoke", "--output", results) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("date ")
    assert "threads      1\n" in printed
    assert f"torch        {torch.__version__}\n" in printed
    assert "does not run" not in printed
    assert "TFLOP/s" not in printed
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
        assert float(row["product_ms"]) > 0
        assert int(row["operators"]) > 100
        assert 0 < int(row["extra_bytes"]) <= int(row["budget_bytes"])
        assert float(row["loss_error"]) <= 1e-5
        assert float(row["gradient_error"]) <= 1e-3
        assert row["rounds"] == "2"
        assert (row["clock"], row["threads"], row["dtype"]) == ("process", "1", "float32")
        assert row["device_name"]
        assert row["torch"] == torch.__version__
        assert (row["matmul_precision"], row["cuda"]) == ("highest", torch.version.cuda or "")

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


def test_vectors_against_a_matrix_for_each_direction(results, capsys):
    assert run("--smoke", "--loss", "vectors", "--output", results) == 0
    rows = read(results)
    assert {row["implementation"] for row in rows} == {"released", "dense", "blockwise", "auto"}
    assert {row["backend"] for row in rows if row["implementation"] == "auto"} == {"dense"}
    assert {(row["loss"], row["height"], row["width"]) for row in rows} == {("vectors", "1", "1")}
    assert all(float(row["gradient_error"]) < 1e-5 for row in rows)
    with pytest.raises(SystemExit, match="2"):
        run("--smoke", "--loss", "vectors", "--positions", "7x7")
    assert "--positions: vectors have none" in capsys.readouterr().err
    files = {"fnac": "loss_cpu.csv", "nce": "infonce_cpu.csv", "vectors": "vectors_cpu.csv"}
    for loss, name in files.items():
        assert loss_benchmark.parse(["--loss", loss]).output.name == name


def test_times_the_one_product(monkeypatch, results, capsys):
    def time_product(product, threads):
        assert product.rows.shape == (6 * 9, 8)
        assert product.audio.shape == (6, 8)
        return measuring.Lap(0.5, 0.5)

    monkeypatch.setattr(loss_benchmark, "time_product", time_product)
    options = ("--smoke", "--batch-sizes", 6, "--implementations", "blockwise")
    assert run(*options, "--output", results) == 0
    rows = read(results)
    assert {row["product_ms"] for row in rows} == {"0.5"}
    printed = capsys.readouterr().out
    assert "x product: times the one product of 0.50 ms" in printed
    _, line = printed.rsplit("both ", 1)
    times, operators = line.split()[4:6]
    assert float(times) == pytest.approx(float(rows[2]["median_ms"]) / 0.5, abs=0.02)
    assert operators == rows[2]["operators"]


@pytest.mark.parametrize("bytes_", [2**26, 8 * 5 * 4])
def test_the_product_is_all_positions_with_all_sounds(bytes_, monkeypatch):
    monkeypatch.setattr(measuring, "PRODUCT_BYTES", bytes_)
    size = measuring.Size(5, 3, 2, 4)
    visual, audio = measuring.features(size, torch.float32, "cpu")
    made = []
    monkeypatch.setattr(torch, "mm", lambda a, b, out, mm=torch.mm: made.append(mm(a, b).clone()))
    measuring.product_of(measuring.Step(InfoNCE(), visual, audio)).run()
    assert torch.equal(torch.cat(made), visual.reshape(-1, 3) @ audio.T)
    assert len(made) == (1 if bytes_ == 2**26 else 5)


@pytest.mark.slow
def test_compiled_forms(results, capsys):
    baselines = {*implementations.BASELINES, *implementations.BASELINES.values()}
    assert len(baselines) == 4
    assert run("--smoke", "--implementations", *sorted(baselines), "--batch-sizes", 6,
               "--output", results) == 0  # fmt: skip
    assert {row["implementation"] for row in read(results)} == baselines
    assert all(float(row["gradient_error"]) < 1e-5 for row in read(results))
    assert "released-compiled differs from dense in float64" in capsys.readouterr().out


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


def test_high_precision_lets_gradients_differ_more(results, monkeypatch, capsys):
    exact = ops.blockwise.contrast

    def contrast(*inputs):
        return [1.005 * value - 0.005 * value.detach() for value in exact(*inputs)]

    monkeypatch.setattr(ops.blockwise, "contrast", contrast)
    options = ("--smoke", "--implementations", "blockwise", "--output", results)
    assert run(*options) == 1
    assert "(allowed 0.001)" in capsys.readouterr().err
    assert run(*options, "--matmul-precision", "high") == 0
    assert {row["matmul_precision"] for row in read(results)} == {"high"}


@pytest.mark.parametrize(
    ("dtype", "precision", "loss", "gradient"),
    [
        (torch.float32, "highest", 1e-5, 1e-3),
        (torch.float32, "high", 3e-4, 1e-2),
        (torch.bfloat16, "highest", 5e-3, 2e-2),
        (torch.bfloat16, "high", 5e-3, 2e-2),
        (torch.float64, "high", 1e-9, 1e-8),
    ],
)
def test_tolerances(dtype, precision, loss, gradient):
    assert parity.tolerance(dtype, precision) == (loss, gradient)


def test_truth_of_large_batches_is_in_float32(results, monkeypatch, capsys):
    exact, precisions = ops.blockwise.contrast, []

    def contrast(*inputs):
        precisions.append(torch.get_float32_matmul_precision())
        return exact(*inputs)

    monkeypatch.setattr(ops.blockwise, "contrast", contrast)
    monkeypatch.setattr(parity, "LARGEST_EXACT_BATCH", {"cpu": 6})
    assert run("--smoke", "--implementations", "dense", "--matmul-precision", "high",
               "--output", results) == 0  # fmt: skip
    first, second = capsys.readouterr().out.split("b=12 ")
    assert "parity with dense in float64: " in first
    assert "parity with blockwise in float32: " in second
    assert precisions == ["highest"]


def test_distance_is_a_relative_norm_over_all_parts():
    exact = torch.tensor([3.0, 4.0]).repeat(2**25 + 1)
    mine = exact.clone()
    mine[0] += 1
    mine[-1] += 1
    one = torch.ones(())
    error = measuring.distance((one, mine), (one.double(), exact))
    assert error.loss == 0
    assert error.gradient == pytest.approx(2**0.5 / (25 * (2**25 + 1)) ** 0.5, rel=1e-6)


def test_samples_that_are_furthest_off_can_be_left_out():
    exact = torch.ones(200, 3, 2)
    mine = exact + 1e-3
    mine[7], mine[90] = 5, -3
    one = torch.ones(())
    found = [measuring.distance((one, mine), (one, exact), n).gradient for n in (0, 1, 2)]
    assert found[0] > found[1] > 0.1
    assert found[2] == pytest.approx(1e-3 * (198 / 200) ** 0.5, rel=1e-3)
    mine[8, 0, 0] = torch.nan
    assert not measuring.distance((one, mine), (one, exact), 2).within(measuring.Error(1, 1))


@pytest.mark.parametrize(("b", "left_out"), [(99, 0), (100, 1), (250, 2)])
def test_the_gate_leaves_out_one_of_a_hundred_samples(b, left_out, results, monkeypatch):
    exact = measuring.distance
    asked = []

    def distance(result, truth, left_out=0):
        asked.append(left_out)
        return exact(result, truth, left_out)

    monkeypatch.setattr(parity, "distance", distance)
    options = ("--smoke", "--implementations", "blockwise", "--batch-sizes", b)
    assert run(*options, "--output", results) == 0
    assert asked == [0, left_out]


def gradients(loss, visual, audio):
    return loss, *torch.autograd.grad(loss, (visual, audio))


@pytest.mark.parametrize("positions", [(4, 3), (1, 1)])
@pytest.mark.parametrize(
    ("released", "ours"),
    [(released_form.fnac, implementations.LOSSES["fnac"]), (released_form.nce, InfoNCE)],
)
def test_released_form_is_the_definition(released, ours, positions):
    generator = torch.Generator().manual_seed(0)
    shapes = ((9, 6, *positions), (9, 6))
    visual, audio = (
        (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).requires_grad_()
        for shape in shapes
    )
    found = gradients(released(visual, audio), visual, audio)
    wanted = gradients(ours(backend="dense")(visual, audio), visual, audio)
    for left, right in zip(found, wanted):
        torch.testing.assert_close(left, right, atol=1e-10, rtol=1e-10)


def test_released_form_honours_autocast():
    generator = torch.Generator().manual_seed(0)
    visual = torch.randn(9, 6, 4, 3, generator=generator)
    audio = torch.randn(9, 6, generator=generator)
    dense = implementations.LOSSES["fnac"](backend="dense")
    with torch.autocast("cpu", torch.bfloat16):
        rounded, exact = released_form.fnac(visual, audio), dense(visual, audio)
    assert exact == dense(visual, audio)
    assert 1e-4 < abs(rounded / released_form.fnac(visual, audio) - 1) < 0.1


def test_baselines_pass_the_gate_with_any_error(results, capsys):
    assert run("--smoke", "--dtype", "bfloat16", "--implementations", "released", "blockwise",
               "--output", results) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert "released differs from dense in float64: loss by" in printed
    assert " x released  x compiled " in printed
    errors = {row["implementation"]: float(row["gradient_error"]) for row in read(results)}
    allowed = parity.tolerance(torch.bfloat16, "highest").gradient
    assert errors["released"] > allowed >= errors["blockwise"]
    backends = {row["implementation"]: row["backend"] for row in read(results)}
    assert backends == {"released": "released", "blockwise": "blockwise"}


@pytest.mark.parametrize("name", ["dense", "released"])
def test_plain_form_beyond_the_memory_limit_is_reported(name, results, capsys):
    assert run("--smoke", "--memory-limit", 1e-6, "--implementations", name, "blockwise",
               "--output", results) == 0  # fmt: skip
    printed = capsys.readouterr().out
    assert f"{name} does not run: needs about" in printed
    assert "parity with blockwise in float64" in printed
    assert {row["implementation"] for row in read(results)} == {"blockwise"}


def test_memory_of_a_plain_form_in_16_bits():
    size = measuring.Size(1000, 1, 10, 10)
    for backend, gigabytes in (("dense", 1.2), ("released", 0.6)):
        for limit, fits in ((gigabytes + 0.01, True), (gigabytes - 0.01, False)):
            options = loss_benchmark.parse(["--memory-limit", str(limit)])
            reasons = implementations.needs_too_much(backend, size, torch.bfloat16, options)
            assert (not reasons) == fits


def test_nothing_can_run(results, capsys):
    names = ("triton", "triton-stream")
    assert run("--smoke", "--implementations", *names, "--output", results) == 1
    printed = capsys.readouterr()
    for name in names:
        reason = ops.unsupported_reasons(name, torch.ones(2, 2, 1, 1), torch.ones(2, 2))[0]
        assert f"{name} does not run: {reason}" in printed.out
    assert "parity" not in printed.out
    assert "no implementation could run" in printed.err
    assert not results.exists()


def test_extra_memory_is_what_was_allocated():
    visual, audio = torch.ones(4, 1000, requires_grad=True), torch.ones(4, requires_grad=True)

    def criterion(visual, audio):
        return (visual.exp() * audio[:, None]).sum()

    step = measuring.Step(criterion, visual, audio)
    extra = measuring.extra_bytes(step)
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
        (["--matmul-precision", "medium"], "invalid choice: 'medium'"),
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


def test_results_of_old_can_be_drawn(tmp_path):
    old = loss_benchmark.ROOT / "benchmarks" / "results" / "loss_cpu.csv"
    lines = [line.split(",") for line in old.read_text().splitlines()]
    if "matmul_precision" in lines[0]:
        column = lines[0].index("matmul_precision")
        lines = [line[:column] + line[column + 1 :] for line in lines]
    results = tmp_path / "loss.csv"
    results.write_text("".join(",".join(line) + "\n" for line in lines))
    plotting.draw(results, tmp_path)
    assert "float32; " in (tmp_path / "time.svg").read_text()

    lines = [[*line, "matmul_precision" if line is lines[0] else "high"] for line in lines]
    results.write_text("".join(",".join(line) + "\n" for line in lines))
    plotting.draw(results, tmp_path)
    assert "float32 (high); " in (tmp_path / "time.svg").read_text()


def test_every_implementation_has_a_style():
    assert {*plotting.STYLES, "auto"} == {*implementations.IMPLEMENTATIONS}
    styles = plotting.STYLES.values()
    assert len({color for color, _ in styles}) == len({marker for _, marker in styles}) == 7


def test_every_backend_is_measured():
    backends = {one.backend for one in implementations.IMPLEMENTATIONS.values()}
    assert backends == {*ops.BACKENDS, "auto", "released"}
    assert isinstance(implementations.LOSSES["fnac"](), FNACLoss)
