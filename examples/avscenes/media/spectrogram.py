"""Log-spectrograms in torch: the published one, and one with log-spaced bins for the scenes."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def tukey_window(length: int, share: float = 0.25, *, dtype: torch.dtype | None = None) -> Tensor:
    """Return a periodic Tukey window [length] whose tapered part has the given share.

    Equal to `scipy.signal.get_window(("tukey", share), length)`.
    """
    position = torch.arange(length, dtype=torch.float64) / length
    edge = torch.minimum(position, 1 - position) * 2 / share
    return (0.5 - 0.5 * torch.cos(math.pi * edge.clamp(max=1.0))).to(dtype)


def published_spectrogram(
    wave: Tensor, sample_rate: int, *, segment: int = 512, overlap: int = 274
) -> Tensor:
    """Return the log-spectrogram that EZ-VSL, SLAVC and FNAC feed to their audio network.

    Power density of overlapping segments, each with its mean removed and under a Tukey window, as
    `scipy.signal.spectrogram(wave, sample_rate, nperseg=512, noverlap=274)` gives it; then
    `log(power + 1e-7) / 12`. Silence is -1.34 and a full-scale sine reaches about -0.35.

    Args:
        wave: Samples in [-1, 1], [..., length].
        sample_rate: In Hz; scales the density.
        segment: Samples in a segment.
        overlap: Samples that neighbouring segments share.

    Returns:
        [..., segment // 2 + 1, frames]; 3 s at 16 kHz give 257 x 200.
    """
    window = tukey_window(segment, dtype=wave.dtype).to(wave.device)
    frames = wave.unfold(-1, segment, segment - overlap)  # [..., frames, segment]
    frames = (frames - frames.mean(dim=-1, keepdim=True)) * window
    power = torch.fft.rfft(frames).abs().square() / (sample_rate * window.square().sum())
    # One-sided density: every bin but the constant and the Nyquist one stands for two.
    power[..., 1 : (segment + 1) // 2] *= 2
    return torch.log(power + 1e-7).div(12).transpose(-1, -2)


def log_frequency_spectrogram(
    wave: Tensor,
    sample_rate: int,
    *,
    bins: int = 64,
    low: float = 110.0,
    high: float = 3_900.0,
    segment: int = 512,
    hop: int = 125,
) -> Tensor:
    """Return a log-spectrogram with evenly spaced log-frequencies, scaled to about [-1, 1].

    Args:
        wave: [..., length].
        sample_rate: In Hz.
        bins: Number of frequency bins.
        low: Centre of the lowest bin in Hz.
        high: Centre of the highest bin in Hz.
        segment: Samples in a segment (Hann window).
        hop: Samples between segments.

    Returns:
        [..., bins, length // hop].
    """
    frames = F.pad(wave, (segment // 2, segment // 2)).unfold(-1, segment, hop)
    frames = frames[..., : wave.shape[-1] // hop, :]
    window = torch.hann_window(segment, dtype=wave.dtype, device=wave.device)
    power = torch.fft.rfft(frames * window).abs().square() / window.sum() ** 2  # [..., t, f]
    centres = torch.logspace(math.log10(low), math.log10(high), bins, dtype=torch.float64)
    position = centres * segment / sample_rate
    grid = torch.arange(segment // 2 + 1, dtype=torch.float64)
    # A bin reaches to its neighbours, and never less than one line of the transform.
    reach = position * (high / low) ** (1 / (bins - 1)) - position
    weights = (1 - (grid - position[:, None]).abs() / reach.clamp(min=1.0)[:, None]).clamp(min=0)
    weights = (weights / weights.sum(dim=1, keepdim=True)).to(wave)
    return (torch.log10(power @ weights.T + 1e-7) / 3 + 1.2).transpose(-1, -2)
