import numpy as np
import pytest
import torch

from avcontrast import metrics
from avcontrast.metrics import PROTOCOLS
from avscenes.models.object_maps import heat_maps
from avscenes.testing.scoring import score

SIZE = 56
# How the released evaluators resize the map of the model and the object map, whether they stretch
# both before they mix them, and the weight of the object map. OpenCV's linear resizing aligns the
# edges. Where an evaluator has no mix, that of the same authors' test stands, and of LVS and
# SSL-TIE that of SSL-Alignment, which evaluates their models.
BILINEAR, BICUBIC = ("linear", "corners"), ("cubic", "corners")
OPENCV, BICUBIC_EDGES = ("linear", "edges"), ("cubic", "edges")
RELEASED = {
    "ezvsl-test": (BILINEAR, BILINEAR, "stretched", 0.6),
    "ezvsl-train": (BICUBIC_EDGES, BILINEAR, "stretched", 0.6),
    "fnac-test": (BILINEAR, BILINEAR, "stretched", 0.6),
    "fnac-test2": (BICUBIC_EDGES, BILINEAR, "stretched", 0.6),
    "fnac-train": (BICUBIC_EDGES, BILINEAR, "stretched", 0.6),
    "slavc-test": (BICUBIC, BICUBIC, "absolute", 0.1),
    "slavc-test-absolute": (BICUBIC, BICUBIC, "absolute", 0.1),
    "slavc-train": (BICUBIC_EDGES, BICUBIC, "absolute", 0.1),
    "lvs": (OPENCV, OPENCV, "stretched", 0.6),
    "ssltie": (OPENCV, OPENCV, "stretched", 0.6),
    "alignment": (BILINEAR, BILINEAR, "stretched", 0.6),
    "alignment-adaptive": (BILINEAR, BILINEAR, "stretched", 0.6),
    "alignment-vggss": (OPENCV, OPENCV, "stretched", 0.6),
    "alignment-vggss-adaptive": (OPENCV, OPENCV, "stretched", 0.6),
}


def weights(count, size, kernel, align):
    """Return the matrix that resizes a row of `count` values to `size`."""
    matrix = np.zeros((size, count))
    for place in range(size):
        if align == "corners":
            x = place * (count - 1) / (size - 1)
        else:
            x = (place + 0.5) * count / size - 0.5
        first = int(np.floor(x))
        reach = range(first, first + 2) if kernel == "linear" else range(first - 1, first + 3)
        for source in reach:
            far = abs(x - source)
            if kernel == "linear":
                share = 1 - far
            elif far <= 1:
                share = 1.25 * far**3 - 2.25 * far**2 + 1
            else:
                share = -0.75 * (far**3 - 5 * far**2 + 8 * far - 4)
            matrix[place, min(max(source, 0), count - 1)] += share
    return matrix


def resized(image, size, how):
    return weights(image.shape[0], size, *how) @ image @ weights(image.shape[1], size, *how).T


def stretched(image):
    return (image - image.min()) / (image.max() - image.min())


def released_maps(name, cosines, objects, share):
    """Return map, object map and mix of one image, as the evaluator scores them."""
    own, other, scale, _ = RELEASED[name]
    model, things = resized(cosines, SIZE, own), resized(objects, SIZE, other)
    if scale == "absolute":
        model, things = (model + 1) / 2, things / 2.5
        return {"model": model, "ogl": things, "mix": (1 - share) * model + share * things}
    mix = (1 - share) * stretched(model) + share * stretched(things)
    return {"model": model, "ogl": things, "mix": mix}


def plain_ciou(heat, truth, name):
    values, area = np.sort(heat, axis=None), int((truth > 0).sum())
    if PROTOCOLS[name].threshold == "fixed":
        cut = 0.5
    else:
        adaptive = name.endswith("-adaptive")
        cut = values[len(values) - area if adaptive else len(values) // 2]
    strict = name in ("lvs", "ssltie") or name.startswith("alignment")
    predicted = heat > cut if strict else heat >= cut
    if name in ("lvs", "ssltie"):
        predicted |= heat == heat.max()
    return (predicted * truth).sum() / (truth.sum() + (predicted & (truth == 0)).sum())


def small_maps():
    generator = torch.Generator().manual_seed(3)
    shape = (6, 7, 7)
    cosines = 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1
    return cosines, 3 * torch.rand(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("share", [None, 0.35])
@pytest.mark.parametrize("name", RELEASED)
def test_maps_object_maps_and_mixes_are_those_of_the_released_evaluators(name, share):
    cosines, objects = small_maps()
    truth = torch.stack(
        [metrics.ground_truth_map([[0.1 * n, 0.2, 0.8, 0.95]], SIZE) for n in range(6)]
    )
    share = RELEASED[name][3] if share is None else share
    heats = heat_maps(cosines, objects, size=SIZE, protocol=name, object_share=share)
    columns = score(heats, truth, PROTOCOLS[name])
    for place in range(6):
        images = cosines[place].numpy(), objects[place].numpy()
        for who, heat in released_maps(name, *images, share).items():
            np.testing.assert_allclose(heats[who][place], heat, atol=1e-12, err_msg=who)
            found = columns[f"{who}_ciou_{PROTOCOLS[name].threshold}"][place].item()
            # Of the maps that were found: values that are equal in theory round differently.
            expected = plain_ciou(heats[who][place].numpy(), truth[place].numpy(), name)
            assert found == pytest.approx(expected, abs=1e-12), who


def test_every_protocol_is_compared():
    assert list(RELEASED) == list(PROTOCOLS)


def test_slavc_resizes_object_maps_bicubically():
    objects = torch.zeros(1, 7, 7)
    objects[0, 3, 3] = 2.5
    for name in ("slavc-test", "slavc-test-absolute"):
        maps = heat_maps(torch.zeros(1, 7, 7), objects, size=224, protocol=name, object_share=0.1)
        assert maps["ogl"][0, 112, 96].item() == pytest.approx(0.6991, abs=5e-5)


def test_alignment_resizes_object_maps_as_opencv_on_vggss():
    objects = torch.arange(49.0).view(1, 7, 7)
    settings = {"size": 224, "object_share": 0.6}
    for name in ("alignment-vggss", "alignment-vggss-adaptive"):
        maps = heat_maps(torch.zeros(1, 7, 7), objects, protocol=name, **settings)
        assert maps["ogl"][0, 0, :3].tolist() == [0, 0, 0]
    maps = heat_maps(torch.zeros(1, 7, 7), objects, protocol="alignment", **settings)
    assert maps["ogl"][0, 0, :3].tolist() == pytest.approx([0, 0.0269, 0.0538], abs=5e-5)
