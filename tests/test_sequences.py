"""Sounds as sequences of frames: a match is pooled over time from the maximum over positions."""

from __future__ import annotations

import pytest
import torch
from reference import TOLERANCE, features, fnac_terms, gradients, unit
from test_memory import extra_bytes

from avcontrast import (
    FalseNegativeSuppression,
    FNACLoss,
    InfoNCE,
    TrueNegativeEnhancement,
    functional,
    ops,
)
from avcontrast.ops import _maps, sequences

BACKENDS = ("dense", "blockwise")
POOLINGS = ("mean", "max")
LOSSES = (InfoNCE, FalseNegativeSuppression, TrueNegativeEnhancement, FNACLoss)
EXACT = TOLERANCE[torch.float64]


@pytest.fixture(params=["positions kept", "positions found again"])
def tiny_blocks(monkeypatch, request):
    """Make every loop over blocks go round several times, of images and of sounds."""
    monkeypatch.setattr(_maps, "BLOCK_BYTES", 4096)
    if request.param == "positions found again":
        monkeypatch.setattr(sequences, "KEPT_BYTES", 0)


def sounds(b, d, t, *, dtype=torch.float64):
    generator = torch.Generator().manual_seed(5)
    audio = torch.randn(b, d, t, generator=generator, dtype=torch.float64)
    return audio.to(dtype).requires_grad_()


def of_each(visual, audio):
    """Return the similarities of some unit features in loops.  [n][m][t][p]."""
    images = [[unit(v) for v in image.flatten(1).T] for image in visual]
    frames = [[unit(a) for a in sound.T] for sound in audio]
    return [[[[v @ a for v in image] for a in sound] for sound in frames] for image in images]


def pooled(values, how):
    values = torch.stack(values)
    return values.mean() if how == "mean" else values.max()


@pytest.mark.parametrize("audio_pooling", POOLINGS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("tiny_blocks")
def test_a_match_equals_the_loops(backend, audio_pooling):
    visual, audio = features(6, 5, (2, 3))[0], sounds(4, 5, 3)
    expected = torch.stack(
        [
            pooled([torch.stack(similarities).max() for similarities in sound], audio_pooling)
            for image in of_each(visual, audio)
            for sound in image
        ]
    ).view(6, 4)
    options = {"audio_pooling": audio_pooling, "backend": backend}
    found = functional.max_similarity(visual, audio, **options)
    torch.testing.assert_close(found, expected, **EXACT)
    weights = torch.linspace(-1, 2, 24, dtype=torch.float64).view(6, 4)
    wanted = gradients((weights * expected).sum(), visual, audio)
    torch.testing.assert_close(gradients((weights * found).sum(), visual, audio), wanted, **EXACT)


@pytest.mark.parametrize("size", [(2, 3), (1, 1)])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("audio_pooling", POOLINGS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("tiny_blocks")
def test_every_loss_equals_the_loops(backend, audio_pooling, normalize, size):
    visual, audio = features(5, 6, size)[0], sounds(5, 6, 3)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    options = {"normalize": normalize, "audio_pooling": audio_pooling}
    weights = {"info_nce": 1.0, "fns_audio": 2.0, "fns_visual": 3.0, "tne": 5.0}
    for more in ({"anchor": "visual", "mask": "hard"}, {"anchor": "audio", "mask": "soft"}):
        terms = fnac_terms(visual, audio, tau, **options, **more)
        criterion = FNACLoss(
            tau, adjacency_reduction="batchmean", backend=backend, **options, **more
        )
        parts = criterion.components(visual, audio)._asdict()
        for name in weights:
            torch.testing.assert_close(parts[name], terms[name], **EXACT)
        total, expected = (sum(weights[k] * given[k] for k in weights) for given in (parts, terms))
        inputs = (visual, audio, tau)
        wanted = gradients(expected, *inputs)
        torch.testing.assert_close(gradients(total, *inputs), wanted, **EXACT)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("audio_pooling", POOLINGS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("tiny_blocks")
def test_info_nce_with_every_pooling_and_known_false_negatives(backend, audio_pooling, pooling):
    visual, audio = features(5, 6, (2, 2))[0], sounds(5, 6, 3)
    ignore = torch.zeros(5, 5, dtype=torch.bool)
    ignore[0, 1] = ignore[3, 0] = ignore[3, 1] = True
    kinds = {"pooling": pooling, "audio_pooling": audio_pooling}
    for symmetric in (True, False):
        options = {"symmetric": symmetric, **kinds}
        expected = fnac_terms(visual, audio, 0.2, ignore=ignore, **options)["info_nce"]
        criterion = InfoNCE(0.2, backend=backend, **options)
        found = criterion(visual, audio, ignore=ignore)
        torch.testing.assert_close(found, expected, **EXACT)
        wanted = gradients(expected, visual, audio)
        torch.testing.assert_close(gradients(found, visual, audio), wanted, **EXACT)


@pytest.mark.parametrize("audio_pooling", POOLINGS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_elimination_leaves_out_what_the_function_names(backend, audio_pooling):
    visual, audio = features(9, 4, (2, 2))[0], sounds(9, 4, 3)
    visual = (visual + 2 * audio.mean(2)[:, :, None, None]).detach().requires_grad_()
    options = {"audio_pooling": audio_pooling, "backend": backend}
    likely = functional.likely_false_negatives(visual, audio, 0.3, **options)
    match = functional.max_similarity(visual, audio, **options)
    assert torch.equal(
        likely,
        functional.likely_false_negatives(match, torch.eye(9).double(), 0.3, normalize=False),
    )
    assert 0 < likely.sum() < 72
    eliminating = InfoNCE(elimination="both", elimination_level=0.3, **options)
    expected = InfoNCE(**options)(visual, audio, ignore=likely)
    torch.testing.assert_close(eliminating(visual, audio), expected, **EXACT)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_frame_is_a_vector_bit_for_bit(backend, loss):
    visual, audio = features(5, 6, (2, 3), dtype=torch.float32)
    frame = audio.detach()[:, :, None].requires_grad_()
    criterion = loss(audio_pooling="max", backend=backend)
    found, wanted = criterion(visual, frame), criterion(visual, audio)
    assert torch.equal(found, wanted)
    assert torch.equal(gradients(found, frame)[0][:, :, 0], gradients(wanted, audio)[0])
    with pytest.raises(ValueError, match=r"visual is on cpu, it needs a CUDA device$"):
        loss(backend="triton")(visual, frame)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("audio_pooling", POOLINGS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_reductions(backend, audio_pooling, loss):
    visual, audio = features(5, 6, (2, 3))[0], sounds(5, 6, 3)
    options = {"audio_pooling": audio_pooling, "backend": backend}
    each = loss(reduction="none", **options)(visual, audio)
    assert each.shape == (5,)
    torch.testing.assert_close(loss(**options)(visual, audio), each.mean())
    torch.testing.assert_close(loss(reduction="sum", **options)(visual, audio), each.sum())


@pytest.mark.parametrize("audio_pooling", [*POOLINGS, "none"])
def test_localization_map_equals_the_loops(audio_pooling):
    visual, audio = features(4, 5, (2, 3))[0], sounds(4, 5, 3)
    similarities = of_each(visual, audio)
    own = torch.stack(
        [torch.stack([torch.stack(p) for p in similarities[n][n]]) for n in range(4)]
    ).view(4, 3, 2, 3)
    expected = {"mean": own.mean(1), "max": own.amax(1), "none": own}[audio_pooling]
    found = functional.localization_map(visual, audio, audio_pooling=audio_pooling)
    torch.testing.assert_close(found, expected, **EXACT)
    last = functional.localization_map(
        visual.flatten(2).transpose(1, 2),
        audio.transpose(1, 2),
        visual_layout="channels-last",
        audio_layout="channels-last",
        audio_pooling=audio_pooling,
        grid=(2, 3),
    )
    torch.testing.assert_close(last, found)


@pytest.mark.parametrize("audio_pooling", POOLINGS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_of_equal_maxima_the_first_gets_the_gradient(backend, audio_pooling):
    visual = torch.ones(1, 2, 1, 3, requires_grad=True)
    audio = torch.ones(1, 2, 2, requires_grad=True)
    options = {"normalize": False, "audio_pooling": audio_pooling, "backend": backend}
    match = functional.max_similarity(visual, audio, **options)
    of_visual, of_audio = gradients(match.sum(), visual, audio)
    assert of_visual[0, 0].tolist() == [[1.0, 0.0, 0.0]]
    share = [0.5, 0.5] if audio_pooling == "mean" else [1.0, 0.0]
    assert of_audio[0, 0].tolist() == share


@pytest.mark.parametrize("audio_pooling", POOLINGS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("tiny_blocks")
def test_gradcheck(backend, audio_pooling):
    visual, audio = features(3, 4, (2, 2))[0], sounds(3, 4, 2)
    tau = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def losses(visual, audio, tau):
        options = {"audio_pooling": audio_pooling, "backend": backend}
        mean = InfoNCE(tau, pooling="mean", **options)
        return *FNACLoss(tau, mask="soft", **options).components(visual, audio), mean(visual, audio)

    assert torch.autograd.gradcheck(losses, (visual, audio, tau))


@pytest.mark.parametrize("audio_pooling", POOLINGS)
@pytest.mark.usefixtures("tiny_blocks")
def test_opcheck(audio_pooling):
    visual, frames = features(5, 4, (2, 3))[0], sounds(4, 3, 4)  # 4 sounds of 3 frames
    for maps in (visual, visual.detach().contiguous(memory_format=torch.channels_last)):
        arguments = (maps.detach().requires_grad_(), frames, True, audio_pooling, True)
        torch.library.opcheck(sequences._pooled, arguments)
        match, *kept = (out.detach() for out in sequences._pooled(*arguments))
        given = (match, maps.detach(), frames.detach(), *kept, True, audio_pooling)
        for needed in ((True, True), (False, True), (True, False)):
            torch.library.opcheck(sequences._pooled_backward, (*given, *needed))


@pytest.mark.parametrize("needed", ["visual", "audio"])
@pytest.mark.parametrize("audio_pooling", POOLINGS)
def test_only_the_gradients_that_are_needed(audio_pooling, needed, monkeypatch):
    visual, audio = features(5, 4, (2, 3))[0], sounds(5, 4, 3)
    criterion = InfoNCE(audio_pooling=audio_pooling, backend="blockwise")
    wanted = dict(zip(("visual", "audio"), gradients(criterion(visual, audio), visual, audio)))
    called = []
    for name in ("to_maps", "to_vectors"):
        function = getattr(_maps, name)
        monkeypatch.setattr(
            _maps,
            name,
            lambda *a, name=name, function=function: called.append(name) or function(*a),
        )
    tensors = {"visual": visual.detach(), "audio": audio.detach()}
    leaf = tensors[needed].requires_grad_()
    (found,) = gradients(criterion(**tensors), leaf)
    torch.testing.assert_close(found, wanted[needed], **EXACT)
    assert set(called) == {"to_maps" if needed == "visual" else "to_vectors"}


@pytest.mark.parametrize("audio_pooling", POOLINGS)
def test_products_instead_of_maps_on_an_accelerator(monkeypatch, audio_pooling):
    visual, audio = features(9, 8, (3, 3))[0], sounds(9, 8, 4)
    expected = InfoNCE(audio_pooling=audio_pooling, backend="dense")(visual, audio)
    wanted = gradients(expected, visual, audio)
    monkeypatch.setattr(_maps, "on_accelerator", lambda tensor: True)
    monkeypatch.setattr(_maps, "embedding_bag", None)
    monkeypatch.setattr(_maps, "ACCELERATOR_BLOCK_BYTES", 20_000)
    found = InfoNCE(audio_pooling=audio_pooling, backend="blockwise")(visual, audio)
    torch.testing.assert_close(found, expected, **EXACT)
    torch.testing.assert_close(gradients(found, visual, audio), wanted, **EXACT)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("audio_pooling", POOLINGS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_loss_depends_on_every_input(backend, audio_pooling, loss):
    for size in ((1, 1), (2, 2)):
        visual, audio = features(3, 4, size)[0], sounds(3, 4, 2)
        tau = torch.tensor(0.1, requires_grad=True)
        value = loss(tau, audio_pooling=audio_pooling, backend=backend)(visual, audio)
        for grad in torch.autograd.grad(value, (visual, audio, tau)):
            assert grad.isfinite().all()


@pytest.mark.parametrize("audio_pooling", ["mean", pytest.param("max", marks=pytest.mark.slow)])
@pytest.mark.parametrize("backend", [pytest.param("dense", marks=pytest.mark.slow), "blockwise"])
def test_traced_in_one_graph(backend, audio_pooling):
    torch.compiler.reset()
    tau = torch.tensor(0.05, requires_grad=True)
    criterion = FNACLoss(tau, audio_pooling=audio_pooling, backend=backend)
    traced = torch.compile(criterion, fullgraph=True, backend="aot_eager", dynamic=True)
    for b in (8, 5):
        visual = features(b, 6, (2, 3), dtype=torch.float32)[0]
        inputs = (visual, sounds(b, 6, 4, dtype=torch.float32), tau)
        found, wanted = (run(*inputs[:2]) for run in (traced, criterion))
        torch.testing.assert_close(found, wanted)
        torch.testing.assert_close(gradients(found, *inputs), gradients(wanted, *inputs))


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # inductor calls what torch deprecates
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Skipping serialization:UserWarning")  # of torch 2.6
def test_compiled_equals_eager(backend):
    torch.compiler.reset()
    visual = features(8, 6, (2, 3), dtype=torch.float32)[0]
    audio = sounds(8, 6, 4, dtype=torch.float32)
    criterion = FNACLoss(backend=backend)
    found = torch.compile(criterion, fullgraph=True)(visual, audio)
    wanted = criterion(visual, audio)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    for left, right in zip(gradients(found, visual, audio), gradients(wanted, visual, audio)):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("audio_pooling", POOLINGS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_does_not_reach_into_the_loss(backend, audio_pooling):
    visual = features(6, 8, (2, 3), dtype=torch.bfloat16)[0]
    audio = sounds(6, 8, 4, dtype=torch.bfloat16)
    criterion = FNACLoss(audio_pooling=audio_pooling, backend=backend)
    expected = criterion(visual, audio)
    wanted = gradients(expected, visual, audio)
    with torch.autocast("cpu", torch.bfloat16):
        found = criterion(visual, audio)
        match = functional.max_similarity(visual, audio, backend=backend)
    assert found.dtype == match.dtype == torch.float32
    assert torch.equal(found, expected)
    assert all(torch.equal(x, y) for x, y in zip(gradients(found, visual, audio), wanted))


def test_backends():
    visual, audio = torch.empty(64, 8, 7, 7), torch.empty(64, 8, 20)
    assert ops.select_backend("auto", visual, audio[:, :, 0]) == "dense"
    assert ops.select_backend("auto", visual, audio) == "blockwise"
    assert ops.select_backend("auto", visual[:8], audio[:8, :, :4]) == "dense"
    reasons = ops.unsupported_reasons("triton-stream", visual, audio)
    assert "audio has 20 frames, there is no kernel for sequences" in reasons
    with pytest.raises(ValueError, match="there is no kernel for sequences"):
        FNACLoss(backend="triton")(visual, audio)
    visual, audio = features(4, 5, (2, 2))[0], sounds(4, 5, 3)
    (grad,) = torch.autograd.grad(
        InfoNCE(backend="blockwise")(visual, audio), visual, create_graph=True
    )
    with pytest.raises(RuntimeError, match="no second derivative; use backend='dense'"):
        grad.sum().backward()


def test_transforms_take_dense(monkeypatch):
    monkeypatch.setattr(ops, "SMALL_MAP_ELEMENTS", 0)
    visual, audio = features(4, 5, (2, 2))[0], sounds(4, 5, 3)
    assert ops.select_backend("auto", visual, audio) == "blockwise"
    (wanted,) = gradients(InfoNCE()(visual, audio), visual)
    found = torch.func.grad(lambda v: InfoNCE()(v, audio.detach()))(visual.detach())
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_shapes_without_data(backend):
    visual = torch.empty(64, 8, 7, 7, device="meta", requires_grad=True)
    audio = torch.empty(64, 8, 20, device="meta", requires_grad=True)
    for audio_pooling in POOLINGS:
        options = {"audio_pooling": audio_pooling, "backend": backend}
        value = FNACLoss(reduction="none", **options)(visual, audio)
        assert value.shape == (64,)
        grads = torch.autograd.grad(value.sum(), (visual, audio))
        assert [grad.shape for grad in grads] == [visual.shape, audio.shape]
    assert functional.localization_map(visual, audio, audio_pooling="none").shape == (64, 20, 7, 7)


MEMORY = [
    (96, 32, 64, (5, 5)),
    (48, 256, 100, (2, 2)),
    *(
        pytest.param(*case, marks=pytest.mark.slow)
        for case in (
            (512, 8, 40, (3, 3)),
            (1200, 4, 2, (2, 1)),
            (64, 128, 2, (14, 14)),
            (16, 32, 500, (16, 16)),
            (700, 8, 20, (1, 1)),
        )
    ),
]


def peak_of_a_step(criterion, visual, audio):
    """Return the extra bytes of both passes, beyond those of the gradients."""
    visual.grad = audio.grad = None
    highest, held = extra_bytes(lambda: criterion(visual, audio).backward())
    of_gradients = 4 * (visual.numel() + audio.numel())
    assert held == pytest.approx(of_gradients, abs=1e5)
    return highest - of_gradients


@pytest.mark.parametrize("audio_pooling", POOLINGS)
@pytest.mark.parametrize(("b", "d", "t", "size"), MEMORY)
def test_extra_memory_within_the_contract(b, d, t, size, audio_pooling):
    visual = features(b, d, size, dtype=torch.float32)[0]
    audio = sounds(b, d, t, dtype=torch.float32)
    budget = 24 * b**2 + 24 * audio.numel() + 16e6
    for loss, more in ((InfoNCE, 0), (FNACLoss, 36 * b**2 + 20 * visual.numel())):
        criterion = loss(audio_pooling=audio_pooling, backend="blockwise")
        assert peak_of_a_step(criterion, visual, audio) <= budget + more


def test_at_least_twenty_times_less_than_the_volume():
    visual = features(64, 16, (7, 7), dtype=torch.float32)[0]
    audio = sounds(64, 16, 50, dtype=torch.float32)
    dense, streamed = (peak_of_a_step(InfoNCE(backend=name), visual, audio) for name in BACKENDS)
    assert dense > 4 * 64**2 * 50 * 49
    assert dense >= 20 * streamed
