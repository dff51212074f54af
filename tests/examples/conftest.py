import json

import numpy as np
import pytest
import soundfile
import torch
from model_files import encoder_state
from PIL import Image

from avscenes.models.encoders import ResNet18, build_encoders


@pytest.fixture(scope="session")
def object_weights(tmp_path_factory):
    """A file with the weights of an untrained image network."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(ResNet18().state_dict(), path)
    return path


@pytest.fixture(scope="session")
def encoders():
    """Encoders that were never trained, of images and of sounds."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        visual, audio = build_encoders("small")
    return visual.eval(), audio.eval()


@pytest.fixture
def checkpoint(tmp_path, encoders):
    """A run on clips that was never trained."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    content = {"state_dict": encoder_state(*encoders), "epoch": 2}
    torch.save(content, folder / "checkpoints" / "best.ckpt")
    settings = {"dataset": "vggsound", "encoder": "small", "image_dropout": 0.0, "norm": "batch"}
    (folder / "config.json").write_text(json.dumps({"settings": settings}))
    return folder / "checkpoints" / "best.ckpt"


@pytest.fixture
def make_clip():
    """Writes a frame and a sound of noise in the layout of VGG-Sound."""

    def make(root, clip, *, size=(300, 240), suffix="jpg", rate=16_000, seconds=3.5):
        rng = np.random.default_rng(sum(map(ord, clip)))
        for folder in ("frames", "audio"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(256, size=(size[1], size[0], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "frames" / f"{clip}.{suffix}")
        wave = rng.uniform(-0.5, 0.5, int(seconds * rate))
        soundfile.write(root / "audio" / f"{clip}.wav", wave, rate)

    return make


@pytest.fixture
def make_vggsound(tmp_path, make_clip):
    """Writes a VGG-Sound of noise, or its test set alone, and returns it as options."""

    def make(*, train=0, test, **clip):
        for split, count in (("train", train), ("test", test)):
            for number in range(count):
                make_clip(tmp_path / split, f"{split}{number}", **clip)
        (tmp_path / "test.csv").write_text("".join(f"test{number}\n" for number in range(test)))
        entries = [
            {"file": f"test{n}", "class": f"class {n % 3}", "bbox": [[0.1, 0.1, 0.8, 0.7]]}
            for n in range(test)
        ]
        (tmp_path / "vggss.json").write_text(json.dumps(entries))
        options = [
            *("--test-root", str(tmp_path / "test"), "--test-list", str(tmp_path / "test.csv")),
            *("--annotations", str(tmp_path / "vggss.json")),
        ]
        if train:
            names = "\n".join(f"train{number}" for number in range(train))
            (tmp_path / "train.txt").write_text(names)
            options += ["--data-root", str(tmp_path / "train")]
            options += ["--train-list", str(tmp_path / "train.txt")]
        return options

    return make
