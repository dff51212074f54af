"""Image and audio encoders: small ones for the synthetic scenes, ResNet-18 for real clips.

`ResNet18` names its parameters as torchvision does, so that torchvision's published ImageNet
weights load. Its `bn1` and `bn2` keep their names when they are group normalisation.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


def group_norm(channels: int) -> nn.GroupNorm:
    """Return group normalisation with 32 groups, or fewer so that each has four channels."""
    return nn.GroupNorm(min(32, channels // 4), channels)


NORMS: dict[str, Norm] = {"batch": nn.BatchNorm2d, "group": group_norm}
# Pixels between the positions of a map, by the kind of encoder; the last stage alone decides.
MAP_STRIDES = {"small": (8, 16), "resnet18": (32, 16)}


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a shortcut, as in ResNet-18."""

    def __init__(self, channels: int, out_channels: int, stride: int, norm: Norm) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = norm(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = norm(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample: nn.Module | None = None
        if stride != 1 or channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, stride, bias=False),
                norm(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, channels, h, w] to [b, out_channels, h / stride, w / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        result: Tensor = self.relu(self.bn2(self.conv2(x)) + shortcut)
        return result


class SmallTrunk(nn.Sequential):
    """Stem and three residual stages; 64 x 64 in, [64, 8, 8] out at `last_stride=1`."""

    channels = 64

    def __init__(self, in_channels: int, last_stride: int, norm: Norm) -> None:
        super().__init__(
            nn.Conv2d(in_channels, 16, 5, stride=2, padding=2, bias=False),
            norm(16),
            nn.ReLU(inplace=True),
            ResidualBlock(16, 32, 2, norm),
            ResidualBlock(32, 64, 2, norm),
            ResidualBlock(64, 64, last_stride, norm),
        )


class ResNet18(nn.Module):
    """ResNet-18 without its pooling and classifier; 224 x 224 in, [512, 7, 7] out.

    With `last_stride=1` the last stage keeps the positions of the third, and [512, 14, 14] come
    out, as in LVS. The weights are the same.
    """

    channels = 512

    def __init__(
        self, in_channels: int = 3, norm: Norm = nn.BatchNorm2d, last_stride: int = 2
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = norm(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(64, 64, 1, norm)
        self.layer2 = _stage(64, 128, 2, norm)
        self.layer3 = _stage(128, 256, 2, norm)
        self.layer4 = _stage(256, 512, last_stride, norm)
        # As torchvision draws them.
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map [b, in_channels, h, w] to [b, 512, h / 32, w / 32], or 16 with `last_stride=1`."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        result: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return result


def _stage(channels: int, out_channels: int, stride: int, norm: Norm) -> nn.Sequential:
    return nn.Sequential(
        ResidualBlock(channels, out_channels, stride, norm),
        ResidualBlock(out_channels, out_channels, 1, norm),
    )


class SharedDropout(nn.Dropout):
    """Dropout that draws for the batch of all processes and applies the part of this one.

    With equal random states and parts, what is dropped does not depend on the number of processes.
    """

    rank = 0
    world = 1

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements of [b, ...] in training."""
        if self.world == 1 or not self.training or not self.p:
            return super().forward(x)
        mask = super().forward(x.new_ones(self.world * len(x), *x.shape[1:]))
        return x * mask[self.rank * len(x) : (self.rank + 1) * len(x)]


class VisualEncoder(nn.Module):
    """A trunk, element-wise dropout and a 1 x 1 projection: images to a feature map.

    Without `dim` there is no projection.
    """

    def __init__(self, trunk: SmallTrunk | ResNet18, dim: int | None, dropout: float) -> None:
        super().__init__()
        self.trunk = trunk
        self.dropout = SharedDropout(dropout)
        self.dim = dim or trunk.channels
        self.projection = nn.Conv2d(trunk.channels, dim, 1) if dim else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        """Map [b, 3, height, width] to [b, dim, h, w]."""
        features: Tensor = self.projection(self.dropout(self.trunk(images)))
        return features


class AudioEncoder(nn.Module):
    """A trunk, the maximum over time and frequency and a linear projection: sounds to a vector.

    Without `dim` there is no projection.
    """

    def __init__(self, trunk: SmallTrunk | ResNet18, dim: int | None) -> None:
        super().__init__()
        self.trunk = trunk
        self.projection = nn.Linear(trunk.channels, dim) if dim else nn.Identity()

    def forward(self, spectrograms: Tensor) -> Tensor:
        """Map [b, 1, frequencies, frames] to [b, dim]."""
        features: Tensor = self.projection(self.trunk(spectrograms).amax(dim=(-2, -1)))
        return features


def initialise(module: nn.Module) -> None:
    """Draw weights as the released FNAC code does for its audio network and projections."""
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(part, nn.Linear):
            nn.init.trunc_normal_(part.weight, std=0.01)
        elif isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.weight, mean=1.0, std=0.02)
            nn.init.zeros_(part.bias)


def build_encoders(
    kind: str,
    image_dropout: float = 0.0,
    norm: str = "batch",
    *,
    map_stride: int | None = None,
    projected: bool = True,
) -> tuple[VisualEncoder, AudioEncoder]:
    """Return freshly drawn encoders.

    Args:
        kind: `small` (128 dimensions; 64 x 64 images become 8 x 8 maps) or `resnet18` (512; 224 x
            224 become 7 x 7).
        image_dropout: Share of the image features that is dropped before the projection.
        norm: `batch` or `group`; the second computes nothing across the samples of a batch.
        map_stride: Pixels between two positions of a map, one of `MAP_STRIDES`, whose first is the
            default. Of `resnet18` the sound network has the same last stage, as in LVS.
        projected: Whether projections follow the trunks; without them `small` has 64 dimensions.
    """
    layer = NORMS[norm]
    stride = map_stride or MAP_STRIDES[kind][0]
    if kind == "small":
        dim = 128 if projected else None
        visual = VisualEncoder(SmallTrunk(3, stride // 8, layer), dim, image_dropout)
        audio = AudioEncoder(SmallTrunk(1, 2, layer), dim)
        # Torch's own initialisation: under the published one the bias outweighs the projection of
        # 64 channels, all sounds start out alike, and the scenes are not learned.
        return visual, audio
    dim, last_stride = 512 if projected else None, stride // 16
    visual = VisualEncoder(ResNet18(3, layer, last_stride), dim, image_dropout)
    audio = AudioEncoder(ResNet18(1, layer, last_stride), dim)
    # The image network keeps its own, which ImageNet weights are to replace.
    initialise(visual.projection)
    initialise(audio)
    return visual, audio
