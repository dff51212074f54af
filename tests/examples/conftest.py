import numpy as np
import pytest
import soundfile
from PIL import Image


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
