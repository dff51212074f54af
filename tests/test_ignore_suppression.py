"""Known false negatives in false negative suppression, which leaves them out of match and rows."""

from __future__ import annotations

import pytest
import torch
from reference import features, fnac_terms, gradients
from test_ignore import (
    BACKENDS,
    UNKNOWN,
    all_but_positive,
    assert_close_with_gradients,
    mask,
    of_a_kind,
)
from test_memory import extra_bytes

from avcontrast import FalseNegativeSuppression, FNACLoss, functional, ops
from avcontrast.distributed import ALONE
from avcontrast.ops import _maps, blockwise
from avcontrast.ops._settings import Settings

ANCHORS = ("visual", "audio")


@pytest.fixture
def tiny_blocks(monkeypatch):
    """Make every loop over blocks go round several times."""
    monkeypatch.setattr(_maps, "BLOCK_BYTES", 512)


def loop(visual, audio, tau, anchor, ignore, **options):
    """Return both terms, each with the weight of the tests."""
    terms = fnac_terms(
        visual, audio, tau, anchor=anchor, ignore=ignore, suppression_ignores=True, **options
    )
    return 0.7 * terms["fns_audio"] + terms["fns_visual"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.parametrize("frames", [(), (3,)])
@pytest.mark.usefixtures("tiny_blocks")
def test_it_equals_the_loops(frames, anchor, backend):
    visual, audio = features(6, 5, (2, 3))
    if frames:
        audio = features(6, 5, frames, seed=1)[0]
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    criterion = FalseNegativeSuppression(tau, audio_weight=0.7, anchor=anchor, backend=backend)
    loss = criterion(visual, audio, ignore=mask(6))
    assert_close_with_gradients(loss, loop(visual, audio, tau, anchor, mask(6)), visual, audio, tau)


@pytest.mark.parametrize("anchor", ANCHORS)
def test_backends_agree_on_constant_adjacencies(anchor):
    inputs = features(65, 6, (3, 3))
    options = {"anchor": anchor, "detach_adjacency": True, "reduction": "none"}
    dense, streamed = (
        FalseNegativeSuppression(0.1, backend=backend, **options)(*inputs, ignore=mask(65))
        for backend in BACKENDS
    )
    torch.testing.assert_close(streamed, dense, rtol=1e-8, atol=1e-9)
    weights = torch.linspace(0.5, 1.5, 65, dtype=torch.float64)
    found, wanted = (gradients(weights @ losses, *inputs) for losses in (streamed, dense))
    torch.testing.assert_close(found, wanted, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("anchor", ANCHORS)
def test_a_sample_with_nothing_left_costs_nothing(anchor, backend):
    visual, audio = features(6, 8, (1, 2), dtype=torch.float32)
    criterion = FalseNegativeSuppression(anchor=anchor, reduction="none", backend=backend)
    ignore = all_but_positive(6, 2)
    losses = criterion(visual, audio, ignore=ignore)
    assert losses[2].item() == 0
    others = [0, 1, 3, 4, 5]
    without = criterion(visual[others], audio[others], ignore=ignore[others][:, others])
    torch.testing.assert_close(losses[others], without, rtol=1e-5, atol=1e-6)
    for grad in gradients(losses.sum(), visual, audio):
        assert grad.isfinite().all()
        assert grad[2].abs().max() == 0
        assert grad[0].abs().max() > 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("anchor", ANCHORS)
def test_everything_ignored_is_zero(anchor, backend):
    visual, audio = features(5, 8, (2, 2), dtype=torch.float32)
    tau = torch.tensor(0.03, requires_grad=True)
    ignore = torch.ones(5, 5, dtype=torch.bool).fill_diagonal_(False)
    criterion = FalseNegativeSuppression(tau, anchor=anchor, backend=backend)
    loss = criterion(visual, audio, ignore=ignore)
    assert loss.item() == 0
    for grad in gradients(loss, visual, audio, tau):
        assert grad.abs().max() == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("anchor", ANCHORS)
def test_an_ignored_pair_may_outweigh_all_others(anchor, backend):
    """Its exponential below the maximum of what is kept overflows in fp32, and counts nothing."""
    visual, audio = features(6, 8, (1, 1), dtype=torch.float32)
    with torch.no_grad():
        audio[3] = 100 * audio[1]
        visual[3] = 100 * visual[1]
    ignore = mask(6)
    ignore[3] = ignore[:, 3] = True
    ignore[3, 3] = False
    exact = [x.detach().double().requires_grad_() for x in (visual, audio)]
    options = {"normalize": False, "anchor": anchor}
    criterion = FalseNegativeSuppression(0.5, audio_weight=0.7, backend=backend, **options)
    loss = criterion(visual, audio, ignore=ignore)
    expected = loop(*exact, 0.5, ignore=ignore, **options)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    for found, wanted in zip(gradients(loss, visual, audio), gradients(expected, *exact)):
        torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("anchor", ANCHORS)
def test_a_mask_of_nothing_changes_nothing(anchor, backend):
    inputs = features(70, 16, (3, 3))
    criterion = FalseNegativeSuppression(anchor=anchor, backend=backend)
    nothing = torch.zeros(70, 70, dtype=torch.bool)
    assert_close_with_gradients(criterion(*inputs, ignore=nothing), criterion(*inputs), *inputs)


def test_fnac_leaves_pairs_out_of_its_contrastive_term_only():
    inputs = features(6, 5, (2, 3))
    parts, without = (FNACLoss(0.2).components(*inputs, ignore=one) for one in (mask(6), None))
    assert torch.equal(parts.fns_audio, without.fns_audio)
    alone = FalseNegativeSuppression(0.2, visual_weight=0.0)
    assert torch.equal(alone(*inputs), parts.fns_audio)
    assert alone(*inputs, ignore=mask(6)) < 0.9 * parts.fns_audio


@pytest.mark.parametrize("backend", BACKENDS)
def test_labels_stand_for_a_mask(backend):
    visual, audio = features(9, 7, (2, 2))
    same, other = of_a_kind(UNKNOWN), mask(9, share=0.2)
    criterion = FalseNegativeSuppression(0.2, backend=backend)
    for given, expected in (
        ({"labels": UNKNOWN}, same),
        ({"labels": UNKNOWN, "ignore": other}, same | other),
    ):
        found = criterion(visual, audio, **given)
        assert torch.equal(found, criterion(visual, audio, ignore=expected))
        function = functional.false_negative_suppression
        assert torch.equal(found, function(visual, audio, 0.2, backend=backend, **given))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("tiny_blocks")
def test_gradcheck(backend):
    visual, audio = features(4, 5, (2, 2))
    tau = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def losses(visual, audio, tau):
        return tuple(
            FalseNegativeSuppression(tau, anchor=anchor, reduction="none", backend=backend)(
                visual, audio, ignore=mask(4)
            )
            for anchor in ANCHORS
        )

    assert torch.autograd.gradcheck(losses, (visual, audio, tau))


@pytest.mark.parametrize("backend", [pytest.param("dense", marks=pytest.mark.slow), "blockwise"])
@pytest.mark.parametrize("anchor", ANCHORS)
def test_traced_equals_eager(anchor, backend):
    torch.compiler.reset()
    criterion = FalseNegativeSuppression(0.1, anchor=anchor, backend=backend)
    traced = torch.compile(criterion, fullgraph=True, backend="aot_eager", dynamic=True)
    for b in (9, 7):
        inputs = features(b, 8, (3, 3))
        call = {"ignore": mask(b), "labels": UNKNOWN[:b]}
        found, wanted = (run(*inputs, **call) for run in (traced, criterion))
        assert_close_with_gradients(found, wanted, *inputs)
    with pytest.raises(ValueError, match="ignore must be False on the diagonal"):
        traced(*inputs, ignore=torch.eye(b, dtype=torch.bool), labels=UNKNOWN[:b])


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast(backend):
    visual, audio = features(16, 32, dtype=torch.bfloat16)
    criterion = FalseNegativeSuppression(backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        loss = criterion(visual, audio, ignore=mask(16))
    torch.testing.assert_close(loss, criterion(visual.float(), audio.float(), ignore=mask(16)))
    assert all(grad.isfinite().all() for grad in gradients(loss, visual, audio))


@pytest.mark.parametrize("anchor", ANCHORS)
@pytest.mark.usefixtures("tiny_blocks")
def test_opcheck(anchor):
    visual, audio = features(5, 4, (2, 3))
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    terms = ("fns_audio", "fns_visual")
    terms, *options = Settings(terms, anchor=anchor, suppression_ignores=True)
    options = (" ".join(terms), *options, *ALONE)
    arguments = (visual, audio, tau, mask(5), *options, True)
    torch.library.opcheck(blockwise._contrast, arguments)
    values, *kept = (output.detach() for output in blockwise._contrast(*arguments))
    plain = [x.detach() for x in (visual, audio, tau)]
    given = (torch.ones_like(values), *plain, mask(5), *kept, *options)
    torch.library.opcheck(blockwise._contrast_backward, (*given, True, True, True))


def test_memory_stays_within_the_contract():
    b, d, size = 1024, 64, (4, 4)
    visual, audio = features(b, d, size, dtype=torch.float32)
    ignore = mask(b)
    criterion = FalseNegativeSuppression(anchor="audio", backend="blockwise")
    highest, _ = extra_bytes(lambda: criterion(visual, audio, ignore=ignore).backward())
    gradients_bytes = 4 * (visual.numel() + audio.numel())
    assert highest - gradients_bytes <= 2 * visual.numel() + 7 * b**2 + 16e6


def test_there_are_no_kernels_for_it(monkeypatch):
    monkeypatch.setattr(ops, "_lacking", lambda device: [])
    visual, audio = features(256, 8, (7, 7), dtype=torch.float32)
    monkeypatch.setattr(ops, "_tested", lambda device: True)
    monkeypatch.setattr(ops, "_memory", lambda device: 10**12)
    beyond = Settings(("fns_audio",), suppression_ignores=True).beyond_kernels
    assert ops.select_backend("auto", visual, audio) == "triton"
    assert ops.select_backend("auto", visual, audio, beyond_kernels=beyond) == "blockwise"
    for backend in ("triton", "triton-stream"):
        criterion = FalseNegativeSuppression(backend=backend)
        for call in ({"ignore": mask(256)}, {"labels": torch.arange(256) % 9}):
            with pytest.raises(
                ValueError, match="it has no kernel for ignore in false negative suppression"
            ):
                criterion(visual, audio, **call)
