"""The losses of LVS, HardPos and Cross-Modal Alignment, against numbers and against loops."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import TOLERANCE, features, gradients, unit
from test_positives import loop
from test_soft_mask import response, responses

from avcontrast import AlignmentLoss, HardPositiveLoss, InfoNCE, TriMapLoss, functional
from avcontrast.functional import neighbour_positives

BACKENDS = ("dense", "blockwise")
EXACT = TOLERANCE[torch.float64]
GOLDEN = np.load(Path(__file__).parent / "golden" / "field_reference.npz")
PRINTED = {"rtol": 0, "atol": 5e-11}


def golden(*names):
    """Return arrays of a case as leaves."""
    return [torch.from_numpy(GOLDEN[name]).requires_grad_() for name in names]


def printed_features():
    """Features from sines, so that their losses can be computed anywhere from a line of text."""
    n, k, y, x = (
        torch.arange(size, dtype=torch.float64).view([-1 if i == j else 1 for j in range(4)])
        for i, size in enumerate((4, 8, 3, 3))
    )
    visual = torch.sin(0.7 * n + 1.3 * k + 2.1 * y + 0.9 * x + 0.37 * n * k + 0.11 * k * y * x)
    audio = torch.cos(0.5 * n + 1.1 * k + 0.23 * n * k)[:, :, 0, 0]
    return visual, audio


def assert_same(found, wanted, *inputs):
    torch.testing.assert_close(found, wanted, **EXACT)
    for one, other in zip(gradients(found, *inputs), gradients(wanted, *inputs)):
        torch.testing.assert_close(one, other, **EXACT)


def assert_golden(loss, value, inputs, grads):
    torch.testing.assert_close(loss.item(), GOLDEN[value].item(), **EXACT)
    for found, name in zip(gradients(loss, *inputs), grads, strict=True):
        torch.testing.assert_close(found, torch.from_numpy(GOLDEN[name]), **EXACT)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 2.1417802918),
        ({"background": False}, 2.1396453704),
        ({"form": "paper", "anchor": "audio"}, 0.4069919184),
        ({"form": "paper"}, 0.4086599953),
    ],
)
def test_tri_map_has_the_printed_values(settings, expected):
    assert TriMapLoss(**settings)(*printed_features()).item() == pytest.approx(expected, abs=1e-10)


def test_responses_and_background_have_the_printed_values():
    visual, audio = printed_features()
    found = functional.pooled_similarity(visual, audio, pooling="soft-mask").diagonal()
    expected = torch.tensor(
        [0.8601662192, 0.7624973599, 0.5187878498, 0.2227207282], dtype=torch.float64
    )
    torch.testing.assert_close(found, expected, **PRINTED)
    background = -torch.tensor(
        [0.2315635928, 0.1608169525, 0.1043431874, 0.0415333997], dtype=torch.float64
    )
    alone = [TriMapLoss(1.0)(visual[n : n + 1], audio[n : n + 1]) for n in range(4)]
    expected = torch.nn.functional.softplus(background - expected)
    torch.testing.assert_close(torch.stack(alone), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("settings", "neighbours", "expected"),
    [
        ({}, False, 1.3185983117),
        ({"anchor": "audio"}, False, 1.3704568525),
        ({"positive_form": "inside"}, False, 2.1396453704),
        ({}, True, 0.8988698005),
        ({"anchor": "audio"}, True, 1.1186245406),
        ({"positive_form": "mean"}, True, 1.1190958300),
        ({"positive_form": "mean", "anchor": "audio"}, True, 1.2343334558),
        ({"positive_form": "inside"}, True, 1.7025006259),
        ({"positive_form": "inside", "anchor": "audio"}, True, 3.7016887740),
    ],
)
def test_hard_positives_have_the_printed_values(settings, neighbours, expected):
    positives = torch.zeros(4, 4, dtype=torch.bool)
    positives[0, 1] = positives[1, 0] = True
    call = {"positives": positives} if neighbours else {}
    loss = HardPositiveLoss(**settings)(*printed_features(), **call)
    assert loss.item() == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_tri_map_has_the_values_of_the_released_code(backend):
    inputs = golden("common/visual", "common/audio")
    options = {"normalize": False, "backend": backend}
    assert_golden(
        TriMapLoss(**options)(*inputs),
        "lvs_code/loss",
        inputs,
        ("lvs_code/grad_visual", "lvs_code/grad_audio"),
    )
    for settings, name in (
        ({"tri_map": False}, "loss_without_trimap"),
        ({"background": False}, "loss_without_hard_negative"),
    ):
        loss = TriMapLoss(**settings, **options)(*inputs)
        torch.testing.assert_close(loss.item(), GOLDEN[f"lvs_code/{name}"].item(), **EXACT)


def test_tri_map_does_not_explode_where_an_own_response_is_negative():
    case = "lvs_negative_diagonal"
    inputs = golden(f"{case}/visual", f"{case}/audio")
    loss = TriMapLoss(normalize=False)(*inputs)
    assert_golden(loss, f"{case}/loss", inputs, (f"{case}/grad_visual", f"{case}/grad_audio"))


def test_tri_map_of_the_paper():
    inputs = golden("common/visual", "common/audio")
    loss = TriMapLoss(form="paper", anchor="audio", normalize=False)(*inputs)
    grads = ("lvs_paper/grad_visual", "lvs_paper/grad_audio")
    assert_golden(loss, "lvs_paper/loss_audio_anchor", inputs, grads)
    loss = TriMapLoss(form="paper", normalize=False)(*inputs)
    torch.testing.assert_close(loss.item(), GOLDEN["lvs_paper/loss_visual_anchor"].item(), **EXACT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("form", "name"), [("sum", "sum"), ("mean", "mean"), ("inside", "mil_nce")]
)
def test_hard_positives_have_the_reference_values(form, name, backend):
    inputs = golden("common/visual", "common/audio")
    positives = torch.from_numpy(GOLDEN["hardpos/positive_mask"])
    options = {"positive_form": form, "normalize": False, "backend": backend}
    loss = HardPositiveLoss(**options)(*inputs, positives=positives)
    grads = (f"hardpos/grad_visual_{name}", f"hardpos/grad_audio_{name}")
    assert_golden(loss, f"hardpos/loss_{name}", inputs, grads)
    loss = HardPositiveLoss(anchor="audio", **options)(*inputs, positives=positives)
    expected = GOLDEN[f"hardpos/loss_{name}_audio_rows"].item()
    torch.testing.assert_close(loss.item(), expected, **EXACT)


def tri_map_loop(visual, audio, tau, form, anchor, tri_map, background, mask):
    threshold, softness = mask["mask_threshold"], mask["mask_temperature"]
    maps = [[unit(position) for position in image.flatten(1).T] for image in visual]
    sounds = [unit(vector) for vector in audio]
    b, losses = len(audio), []
    for n in range(b):
        own = [v @ sounds[n] for v in maps[n]]
        own_response = response(own, **mask)
        cut = 0.1 if tri_map else threshold
        weights = [1 / (1 + ((s - cut) / softness).exp()) for s in own]
        outside = sum(w * s for w, s in zip(weights, own)) / sum(weights)
        others = [m for m in range(b) if m != n]
        if form == "code":
            rest = [response([v @ sounds[m] for v in maps[n]], **mask) / tau for m in others]
            rest = rest + [outside / tau] * background
            total = (own_response / tau).exp() + sum(x.exp() for x in rest)
            losses.append(total.log() - own_response / tau)
        else:
            pairs = [(n, m) if anchor == "visual" else (m, n) for m in others]
            easy = sum(sum(v @ sounds[m] for v in maps[k]) / len(maps[k]) for k, m in pairs)
            negative = easy + outside if background else easy
            losses.append((1 + ((negative - own_response) / tau).exp()).log())
    return sum(losses) / b


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("form", "anchor"), [("code", "visual"), ("paper", "visual"), ("paper", "audio")]
)
@pytest.mark.parametrize(("tri_map", "background"), [(True, True), (False, True), (True, False)])
def test_tri_map_is_the_loop(tri_map, background, form, anchor, backend):
    visual, audio = features(4, 3, (2, 2), aligned=0.5)
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    mask = {"mask_threshold": 0.3, "mask_temperature": 0.2}
    switches = {"form": form, "anchor": anchor, "tri_map": tri_map, "background": background}
    criterion = TriMapLoss(tau, background_threshold=0.1, backend=backend, **switches, **mask)
    wanted = tri_map_loop(visual, audio, tau, mask=mask, **switches)
    assert_same(criterion(visual, audio), wanted, visual, audio, tau)


@pytest.mark.parametrize("anchor", ["visual", "audio"])
@pytest.mark.parametrize("form", ["outside", "inside", "sum", "mean"])
def test_hard_positives_are_the_loop(form, anchor):
    visual, audio = features(4, 3, (2, 2), aligned=0.5)
    tau = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    mask = {"mask_threshold": 0.3, "mask_temperature": 0.2}
    positives = torch.rand(4, 4, generator=torch.Generator().manual_seed(0)) < 0.4
    criterion = HardPositiveLoss(tau, positive_form=form, anchor=anchor, **mask)
    logits, marked = responses(visual, audio, **mask) / tau, positives
    if anchor == "audio":
        logits, marked = logits.T, marked.T
    nothing = torch.zeros(4, 4, dtype=torch.bool)
    wanted = loop(logits, marked, nothing, form, symmetric=False)
    assert_same(criterion(visual, audio, positives=positives), wanted, visual, audio, tau)


def views(images=3, sounds=2, b=4, d=3, size=(2, 2), dtype=torch.float64):
    """Return views of images and sounds, and vectors of each, as leaves."""
    drawn = [features(b, d, size, seed=seed, dtype=dtype) for seed in range(max(images, sounds))]
    visual = [drawn[k][0] for k in range(images)]
    audio = [drawn[k][1] for k in range(sounds)]
    other = [features(b, 2, (1, 1), seed=9 + k, dtype=dtype) for k in range(max(images, sounds))]
    image_vectors = [other[k][0].detach()[:, :, 0, 0].requires_grad_() for k in range(images)]
    return visual, audio, image_vectors, [other[k][1] for k in range(sounds)]


def both_directions(similarity, tau, symmetric=True):
    rows = -(similarity / tau).log_softmax(1).diagonal().mean()
    columns = -(similarity / tau).log_softmax(0).diagonal().mean()
    return (rows + columns) / 2 if symmetric else rows


def pooled(visual, audio, pooling):
    maps = [[unit(position) for position in image.flatten(1).T] for image in visual]
    return torch.stack(
        [
            torch.stack(
                [
                    {
                        "mean": lambda s: sum(s) / len(s),
                        "max": lambda s: torch.stack(s).max(),
                        "soft-mask": response,
                    }[pooling]([v @ unit(a) for v in image])
                    for a in audio
                ]
            )
            for image in maps
        ]
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pooling", ["mean", "max", "soft-mask"])
def test_alignment_is_the_loop(pooling, backend):
    given = views()
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    visual, audio, image_vectors, sound_vectors = given
    local = sum(both_directions(pooled(v, a, pooling), tau) for v, a in product(visual, audio))
    aligned = sum(
        both_directions(torch.stack([torch.stack([unit(x) @ unit(y) for y in a]) for x in v]), tau)
        for v, a in product(image_vectors, sound_vectors)
    )
    options = {"localization_weight": 0.5, "alignment_weight": 2.0}
    criterion = AlignmentLoss(tau, pooling=pooling, backend=backend, **options)
    parts = criterion.components(*given)
    torch.testing.assert_close(parts.localization, local, **EXACT)
    torch.testing.assert_close(parts.alignment, aligned, **EXACT)
    inputs = [tau, *(view for group in given for view in group)]
    assert_same(criterion(*given), 0.5 * local + 2 * aligned, *inputs)


def test_alignment_has_the_reference_values():
    case = "alignment"
    names = ("visual_views", "audio_views", "projection_visual", "projection_audio")
    inputs = visual, audio, of_images, of_sounds = golden(*(f"{case}/{name}" for name in names))
    given = (
        list(visual),
        list(audio),
        [view.mean((2, 3)) @ of_images.T for view in visual],
        [view @ of_sounds.T for view in audio],
    )
    # The maps are compared as they are given, the projected vectors at unit length.
    given = (*given[:2], *([unit_rows(view) for view in group] for group in given[2:]))
    criterion = AlignmentLoss(normalize=False)
    grads = [f"{case}/grad_{name}" for name in names]
    assert_golden(criterion(*given), f"{case}/loss_symmetric_sum", inputs, grads)
    one_way = AlignmentLoss(normalize=False, symmetric=False)(*given).item()
    torch.testing.assert_close(one_way, GOLDEN[f"{case}/loss_visual_to_audio_sum"].item(), **EXACT)
    parts = criterion.components(*given)
    terms = {"localization": "ce_localization", "alignment": "ce_alignment"}
    for name, term in terms.items():
        expected = GOLDEN[f"{case}/{term}"].mean(-1).sum()
        torch.testing.assert_close(getattr(parts, name).item(), expected.item(), **EXACT)


def unit_rows(vectors):
    return vectors / vectors.norm(dim=1, keepdim=True)


def test_alignment_of_one_view_each_is_half_of_info_nce():
    visual, audio, image_vectors, sound_vectors = views(1, 1)
    parts = AlignmentLoss(0.1).components(visual, audio, image_vectors, sound_vectors)
    expected = InfoNCE(0.1, pooling="mean")(visual[0], audio[0]) / 2
    torch.testing.assert_close(parts.localization, expected, **EXACT)
    expected = InfoNCE(0.1)(image_vectors[0], sound_vectors[0]) / 2
    torch.testing.assert_close(parts.alignment, expected, **EXACT)


def test_alignment_can_average_the_pairings():
    given = views()
    total = AlignmentLoss()(*given)
    torch.testing.assert_close(AlignmentLoss(pairing_reduction="mean")(*given), total / 6)


def test_a_weight_of_zero_hides_an_infinity():
    visual, audio, image_vectors, sound_vectors = views()
    broken = [torch.full_like(view, torch.nan) for view in image_vectors]
    loss = AlignmentLoss(alignment_weight=0)(visual, audio, broken, sound_vectors)
    assert loss.isfinite()


CRITERIA = {
    "tri-map": lambda **options: TriMapLoss(0.3, **options),
    "tri-map, paper": lambda **options: TriMapLoss(0.3, form="paper", **options),
    "hard positives": lambda **options: HardPositiveLoss(0.3, **options),
    "alignment": lambda **options: on_one_view(AlignmentLoss(0.3, **options)),
}


def on_one_view(criterion):
    """Return a loss of views as one of features, whose vectors are the features too."""

    def loss(visual, audio):
        mean = visual.mean((2, 3)) if visual.ndim == 4 else visual
        return criterion([visual, visual * 2], [audio], [mean, mean], [audio])

    return loss


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CRITERIA)
def test_gradcheck(case, backend):
    visual, audio = features(3, 3, (2, 2), aligned=0.5)
    criterion = CRITERIA[case](backend=backend)
    assert torch.autograd.gradcheck(criterion, (visual, audio))
    if backend == "dense":
        assert torch.autograd.gradgradcheck(criterion, (visual, audio))


@pytest.mark.parametrize("case", CRITERIA)
def test_compiles_in_one_graph(case):
    visual, audio = features(4, 3, (2, 2), dtype=torch.float32)
    criterion = CRITERIA[case](backend="blockwise")
    found = torch.compile(criterion, fullgraph=True, backend="aot_eager")(visual, audio)
    wanted = criterion(visual, audio)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradients(found, visual, audio), gradients(wanted, visual, audio))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CRITERIA)
def test_autocast(case, backend):
    visual, audio = features(4, 3, (2, 2), dtype=torch.bfloat16)
    criterion = CRITERIA[case](backend=backend)
    with torch.autocast("cpu", torch.bfloat16):
        loss = criterion(visual, audio)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, criterion(visual.float(), audio.float()), rtol=1e-2, atol=1e-2)
    assert all(grad.isfinite().all() for grad in gradients(loss, visual, audio))


@pytest.mark.parametrize("case", CRITERIA)
def test_reductions(case):
    visual, audio = features(4, 3, (2, 2))
    rows = CRITERIA[case](reduction="none")(visual, audio)
    assert rows.shape == (4,)
    torch.testing.assert_close(CRITERIA[case]()(visual, audio), rows.mean())
    torch.testing.assert_close(CRITERIA[case](reduction="sum")(visual, audio), rows.sum())


def test_temperatures_belong_to_the_forms():
    assert TriMapLoss().temperature == 0.07
    assert TriMapLoss(form="paper").temperature == 1
    assert HardPositiveLoss().temperature == 1
    assert HardPositiveLoss(positive_form="inside").temperature == 0.07
    visual, audio = features(4, 3, (2, 2))
    for form in ("code", "paper"):
        expected = TriMapLoss(form=form)(visual, audio)
        assert torch.equal(functional.tri_map(visual, audio, form=form), expected)


def test_neighbours_become_positives():
    samples = torch.tensor([10, 4, 7, 4])
    near_images = torch.tensor([[4, 99], [7, 10], [0, 1], [7, 10]])
    near_sounds = torch.tensor([[7, 4, 5], [1, 2, 3], [10, 4, 5], [1, 2, 3]])
    for combine, join in (("and", all), ("or", any)):
        found = neighbour_positives(samples, near_images, near_sounds, combine=combine)
        for n, m in product(range(4), repeat=2):
            near = [samples[m] in lists[n] for lists in (near_images, near_sounds)]
            assert found[n, m] == (samples[n] == samples[m] or join(near))
    one = neighbour_positives(samples, audio_neighbours=near_sounds)
    assert torch.equal(one, neighbour_positives(samples, near_sounds))
    everyone = torch.tensor([99, 10])
    found = neighbour_positives(samples, near_images, everyone=everyone)
    assert found.tolist() == [[True, True], [False, True], [False, False], [False, True]]


def test_wrong_views_are_named():
    visual, audio, image_vectors, sound_vectors = (
        [view.detach() for view in group] for group in views()
    )
    good = {
        "visual": visual,
        "audio": audio,
        "visual_vectors": image_vectors,
        "audio_vectors": sound_vectors,
    }
    for change, error, message in (
        ({"visual": visual[0]}, TypeError, "visual must be a list of views, one tensor each"),
        ({"audio": []}, ValueError, "audio must hold at least one view, got none"),
        ({"audio": [None]}, TypeError, "audio must hold tensors, got NoneType"),
        (
            {"visual": [visual[0], visual[1][:, :, :1], visual[2]]},
            ValueError,
            "visual must hold views of one shape, got [(4, 3, 2, 2), (4, 3, 1, 2), (4, 3, 2, 2)]",
        ),
        (
            {"visual_vectors": image_vectors[:2]},
            ValueError,
            "visual_vectors must hold one view for each of visual, got 2 for 3",
        ),
        (
            {"audio": [view[:, :2] for view in audio]},
            ValueError,
            "of the views of visual and audio: visual and audio must have the same number of "
            "channels, got visual (4, 3, 2, 2) and audio (4, 2)",
        ),
        (
            {"visual_vectors": visual, "audio_vectors": audio},
            ValueError,
            "visual_vectors must be (b, d) and not empty, got shape (4, 3, 2, 2)",
        ),
        (
            {
                "visual_vectors": [view[:2] for view in image_vectors],
                "audio_vectors": [view[:2] for view in sound_vectors],
            },
            ValueError,
            "visual_vectors must hold as many samples as visual, got 2 and 4",
        ),
    ):
        with pytest.raises(error, match=re.escape(message)):
            AlignmentLoss()(**{**good, **change})


SAMPLES = torch.arange(4)
NEAR = torch.zeros(4, 2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: TriMapLoss(form="both"),
            ValueError,
            "form must be one of 'code', 'paper', got 'both'",
        ),
        (
            lambda: TriMapLoss(anchor="audio"),
            ValueError,
            "anchor must be 'visual' with form='code', got 'audio'",
        ),
        (
            lambda: TriMapLoss()(torch.ones(4, 3), torch.ones(4, 3)),
            ValueError,
            "the tri-map loss needs a visual feature map",
        ),
        (
            lambda: TriMapLoss(background=1),
            TypeError,
            "background must be a bool, got int",
        ),
        (
            lambda: HardPositiveLoss(positive_form="best"),
            ValueError,
            "positive_form must be one of 'outside', 'inside', 'sum', 'mean', got 'best'",
        ),
        (
            lambda: HardPositiveLoss()(torch.ones(4, 3), torch.ones(4, 3), positives=SAMPLES),
            TypeError,
            "positives must be torch.bool, got torch.int64",
        ),
        (
            lambda: AlignmentLoss(pairing_reduction="max"),
            ValueError,
            "pairing_reduction must be one of 'mean', 'sum', got 'max'",
        ),
        (
            lambda: AlignmentLoss(localization_weight=0, alignment_weight=0),
            ValueError,
            "localization_weight and alignment_weight are both 0, which leaves nothing",
        ),
        (
            lambda: neighbour_positives(SAMPLES),
            ValueError,
            "visual_neighbours and audio_neighbours are both None",
        ),
        (
            lambda: neighbour_positives(SAMPLES, NEAR[:3]),
            ValueError,
            "visual_neighbours must be (4, k), got (3, 2)",
        ),
        (
            lambda: neighbour_positives(SAMPLES.float(), NEAR),
            TypeError,
            "samples must be int64 or int32, got torch.float32",
        ),
        (
            lambda: neighbour_positives(SAMPLES, NEAR, combine="xor"),
            ValueError,
            "combine must be one of 'and', 'or', got 'xor'",
        ),
    ],
)
def test_wrong_arguments_are_named(call, error, message):
    with pytest.raises(error, match=re.escape(message)):
        call()
