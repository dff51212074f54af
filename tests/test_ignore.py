"""Known false negatives: pairs that are left out of the contrastive term."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch
from reference import TOLERANCE, features, fnac_terms, gradients
from test_memory import extra_bytes
from test_ops import CONTRAST_OPTIONS
from torch.nn import functional as F

from avcontrast import FalseNegativeSuppression, FNACLoss, InfoNCE, functional
from avcontrast.distributed import ALONE
from avcontrast.ops import _ignored, _maps, blockwise

BACKENDS = ("dense", "blockwise")
EXACT = TOLERANCE[torch.float64]


@pytest.fixture
def tiny_blocks(monkeypatch):
    """Make every loop over blocks go round several times."""
    monkeypatch.setattr(_maps, "BLOCK_BYTES", 512)


def mask(b, share=0.4, seed=0):
    """Return a mask that is not symmetric, so that rows cannot pass for columns."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(b, b, generator=generator) < share).fill_diagonal_(False)


def all_but_positive(b, sample):
    """Return a mask that leaves one image and one sound nothing but each other."""
    ignore = mask(b)
    ignore[sample] = ignore[:, sample] = True
    return ignore.fill_diagonal_(False)


def assert_close_with_gradients(loss, expected, *inputs):
    torch.testing.assert_close(loss, expected, **EXACT)
    for found, wanted in zip(gradients(loss, *inputs), gradients(expected, *inputs)):
        torch.testing.assert_close(found, wanted, **EXACT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("anchor", ["visual", "audio"])
@pytest.mark.usefixtures("tiny_blocks")
def test_fnac_equals_the_loops(anchor, backend):
    visual, audio = features(6, 5, (2, 3))
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    criterion = FNACLoss(tau, anchor=anchor, adjacency_reduction="batchmean", backend=backend)
    strength = 2.56  # that makes all weights 1
    parts = criterion.components(visual, audio, regularization=strength, ignore=mask(6))
    terms = fnac_terms(visual, audio, tau, anchor=anchor, ignore=mask(6))
    for name, expected in terms.items():
        torch.testing.assert_close(getattr(parts, name), expected, **EXACT)
    assert_close_with_gradients(parts.loss, sum(terms.values()), visual, audio, tau)
    loss = criterion(visual, audio, regularization=strength, ignore=mask(6))
    assert torch.equal(loss, parts.loss)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.usefixtures("tiny_blocks")
def test_info_nce_equals_the_loops(pooling, symmetric, backend):
    visual, audio = features(6, 5, (2, 3))
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    options = {"pooling": pooling, "symmetric": symmetric}
    loss = InfoNCE(tau, backend=backend, **options)(visual, audio, ignore=mask(6))
    expected = fnac_terms(visual, audio, tau, ignore=mask(6), **options)["info_nce"]
    assert_close_with_gradients(loss, expected, visual, audio, tau)


@pytest.mark.parametrize("backend", BACKENDS)
def test_labels_leave_no_false_negative(backend):
    """What is left contrasts each sample with those of other classes alone."""
    visual, audio = features(9, 7, (1, 1))
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 3, 4])
    ignore = (labels[:, None] == labels[None, :]).fill_diagonal_(False)
    losses = InfoNCE(0.2, reduction="none", backend=backend)(visual, audio, ignore=ignore)
    logits = F.normalize(visual[:, :, 0, 0]) @ F.normalize(audio).T / 0.2
    for n, label in enumerate(labels):
        kept = [n, *torch.nonzero(labels != label).flatten().tolist()]
        target = torch.tensor(0)
        expected = F.cross_entropy(logits[n, kept], target)
        expected = expected + F.cross_entropy(logits[kept, n], target)
        torch.testing.assert_close(losses[n], expected, **EXACT)


UNKNOWN = torch.tensor([0, 1, -1, 0, 1, 2, -1, -7, 4])


def of_a_kind(labels):
    """Return which samples share a known label, by the definition."""
    return torch.tensor(
        [
            [n != m and left == right >= 0 for m, right in enumerate(labels.tolist())]
            for n, left in enumerate(labels.tolist())
        ]
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int8])
def test_labels_stand_for_a_mask(dtype, backend):
    visual, audio = features(9, 7, (2, 2))
    labels, same, other = UNKNOWN.to(dtype), of_a_kind(UNKNOWN), mask(9, share=0.2)
    assert same.any()
    assert (other & ~same).any()
    for call in (
        InfoNCE(0.2, backend=backend),
        InfoNCE(0.2, elimination="both", backend=backend),
        FNACLoss(0.2, backend=backend),
        FNACLoss(0.2, backend=backend).components,
        partial(functional.info_nce, backend=backend),
        partial(functional.fnac, backend=backend),
    ):
        for given, expected in (
            ({"labels": labels}, same),
            ({"labels": labels, "ignore": other}, same | other),
        ):
            found, wanted = call(visual, audio, **given), call(visual, audio, ignore=expected)
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_unknown_labels_leave_nothing_out(backend):
    visual, audio = features(6, 7, (2, 2))
    criterion = InfoNCE(backend=backend)
    unknown = criterion(visual, audio, labels=torch.full((6,), -1))
    torch.testing.assert_close(unknown, criterion(visual, audio), **EXACT)


@pytest.mark.parametrize("backend", [pytest.param("dense", marks=pytest.mark.slow), "blockwise"])
def test_traced_labels_equal_eager(backend):
    torch.compiler.reset()
    criterion = FNACLoss(0.1, backend=backend)
    traced = torch.compile(criterion, fullgraph=True, backend="aot_eager", dynamic=True)
    for b in (9, 7):
        inputs = features(b, 8, (3, 3))
        found, wanted = (run(*inputs, labels=UNKNOWN[:b]) for run in (traced, criterion))
        assert_close_with_gradients(found, wanted, *inputs)


LABEL_MISTAKES = {
    "no tensor": ([0, 1, 2, 3], TypeError, "labels must be a torch.Tensor or None, got list"),
    "dtype": (torch.zeros(4), TypeError, "labels must be integers, got torch.float32"),
    "bools": (torch.zeros(4).bool(), TypeError, "labels must be integers, got torch.bool"),
    "shape": (
        torch.zeros(4, 4).long(),
        ValueError,
        "labels must be (b,), here (4,), one for each pair of this process, got (4, 4)",
    ),
    "device": (
        torch.zeros(4, device="meta").long(),
        ValueError,
        "labels must be on the features' device cpu, got meta",
    ),
}


@pytest.mark.parametrize("case", LABEL_MISTAKES)
def test_mistakes_in_labels(case):
    labels, error, message = LABEL_MISTAKES[case]
    visual, audio = (x.detach() for x in features(4, 5, (2, 2)))
    for call in (
        InfoNCE(),
        FalseNegativeSuppression(),
        FNACLoss(),
        FNACLoss().components,
        functional.info_nce,
    ):
        with pytest.raises(error, match=re.escape(message)):
            call(visual, audio, labels=labels)
    with pytest.raises(ValueError, match="ignore must be False on the diagonal"):
        InfoNCE()(visual, audio, labels=torch.arange(4), ignore=DIAGONAL)


@pytest.mark.parametrize("anchor", ["visual", "audio"])
@pytest.mark.parametrize("size", [(3, 3), (1, 1)])
@pytest.mark.parametrize("b", [1, 2, 65])
def test_backends_agree(b, size, anchor):
    visual, audio = features(b, 6, size)
    tau = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    dense, streamed = (
        FNACLoss(tau, anchor=anchor, mask="soft", backend=backend)(visual, audio, ignore=mask(b))
        for backend in BACKENDS
    )
    torch.testing.assert_close(streamed, dense, rtol=1e-8, atol=1e-9)
    inputs = (visual, audio, tau)
    for found, wanted in zip(gradients(streamed, *inputs), gradients(dense, *inputs)):
        torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("tiny_blocks")
def test_gradcheck(backend):
    visual, audio = features(4, 5, (2, 2))
    tau = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def losses(visual, audio, tau):
        options = {"mask": "soft", "backend": backend}
        parts = FNACLoss(tau, **options).components(visual, audio, ignore=mask(4))
        other = FNACLoss(tau, anchor="audio", **options)(visual, audio, ignore=mask(4))
        return *parts, other

    assert torch.autograd.gradcheck(losses, (visual, audio, tau))
    if backend == "dense":
        criterion = InfoNCE(0.5, backend=backend)
        assert torch.autograd.gradgradcheck(
            lambda v, a: criterion(v, a, ignore=mask(4)), (visual, audio)
        )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_mask_of_nothing_changes_no_bit(dtype, backend):
    visual, audio = features(130, 16, (3, 3), dtype=dtype)
    nothing = torch.zeros(130, 130, dtype=torch.bool)
    for criterion in (InfoNCE(backend=backend), FNACLoss(backend=backend)):
        found, wanted = criterion(visual, audio, ignore=nothing), criterion(visual, audio)
        assert torch.equal(found, wanted)
        # The plain form adds the gradients of match and cross entropies up in another order.
        reordered = backend == "dense" and isinstance(criterion, FNACLoss)
        ulps = 4 * torch.finfo(dtype).eps * reordered
        for left, right in zip(gradients(found, visual, audio), gradients(wanted, visual, audio)):
            assert (left - right).abs().max() <= ulps * right.abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("aligned", [0.0, 3.0])
def test_a_sample_with_nothing_left_costs_nothing(aligned, backend):
    visual, audio = features(6, 8, (1, 1), dtype=torch.float32, aligned=aligned)
    ignore = all_but_positive(6, 2)
    losses = InfoNCE(reduction="none", backend=backend)(visual, audio, ignore=ignore)
    assert losses[2].item() == 0
    assert losses.isfinite().all()
    others = [0, 1, 3, 4, 5]
    without = InfoNCE(reduction="none", backend=backend)(
        visual[others], audio[others], ignore=ignore[others][:, others]
    )
    torch.testing.assert_close(losses[others], without, rtol=1e-5, atol=1e-12)
    for grad in gradients(losses.sum(), visual, audio):
        assert grad.isfinite().all()
        assert grad[2].abs().max() == 0
        assert grad[0].abs().max() > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_everything_ignored_is_zero(backend):
    visual, audio = features(5, 8, (2, 2), dtype=torch.float32)
    tau = torch.tensor(0.03, requires_grad=True)
    ignore = torch.ones(5, 5, dtype=torch.bool).fill_diagonal_(False)
    loss = InfoNCE(tau, backend=backend)(visual, audio, ignore=ignore)
    assert loss.item() == 0
    for grad in gradients(loss, visual, audio, tau):
        assert grad.abs().max() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_ignored_pairs_get_no_gradient(backend):
    """An image of which all pairs but one are ignored moves along with that one alone."""
    visual, audio = features(4, 8, (1, 1))
    ignore = all_but_positive(4, 0)
    ignore[0, 3] = False
    loss = InfoNCE(0.1, normalize=False, symmetric=False, reduction="none", backend=backend)
    (grad,) = gradients(loss(visual, audio, ignore=ignore)[0], audio)
    assert grad[[1, 2]].abs().max() == 0
    torch.testing.assert_close(grad[0], -grad[3])
    assert grad[3].abs().max() > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_ignored_pair_may_outweigh_all_others(backend):
    """Without a scale of its own the softmax of what is left would vanish in fp32."""
    visual, audio = features(6, 8, (1, 1), dtype=torch.float32)
    with torch.no_grad():
        audio[3] = 100 * visual[1, :, 0, 0]
        visual[5, :, 0, 0] = 100 * audio[4]
    ignore = mask(6)
    ignore[1, 3] = ignore[5, 4] = ignore[5, 3] = True
    exact = [x.detach().double().requires_grad_() for x in (visual, audio)]
    options = {"normalize": False, "backend": backend}
    loss = FNACLoss(0.5, **options)(visual, audio, regularization=0.0, ignore=ignore)
    expected = fnac_terms(*exact, 0.5, normalize=False, ignore=ignore)["info_nce"]
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    for found, wanted in zip(gradients(loss, visual, audio), gradients(expected, *exact)):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


def test_saturated_softmaxes_keep_their_digits():
    """What is left of a row that its positive has won is 1 - P, of what is not ignored."""
    visual, audio = features(48, 64, dtype=torch.float32, aligned=3.0)
    exact = [x.detach().double().requires_grad_() for x in (visual, audio)]
    truth = InfoNCE(backend="dense")(*exact, ignore=mask(48))
    wanted = gradients(truth, *exact)
    plain, ours = (InfoNCE(backend=backend)(visual, audio, ignore=mask(48)) for backend in BACKENDS)
    assert (ours.double() / truth - 1).abs() < 1e-5
    grads = zip(gradients(plain, visual, audio), gradients(ours, visual, audio), wanted)
    for of_plain, of_ours, of_truth in grads:
        lost, left = ((grad - of_truth).norm() for grad in (of_plain, of_ours))
        assert left < 1e-4 * of_truth.norm()
        assert left < 0.1 * lost


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast(backend):
    visual, audio = features(16, 32, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        loss = FNACLoss(backend=backend)(visual, audio, ignore=mask(16))
    expected = FNACLoss(backend=backend)(visual.float(), audio.float(), ignore=mask(16))
    torch.testing.assert_close(loss, expected)
    assert all(grad.isfinite().all() for grad in gradients(loss, visual, audio))


@pytest.mark.parametrize("options", CONTRAST_OPTIONS.values(), ids=CONTRAST_OPTIONS.keys())
@pytest.mark.usefixtures("tiny_blocks")
def test_opcheck(options):
    visual, audio = features(5, 4, (2, 3))
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    arguments = (visual, audio, tau, mask(5), *options, *ALONE, True)
    torch.library.opcheck(blockwise._contrast, arguments)
    values, *kept = (output.detach() for output in blockwise._contrast(*arguments))
    plain = [x.detach() for x in (visual, audio, tau)]
    given = (torch.ones_like(values), *plain, mask(5), *kept, *options, *ALONE)
    torch.library.opcheck(blockwise._contrast_backward, (*given, True, True, True))
    torch.library.opcheck(_ignored.keeps_positives, (mask(5).diagonal(),))


@pytest.mark.parametrize("backend", BACKENDS)
def test_traced_equals_eager(backend):
    torch.compiler.reset()
    criterion = FNACLoss(0.1, backend=backend)
    traced = torch.compile(criterion, fullgraph=True, backend="aot_eager", dynamic=True)
    for b in (12, 9):
        inputs = features(b, 8, (3, 3))
        found, wanted = (run(*inputs, ignore=mask(b)) for run in (traced, criterion))
        assert_close_with_gradients(found, wanted, *inputs)
    with pytest.raises(ValueError, match="ignore must be False on the diagonal"):
        traced(*inputs, ignore=torch.eye(b, dtype=torch.bool))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # inductor calls what torch deprecates
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Skipping serialization:UserWarning")  # of torch 2.6
def test_compiled_equals_eager(backend):
    torch.compiler.reset()
    visual, audio = features(16, 8, dtype=torch.float32, aligned=2.0)
    criterion = FNACLoss(backend=backend)
    compiled = torch.compile(criterion, fullgraph=True)
    found, wanted = (run(visual, audio, ignore=mask(16)) for run in (compiled, criterion))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    for left, right in zip(gradients(found, visual, audio), gradients(wanted, visual, audio)):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="ignore must be False on the diagonal"):
        compiled(visual, audio, ignore=torch.eye(16, dtype=torch.bool))


@pytest.mark.parametrize("criterion", [InfoNCE, FNACLoss])
def test_memory_stays_within_the_contract(criterion):
    b, d, size = 1024, 64, (4, 4)
    visual, audio = features(b, d, size, dtype=torch.float32)
    ignore = mask(b)
    loss = criterion(backend="blockwise")
    highest, _ = extra_bytes(lambda: loss(visual, audio, ignore=ignore).backward())
    gradients_bytes = 4 * (visual.numel() + audio.numel())
    assert highest - gradients_bytes <= 2 * visual.numel() + 7 * b**2 + 16e6


DIAGONAL = torch.zeros(4, 4, dtype=torch.bool)
DIAGONAL[1, 1] = DIAGONAL[3, 3] = True
MISTAKES = {
    "no tensor": ([[False]], TypeError, "ignore must be a torch.Tensor or None, got list"),
    "dtype": (torch.zeros(4, 4), TypeError, "ignore must be torch.bool, got torch.float32"),
    "shape": (
        mask(3),
        ValueError,
        "ignore must be (b, b), here (4, 4), with a row for each image of this process and a "
        "column for each audio of the whole batch, got (3, 3)",
    ),
    "device": (
        mask(4).to("meta"),
        ValueError,
        "ignore must be on the features' device cpu, got meta",
    ),
    "diagonal": (
        DIAGONAL,
        ValueError,
        "ignore must be False on the diagonal, which holds the positives, got True for 2 of 4 "
        "samples, the first is sample 1",
    ),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(case, backend):
    ignore, error, message = MISTAKES[case]
    visual, audio = (x.detach() for x in features(4, 5, (2, 2)))
    for call in (
        InfoNCE(backend=backend),
        FalseNegativeSuppression(backend=backend),
        FNACLoss(backend=backend),
        FNACLoss(backend=backend).components,
        functional.info_nce,
        functional.false_negative_suppression,
        functional.fnac,
    ):
        with pytest.raises(error, match=re.escape(message)):
            call(visual, audio, ignore=ignore)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("backend", BACKENDS)
def test_cuda_equals_cpu(backend):
    visual, audio = features(70, 32)
    on_gpu = [x.detach().cuda().requires_grad_() for x in (visual, audio)]
    criterion = FNACLoss(0.1, backend=backend)
    expected = criterion(visual, audio, ignore=mask(70))
    loss = criterion(*on_gpu, ignore=mask(70).cuda())
    wanted = [expected, *gradients(expected, visual, audio)]
    for left, right in zip([loss, *gradients(loss, *on_gpu)], wanted):
        torch.testing.assert_close(left.cpu(), right, **EXACT)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_waits_for_the_device():
    visual, audio = (x.detach().cuda() for x in features(16, 8, (3, 3)))
    ignore = mask(16).cuda()
    temperature = torch.tensor(0.1, device="cuda")
    criterion = InfoNCE(temperature, backend="dense")
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        criterion(visual, audio, ignore=ignore)
    finally:
        torch.cuda.set_sync_debug_mode(before)
