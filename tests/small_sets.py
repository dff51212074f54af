"""Writes a small folder of every test set in its published layout, with some files broken."""

from __future__ import annotations

import json

import numpy as np
import soundfile
from PIL import Image, ImageDraw

from avscenes.sets.testsets import read_tests

SIZE = 96, 72
BBOX = "<person><bbox><id>{}</id><n>{}</n><n>{}</n><n>{}</n><n>{}</n></bbox></person>"


def write_image(path, number, place, size=30):
    """Write a disc before stripes; the format is that of the path."""
    rng = np.random.default_rng(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", SIZE, tuple(rng.integers(40, 200, 3)))
    draw = ImageDraw.Draw(image)
    for x in range(0, SIZE[0], 12):
        draw.line((x, 0, x + 20, SIZE[1]), tuple(rng.integers(0, 255, 3)), 3)
    draw.ellipse((*place, place[0] + size, place[1] + size), tuple(rng.integers(0, 255, 3)))
    image.save(path)


def write_mask(path, boxes, colours=("white",)):
    """Write ellipses as a mask of 224 x 224."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.new("L", (224, 224))
    for box, colour in zip(boxes, colours * len(boxes), strict=False):
        ImageDraw.Draw(mask).ellipse(box, colour)
    mask.save(path)


def write_sound(path, number):
    """Write a chord of half a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(8_000) / 16_000
    tones = [np.sin(2 * np.pi * (110 + 97 * number) * k * time) / k for k in (1, 2, 3)]
    soundfile.write(path, 0.3 * np.sum(tones, axis=0), 16_000)


def truncate(path, share=0.5):
    """Keep this share of a file, its beginning."""
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    return path


def write_vggsound(root):
    """Six clips of two classes; of further ones a frame is cut short and one has pixel boxes."""
    names = [f"clip{n}_____{n}_00003{n}" for n in range(8)]
    entries = []
    for number, name in enumerate(names):
        write_image(root / "test" / "frames" / f"{name}.jpg", number, (5 * number, 8), 60)
        write_sound(root / "test" / "audio" / f"{name}.wav", number)
        left = 5 * number / SIZE[0]
        box = [left, 8 / SIZE[1], left + 60 / SIZE[0], 68 / SIZE[1]]
        entries.append({"file": name, "class": ("dog", "cat")[number % 2], "bbox": [box]})
    truncate(root / "test" / "frames" / f"{names[6]}.jpg")
    entries[7]["bbox"] = [[10, 20, 30, 40]]
    (root / "vggss.json").write_text(json.dumps(entries))
    (root / "test.csv").write_text("".join(f"{name}\n" for name in names))
    options = {"test-root": "test", "test-list": "test.csv", "annotations": "vggss.json"}
    return options, names[:6], {names[7]: "boxes must be shares", names[6]: "image file is trunc"}


def write_clips(root):
    """Five clips without boxes in one folder, two of them broken, and an image without a sound."""
    names = [f"own{n}" for n in range(7)]
    for number, name in enumerate(names):
        write_image(root / "own" / f"{name}.png", 30 + number, (8 * number, 25))
        write_sound(root / "own" / f"{name}.wav", number)
    write_image(root / "own" / "alone.jpg", 37, (8, 25))
    truncate(root / "own" / f"{names[5]}.png")
    truncate(root / "own" / f"{names[6]}.wav")
    left_out = {names[5]: "image file is truncated", names[6]: "the file is cut short"}
    return {"test-root": "own"}, names[:5], left_out


def write_flickr(root):
    """Five clips in one folder with boxes of two people; a broken XML and a missing sound."""
    names = [f"1000{n}" for n in range(7)]
    (root / "boxes").mkdir(parents=True)
    for number, name in enumerate(names):
        write_image(root / "test" / f"{name}.jpg", 20 + number, (8 * number, 25))
        write_sound(root / "test" / f"{name}.wav", number)
        first = BBOX.format(1, 10 * number, 30, 10 * number + 150, 230)
        second = BBOX.format(2, 10, 60, 170 + 10 * number, 250)
        (root / "boxes" / f"{name}.xml").write_text(f"<annotation>{first}{second}</annotation>")
    truncate(root / "boxes" / f"{names[5]}.xml")
    (root / "test" / f"{names[6]}.wav").unlink()
    (root / "flickr_test.csv").write_text("".join(f"{name},{n}\n" for n, name in enumerate(names)))
    options = {"test-root": "test", "test-list": "flickr_test.csv", "annotations": "boxes"}
    return options, names[:5], {names[5]: f"{names[5]}.xml: ", names[6]: "no sound "}


def add_silent(root, options, names, left_out):
    """Add three silent pairs, of which one has no sound."""
    pairs = [(names[0], names[1]), (names[2], names[3]), (names[1], "nowhere")]
    rows = "".join(f"{video},{audio},non-sounding\n" for video, audio in pairs)
    rows += f"{names[0]},{names[0]},sounding\n"
    (root / "plus_silent.csv").write_text("video,audio,label\n" + rows)
    options = {**options, "silent-list": "plus_silent.csv"}
    names = [*names, *("+".join(pair) for pair in pairs[:2])]
    return options, names, {**left_out, "+".join(pairs[2]): "no sound "}


def write_s4(root):
    """Two videos with a frame cut short and a mask missing."""
    (root / "meta.csv").write_text(
        "name,start,category,split\nbark,0,dog,test\nmeow,3,cat,test\nother,3,cat,train\n"
    )
    for count, (video, category) in enumerate((("bark", "dog"), ("meow", "cat"))):
        write_sound(root / "s4" / "audio_wav" / "test" / category / f"{video}.wav", count)
        for n in range(1, 6):
            place = f"test/{category}/{video}/{video}_{n}.png"
            write_image(root / "s4" / "visual_frames" / place, 10 * count + n, (12 * n, 20))
            left = 30 * n
            write_mask(root / "s4" / "gt_masks" / place, [(left, 60, left + 70, 160)])
    truncate(root / "s4/visual_frames/test/dog/bark/bark_5.png")
    (root / "s4/gt_masks/test/cat/meow/meow_2.png").unlink()
    names = [f"{video}_{n}" for video in ("bark", "meow") for n in range(1, 6)]
    left_out = {"bark_5": "image file is truncated", "meow_2": "no mask "}
    kept = [name for name in names if name not in left_out]
    return {"test-root": "s4", "test-list": "meta.csv"}, kept, left_out


def write_ms3(root):
    """Two videos with one or two sources, an empty mask, and one cut short."""
    (root / "meta.csv").write_text("video_id,start,end,split\none,0,5,test\ntwo,0,5,test\n")
    for count, video in enumerate(("one", "two")):
        write_sound(root / "ms3" / "audio_wav" / "test" / f"{video}.wav", count)
        for n in range(1, 6):
            frame = root / "ms3" / "visual_frames" / video / f"{video}.mp4_{n}.png"
            write_image(frame, 40 + 10 * count + n, (12 * n, 20))
            boxes = [(20, 20, 90, 20 + 20 * n), (120, 60, 200, 120 + 20 * n)][: 1 + count]
            mask = root / "ms3" / "gt_masks" / "test" / video / f"{video}_{n}.png"
            write_mask(mask, [] if (video, n) == ("one", 1) else boxes, (1, 2))
    truncate(root / "ms3/gt_masks/test/two/two_3.png")
    names = [f"{video}_{n}" for video in ("one", "two") for n in range(1, 6)]
    kept = [name for name in names if name != "two_3"]
    return {"test-root": "ms3", "test-list": "meta.csv"}, kept, {"two_3": ""}


def write_is3(root):
    """Four scenes of two sounds; one loses an image, and a fifth has one sound only."""
    entries, names = [], []
    for scene in range(5):
        for number, thing in enumerate(("dog", "horn")):
            if (scene, number) == (4, 1):
                continue
            name = f"dog_horn_{scene}_{thing}"
            left = 5 + 70 * number + 3 * scene
            box = (left, 10, left + 130, 205)
            write_image(root / "is3" / "images" / f"{name}.jpg", 60 + scene, (40 * number, 25))
            write_sound(root / "is3" / "audio_wav" / f"{name}.wav", number)
            write_mask(root / "is3" / "gt_segmentation" / f"{name}.png", [box])
            entry = {"image": f"/far/{name}.jpg", "audio": f"/far/{name}.wav", "gt_box": list(box)}
            entries.append(entry)
            names.append(name)
    truncate(root / "is3" / "images" / "dog_horn_3_dog.jpg")
    (root / "is3.json").write_text(json.dumps(entries))
    names.remove("dog_horn_3_dog")
    left_out = {"dog_horn_3_dog": "image file is truncated"}
    return {"test-root": "is3", "annotations": "is3.json"}, names, left_out


def write_set(dataset, root):
    """Write a set; return its options, the samples that can be used, and the reasons of others."""
    root.mkdir(exist_ok=True)
    name = dataset.removeprefix("extended-")
    write = {
        "vggsound": write_vggsound,
        "flickr": write_flickr,
        "clips": write_clips,
        "avsbench-s4": write_s4,
        "avsbench-ms3": write_ms3,
        "is3": write_is3,
        "is3-masks": write_is3,
    }[name]
    written = write(root)
    if name != dataset:
        written = add_silent(root, *written)
    options, names, left_out = written
    return {f"--{key}": root / value for key, value in options.items()}, names, left_out


def named_files(options):
    """Return the files of options under the names that `read_tests` gives them."""
    return {key[2:].replace("-", "_"): path for key, path in options.items()}


def read_set(dataset, root, size=None):
    """Write a set and return it as it is read, with the same of its samples as `write_set`."""
    options, names, left_out = write_set(dataset, root)
    return read_tests(dataset, size, named_files(options)), names, left_out
