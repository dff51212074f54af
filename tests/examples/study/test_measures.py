"""What the study measures."""

import pytest
import torch
from torch.nn import functional as F

from avcontrast import functional
from avscenes.scenes.scene import make_scenes
from avscenes.testing.retrieval import Features
from avstudy import measures, training
from avstudy.plan import QUICK, read_plan

PLAN = read_plan(QUICK)
TINY, NCE = PLAN.settings["tiny"], PLAN.methods["nce"]
RUN = PLAN.runs[0]._replace(data=TINY._replace(batch_size=24), loss=NCE)  # all scenes are a batch
ELIMINATING = RUN._replace(loss=NCE._replace(elimination="both"))


@pytest.fixture(scope="module")
def scenes():
    return make_scenes(0, "test", 24, TINY.design)


def loop_r_precision(similarity, correct):
    shares = []
    for query in range(len(similarity)):
        others = [item for item in range(len(similarity)) if item != query]
        right = {item for item in others if correct[query][item]}
        ranked = sorted(others, key=lambda item: (-similarity[query][item], item))
        if right:
            shares.append(len(right & set(ranked[: len(right)])) / len(right))
    return sum(shares) / len(shares)


@pytest.mark.parametrize("ties", [False, True])
def test_r_precision_equals_the_loop(ties):
    generator = torch.Generator().manual_seed(0)
    similarity = torch.rand(13, 13, generator=generator)
    if ties:
        similarity = similarity.mul(4).round()
    correct = torch.rand(13, 13, generator=generator) < 0.3
    correct[5] = False
    expected = loop_r_precision(similarity.tolist(), correct.tolist())
    assert measures.r_precision(similarity, correct) == pytest.approx(expected, abs=1e-15)


def test_both_objects_of_an_image_count(scenes):
    right = measures.shown(scenes)
    for image in range(24):
        kinds = {scenes.labels[image].item(), scenes.silent_labels[image].item()}
        assert len(kinds) == 2
        assert right[image].tolist() == [label in kinds for label in scenes.labels.tolist()]


def encoded(silent):
    """Return an encoder of classes: each map shows what sounds and, so bright, what is silent."""

    def encode(encoders, some):
        maps = torch.zeros(len(some.labels), TINY.classes + 1, 1, 2)  # the last is of the ground
        for place, (labels, share) in enumerate(((some.labels, 1), (some.silent_labels, silent))):
            maps[range(len(labels)), labels, 0, place] = share
            maps[:, TINY.classes, 0, place] = (1 - share**2) ** 0.5
        return Features(maps, F.one_hot(some.labels, TINY.classes + 1).float())

    return encode


def test_perfect_features_find_every_class(scenes):
    found = measures.all_measures(encoded(silent=1)(None, scenes), scenes)
    assert found["retrieval"] == found["region_precision"] == 1
    assert found["class_r1"] < 1  # since the silent object does not count there
    assert found["audio_neighbour_purity"] == 1
    assert found["audio_adjacency_purity"] == pytest.approx(1, abs=1e-6)
    assert found["same_cosine"] == pytest.approx(1)
    assert found["different_cosine"] < 0.8


def test_maps_that_fall_off_around_the_box_find_every_object(scenes):
    size = scenes.images.shape[-1]
    centres = (torch.arange(size) + 0.5) / size
    maps = []
    for x0, y0, x1, y1 in scenes.boxes.float():
        beside = (x0 - centres).clamp(min=0) + (centres - x1).clamp(min=0)
        below = (y0 - centres).clamp(min=0) + (centres - y1).clamp(min=0)
        maps.append(1 - torch.maximum(beside[None], below[:, None]))
    value = torch.stack(maps)
    features = Features(
        torch.stack((value, (1 - value**2).sqrt()), dim=1), torch.eye(2)[:1].expand(24, -1)
    )
    found = measures.localisation(features, scenes)
    assert found["success_quarter"] == found["pointing"] == 1
    assert found["success_half"] < 1  # the ceiling of that threshold


def test_features_without_content_find_nothing(scenes):
    features = Features(torch.ones(24, 3, 4, 4), torch.ones(24, 3))
    found = measures.main_measures(features, scenes)
    assert found["success_quarter"] < 0.2
    assert 0.3 < found["retrieval"] < 0.7
    torch.testing.assert_close(
        measures.shown(scenes).double().mean().item(), 0.5, atol=0.05, rtol=0
    )


def test_what_elimination_leaves_out_is_measured(scenes, monkeypatch):
    monkeypatch.setattr(measures, "encode", encoded(silent=1))
    assert measures.elimination(RUN, None, scenes) == {}
    same = (scenes.labels[:, None] == scenes.labels).sum().item() - 24
    right = measures.shown(scenes).sum().item() - 24
    assert measures.elimination(ELIMINATING, None, scenes) == pytest.approx(
        {
            "left_out": right / (24 * 23),
            "left_out_same_class": same / right,
            "left_out_shown": 1.0,
        }
    )
    alike = Features(torch.ones(24, 3, 1, 1), torch.ones(24, 3))
    monkeypatch.setattr(measures, "encode", lambda encoders, some: alike)
    assert measures.elimination(ELIMINATING, None, scenes) == {
        "left_out": 0.0,
        "left_out_same_class": None,
        "left_out_shown": None,
    }


def test_examples_of_what_is_left_out_are_the_best_matches(scenes, monkeypatch):
    monkeypatch.setattr(measures, "encode", encoded(silent=0.1))
    assert measures.examples_left_out(RUN, None, scenes) == []
    found = measures.examples_left_out(ELIMINATING, None, scenes)
    batch = training.batches(scenes.labels, RUN.data, RUN.seed, RUN.data.epochs)[0].tolist()
    assert list(dict.fromkeys(pair["image"] for pair in found)) == batch[: measures.PAIRED_IMAGES]
    for pair in found:
        assert pair["image"] != pair["sound"]
        assert pair["same_class"] == pair["shown"] == 1
        assert scenes.labels[pair["image"]] == scenes.labels[pair["sound"]]


def test_how_often_the_debiased_contrast_has_no_negatives_left(scenes, monkeypatch):
    monkeypatch.setattr(measures, "encode", encoded(silent=0))
    assert measures.floored(RUN, None, scenes) == {}
    for temperature, share in ((0.03, 1.0), (5.0, 0.0)):
        loss = NCE._replace(contrast="debiased", class_prior=0.3, temperature=temperature)
        assert measures.floored(RUN._replace(loss=loss), None, scenes) == {"floored": share}


def random_features():
    generator = torch.Generator().manual_seed(0)
    visual = torch.randn(20, 8, 3, 3, generator=generator)
    return Features(visual, torch.randn(20, 8, generator=generator))


def test_heat_maps_are_kept_of_the_first_scenes():
    features = random_features()
    maps = functional.localization_map(*features)[: measures.MAPS].flatten(1)
    assert measures.heat_maps(features) == [[round(v, 4) for v in one] for one in maps.tolist()]


def test_the_memory_of_the_adjacency_terms_is_seen():
    plain, fnac = (
        measures.loss_megabytes(PLAN.methods[name], random_features(), 256)
        for name in ("nce", "fnac")
    )
    assert 0.2 < plain < fnac


@pytest.mark.parametrize("contrast", ["lvs", "hardpos", "alignment"])
def test_what_another_loss_allocates_is_measured(contrast):
    method = NCE._replace(contrast=contrast)
    assert measures.loss_megabytes(method, random_features(), 16) > 0.01
