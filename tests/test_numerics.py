from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import features, gradients

from avcontrast import (
    FalseNegativeSuppression,
    FNACLoss,
    InfoNCE,
    TrueNegativeEnhancement,
    functional,
)
from avcontrast.ops import _maps

BACKENDS = ("dense", "blockwise")


def loss_and_gradients(criterion, visual, audio):
    loss = criterion(visual, audio)
    return [loss.detach(), *gradients(loss, visual, audio)]


CRITERIA = {
    "fnac": FNACLoss,
    "info_nce": InfoNCE,
    "fns_audio": partial(FalseNegativeSuppression, visual_weight=0.0),
    "fns_visual": partial(FalseNegativeSuppression, audio_weight=0.0),
    "tne": partial(TrueNegativeEnhancement, adjacency_reduction="mean"),
}


SEEDS = 12
"""Of batches: with few of them, which form is the better one is luck."""


def error(make, size, aligned):
    """Root mean square of losses and gradients against the fp64 truth of the same fp32 inputs.

    One row for each of ``BACKENDS``; the losses, one a sample, in units of their last digit.
    """
    squares = torch.zeros(2, 3, dtype=torch.float64)
    ulp = torch.finfo(torch.float32).eps
    for seed in range(SEEDS):
        inputs = features(96, 64, size, seed=seed, dtype=torch.float32, aligned=aligned)
        exact = [x.detach().double().requires_grad_() for x in inputs]
        truth, *true_grads = samples_and_gradients(make(reduction="none", backend="dense"), *exact)
        for row, backend in enumerate(BACKENDS):
            results = samples_and_gradients(make(reduction="none", backend=backend), *inputs)
            squares[row, 0] += ((results[0] - truth) / (ulp * truth)).square().mean() / SEEDS
            for column, (result, wanted) in enumerate(zip(results[1:], true_grads), start=1):
                squares[row, column] += (result - wanted).square().mean()
    return squares.sqrt()


def assert_not_above(plain, ours):
    """Where both have only the rounding of the logits, the last digit is luck: hence the 1 %.

    For the loss, of which that is all, 3 %.
    """
    assert plain[:2].min() > 0
    bound = 1.01 * plain
    bound[0] = max(1.03 * plain[0], 2)
    assert (ours <= bound).all(), f"{ours.tolist()}, plain form {plain.tolist()}"


def samples_and_gradients(criterion, visual, audio):
    losses = criterion(visual, audio)
    return [losses.detach(), *gradients(losses.mean(), visual, audio)]


@pytest.mark.parametrize("term", CRITERIA)
@pytest.mark.parametrize("aligned", [0.0, 3.0])
def test_error_not_above_that_of_the_plain_form(term, aligned):
    assert_not_above(*error(CRITERIA[term], (7, 7), aligned))


@pytest.mark.parametrize("aligned", [0.0, 3.0])
def test_error_for_vectors_not_above_that_of_the_plain_form(aligned):
    assert_not_above(*error(InfoNCE, (1, 1), aligned))


@pytest.mark.parametrize("size", [(7, 7), (1, 1)])
def test_gradient_of_saturated_softmaxes_keeps_its_digits(size):
    """When each positive has won, what is left is 1 - P, which the plain form rounds away."""
    plain, ours = error(FNACLoss, size, aligned=3.0)
    shown = f"{ours.tolist()}, plain form {plain.tolist()}"
    assert ours[1] < 0.05 * plain[1], shown
    assert ours[2] < 0.001 * plain[2], shown


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_keeps_logits_exact(backend, dtype):
    visual, audio = features(32, 64, dtype=dtype, aligned=3.0)
    exact = [x.detach().double() for x in (visual, audio)]
    truth = functional.max_similarity(*exact) / 0.03
    with torch.autocast("cpu", dtype):
        best = functional.max_similarity(visual, audio, backend=backend)
        own = functional.localization_map(visual, audio)
        loss = FNACLoss(backend=backend)(visual, audio)
    assert best.dtype == own.dtype == loss.dtype == torch.float32
    assert (best / 0.03 - truth).abs().max() < 2e-5
    assert (best.diagonal() - own.flatten(1).amax(1)).abs().max() < 1e-6
    for grad, tensor in zip(gradients(loss, visual, audio), (visual, audio)):
        assert grad.dtype == tensor.dtype
        assert grad.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_mixes_dtypes(backend):
    """After layers that autocast runs in different precisions, the two need not agree."""
    visual, audio = features(8, 16, dtype=torch.float32)
    rounded = visual.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = FNACLoss(backend=backend)(rounded, audio)
    expected = FNACLoss(backend=backend)(rounded.detach().float(), audio)
    torch.testing.assert_close(loss, expected)
    assert [g.dtype for g in gradients(loss, rounded, audio)] == [torch.bfloat16, torch.float32]


@pytest.mark.parametrize("backend", BACKENDS)
def test_double_precision_stays_double(backend):
    visual, audio = features(8, 16)
    assert FNACLoss(backend=backend)(visual, audio).dtype == torch.float64
    assert functional.adjacency(audio).dtype == torch.float64


@pytest.mark.parametrize("backend", BACKENDS)
def test_two_runs_give_the_same_bits(backend):
    visual, audio = features(130, 32, dtype=torch.float32)
    first, second = (loss_and_gradients(FNACLoss(backend=backend), visual, audio) for _ in range(2))
    for left, right in zip(first, second):
        assert torch.equal(left, right)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block_bytes", [1, 50_000, 300_000])
@pytest.mark.parametrize("few", [0, 96])
@pytest.mark.parametrize("aligned", [0.0, 2.0, 3.0])
def test_independent_of_the_block_size(monkeypatch, aligned, few, block_bytes, dtype):
    """The loss to 2 ulp, the gradients to 10 of their maximum, also where a softmax saturates."""
    visual, audio = features(70, 32, dtype=dtype, aligned=aligned)
    criterion = FNACLoss(backend="blockwise")
    loss, *grads = loss_and_gradients(criterion, visual, audio)
    monkeypatch.setattr(_maps, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(_maps, "FEW", few)
    other, *other_grads = loss_and_gradients(criterion, visual, audio)
    eps = torch.finfo(dtype).eps
    assert (other - loss).abs() <= 2 * eps * loss.abs()
    for left, right in zip(other_grads, grads):
        assert (left - right).abs().max() <= 10 * eps * right.abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
def test_extreme_temperature_and_scale(backend):
    visual, audio = features(24, 16, dtype=torch.float32)
    big = [(1e4 * x).detach().requires_grad_() for x in (visual, audio)]
    for inputs in ((visual, audio), big):
        for value in loss_and_gradients(FNACLoss(0.005, backend=backend), *inputs):
            assert value.isfinite().all()
    plain = FNACLoss(backend=backend)(visual, audio)
    torch.testing.assert_close(FNACLoss(backend=backend)(*big), plain, rtol=1e-4, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("tiny", [0.0, 1e-14])
def test_zero_vectors_get_zero_gradients(backend, tiny):
    visual, audio = (x.detach() for x in features(6, 8))
    visual[2, :, 1, 1] = tiny
    visual[3] = tiny
    audio[4] = tiny
    visual.requires_grad_()
    audio.requires_grad_()
    for criterion in (FNACLoss(backend=backend), InfoNCE(backend=backend)):
        loss, grad_visual, grad_audio = loss_and_gradients(criterion, visual, audio)
        assert loss.isfinite()
        assert grad_visual.isfinite().all()
        assert grad_audio.isfinite().all()
        for grad in (grad_visual[2, :, 1, 1], grad_visual[3], grad_audio[4]):
            assert grad.abs().max() == 0
    vectors = visual.detach()[:, :, 0, 0].requires_grad_()
    loss, grad_visual, grad_audio = loss_and_gradients(InfoNCE(backend=backend), vectors, audio)
    assert loss.isfinite()
    for grad, zero in ((grad_visual, 3), (grad_audio, 4)):
        assert grad.isfinite().all()
        assert grad[zero].abs().max() == 0


sizes = st.tuples(st.integers(2, 9), st.integers(1, 6), st.integers(1, 4), st.integers(1, 4))


@settings(max_examples=30, deadline=None)
@given(sizes, st.integers(0, 10_000), st.sampled_from(BACKENDS))
def test_joint_permutation_permutes_the_samples(size, seed, backend):
    b, d, h, w = size
    visual, audio = (x.detach() for x in features(b, d, (h, w), seed=seed))
    order = torch.randperm(b, generator=torch.Generator().manual_seed(seed))
    criterion = FNACLoss(0.3, reduction="none", backend=backend)
    torch.testing.assert_close(
        criterion(visual[order], audio[order]), criterion(visual, audio)[order]
    )


@settings(max_examples=30, deadline=None)
@given(sizes, st.integers(0, 10_000), st.floats(1e-3, 1e3), st.sampled_from(BACKENDS))
def test_scale_does_not_matter(size, seed, scale, backend):
    b, d, h, w = size
    visual, audio = (x.detach() for x in features(b, d, (h, w), seed=seed))
    # Its mask jumps where a position sits at the threshold, so the hard mask is left out here.
    criterion = FNACLoss(0.3, mask="soft", backend=backend)
    torch.testing.assert_close(criterion(scale * visual, audio), criterion(visual, audio))
    torch.testing.assert_close(criterion(visual, scale * audio), criterion(visual, audio))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 12), st.integers(1, 8), st.integers(0, 10_000), st.sampled_from(BACKENDS))
def test_modalities_can_be_swapped_between_vectors(b, d, seed, backend):
    visual, audio = (x.detach() for x in features(b, d, (1, 1), seed=seed))
    visual = visual[:, :, 0, 0]
    criterion = InfoNCE(0.2, backend=backend)
    torch.testing.assert_close(criterion(visual, audio), criterion(audio, visual))
    by_image = functional.false_negative_suppression(visual, audio, 0.2, backend=backend)
    by_audio = functional.false_negative_suppression(
        audio, visual, 0.2, anchor="audio", backend=backend
    )
    torch.testing.assert_close(by_image, by_audio)


@settings(max_examples=30, deadline=None)
@given(sizes, st.integers(0, 10_000))
def test_each_adjacency_row_is_bounded(size, seed):
    """Two distributions differ by at most 2, which bounds each published term by 2 / b."""
    b, d, h, w = size
    visual, audio = (x.detach() for x in features(b, d, (h, w), seed=seed))
    for reduction, bound in (("batchmean", 2), ("mean", 2 / b)):
        parts = FNACLoss(0.01, adjacency_reduction=reduction).components(visual, audio)
        for term in (parts.fns_audio, parts.fns_visual, parts.tne):
            assert 0 <= term.item() <= bound + 1e-12


@settings(max_examples=40, deadline=None)
@given(
    st.floats(2e-3, 1e3),
    st.floats(1e-6, 1e6),
    st.integers(0, 10_000),
    st.sampled_from(BACKENDS),
)
def test_finite_at_extreme_settings(temperature, scale, seed, backend):
    visual, audio = features(5, 4, (2, 2), seed=seed, dtype=torch.float32)
    inputs = [(scale * x).detach().requires_grad_() for x in (visual, audio)]
    for value in loss_and_gradients(FNACLoss(temperature, backend=backend), *inputs):
        assert value.isfinite().all()
