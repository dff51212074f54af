import numpy as np
import pytest
import torch
from PIL import Image
from small_sets import write_sound

from avscenes.files.errors import UserError
from avscenes.sets.annotated import annotated_set, labelled_set
from avscenes.sets.avsbench import avsbench_samples, read_split
from avscenes.sets.readable import readable_batches

S4 = "name,start,category,split\nfirst,0,dog,test\nsecond,3,cat,train\n"
MS3 = "video_id,start,end,split\nthird,0,5,test\n"


def write_png(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def square(number):
    pixels = np.zeros((224, 224), np.uint8)
    pixels[: 10 * number, : 10 * number] = 1
    return pixels


def test_s4_has_five_frames_with_their_masks(tmp_path):
    (tmp_path / "s4.csv").write_text(S4)
    for number in range(1, 6):
        frame = Image.new("RGB", (224, 224), (40 * number, 0, 0))
        write_png(tmp_path / f"visual_frames/test/dog/first/first_{number}.png", frame)
        mask = Image.fromarray(square(number) * 255).convert("1")
        write_png(tmp_path / f"gt_masks/test/dog/first/first_{number}.png", mask)
    write_sound(tmp_path / "audio_wav/test/dog/first.wav", 1)
    samples = avsbench_samples(tmp_path, read_split("--test-list", tmp_path / "s4.csv", "test"))
    data, skipped = annotated_set(samples, workers=1)
    assert skipped == []
    assert data.pairs.clips == [f"first_{number}" for number in range(1, 6)]
    assert data.class_names == ["dog"]
    sizes = [data.truth(row).sum().item() for row in range(5)]
    assert sizes == [100, 400, 900, 1_600, 2_500]
    red = [data.pairs[row][0][0].mean().item() for row in range(5)]
    assert red == sorted(red)
    assert torch.equal(data.pairs[0][1], data.pairs[4][1])
    assert read_split("--train-list", tmp_path / "s4.csv", "train")[0]["video"] == "second"


def test_ms3_masks_hold_numbers_of_objects(tmp_path):
    (tmp_path / "ms3.csv").write_text(MS3)
    for number in range(1, 6):
        frame = Image.new("RGB", (224, 224))
        write_png(tmp_path / f"visual_frames/third/third.mp4_{number}.png", frame)
        pixels = square(number)
        pixels[200:, 200:] = 2
        mask = Image.fromarray(pixels if number > 1 else np.zeros_like(pixels), "L").convert("P")
        write_png(tmp_path / f"gt_masks/test/third/third_{number}.png", mask)
    write_sound(tmp_path / "audio_wav/test/third.wav", 1)
    (tmp_path / "gt_masks/test/third/third_4.png").unlink()
    broken = tmp_path / "gt_masks/test/third/third_5.png"
    broken.write_bytes(broken.read_bytes()[:60])
    videos = read_split("--test-list", tmp_path / "ms3.csv", "test")
    samples = avsbench_samples(tmp_path, videos, several=True)
    (batch,) = readable_batches(labelled_set(samples), range(5), batch_size=5, workers=0)
    assert batch.rows == [0, 1, 2]
    assert batch.truth.flatten(1).sum(dim=1).tolist() == [0, 400 + 576, 900 + 576]
    assert batch.images.shape == (3, 3, 224, 224)
    assert batch.spectrograms.shape == (3, 1, 257, 200)
    assert [row for row, _ in batch.broken] == [3, 4]
    assert batch.broken[0][1] == f"no mask {tmp_path}/gt_masks/test/third/third_4.png"
    assert batch.broken[1][1]


def test_a_video_counts_once_and_its_id_may_have_an_ending(tmp_path):
    (tmp_path / "s4.csv").write_text(
        "name, category, split\nfirst.mp4,dog,test\nfirst.mp4,dog, test\nfirst.mp4,cat,train\n"
    )
    write_sound(tmp_path / "audio_wav/test/dog/first.wav", 1)
    write_sound(tmp_path / "audio_wav/test/first.wav", 1)
    videos = read_split("--test-list", tmp_path / "s4.csv", "test")
    for several in (False, True):
        samples = avsbench_samples(tmp_path, videos, several=several)
        assert [sample.clip.name for sample in samples] == [f"first_{n}" for n in range(1, 6)]
        assert samples[0].clip.sound.is_file()
        assert samples[0].mask.name == "first_1.png"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must have a header with a column 'split'"),
        ("name,category\na,b\n", "must have a header with a column 'split'"),
        ("name,category,split\na,b,val\n", "has no video of the split 'test'"),
        (
            "name,category,split\na,b,test\na,c,test\n",
            "line 3 .* a again, of the class 'c' and not",
        ),
        ("name,category,split\na,b,test\nb,dog\n", "line 3 .* must have 3 columns, .* 'b,dog'"),
        ("name,category,split\nb,dog, far,test\n", "line 2 .* must have 3 columns, as the header"),
    ],
)
def test_another_form_is_an_error(tmp_path, content, message):
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(UserError, match=f"^--test-list: .*{message}"):
        read_split("--test-list", tmp_path / "list.csv", "test")
