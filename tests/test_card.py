"""What only a card can show: tiles of their real sizes, streams, devices, graphs, the compiler."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import DEVICE, features
from measuring import DTYPES, Size, Step, distance
from parity import MOVED, evaluate, tolerance

from avcontrast import FNACLoss
from avcontrast.ops import BACKENDS, unsupported_reasons

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(DEVICE != "cuda", reason="needs a CUDA device")]

PRECISIONS = [
    ("float32", "highest"),
    ("float32", "high"),
    ("float16", "high"),
    ("bfloat16", "high"),
]
STREAMING = [pytest.param("triton-stream", marks=pytest.mark.slow)]


@pytest.fixture(autouse=True)
def restored_precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def step_of(backend, visual, audio, **settings):
    """The whole loss, with inputs of its own."""
    inputs = (x.detach().clone().requires_grad_() for x in (visual, audio))
    return Step(FNACLoss(backend=backend, **settings), *inputs)


def inputs_of(size, dtype):
    b, d, *places = size
    visual, audio = features(b, d, tuple(places))
    return visual.to(DTYPES[dtype]), audio.to(DTYPES[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("dtype", "precision"), PRECISIONS)
@pytest.mark.parametrize(
    "size",
    [
        Size(300, 72, 3, 5),
        Size(1500, 64, 2, 2),  # fills a card with the largest tiles
        pytest.param(Size(1000, 512, 7, 7), marks=pytest.mark.slow),
        pytest.param(Size(129, 100, 14, 14), marks=pytest.mark.slow),
        pytest.param(Size(65, 33, 32, 32), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_loss_and_gradients(size, dtype, precision, backend):
    torch.set_float32_matmul_precision(precision)
    visual, audio = inputs_of(size, dtype)
    if unsupported_reasons(backend, visual, audio):
        pytest.skip("; ".join(unsupported_reasons(backend, visual, audio)))
    wanted = evaluate(step_of("dense", visual.double(), audio.double()))
    found = evaluate(step_of(backend, visual, audio))
    assert all(x.isfinite().all() for x in found)
    error = distance(found, wanted, size.batch // MOVED)
    assert error.within(tolerance(DTYPES[dtype], precision)), error


@pytest.mark.parametrize("backend", ["triton", "blockwise", *STREAMING])
@pytest.mark.parametrize(("dtype", "precision"), PRECISIONS)
def test_two_runs_give_the_same_bits(dtype, precision, backend):
    torch.set_float32_matmul_precision(precision)
    step = step_of(backend, *inputs_of(Size(700, 72, 3, 5), dtype))
    first = evaluate(step)
    if backend == "blockwise":  # torch adds up with atomics where it scatters
        assert distance(evaluate(step), first).within(tolerance(DTYPES[dtype], "highest"))
        return
    for left, right in zip(evaluate(step), first):
        assert torch.equal(left, right)


@pytest.mark.parametrize("backend", ["triton", "blockwise", *STREAMING])
def test_another_stream(backend):
    step = step_of(backend, *inputs_of(Size(300, 72, 3, 5), "float32"))
    wanted = evaluate(step)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)  # what went to the usual stream instead would be early
        late = step_of(backend, *(2 * x for x in (step.visual, step.audio)))
        found = evaluate(late)
    torch.cuda.current_stream().wait_stream(stream)
    torch.testing.assert_close(found[0], wanted[0], rtol=1e-5, atol=0)
    for left, right in zip(found[1:], wanted[1:]):
        torch.testing.assert_close(2 * left, right, rtol=1e-3, atol=1e-6)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("backend", ["triton", "blockwise"])
def test_another_device_than_the_current_one(backend):
    visual, audio = inputs_of(Size(300, 72, 3, 5), "float32")
    wanted = evaluate(step_of(backend, visual, audio))
    found = evaluate(step_of(backend, visual.to("cuda:1"), audio.to("cuda:1")))
    assert torch.cuda.current_device() == 0
    for left, right in zip(found, wanted):
        assert left.device == torch.device("cuda:1")
        torch.testing.assert_close(left.to(right.device), right)


@pytest.mark.parametrize("backend", ["triton", *STREAMING])
@pytest.mark.parametrize(("dtype", "precision"), PRECISIONS)
def test_a_captured_graph_computes_with_what_its_inputs_hold(dtype, precision, backend):
    torch.set_float32_matmul_precision(precision)
    visual, audio = inputs_of(Size(300, 72, 3, 5), dtype)
    step = step_of(backend, visual, audio)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step.backward(step.forward())
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step.forward()
        captured = loss, *step.backward(loss)
    with torch.no_grad():
        step.visual.copy_(visual.flip(0))
    graph.replay()
    wanted = evaluate(step_of(backend, visual.flip(0), audio))
    for left, right in zip(captured, wanted):
        assert torch.equal(left.detach(), right)


@pytest.mark.parametrize("backend", ["triton", "blockwise", *STREAMING])
def test_compiled_for_the_card(backend):
    torch.compiler.reset()
    step = step_of(backend, *inputs_of(Size(300, 72, 3, 5), "float32"))
    compiled = step._replace(criterion=torch.compile(step.criterion, fullgraph=True))
    for left, right in zip(evaluate(compiled), evaluate(step)):
        torch.testing.assert_close(left, right)


@pytest.mark.parametrize("backend", ["triton", "triton-stream"])
def test_a_step_does_not_wait_for_the_device(backend):
    step = step_of(backend, *inputs_of(Size(300, 72, 3, 5), "float32"))
    evaluate(step)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        evaluate(step)
    finally:
        torch.cuda.set_sync_debug_mode(before)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("channels", [72, 33])
def test_views_that_begin_anywhere(channels, dtype):
    """Compiled for aligned addresses first, then called with others."""
    visual, audio = inputs_of(Size(300, channels, 3, 5), dtype)
    wanted = evaluate(step_of("triton", visual, audio))
    for shift in (1, 3):
        inputs = []
        for x in (visual, audio):
            room = x.new_empty(x.numel() + shift)
            inputs.append(room[shift:].view_as(x).copy_(x).requires_grad_())
        assert any(x.data_ptr() % 16 for x in inputs)
        for left, right in zip(evaluate(Step(FNACLoss(backend="triton"), *inputs)), wanted):
            assert torch.equal(left, right)
