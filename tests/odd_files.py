"""Valid files of every kind that the data sets are made of, and a thousand ways to break them."""

import io
import json

import numpy as np
import soundfile
from PIL import Image


def image_bytes(kind, mode, **options):
    pixels = np.random.default_rng(3).integers(256, size=(24, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(pixels[..., 0].astype(np.uint16) * 200)
    else:
        image = image.quantize(16) if mode == "P" else image.convert(mode)
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def sound_bytes(kind, subtype, rate, channels=1):
    wave = np.random.default_rng(4).uniform(-0.9, 0.9, (rate // 20, channels))
    content = io.BytesIO()
    soundfile.write(content, wave, rate, format=kind, subtype=subtype)
    return content.getvalue()


def exif():
    data = Image.Exif()
    data[0x0112] = 6
    data[0x010F] = "a camera"
    return data


XML = (
    b'<?xml version="1.0"?><annotation><object><bbox><id>1</id><xmin>10</xmin><ymin>20</ymin>'
    b"<xmax>100</xmax><ymax>200</ymax></bbox></object></annotation>"
)
JSON = json.dumps(
    [{"file": f"clip{i}_00000{i}", "class": "dog", "bbox": [[0.1, 0.2, 0.5, 0.9]]} for i in "123"]
).encode()
CSV = b"video,audio,label\n10000130166,10437048305,non-sounding\n10007936344,1007967,sounding\n"


def whole_files():
    """Return (ending, content) of whole files."""
    return [
        (".jpg", image_bytes("JPEG", "RGB")),
        (".jpg", image_bytes("JPEG", "RGB", progressive=True, exif=exif())),
        (".jpg", image_bytes("JPEG", "L")),
        (".jpg", image_bytes("JPEG", "CMYK")),
        (".png", image_bytes("PNG", "RGB")),
        (".png", image_bytes("PNG", "P", transparency=0)),
        (".png", image_bytes("PNG", "LA")),
        (".png", image_bytes("PNG", "RGBA", exif=exif())),
        (".png", image_bytes("PNG", "I;16")),
        (".png", image_bytes("PNG", "1")),
        (".wav", sound_bytes("WAV", "PCM_16", 16_000)),
        (".wav", sound_bytes("WAV", "FLOAT", 22_050)),
        (".wav", sound_bytes("WAVEX", "PCM_24", 44_100, 2)),
        (".wav", sound_bytes("WAV", "IMA_ADPCM", 8_000)),
        (".wav", sound_bytes("RF64", "DOUBLE", 48_000)),
        (".flac", sound_bytes("FLAC", "PCM_16", 16_000)),
        (".flac", sound_bytes("FLAC", "PCM_24", 44_100, 2)),
        (".xml", XML),
        (".json", JSON),
        (".csv", CSV),
    ]


def broken(content, rng):
    """Return a changed copy of some bytes."""
    content = bytearray(content)
    size = len(content)
    start, length = int(rng.integers(size)), int(rng.integers(1, max(2, size // 4)))
    how = int(rng.integers(8))
    if how == 0:
        return bytes(content[:start])
    if how == 1:
        return bytes(content[start:])
    if how == 2:
        del content[start : start + length]
    elif how == 3:
        content[start:start] = content[:length]
    elif how == 4:
        content[start : start + length] = bytes(len(content[start : start + length]))
    elif how == 5:
        # Headers are short; what is written in them decides most.
        for place in rng.integers(min(size, 64), size=3):
            content[place] = int(rng.integers(256))
    elif how == 6:
        for place in rng.integers(size, size=1 + size // 50):
            content[place] ^= 1 << int(rng.integers(8))
    else:
        odd = (b"\xff\xff\xff\xff", b"\0\0\0\0", b"1e99", b"[{[{")
        content[start : start + 4] = odd[int(rng.integers(4))]
    return bytes(content)
