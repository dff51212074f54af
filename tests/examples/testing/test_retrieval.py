import json
from itertools import combinations

import evaluate
import pytest
import torch
from script_runs import change_settings, run_script
from set_runs import cells_of
from torch.nn import functional as F

from avscenes.media.augmentation import scale_images
from avscenes.models.vectors import projections_of
from avscenes.scenes.scene import make_scenes
from avscenes.sets.loaders import DATA_SEED
from avscenes.testing.retrieval import Features, Vectors, class_chance, retrieval
from avscenes.testing.table import table

LABELS = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3])


def random_vectors(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


FEATURES = Features(random_vectors(8, 6, 3, 3, seed=1), random_vectors(8, 6, seed=2))
PROJECTED = Vectors(random_vectors(8, 4, seed=3), random_vectors(8, 4, seed=4))


def hits(similarity, right, k):
    """Return the share of queries with a right answer among the first `k`."""
    first = similarity.topk(k, dim=1).indices
    return right.gather(1, first).any(dim=1).double().mean().item()


def by_hand(images, sounds, name):
    similarity = F.normalize(images, dim=1) @ F.normalize(sounds, dim=1).T
    same, own = LABELS[:, None] == LABELS, torch.eye(len(LABELS), dtype=torch.bool)
    figures = {}
    for way, scores in (("image_to_sound", similarity), ("sound_to_image", similarity.T)):
        for k in (1, 5):
            figures[f"hit_{way}_{name}_r{k}"] = hits(scores, same, k)
            figures[f"pair_{way}_{name}_r{k}"] = hits(scores, own, k)
    return figures


def test_one_vector_an_image_finds_its_sound_or_another_of_the_class():
    found = retrieval(FEATURES, LABELS, PROJECTED)
    maps, sounds = FEATURES
    expected = {
        **by_hand(F.normalize(maps, dim=1).mean((2, 3)), sounds, "pooled"),
        **by_hand(*PROJECTED, "projected"),
    }
    assert len(set(expected.values())) > 4
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    # The best match of a position is another one, and counts no own pair as one of the class.
    assert found["class_image_to_sound_r5"] != found["hit_image_to_sound_pooled_r5"]
    alone = retrieval(FEATURES, LABELS)
    assert alone == {name: value for name, value in found.items() if "projected" not in name}


def test_without_classes_there_are_pairs_alone():
    found = retrieval(FEATURES, LABELS * 0)
    assert "pair_sound_to_image_pooled_r10" in found
    assert not [name for name in found if "hit" in name or "class" in name]
    lines = table(found, "ezvsl-test").split("\n\n")[1].splitlines()
    assert [line.split("  ")[0] for line in lines] == [
        "R@1 R@5 R@10 of one vector",
        "own pair, pooled",
    ]


@pytest.mark.parametrize("k", [1, 2, 5, 8, 10])
def test_chance_of_a_hit_is_the_share_of_all_draws_that_have_one(k):
    draws = list(combinations(range(8), min(k, 8)))
    shares = [
        sum(any(LABELS[item] == label for item in draw) for draw in draws) / len(draws)
        for label in LABELS
    ]
    assert class_chance(LABELS, k, own_pair=True) == pytest.approx(sum(shares) / 8)


def test_the_table_has_the_three_recalls_of_a_way_in_one_cell():
    found = retrieval(FEATURES, LABELS, PROJECTED)
    cells = cells_of(table(found, "ezvsl-test"))
    assert cells["R@1 R@5 R@10 of one vector"] == ["image to sound", "sound to image", "chance"]
    ways = [
        " ".join(f"{found[f'pair_{way}_projected_r{k}']:.3f}" for k in (1, 5, 10))
        for way in ("image_to_sound", "sound_to_image")
    ]
    assert cells["own pair, projected"] == [*ways, "0.125 0.625 1.000"]
    chance = [class_chance(LABELS, k, own_pair=True) for k in (1, 5, 10)]
    assert cells["same class or own pair, pooled"][2] == " ".join(f"{v:.3f}" for v in chance)
    assert list(cells)[-4:] == [
        *("same class or own pair, pooled", "own pair, pooled"),
        *("same class or own pair, projected", "own pair, projected"),
    ]


def test_evaluate_takes_the_projections_of_a_checkpoint(checkpoint, encoders, tmp_path):
    change_settings(checkpoint.parents[1], dataset="synthetic")
    saved = torch.load(checkpoint)
    assert projections_of(saved["state_dict"], "cpu") is None
    layers = {"visual": torch.nn.Linear(128, 16), "audio": torch.nn.Linear(128, 16)}
    for kind, layer in layers.items():
        for name, value in layer.state_dict().items():
            saved["state_dict"][f"criterion.{kind}.{name}"] = value
    torch.save(saved, checkpoint)
    options = ["--checkpoint", checkpoint, "--output-dir", tmp_path / "out", "--test-size", 20]
    assert run_script(evaluate, *options, "--batch-size", 7, "--device", "cpu") == 0
    scenes = make_scenes(DATA_SEED, "test", 20)
    with torch.no_grad():
        maps, sounds = encoders[0](scale_images(scenes.images)), encoders[1](scenes.spectrograms)
        images = layers["visual"](F.normalize(maps, dim=1).mean((2, 3)))
        vectors = Vectors(images, layers["audio"](F.normalize(sounds, dim=1)))
        expected = retrieval(Features(maps, sounds), scenes.labels, vectors)
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    names = [name for name in expected if "projected" in name]
    assert len(names) == 12
    # A rounding may turn the order of two.
    assert {name: found[name] for name in names} == pytest.approx(
        {name: expected[name] for name in names}, abs=0.051
    )
    assert "own pair, projected" in cells_of((tmp_path / "out" / "table.txt").read_text())
