"""Metrics of audio-visual localisation, segmentation, retrieval and false negatives.

Everything here takes batches of tensors, runs on the device of its inputs and carries no gradient,
except :func:`upsample`, which is differentiable. Localisation goes in two steps::

    ciou = localization_ciou(maps, gt_maps, "ezvsl-test")   # (n, h, w), (n, H, W) -> (n,)
    success_rate(ciou), success_auc(ciou)                   # "CIoU" and "AUC" of the literature

Published evaluators agree on the score and differ in how they upsample a map and compare it with
its threshold. Scores obtained with different rows are not strictly comparable:

==============================  ========  =============  ===============  =========  =========
Name in :data:`PROTOCOLS`       mode      align_corners  object map       inclusive  threshold
==============================  ========  =============  ===============  =========  =========
``"ezvsl-test"`` (the default)  bilinear  True           bilinear, True   True       half
``"ezvsl-train"``               bicubic   False          bilinear, True   True       half
``"fnac-test"``                 bilinear  True           bilinear, True   True       half
``"fnac-test2"``                bicubic   False          bilinear, True   True       half
``"fnac-train"``                bicubic   False          bilinear, True   True       half
``"slavc-test"``                bicubic   True           bicubic, True    True       half
``"slavc-test-absolute"``       bicubic   True           bicubic, True    True       fixed
``"slavc-train"``               bicubic   False          bicubic, True    True       half
``"lvs"``                       bilinear  False          bilinear, False  maximum    half
``"ssltie"``                    bilinear  False          bilinear, False  maximum    half
``"alignment"``                 bilinear  True           bilinear, True   False      half
``"alignment-adaptive"``        bilinear  True           bilinear, True   False      area
``"alignment-vggss"``           bilinear  False          bilinear, False  False      half
``"alignment-vggss-adaptive"``  bilinear  False          bilinear, False  False      area
==============================  ========  =============  ===============  =========  =========

"train" is the validation that chooses an epoch, "fnac-test2" the second of FNAC's two validations,
and "alignment" what SSL-Alignment does except with SSL-TIE, and with its own model and LVS on
VGG-SS. The object map, which some mix with that of the model, is resized in a way of its own: mode
and align_corners of it are in the column of that name. "maximum" is ``>`` but for the pixels of a
threshold that is the maximum of its map.

Read a localisation number beside what :func:`centre_disc` scores and what :func:`ciou_ceiling`
allows on the same data; :func:`localization_scores` returns all three. For data that come in
batches or are spread over processes see :mod:`avcontrast.metrics.accumulators`.
"""

from avcontrast.metrics.false_negatives import (
    EliminationQuality,
    ExpectedFalseNegatives,
    batch_similarity,
    class_batches,
    elimination_quality,
    expected_false_negatives,
)
from avcontrast.metrics.localization import ciou_ceiling, consensus_iou, pointing_accuracy
from avcontrast.metrics.maps import (
    centre_disc,
    flat_maps,
    ground_truth_map,
    ground_truth_maps,
    upsample,
)
from avcontrast.metrics.masks import mask_f_score, mask_iou
from avcontrast.metrics.protocols import (
    PROTOCOLS,
    LocalizationScores,
    Protocol,
    localization_ciou,
    localization_scores,
)
from avcontrast.metrics.purity import adjacency_purity, neighbour_purity
from avcontrast.metrics.retrieval import (
    mean_rank,
    mean_reciprocal_rank,
    median_rank,
    r_precision,
    recall_at_k,
    relevant_found_at_k,
    retrieval_ranks,
)
from avcontrast.metrics.silence import (
    AREA_SUBSETS,
    area_subset,
    average_precision,
    f1_at,
    localization_accuracy,
    map_confidence,
    max_f1,
)
from avcontrast.metrics.success import group_ciou, success_auc, success_rate

__all__ = [
    "AREA_SUBSETS",
    "PROTOCOLS",
    "EliminationQuality",
    "ExpectedFalseNegatives",
    "LocalizationScores",
    "Protocol",
    "adjacency_purity",
    "area_subset",
    "average_precision",
    "batch_similarity",
    "centre_disc",
    "ciou_ceiling",
    "class_batches",
    "consensus_iou",
    "elimination_quality",
    "expected_false_negatives",
    "f1_at",
    "flat_maps",
    "ground_truth_map",
    "ground_truth_maps",
    "group_ciou",
    "localization_accuracy",
    "localization_ciou",
    "localization_scores",
    "map_confidence",
    "mask_f_score",
    "mask_iou",
    "max_f1",
    "mean_rank",
    "mean_reciprocal_rank",
    "median_rank",
    "neighbour_purity",
    "pointing_accuracy",
    "r_precision",
    "recall_at_k",
    "relevant_found_at_k",
    "retrieval_ranks",
    "success_auc",
    "success_rate",
    "upsample",
]
