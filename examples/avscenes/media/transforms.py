"""What the published recipes do to a clip in training; in a test none of them changes anything.

All but `alignment` scale the short side of the image to 246 pixels, crop 224 x 224 at random and
mirror half of the time, and take the middle of the sound; they differ in the rest. `alignment`
changes the image as SimCLR does, and takes the sound from anywhere in the clip.
"""

from __future__ import annotations

from typing import NamedTuple


class Transform(NamedTuple):
    """Settings of the input."""

    seconds: int = 3
    widest_mask: int = 0  # rows and columns of the spectrogram; 0 masks nothing
    legacy_masks: bool = False
    strong: bool = False  # see `avscenes.media.strong`; and a sound from anywhere


FNAC = Transform(widest_mask=9)
TRANSFORMS = {
    "fnac": FNAC,
    "fnac-released": Transform(widest_mask=9, legacy_masks=True),
    "ez-vsl": Transform(),
    "slavc": Transform(),
    "alignment": Transform(strong=True),
}
