"""What files of weights hold: names and shapes of networks, and states of encoders."""

from __future__ import annotations


def resnet18_shapes(channels):
    """Names and shapes of a ResNet-18 without classifier, written from torchvision's layout."""

    def norm(name, width):
        entries = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (width,))
        entries["num_batches_tracked"] = ()
        return {f"{name}.{key}": shape for key, shape in entries.items()}

    shapes = {"conv1.weight": (64, channels, 7, 7), **norm("bn1", 64)}
    before = 64
    for layer, width in enumerate((64, 128, 256, 512), start=1):
        for block in range(2):
            name = f"layer{layer}.{block}"
            shapes[f"{name}.conv1.weight"] = (width, before, 3, 3)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            shapes |= norm(f"{name}.bn1", width) | norm(f"{name}.bn2", width)
            if before != width:
                shapes[f"{name}.downsample.0.weight"] = (width, before, 1, 1)
                shapes |= norm(f"{name}.downsample.1", width)
            before = width
    return shapes


def encoder_state(visual, audio):
    """Return the state of both encoders under the names of a checkpoint of ours."""
    return {
        f"{kind}.{name}": value
        for kind, encoder in (("visual", visual), ("audio", audio))
        for name, value in encoder.state_dict().items()
    }
