"""Log-spectrograms: the published one, and one with log-spaced bins for the scenes."""

from __future__ import annotations

import math

import torch
from scipy import signal
from torch import Tensor
from torch.nn import functional as F

# For the scenes: bins, the centres of the first and the last in Hz, and samples in a segment.
_BINS, _LOW, _HIGH, _SEGMENT = 64, 110.0, 3_900.0, 512


def published_spectrogram(wave: Tensor, sample_rate: int) -> Tensor:
    """Return the log-spectrogram that EZ-VSL, SLAVC and FNAC feed to their audio network.

    Power density of overlapping segments, each with its mean removed and under a Tukey window; then
    `log(power + 1e-7) / 12`. Silence is -1.34 and a full-scale sine reaches about -0.35.

    Args:
        wave: Samples in [-1, 1], [..., length].
        sample_rate: In Hz; scales the density.

    Returns:
        [..., 257, frames]; 3 s at 16 kHz give 200 frames.
    """
    _, _, power = signal.spectrogram(wave.numpy(), sample_rate, nperseg=512, noverlap=274)
    return torch.from_numpy(power).add(1e-7).log().div(12)


def log_frequency_spectrogram(wave: Tensor, sample_rate: int, *, hop: int = 125) -> Tensor:
    """Return a log-spectrogram with evenly spaced log-frequencies, scaled to about [-1, 1].

    Args:
        wave: [..., length].
        sample_rate: In Hz.
        hop: Samples between segments.

    Returns:
        [..., 64, length // hop].
    """
    frames = F.pad(wave, (_SEGMENT // 2, _SEGMENT // 2)).unfold(-1, _SEGMENT, hop)
    frames = frames[..., : wave.shape[-1] // hop, :]
    window = torch.hann_window(_SEGMENT, dtype=wave.dtype, device=wave.device)
    power = torch.fft.rfft(frames * window).abs().square() / window.sum() ** 2  # [..., t, f]
    centres = torch.logspace(math.log10(_LOW), math.log10(_HIGH), _BINS, dtype=torch.float64)
    position = centres * _SEGMENT / sample_rate
    grid = torch.arange(_SEGMENT // 2 + 1, dtype=torch.float64)
    # A bin reaches to its neighbours, and never less than one line of the transform.
    reach = position * (_HIGH / _LOW) ** (1 / (_BINS - 1)) - position
    weights = (1 - (grid - position[:, None]).abs() / reach.clamp(min=1.0)[:, None]).clamp(min=0)
    weights = (weights / weights.sum(dim=1, keepdim=True)).to(wave)
    return (torch.log10(power @ weights.T + 1e-7) / 3 + 1.2).transpose(-1, -2)
