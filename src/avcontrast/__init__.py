"""Contrastive losses for audio-visual learning that know about false negatives."""

from avcontrast import functional, metrics, ops, schedules
from avcontrast.functional import FNACComponents
from avcontrast.losses import FalseNegativeSuppression, FNACLoss, InfoNCE, TrueNegativeEnhancement

__version__ = "0.1.0"

__all__ = [
    "FNACComponents",
    "FNACLoss",
    "FalseNegativeSuppression",
    "InfoNCE",
    "TrueNegativeEnhancement",
    "__version__",
    "functional",
    "metrics",
    "ops",
    "schedules",
]
