import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from avscenes.media.images import SHORT_SIDE, augmented_frame, load_frame, load_mask, plain_frame


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA", "P", "1", "I;16"])
def test_any_colour_mode_becomes_rgb(tmp_path, mode):
    suffix = "jpg" if mode in ("RGB", "L", "CMYK") else "png"
    path = tmp_path / f"image.{suffix}"
    Image.new(mode, (40, 30)).save(path)
    image = load_frame(path)
    assert image.mode == "RGB"
    assert image.size == (40, 30)


def test_colours_survive_every_mode(tmp_path):
    colour = Image.new("RGB", (16, 16), (200, 40, 90))
    for mode, suffix in [("RGB", "jpg"), ("CMYK", "jpg"), ("P", "png"), ("RGBA", "png")]:
        path = tmp_path / f"{mode}.{suffix}"
        stored = colour.quantize(4) if mode == "P" else colour.convert(mode)
        stored.save(path, **({"quality": 95} if suffix == "jpg" else {}))
        pixel = load_frame(path).getpixel((8, 8))
        assert pixel == pytest.approx((200, 40, 90), abs=6), mode
    Image.fromarray(np.full((4, 4), 0x80FF, np.uint16)).save(tmp_path / "deep.png")
    assert load_frame(tmp_path / "deep.png").getpixel((0, 0)) == (128, 128, 128)
    Image.new("L", (4, 4), 77).save(tmp_path / "grey.jpg", quality=100)
    assert load_frame(tmp_path / "grey.jpg").getpixel((0, 0)) == (77, 77, 77)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_what_is_transparent_becomes_white(tmp_path, mode):
    image = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (2, 0, 4, 4))
    path = tmp_path / "image.png"
    if mode == "P":
        palette = Image.new("P", (4, 4), 0)
        palette.putpalette([10, 20, 30, 0, 0, 0])
        palette.paste(1, (2, 0, 4, 4))
        palette.save(path, transparency=0)
    elif mode == "RGB":
        key = Image.new("RGB", (4, 4), (9, 9, 9))
        key.paste((0, 0, 0), (2, 0, 4, 4))
        key.save(path, transparency=(9, 9, 9))
    else:
        image.convert(mode).save(path)
    result = load_frame(path)
    assert result.mode == "RGB"
    assert result.getpixel((0, 0)) == (255, 255, 255)
    assert result.getpixel((3, 3)) == (0, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_exif_data_say(tmp_path, orientation):
    upright = Image.new("RGB", (48, 32), "white")
    upright.paste((255, 0, 0), (0, 0, 16, 16))  # the mark belongs at the top left
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    stored = upright if undo is None else upright.transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "image.jpg", exif=exif, quality=95)
    result = load_frame(tmp_path / "image.jpg")
    assert result.size == (48, 32)
    assert result.getpixel((6, 6)) == pytest.approx((255, 0, 0), abs=8)
    assert result.getpixel((40, 6)) == pytest.approx((255, 255, 255), abs=8)


def exif_of(*tags):
    """Return EXIF data in which a tag may be of a wrong type: (number, type, count, value)."""
    entries = b"".join(struct.pack("<HHI4s", *tag) for tag in tags)
    end = 8 + 2 + len(entries) + 4
    return (
        b"Exif\0\0II*\0\x08\0\0\0"
        + struct.pack("<H", len(tags))
        + entries
        + struct.pack("<I3s", 0, b"72\0")
        + bytes(end % 2)
    )


TURNED = (0x0112, 3, 1, b"\x06\0\0\0")
BROKEN = {
    "text": (0x011A, 2, 3, b"72\0\0"),
    "far-away": (0x011B, 5, 1, b"\xff\xff\xff\x7f"),
    "many": (0x0128, 3, 2**31, b"\2\0\0\0"),
    "unknown-type": (0x0128, 77, 1, b"\2\0\0\0"),
    "date": (0x0132, 4, 1, b"\2\0\0\0"),
}


# Pillow says what it finds in the other tags.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize("broken", BROKEN)
def test_an_image_is_turned_whatever_its_other_tags_say(tmp_path, kind, broken):
    upright = Image.new("RGB", (48, 32), "white")
    upright.paste((255, 0, 0), (0, 0, 16, 16))
    path = tmp_path / f"image.{kind}"
    tags = sorted([TURNED, BROKEN[broken]])
    upright.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif_of(*tags), quality=95)
    result = load_frame(path)
    assert result.size == (48, 32)
    assert result.getpixel((6, 6)) == pytest.approx((255, 0, 0), abs=8)


@pytest.mark.parametrize(
    ("mode", "low", "high", "expected"),
    [
        ("I", 0, 255, (0, 255)),
        ("I", 3, 77, (3, 77)),
        ("F", 0.0, 1.0, (0, 255)),
        ("F", 0.25, 0.5, (64, 128)),
        ("F", 0.0, 200.0, (0, 200)),
    ],
)
def test_grey_of_32_bits_is_scaled_by_a_known_range(tmp_path, mode, low, high, expected):
    half(low, high, mode).save(tmp_path / "image.tif")
    image = load_frame(tmp_path / "image.tif")
    assert image.getpixel((7, 0)) == pytest.approx((expected[0],) * 3, abs=1)
    assert image.getpixel((0, 0)) == pytest.approx((expected[1],) * 3, abs=1)


@pytest.mark.parametrize(
    ("mode", "low", "high"),
    [
        *(("I", 0, 256), ("I", -1, 9), ("I", 0, 2**31 - 1)),
        *(("F", 0.0, 65_535.0), ("F", -1.0, 1.0), ("F", 0.0, np.nan), ("F", 0.0, np.inf)),
    ],
)
def test_grey_of_32_bits_of_no_known_range_is_refused(tmp_path, mode, low, high):
    half(low, high, mode).save(tmp_path / "image.tif")
    with pytest.raises(ValueError, match=r"^grey of 32 bits from \S+ to \S+; expected 0 to "):
        load_frame(tmp_path / "image.tif")


@pytest.mark.parametrize(("suffix", "least"), [("jpg", None), ("png", None), ("jpg", 246)])
def test_a_truncated_image_is_refused(tmp_path, suffix, least):
    path = tmp_path / f"image.{suffix}"
    photograph((800, 600)).save(path)
    path.write_bytes(path.read_bytes()[:-2_000])
    with pytest.raises(OSError, match="truncated"):
        load_frame(path, least)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_masks_of_any_mode_are_zero_and_one(tmp_path, mode):
    pixels = np.zeros((10, 20), np.uint8)
    pixels[2:5, 4:10] = 255
    if mode == "P":
        image = Image.fromarray(pixels // 85)  # object number 3
        image = image.copy()
        image.putpalette([0, 0, 0, 9, 9, 9, 8, 8, 8, 0, 0, 0])
    else:
        image = Image.fromarray(pixels).convert(mode)
    image.save(tmp_path / "mask.png")
    mask = load_mask(tmp_path / "mask.png", size=40)
    assert mask.shape == (40, 40)
    assert mask.unique().tolist() == [0, 1]
    assert mask.sum().item() == 12 * 12
    assert mask[8:20, 8:20].all()


def half(background, thing, mode, **options):
    """An image of which the left half is a thing."""
    image = Image.new(mode, (8, 4), background)
    image.paste(thing, (0, 0, 4, 4))
    image.info.update(options)
    return image


def palette_half(background, thing, **options):
    image = half(background, thing, "P", **options)
    image.putpalette([200, 0, 0, 0, 0, 0, 0, 0, 0, 9, 9, 9])
    return image


def deep_half(background, thing):
    pixels = np.full((4, 8), background, np.uint16)
    pixels[:, :4] = thing
    return Image.fromarray(pixels)


HALVES = {
    **{f"rgb-{n}.png": half((0, 0, 0), tuple(np.eye(3, dtype=int)[n]), "RGB") for n in range(3)},
    "rgb.bmp": half((0, 0, 0), (0, 0, 1), "RGB"),
    "grey.png": half(0, 1, "L"),
    "two.png": half(0, 1, "1"),
    "two.tif": half(0, 1, "1"),
    **{f"deep-{n}.png": deep_half(0, n) for n in (1, 256, 65_535)},
    **{f"deep-{n}.tif": deep_half(0, n) for n in (1, 256, 65_535)},
    **{f"wide-{n}.tif": half(0, n, "I") for n in (1, 65_536, -1)},
    **{f"float-{n}.tif": half(0.0, n, "F") for n in (1e-3, 0.5, 1.0, 300.0)},
    "palette.png": palette_half(0, 1),
    "palette-0.png": palette_half(0, 1, transparency=0),
    "palette-last.png": palette_half(3, 0, transparency=3),
    "palette-soft.png": palette_half(2, 0, transparency=b"\xff\xff\0\xff"),
    "palette-opaque.png": palette_half(0, 1, transparency=b"\xff\xff"),
    "palette-unused.png": palette_half(0, 1, transparency=3),
    "rgba.png": half((0, 0, 0, 255), (1, 0, 0, 255), "RGBA"),
    "rgba-white.png": half((255, 255, 255, 0), (0, 0, 0, 255), "RGBA"),
    "rgba-black.png": half((0, 0, 0, 0), (0, 0, 0, 1), "RGBA"),
    "rgba-thin.png": half((0, 0, 0, 128), (1, 0, 0, 128), "RGBA"),
    "rgba-unseen.png": half((0, 0, 0, 0), (1, 0, 0, 0), "RGBA"),
    "rgba-shades.png": half((0, 0, 0, 100), (1, 0, 0, 200), "RGBA"),
    "la.png": half((255, 0), (0, 255), "LA"),
    "la-opaque.png": half((0, 255), (1, 255), "LA"),
    "rgb-key.png": half((255, 0, 255), (0, 0, 0), "RGB", transparency=(255, 0, 255)),
    "grey-key.png": half(7, 0, "L", transparency=7),
    "cmyk.tif": half((0, 0, 0, 255), (0, 255, 255, 0), "CMYK"),
    "objects.gif": palette_half(0, 1),
}


@pytest.mark.parametrize("name", HALVES)
def test_any_colour_but_the_first_is_an_object(tmp_path, name):
    HALVES[name].save(tmp_path / name, **HALVES[name].info)
    expected = torch.zeros(8, 8)
    expected[:, :4] = 1
    assert torch.equal(load_mask(tmp_path / name, size=8), expected)


@pytest.mark.parametrize("colour", [(255, 255, 255, 0), (0, 0, 0, 0), (0, 0, 0, 255)])
def test_a_mask_that_is_transparent_or_black_all_over_is_empty(tmp_path, colour):
    Image.new("RGBA", (8, 8), colour).save(tmp_path / "mask.png")
    assert load_mask(tmp_path / "mask.png", size=8).sum() == 0


def test_a_deep_mask_with_a_transparent_value(tmp_path):
    deep_half(500, 0).save(tmp_path / "mask.png", transparency=500)
    assert load_mask(tmp_path / "mask.png", size=8).sum() == 32


def deep_png(values):
    """A PNG with 16 bits in each of several bands."""
    height, width, bands = values.shape

    def chunk(kind, data):
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    kind = {2: 4, 3: 2, 4: 6}[bands]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0)),
            chunk(b"IDAT", zlib.compress(rows)),
            chunk(b"IEND", b""),
        )
    )


@pytest.mark.parametrize("value", [1, 255, 256, 65_535])
@pytest.mark.parametrize("bands", [2, 3, 4])
def test_colours_of_16_bits_lose_none(tmp_path, bands, value):
    values = np.zeros((5, 8, bands), np.uint16)
    values[:, :4, 0] = value
    if bands != 3:
        values[..., -1] = 65_535
    (tmp_path / "mask.png").write_bytes(deep_png(values))
    assert load_mask(tmp_path / "mask.png", size=8).sum(dim=0).tolist() == [8] * 4 + [0] * 4
    if bands != 3:
        # What is transparent is no object.
        values[..., -1] = 0
        values[:, 4:, -1] = value
        (tmp_path / "mask.png").write_bytes(deep_png(values))
        assert load_mask(tmp_path / "mask.png", size=8).sum(dim=0).tolist() == [0] * 4 + [8] * 4


def test_a_mask_with_values_that_are_no_numbers_is_refused(tmp_path):
    half(0.0, float("nan"), "F").save(tmp_path / "mask.tif")
    with pytest.raises(ValueError, match=r"^a mask with values that are not numbers$"):
        load_mask(tmp_path / "mask.tif")


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (10, 1_000), (224, 224)])
def test_frames_of_any_size_are_normalised(size):
    image = Image.new("RGB", size, (124, 116, 104))
    for result in (plain_frame(image), augmented_frame(image, torch.Generator())):
        assert result.shape == (3, 224, 224)
        assert result.abs().max() < 0.02


def photograph(size, seed=0):
    """Return an image with coarse and fine structure, as photographs have."""
    generator = np.random.default_rng(seed)
    pixels = np.zeros((size[1], size[0], 3))
    for cells, strength in ((6, 0.5), (40, 0.3), (160, 0.2)):
        noise = generator.integers(256, size=(cells, cells, 3), dtype=np.uint8)
        layer = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        pixels += strength * np.asarray(layer, dtype=float)
    return Image.fromarray(pixels.astype(np.uint8))


def levels(pixels):
    """Return normalised pixels as levels of 8 bits."""
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    return (pixels * deviation + mean) * 255


@pytest.mark.parametrize("size", [(1280, 720), (300, 200), (231, 499), (246, 246), (10, 1_000)])
def test_the_crop_is_that_of_the_whole_resized_image(size):
    image = photograph(size)
    scale = SHORT_SIDE / min(size)
    width, height = (max(SHORT_SIDE, int(side * scale)) for side in size)
    whole = image.resize((width, height), Image.Resampling.BICUBIC)
    mirrored = 0
    for seed in range(12):
        generator = torch.Generator().manual_seed(seed)
        result = levels(augmented_frame(image, generator))
        generator.manual_seed(seed)
        x = int(torch.randint(width - 224 + 1, (), generator=generator))
        y = int(torch.randint(height - 224 + 1, (), generator=generator))
        expected = torch.from_numpy(np.array(whole.crop((x, y, x + 224, y + 224)))).movedim(-1, 0)
        if torch.rand((), generator=generator) < 0.5:
            expected, mirrored = expected.flip(-1), mirrored + 1
        # Pillow rounds after each direction and takes the cheaper one first.
        difference = (result - expected).abs()
        assert difference.max() < 2.01
        assert difference.mean() < 0.25
    assert 0 < mirrored < 12


@pytest.mark.parametrize(
    ("size", "least", "expected"),
    [
        ((1280, 720), None, (1280, 720)),
        ((1280, 720), 246, (640, 360)),
        ((491, 900), 246, (491, 900)),
        ((492, 900), 246, (246, 450)),
        ((2100, 2000), 246, (263, 250)),
    ],
)
def test_jpegs_that_are_much_too_large_are_decoded_smaller(tmp_path, size, least, expected):
    photograph(size).save(tmp_path / "image.jpg", quality=95)
    assert load_frame(tmp_path / "image.jpg", least).size == expected
    photograph(size).save(tmp_path / "image.png")
    assert load_frame(tmp_path / "image.png", least).size == size


def test_a_jpeg_decoded_smaller_looks_the_same(tmp_path):
    photograph((1280, 720)).save(tmp_path / "image.jpg", quality=95)
    whole, smaller = load_frame(tmp_path / "image.jpg"), load_frame(tmp_path / "image.jpg", 246)
    for seed in range(4):
        pixels = [
            levels(augmented_frame(image, torch.Generator().manual_seed(seed)))
            for image in (whole, smaller)
        ]
        difference = (pixels[0] - pixels[1]).abs()
        assert 0 < difference.mean() < 1
        assert difference.max() < 10


def test_a_jpeg_decoded_smaller_is_turned_and_keeps_its_colours(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for mode in ("RGB", "L", "CMYK"):
        image = Image.new("RGB", (800, 600), (200, 40, 90)).convert(mode)
        image.save(tmp_path / "image.jpg", exif=exif, quality=95)
        result = load_frame(tmp_path / "image.jpg", 246)
        assert result.size == (300, 400)
        expected = load_frame(tmp_path / "image.jpg").getpixel((10, 10))
        assert result.getpixel((10, 10)) == pytest.approx(expected, abs=2), mode
