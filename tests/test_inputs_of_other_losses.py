"""What the losses of other methods, and what is for vectors of sounds alone, do with sequences."""

import re

import pytest
import torch

from avcontrast import AlignmentLoss, HardPositiveLoss, InfoNCE, TriMapLoss, functional

VISUAL, FRAMES = torch.randn(4, 6, 2, 3), torch.randn(4, 6, 5)


@pytest.mark.parametrize(
    "call",
    [
        lambda: TriMapLoss()(VISUAL, FRAMES),
        lambda: HardPositiveLoss()(VISUAL, FRAMES),
        lambda: AlignmentLoss()([VISUAL], [FRAMES], [VISUAL[..., 0, 0]], [FRAMES[..., 0]]),
        lambda: functional.pooled_similarity(VISUAL, FRAMES, pooling="mean"),
    ],
)
def test_sequences_of_audio_are_refused(call):
    message = "audio must be (b, d), got visual (4, 6, 2, 3) and audio (4, 6, 5); pool it over time"
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_a_soft_mask_is_not_for_sequences():
    with pytest.raises(ValueError, match="pooling must be 'max' or 'mean' for sequences of audio"):
        InfoNCE(pooling="soft-mask")(VISUAL, FRAMES)


@pytest.mark.parametrize("pooling", ["max", "mean", "soft-mask"])
def test_videos_are_pooled_over_all_their_positions(pooling):
    video, audio = torch.randn(4, 6, 2, 2, 3), torch.randn(4, 6)
    found = functional.pooled_similarity(video, audio, pooling=pooling)
    flat = functional.pooled_similarity(video.flatten(2)[..., None], audio, pooling=pooling)
    torch.testing.assert_close(found, flat)


@pytest.mark.parametrize("form", ["outside", "inside"])
def test_sequences_may_have_several_positives(form):
    positives = torch.zeros(4, 4, dtype=torch.bool)
    positives[0, 2] = positives[2, 0] = True
    criterion = InfoNCE(0.2, positive_form=form)
    found = criterion(VISUAL, FRAMES, positives=positives)
    match = functional.max_similarity(VISUAL, FRAMES)
    # The matches themselves are the products of these vectors.
    expected = InfoNCE(0.2, positive_form=form, normalize=False)(
        match, torch.eye(4), positives=positives
    )
    torch.testing.assert_close(found, expected)
