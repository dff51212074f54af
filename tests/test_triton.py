"""The CUDA kernels: on a GPU where there is one, and otherwise in Triton's interpreter."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from processes import Cluster, kernels_step, paired_features
from test_memory import extra_bytes

from avcontrast import FNACLoss, InfoNCE, functional, ops
from avcontrast.ops import dense
from avcontrast.ops._settings import TERMS, Settings

kernels = pytest.importorskip("avcontrast.ops.triton", reason="needs the package triton")

from avcontrast.ops.triton import operands, steps, tiles  # noqa: E402

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
pytestmark = [pytest.mark.gpu] if DEVICE == "cuda" else []

BOTH = TERMS[:2]
CASES = {
    "all terms": Settings(TERMS),
    "one direction": Settings(TERMS[:1]),
    "InfoNCE": Settings(BOTH),
    "InfoNCE, mean pooling": Settings(BOTH, pooling="mean"),
    "mean pooling": Settings(TERMS, pooling="mean"),
    "soft mask": Settings(TERMS, mask="soft"),
    "audio anchor": Settings(TERMS, anchor="audio"),
    "detached": Settings(TERMS, detach_adjacency=True),
    "detached, audio anchor": Settings(TERMS, anchor="audio", detach_adjacency=True),
    "suppression": Settings(TERMS[2:4]),
    "suppression by vision": Settings(TERMS[3:4]),
    "suppression by audio, audio anchor": Settings(TERMS[2:3], anchor="audio"),
    "enhancement": Settings(TERMS[4:]),
    "enhancement, soft, detached": Settings(TERMS[4:], mask="soft", detach_adjacency=True),
    "not normalised": Settings(TERMS, normalize=False),
    "not normalised, soft": Settings(TERMS, normalize=False, mask="soft"),
}


@pytest.fixture(autouse=True)
def precision():
    """Let each test set the global precision of products."""
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


def features(b, d=16, size=(2, 3), *, dtype=torch.float32, aligned=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    audio = torch.randn(b, d, generator=generator)
    visual = torch.randn(b, d, *size, generator=generator) + aligned * audio[:, :, None, None]
    return visual.to(DEVICE, dtype), audio.to(DEVICE, dtype)


def results(backend, visual, audio, settings, tau=0.05, grad=None, **options):
    """Values of the terms and gradients of features and temperature, for given ``grad``."""
    visual, audio = (x.detach().clone().requires_grad_() for x in (visual, audio))
    dtype = torch.promote_types(visual.dtype, torch.float32)
    tau = torch.tensor(tau, dtype=dtype, device=DEVICE, requires_grad=True)
    values = torch.stack(backend.contrast(visual, audio, tau, settings, **options))
    if grad is None:
        grad = torch.linspace(0.5, 1.5, values.numel()).reshape(values.shape).to(values)
    values.backward(grad)
    return values.detach(), visual.grad, audio.grad, tau.grad


def exact(visual, audio, settings, tau=0.05, **options):
    return results(dense, visual.double(), audio.double(), settings, tau, **options)


def error(found, wanted):
    """The length of the difference over that of what is wanted."""
    return ((found.double() - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize("store", [True, False], ids=["store", "stream"])
@pytest.mark.parametrize("settings", CASES.values(), ids=CASES.keys())
def test_as_exact_as_fp32(settings, store):
    visual, audio = features(20)
    if not settings.normalize:
        visual, audio = visual / 2, audio / 3
    wanted = exact(visual, audio, settings)
    found = results(kernels, visual, audio, settings, store=store)
    for left, right in zip(found, wanted):
        assert left.dtype == torch.float32
        assert error(left, right) <= 5e-6


@pytest.mark.parametrize("store", [True, False], ids=["store", "stream"])
@pytest.mark.parametrize("case", ["InfoNCE", "all terms", "audio anchor"])
def test_ignored_pairs(case, store):
    """Among them a whole tile, and all of a row but its positive."""
    visual, audio = features(35)
    ignore = torch.rand(35, 35, generator=torch.Generator().manual_seed(0)) < 0.3
    ignore[16:32, :16] = True
    ignore[3] = True
    ignore = ignore.fill_diagonal_(False).to(DEVICE)
    wanted = exact(visual, audio, CASES[case], ignore=ignore)
    found = results(kernels, visual, audio, CASES[case], ignore=ignore, store=store)
    for left, right in zip(found, wanted):
        assert error(left, right) <= 5e-6
    assert found[0][0, 3] == 0


@pytest.mark.parametrize(
    ("b", "d", "size"),
    [
        (1, 16, (2, 2)),
        (2, 5, (1, 3)),
        (15, 17, (7, 7)),
        (16, 16, (1, 1)),
        (17, 40, (3, 2)),
        (17, 8, (14, 14)),
        (4, 20, (17, 17)),
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
    visual, audio = features(20, 256, (2, 2), dtype=dtype)
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


def test_precision_follows_dtypes_autocast_and_the_global_setting():
    fp32, fp16, bf16 = (
        torch.zeros(1, dtype=d) for d in (torch.float32, torch.half, torch.bfloat16)
    )
    assert operands.precision_of(fp32, fp32) == "split"
    assert operands.precision_of(bf16, bf16) == operands.precision_of(fp16, fp16) == "raw"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert operands.precision_of(fp32, fp32) == operands.precision_of(bf16, fp32) == "single"
        assert operands.precision_of(bf16, bf16) == "raw"
    torch.set_float32_matmul_precision("high")
    assert operands.precision_of(fp32, fp32) == "single"


@pytest.mark.parametrize("layout", ["channels last", "sliced", "transposed", "positions apart"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_layouts(layout, dtype):
    visual, audio = features(8, 32, (4, 4), dtype=dtype)
    wanted = results(kernels, visual, audio, CASES["all terms"])
    if layout == "channels last":
        visual = visual.contiguous(memory_format=torch.channels_last)
    elif layout == "sliced":
        visual = torch.cat([visual, visual], 1)[:, :32]
    elif layout == "transposed":
        visual = visual.transpose(2, 3).contiguous().transpose(2, 3)
        audio = audio.T.contiguous().T
    else:
        visual = torch.stack([visual, visual], -1)[..., 0]
    found = results(kernels, visual, audio, CASES["all terms"])
    assert found[1].is_contiguous(memory_format=torch.channels_last) == (layout == "channels last")
    for left, right in zip(found, wanted):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


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
    visual, audio = features(20)
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
@pytest.mark.parametrize("tau", [0.005, 1e3])
def test_extreme_scales_and_temperatures(dtype, scale, limit, tau):
    visual, audio = ((x * scale).to(dtype) for x in features(20, aligned=2.0))
    found = results(kernels, visual, audio, CASES["all terms"], tau)
    assert all(x.isfinite().all() for x in found)
    assert error(found[0], exact(visual, audio, CASES["all terms"], tau)[0]) <= limit


def test_not_normalised_features_of_any_scale():
    settings = CASES["not normalised"]
    visual, audio = features(20)
    for scale in (1e-6, 1e4):
        found = results(kernels, visual * scale, audio / scale, settings, tau=3.0)
        wanted = exact(visual * scale, audio / scale, settings, tau=3.0)
        for left, right in zip(found, wanted):
            assert error(left, right) <= 2e-5


@pytest.mark.parametrize("scale", [1e-8, 1.0, 2.0**16])
def test_gradients_of_any_scale(scale):
    """Loss scaling and small weights must not leave the range of fp16."""
    visual, audio = features(20)
    grad = torch.linspace(0.1, 1, 100).reshape(5, 20).to(DEVICE) * scale
    found = results(kernels, visual, audio, CASES["all terms"], grad=grad)
    wanted = results(dense, visual.double(), audio.double(), CASES["all terms"], grad=grad.double())
    for left, right in zip(found[1:], wanted[1:]):
        assert error(left, right) <= 5e-6


def test_no_gradient_at_all_is_zero():
    visual, audio = features(20)
    grad = torch.zeros(5, 20, device=DEVICE)
    for found in results(kernels, visual, audio, CASES["all terms"], grad=grad)[1:]:
        assert not found.any()


@pytest.mark.parametrize("store", [True, False], ids=["store", "stream"])
def test_nothing_is_read_that_was_not_written(store):
    """New tensors are filled with NaN here, which would spread to whatever reads them."""
    visual, audio = features(20)
    wanted = results(kernels, visual, audio, CASES["all terms"], store=store)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1).isnan()
        found = results(kernels, visual, audio, CASES["all terms"], store=store)
        sums = results(kernels, visual, audio, CASES["suppression"], store=store)
    finally:
        torch.use_deterministic_algorithms(False)
    for left, right in zip(found, wanted):
        assert torch.equal(left, right)
    assert all(x.isfinite().all() for x in sums)


def test_two_runs_give_the_same_bits():
    visual, audio = features(20)
    first, second = (results(kernels, visual, audio, CASES["all terms"]) for _ in range(2))
    for left, right in zip(first, second):
        assert torch.equal(left, right)


@pytest.mark.parametrize("store", [True, False], ids=["store", "stream"])
def test_blocks_of_images_do_not_matter(monkeypatch, store):
    visual, audio = features(20)
    monkeypatch.setattr(steps, "BLOCK_ROWS", 16)
    wanted = results(kernels, visual, audio, CASES["audio anchor"], store=store)
    block = partial(steps.image_blocks, bytes_each=1, budget=1)
    monkeypatch.setattr(steps, "row_blocks", block)
    monkeypatch.setattr(steps, "operand_blocks", block)
    for left, right in zip(
        results(kernels, visual, audio, CASES["audio anchor"], store=store), wanted
    ):
        torch.testing.assert_close(left, right, rtol=2e-6, atol=1e-6)


def test_what_needs_no_gradient_gets_none():
    visual, audio = features(18)
    tau = torch.tensor(0.05, device=DEVICE)
    for needed in ((True, False), (False, True)):
        inputs = [x.clone().requires_grad_(need) for x, need in zip((visual, audio), needed)]
        values = kernels.contrast(*inputs, tau, CASES["soft mask"])
        torch.stack(values).sum().backward()
        assert [x.grad is not None for x in inputs] == list(needed)
        both = results(
            kernels, visual, audio, CASES["soft mask"], grad=torch.ones(5, 18, device=DEVICE)
        )
        for x, grad in zip(inputs, both[1:3]):
            assert x.grad is None or torch.equal(x.grad, grad)
    with torch.no_grad():
        assert not torch.stack(
            kernels.contrast(visual, audio, tau, CASES["all terms"])
        ).requires_grad


def test_backward_again_and_a_second_derivative():
    visual, audio = (x.requires_grad_() for x in features(18))
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


@pytest.mark.parametrize("store", [True, False], ids=["store", "stream"])
def test_opcheck(store):
    from avcontrast.distributed import ALONE
    from avcontrast.ops.triton import loss, similarity

    visual, audio = (x.requires_grad_() for x in features(5, 16, (2, 2)))
    tau = torch.tensor(0.1, device=DEVICE, requires_grad=True)
    terms, *options = Settings(TERMS, mask="soft")
    arguments = (visual, audio, tau, None, " ".join(terms), *options, *ALONE, "split", store, True)
    torch.library.opcheck(loss.contrast, arguments)
    torch.library.opcheck(similarity.max_similarity, (visual, audio, True, "split", True))


@pytest.fixture
def any_device(monkeypatch):
    """Let the front door choose the kernels for tensors of the CPU."""
    if DEVICE == "cpu":
        monkeypatch.setattr(ops, "_lacking", lambda device: [])


@pytest.mark.usefixtures("any_device")
@pytest.mark.parametrize("backend", ["triton", "triton-stream"])
@pytest.mark.parametrize("loss", [FNACLoss, InfoNCE])
def test_losses_by_name(loss, backend):
    visual, audio = (x.requires_grad_() for x in features(18))
    found = loss(backend=backend)(visual, audio)
    wanted = loss(backend="dense")(visual, audio)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    found.backward()
    for x in (visual, audio):
        assert x.grad.isfinite().all()
    best = functional.max_similarity(visual, audio, backend=backend)
    torch.testing.assert_close(best, functional.max_similarity(visual, audio, backend="dense"))
    vectors = InfoNCE(backend=backend)(visual.mean((2, 3)), audio)
    torch.testing.assert_close(vectors, InfoNCE(backend="dense")(visual.mean((2, 3)), audio))


@pytest.mark.usefixtures("any_device")
@pytest.mark.parametrize("backend", ["triton", "auto"])
def test_compiled_equals_eager(backend, monkeypatch):
    torch.compiler.reset()
    card = SimpleNamespace(total_memory=2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(ops, "SMALL_MAP_ELEMENTS", 0)
    assert ops.select_backend(backend, *features(18)) == "triton"
    criterion = FNACLoss(backend=backend)
    compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager", dynamic=True)
    for b in (18, 17):
        visual, audio = (x.requires_grad_() for x in features(b))
        found, wanted = compiled(visual, audio), criterion(visual, audio)
        assert torch.equal(found, wanted)
        for left, right in zip(
            torch.autograd.grad(found, (visual, audio)),
            torch.autograd.grad(wanted, (visual, audio)),
        ):
            assert torch.equal(left, right)


def test_reasons():
    visual, audio = torch.zeros(4, 8, 40, 40), torch.zeros(4, 8)
    wanted = [
        "visual is on cpu, it needs a CUDA device",
        "the features are torch.float64, it computes in fp32",
        "the maps have 1600 positions, it takes up to 1024",
    ]
    for backend in ("triton", "triton-stream"):
        assert ops.unsupported_reasons(backend, visual.double(), audio.double()) == wanted
    card = torch.device("cuda:0")
    with pytest.MonkeyPatch.context() as patch:
        old = SimpleNamespace(major=7, minor=5)
        patch.setattr(torch.cuda, "get_device_properties", lambda device: old)
        patch.setattr(ops, "HAS_TRITON", False)
        assert ops._lacking(card) == [
            "the package triton is not installed",
            "cuda:0 has compute capability 7.5, it needs 8.0",
        ]
        patch.setattr(torch.version, "hip", "6.0")
        assert ops._lacking(card) == ["visual is on an AMD GPU, it needs a CUDA device"]


def test_auto_streams_when_the_logits_would_take_half_of_the_memory(monkeypatch):
    monkeypatch.setattr(ops, "_lacking", lambda device: [])
    visual, audio = torch.zeros(4096, 2, 4, 4), torch.zeros(4096, 2)
    for memory, processes, wanted in (
        (14 * 4096**2, 1, "triton"),
        (14 * 4096**2 - 1, 1, "triton-stream"),
        (14 * 4096**2, 2, "triton-stream"),
    ):
        card = SimpleNamespace(total_memory=memory)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, card=card: card)
        assert ops.select_backend("auto", visual, audio, processes) == wanted


@pytest.mark.dist
@pytest.mark.skipif(DEVICE == "cuda", reason="needs gloo and the interpreter")
@pytest.mark.parametrize("options", [{}, {"anchor": "audio", "mask": "soft"}], ids=["", "audio"])
@pytest.mark.parametrize("backend", ["triton", "triton-stream"])
def test_processes_share_a_batch(cluster, backend, options):
    pairs = 34
    found = cluster.run(kernels_step, backend, options, pairs)
    inputs = [x.double().requires_grad_() for x in paired_features(pairs)]
    loss = functional.fnac(*inputs, backend="dense", **options).loss
    wanted = torch.autograd.grad(loss, inputs)
    for value, *_ in found:
        torch.testing.assert_close(value.double(), loss.detach(), rtol=1e-5, atol=0)
    for grads, right in zip(zip(*(grads for _, *grads in found)), wanted):
        assert error(torch.cat(grads), right) <= 5e-6


@pytest.fixture(scope="module")
def cluster():
    cluster = Cluster(2)
    yield cluster
    cluster.close()


class NoKernel:
    """Stands for a kernel whose results do not matter."""

    def __getitem__(self, grid):
        return lambda *args, **kwargs: None


@pytest.mark.skipif(DEVICE == "cuda", reason="counts allocations on the CPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("b", "d", "size", "store"),
    [
        (1024, 512, (7, 7), True),
        (1024, 512, (7, 7), False),
        (3000, 64, (7, 7), True),
        (3000, 64, (7, 7), False),
        (256, 512, (14, 14), True),
    ],
)
def test_memory_contract(monkeypatch, b, d, size, store, dtype):
    """All memory comes from PyTorch: kernels that do nothing allocate as much as real ones."""
    for module in (steps, operands, kernels_backward()):
        for name in dir(module):
            if name.endswith("_kernel"):
                monkeypatch.setattr(module, name, NoKernel())
    monkeypatch.setattr(steps, "tile_for", lambda kernel, *_: tiles.HOPPER[kernel][0])
    monkeypatch.setattr(steps, "multiprocessors", lambda device: 132)
    visual = torch.zeros(b, d, *size, dtype=dtype, requires_grad=True)
    audio = torch.zeros(b, d, dtype=dtype, requires_grad=True)
    tau = torch.tensor(0.05)

    def step():
        torch.stack(
            kernels.contrast(visual, audio, tau, Settings(TERMS), store=store)
        ).sum().backward()

    highest, _ = extra_bytes(step)
    gradients = (visual.numel() + audio.numel()) * dtype.itemsize
    pairs = 7 * b**2 if store else 2 * b**2
    assert highest - gradients <= 2 * visual.numel() + pairs + 16e6
    if store:
        assert highest - gradients >= 5 * b**2


def kernels_backward():
    from avcontrast.ops.triton import backward

    return backward


def test_tables():
    for table in tiles.TILES.values():
        assert table.keys() == tiles.HOPPER.keys()
        for choices in table.values():
            for tile in choices:
                assert 128 % tile.rows == 0
                assert all(size & (size - 1) == 0 for size in tile[:4])
    for positions in (1, 49, 196, 1024):
        padded, block = tiles.map_block(positions)
        assert padded >= positions
        assert padded * block <= 2**14
