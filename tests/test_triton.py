"""The CUDA kernels against the definition: on a GPU if there is one, else in the interpreter."""

from __future__ import annotations

import functools

import pytest
import torch
from kernel_cases import CASES, DEVICE, error, exact, features, results

from avcontrast.distributed import ALONE
from avcontrast.ops import dense
from avcontrast.ops._settings import TERMS, Settings

kernels = pytest.importorskip("avcontrast.ops.triton", reason="needs the package triton")

from avcontrast.ops.triton import batch as batches  # noqa: E402
from avcontrast.ops.triton import operands  # noqa: E402

pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []

PAIRS = 17  # so that there are two tiles of the interpreter's 16, of which one is not full
TOLD_APART = {
    *("all terms", "InfoNCE, mean pooling", "soft mask", "audio anchor", "not normalised"),
    "enhancement, soft, detached",
}


@pytest.fixture(autouse=True)
def restored_precision():
    """Let each test set the global precision of products."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def usual_features(case):
    visual, audio = features(PAIRS)
    return (visual, audio) if CASES[case].normalize else (visual / 2, audio / 3)


@functools.cache
def usual_results(case, store):
    """What several tests start from; the interpreter takes seconds for it."""
    return results(kernels, *usual_features(case), CASES[case], store=store)


@pytest.mark.parametrize("store", [True, False], ids=["store", "stream"])
@pytest.mark.parametrize(
    "case",
    [pytest.param(x, marks=[] if x in TOLD_APART else [pytest.mark.slow]) for x in CASES],
)
def test_as_exact_as_fp32(case, store):
    wanted = exact(*usual_features(case), CASES[case])
    for left, right in zip(usual_results(case, store), wanted):
        assert left.dtype == torch.float32
        assert error(left, right) <= 5e-6


@pytest.mark.parametrize("store", [True, False], ids=["store", "stream"])
@pytest.mark.parametrize("case", ["InfoNCE", "all terms", "audio anchor"])
def test_ignored_pairs(case, store):
    """Among them a whole tile, and all of a row but its positive."""
    visual, audio = features(20)
    ignore = torch.rand(20, 20, generator=torch.Generator().manual_seed(1)) < 0.3
    ignore[16:, :16] = True
    ignore[3] = True
    ignore = ignore.fill_diagonal_(False).to(DEVICE)
    wanted = exact(visual, audio, CASES[case], ignore=ignore)
    found = results(kernels, visual, audio, CASES[case], ignore=ignore, store=store)
    for left, right in zip(found, wanted):
        assert error(left, right) <= 5e-6
    assert found[0][0, 3] == 0


@pytest.mark.parametrize(
    ("case", "sides", "store", "ignored"),
    [
        ("InfoNCE", "both", True, False),
        ("InfoNCE", "visual", False, True),
        ("all terms", "audio", True, True),
        pytest.param("all terms", "both", False, False, marks=pytest.mark.slow),
        ("audio anchor", "both", True, True),
        pytest.param("audio anchor", "visual", False, False, marks=pytest.mark.slow),
        ("mean pooling", "both", True, False),
    ],
)
def test_likely_false_negatives(case, sides, store, ignored):
    settings = CASES[case]._replace(elimination=sides, elimination_level=0.3)
    visual, audio = features(20)
    ignore = torch.rand(20, 20, generator=torch.Generator().manual_seed(0)) < 0.2
    ignore = ignore.fill_diagonal_(False).to(DEVICE) if ignored else None
    wanted = exact(visual, audio, settings, ignore=ignore)
    plain = exact(visual, audio, CASES[case], ignore=ignore)
    found = results(kernels, visual, audio, settings, ignore=ignore, store=store)
    assert error(wanted[0], plain[0]) > 0.01
    for left, right in zip(found, wanted):
        assert error(left, right) <= 5e-6


@pytest.mark.parametrize(
    ("b", "d", "size"),
    [
        (1, 16, (2, 2)),
        (2, 5, (1, 3)),
        (15, 17, (7, 7)),
        (16, 16, (1, 1)),
        (17, 40, (3, 2)),
        pytest.param(17, 8, (14, 14), marks=pytest.mark.slow),
        pytest.param(4, 20, (17, 17), marks=pytest.mark.slow),
    ],
)
def test_ragged_sizes(b, d, size):
    """A tile of the interpreter is 16 wide; 17 x 17 positions do not fit into a byte."""
    settings = Settings(TERMS, pooling="mean") if size == (1, 1) else Settings(TERMS)
    visual, audio = features(b, d, size)
    wanted, found = exact(visual, audio, settings), results(kernels, visual, audio, settings)
    for left, right in zip(found, wanted):
        # A single pair leaves nothing to contrast: all is zero, and so is what is wanted.
        assert error(left, right) <= 5e-6 or (b == 1 and left.abs().max() < 1e-6)


@pytest.mark.parametrize(
    ("dtype", "limit"),
    [
        (torch.float32, 1e-3),
        (torch.float16, 1e-3),
        # The interpreter cuts bits off where a GPU rounds to the nearest bf16.
        (torch.bfloat16, 5e-3 if DEVICE == "cuda" else 1e-2),
    ],
)
def test_gradients_of_sixteen_bit_products(dtype, limit):
    torch.set_float32_matmul_precision("high")
    visual, audio = features(PAIRS, 64, (2, 2), dtype=dtype)
    wanted = exact(visual, audio, CASES["all terms"])
    found = results(kernels, visual, audio, CASES["all terms"])
    assert found[1].dtype == found[2].dtype == dtype
    for left, right in zip(found, wanted):
        assert error(left, right) <= limit


@pytest.mark.parametrize(
    ("dtype", "precision", "limit"),
    [
        (torch.float32, "highest", 1e-5),
        (torch.float32, "high", 3e-3),
        (torch.float16, "highest", 2e-5),
        (torch.bfloat16, "highest", 2e-5),
    ],
)
def test_logits(dtype, precision, limit):
    """At the published temperature; 16-bit features are multiplied as they are."""
    torch.set_float32_matmul_precision(precision)
    visual, audio = features(20, 256, (2, 2), dtype=dtype)
    wanted = dense.max_similarity(visual.double(), audio.double(), normalize=True)
    found = kernels.max_similarity(visual, audio, normalize=True)
    assert ((found - wanted) / 0.03).abs().max() <= limit


def test_what_fp16_cuts_off_may_be_denormal():
    """Times 256 these entries are 0.25 and a denormal; without it the logits were off by 1e-4."""
    entry = (0.25 + 5.4e-5) / 256
    visual = torch.full((17, 256, 1, 2), entry / (1 - 255 * entry**2) ** 0.5)
    visual[:, 0] = 1
    visual, audio = visual.to(DEVICE), torch.ones(17, 256, device=DEVICE)
    wanted = dense.max_similarity(visual.double(), audio.double(), normalize=True)
    found = kernels.max_similarity(visual, audio, normalize=True)
    assert ((found - wanted) / 0.03).abs().max() <= 1e-5


def test_precision_follows_dtypes_autocast_and_the_global_setting():
    fp32, fp16, bf16 = (
        torch.zeros(1, dtype=d) for d in (torch.float32, torch.half, torch.bfloat16)
    )
    assert operands.precision_of(fp32, fp32) == "as set"
    assert operands.decided("as set") == "split"
    assert operands.decided("raw") == "raw"
    assert operands.precision_of(bf16, bf16) == operands.precision_of(fp16, fp16) == "raw"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert operands.precision_of(fp32, fp32) == operands.precision_of(bf16, fp32) == "single"
        assert operands.precision_of(bf16, bf16) == "raw"
    torch.set_float32_matmul_precision("high")
    assert operands.decided("as set") == "single"


@functools.cache
def results_of_contiguous(dtype):
    return results(kernels, *features(4, 32, (4, 4), dtype=dtype), CASES["all terms"])


@pytest.mark.skipif(
    not hasattr(torch.backends, "fp32_precision"), reason="a setting of torch 2.9 and later"
)
@pytest.mark.parametrize("place", [torch.backends.cuda.matmul, torch.backends], ids=["", "all"])
def test_precision_follows_the_settings_by_their_new_name(place):
    products = torch.backends.cuda.matmul
    before = torch.backends.fp32_precision, products.fp32_precision
    try:
        products.fp32_precision = "none"
        place.fp32_precision = "tf32"
        assert operands.decided("as set") == "single"
        visual, audio = features(5, 16, (2, 2))
        precise = results(dense, visual, audio, Settings(TERMS))[0]
        found = results(kernels, visual, audio, Settings(TERMS))[0]
        torch.testing.assert_close(found, precise, rtol=1e-2, atol=1e-2)
        place.fp32_precision = "ieee"
        assert operands.decided("as set") == "split"
    finally:
        torch.backends.fp32_precision, products.fp32_precision = before


@pytest.mark.parametrize("normalize", [True, False], ids=["unit", "as they are"])
@pytest.mark.parametrize("b", [1, 5])
@pytest.mark.parametrize("place", ["channel", "position", "audio"])
@pytest.mark.parametrize(
    "value", [torch.nan, pytest.param(torch.inf, marks=pytest.mark.slow)], ids=["nan", "inf"]
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the interpreter, which is made of numpy
def test_what_is_not_finite_is_not_lost(value, place, b, normalize):
    for dtype, store in ((torch.float32, True), (torch.float16, False)):
        visual, audio = features(b, 16, (2, 2), dtype=dtype)
        broken = {
            "channel": visual[b // 2, 3, 1, 0],
            "position": visual[b // 2, :, 1, 0],
            "audio": audio[b // 2, 3],
        }
        broken[place].fill_(value)
        tau = torch.tensor(0.1, device=DEVICE)
        settings = Settings(TERMS, normalize=normalize)
        wanted = torch.stack(dense.contrast(visual, audio, tau, settings))
        found = torch.stack(kernels.contrast(visual, audio, tau, settings, store=store))
        assert found[wanted.isnan()].isnan().all()
        if normalize:
            assert wanted.isnan().any(1).all()
            assert torch.equal(found.isnan(), wanted.isnan())


@pytest.mark.parametrize(
    "layout", ["channels last", "sliced", "transposed", "positions apart", "shifted"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_layouts(layout, dtype):
    visual, audio = features(4, 32, (4, 4), dtype=dtype)
    if layout == "channels last":
        visual = visual.contiguous(memory_format=torch.channels_last)
    elif layout == "sliced":
        visual = torch.cat([visual, visual], 1)[:, :32]
    elif layout == "transposed":
        visual = visual.transpose(2, 3).contiguous().transpose(2, 3)
        audio = audio.T.contiguous().T
    elif layout == "positions apart":
        visual = torch.stack([visual, visual], -1)[..., 0]
    else:
        visual = visual.new_empty(visual.numel() + 1)[1:].view_as(visual).copy_(visual)
    found = results(kernels, visual, audio, CASES["all terms"])
    assert found[1].is_contiguous(memory_format=torch.channels_last) == (layout == "channels last")
    for left, right in zip(found, results_of_contiguous(dtype)):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dimension", [1, 2], ids=["channels", "positions"])
def test_a_view_of_more_numbers_than_32_bits_count(dimension):
    visual, audio = features(3, 16 if dimension == 2 else 3, (3, 1), dtype=torch.float16)
    far = 2**30 + 16
    room = visual.new_empty(2 * far + 2**12)  # of which hardly anything is touched
    strides = [visual.shape[1], 1, 1, 1]
    strides[dimension] = far
    view = room.as_strided(visual.shape, strides).copy_(visual)
    tau = torch.tensor(0.05, device=DEVICE)
    outcomes = []
    for features_of in (view, visual):
        inputs = features_of.requires_grad_(), audio.requires_grad_()
        values = torch.stack(kernels.contrast(*inputs, tau, Settings(TERMS, mask="soft")))
        outcomes.append((values, *torch.autograd.grad(values.sum(), inputs)))
    for found, wanted in zip(*outcomes):
        torch.testing.assert_close(found, wanted)


def test_raw_operands_need_no_copy():
    """Channels-last 16-bit features are read where they lie."""
    visual, _ = features(16, 64, (2, 2), dtype=torch.float16)
    last = visual.contiguous(memory_format=torch.channels_last)
    assert operands.is_operand(operands.flat(last), "raw")
    assert not operands.is_operand(operands.flat(visual), "raw")
    assert not operands.is_operand(operands.flat(last), "single")


def test_ties_go_to_the_lowest_position():
    visual = torch.eye(4, device=DEVICE).repeat(2, 1, 1).reshape(2, 4, 2, 2)[:, :3].contiguous()
    visual[1] = visual[1].flip(1, 2)
    audio = torch.ones(2, 3, device=DEVICE)
    visual.requires_grad_()
    kernels.max_similarity(visual, audio, normalize=True).sum().backward()
    touched = visual.grad.abs().sum(1).flatten(1) > 0
    assert touched.tolist() == [[True, False, False, False], [False, True, False, False]]


def test_zero_vectors_have_no_gradient():
    visual, audio = features(PAIRS)
    visual[3, :, 1, 2] = 0
    visual[5] = 0
    audio[7] = 0
    _, grad_visual, grad_audio, grad_tau = results(kernels, visual, audio, CASES["all terms"])
    assert grad_visual.isfinite().all()
    assert grad_audio.isfinite().all()
    assert grad_tau.isfinite()
    assert not grad_visual[3, :, 1, 2].any()
    assert not grad_visual[5].any()
    assert not grad_audio[7].any()
    assert grad_visual[4].any()


@pytest.mark.parametrize(
    ("dtype", "scale", "limit"),
    [
        (torch.float32, 1e-4, 1e-5),
        (torch.float32, 1e4, 1e-5),
        (torch.float16, 1e-3, 3e-3),
        (torch.float16, 1e3, 3e-3),
    ],
)
@pytest.mark.parametrize("tau", [0.005, pytest.param(1e3, marks=pytest.mark.slow)])
def test_extreme_scales_and_temperatures(dtype, scale, limit, tau):
    visual, audio = ((x * scale).to(dtype) for x in features(PAIRS, aligned=2.0))
    found = results(kernels, visual, audio, CASES["all terms"], tau)
    assert all(x.isfinite().all() for x in found)
    assert error(found[0], exact(visual, audio, CASES["all terms"], tau)[0]) <= limit


@pytest.mark.slow
def test_not_normalised_features_of_any_scale():
    settings = CASES["not normalised"]
    visual, audio = features(PAIRS)
    for scale in (1e-6, 1e4):
        found = results(kernels, visual * scale, audio / scale, settings, tau=3.0)
        wanted = exact(visual * scale, audio / scale, settings, tau=3.0)
        for left, right in zip(found, wanted):
            assert error(left, right) <= 2e-5


@pytest.mark.parametrize("scale", [1e-8, 1.0, 2.0**16])
def test_gradients_of_any_scale(scale):
    """Loss scaling and small weights must not leave the range of fp16."""
    visual, audio = features(PAIRS)
    grad = torch.linspace(0.1, 1, 5 * PAIRS).reshape(5, PAIRS).to(DEVICE) * scale
    found = results(kernels, visual, audio, CASES["all terms"], grad=grad)
    wanted = results(dense, visual.double(), audio.double(), CASES["all terms"], grad=grad.double())
    for left, right in zip(found[1:], wanted[1:]):
        assert error(left, right) <= 5e-6


def test_no_gradient_at_all_is_zero():
    visual, audio = features(PAIRS)
    grad = torch.zeros(5, PAIRS, device=DEVICE)
    for found in results(kernels, visual, audio, CASES["all terms"], grad=grad)[1:]:
        assert not found.any()


@pytest.mark.parametrize(
    "store", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["store", "stream"]
)
def test_nothing_is_read_that_was_not_written(store):
    """New tensors are filled with NaN here, which would spread to whatever reads them."""
    visual, audio = features(PAIRS)
    settings = CASES["all terms"]._replace(elimination="both")
    wanted = results(kernels, visual, audio, settings, store=store)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1).isnan()
        found = results(kernels, visual, audio, settings, store=store)
        sums = results(kernels, visual, audio, CASES["suppression"], store=store)
    finally:
        torch.use_deterministic_algorithms(False)
    for left, right in zip(found, wanted):
        assert torch.equal(left, right)
    assert all(x.isfinite().all() for x in sums)


def test_two_runs_give_the_same_bits():
    again = results(kernels, *features(PAIRS), CASES["all terms"], store=True)
    for left, right in zip(again, usual_results("all terms", True)):
        assert torch.equal(left, right)


@pytest.mark.parametrize(
    "store", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["store", "stream"]
)
def test_blocks_of_images_do_not_matter(monkeypatch, store):
    visual, audio = features(PAIRS)
    wanted = usual_results("audio anchor", store)
    for name, size in (("BLOCK_ROWS", 16), ("LEAST_BYTES", 1), ("WORKSPACE_BYTES", 1)):
        monkeypatch.setattr(batches, name, size)
    one = torch.ones(())
    call = batches.batch_of(visual, audio, one, CASES["audio anchor"], ALONE, "split")
    assert len(list(batches.row_blocks(call))) == len(list(batches.operand_blocks(call))) == 2
    for left, right in zip(
        results(kernels, visual, audio, CASES["audio anchor"], store=store), wanted
    ):
        torch.testing.assert_close(left, right, rtol=2e-6, atol=1e-6)


@pytest.mark.slow
def test_what_needs_no_gradient_gets_none():
    visual, audio = features(PAIRS)
    tau = torch.tensor(0.05, device=DEVICE)
    ones = torch.ones(5, PAIRS, device=DEVICE)
    both = results(kernels, visual, audio, CASES["soft mask"], grad=ones)
    for needed in ((True, False), (False, True)):
        inputs = [x.clone().requires_grad_(need) for x, need in zip((visual, audio), needed)]
        values = kernels.contrast(*inputs, tau, CASES["soft mask"])
        torch.stack(values).sum().backward()
        assert [x.grad is not None for x in inputs] == list(needed)
        for x, grad in zip(inputs, both[1:3]):
            assert x.grad is None or torch.equal(x.grad, grad)
    with torch.no_grad():
        assert not torch.stack(
            kernels.contrast(visual, audio, tau, CASES["all terms"])
        ).requires_grad


@pytest.mark.slow
def test_backward_again_and_a_second_derivative():
    visual, audio = (x.requires_grad_() for x in features(PAIRS))
    tau = torch.tensor(0.05, device=DEVICE)
    loss = torch.stack(kernels.contrast(visual, audio, tau, CASES["all terms"])).sum()
    (first,) = torch.autograd.grad(loss, visual, retain_graph=True)
    (second,) = torch.autograd.grad(loss, visual, create_graph=True)
    assert torch.equal(first, second)
    with pytest.raises(RuntimeError, match="triton backend has no second derivative"):
        second.sum().backward()
    best = kernels.max_similarity(visual, audio, normalize=True).sum()
    (grad,) = torch.autograd.grad(best, visual, create_graph=True)
    with pytest.raises(RuntimeError, match="triton backend has no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("n", "m"), [(20, 33), (33, 7)])
def test_max_similarity_of_any_sets(n, m, normalize):
    visual, _ = features(n)
    _, audio = features(m, seed=1)
    grad = torch.linspace(-1, 1, n * m).reshape(n, m).to(DEVICE)
    found, wanted = [], []
    for into, backend, dtype in (
        (found, kernels, torch.float32),
        (wanted, dense, torch.float64),
    ):
        inputs = [x.to(dtype).clone().requires_grad_() for x in (visual, audio)]
        best = backend.max_similarity(*inputs, normalize=normalize)
        best.backward(grad.to(dtype))
        into += [best.detach(), *(x.grad for x in inputs)]
    for left, right in zip(found, wanted):
        assert error(left, right) <= 5e-6
