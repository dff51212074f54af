import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.retrieval import RetrievalHitRate

from avcontrast import metrics


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
