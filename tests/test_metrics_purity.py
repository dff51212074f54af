import itertools

import pytest
import torch
import torch.nn.functional as F

from avcontrast import functional, metrics
from avcontrast.metrics import _numerics


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def loop_adjacency_purity(adjacency, labels, exclude_self):
    purities = []
    for i, row in enumerate(adjacency):
        kept = [(w, labels[j]) for j, w in enumerate(row) if not (exclude_self and i == j)]
        total = sum(w for w, _ in kept)
        same = sum(w for w, label in kept if label == labels[i])
        purities.append(same / total if total else 0.0)
    return sum(purities) / len(purities)


def loop_neighbour_purity(similarity, labels, k):
    """Averages over every order in which ties can be listed, so only a few samples will do."""
    purities = []
    for i, row in enumerate(similarity):
        others = [j for j in range(len(row)) if j != i]
        k_here = min(k, len(others))
        shares = []
        for order in itertools.permutations(others):
            ranked = sorted(order, key=lambda j: -row[j])[:k_here]
            shares.append(sum(labels[j] == labels[i] for j in ranked) / k_here)
        purities.append(sum(shares) / len(shares))
    return sum(purities) / len(purities)


class TestAdjacencyPurity:
    @pytest.mark.parametrize("exclude_self", [False, True])
    @pytest.mark.parametrize("classes", [1, 3, 40])
    def test_agrees_with_the_definition(self, generator, classes, exclude_self):
        adjacency = torch.rand(12, 12, generator=generator, dtype=torch.float64)
        adjacency[4] = 0
        labels = torch.randint(classes, (12,), generator=generator)
        found = metrics.adjacency_purity(adjacency, labels, exclude_self)
        expected = loop_adjacency_purity(adjacency.tolist(), labels.tolist(), exclude_self)
        assert found.item() == pytest.approx(expected, abs=1e-14)

    def test_limits(self):
        labels = torch.tensor([0, 0, 1, 1])
        same = (labels[:, None] == labels).float()
        assert metrics.adjacency_purity(same, labels).item() == 1
        assert metrics.adjacency_purity(same, labels, exclude_self=True).item() == 1
        assert metrics.adjacency_purity(1 - same, labels).item() == 0
        assert metrics.adjacency_purity(torch.eye(4), torch.arange(4)).item() == 1
        assert metrics.adjacency_purity(torch.eye(4), labels, exclude_self=True).item() == 0

    def test_adjacency_of_features_that_know_the_classes(self, generator):
        labels = torch.randint(4, (32,), generator=generator)
        features = F.one_hot(labels, 4) + 0.1 * torch.randn(32, 4, generator=generator)
        sharp = functional.adjacency(features, 0.03)
        blunt = functional.adjacency(features, 3.0)
        purity = [metrics.adjacency_purity(a, labels, True).item() for a in (sharp, blunt)]
        assert purity[0] > 0.99
        assert 0.2 < purity[1] < 0.6


class TestNeighbourPurity:
    @pytest.mark.parametrize("ties", [False, True])
    def test_agrees_with_the_definition(self, generator, ties):
        features = torch.randn(7, 3, generator=generator, dtype=torch.float64)
        if ties:
            # Signs of the axes: their cosines are -1, 0 and 1, with nothing to round.
            features = torch.eye(3, dtype=torch.float64).repeat(3, 1)[:7]
        labels = torch.randint(3, (7,), generator=generator)
        similarity = F.normalize(features) @ F.normalize(features).T
        found = metrics.neighbour_purity(features, labels, (1, 2, 3, 6, 50))
        for k, purity in found.items():
            expected = loop_neighbour_purity(similarity.tolist(), labels.tolist(), k)
            assert purity.item() == pytest.approx(expected, abs=1e-12)

    def test_collapsed_features_are_at_chance(self):
        labels = torch.arange(5).repeat_interleave(4)
        found = metrics.neighbour_purity(torch.ones(20, 6), labels, (1, 5, 19))
        for purity in found.values():
            assert purity.item() == pytest.approx(3 / 19)

    def test_classes_that_lie_apart(self):
        labels = torch.arange(5).repeat_interleave(4)
        features = F.one_hot(labels).float() * torch.arange(1, 21)[:, None]
        found = metrics.neighbour_purity(features, labels, (1, 3, 4))
        assert [purity.item() for purity in found.values()] == pytest.approx([1, 1, 0.75])

    def test_chunks_do_not_show(self, generator, monkeypatch):
        features = torch.randn(40, 5, generator=generator, dtype=torch.float64)
        labels = torch.randint(4, (40,), generator=generator)
        whole = metrics.neighbour_purity(features, labels)
        monkeypatch.setattr(_numerics, "VALUES_PER_CHUNK", 130)
        for k, purity in metrics.neighbour_purity(features, labels).items():
            torch.testing.assert_close(purity, whole[k], atol=1e-14, rtol=0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_dtype(self, generator, dtype):
        features = torch.randn(20, 5, generator=generator).to(dtype)
        labels = torch.randint(4, (20,), generator=generator)
        expected = metrics.neighbour_purity(features.float(), labels)
        assert metrics.neighbour_purity(features, labels) == expected
        assert expected[1].dtype == torch.float64


FEATURES, LABELS = torch.eye(3), torch.tensor([0, 0, 1])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: metrics.adjacency_purity(FEATURES - 1, LABELS),
            ValueError,
            "adjacency must not be negative, got -1",
        ),
        (
            lambda: metrics.adjacency_purity(FEATURES[:2], LABELS),
            ValueError,
            r"adjacency must have shape \(n, n\), got \(2, 3\)",
        ),
        (
            lambda: metrics.adjacency_purity(FEATURES.log(), LABELS),
            ValueError,
            "adjacency must be finite, got NaN or infinite values",
        ),
        (
            lambda: metrics.adjacency_purity(FEATURES, LABELS[:2]),
            ValueError,
            r"labels must have one entry for each row of adjacency, got shapes \(2,\) and \(3, 3\)",
        ),
        (
            lambda: metrics.adjacency_purity(FEATURES.bool(), LABELS),
            TypeError,
            r"adjacency must be a floating-point tensor, got dtype torch\.bool",
        ),
        (
            lambda: metrics.neighbour_purity(FEATURES[:1], LABELS[:1]),
            ValueError,
            r"features must have shape \(n, d\) with n of at least 2, got \(1, 3\)",
        ),
        (
            lambda: metrics.neighbour_purity(FEATURES[None], LABELS),
            ValueError,
            r"features must have shape \(n, d\) with n of at least 2, got \(1, 3, 3\)",
        ),
        (
            lambda: metrics.neighbour_purity(FEATURES.log(), LABELS),
            ValueError,
            "features must be finite, got NaN or infinite values",
        ),
        (
            lambda: metrics.neighbour_purity(FEATURES, LABELS.float()),
            TypeError,
            r"labels must be an integer tensor, got dtype torch\.float32",
        ),
        (
            lambda: metrics.neighbour_purity(FEATURES, LABELS, (0,)),
            ValueError,
            r"k must hold integers of at least 1, got \[0\]",
        ),
    ],
)
def test_errors_name_the_argument_and_what_came(call, error, message):
    with pytest.raises(error, match=message):
        call()
