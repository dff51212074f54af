"""What users have for features: tokens, videos, channels last, two dtypes."""

from __future__ import annotations

import pytest
import torch
from reference import TOLERANCE, features, fnac_terms, gradients
from test_memory import extra_bytes

from avcontrast import (
    FalseNegativeSuppression,
    FNACLoss,
    InfoNCE,
    TrueNegativeEnhancement,
    functional,
    metrics,
    ops,
)

BACKENDS = ("dense", "blockwise")
LOSSES = (InfoNCE, FalseNegativeSuppression, TrueNegativeEnhancement, FNACLoss)
EXACT = TOLERANCE[torch.float64]
FIRST, LAST = "channels-first", "channels-last"


def leaf(tensor):
    return tensor.detach().clone().requires_grad_()


def random(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)


VISUAL = {
    "a map, channels last": (random(4, 2, 3, 6), LAST),
    "tokens": (random(4, 7, 6), LAST),
    "tokens, channels first": (random(4, 6, 7), FIRST),
    "as many tokens as channels": (random(4, 6, 6), LAST),
    "tokens of a longer sequence": (random(4, 8, 6)[:, 1:], LAST),
    "video": (random(4, 6, 3, 2, 2), FIRST),
    "video, channels last": (random(4, 3, 2, 2, 6), LAST),
    "video, image by image": (random(4, 3, 6, 2, 2).transpose(1, 2), FIRST),
    "vectors": (random(4, 6), LAST),
}


def channels_first(visual, layout):
    """Return a contiguous tensor whose second axis has the channels."""
    return visual if layout == FIRST else visual.movedim(-1, 1).contiguous()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", VISUAL)
def test_every_layout_equals_the_loops(case, backend):
    given, layout = VISUAL[case]
    visual, audio = given.detach().requires_grad_(), random(6, 4).T.contiguous().requires_grad_()
    terms = fnac_terms(channels_first(visual, layout), audio, 0.2)
    options = {"visual_layout": layout, "backend": backend}
    found = {"info_nce": InfoNCE(0.2, **options)(visual, audio)}
    if visual.ndim > 2:
        parts = FNACLoss(0.2, adjacency_reduction="batchmean", **options)
        found = parts.components(visual, audio)._asdict()
        del found["loss"]
    weights = {"info_nce": 1, "fns_audio": 2, "fns_visual": 3, "tne": 5}
    for name, value in found.items():
        torch.testing.assert_close(value, terms[name], **EXACT)
    total, expected = (sum(weights[k] * terms[k] for k in found) for terms in (found, terms))
    wanted = gradients(expected, visual, audio)
    torch.testing.assert_close(gradients(total, visual, audio), wanted, **EXACT)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_of_both_are_views_of_the_same_features(backend, loss):
    visual, audio = leaf(random(4, 7, 6)), leaf(random(4, 5, 6) + 0.1)
    options = {"audio_pooling": "max", "backend": backend}
    last = loss(0.2, visual_layout=LAST, audio_layout=LAST, **options)(visual, audio)
    first = loss(0.2, **options)(visual.transpose(1, 2), audio.transpose(1, 2))
    assert torch.equal(last, first)


def test_every_function_takes_a_layout():
    visual, audio = random(4, 9, 6), random(4, 6)
    layout = {"visual_layout": LAST}
    first = visual.transpose(1, 2)
    for name in ("max_similarity", "likely_false_negatives"):
        function = getattr(functional, name)
        assert torch.equal(function(visual, audio, **layout), function(first, audio))
    tokens = functional.localization_map(visual, audio, **layout)
    assert tokens.shape == (4, 9)
    maps = functional.localization_map(visual, audio, grid=(3, 3), **layout)
    wanted = functional.localization_map(first.reshape(4, 6, 3, 3), audio)
    assert torch.equal(maps, wanted)
    assert torch.equal(maps.flatten(1), tokens)
    assert metrics.upsample(maps, 12).shape == (4, 12, 12)
    video = random(4, 6, 2, 3, 3)
    assert functional.localization_map(video, audio).shape == (4, 2, 3, 3)
    flat = functional.localization_map(video.flatten(2), audio, grid=[2, 3, 3])
    assert torch.equal(flat, functional.localization_map(video, audio))


@pytest.mark.parametrize("case", ["tokens", "tokens of a longer sequence", "video, channels last"])
def test_gradients_lie_as_the_features_do(case):
    given, layout = VISUAL[case]
    visual = given.detach().requires_grad_()
    loss = FNACLoss(visual_layout=layout, backend="blockwise")(visual, random(4, 6))
    grad = torch.autograd.grad(loss, visual)[0]
    assert grad.is_contiguous()


def test_tokens_are_not_copied_as_a_whole():
    b, n, d = 512, 49, 256
    visual = torch.randn(b, n, d, requires_grad=True)
    audio = torch.randn(b, d, requires_grad=True)
    criterion = FNACLoss(visual_layout=LAST, backend="blockwise")
    highest, _ = extra_bytes(lambda: criterion(visual, audio).backward())
    of_gradients = 4 * (visual.numel() + audio.numel())
    assert highest - of_gradients <= 2 * visual.numel() + 7 * b**2 + 16e6


MIXED = [
    (torch.float32, torch.float64),
    (torch.float64, torch.bfloat16),
    (torch.bfloat16, torch.float32),
    (torch.float16, torch.bfloat16),
]


@pytest.mark.parametrize("frames", [(), (3,)], ids=["vectors", "sequences"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("of_visual", "of_audio"), MIXED)
def test_two_dtypes_are_computed_in_the_wider(of_visual, of_audio, backend, frames):
    visual = leaf(random(5, 6, 2, 3, dtype=of_visual))
    audio = leaf(random(5, 6, *frames, dtype=of_audio))
    wider = torch.promote_types(torch.promote_types(of_visual, of_audio), torch.float32)
    both = leaf(visual.to(wider)), leaf(audio.to(wider))
    for loss in LOSSES:
        criterion = loss(0.2, backend=backend)
        value, expected = criterion(visual, audio), criterion(*both)
        assert value.dtype == wider
        assert torch.equal(value, expected)
        wanted = gradients(expected, *both)
        for leaf_, found, right in zip((visual, audio), gradients(value, visual, audio), wanted):
            assert found.dtype == leaf_.dtype
            assert torch.equal(found, right.to(leaf_.dtype))
    assert functional.max_similarity(visual, audio, backend=backend).dtype == wider
    assert functional.localization_map(visual, audio).dtype == wider


@pytest.mark.parametrize("backend", BACKENDS)
def test_layouts_are_traced_in_one_graph(backend):
    torch.compiler.reset()
    criterion = FNACLoss(visual_layout=LAST, audio_layout=LAST, backend=backend)
    traced = torch.compile(criterion, fullgraph=True, backend="aot_eager")
    visual, audio = leaf(random(6, 7, 8, dtype=torch.float32)), leaf(features(6, 8)[1].float())
    found, wanted = traced(visual, audio), criterion(visual, audio)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, visual, audio), gradients(wanted, visual, audio))


def test_backends_are_chosen_by_the_positions_of_every_layout():
    visual, audio = torch.empty(256, 49, 8), torch.empty(256, 8)
    assert ops.select_backend("auto", visual.movedim(-1, 1), audio) == "blockwise"
    video = torch.empty(256, 8, 2, 5, 5)
    assert ops.select_backend("auto", video, audio) == "blockwise"
    (reason,) = (
        reason
        for reason in ops.unsupported_reasons("triton", torch.empty(2, 8, 5, 15, 15), audio[:2])
        if "positions" in reason
    )
    assert reason == "the maps have 1125 positions, it takes up to 1024"
