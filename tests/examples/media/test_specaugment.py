import pytest
import torch

from avscenes.media.specaugment import SILENCE, spec_augment
from avscenes.media.spectrogram import published_spectrogram


def masks(count, **options):
    """Where `count` masked spectrograms [257, 200] differ, and the values that took their place."""
    generator = torch.Generator().manual_seed(0)
    plain = torch.rand(1, 257, 200, generator=generator) - 1.3
    found = torch.stack([spec_augment(plain, generator, **options)[0] for _ in range(count)])
    changed = found != plain
    return changed, found[changed], plain


def test_both_axes_are_masked_to_their_ends():
    changed, values, plain = masks(2_000)
    rows, columns = changed.all(dim=2), changed.all(dim=1)
    assert rows.sum(dim=1).bincount().tolist() == pytest.approx([200] * 10, abs=60)
    assert columns.sum(dim=1).bincount().tolist() == pytest.approx([200] * 10, abs=60)
    assert rows[:, 0].any()
    assert rows[:, 256].any()
    assert columns[:, 0].any()
    assert columns[:, 199].any()
    # Whatever changed lies in a full band or in a full stretch.
    assert torch.equal(changed, rows[:, :, None] | columns[:, None])
    assert values.unique().tolist() == [plain.mean().item()]


def test_silence_is_what_silence_gives():
    values = masks(20, fill="silence")[1]
    assert values.unique().tolist() == pytest.approx([SILENCE])
    silent = published_spectrogram(torch.zeros(48_000), 16_000)
    torch.testing.assert_close(silent, torch.full_like(silent, SILENCE))


def test_legacy_masks_are_those_of_the_released_code():
    changed, values, _ = masks(2_500, legacy=True)
    rows, columns = changed.all(dim=2).sum(dim=1), changed.all(dim=1).sum(dim=1)
    assert values.unique().tolist() == [0]
    # A band starts below row 200, so the highest 49 rows are never reached.
    reached = changed.all(dim=2).any(dim=0)
    assert reached[:208].all()
    assert not reached[208:].any()
    # 1 - (9/10) (200/257) of the stretches are empty or start beyond the last frame.
    assert (columns == 0).float().mean().item() == pytest.approx(0.2996, abs=0.025)
    assert (rows == 0).float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_masks_fit_into_small_spectrograms():
    for legacy in (False, True):
        for seed in range(50):
            generator = torch.Generator().manual_seed(seed)
            small = spec_augment(torch.rand(1, 3, 2), generator, legacy=legacy)
            assert small.shape == (1, 3, 2)


def test_the_fill_is_checked_and_the_input_kept():
    plain = torch.rand(1, 20, 20)
    before = plain.clone()
    for legacy in (False, True):
        spec_augment(plain, torch.Generator().manual_seed(1), legacy=legacy)
    assert torch.equal(plain, before)
    with pytest.raises(ValueError, match="fill must be 'mean' or 'silence', got 'zero'"):
        spec_augment(plain, torch.Generator(), fill="zero")
