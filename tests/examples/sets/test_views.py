import torch

from avscenes.sets.loaders import train_loader
from avscenes.sets.neighbour_lists import NeighbourLists
from avscenes.sets.views import Views, WithNeighbours


class Numbers(torch.utils.data.Dataset):
    """Pairs that say which sample they are of and, if they were augmented, in which epoch."""

    def __getitem__(self, key):
        epoch, index = (-1, key) if isinstance(key, int) else key
        return torch.tensor([index, epoch]), torch.tensor([10 * index, epoch])


def lists(count=6, k=3):
    rows = torch.tensor([[(row + 1 + step) % count for step in range(k)] for row in range(count)])
    return NeighbourLists([str(row) for row in range(count)], rows, rows.flip(0) * 0 + rows)


def test_two_views_are_the_plain_sample_and_the_augmented_one():
    images, sounds = Views(Numbers(), seed=0)[4, 2]
    assert [view.tolist() for view in images] == [[2, -1], [2, 4]]
    assert [view.tolist() for view in sounds] == [[20, -1], [20, 4]]


def test_the_third_view_is_of_a_neighbour_of_each_modality_as_it_is():
    near = lists()
    near = near._replace(audio_neighbours=(near.image_neighbours + 2) % 6)
    views = Views(Numbers(), seed=0, lists=near)
    seen, heard = set(), set()
    for epoch in range(60):
        images, sounds = views[epoch, 2]
        assert len(images) == len(sounds) == 3
        assert images[2][1] == sounds[2][1] == -1
        seen.add(int(images[2][0]))
        heard.add(int(sounds[2][0]) // 10)
    assert seen == {3, 4, 5}
    assert heard == {5, 0, 1}


def test_the_neighbour_depends_on_seed_epoch_and_sample_alone():
    def drawn(seed, keys):
        views = Views(Numbers(), seed, lists(k=5))
        return {key: views.drawn(*key, views.lists) for key in keys}

    keys = [(epoch, index) for epoch in range(10) for index in range(6)]
    whole = drawn(0, keys)
    torch.rand(3)
    assert drawn(0, keys[::-1]) == whole
    assert drawn(1, keys) != whole
    assert len({whole[epoch, 2] for epoch in range(10)}) > 3
    # Image and sound are drawn apart, though their lists are the same.
    assert any(seen != heard for seen, heard in whole.values())


def test_batches_of_views_are_lists_of_batches():
    loader = train_loader(Views(Numbers(), 0, lists()), 6, 3, seed=0, workers=0)
    images, sounds = next(iter(loader))
    assert [view.shape for view in (*images, *sounds)] == [(3, 2)] * 6
    assert torch.equal(images[0][:, 0], images[1][:, 0])


def test_neighbours_come_beside_their_pair():
    near = lists()
    near = near._replace(audio_neighbours=near.image_neighbours.flip(1))
    loader = train_loader(WithNeighbours(Numbers(), near), 6, 3, seed=0, workers=0)
    for images, sounds, samples, by_image, by_sound in loader:
        assert samples.tolist() == images[:, 0].tolist() == (sounds[:, 0] // 10).tolist()
        assert torch.equal(by_image, near.image_neighbours[samples])
        assert torch.equal(by_sound, near.audio_neighbours[samples])
