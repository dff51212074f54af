"""Object-guided localisation (OGL, EZ-VSL): what a frozen image network sees, mixed into a map.

The object map takes no sound: it is the mean activation of the last stage of an ImageNet ResNet-18.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from avcontrast import metrics
from avscenes.media.images import IMAGE_SIZE
from avscenes.models.encoders import ResNet18
from avscenes.models.weights import load_image_weights

# SLAVC divides object maps by this before it mixes them with cosines that lie between 0 and 1.
_SLAVC_SCALE = 2.5


def load_object_network(
    path: Path, device: str | torch.device, option: str = "--object-weights"
) -> ResNet18:
    """Return the frozen image network with torchvision's ImageNet weights.

    Raises:
        UserError: When the file cannot be read or is not a ResNet-18.
    """
    network = ResNet18()
    load_image_weights(network, path, option)
    return network.requires_grad_(False).to(device).eval()


def object_maps(network: ResNet18, images: Tensor) -> Tensor:
    """Return the mean over the channels of the last stage: [b, 3, height, width] to [b, h, w]."""
    features: Tensor = network(enlarged(images))
    return features.mean(dim=1)  # after a ReLU, so its absolute values


def enlarged(images: Tensor) -> Tensor:
    """Return images of at least the size that ImageNet's networks were trained on."""
    if images.shape[-1] >= IMAGE_SIZE:
        return images
    return F.interpolate(images, (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", align_corners=False)


def mixes_absolute(protocol: str) -> bool:
    """Return whether a protocol mixes the maps in a scale that all images share."""
    return protocol.startswith("slavc")


def heat_maps(
    cosines: Tensor,
    objects: Tensor | None,
    *,
    size: int,
    protocol: str,
    object_share: float,
) -> dict[str, Tensor]:
    """Return what is scored: the model's map and, with object maps, those and the mix.

    EZ-VSL, FNAC and SSL-Alignment stretch both maps to [0, 1] at full resolution before they mix
    them; SLAVC brings them to a common scale instead.

    Args:
        cosines: Maps of the model, [b, h, w].
        objects: Object maps, [b, h, w].
        size: Of the ground truth.
        protocol: Name of the protocol, which says how either map is resized.
        object_share: Weight of the object map in the mix; that of the model is the rest.

    Returns:
        `model`, and `ogl` and `mix`, [b, size, size] each.
    """
    rules = metrics.PROTOCOLS[protocol]
    model = metrics.upsample(cosines, size, rules.mode, rules.align_corners)
    absolute = mixes_absolute(protocol)
    if absolute:
        model = (model + 1) / 2
    if objects is None:
        return {"model": model}
    ogl = metrics.upsample(objects, size, rules.object_mode, rules.object_align_corners)
    if absolute:
        ogl = ogl / _SLAVC_SCALE
        parts = model, ogl
    else:
        parts = stretch(model), stretch(ogl)
    mix = (1 - object_share) * parts[0] + object_share * parts[1]
    return {"model": model, "ogl": ogl, "mix": mix}


def stretch(maps: Tensor) -> Tensor:
    """Scale each map [b, h, w] to [0, 1]; a constant one stays as it is."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low).clamp(min=1e-12), maps)
