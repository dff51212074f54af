import math
from fractions import Fraction
from pathlib import Path

import pytest
import torch

from avcontrast import metrics

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def labels_of(sizes):
    return torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))


def exact_rate(sizes, batch_size):
    """The closed form with binomials of whole numbers."""
    total = sum(sizes)
    batches = math.comb(total - 1, batch_size - 1)
    return sum(
        Fraction(size, total) * (1 - Fraction(math.comb(total - size, batch_size - 1), batches))
        for size in sizes
    )


class TestEliminationQuality:
    def test_agrees_with_counting(self, generator):
        labels = torch.randint(4, (20,), generator=generator)
        left_out = torch.rand(20, 20, generator=generator) < 0.3
        same = (labels[:, None] == labels).tolist()
        pairs = [(n, m) for n in range(20) for m in range(20) if n != m]
        out = [pair for pair in pairs if left_out[pair]]
        wrong = [(n, m) for n, m in pairs if same[n][m]]
        right = len(set(out) & set(wrong))
        expected = right / len(out), right / len(wrong), len(out) / 380, len(wrong) / 380
        assert metrics.elimination_quality(left_out, labels) == pytest.approx(expected)
        pairs = labels[:, None] == labels
        assert metrics.elimination_quality(left_out, pairs) == pytest.approx(expected)

    def test_nothing_left_out_has_no_precision(self):
        found = metrics.elimination_quality(torch.zeros(3, 3).bool(), torch.arange(3))
        assert found.precision.isnan()
        assert found.recall.isnan()
        assert (found.left_out, found.false_negatives) == (0, 0)

    @pytest.mark.parametrize(
        ("left_out", "labels", "error", "message"),
        [
            (torch.zeros(3, 3), torch.arange(3), TypeError, "left_out must be a bool tensor"),
            (torch.zeros(3, 2).bool(), torch.arange(3), ValueError, r"left_out .* \(3, 2\)"),
            (torch.zeros(1, 1).bool(), torch.arange(1), ValueError, "b of at least 2"),
            (torch.zeros(3, 3).bool(), torch.rand(3), TypeError, "labels must be an integer"),
            (torch.zeros(3, 3).bool(), torch.arange(4), ValueError, r"got \(4,\) and \(3, 3\)"),
        ],
    )
    def test_bad_input_is_named(self, left_out, labels, error, message):
        with pytest.raises(error, match=message):
            metrics.elimination_quality(left_out, labels)


class TestExpectedFalseNegatives:
    @pytest.mark.parametrize("batch_size", [1, 2, 5, 17, 40, 85])
    @pytest.mark.parametrize("sizes", [[1] * 85, [85], [40, 30, 10, 4, 1], [5] * 17])
    def test_agrees_with_binomials(self, sizes, batch_size):
        found = metrics.expected_false_negatives(labels_of(sizes), batch_size)
        assert found.rate.item() == pytest.approx(float(exact_rate(sizes, batch_size)), abs=1e-13)
        others = sum(size * (size - 1) for size in sizes) / 85
        assert found.per_sample.item() == pytest.approx((batch_size - 1) * others / 84, abs=1e-12)

    def test_agrees_with_binomials_at_the_size_of_a_training_set(self):
        sizes = [2 + (7 * i) % 61 for i in range(309)]
        for batch_size in (32, 256, 1024):
            found = metrics.expected_false_negatives(labels_of(sizes), batch_size).rate.item()
            assert found == pytest.approx(float(exact_rate(sizes, batch_size)), rel=1e-12)

    def test_agrees_with_drawing_batches(self, generator):
        labels = labels_of([3 + (5 * i) % 40 for i in range(60)])
        batch_size, draws = 24, 2000
        met, others = 0, 0
        for _ in range(draws):
            batch = labels[torch.randperm(len(labels), generator=generator)[:batch_size]]
            same = (batch[:, None] == batch).sum(dim=1) - 1
            met += (same > 0).sum().item()
            others += same.sum().item()
        found = metrics.expected_false_negatives(labels, batch_size)
        count = draws * batch_size
        error = 4 * math.sqrt(0.25 / draws / 4)
        assert found.rate.item() == pytest.approx(met / count, abs=error)
        assert found.per_sample.item() == pytest.approx(others / count, rel=0.05)
        assert 0.3 < found.rate.item() < 0.7

    def test_uniform_classes_of_a_large_set(self):
        """309 classes that never run out: 33.7 % of the samples at a batch of 128."""
        found = metrics.expected_false_negatives(labels_of([2000] * 309), 128)
        assert f"{100 * found.rate.item():.1f}" == "33.7"
        assert found.rate.item() == pytest.approx(1 - (308 / 309) ** 127, abs=2e-4)

    def test_vggsound_meets_what_the_paper_counted(self):
        """The paper counts 39.27 % in batches of 128; the batches it trains with have 256."""
        sizes = [int(size) for size in (GOLDEN / "vggsound_class_sizes.txt").read_text().split()]
        assert len(sizes) == 309
        found = [metrics.expected_false_negatives(labels_of(sizes), size) for size in (128, 256)]
        assert [f"{100 * one.rate.item():.1f}" for one in found] == ["38.6", "61.3"]
        assert [f"{one.per_sample.item():.2f}" for one in found] == ["0.50", "1.01"]
        assert found[0].rate.item() == pytest.approx(float(exact_rate(sizes, 128)), rel=1e-12)

    def test_unequal_classes_meet_more(self):
        even = metrics.expected_false_negatives(labels_of([20] * 10), 16)
        uneven = metrics.expected_false_negatives(labels_of([110] + [10] * 9), 16)
        assert uneven.per_sample > even.per_sample

    @pytest.mark.parametrize("dtype", [torch.int32, torch.uint8])
    def test_kind_and_order_of_the_labels_do_not_matter(self, generator, dtype):
        labels = labels_of([9, 5, 4, 1, 1])
        expected = metrics.expected_false_negatives(labels, 7)
        shuffled = labels[torch.randperm(20, generator=generator)].to(dtype)
        assert metrics.expected_false_negatives(shuffled, 7) == expected
        assert expected.rate.dtype == torch.float64


class TestClassBatches:
    LABELS = torch.tensor([4, 4, 4, 4, 4, 7, 7, 7, 2, 2, 2, 2, 9])

    def test_batches_are_what_they_say(self):
        different = metrics.class_batches(self.LABELS, 3, "different", count=200)
        same = metrics.class_batches(self.LABELS, 4, "same", count=200)
        assert different.shape == (200, 3)
        assert same.shape == (200, 4)
        for batch in different:
            assert len(set(self.LABELS[batch].tolist())) == 3
        for batch in same:
            assert len(set(self.LABELS[batch].tolist())) == 1
            assert len(set(batch.tolist())) == 4

    def test_everything_that_can_be_drawn_is(self):
        different = metrics.class_batches(self.LABELS, 2, "different", count=500)
        assert set(different.flatten().tolist()) == set(range(13))
        same = metrics.class_batches(self.LABELS, 3, "same", count=500)
        assert set(same.flatten().tolist()) == set(range(12))
        assert set(self.LABELS[same[:, 0]].tolist()) == {2, 4, 7}

    @pytest.mark.parametrize("kind", ["different", "same"])
    def test_seed(self, kind):
        state = torch.get_rng_state()
        batches = [metrics.class_batches(self.LABELS, 3, kind, 20, seed) for seed in (0, 0, 1)]
        assert torch.equal(batches[0], batches[1])
        assert not torch.equal(batches[0], batches[2])
        assert torch.equal(torch.get_rng_state(), state)


def loop_similarity(matrix, normalization, exclude_self):
    values = [value for row in matrix for value in row]
    low, high = min(values), max(values)
    kept = []
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            if exclude_self and i == j:
                continue
            if normalization == "minmax":
                value = (value - low) / (high - low) if high > low else 0.0
            elif normalization == "cosine":
                value = (value + 1) / 2
            kept.append(value)
    return sum(kept) / len(kept)


class TestBatchSimilarity:
    @pytest.mark.parametrize("exclude_self", [False, True])
    @pytest.mark.parametrize("normalization", ["minmax", "cosine", "none"])
    def test_agrees_with_the_definition(self, generator, normalization, exclude_self):
        similarity = 2 * torch.rand(5, 6, 6, generator=generator, dtype=torch.float64) - 1
        similarity[3] = 0.25
        found = metrics.batch_similarity(similarity, normalization, exclude_self)
        expected = [loop_similarity(m, normalization, exclude_self) for m in similarity.tolist()]
        assert found.tolist() == pytest.approx(expected, abs=1e-14)

    def test_default_is_minmax_with_the_pairs(self, generator):
        similarity = torch.randn(4, 3, 3, generator=generator)
        expected = metrics.batch_similarity(similarity, "minmax", exclude_self=False)
        assert torch.equal(metrics.batch_similarity(similarity), expected)
        assert ((expected > 0) & (expected < 1)).all()

    def test_a_model_that_knows_classes_tells_the_batches_apart(self):
        labels = torch.arange(8).repeat_interleave(8)
        cosine = torch.where(labels[:, None] == labels, 0.9, 0.1)
        means = {}
        for kind in ("different", "same"):
            batches = metrics.class_batches(labels, 8, kind, count=3)
            similarity = torch.stack([cosine[batch][:, batch] for batch in batches])
            means[kind] = metrics.batch_similarity(similarity, "cosine", exclude_self=True)
        assert means["different"].tolist() == pytest.approx([0.55] * 3)
        assert means["same"].tolist() == pytest.approx([0.95] * 3)

    def test_cosines_may_pass_one_by_rounding(self):
        similarity = torch.full((1, 2, 2), 1 + 2e-7)
        assert metrics.batch_similarity(similarity, "cosine").item() == pytest.approx(1)


LABELS, SIMILARITY = torch.tensor([0, 0, 1]), torch.zeros(1, 3, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: metrics.expected_false_negatives(LABELS.float(), 2),
            TypeError,
            r"labels must be an integer tensor, got dtype torch\.float32",
        ),
        (
            lambda: metrics.expected_false_negatives(LABELS[:0], 2),
            ValueError,
            r"labels must have shape \(n,\) with n of at least 1, got \(0,\)",
        ),
        (
            lambda: metrics.expected_false_negatives(LABELS[None], 2),
            ValueError,
            r"labels must have shape \(n,\) with n of at least 1, got \(1, 3\)",
        ),
        (
            lambda: metrics.expected_false_negatives(LABELS, 4),
            ValueError,
            "batch_size must be at most the number of labels, got 4 and 3",
        ),
        (
            lambda: metrics.expected_false_negatives(LABELS, 0),
            ValueError,
            "batch_size must be at least 1, got 0",
        ),
        (
            lambda: metrics.expected_false_negatives(LABELS, 2.0),
            TypeError,
            r"batch_size must be an integer, got 2\.0",
        ),
        (
            lambda: metrics.class_batches([0, 1], 2, "same"),
            TypeError,
            "labels must be an integer tensor, got list",
        ),
        (
            lambda: metrics.class_batches(LABELS, 2, "mixed"),
            ValueError,
            "kind must be 'different' or 'same', got 'mixed'",
        ),
        (
            lambda: metrics.class_batches(LABELS, 3, "different"),
            ValueError,
            "batch_size must be at most the number of classes, got 3 and 2",
        ),
        (
            lambda: metrics.class_batches(LABELS, 3, "same"),
            ValueError,
            "batch_size must be at most the size of the largest class, got 3 and 2",
        ),
        (
            lambda: metrics.class_batches(LABELS, 2, "same", count=0),
            ValueError,
            "count must be at least 1, got 0",
        ),
        (
            lambda: metrics.class_batches(LABELS, 2, "same", seed=None),
            TypeError,
            "seed must be an integer, got None",
        ),
        (
            lambda: metrics.batch_similarity(SIMILARITY.int()),
            TypeError,
            r"similarity must be a floating-point tensor, got dtype torch\.int32",
        ),
        (
            lambda: metrics.batch_similarity(SIMILARITY[0]),
            ValueError,
            r"similarity must have shape \(n, b, b\), got \(3, 3\)",
        ),
        (
            lambda: metrics.batch_similarity(SIMILARITY[:, :2]),
            ValueError,
            r"similarity must have shape \(n, b, b\), got \(1, 2, 3\)",
        ),
        (
            lambda: metrics.batch_similarity(SIMILARITY.log()),
            ValueError,
            "similarity must be finite, got NaN or infinite values",
        ),
        (
            lambda: metrics.batch_similarity(SIMILARITY + 30, "cosine"),
            ValueError,
            r"similarity must lie in \[-1, 1\] for cosines, got values from 30 to 30",
        ),
        (
            lambda: metrics.batch_similarity(SIMILARITY, "softmax"),
            ValueError,
            "normalization must be 'minmax', 'cosine' or 'none', got 'softmax'",
        ),
        (
            lambda: metrics.batch_similarity(SIMILARITY[:, :1, :1], exclude_self=True),
            ValueError,
            r"exclude_self=True needs batches of at least two pairs, got \(n, 1, 1\)",
        ),
    ],
)
def test_errors_name_the_argument_and_what_came(call, error, message):
    with pytest.raises(error, match=message):
        call()
