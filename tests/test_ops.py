from __future__ import annotations

import pytest
import torch
from reference import TOLERANCE, features, gradients

from avcontrast import FNACLoss, InfoNCE, TrueNegativeEnhancement, functional, ops
from avcontrast.distributed import ALONE
from avcontrast.ops import _maps, blockwise
from avcontrast.ops._settings import TERMS, Settings

BACKENDS = ("dense", "blockwise")
CONTRAST_SETTINGS = {
    "published": Settings(TERMS, elimination="both", elimination_level=0.5),
    "soft, audio anchor": Settings(
        ("fns_audio", "tne"), normalize=False, mask="soft", anchor="audio", detach_adjacency=True
    ),
    "mean pooling": Settings(("visual_to_audio",), pooling="mean"),
    "tne alone": Settings(("tne",)),
    "soft-mask pooling": Settings(TERMS, pooling="soft-mask", mask_threshold=0.2),
}
CONTRAST_OPTIONS = {
    name: (" ".join(terms), *others) for name, (terms, *others) in CONTRAST_SETTINGS.items()
}


@pytest.fixture(params=["rows are fetched", "products with zeros"])
def tiny_blocks(monkeypatch, request):
    """Make every loop over blocks go round several times."""
    monkeypatch.setattr(_maps, "BLOCK_BYTES", 4096)
    if request.param == "rows are fetched":
        monkeypatch.setattr(_maps, "FEW", 0)


@pytest.mark.parametrize("options", CONTRAST_OPTIONS.values(), ids=CONTRAST_OPTIONS.keys())
@pytest.mark.usefixtures("tiny_blocks")
def test_opcheck_contrast(options):
    visual, audio = features(5, 4, (2, 3))
    temperature = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    torch.library.opcheck(
        blockwise._contrast, (visual, audio, temperature, None, *options, *ALONE, True)
    )


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "sliced", "transposed audio"])
@pytest.mark.usefixtures("tiny_blocks")
def test_opcheck_of_each_operator(layout):
    """The backward operators on their own too: what a compiler is told must be what they do."""
    visual, audio = laid_out(layout)
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    check = torch.library.opcheck
    best, index = check_outputs(blockwise._max_similarity, visual, audio, True, True)
    plain = [x.detach() for x in (visual, audio)]
    check(blockwise._max_similarity_backward, (best, *plain, best, index, True, True, True))
    mask = (0.3, 0.2)
    (pooled,) = check_outputs(blockwise._soft_similarity, visual, audio, True, *mask, True)
    check(blockwise._soft_similarity_backward, (pooled, *plain, True, *mask, True, True))
    options = CONTRAST_OPTIONS["published"]
    arguments = (visual, audio, tau, None, *options, *ALONE, True)
    values, *kept = check_outputs(blockwise._contrast, *arguments)
    for needed in ((True, True, True), (False, True, False), (True, False, False)):
        given = (torch.ones_like(values), *plain, tau.detach(), None, *kept)
        check(blockwise._contrast_backward, (*given, *options, *ALONE, *needed))


def check_outputs(operator, *arguments):
    torch.library.opcheck(operator, arguments)
    outputs = operator(*arguments)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    return [output.detach() for output in outputs]


def laid_out(layout):
    visual, audio = (x.detach() for x in features(6, 4, (3, 4)))
    if layout == "channels_last":
        visual = visual.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        visual = torch.cat([visual, visual], dim=1)[:, ::2].flip(3).transpose(2, 3)
        audio = audio.repeat_interleave(2, dim=1)[:, ::2]
    if layout == "transposed audio":
        audio = audio.T.contiguous().T
    return visual.requires_grad_(), audio.requires_grad_()


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("layout", ["channels_last", "sliced"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_memory_layout_does_not_matter(backend, layout, normalize):
    visual, audio = laid_out(layout)
    plain = visual.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
    criterion = FNACLoss(0.2, normalize=normalize, backend=backend)
    loss = criterion(visual, audio)
    torch.testing.assert_close(loss, criterion(plain, audio))
    found = gradients(loss, visual, audio)
    wanted = gradients(criterion(plain, audio), plain, audio)
    for left, right in zip(found, wanted):
        torch.testing.assert_close(left, right)
    if backend == "blockwise" and layout == "channels_last":
        assert found[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
def test_forward_mode_takes_the_backend_that_has_it():
    visual, audio = (x.detach() for x in features(128, 64, (5, 5)))
    tangents = torch.randn_like(visual), torch.randn_like(audio)
    assert ops.select_backend("auto", visual, audio) == "blockwise"
    _, slope = torch.func.jvp(InfoNCE(0.5), (visual, audio), tangents)
    step = 1e-6
    ahead, behind = (
        InfoNCE(0.5)(visual + s * tangents[0], audio + s * tangents[1]) for s in (step, -step)
    )
    assert slope.item() == pytest.approx(((ahead - behind) / (2 * step)).item(), rel=1e-4)
    with pytest.raises(ValueError, match="forward-mode differentiation is on"):
        torch.func.jvp(InfoNCE(0.5, backend="blockwise"), (visual, audio), tangents)


TRANSFORMED = {
    "grad": lambda loss, v, a: torch.func.grad(loss)(v, a),
    "vjp": lambda loss, v, a: torch.func.vjp(loss, v, a)[1](torch.ones((), dtype=v.dtype))[0],
    "jacrev": lambda loss, v, a: torch.func.jacrev(loss)(v, a),
    "vmap": lambda loss, v, a: torch.func.vmap(torch.func.grad(loss), (0, None))(v[None], a)[0],
}


@pytest.mark.parametrize("criterion", [FNACLoss, InfoNCE])
@pytest.mark.parametrize("transform", TRANSFORMED)
def test_transforms_take_the_backend_that_has_them(transform, criterion, monkeypatch):
    monkeypatch.setattr(ops, "SMALL_MAP_ELEMENTS", 0)
    visual, audio = features(6, 4, (2, 2))
    ignore = torch.zeros(6, 6, dtype=torch.bool)
    ignore[0, 1] = True
    assert ops.select_backend("auto", visual, audio) == "blockwise"
    (wanted,) = torch.autograd.grad(criterion()(visual, audio, ignore=ignore), visual)
    inputs = visual.detach(), audio.detach()
    run = TRANSFORMED[transform]
    found = run(lambda v, a: criterion()(v, a, ignore=ignore), *inputs)
    torch.testing.assert_close(found, wanted)
    for backend in ("blockwise", "triton", "triton-stream"):
        with pytest.raises(ValueError, match=r"it is inside a transform of torch\.func"):
            run(lambda v, a, backend=backend: criterion(backend=backend)(v, a), *inputs)
    (best,) = torch.autograd.grad(functional.max_similarity(visual, audio).sum(), visual)
    found = torch.func.grad(lambda v: functional.max_similarity(v, inputs[1]).sum())(inputs[0])
    torch.testing.assert_close(found, best)


def test_each_loss_of_a_batch_of_masks_keeps_its_positives():
    visual, audio = (x.detach() for x in features(4, 4, (2, 2)))
    ignore = torch.zeros(2, 4, 4, dtype=torch.bool)
    ignore[1, 0, 1] = True

    def loss(ignore):
        return InfoNCE()(visual, audio, ignore=ignore)

    found = torch.func.vmap(loss)(ignore)
    torch.testing.assert_close(found, torch.stack([loss(one) for one in ignore]))
    ignore[1, 2, 2] = True
    with pytest.raises(ValueError, match="ignore must be False on the diagonal"):
        torch.func.vmap(loss)(ignore)


@pytest.mark.parametrize("b", [6, 512])
@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_shapes_without_data(backend, b):
    visual = torch.empty(b, 16, 7, 7, device="meta", requires_grad=True)
    audio = torch.empty(b, 16, device="meta", requires_grad=True)
    ignore = torch.empty(b, b, dtype=torch.bool, device="meta")
    criterion = FNACLoss(reduction="none", elimination="both", backend=backend)
    for value in (criterion(visual, audio, ignore=ignore), *criterion.components(visual, audio)):
        assert value.is_meta
        assert value.shape == (b,)
        grads = torch.autograd.grad(value.sum(), (visual, audio), retain_graph=True)
        assert [grad.shape for grad in grads] == [visual.shape, audio.shape]
    vectors = InfoNCE(torch.tensor(0.1, device="meta"), backend=backend)
    assert vectors(visual.mean((2, 3)), audio).shape == ()
    assert functional.max_similarity(visual, audio, backend=backend).shape == (b, b)
    assert functional.likely_false_negatives(visual, audio, backend=backend).shape == (b, b)
    assert functional.localization_map(visual, audio).shape == (b, 7, 7)
    assert functional.adjacency(audio).shape == (b, b)


@pytest.mark.slow
@pytest.mark.parametrize("b", [8, 512])
@pytest.mark.parametrize("criterion", [FNACLoss, InfoNCE])
@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_export_with_any_batch(backend, criterion, b):
    any_batch = {0: torch.export.Dim("b", min=2, max=4096)}
    sizes = {"visual": any_batch, "audio": any_batch}
    inputs = tuple(x.detach() for x in features(b, 4, (7, 7)))
    program = torch.export.export(criterion(backend=backend), inputs, dynamic_shapes=sizes)
    inputs = tuple(x.detach() for x in features(12, 4, (7, 7)))
    found = program.module()(*inputs)
    torch.testing.assert_close(found, criterion(backend="dense")(*inputs))


def test_auto_is_dense_for_vectors_up_to_some_bytes():
    def chosen(b, dtype=torch.float32):
        return ops.select_backend("auto", torch.empty(b, 8, dtype=dtype), torch.empty(b, 8))

    assert [chosen(b) for b in (128, 4096, 4097)] == ["dense", "dense", "blockwise"]
    assert chosen(4096, torch.float16) == "dense"
    assert chosen(4096, torch.float64) == "blockwise"
    maps = torch.empty(1024, 256, 1, 1), torch.empty(1024, 256)
    assert ops.select_backend("auto", *maps) == "blockwise"


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("tiny_blocks")
def test_gradcheck(backend):
    visual, audio = features(4, 5, (2, 2))
    tau = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def losses(visual, audio, tau):
        parts = FNACLoss(tau, mask="soft", backend=backend).components(visual, audio)
        return *parts, InfoNCE(tau, pooling="mean", backend=backend)(visual, audio)

    assert torch.autograd.gradcheck(losses, (visual, audio, tau))
    assert torch.autograd.gradcheck(
        lambda v, a: functional.max_similarity(v, a[:3], backend=backend), (visual, audio)
    )


def test_double_backward_works_or_says_why_not():
    visual, audio = features(4, 5, (2, 2))
    for criterion in (
        FNACLoss(0.5, backend="blockwise"),
        lambda v, a: functional.max_similarity(v, a, backend="blockwise").sum(),
    ):
        (grad,) = torch.autograd.grad(criterion(visual, audio), visual, create_graph=True)
        with pytest.raises(RuntimeError, match="no second derivative; use backend='dense'"):
            grad.square().sum().backward()
    dense = InfoNCE(0.5, backend="dense")
    assert torch.autograd.gradgradcheck(dense, (visual, audio))


@pytest.mark.parametrize("needed", ["visual", "audio", "temperature"])
@pytest.mark.parametrize("terms", ["fnac", "mean"])
def test_only_the_gradients_that_are_needed(needed, terms, monkeypatch):
    """The work for the others is not done, and what is left does not change."""
    tensors = dict(zip(("visual", "audio"), (x.detach() for x in features(6, 5, (3, 3)))))
    tensors["temperature"] = torch.tensor(0.3, dtype=torch.float64)

    def loss(tensors):
        tau = tensors["temperature"]
        if terms == "fnac":
            criterion = FNACLoss(tau, mask="soft", backend="blockwise")
        else:
            criterion = InfoNCE(tau, pooling="mean", backend="blockwise")
        return criterion(tensors["visual"], tensors["audio"])

    everything = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
    wanted = dict(zip(everything, gradients(loss(everything), *everything.values())))

    called = []
    for name in ("to_maps", "store", "to_vectors"):
        function = getattr(_maps, name)
        monkeypatch.setattr(
            _maps,
            name,
            lambda *a, name=name, function=function: called.append(name) or function(*a),
        )
    products = []
    matmul = torch.Tensor.addmm_
    monkeypatch.setattr(
        torch.Tensor, "addmm_", lambda *a: products.append(a[0].shape) or matmul(*a)
    )
    leaf = tensors[needed].requires_grad_()
    (found,) = gradients(loss(tensors), leaf)
    torch.testing.assert_close(found, wanted[needed], **TOLERANCE[torch.float64])
    work = {
        ("fnac", "visual"): ({"to_maps", "store"}, 2),
        ("fnac", "audio"): ({"to_vectors"}, 2),
        ("fnac", "temperature"): (set(), 1),
        ("mean", "visual"): ({"store"}, 0),
        ("mean", "audio"): (set(), 1),
        ("mean", "temperature"): (set(), 0),
    }
    assert (set(called), len(products)) == work[terms, needed]


@pytest.mark.parametrize("size", [(3, 3), (17, 17)])
def test_blockwise_on_an_accelerator_takes_products_instead_of_rows(monkeypatch, size):
    """With zeros at all positions but those of the maxima, also on a CPU."""
    visual, audio = features(20, 8, size)
    expected = FNACLoss(backend="dense")(visual, audio)
    wanted = gradients(expected, visual, audio)
    similarities = gradients(
        functional.max_similarity(visual, audio, backend="dense").sum(), visual, audio
    )
    monkeypatch.setattr(_maps, "on_accelerator", lambda tensor: True)
    monkeypatch.setattr(_maps, "embedding_bag", None)
    monkeypatch.setattr(_maps, "ACCELERATOR_BLOCK_BYTES", 20_000)
    loss = FNACLoss(backend="blockwise")(visual, audio)
    torch.testing.assert_close(loss, expected, **TOLERANCE[torch.float64])
    best = functional.max_similarity(visual, audio, backend="blockwise").sum()
    for found, right in (
        (gradients(loss, visual, audio), wanted),
        (gradients(best, visual, audio), similarities),
    ):
        torch.testing.assert_close(found, right, **TOLERANCE[torch.float64])


def test_no_position_is_kept_without_gradients(monkeypatch):
    kept = []
    best_positions = _maps.best_positions

    def spy(similarity, with_index):
        kept.append(with_index)
        return best_positions(similarity, with_index)

    monkeypatch.setattr(_maps, "best_positions", spy)
    visual, audio = features(6, 5, (3, 3))
    criterion = FNACLoss(backend="blockwise")
    with torch.no_grad():
        without = criterion(visual, audio)
    assert torch.equal(without, criterion(visual, audio).detach())
    assert kept == [False, True]


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_go_to_the_first_position(backend):
    visual = torch.ones(1, 2, 1, 3, requires_grad=True)
    audio = torch.ones(1, 2)
    best = functional.max_similarity(visual, audio, normalize=False, backend=backend)
    best.sum().backward()
    assert torch.equal(visual.grad[0, :, 0], torch.tensor([[1.0, 0, 0], [1.0, 0, 0]]))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (14, 14), (17, 16)])
@pytest.mark.parametrize("b", [1, 2, 63, 65])
def test_ragged_sizes(b, size):
    visual, audio = features(b, 6, size, dtype=torch.float64)
    results = []
    for backend in BACKENDS:
        loss = FNACLoss(0.1, backend=backend)(visual, audio)
        results.append([loss, *gradients(loss, visual, audio)])
    for found, wanted in zip(*results):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)


def test_more_images_than_audios():
    visual, audio = (x.detach() for x in features(7, 5, (3, 3)))
    dense, streamed = (
        functional.max_similarity(visual, audio[:2], backend=backend) for backend in BACKENDS
    )
    assert dense.shape == (7, 2)
    torch.testing.assert_close(streamed, dense)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("loss", "size"),
    [(FNACLoss, (7, 7)), (FNACLoss, (1, 1)), (InfoNCE, (7, 7)), (TrueNegativeEnhancement, (7, 7))],
)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # inductor calls what torch deprecates
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Skipping serialization:UserWarning")  # of torch 2.6
def test_compiled_equals_eager(backend, loss, size):
    if backend == "dense" and size == (1, 1) and torch.__version__ < "2.13":
        pytest.skip("Inductor of torch 2.6 aborts the process here; versions between are unknown")
    torch.compiler.reset()
    visual, audio = features(16, 8, size, dtype=torch.float32, aligned=2.0)
    criterion = loss(backend=backend)
    compiled = torch.compile(criterion, fullgraph=True)
    for _ in range(2):
        found, wanted = compiled(visual, audio), criterion(visual, audio)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
        for left, right in zip(gradients(found, visual, audio), gradients(wanted, visual, audio)):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_traced_blockwise_equals_eager_bit_for_bit():
    torch.compiler.reset()
    temperature = torch.tensor(0.05, requires_grad=True)
    criterion = FNACLoss(temperature, backend="blockwise")
    traced = torch.compile(criterion, fullgraph=True, backend="aot_eager", dynamic=True)
    for b in (16, 11):
        inputs = (*features(b, 8, dtype=torch.float32), temperature)
        found, wanted = (run(*inputs[:2]) for run in (traced, criterion))
        assert torch.equal(found, wanted)
        for left, right in zip(gradients(found, *inputs), gradients(wanted, *inputs)):
            assert torch.equal(left, right)


def test_reasons_and_selection():
    visual, audio = features(4, 5, (2, 2))
    assert ops.unsupported_reasons("dense", visual, audio) == []
    assert ops.unsupported_reasons("blockwise", visual, audio) == []
    assert ops.select_backend("blockwise", visual, audio) == "blockwise"
    assert ops.select_backend("auto", visual, audio) == "dense"
    big = torch.empty(512, 8, 7, 7, device="meta")
    assert ops.select_backend("auto", big, torch.empty(512, 8, device="meta")) == "blockwise"
    with pytest.raises(
        ValueError, match="backend must be one of 'triton', 'triton-stream', 'blockwise'"
    ):
        ops.unsupported_reasons("cuda", visual, audio)
    with pytest.raises(ValueError, match=r"backend must be one of 'auto', .*, got 'cuda'"):
        ops.select_backend("cuda", visual, audio)
    message = r"backend='triton' cannot run visual \(4, 5, 2, 2\) and audio \(4, 5\): .*CUDA"
    with pytest.raises(ValueError, match=message):
        FNACLoss(backend="triton")(visual, audio)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", BACKENDS)
def test_cuda_equals_cpu(backend):
    visual, audio = features(70, 32)
    on_gpu = [x.detach().cuda().requires_grad_() for x in (visual, audio)]
    criterion = FNACLoss(0.1, backend=backend)
    expected, loss = criterion(visual, audio), criterion(*on_gpu)
    wanted = [expected, *gradients(expected, visual, audio)]
    for left, right in zip([loss, *gradients(loss, *on_gpu)], wanted):
        torch.testing.assert_close(left.cpu(), right, **TOLERANCE[torch.float64])
