import pytest
import torch

from avscenes.scenes.scene import make_scenes
from avscenes.sets.loaders import plain_loader, train_loader
from avscenes.sets.sampling import EpochOrder, mix_seed, own_part
from avscenes.sets.scene_pairs import SceneDataset


def test_mix_seed_depends_on_every_number_and_their_order():
    seeds = {mix_seed(*numbers) for numbers in [(0,), (0, 0), (0, 1), (1, 0), (0, 1, 2), (0, 2, 1)]}
    assert len(seeds) == 6
    assert mix_seed(1, 2, 3) == mix_seed(1, 2, 3)


def test_order_is_a_permutation_that_depends_on_seed_and_epoch():
    order = EpochOrder(20, 5, seed=1)
    first = list(order)
    assert sorted(first) == [(0, index) for index in range(20)]
    order.set_epoch(1)
    second = list(order)
    order.set_epoch(0)
    assert list(order) == first
    assert [index for _, index in first] != [index for _, index in second]
    assert list(EpochOrder(20, 5, seed=2)) != first


def test_processes_take_neighbouring_parts_of_each_whole_batch():
    assert own_part(range(10), 4, 0, 1) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert own_part(range(10), 4, 0, 2) == [0, 1, 4, 5]
    assert own_part(range(10), 4, 1, 2) == [2, 3, 6, 7]
    assert own_part(range(10), 4, 3, 4) == [3, 7]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_one_order(world):
    whole = list(EpochOrder(15, 6, seed=0))
    assert len(whole) == 12
    orders = [EpochOrder(15, 6, seed=0, rank=rank, world=world) for rank in range(world)]
    shares = [list(order) for order in orders]
    assert {len(order) for order in orders} == {len(share) for share in shares} == {12 // world}
    part = 6 // world
    for batch in range(2):
        keys = [key for share in shares for key in share[batch * part : (batch + 1) * part]]
        assert keys == whole[batch * 6 : (batch + 1) * 6]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_batches_do_not_depend_on_workers_or_on_the_global_state():
    pairs = SceneDataset(make_scenes(0, "train", 20), seed=4)

    def batches(workers):
        torch.rand(7)
        loader = train_loader(pairs, 20, 8, seed=4, workers=workers)
        return [batch for _ in range(2) for batch in loader]

    alone, helped = batches(0), batches(1)
    assert len(alone) == len(helped) == 4
    for one, other in zip(alone, helped):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])


def test_augmentation_changes_with_the_epoch_and_plain_samples_do_not():
    pairs = SceneDataset(make_scenes(0, "train", 4), seed=0)
    assert torch.equal(pairs[0, 2][1], pairs[0, 2][1])
    assert any(not torch.equal(pairs[0, 2][1], pairs[epoch, 2][1]) for epoch in range(1, 4))
    images, _ = next(iter(plain_loader(pairs, range(4), 4, workers=0)))
    assert torch.equal(images[2], pairs[2][0])
    assert abs(images.mean().item()) < 1
