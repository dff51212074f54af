"""The study's other remedies, against reference numbers and loops from their equations."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from avcontrast import InfoNCE
from avcontrast.functional import max_similarity
from avstudy import opponents

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "opponents_reference.npz")
KINDS = ("bootstrap", "swapped", "neighbour", "cycle")


def golden(case, name):
    return torch.from_numpy(GOLDEN[f"{case}/{name}"])


def close(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def features():
    generator = torch.Generator().manual_seed(0)
    visual = torch.randn(6, 5, 2, 3, generator=generator, dtype=torch.float64)
    audio = torch.randn(6, 5, generator=generator, dtype=torch.float64) + visual.mean(dim=(2, 3))
    return visual.requires_grad_(), audio.requires_grad_()


@pytest.mark.parametrize("case", ["pairs_infonce", "debiased_t0.5", "debiased_t0.07"])
def test_debiased_contrast_and_its_gradient_are_the_reference(case):
    scores = golden("pairs", "scores").requires_grad_()
    prior = 0.0 if case == "pairs_infonce" else golden(case, "class_prior").item()
    temperature = golden(case, "temperature").item()
    rows = opponents.debiased_rows(scores, temperature, prior)
    columns = opponents.debiased_rows(scores.T, temperature, prior)
    close(rows, golden(case, "loss_rows"))
    close(columns, golden(case, "loss_columns"))
    (gradient,) = torch.autograd.grad(rows + columns, scores)
    close(gradient, golden(case, "grad_scores"))


def debiased_loop(visual, audio, temperature, prior):
    match = max_similarity(visual, audio)
    size, total = len(match), 0.0
    for scores in (match, match.T):
        for n in range(size):
            e = [torch.exp(scores[n, m] / temperature) for m in range(size)]
            others = sum(e[m] for m in range(size) if m != n)
            left = (others - prior * (size - 1) * e[n]) / (1 - prior)
            least = torch.tensor((size - 1) * math.exp(-1 / temperature), dtype=scores.dtype)
            total = total + torch.log(1 + torch.maximum(left, least) / e[n]) / size
    return total


@pytest.mark.parametrize("temperature", [0.5, 0.07, 0.03])
@pytest.mark.parametrize("prior", [0.0, 0.1, 0.4])
def test_debiased_contrast_is_the_loop(temperature, prior):
    inputs = features()
    found = opponents.debiased(*inputs, temperature, prior)
    expected = debiased_loop(*inputs, temperature, prior)
    close(found, expected)
    close(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs))


@pytest.mark.parametrize("temperature", [0.5, 0.03, 0.005])
def test_debiased_contrast_of_perfect_matches_is_finite(temperature):
    visual = torch.eye(8)[:, :, None, None].requires_grad_()
    audio = torch.eye(8).requires_grad_()
    loss = opponents.debiased(visual, audio, temperature, 0.1)
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in torch.autograd.grad(loss, (visual, audio)))


def test_without_a_class_prior_or_a_soft_share_it_is_infonce():
    inputs = features()
    close(opponents.debiased(*inputs, 0.1, 0.0), InfoNCE(0.1)(*inputs))
    for kind in KINDS:
        close(opponents.soft_targets(*inputs, 0.1, 0.0, kind), InfoNCE(0.1)(*inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_soft_targets_are_the_reference(kind):
    case = "robust_xid"
    names = ("visual", "audio", "visual_memory", "audio_memory")
    visual, audio, old_visual, old_audio = (golden(case, name) for name in names)
    share, *temperatures = (
        golden(case, name).item() for name in ("share", "target_temperature", "cycle_temperature")
    )
    inputs = visual.requires_grad_(), audio.requires_grad_()
    there, back = visual @ old_audio.T, audio @ old_visual.T
    weights = golden(case, "instance_weight")  # which the reference has besides
    rows = torch.zeros(6, dtype=weights.dtype)
    for name, anchors, partners, old in (
        ("visual", there, back, old_visual),
        ("audio", back, there, old_audio),
    ):
        own = (old_visual * old_audio).sum(dim=1)
        # The bank's own matches, on the diagonal, are what a cycle looks at.
        seen = anchors if kind != "cycle" else torch.diag(own)
        soft = opponents.spread(kind, seen, partners, old @ old.T, *temperatures)
        targets = (1 - share) * torch.eye(6, dtype=soft.dtype) + share * soft.detach()
        close(targets, golden(case, f"target_{name}_{kind}"))
        scaled = anchors / golden(case, "temperature")
        rows = rows + F.cross_entropy(scaled, targets, reduction="none")
    loss = (weights * rows).sum() / weights.sum()
    close(loss, golden(case, f"loss_{kind}"))
    for name, gradient in zip(names, torch.autograd.grad(loss, inputs), strict=False):
        close(gradient, golden(case, f"grad_{name}_{kind}"))


def soft_loop(visual, audio, temperature, share, kind, target_temperature, cycle_temperature):
    match = max_similarity(visual, audio)
    fixed, size, total = match.detach(), len(match), 0.0
    means = F.normalize(visual.detach(), dim=1).mean(dim=(2, 3))
    for scores, there, vectors in (
        (match, fixed, means),
        (match.T, fixed.T, audio.detach()),
    ):
        for n in range(size):
            weights = []
            for m in range(size):
                likeness = F.cosine_similarity(vectors[n], vectors[m], dim=0)
                score = {"bootstrap": there[n, m], "swapped": there[m, n]}.get(kind, likeness)
                score = score / target_temperature
                if kind == "cycle":
                    score = score + there[m, m] / cycle_temperature
                weights.append(torch.exp(score))
            for m in range(size):
                target = share * weights[m] / sum(weights) + (1 - share) * (m == n)
                scaled = scores[n] / temperature
                total = total - target * (scaled[m] - scaled.logsumexp(0)) / size
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_soft_targets_are_the_loop_and_constants(kind):
    inputs = features()
    settings = (0.07, 0.3, kind, 0.2, 0.4)
    found, expected = opponents.soft_targets(*inputs, *settings), soft_loop(*inputs, *settings)
    close(found, expected)
    close(torch.autograd.grad(found, inputs), torch.autograd.grad(expected, inputs))


def test_soft_targets_take_vectors_too():
    visual, audio = features()
    one = visual[:, :, :1, :1]
    for kind in KINDS:
        close(
            opponents.soft_targets(one[:, :, 0, 0], audio, kind=kind),
            opponents.soft_targets(one, audio, kind=kind),
        )
