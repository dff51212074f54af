"""Likely false negatives: pairs that match so well that the contrastive term leaves them out."""

from __future__ import annotations

import pytest
import torch
from reference import TOLERANCE, features, fnac_terms, gradients
from test_memory import extra_bytes

from avcontrast import FNACLoss, InfoNCE, functional
from avcontrast.ops import _maps

BACKENDS = ("dense", "blockwise")
SIDES = ("visual", "audio", "both")
EXACT = TOLERANCE[torch.float64]


@pytest.fixture
def tiny_blocks(monkeypatch):
    """Make every loop over blocks go round several times."""
    monkeypatch.setattr(_maps, "BLOCK_BYTES", 512)


def likely(match, level, sides):
    """The rule in loops, from a list of lists of matches."""
    b = len(match)
    row_means = [sum(row) / b for row in match]
    column_means = [sum(row[m] for row in match) / b for m in range(b)]
    found = torch.zeros(b, b, dtype=torch.bool)
    for n in range(b):
        for m in range(b):
            verdicts = []
            for side, own, mean in (
                ("visual", match[n][n], row_means[n]),
                ("audio", match[m][m], column_means[m]),
            ):
                if sides in (side, "both"):
                    stands_out = own > mean
                    verdicts.append(stands_out and match[n][m] > level * own + (1 - level) * mean)
            found[n, m] = n != m and all(verdicts)
    return found


def mask_of(visual, audio, level, sides, **options):
    match = functional.max_similarity(visual, audio, **options).tolist()
    return likely(match, level, sides)


@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("level", [0.0, 0.4, 0.8, 1.0])
def test_the_mask_is_the_rule(level, sides):
    visual, audio = features(12, 5, (2, 3), aligned=0.6)
    found = functional.likely_false_negatives(visual, audio, level=level, sides=sides)
    assert torch.equal(found, mask_of(visual, audio, level, sides))
    assert not found.diagonal().any()
    assert not found.requires_grad


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("sides", SIDES)
@pytest.mark.parametrize("anchor", ["visual", "audio"])
@pytest.mark.usefixtures("tiny_blocks")
def test_fnac_leaves_the_mask_out_of_the_contrast_alone(anchor, sides, backend):
    """And out of nothing else: the match of the suppression terms keeps every pair."""
    visual, audio = features(6, 5, (2, 3), aligned=0.6)
    tau = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    ignore = mask_of(visual, audio, 0.3, sides)
    assert ignore.any()
    criterion = FNACLoss(
        tau,
        anchor=anchor,
        elimination=sides,
        elimination_level=0.3,
        adjacency_reduction="batchmean",
        backend=backend,
    )
    strength = 2.56  # that makes all weights 1
    parts = criterion.components(visual, audio, regularization=strength)
    terms = fnac_terms(visual, audio, tau, anchor=anchor, ignore=ignore)
    for name, expected in terms.items():
        torch.testing.assert_close(getattr(parts, name), expected, **EXACT)
    found = gradients(parts.loss, visual, audio, tau)
    wanted = gradients(sum(terms.values()), visual, audio, tau)
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("pooling", ["max", "mean"])
@pytest.mark.usefixtures("tiny_blocks")
def test_known_and_likely_false_negatives_add_up(pooling, symmetric, backend):
    visual, audio = features(9, 5, (2, 3), aligned=0.6)
    known = torch.rand(9, 9, generator=torch.Generator().manual_seed(0)) < 0.2
    known.fill_diagonal_(False)
    match = torch.einsum(
        "ndhw,md->nmhw",
        torch.nn.functional.normalize(visual, dim=1),
        torch.nn.functional.normalize(audio, dim=1),
    ).flatten(2)
    match = match.amax(-1) if pooling == "max" else match.mean(-1)
    both = known | likely(match.tolist(), 0.5, "both")
    options = {"pooling": pooling, "symmetric": symmetric, "backend": backend}
    criterion = InfoNCE(0.2, elimination="both", elimination_level=0.5, **options)
    loss = criterion(visual, audio, ignore=known)
    expected = InfoNCE(0.2, **options)(visual, audio, ignore=both)
    assert (both & ~known).any()
    torch.testing.assert_close(loss, expected, **EXACT)
    for one, other in zip(gradients(loss, visual, audio), gradients(expected, visual, audio)):
        torch.testing.assert_close(one, other, **EXACT)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_call_can_switch_it_off(backend):
    visual, audio = features(8, 5, (2, 2), aligned=0.6)
    plain = InfoNCE(0.1, backend=backend)
    criterion = InfoNCE(0.1, elimination="both", backend=backend)
    assert torch.equal(criterion(visual, audio, eliminate=False), plain(visual, audio))
    assert not torch.equal(criterion(visual, audio), plain(visual, audio))
    fnac = FNACLoss(0.1, elimination="both", backend=backend)
    assert torch.equal(
        fnac(visual, audio, eliminate=False), FNACLoss(0.1, backend=backend)(visual, audio)
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_single_pair_and_equal_pairs_cut_nothing(backend):
    """No own pair stands out from the mean of its row."""
    for visual, audio in (
        features(1, 4, (2, 2)),
        (torch.ones(5, 4, 2, 2, requires_grad=True), torch.ones(5, 4, requires_grad=True)),
    ):
        assert not functional.likely_false_negatives(visual, audio).any()
        loss = InfoNCE(0.1, elimination="both", backend=backend)(visual, audio)
        assert torch.equal(loss, InfoNCE(0.1, backend=backend)(visual, audio))


def test_a_sample_whose_own_pair_is_below_average_cuts_nothing():
    audio = torch.eye(4)
    visual = torch.eye(4)
    visual[0] = torch.tensor(
        [-1.0, 1.0, 1.0, 0.0]
    )  # its own sound is the one that it matches least
    found = functional.likely_false_negatives(visual, audio, level=0.5, sides="visual")
    assert not found[0].any()
    found = functional.likely_false_negatives(visual, audio, level=0.1, sides="audio")
    assert found[0, 1]
    assert found[0, 2]


def test_at_level_one_only_better_matches_than_the_own_pair_are_cut():
    visual, audio = features(32, 8, (2, 2), aligned=0.4)
    match = functional.max_similarity(visual, audio)
    own = match.diagonal()
    better = (match > own[:, None]) & (match > own)
    stands_out = (own > match.mean(1))[:, None] & (own > match.mean(0))
    found = functional.likely_false_negatives(visual, audio, level=1.0)
    assert torch.equal(found, better & stands_out)
    assert found.any()


def test_both_sides_are_what_each_side_agrees_on():
    visual, audio = features(16, 6, (2, 2), aligned=0.4)
    by_image, by_sound, by_both = (
        functional.likely_false_negatives(visual, audio, sides=sides) for sides in SIDES
    )
    assert torch.equal(by_both, by_image & by_sound)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.usefixtures("tiny_blocks")
def test_gradcheck(backend):
    """The limits are constants: between two switches of the mask the loss is differentiable."""
    visual, audio = features(5, 4, (2, 2), aligned=0.6)
    tau = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def losses(visual, audio, tau):
        criterion = FNACLoss(tau, mask="soft", elimination="both", backend=backend)
        return tuple(criterion.components(visual, audio))

    assert functional.likely_false_negatives(visual, audio).any()
    assert torch.autograd.gradcheck(losses, (visual, audio, tau))


def test_compiles_in_one_graph():
    visual, audio = features(8, 6, (2, 2), dtype=torch.float32, aligned=0.6)
    for backend in BACKENDS:
        criterion = InfoNCE(0.1, elimination="both", backend=backend)
        compiled = torch.compile(criterion, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(visual, audio), criterion(visual, audio))


def test_takes_two_numbers_a_sample():
    visual, audio = features(256, 32, (7, 7), dtype=torch.float32)

    def peak(elimination):
        criterion = InfoNCE(elimination=elimination, backend="blockwise")
        return extra_bytes(lambda: criterion(visual, audio).backward())[0]

    assert peak("both") - peak("none") <= 16 * 256 + 2**20


@pytest.mark.parametrize("criterion", [InfoNCE, FNACLoss])
@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"elimination": "rows"}, ValueError, "elimination must be one of .*'both'.*got 'rows'"),
        (
            {"elimination_level": 1.5},
            ValueError,
            r"elimination_level must lie in \[0, 1\], got 1.5",
        ),
        ({"elimination_level": "high"}, TypeError, "elimination_level must be a number, got str"),
    ],
)
def test_wrong_settings_are_named(criterion, settings, error, message):
    with pytest.raises(error, match=message):
        criterion(**settings)


def test_wrong_arguments_are_named():
    visual, audio = features(4, 3, (2, 2))
    with pytest.raises(TypeError, match="eliminate must be a bool, got float"):
        InfoNCE(elimination="both")(visual, audio, eliminate=1.0)
    with pytest.raises(ValueError, match="sides must be one of 'visual', 'audio', 'both'"):
        functional.likely_false_negatives(visual, audio, sides="rows")
    with pytest.raises(ValueError, match=r"level must lie in \[0, 1\], got -1"):
        functional.likely_false_negatives(visual, audio, level=-1)
