"""Counts the test clips in a training list before a run starts.

The list of 144,000 VGG-Sound clips in common use was drawn from all clips: it has 72 % of VGG-SS.
"""

from __future__ import annotations

from collections.abc import Iterable

from avscenes.files.errors import UserError
from avscenes.sets.ids import same_clip


def check_overlap(
    train_ids: Iterable[str],
    test_ids: Iterable[str],
    *,
    allow: bool = False,
    train: str = "--train-list",
    test: str = "--test-list",
) -> list[str]:
    """Return the test clips that are training clips too, in the order of the test list.

    Args:
        train_ids: To train on.
        test_ids: To test on.
        allow: Return them without an error.
        train: The option that names the first.
        test: The option that names the others.

    Raises:
        UserError: When there are any and `allow` is false.
    """
    known = {same_clip(clip) for clip in train_ids}
    tested = list(dict.fromkeys(test_ids))
    shared = [clip for clip in tested if same_clip(clip) in known]
    if shared and not allow:
        raise UserError(
            f"{train} contains {len(shared):,} of the {len(tested):,} clips of {test} "
            f"({len(shared) / len(tested):.0%}; first {shared[0]}), so the scores would not be of "
            "unseen clips; use another list, or --allow-overlap"
        )
    return shared
