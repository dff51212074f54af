"""What the tests of the CUDA kernels have in common: where they run, on what, and against what."""

from __future__ import annotations

import torch

from avcontrast.ops import dense
from avcontrast.ops._settings import TERMS, Settings

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BOTH = TERMS[:2]
CASES = {
    "all terms": Settings(TERMS),
    "one direction": Settings(TERMS[:1]),
    "InfoNCE": Settings(BOTH),
    "InfoNCE, mean pooling": Settings(BOTH, pooling="mean"),
    "mean pooling": Settings(TERMS, pooling="mean"),
    "soft mask": Settings(TERMS, mask="soft"),
    "audio anchor": Settings(TERMS, anchor="audio"),
    "detached": Settings(TERMS, detach_adjacency=True),
    "detached, audio anchor": Settings(TERMS, anchor="audio", detach_adjacency=True),
    "suppression": Settings(TERMS[2:4]),
    "suppression by vision": Settings(TERMS[3:4]),
    "suppression by audio, audio anchor": Settings(TERMS[2:3], anchor="audio"),
    "enhancement": Settings(TERMS[4:]),
    "enhancement, soft, detached": Settings(TERMS[4:], mask="soft", detach_adjacency=True),
    "not normalised": Settings(TERMS, normalize=False),
    "not normalised, soft": Settings(TERMS, normalize=False, mask="soft"),
}


def features(b, d=16, size=(2, 3), *, dtype=torch.float32, aligned=0.5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    audio = torch.randn(b, d, generator=generator)
    visual = torch.randn(b, d, *size, generator=generator) + aligned * audio[:, :, None, None]
    return visual.to(DEVICE, dtype), audio.to(DEVICE, dtype)


def results(backend, visual, audio, settings, tau=0.05, grad=None, **options):
    """Values of the terms and gradients of features and temperature, for given ``grad``."""
    visual, audio = (x.detach().clone().requires_grad_() for x in (visual, audio))
    dtype = torch.promote_types(visual.dtype, torch.float32)
    tau = torch.tensor(tau, dtype=dtype, device=DEVICE, requires_grad=True)
    values = torch.stack(backend.contrast(visual, audio, tau, settings, **options))
    if grad is None:
        grad = torch.linspace(0.5, 1.5, values.numel()).reshape(values.shape).to(values)
    values.backward(grad)
    return values.detach(), visual.grad, audio.grad, tau.grad


def exact(visual, audio, settings, tau=0.05, **options):
    return results(dense, visual.double(), audio.double(), settings, tau, **options)


def error(found, wanted):
    """The length of the difference over that of what is wanted."""
    return ((found.double() - wanted).norm() / wanted.norm()).item()
