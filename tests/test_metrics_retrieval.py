import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.retrieval import (
    RetrievalHitRate,
    RetrievalMRR,
    RetrievalRecall,
    RetrievalRPrecision,
)

from avcontrast import metrics
from avcontrast.metrics import _numerics


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def slow_recall(similarity, labels, k, exclude_self):
    hits = 0
    for query, row in enumerate(similarity.tolist()):
        gallery = [i for i in range(len(row)) if not (exclude_self and i == query)]
        ranked = sorted(gallery, key=lambda i: (-row[i], i))[:k]
        if labels is None:
            hits += query in ranked
        else:
            hits += any(labels[i] == labels[query] for i in ranked)
    return hits / len(similarity)


KINDS = pytest.mark.parametrize(
    ("classes", "exclude_self"), [(None, False), (4, False), (4, True), (30, True)]
)
LENGTHS = (1, 2, 5, 22, 23)


class TestRecallAtK:
    @KINDS
    def test_agrees_with_torchmetrics(self, generator, classes, exclude_self):
        n = 23
        similarity = torch.randn(n, n, generator=generator)
        labels = None if classes is None else torch.randint(classes, (n,), generator=generator)
        recall = metrics.recall_at_k(similarity, labels, LENGTHS, exclude_self=exclude_self)
        own = torch.eye(n).bool()
        correct = own if labels is None else labels[:, None] == labels
        kept = ~own if exclude_self else torch.ones(n, n).bool()
        queries = torch.arange(n)[:, None].expand(n, n)
        for k in LENGTHS:
            oracle = RetrievalHitRate(top_k=k)
            oracle.update(similarity[kept], correct[kept], queries[kept])
            assert recall[k].item() == pytest.approx(oracle.compute().item())

    @KINDS
    def test_agrees_with_sorting_where_there_are_ties(self, generator, classes, exclude_self):
        n = 23
        similarity = torch.randn(n, n, generator=generator).round()
        labels = None if classes is None else torch.randint(classes, (n,), generator=generator)
        recall = metrics.recall_at_k(similarity, labels, LENGTHS, exclude_self=exclude_self)
        expected = {
            k: slow_recall(similarity, None if labels is None else labels.tolist(), k, exclude_self)
            for k in LENGTHS
        }
        assert {k: value.item() for k, value in recall.items()} == pytest.approx(expected)

    def test_perfect_model(self):
        recall = metrics.recall_at_k(torch.eye(12))
        assert {k: value.item() for k, value in recall.items()} == {1: 1, 5: 1, 10: 1}

    def test_collapsed_model_is_at_chance(self):
        recall = metrics.recall_at_k(torch.zeros(20, 20))
        values = {k: value.item() for k, value in recall.items()}
        assert values == pytest.approx({1: 0.05, 5: 0.25, 10: 0.5})

    def test_directions_differ(self):
        similarity = torch.tensor([[1.0, 2.0], [0.0, 3.0]])
        assert metrics.recall_at_k(similarity, k=[1])[1].item() == 0.5
        assert metrics.recall_at_k(similarity.T, k=[1])[1].item() == 1

    def test_own_pair_is_left_out(self):
        similarity = torch.tensor([[9.0, 5.0, 1.0], [1.0, 9.0, 5.0], [5.0, 1.0, 9.0]])
        labels = torch.tensor([0, 0, 1])
        assert metrics.recall_at_k(similarity, labels, [1])[1].item() == 1
        left = metrics.recall_at_k(similarity, labels, [1, 2, 50], exclude_self=True)
        assert left[1].item() == pytest.approx(1 / 3)
        assert left[2].item() == pytest.approx(2 / 3)
        assert left[50].item() == pytest.approx(2 / 3)
        shifted = metrics.recall_at_k(similarity - 99, labels, [1, 2], exclude_self=True)
        assert shifted == {1: left[1], 2: left[2]}

    def test_k_beyond_the_gallery_is_the_whole_gallery(self):
        assert metrics.recall_at_k(-torch.eye(3), k=[7])[7].item() == 1

    def test_single_pair(self):
        assert metrics.recall_at_k(torch.zeros(1, 1), k=[1])[1].item() == 1
        alone = metrics.recall_at_k(torch.zeros(1, 1), torch.zeros(1).int(), [1], exclude_self=True)
        assert alone[1].item() == 0

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_dtype(self, generator, dtype):
        similarity = torch.randn(16, 16, generator=generator).to(dtype)
        recall = metrics.recall_at_k(similarity, k=[3])[3]
        assert recall.item() == metrics.recall_at_k(similarity.float(), k=[3])[3].item()
        assert recall.dtype == torch.float64

    @settings(deadline=None, max_examples=50)
    @given(seed=st.integers(0, 2**32 - 1), exclude_self=st.booleans())
    def test_joint_permutation_and_monotone_transform(self, seed, exclude_self):
        generator = torch.Generator().manual_seed(seed)
        similarity = torch.randn(9, 9, generator=generator, dtype=torch.float64)
        labels = torch.randint(4, (9,), generator=generator)
        order = torch.randperm(9, generator=generator)

        def recall(scores, classes):
            found = metrics.recall_at_k(scores, classes, (1, 3), exclude_self=exclude_self)
            return [value.item() for value in found.values()]

        expected = recall(similarity, labels)
        assert recall(similarity[order][:, order], labels[order]) == pytest.approx(expected)
        assert recall(similarity.exp(), labels) == expected

    def test_leaves_the_similarity_alone(self, generator):
        similarity = torch.randn(5, 5, generator=generator)
        before = similarity.clone()
        metrics.recall_at_k(similarity, torch.zeros(5).int(), exclude_self=True)
        assert torch.equal(similarity, before)


def ranking(row, left_out=None):
    """Columns by similarity, the lower of equal ones first."""
    places = [column for column in range(len(row)) if column != left_out]
    return sorted(places, key=lambda column: (-row[column], column))


def plain_figures(similarity, relevant, exclude_self):
    """Every figure by its definition, a query at a time."""
    ranks, precision, found, hit = [], [], {k: [] for k in KS}, {k: [] for k in KS}
    for query, (row, wanted) in enumerate(zip(similarity.tolist(), relevant.tolist())):
        ranked = [wanted[column] for column in ranking(row, query if exclude_self else None)]
        total = sum(ranked)
        ranks.append(1 + ranked.index(True) if total else math.inf)
        precision.append(sum(ranked[:total]) / total if total else 0)
        for k in KS:
            found[k].append(sum(ranked[:k]) / total if total else 0)
            hit[k].append(float(any(ranked[:k])))
    ranks.sort()
    half = len(ranks) // 2
    return {
        "ranks": ranks,
        "median_rank": ranks[half] if len(ranks) % 2 else (ranks[half - 1] + ranks[half]) / 2,
        "mean_rank": sum(ranks) / len(ranks),
        "mean_reciprocal_rank": sum(1 / rank for rank in ranks) / len(ranks),
        "r_precision": sum(precision) / len(ranks),
        "recall_at_k": {k: sum(hit[k]) / len(ranks) for k in KS},
        "relevant_found_at_k": {k: sum(found[k]) / len(ranks) for k in KS},
    }


KS = (1, 2, 3, 7, 40)
SCALARS = ("median_rank", "mean_rank", "mean_reciprocal_rank", "r_precision")
OF_LISTS = ("recall_at_k", "relevant_found_at_k")
FUNCTIONS = ("retrieval_ranks", *SCALARS, *OF_LISTS)


def all_figures(similarity, **what):
    found = {name: getattr(metrics, name)(similarity, **what).item() for name in SCALARS}
    for name in OF_LISTS:
        shares = getattr(metrics, name)(similarity, k=KS, **what)
        found[name] = {k: share.item() for k, share in shares.items()}
    found["ranks"] = sorted(metrics.retrieval_ranks(similarity, **what).tolist())
    return found


def assert_figures(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-12), name


class TestOtherGalleries:
    @pytest.mark.parametrize("ties", [False, True])
    @pytest.mark.parametrize(("n", "m"), [(3, 5), (7, 30), (12, 4), (1, 6), (5, 1), (9, 9)])
    def test_agree_with_the_definitions(self, generator, n, m, ties):
        similarity = torch.randn(n, m, generator=generator, dtype=torch.float64)
        similarity = similarity.round() if ties else similarity
        relevant = torch.rand(n, m, generator=generator) < 0.3
        for exclude_self in (False, True) if n == m else (False,):
            expected = plain_figures(similarity, relevant, exclude_self)
            found = all_figures(similarity, relevant=relevant, exclude_self=exclude_self)
            assert_figures(found, expected)

    @pytest.mark.parametrize("classes", [2, 4, 30])
    def test_labels_of_both_sides_are_a_matrix(self, generator, classes):
        similarity = torch.randn(8, 21, generator=generator)
        labels = torch.randint(classes, (8,), generator=generator)
        gallery_labels = torch.randint(classes, (21,), generator=generator)
        relevant = labels[:, None] == gallery_labels
        expected = all_figures(similarity, relevant=relevant)
        assert all_figures(similarity, labels=labels, gallery_labels=gallery_labels) == expected

    def test_a_square_gallery_may_have_labels_of_its_own(self):
        similarity = torch.tensor([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [2.0, 1.0, 3.0]])
        labels, gallery_labels = torch.tensor([0, 1, 2]), torch.tensor([1, 2, 0])
        ranks = metrics.retrieval_ranks(similarity, labels, gallery_labels=gallery_labels)
        assert ranks.tolist() == [3, 3, 3]

    def test_the_own_pair_is_a_diagonal(self, generator):
        similarity = torch.randn(11, 11, generator=generator).round()
        labels = torch.randint(3, (11,), generator=generator)
        own = torch.eye(11, dtype=torch.bool)
        assert all_figures(similarity) == all_figures(similarity, relevant=own)
        same = labels[:, None] == labels
        for exclude_self in (False, True):
            settings = {"exclude_self": exclude_self}
            expected = all_figures(similarity, relevant=same, **settings)
            assert all_figures(similarity, labels=labels, **settings) == expected

    def test_five_captions_of_each_image(self):
        similarity = torch.zeros(2, 10)
        similarity[0, [7, 3]] = torch.tensor([0.9, 0.8])
        similarity[1, [5, 6]] = torch.tensor([0.9, 0.8])
        relevant = torch.arange(10) // 5 == torch.arange(2)[:, None]
        assert metrics.retrieval_ranks(similarity, relevant=relevant).tolist() == [2, 1]
        recall = metrics.recall_at_k(similarity, relevant=relevant, k=(1, 2))
        assert [share.item() for share in recall.values()] == [0.5, 1]
        found = metrics.relevant_found_at_k(similarity, relevant=relevant, k=(1, 2, 10))
        assert [share.item() for share in found.values()] == pytest.approx([0.1, 0.3, 1])

    def test_equal_similarities_rank_by_column(self):
        relevant = torch.zeros(3, 4, dtype=torch.bool)
        relevant[0, 2] = relevant[1, 0] = relevant[2, 3] = True
        assert metrics.retrieval_ranks(torch.zeros(3, 4), relevant=relevant).tolist() == [3, 1, 4]

    def test_queries_without_a_right_answer(self):
        similarity = torch.tensor([[0.9, 0.1, 0.5]]).expand(3, 3)
        relevant = torch.zeros(3, 3, dtype=torch.bool)
        relevant[0, 2] = True
        found = all_figures(similarity, relevant=relevant)
        assert found["ranks"] == [2, math.inf, math.inf]
        assert found["median_rank"] == found["mean_rank"] == math.inf
        assert found["mean_reciprocal_rank"] == pytest.approx(1 / 6)
        assert found["recall_at_k"][40] == found["relevant_found_at_k"][40] == pytest.approx(1 / 3)
        assert metrics.median_rank(similarity[:1], relevant=relevant[:1]).item() == 2

    @pytest.mark.parametrize("name", FUNCTIONS)
    def test_chunks_do_not_show(self, generator, monkeypatch, name):
        similarity = torch.randn(9, 14, generator=generator).round()
        relevant = torch.rand(9, 14, generator=generator) < 0.4
        whole = getattr(metrics, name)(similarity, relevant=relevant)
        monkeypatch.setattr(_numerics, "VALUES_PER_CHUNK", 30)
        parts = getattr(metrics, name)(similarity, relevant=relevant)
        torch.testing.assert_close(parts, whole, atol=1e-15, rtol=0)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_figures_are_float64_without_a_gradient(self, generator, dtype):
        similarity = torch.randn(6, 9, generator=generator).to(dtype).requires_grad_()
        relevant = torch.rand(6, 9, generator=generator) < 0.4
        expected = all_figures(similarity.detach().double(), relevant=relevant)
        assert all_figures(similarity, relevant=relevant) == expected
        for name in ("retrieval_ranks", *SCALARS):
            figure = getattr(metrics, name)(similarity, relevant=relevant)
            assert figure.dtype == torch.float64
            assert not figure.requires_grad


class TestTorchmetrics:
    """Where similarities are above 0, below which it finds nothing, and no two are equal."""

    @pytest.mark.parametrize(("n", "m"), [(6, 20), (15, 7), (10, 10)])
    def test_figures_are_the_same(self, generator, n, m):
        similarity = torch.rand(n * m, generator=generator).argsort().view(n, m).double() + 1
        relevant = torch.rand(n, m, generator=generator) < 0.25
        relevant[0] = False
        indexes = torch.arange(n)[:, None].expand(n, m)

        def theirs(metric):
            metric.update(similarity.flatten(), relevant.flatten(), indexes.flatten())
            return metric.compute().item()

        found = all_figures(similarity, relevant=relevant)
        for name, metric in (
            ("mean_reciprocal_rank", RetrievalMRR()),
            ("r_precision", RetrievalRPrecision()),
        ):
            assert found[name] == pytest.approx(theirs(metric), abs=1e-6)
        for k in KS:
            hit, recall = theirs(RetrievalHitRate(top_k=k)), theirs(RetrievalRecall(top_k=k))
            assert found["recall_at_k"][k] == pytest.approx(hit, abs=1e-6)
            assert found["relevant_found_at_k"][k] == pytest.approx(recall, abs=1e-6)


WIDE, TALL, SQUARE = torch.rand(3, 5), torch.rand(5, 3), torch.rand(3, 3)
MARKS, LABELS = torch.zeros(3, 5, dtype=torch.bool), torch.arange(3)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize(
    ("similarity", "what", "error", "message"),
    [
        (
            WIDE,
            {},
            ValueError,
            r"similarity must have shape \(n, n\), got \(3, 5\); with another gallery, say what is "
            "right by relevant, or by labels and gallery_labels",
        ),
        (TALL, {"labels": torch.arange(5)}, ValueError, r"\(n, n\), got \(5, 3\); with another "),
        (
            WIDE[0],
            {"relevant": MARKS[0]},
            ValueError,
            r"similarity must have shape \(n, m\) with both at least 1, got \(5,\)",
        ),
        (
            WIDE[:, :0],
            {"relevant": MARKS[:, :0]},
            ValueError,
            r"similarity must have shape \(n, m\) with both at least 1, got \(3, 0\)",
        ),
        (
            WIDE,
            {"relevant": MARKS.T},
            ValueError,
            r"relevant must have the shape of similarity, got \(5, 3\) and \(3, 5\)",
        ),
        (
            WIDE,
            {"relevant": MARKS.long()},
            TypeError,
            r"relevant must be a boolean tensor, got dtype torch\.int64",
        ),
        (
            WIDE,
            {"relevant": MARKS, "labels": LABELS},
            ValueError,
            "relevant and labels both say what is right: give one of them",
        ),
        (
            WIDE,
            {"gallery_labels": torch.arange(5)},
            ValueError,
            "gallery_labels needs labels, the classes of the queries",
        ),
        (
            WIDE,
            {"labels": LABELS, "gallery_labels": torch.arange(4)},
            ValueError,
            "gallery_labels must have one entry for each column of similarity, "
            r"got shapes \(4,\) and \(3, 5\)",
        ),
        (
            WIDE,
            {"labels": LABELS, "gallery_labels": torch.rand(5)},
            TypeError,
            r"gallery_labels must be an integer tensor, got dtype torch\.float32",
        ),
        (
            WIDE,
            {"labels": torch.arange(5), "gallery_labels": torch.arange(5)},
            ValueError,
            "labels must have one entry for each row of similarity, "
            r"got shapes \(5,\) and \(3, 5\)",
        ),
        (
            WIDE,
            {"relevant": MARKS, "exclude_self": True},
            ValueError,
            r"exclude_self=True needs a similarity of shape \(n, n\), in which item i is query i's "
            r"own pair, got \(3, 5\)",
        ),
        (SQUARE, {"exclude_self": True}, ValueError, "exclude_self=True needs labels"),
        (
            WIDE.log() - WIDE.log() + float("inf"),
            {"relevant": MARKS},
            ValueError,
            "similarity must be finite, got NaN or infinite values",
        ),
    ],
)
def test_errors_name_the_argument_and_what_came(name, similarity, what, error, message):
    with pytest.raises(error, match=message):
        getattr(metrics, name)(similarity, **what)
