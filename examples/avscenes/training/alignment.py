"""The loss of Cross-Modal Alignment with the projections that it learns beside the encoders."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from avcontrast import AlignmentComponents, AlignmentLoss
from avscenes.models.vectors import pooled


class ProjectedAlignment(nn.Module):
    """Contrasts views of images and sounds: their maps as they are, and their vectors projected.

    Each projection is one linear layer; what it takes is the mean over the positions of an image,
    or the vector of a sound, of features of unit length. Neither depth nor mean is published.

    Args:
        criterion: The loss.
        dim: Of the features.
    """

    def __init__(self, criterion: AlignmentLoss, dim: int) -> None:
        super().__init__()
        self.criterion = criterion
        self.visual = nn.Linear(dim, dim)
        self.audio = nn.Linear(dim, dim)

    def forward(self, visual: Sequence[Tensor], audio: Sequence[Tensor]) -> AlignmentComponents:
        """Return the loss and its terms for views [b, d, h, w] of images and [b, d] of sounds."""
        return self.criterion.components(
            visual,
            audio,
            [self.visual(pooled(view)) for view in visual],
            [self.audio(F.normalize(view, dim=1)) for view in audio],
        )
