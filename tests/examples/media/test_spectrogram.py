import numpy as np
import pytest
import torch

from avscenes.media.augmentation import flip_and_shift
from avscenes.media.specaugment import spec_augment
from avscenes.media.spectrogram import log_frequency_spectrogram, published_spectrogram


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_published_bin_is_the_windowed_density_of_its_segment(dtype):
    wave = torch.rand(2, 5_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = published_spectrogram(wave.to(dtype), 8_000)
    assert result.dtype == dtype
    segment = wave[1, 3 * 238 : 3 * 238 + 512]
    ramp = (0.5 - 0.5 * (torch.pi * torch.arange(64) / 64).cos()).double()
    window = torch.cat([ramp, torch.ones(385), ramp[1:].flip(0)])
    power = torch.fft.rfft((segment - segment.mean()) * window).abs() ** 2
    power[1:-1] *= 2  # of the negative frequencies too
    expected = (power / (8_000 * (window**2).sum()) + 1e-7).log() / 12
    torch.testing.assert_close(result[1, :, 3], expected.to(dtype), atol=1e-5, rtol=0)


def test_published_shapes_and_silence():
    result = published_spectrogram(torch.zeros(2, 48_000), 16_000)
    assert result.shape == (2, 257, 200)
    torch.testing.assert_close(result, torch.full_like(result, -1.34318), atol=1e-5, rtol=0)


def test_a_sine_lights_the_bin_of_its_frequency():
    time = torch.arange(8_000) / 8_000
    centres = torch.logspace(np.log10(110), np.log10(3_900), 64)
    for place in (5, 30, 60):
        wave = torch.sin(2 * torch.pi * centres[place] * time)
        result = log_frequency_spectrogram(wave, 8_000)
        assert result.shape == (64, 64)
        assert abs(result[:, 20:40].mean(dim=1).argmax().item() - place) <= 1


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
