import numpy as np
import pytest
import scipy.signal
import torch

from avscenes.media.augmentation import flip_and_shift
from avscenes.media.specaugment import spec_augment
from avscenes.media.spectrogram import (
    log_frequency_spectrogram,
    published_spectrogram,
    tukey_window,
)


def test_tukey_window_equals_scipy():
    expected = scipy.signal.get_window(("tukey", 0.25), 512)
    window = tukey_window(512, dtype=torch.float64)
    np.testing.assert_allclose(window.numpy(), expected, atol=1e-12)
    assert window.square().sum().item() == pytest.approx(432.0)


@pytest.mark.parametrize("rate", [16_000, 22_050, 44_100])
@pytest.mark.parametrize("kind", ["noise", "sine", "silence"])
def test_published_spectrogram_equals_scipy(rate, kind):
    time = np.arange(3 * rate) / rate
    wave = {
        "noise": np.random.default_rng(0).normal(size=time.size) * 0.1,
        "sine": np.sin(2 * np.pi * 440 * time),
        "silence": np.zeros_like(time),
    }[kind]
    _, _, power = scipy.signal.spectrogram(wave, rate, nperseg=512, noverlap=274)
    expected = np.log(power + 1e-7) / 12
    exact = published_spectrogram(torch.from_numpy(wave), rate)
    np.testing.assert_allclose(exact.numpy(), expected, atol=1e-9)
    single = published_spectrogram(torch.from_numpy(wave).float(), rate)
    np.testing.assert_allclose(single.numpy(), expected, atol=1e-5)


def test_published_shapes_and_silence():
    result = published_spectrogram(torch.zeros(2, 48_000), 16_000)
    assert result.shape == (2, 257, 200)
    torch.testing.assert_close(result, torch.full_like(result, -1.34318), atol=1e-5, rtol=0)


def test_other_overlaps_and_odd_segments_equal_scipy():
    wave = np.random.default_rng(1).normal(size=5_000)
    _, _, power = scipy.signal.spectrogram(wave, 8_000, nperseg=255, noverlap=100)
    result = published_spectrogram(torch.from_numpy(wave), 8_000, segment=255, overlap=100)
    np.testing.assert_allclose(result.numpy(), np.log(power + 1e-7) / 12, atol=1e-9)


def test_a_sine_lights_the_bin_of_its_frequency():
    time = torch.arange(8_000) / 8_000
    centres = torch.logspace(np.log10(110), np.log10(3_900), 64)
    for place in (5, 30, 60):
        wave = torch.sin(2 * torch.pi * centres[place] * time)
        result = log_frequency_spectrogram(wave, 8_000)
        assert result.shape == (64, 64)
        assert abs(result[:, 20:40].mean(dim=1).argmax().item() - place) <= 1


def test_masks_blank_one_band_and_one_stretch_with_the_mean():
    spectrogram = torch.randn(1, 257, 200)
    kept = spectrogram.clone()
    rows, columns = set(), set()
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        masked = spec_augment(spectrogram, generator, widest=9)
        changed = (masked != spectrogram)[0]
        torch.testing.assert_close(
            masked[0][changed], spectrogram.mean().expand(int(changed.sum())), rtol=0, atol=0
        )
        bands, stretches = changed.all(dim=1), changed.all(dim=0)
        assert bands.sum() <= 9
        assert stretches.sum() <= 9
        # Whatever changed lies in a full band or in a full stretch.
        assert torch.equal(changed, bands[:, None] | stretches[None, :])
        rows.update(bands.nonzero().flatten().tolist())
        columns.update(stretches.nonzero().flatten().tolist())
    assert torch.equal(spectrogram, kept)
    # Both axes are covered to their ends.
    assert max(rows) > 230
    assert max(columns) > 180
    assert min(rows) < 20
    assert min(columns) < 20


def test_masks_depend_on_their_generator_alone():
    spectrogram = torch.randn(1, 64, 64)
    results = [
        spec_augment(spectrogram, torch.Generator().manual_seed(5), widest=8) for _ in range(2)
    ]
    assert torch.equal(*results)


def test_flip_and_shift_moves_pixels_without_inventing_colours():
    image = torch.randint(256, (3, 64, 64), dtype=torch.uint8)
    for seed in range(20):
        moved = flip_and_shift(image, torch.Generator().manual_seed(seed))
        assert moved.shape == image.shape
        candidates = [image, image.flip(-1)]
        assert any(
            torch.equal(moved[:, 6 + y : 58 + y, 6 + x : 58 + x], whole[:, 6:58, 6:58])
            for whole in candidates
            for y in range(-6, 7)
            for x in range(-6, 7)
        )
