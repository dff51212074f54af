import numpy as np
import pytest
import torch

from avscenes.files.errors import UserError
from avscenes.sets.neighbour_lists import read_neighbours, write_neighbours

IDS = ["a", "b", "c", "d"]
IMAGE = torch.tensor([[1, 2], [0, 2], [3, 1], [2, 0]])
AUDIO = torch.tensor([[3, 1], [2, 3], [1, 0], [0, 1]])


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "folder" / "near.npz"
    write_neighbours(path, IDS, IMAGE, AUDIO)
    lists = read_neighbours(path)
    assert lists.ids == IDS
    assert torch.equal(lists.image_neighbours, IMAGE)
    assert torch.equal(lists.audio_neighbours, AUDIO)
    with np.load(path) as archive:
        assert sorted(archive.files) == ["audio_neighbours", "ids", "image_neighbours"]
        assert archive["ids"].tolist() == IDS
        assert archive["image_neighbours"].dtype == archive["audio_neighbours"].dtype == np.int64


def test_the_same_lists_are_the_same_bytes(tmp_path):
    paths = [tmp_path / "one.npz", tmp_path / "two.npz"]
    for path in paths:
        write_neighbours(path, IDS, IMAGE, AUDIO)
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_lists_come_in_the_order_of_the_training_set(tmp_path):
    write_neighbours(tmp_path / "near.npz", IDS, IMAGE, AUDIO)
    order = ["c", "a", "d", "b"]
    lists = read_neighbours(tmp_path / "near.npz").of(order)
    assert lists.ids == order
    for name, row, sounds in zip(order, lists.image_neighbours, lists.audio_neighbours):
        assert [order[place] for place in row] == [IDS[place] for place in IMAGE[IDS.index(name)]]
        assert [order[place] for place in sounds] == [
            IDS[place] for place in AUDIO[IDS.index(name)]
        ]


def test_ids_may_be_written_in_another_way(tmp_path):
    ids = ["zpWuikVorYg_000032", "gEvCUcZ6w88_000030"]
    near = torch.tensor([[1], [0]])
    write_neighbours(tmp_path / "near.npz", ids, near, near)
    others = ["gEvCUcZ6w88_30000_40000", "zpWuikVorYg_32000_42000"]
    lists = read_neighbours(tmp_path / "near.npz").of(others)
    assert lists.ids == others
    assert lists.image_neighbours.tolist() == [[1], [0]]


def test_a_sample_that_one_of_both_lacks_is_named(tmp_path):
    write_neighbours(tmp_path / "near.npz", IDS, IMAGE, AUDIO)
    lists = read_neighbours(tmp_path / "near.npz")
    with pytest.raises(UserError, match=r"^--near: has no neighbours of e, which is trained on$"):
        lists.of([*IDS, "e", "f"], "--near")
    with pytest.raises(UserError, match=r"^--neighbours: has c, which is not trained on$"):
        lists.of(["a", "b"])


def near(**changes):
    arrays = {
        "ids": np.array(IDS),
        "image_neighbours": IMAGE.numpy(),
        "audio_neighbours": AUDIO.numpy(),
    }
    return {name: array for name, array in {**arrays, **changes}.items() if array is not None}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (near(ids=None), "must hold ids, image_neighbours, audio_neighbours, got image_neighbours"),
        (near(more=np.zeros(1)), "must hold ids, image_neighbours, audio_neighbours, got "),
        (near(ids=np.arange(4)), "ids must be [n] strings, got int64 [4]"),
        (near(ids=np.array([["a"]])), "ids must be [n] strings, got <U1 [1, 1]"),
        (near(ids=np.array(["a"])), "ids must be two or more that are not empty, got ['a']"),
        (near(ids=np.array(["a", "", "c", "d"])), "ids must be two or more that are not empty"),
        (near(ids=np.array(["a", "b", "a.jpg", "d"])), "ids must differ, got a 2 times"),
        (
            near(image_neighbours=IMAGE.int().numpy()),
            "image_neighbours must be int64 [4, k] with k of at least 1, got int32 [4, 2]",
        ),
        (near(audio_neighbours=AUDIO[:3].numpy()), "audio_neighbours must be int64 [4, k] with"),
        (near(audio_neighbours=AUDIO[:, :0].numpy()), "audio_neighbours must be int64 [4, k] with"),
        (near(audio_neighbours=AUDIO[:, 0].numpy()), "audio_neighbours must be int64 [4, k] with"),
        (
            near(audio_neighbours=AUDIO[:, :1].numpy()),
            "image_neighbours and audio_neighbours must have equally many a sample, got 2 and 1",
        ),
        (
            near(image_neighbours=np.array([[1, 2], [0, 4], [3, 1], [2, 0]])),
            "image_neighbours: the row of b has a place outside 0 to 3",
        ),
        (
            near(image_neighbours=np.array([[1, 2], [0, 2], [-1, 1], [2, 0]])),
            "image_neighbours: the row of c has a place outside 0 to 3",
        ),
        (
            near(audio_neighbours=np.array([[3, 1], [2, 3], [1, 0], [0, 3]])),
            "audio_neighbours: the row of d has the sample itself",
        ),
        (
            near(audio_neighbours=np.array([[3, 3], [2, 3], [1, 0], [0, 1]])),
            "audio_neighbours: the row of a has a sample twice",
        ),
    ],
)
def test_a_file_that_is_no_list_of_neighbours_says_why(tmp_path, arrays, message):
    path = tmp_path / "near.npz"
    np.savez(path, **arrays)
    with pytest.raises(UserError) as error:
        read_neighbours(path)
    assert str(error.value).startswith(f"--neighbours: {path}: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, b"", b"ids", b"PK\x03\x04" + bytes(40), "array"])
def test_a_file_of_another_kind_cannot_be_read(tmp_path, content):
    path = tmp_path / "near.npz"
    if content == "array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^--near: cannot read {path}: .+$"):
        read_neighbours(path, "--near")


def test_wrong_lists_are_not_written(tmp_path):
    path = tmp_path / "near.npz"
    with pytest.raises(UserError, match="image_neighbours: the row of a has the sample itself"):
        write_neighbours(path, IDS, torch.tensor([[0, 1], *IMAGE[1:].tolist()]), AUDIO)
    assert not path.exists()
