"""Contrastive losses for audio-visual learning that know about false negatives."""

from avcontrast import functional, metrics, ops, schedules
from avcontrast._alignment import AlignmentComponents
from avcontrast.functional import FNACComponents
from avcontrast.localization_losses import AlignmentLoss, HardPositiveLoss, TriMapLoss
from avcontrast.losses import FalseNegativeSuppression, FNACLoss, InfoNCE, TrueNegativeEnhancement

__version__ = "0.1.0"

__all__ = [
    "AlignmentComponents",
    "AlignmentLoss",
    "FNACComponents",
    "FNACLoss",
    "FalseNegativeSuppression",
    "HardPositiveLoss",
    "InfoNCE",
    "TriMapLoss",
    "TrueNegativeEnhancement",
    "__version__",
    "functional",
    "metrics",
    "ops",
    "schedules",
]
