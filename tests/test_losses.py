from __future__ import annotations

import copy
import inspect
import math
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import PUBLISHED, TOLERANCE, features, fnac_terms, gradients
from torch.nn import functional as F

from avcontrast import (
    FalseNegativeSuppression,
    FNACLoss,
    InfoNCE,
    TrueNegativeEnhancement,
    functional,
)

GOLDEN = np.load(Path(__file__).parent / "golden" / "fnac_reference.npz")
CASES = sorted({name.split("/")[0] for name in GOLDEN.files})
BACKENDS = ("dense", "blockwise")
LOSSES = (InfoNCE, FalseNegativeSuppression, TrueNegativeEnhancement, FNACLoss)
FIELDS = {
    "total": "loss",
    "contrast": "info_nce",
    "fns_audio": "fns_audio",
    "fns_visual": "fns_visual",
    "tne": "tne",
}


def golden(case, name):
    return GOLDEN[f"{case}/{name}"]


def golden_inputs(case):
    return [torch.tensor(golden(case, name), requires_grad=True) for name in ("visual", "audio")]


def assert_relative(actual, expected, tolerance=1e-9):
    """Compare arrays relative to the largest entry of the expected one."""
    actual = actual.detach().numpy()
    assert np.isfinite(actual).all()
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("case", CASES)
def test_golden_terms_and_gradients(case, name, backend):
    visual, audio = golden_inputs(case)
    criterion = FNACLoss(
        float(golden(case, "temperature")),
        threshold=float(golden(case, "foreground_threshold")),
        normalize=False,
        backend=backend,
        **PUBLISHED,
    )
    value = getattr(criterion.components(visual, audio), FIELDS[name])
    assert_relative(value, golden(case, name))
    for modality, grad in zip(("visual", "audio"), gradients(value, visual, audio)):
        assert_relative(grad, golden(case, f"grad_{modality}_{name}"))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
def test_golden_similarities(case, backend):
    visual, audio = golden_inputs(case)
    tau = float(golden(case, "temperature"))
    best = functional.max_similarity(visual, audio, normalize=False, backend=backend)
    assert_relative(best / tau, golden(case, "logits"))
    own = functional.localization_map(visual, audio, normalize=False)
    assert_relative(own / tau, golden(case, "own_map"))


def sine_inputs():
    """Inputs made of sines, for which the released functions were executed once."""
    n = torch.arange(4, dtype=torch.float64).view(4, 1, 1, 1)
    k = torch.arange(8, dtype=torch.float64).view(1, 8, 1, 1)
    y = torch.arange(3, dtype=torch.float64).view(1, 1, 3, 1)
    x = torch.arange(3, dtype=torch.float64).view(1, 1, 1, 3)
    visual = torch.sin(0.7 * n + 1.3 * k + 2.1 * y + 0.9 * x + 0.37 * n * k + 0.11 * k * y * x)
    n, k = n.view(4, 1), k.view(1, 8)
    audio = torch.cos(0.5 * n + 1.1 * k + 0.23 * n * k)
    return visual.requires_grad_(), audio.requires_grad_()


SINE_VALUES = {
    0.03: {
        "image rows": 4.9479376119,
        "info_nce": 15.4280471206,
        "fns_audio": 0.4383698267,
        "fns_audio, audio anchor": 0.3749444211,
        "fns_visual": 0.3464899013,
        "fns_visual, audio anchor": 0.3108084998,
        "tne": 0.1235544159,
        "tne, soft": 0.2175866960,
        "loss": 106.2694615075,
        "visual gradient": 74.9251695927,
        "audio gradient": 76.0777405358,
    },
    0.1: {
        "image rows": 1.9499915585,
        "info_nce": 5.4255496303,
        "fns_audio": 0.4114011110,
        "fns_audio, audio anchor": 0.3626588841,
        "fns_visual": 0.2096440222,
        "fns_visual, audio anchor": 0.2740974460,
        "tne": 0.2887004918,
        "tne, soft": 0.3297647689,
        "loss": 96.4001121402,
        "visual gradient": 24.6250481230,
        "audio gradient": 23.0093701812,
    },
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("temperature", SINE_VALUES)
def test_sine_values_to_all_printed_digits(temperature, backend):
    visual, audio = sine_inputs()
    options = {"backend": backend, **PUBLISHED}
    parts = FNACLoss(temperature, **options).components(visual, audio)
    grad_visual, grad_audio = gradients(parts.loss, visual, audio)
    paper = FNACLoss(temperature, anchor="audio", **options).components(visual, audio)
    soft = TrueNegativeEnhancement(
        temperature, backend=backend, mask="soft", adjacency_reduction="mean"
    )
    one_way = InfoNCE(temperature, backend=backend, symmetric=False)
    found = {
        "image rows": one_way(visual, audio),
        "info_nce": parts.info_nce,
        "fns_audio": parts.fns_audio,
        "fns_audio, audio anchor": paper.fns_audio,
        "fns_visual": parts.fns_visual,
        "fns_visual, audio anchor": paper.fns_visual,
        "tne": parts.tne,
        "tne, soft": soft(visual, audio),
        "loss": parts.loss,
        "visual gradient": grad_visual.norm(),
        "audio gradient": grad_audio.norm(),
    }
    for name, expected in SINE_VALUES[temperature].items():
        assert found[name].item() == pytest.approx(expected, abs=6e-11 * max(1, expected)), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("anchor", ["visual", "audio"])
@pytest.mark.parametrize("mask", ["hard", "soft"])
@pytest.mark.parametrize("normalize", [True, False])
def test_equals_the_loops(normalize, mask, anchor, backend):
    visual, audio = features(5, 6, (2, 3))
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    options = {"normalize": normalize, "mask": mask, "anchor": anchor}
    criterion = FNACLoss(
        tau,
        fns_audio_weight=2.0,
        fns_visual_weight=3.0,
        tne_weight=5.0,
        adjacency_reduction="batchmean",
        backend=backend,
        **options,
    )
    terms = fnac_terms(visual, audio, tau, **options)
    expected = (
        terms["info_nce"] + 2 * terms["fns_audio"] + 3 * terms["fns_visual"] + 5 * terms["tne"]
    )
    loss = criterion(visual, audio)
    tolerance = TOLERANCE[torch.float64]
    torch.testing.assert_close(loss, expected, **tolerance)
    inputs = (visual, audio, tau)
    for found, wanted in zip(gradients(loss, *inputs), gradients(expected, *inputs)):
        torch.testing.assert_close(found, wanted, **tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_info_nce_equals_the_loops(pooling, backend):
    visual, audio = features(5, 6, (2, 3))
    expected = fnac_terms(visual, audio, 0.2, pooling=pooling)["info_nce"]
    loss = InfoNCE(0.2, pooling=pooling, backend=backend)(visual, audio)
    torch.testing.assert_close(loss, expected, **TOLERANCE[torch.float64])
    for found, wanted in zip(gradients(loss, visual, audio), gradients(expected, visual, audio)):
        torch.testing.assert_close(found, wanted, **TOLERANCE[torch.float64])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("d", [7, 12])  # fewer and more numbers a vector than vectors
def test_vectors_give_twice_the_clip_loss(backend, d):
    visual, audio = features(9, d, (1, 1))
    visual = visual.detach()[:, :, 0, 0].requires_grad_()
    temperature = torch.tensor(0.07, dtype=torch.float64, requires_grad=True)
    logits = F.normalize(visual) @ F.normalize(audio).T / temperature
    target = torch.arange(9)
    expected = F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)
    loss = functional.info_nce(visual, audio, temperature, backend=backend)
    torch.testing.assert_close(loss, expected, **TOLERANCE[torch.float64])
    inputs = (visual, audio, temperature)
    for found, wanted in zip(gradients(loss, *inputs), gradients(expected, *inputs)):
        torch.testing.assert_close(found, wanted, **TOLERANCE[torch.float64])
    suppression = FalseNegativeSuppression(0.07, backend=backend)
    torch.testing.assert_close(
        suppression(visual, audio), suppression(visual[:, :, None, None], audio)
    )


def test_all_features_equal_is_chance():
    visual, audio = torch.ones(16, 8, 3, 3), torch.ones(16, 8)
    parts = FNACLoss().components(visual, audio)
    assert parts.info_nce.item() == pytest.approx(2 * math.log(16), rel=1e-6)
    for term in (parts.fns_audio, parts.fns_visual, parts.tne):
        torch.testing.assert_close(term, torch.zeros(()), atol=1e-6, rtol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_one_pair_alone_costs_nothing(loss):
    visual, audio = features(1, 4)
    value = loss()(visual, audio)
    assert value.item() == pytest.approx(0, abs=1e-12)
    for grad in gradients(value, visual, audio):
        assert grad.abs().max() < 1e-9


def every_output(visual, audio, tau, ignore, **options):
    """Return each loss and each field of the components, with settings that leave much out."""
    contrastive = {"ignore": ignore, "elimination": "both"}
    adjacencies = {"detach_adjacency": options.pop("detach_adjacency")}
    mask = {"mask": options.pop("mask")}
    inputs = (visual, audio, tau)
    yield functional.info_nce(*inputs, **contrastive, **options)
    yield functional.info_nce(*inputs, symmetric=False, pooling="mean", **options)
    for weights in ({}, {"audio_weight": 0.0}, {"visual_weight": 0.0}):
        for anchor in ("visual", "audio"):
            kind = {"anchor": anchor, **weights, **adjacencies}
            yield functional.false_negative_suppression(*inputs, **kind, **options)
    yield functional.true_negative_enhancement(*inputs, **mask, **adjacencies, **options)
    unweighted = dict.fromkeys(("fns_audio_weight", "fns_visual_weight", "tne_weight"), 0.0)
    for more in (
        contrastive,
        unweighted,
        {"regularization": 0.0},
        {"regularization": 0.0, "skip_unweighted": True},
    ):
        yield from functional.fnac(*inputs, **more, **mask, **adjacencies, **options)


@pytest.mark.parametrize("mask", ["hard", "soft"])
@pytest.mark.parametrize("detach", [False, True], ids=["", "detached"])
@pytest.mark.parametrize("size", [(1, 1), (1, 2)])
@pytest.mark.parametrize("b", [1, 3])
@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_every_output_depends_on_every_input(backend, b, size, detach, mask):
    ignore = torch.ones(b, b, dtype=torch.bool).fill_diagonal_(False)
    for needed in ((0,), (1,), (2,), (0, 1, 2)):
        inputs = [x.detach() for x in (*features(b, 4, size), torch.tensor(0.1))]
        wanted = [inputs[number].requires_grad_() for number in needed]
        for reduction in ("mean", "none"):
            options = {"reduction": reduction, "backend": backend}
            options |= {"detach_adjacency": detach, "mask": mask}
            for value in every_output(*inputs, ignore, **options):
                for grad in torch.autograd.grad(value.sum(), wanted, retain_graph=True):
                    assert grad.isfinite().all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_map_of_one_position_has_no_source(backend):
    visual, audio = features(5, 8, (1, 1))
    parts = FNACLoss(backend=backend).components(visual, audio)
    assert not gradients(parts.tne, visual)[0].any()
    broken = visual.detach().index_fill(0, torch.tensor(2), math.nan)
    assert FNACLoss(backend=backend).components(broken, audio).tne.isnan()


@pytest.mark.parametrize("backend", BACKENDS)
def test_components_and_forward_are_one_computation(backend):
    visual, audio = features(12, 8, dtype=torch.float32)
    criterion = FNACLoss(fns_audio_weight=10.0, fns_visual_weight=20.0, backend=backend)
    parts = criterion.components(visual, audio, regularization=0.5)
    assert torch.equal(criterion(visual, audio, regularization=0.5), parts.loss)
    regularization = 5 * parts.fns_audio + 10 * parts.fns_visual + 50 / 256 * parts.tne
    expected = parts.info_nce + regularization
    torch.testing.assert_close(parts.loss, expected)
    options = {"backend": backend}
    single = {
        "info_nce": InfoNCE(**options),
        "fns_audio": FalseNegativeSuppression(visual_weight=0.0, **options),
        "fns_visual": FalseNegativeSuppression(audio_weight=0.0, **options),
        "tne": TrueNegativeEnhancement(**options),
    }
    for name, module in single.items():
        assert torch.equal(getattr(parts, name), module(visual, audio)), name
        assert getattr(parts, name).requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_regularization_is_info_nce_bit_for_bit(backend):
    visual, audio = features(20, 8, dtype=torch.float32)
    loss = FNACLoss(backend=backend)(visual, audio, regularization=0.0)
    plain = InfoNCE(backend=backend)(visual, audio)
    assert torch.equal(loss, plain)
    for found, wanted in zip(gradients(loss, visual, audio), gradients(plain, visual, audio)):
        assert torch.equal(found, wanted)
    parts = FNACLoss(backend=backend).components(visual, audio, regularization=0.0)
    assert torch.equal(parts.loss, plain)
    assert parts.tne > 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_weighs_nothing_is_not_computed(backend, monkeypatch):
    from avcontrast import ops

    asked = []
    contrast = ops.contrast

    def spy(visual, audio, temperature, settings, **options):
        asked.append(settings.terms)
        return contrast(visual, audio, temperature, settings, **options)

    monkeypatch.setattr(ops, "contrast", spy)
    visual, audio = features(4, 8)
    both = ("visual_to_audio", "audio_to_visual")
    FNACLoss(backend=backend)(visual, audio, regularization=0.0)
    FNACLoss(backend=backend, tne_weight=0.0)(visual, audio)
    FalseNegativeSuppression(backend=backend, audio_weight=0.0)(visual, audio)
    InfoNCE(backend=backend, symmetric=False)(visual, audio)
    assert asked == [both, (*both, "fns_audio", "fns_visual"), ("fns_visual",), both[:1]]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_reductions(loss, backend):
    visual, audio = features(6, 8)
    each = loss(reduction="none", backend=backend)(visual, audio)
    assert each.shape == (6,)
    torch.testing.assert_close(loss(backend=backend)(visual, audio), each.mean())
    total = loss(reduction="sum", backend=backend)(visual, audio)
    torch.testing.assert_close(total, each.sum())


@pytest.mark.parametrize("backend", BACKENDS)
def test_batchmean_sums_the_rows(backend):
    visual, audio = features(6, 8)
    for loss in (FalseNegativeSuppression, TrueNegativeEnhancement):
        mean = loss(backend=backend, adjacency_reduction="mean")(visual, audio)
        batchmean = loss(backend=backend)(visual, audio)
        torch.testing.assert_close(batchmean, 6 * mean)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("b", [64, 256])
def test_the_default_is_the_published_strength_at_any_batch(b, backend):
    visual, audio = features(b, 8, (2, 2))
    loss = FNACLoss(backend=backend)(visual, audio)
    weights = dict.fromkeys(("fns_audio_weight", "fns_visual_weight", "tne_weight"), 100 * b / 256)
    published = FNACLoss(backend=backend, **{**PUBLISHED, **weights})(visual, audio)
    torch.testing.assert_close(loss, published, rtol=1e-12, atol=0)
    inputs = (visual, audio)
    for found, wanted in zip(gradients(loss, *inputs), gradients(published, *inputs)):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("backend", BACKENDS)
def test_detached_adjacencies_are_constants(backend):
    visual, audio = features(6, 8)
    tau = 0.2

    def adjacencies():
        pooled = F.normalize(visual, dim=1).flatten(2).mean(2)
        return (
            functional.adjacency(audio, tau).detach(),
            functional.adjacency(pooled, tau, normalize=False).detach(),
        )

    of_audio, of_visual = adjacencies()
    match = (functional.max_similarity(visual, audio) / tau).softmax(1)
    expected = F.l1_loss(match, of_audio) + F.l1_loss(match, of_visual)
    loss = FalseNegativeSuppression(
        tau, adjacency_reduction="mean", detach_adjacency=True, backend=backend
    )(visual, audio)
    torch.testing.assert_close(loss, expected)
    for found, wanted in zip(gradients(loss, visual, audio), gradients(expected, visual, audio)):
        torch.testing.assert_close(found, wanted)
    enhancement = TrueNegativeEnhancement(tau, detach_adjacency=True, backend=backend)
    grad_visual, grad_audio = gradients(enhancement(visual, audio), visual, audio)
    assert grad_visual.abs().max() > 0
    assert grad_audio.abs().max() == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_temperature_gets_its_exact_gradient(backend):
    visual, audio = (x.detach() for x in features(5, 6, (3, 3)))
    temperature = torch.nn.Parameter(torch.tensor(0.1, dtype=torch.float64))
    criterion = FNACLoss(temperature, mask="soft", backend=backend)
    assert [name for name, _ in criterion.named_parameters()] == ["temperature"]
    (grad,) = gradients(criterion(visual, audio), temperature)
    step = 1e-6
    ahead, behind = (
        FNACLoss(0.1 + delta, mask="soft", backend=backend)(visual, audio)
        for delta in (step, -step)
    )
    assert grad.item() == pytest.approx(((ahead - behind) / (2 * step)).item(), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_settings_survive_and_show(loss):
    module = loss(0.05, reduction="sum", normalize=False)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert repr(other) == repr(module)
        visual, audio = features(4, 8)
        assert torch.equal(other(visual, audio), module(visual, audio))
    for name in ("temperature=0.05", "reduction=sum", "normalize=False", "backend=auto"):
        assert name in repr(module)
    for name in inspect.signature(loss).parameters:
        assert f"{name}=" in repr(module)
    assert not module.state_dict()
    assert "temperature=0.05, learnable=True" in repr(loss(torch.tensor(0.05, requires_grad=True)))


@pytest.mark.parametrize("loss", LOSSES)
def test_every_argument_is_explained_in_full(loss):
    for name in inspect.signature(loss).parameters:
        (text,) = re.findall(rf"^    {name}: (.+)", loss.__doc__, re.MULTILINE)
        assert not text.startswith("see "), name


@pytest.mark.parametrize("loss", LOSSES)
def test_a_changed_attribute_counts(loss):
    visual, audio = features(4, 8)
    module = loss()
    module.temperature, module.reduction = 0.5, "none"
    assert torch.equal(module(visual, audio), loss(0.5, reduction="none")(visual, audio))
    module.backend = "cuda"
    with pytest.raises(ValueError, match="backend must be one of 'auto', "):
        module(visual, audio)


def test_module_equals_function():
    visual, audio = features(6, 8)
    pairs = [
        (InfoNCE(0.1, pooling="mean"), functional.info_nce, {"pooling": "mean"}),
        (
            FalseNegativeSuppression(0.1, anchor="audio"),
            functional.false_negative_suppression,
            {"anchor": "audio"},
        ),
        (
            TrueNegativeEnhancement(0.1, threshold=0.3),
            functional.true_negative_enhancement,
            {"threshold": 0.3},
        ),
    ]
    for module, function, options in pairs:
        assert torch.equal(module(visual, audio), function(visual, audio, 0.1, **options))
    parts = functional.fnac(visual, audio, 0.1, tne_weight=3.0)
    assert torch.equal(FNACLoss(0.1, tne_weight=3.0)(visual, audio), parts.loss)
