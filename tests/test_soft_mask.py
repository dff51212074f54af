"""Pooling by a soft mask: the response of LVS, streamed, with the gradient of the mask."""

from __future__ import annotations

import pytest
import torch
from reference import TOLERANCE, features, gradients, unit
from test_memory import extra_bytes

from avcontrast import InfoNCE, functional, ops
from avcontrast.ops import _maps

BACKENDS = ("dense", "blockwise")
EXACT = TOLERANCE[torch.float64]
MASK = {"mask_threshold": 0.2, "mask_temperature": 0.1}


@pytest.fixture
def tiny_blocks(monkeypatch):
    """Make every loop over blocks go round several times."""
    monkeypatch.setattr(_maps, "BLOCK_BYTES", 1024)


def response(similarities, mask_threshold=0.65, mask_temperature=0.03):
    """The masked mean of a list of numbers."""
    weights = [1 / (1 + (-(s - mask_threshold) / mask_temperature).exp()) for s in similarities]
    return sum(w * s for w, s in zip(weights, similarities)) / sum(weights)


def responses(visual, audio, **mask):
    maps = [[unit(position) for position in image.flatten(1).T] for image in visual]
    rows = [[response([v @ unit(a) for v in image], **mask) for a in audio] for image in maps]
    return torch.stack([torch.stack(row) for row in rows])


def assert_same(found, wanted, inputs):
    torch.testing.assert_close(found, wanted, **EXACT)
    weights = torch.linspace(1, 2, found.numel(), dtype=found.dtype).view_as(found)
    pairs = zip(
        gradients((weights * found).sum(), *inputs), gradients((weights * wanted).sum(), *inputs)
    )
    for one, other in pairs:
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("tiny_blocks")
def test_similarity_is_the_loop(backend):
    visual, _ = inputs = features(4, 3, (2, 3), aligned=0.5)
    audio = torch.cat([inputs[1], inputs[1].flip(1)])
    options = {"pooling": "soft-mask", "backend": backend, **MASK}
    found = functional.pooled_similarity(visual, audio, **options)
    assert found.shape == (4, 8)
    assert_same(found, responses(visual, audio, **MASK), inputs)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.usefixtures("tiny_blocks")
def test_info_nce_is_the_loop(symmetric, backend):
    visual, audio = features(5, 4, (2, 3), aligned=0.5)
    tau = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)
    criterion = InfoNCE(tau, symmetric=symmetric, pooling="soft-mask", backend=backend, **MASK)
    logits = responses(visual, audio, **MASK) / tau
    expected = -logits.log_softmax(1).diagonal().mean()
    if symmetric:
        expected = expected - logits.log_softmax(0).diagonal().mean()
    assert_same(criterion(visual, audio), expected, (visual, audio, tau))


@pytest.mark.parametrize("backend", BACKENDS)
def test_other_poolings_are_theirs(backend):
    visual, audio = inputs = features(4, 3, (2, 3))
    pooled = functional.pooled_similarity(visual, audio, pooling="mean", backend=backend)
    maps = torch.nn.functional.normalize(visual, dim=1).flatten(2)
    expected = torch.einsum("ndp,md->nmp", maps, torch.nn.functional.normalize(audio)).mean(-1)
    assert_same(pooled, expected, inputs)
    best = functional.pooled_similarity(visual, audio, backend=backend)
    assert torch.equal(best, functional.max_similarity(visual, audio, backend=backend))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_single_position_is_the_similarity_itself(backend):
    visual, audio = features(4, 3, (1, 1))
    plain = functional.max_similarity(visual, audio)
    pooled = functional.pooled_similarity(visual, audio, pooling="soft-mask", backend=backend)
    torch.testing.assert_close(pooled, plain)
    loss = InfoNCE(0.1, pooling="soft-mask", backend=backend)(visual, audio)
    torch.testing.assert_close(loss, InfoNCE(0.1, backend=backend)(visual, audio))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mask_of_almost_nothing_stays_finite(backend):
    """All weights vanish in fp32; the mean is then that of the position that vanishes last."""
    visual, audio = features(4, 3, (2, 3), dtype=torch.float32)
    options = {"mask_threshold": 1.0, "mask_temperature": 1e-3, "backend": backend}
    pooled = functional.pooled_similarity(visual, audio, pooling="soft-mask", **options)
    torch.testing.assert_close(pooled, functional.max_similarity(visual, audio), rtol=0, atol=0.02)
    assert all(grad.isfinite().all() for grad in gradients(pooled.sum(), visual, audio))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("tiny_blocks")
def test_gradcheck(backend):
    visual, audio = features(4, 3, (2, 2), aligned=0.5)
    criterion = InfoNCE(0.5, pooling="soft-mask", backend=backend, **MASK)
    assert torch.autograd.gradcheck(criterion, (visual, audio))

    def pooled(visual, audio):
        options = {"pooling": "soft-mask", "backend": backend, **MASK}
        return functional.pooled_similarity(visual, audio, **options)

    assert torch.autograd.gradcheck(pooled, (visual, audio))


def test_only_the_gradients_asked_for():
    visual, audio = features(4, 3, (2, 2))
    options = {"pooling": "soft-mask", "backend": "blockwise"}
    for wanted in (visual, audio):
        others = [x if x is wanted else x.detach() for x in (visual, audio)]
        one = functional.pooled_similarity(*others, **options).sum()
        both = functional.pooled_similarity(visual, audio, **options).sum()
        torch.testing.assert_close(gradients(one, wanted), gradients(both, wanted))


def test_no_less_exact_than_the_plain_form():
    visual, audio = features(24, 32, (3, 3), dtype=torch.float32, aligned=0.5)
    exact = [x.detach().double().requires_grad_() for x in (visual, audio)]
    truth = InfoNCE(pooling="soft-mask", backend="dense")(*exact)
    wanted = gradients(truth, *exact)
    errors = {}
    for backend in BACKENDS:
        loss = InfoNCE(pooling="soft-mask", backend=backend)(visual, audio)
        assert (loss.double() / truth - 1).abs() < 1e-5
        grads = gradients(loss, visual, audio)
        errors[backend] = [(one - other).norm() for one, other in zip(grads, wanted)]
    for plain, ours in zip(errors["dense"], errors["blockwise"]):
        assert ours <= 1.5 * plain


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast(backend):
    visual, audio = features(6, 4, (2, 3), dtype=torch.bfloat16)
    options = {"pooling": "soft-mask", "backend": backend}
    with torch.autocast("cpu", torch.bfloat16):
        loss = InfoNCE(**options)(visual, audio)
        pooled = functional.pooled_similarity(visual, audio, **options)
        mean = functional.pooled_similarity(visual, audio, pooling="mean", backend=backend)
    exact = visual.float(), audio.float()
    torch.testing.assert_close(loss, InfoNCE(**options)(*exact))
    torch.testing.assert_close(pooled, functional.pooled_similarity(*exact, **options))
    torch.testing.assert_close(mean, functional.pooled_similarity(*exact, pooling="mean"))


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiles_in_one_graph(backend):
    visual, audio = features(6, 4, (2, 3), dtype=torch.float32)

    def losses(visual, audio):
        options = {"pooling": "soft-mask", "backend": backend}
        pooled = functional.pooled_similarity(visual, audio, **options).mean()
        return pooled + InfoNCE(0.1, **options)(visual, audio)

    found = torch.compile(losses, fullgraph=True, backend="aot_eager")(visual, audio)
    wanted = losses(visual, audio)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, visual, audio), gradients(wanted, visual, audio))


def test_memory_stays_within_the_contract():
    b, d, size = 512, 32, (5, 5)
    visual, audio = features(b, d, size, dtype=torch.float32)
    kept = 4 * (visual.numel() + audio.numel())
    budget = 2 * visual.numel() + 7 * b**2 + 16e6
    options = {"pooling": "soft-mask", "backend": "blockwise"}
    criterion = InfoNCE(**options)
    assert extra_bytes(lambda: criterion(visual, audio).backward())[0] - kept <= budget

    def step():
        functional.pooled_similarity(visual, audio, **options).mean().backward()

    # The gradient of a similarity that the user holds is one more b x b matrix, theirs.
    assert extra_bytes(step)[0] - kept <= budget + 4 * b**2


def test_kernels_say_that_they_cannot():
    visual, audio = features(4, 3, (2, 2), dtype=torch.float32)
    for call in (functional.pooled_similarity, functional.info_nce):
        with pytest.raises(ValueError, match="it has no kernel for pooling by a soft mask"):
            call(visual, audio, pooling="soft-mask", backend="triton")
    reasons = ops.unsupported_reasons("dense", visual, audio, beyond_kernels="anything")
    assert reasons == []


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"pooling": "median"}, ValueError, "pooling must be one of 'max', 'mean', 'soft-mask'"),
        ({"mask_temperature": 0}, ValueError, "mask_temperature must be positive, got 0"),
        ({"mask_temperature": "low"}, TypeError, "mask_temperature must be a number, got str"),
        ({"mask_threshold": float("nan")}, ValueError, "mask_threshold must be finite, got nan"),
    ],
)
def test_wrong_settings_are_named(settings, error, message):
    visual, audio = features(4, 3, (2, 2))
    with pytest.raises(error, match=message):
        InfoNCE(**settings)
    for call in (functional.pooled_similarity, functional.info_nce):
        with pytest.raises(error, match=message):
            call(visual, audio, **settings)
