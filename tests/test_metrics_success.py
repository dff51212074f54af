import numpy as np
import pytest
import torch

from avcontrast import metrics


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


class TestSuccess:
    def test_auc_of_a_published_list(self):
        ciou = torch.tensor([0, 0.3, 0.5, 0.62, 1], dtype=torch.float64)
        assert metrics.success_auc(ciou).item() == pytest.approx(0.49, abs=1e-12)
        assert metrics.success_rate(ciou).item() == 0.6

    def test_thresholds_in_float64_are_the_published_products(self):
        reached = [
            metrics.success_auc(torch.tensor([0.05 * i], dtype=torch.float64)).item()
            for i in range(21)
        ]
        decimal = [
            metrics.success_auc(torch.tensor([i / 20], dtype=torch.float64)).item()
            for i in range(21)
        ]
        assert reached == pytest.approx([0.05 * (i + 0.5) for i in range(20)] + [1.0])
        missed = [i for i in range(21) if decimal[i] < reached[i] - 0.01]
        assert missed == [3, 6, 7, 12, 14, 17, 19]

    def test_thresholds_in_float32_are_the_decimal_numbers(self):
        decimal = torch.arange(21) / 20
        areas = [metrics.success_auc(value[None]).item() for value in decimal]
        assert areas == pytest.approx([0.05 * (i + 0.5) for i in range(20)] + [1.0])

    def test_auc_agrees_with_the_trapezoidal_rule(self, generator):
        ciou = torch.rand(200, dtype=torch.float64, generator=generator)
        levels = np.array([0.05 * i for i in range(21)])
        shares = (ciou.numpy()[:, None] >= levels).mean(axis=0)
        expected = ((shares[1:] + shares[:-1]) / 2 * np.diff(levels)).sum()
        assert metrics.success_auc(ciou).item() == pytest.approx(expected, abs=1e-12)

    def test_limits(self):
        assert metrics.success_auc(torch.zeros(3)).item() == pytest.approx(0.025)
        assert metrics.success_auc(torch.ones(3)).item() == pytest.approx(1)
        assert metrics.success_rate(torch.zeros(3), at=0).item() == 1
        assert metrics.success_rate(torch.ones(3), at=1).item() == 1

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
    def test_results_are_float64_scalars(self, dtype):
        ciou = torch.tensor([0.25, 0.5, 0.75], dtype=dtype)
        for result in (metrics.success_rate(ciou), metrics.success_auc(ciou)):
            assert result.dtype == torch.float64
            assert result.shape == ()
        assert metrics.success_rate(ciou).item() == pytest.approx(2 / 3)


class TestGroups:
    def test_published_groups(self):
        """Two images with two sounds each: success 0.75 and 0.5, area 0.625 and 0.55."""
        ciou = torch.tensor([0.6, 0.4, 0.7, 0.8], dtype=torch.float64)
        worst = metrics.group_ciou(ciou, ["a", "a", "b", "b"])
        assert worst.tolist() == [0.4, 0.7]
        assert metrics.success_rate(ciou).item() == 0.75
        assert metrics.success_rate(worst).item() == 0.5
        assert metrics.success_auc(ciou).item() == pytest.approx(0.625, abs=1e-12)
        assert metrics.success_auc(worst).item() == pytest.approx(0.55, abs=1e-12)

    def test_success_is_that_of_groups_that_succeed_as_a_whole(self):
        generator = torch.Generator().manual_seed(0)
        ciou = torch.rand(50, generator=generator, dtype=torch.float64)
        groups = torch.randint(-3, 12, (50,), generator=generator)
        names = [f"image {group}" for group in groups.tolist()]
        for at in [0.05 * i for i in range(21)]:
            every = {}
            for score, group in zip(ciou.tolist(), groups.tolist()):
                every[group] = every.get(group, True) and score >= at
            expected = sum(every.values()) / len(every)
            for form in (groups, names, tuple(names), groups.int()):
                worst = metrics.group_ciou(ciou, form)
                assert metrics.success_rate(worst, at).item() == pytest.approx(expected)

    def test_order_is_that_of_the_numbers_and_the_names(self):
        ciou = torch.tensor([0.1, 0.2, 0.3])
        assert (
            metrics.group_ciou(ciou, torch.tensor([7, -1, 3])).tolist() == ciou[[1, 2, 0]].tolist()
        )
        assert metrics.group_ciou(ciou, ["c", "b", "a"]).tolist() == ciou.flip(0).tolist()

    def test_one_sample_a_group_changes_nothing(self):
        ciou = torch.tensor([0.1, 0.2, 0.3])
        assert torch.equal(metrics.group_ciou(ciou, torch.arange(3)), ciou)


CIOU = torch.tensor([0.1, 0.2])


@pytest.mark.parametrize(
    ("ciou", "groups", "error", "message"),
    [
        (CIOU, ["a"], ValueError, "groups must have one entry for each cIoU, got 1 and 2"),
        (
            CIOU,
            torch.zeros(2),
            TypeError,
            r"groups must be an integer tensor of shape \(n,\) or a sequence of names, "
            r"got dtype torch\.float32 and shape \(2,\)",
        ),
        (
            CIOU,
            torch.zeros(2, 1).int(),
            TypeError,
            r"groups must be .* got dtype torch\.int32 and shape \(2, 1\)",
        ),
        (CIOU, [0, 1], TypeError, r"groups must be .* or a sequence of names, got \[0, 1\]"),
        (CIOU, "ab", TypeError, "groups must be .* or a sequence of names, got 'ab'"),
        (CIOU * 10, ["a", "b"], ValueError, r"ciou must lie in \[0, 1\], got values from 1 to 2"),
    ],
)
def test_errors_name_the_argument_and_what_came(ciou, groups, error, message):
    with pytest.raises(error, match=message):
        metrics.group_ciou(ciou, groups)
