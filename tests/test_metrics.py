from functools import partial

import pytest
import torch
from metric_cases import RULES, random_case

from avcontrast import metrics


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


MAPS = torch.zeros(2, 4, 4)
BROKEN = torch.full((2, 4, 4), float("nan"))
SIMILARITY = torch.eye(3)
LABELS = torch.zeros(3, dtype=torch.int64)


class TestErrors:
    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (
                lambda: metrics.upsample(MAPS[0], 8),
                ValueError,
                r"maps must have shape \(n, height, width\), got \(4, 4\)",
            ),
            (
                lambda: metrics.upsample(MAPS[:, :0], 8),
                ValueError,
                r"maps must have shape \(n, height, width\), got \(2, 0, 4\)",
            ),
            (
                lambda: metrics.upsample(MAPS.numpy(), 8),
                TypeError,
                "maps must be a floating-point tensor, got ndarray",
            ),
            (
                lambda: metrics.upsample(MAPS.int(), 8),
                TypeError,
                r"maps must be a floating-point tensor, got dtype torch\.int32",
            ),
            (
                lambda: metrics.upsample(MAPS, 8, "area"),
                ValueError,
                "mode must be 'bilinear', 'bicubic' or 'nearest', got 'area'",
            ),
            *[
                (
                    lambda size=size: metrics.upsample(MAPS, size),
                    ValueError,
                    "size must be a positive integer or a pair of them, got ",
                )
                for size in (0, -3, True, 2.0, (4,), (4, 4, 4), (4, 0), (4, 2.5), "44", None)
            ],
            (
                lambda: metrics.consensus_iou(MAPS, MAPS[:, :2]),
                ValueError,
                r"maps and gt_maps must have the same shape, got \(2, 4, 4\) and \(2, 2, 4\)"
                "; resize maps with upsample first",
            ),
            (
                lambda: metrics.consensus_iou(MAPS, MAPS.to("meta")),
                ValueError,
                "maps and gt_maps must be on the same device, got cpu and meta",
            ),
            (
                lambda: metrics.consensus_iou(MAPS, MAPS.numpy()),
                TypeError,
                "gt_maps must be a real or boolean tensor, got ndarray",
            ),
            (
                lambda: metrics.consensus_iou(MAPS, MAPS.to(torch.complex64)),
                TypeError,
                r"gt_maps must be a real or boolean tensor, got dtype torch\.complex64",
            ),
            (
                lambda: metrics.consensus_iou(BROKEN, MAPS),
                ValueError,
                "maps must not have NaN, got NaN in 2 of 2 maps",
            ),
            (
                lambda: metrics.consensus_iou(MAPS, 255 * torch.ones(2, 4, 4).byte()),
                ValueError,
                r"gt_maps must hold weights in \[0, 1\], got values from 255 to 255",
            ),
            (
                lambda: metrics.ciou_ceiling(BROKEN),
                ValueError,
                r"gt_maps must hold weights in \[0, 1\], got values from nan to nan",
            ),
            (
                lambda: metrics.ciou_ceiling(MAPS - 0.5),
                ValueError,
                r"gt_maps must hold weights in \[0, 1\], got values from -0\.5 to -0\.5",
            ),
            *[
                (
                    lambda threshold=threshold: metrics.consensus_iou(MAPS, MAPS, threshold),
                    ValueError,
                    "threshold must be 'half', 'area', 'fixed' or a number strictly "
                    "between 0 and 1, got ",
                )
                for threshold in ("median", 0.0, 1.0, 1, 75, True, float("nan"), None)
            ],
            *[
                (
                    lambda call=call: call(inclusive="most"),
                    ValueError,
                    "inclusive must be True, False or 'maximum', got 'most'",
                )
                for call in (
                    partial(metrics.consensus_iou, MAPS, MAPS),
                    partial(metrics.ciou_ceiling, MAPS),
                    partial(metrics.mask_iou, MAPS, MAPS, "half"),
                )
            ],
            (
                lambda: metrics.ciou_ceiling(MAPS, "full"),
                ValueError,
                "threshold must be 'half', 'area', 'fixed' or a number .* got 'full'",
            ),
            (
                lambda: metrics.pointing_accuracy(MAPS[:0], MAPS[:0]),
                ValueError,
                r"maps must hold at least one map, got shape \(0, 4, 4\)",
            ),
            (
                lambda: metrics.pointing_accuracy(BROKEN, MAPS),
                ValueError,
                "maps must not have NaN, got NaN in 2 of 2 maps",
            ),
            (
                lambda: metrics.success_rate([0.5]),
                TypeError,
                "ciou must be a floating-point tensor, got list",
            ),
            (
                lambda: metrics.success_rate(torch.zeros(0)),
                ValueError,
                r"ciou must have shape \(n,\) with n of at least 1, got \(0,\)",
            ),
            (
                lambda: metrics.success_auc(torch.tensor(0.5)),
                ValueError,
                r"ciou must have shape \(n,\) with n of at least 1, got \(\)",
            ),
            (
                lambda: metrics.success_auc(torch.tensor([20.0, 50.0])),
                ValueError,
                r"ciou must lie in \[0, 1\], got values from 20 to 50",
            ),
            (
                lambda: metrics.success_rate(torch.tensor([0.5, float("nan")])),
                ValueError,
                r"ciou must lie in \[0, 1\], got values from nan to nan",
            ),
            (
                lambda: metrics.success_rate(torch.tensor([0.5]), at=50),
                ValueError,
                r"at must lie in \[0, 1\], got 50",
            ),
            (
                lambda: metrics.centre_disc((0, 4)),
                ValueError,
                r"size must be a positive integer or a pair of them, got \(0, 4\)",
            ),
            (
                lambda: metrics.ground_truth_map([0.1, 0.2, 0.3, 0.4], 8),
                ValueError,
                r"boxes must have shape \(k, 4\), got \(4,\)",
            ),
            (
                lambda: metrics.ground_truth_map([(0.1, 0.2, 0.3)], 8),
                ValueError,
                r"boxes must have shape \(k, 4\), got \(1, 3\)",
            ),
            *[
                (
                    lambda boxes=boxes: metrics.ground_truth_map(boxes, 8),
                    ValueError,
                    r"boxes must be numbers of shape \(k, 4\), got ",
                )
                for boxes in ([(0, 0, 1, 1), (0, 0, 1)], [("a", "b", "c", "d")], None, "box")
            ],
            (
                lambda: metrics.ground_truth_map([(0, 0, 1, float("nan"))], 8),
                ValueError,
                "boxes must not have NaN",
            ),
            (
                lambda: metrics.ground_truth_map([(60, 50, 160, 150)], 224),
                ValueError,
                r"boxes must be shares of the image in \[0, 1\], got .* \(pixels\?",
            ),
            (
                lambda: metrics.ground_truth_map([], 8, consensus=0),
                ValueError,
                "consensus must be at least 1, got 0",
            ),
            (
                lambda: metrics.ground_truth_map([], 8, consensus=1.5),
                TypeError,
                r"consensus must be an integer, got 1\.5",
            ),
            (
                lambda: metrics.recall_at_k(torch.zeros(2, 3)),
                ValueError,
                r"similarity must have shape \(n, n\), got \(2, 3\)",
            ),
            (
                lambda: metrics.recall_at_k(torch.zeros(0, 0)),
                ValueError,
                r"similarity must have shape \(n, n\), got \(0, 0\)",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY.int()),
                TypeError,
                r"similarity must be a floating-point tensor, got dtype torch\.int32",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY.log()),
                ValueError,
                "similarity must be finite, got NaN or infinite values",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY, exclude_self=True),
                ValueError,
                "exclude_self=True needs labels",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY, LABELS[:2]),
                ValueError,
                r"labels must have one entry for each row of similarity, "
                r"got shapes \(2,\) and \(3, 3\)",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY, LABELS.float()),
                TypeError,
                r"labels must be an integer tensor, got dtype torch\.float32",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY, [0, 0, 0]),
                TypeError,
                "labels must be an integer tensor, got list",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY, k=1),
                TypeError,
                "k must be a sequence of integers, got 1",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY, k=(1, 2.0)),
                TypeError,
                r"k must be a sequence of integers, got \[1, 2\.0\]",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY, k=(0, 1)),
                ValueError,
                r"k must hold integers of at least 1, got \[0, 1\]",
            ),
            (
                lambda: metrics.recall_at_k(SIMILARITY, k=()),
                ValueError,
                r"k must hold integers of at least 1, got \[\]",
            ),
        ],
    )
    def test_names_the_argument_and_what_came(self, call, error, message):
        with pytest.raises(error, match=message):
            call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("threshold", RULES)
def test_cuda_gives_the_same_numbers_as_the_cpu(generator, threshold):
    maps, gt_maps = random_case(generator, n=20)
    similarity = torch.randn(20, 20, generator=generator).round()
    labels = torch.randint(5, (20,), generator=generator)

    def everything(device):
        m, g, s = maps.to(device), gt_maps.to(device), similarity.to(device)
        ciou = metrics.consensus_iou(m, g, threshold)
        results = [
            ciou,
            metrics.ciou_ceiling(g, threshold),
            *metrics.localization_scores(m, g, metrics.Protocol(threshold=threshold)),
            metrics.group_ciou(ciou, labels.to(device)),
            metrics.map_confidence(m),
            metrics.average_precision(ciou, metrics.map_confidence(m), ciou > 0.2),
            metrics.max_f1(ciou, metrics.map_confidence(m), ciou > 0.2),
            metrics.localization_accuracy(ciou, ciou > 0.2),
            metrics.area_subset(g),
            metrics.mask_iou(m.sigmoid(), g > 0.5, threshold),
            metrics.mask_f_score(m.sigmoid(), g > 0.5),
            metrics.adjacency_purity(s.softmax(1), labels.to(device)),
            *metrics.neighbour_purity(s, labels.to(device), (1, 7)).values(),
            *metrics.expected_false_negatives(labels.to(device), 7),
            metrics.class_batches(labels.to(device), 3, "different", 4),
            metrics.batch_similarity(s[None], exclude_self=True),
            metrics.success_rate(ciou),
            metrics.success_auc(ciou),
            metrics.pointing_accuracy(m, g),
            metrics.ground_truth_map(torch.tensor([[0.1, 0.2, 0.7, 0.9]], device=device), 32),
            *metrics.recall_at_k(s).values(),
            *metrics.recall_at_k(s, labels.to(device), exclude_self=True).values(),
            *metrics.relevant_found_at_k(s, relevant=s > 0).values(),
            metrics.retrieval_ranks(s[:7], relevant=s[:7] > 0),
            metrics.median_rank(s),
            metrics.mean_rank(s),
            metrics.mean_reciprocal_rank(s),
            metrics.r_precision(s, labels.to(device), exclude_self=True),
            metrics.flat_maps(m),
        ]
        assert all(result.device.type == device for result in results)
        return [result.cpu() for result in results]

    for on_gpu, on_cpu in zip(everything("cuda"), everything("cpu"), strict=True):
        torch.testing.assert_close(on_gpu, on_cpu, atol=1e-12, rtol=0)
