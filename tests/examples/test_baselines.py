import itertools
import json
import math

import baselines
import numpy as np
import pytest
import torch
from script_runs import fault_of, run_script

from avcontrast import metrics
from avscenes.sets.vggss import Annotation
from avscenes.testing.baselines import centre_square, chosen, find

PIXELS = 224 * 224
RULES = {
    "ezvsl-test": ("half", True),
    "slavc-test": ("half", True),
    "lvs": ("half", "maximum"),
    "alignment-adaptive": ("area", False),
}


def random_boxes(count):
    generator = np.random.default_rng(0)
    centres, sides = generator.random((count, 2)), generator.uniform(0.05, 0.9, (count, 2))
    boxes = np.concatenate([centres - sides / 2, centres + sides / 2], axis=1)
    return [boxes[number : number + 1 + number % 3].tolist() for number in range(count - 2)]


def write(path, all_boxes):
    entries = [
        {"file": f"clip{number:07d}_000000", "class": f"class {number % 3}", "bbox": boxes}
        for number, boxes in enumerate(all_boxes)
    ]
    path.write_text(json.dumps(entries))
    return [entry["file"] for entry in entries]


@pytest.fixture
def run(tmp_path, capsys):
    def run(all_boxes, *options):
        write(tmp_path / "vggss.json", all_boxes)
        status = run_script(baselines, "--annotations", tmp_path / "vggss.json", *options)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def figures(printed):
    """Return the numbers of each predictor by protocol, read from the table."""
    tables = {}
    for block in printed.split("\n\n")[1:]:
        head, *rows = block.splitlines()
        if rows:
            tables[head.split()[0]] = {
                row[:26].strip(): [float(cell) for cell in row[26:].split()] for row in rows
            }
    return tables


def drawn(boxes):
    """Return the union of boxes."""
    truth = np.zeros((224, 224))
    for box in boxes:
        x0, y0, x1, y1 = (int(min(max(value, 0), 1) * 224) for value in box)
        truth[y0:y1, x0:x1] = 1
    return truth


def distance_maps():
    # Twice the distance, squared: whole numbers, so that rings are tied exactly.
    down, right = abs(2 * np.indices((224, 224)) - 223)
    return {
        "centre disc": -(down**2 + right**2),
        "centre square": -np.maximum(down, right),
        "constant map": np.zeros((224, 224)),
    }


def plain_ciou(heat, truth, rule, inclusive):
    area = int(truth.sum())
    rank = PIXELS // 2 if rule == "half" or area == 0 else PIXELS - area
    cut = sorted(heat.ravel().tolist())[rank]
    found = heat >= cut if inclusive is True else heat > cut
    if inclusive == "maximum":
        found |= heat == heat.max()  # none of these maps is flat and below 0
    union = truth.sum() + (found & (truth == 0)).sum()
    return float((truth * found).sum() / union) if union else 0.0


def plain_ceiling(truth, rule, inclusive):
    area = int(truth.sum())
    count = area if rule == "area" and area else PIXELS // 2
    count -= inclusive is not True
    return min(area, count) / max(area, count) if area else 0.0


def plain_scores(values):
    count = len(values)
    shares = [sum(value >= 0.05 * step for value in values) / count for step in range(21)]
    auc = sum(0.05 * (a + b) / 2 for a, b in itertools.pairwise(shares))
    success = sum(value >= 0.5 for value in values) / count
    return [100 * success, 100 * auc, 100 * math.fsum(values) / count]


def test_every_figure_is_that_of_a_plain_loop(run):
    all_boxes = [*random_boxes(24), [[0.3, 0.3, 0.3, 0.9]]]
    status, printed, _ = run(all_boxes, "--protocols", *RULES, "--seed", 3)
    assert status == 0
    tables = figures(printed)
    assert list(tables) == list(RULES)
    truths = [drawn(boxes) for boxes in all_boxes]
    maps = distance_maps()
    noise = torch.rand(len(truths), 7, 7, generator=torch.Generator().manual_seed(3))
    for protocol, rules in RULES.items():
        mode, corners = metrics.PROTOCOLS[protocol][:2]
        heats = metrics.upsample(noise, 224, mode, corners).numpy()
        expected = {"best possible map": [plain_ceiling(truth, *rules) for truth in truths]}
        for name, heat in maps.items():
            expected[name] = [plain_ciou(heat, truth, *rules) for truth in truths]
        expected["random 7 x 7 map"] = [
            plain_ciou(heat, truth, *rules) for heat, truth in zip(heats, truths)
        ]
        assert list(tables[protocol]) == list(expected)
        for name, values in expected.items():
            assert tables[protocol][name] == pytest.approx(plain_scores(values), abs=0.00501), (
                protocol,
                name,
            )
    areas = [truth.mean() for truth in truths]
    assert f"mean {np.mean(areas):.2%}, median {np.median(areas):.2%}" in printed
    assert f"below a quarter {np.mean([area < 0.25 for area in areas]):.2%}" in printed
    assert f"the centre {np.mean([truth[112, 112] for truth in truths]):.2%}" in printed


def test_figures_that_can_be_worked_out_by_hand(run):
    """The upper half, an eighth, the whole image and a quarter, under the half-image threshold."""
    boxes = [[0, 0, 1, 0.5]], [[0, 0, 0.5, 0.25]], [[0, 0, 1, 1]], [[0, 0, 0.5, 0.5]]
    _, printed, _ = run(boxes, "--protocols", "ezvsl-test", "lvs", "alignment")
    table = figures(printed)["ezvsl-test"]
    # The best map: 1, 1/4, 1/2 and 1/2. Predicting everything: a half, an eighth, one, a quarter.
    success, _, mean = table["best possible map"]
    assert (success, mean) == (75, pytest.approx(100 * (1 + 0.25 + 0.5 + 0.5) / 4, abs=0.005))
    success, _, mean = table["constant map"]
    assert (success, mean) == (50, pytest.approx(100 * (0.5 + 0.125 + 1 + 0.25) / 4, abs=0.01))
    # LVS keeps what equals the maximum.
    assert figures(printed)["lvs"]["constant map"] == table["constant map"]
    # Under > a constant map predicts nothing: only the bar of 0 is reached, half a step of 0.05.
    assert figures(printed)["alignment"]["constant map"] == [0, 2.5, 0]
    assert "4 clips of 3 classes, 4 with one box, 0 whose boxes cover nothing" in printed
    assert "mean 46.88%, median 37.50%; below a quarter 25.00%" in printed
    # 32^2, 96^2 and 144^2 pixels lie between 0.02, 0.18, 0.41 of the image.
    assert "small 0.00%; medium 25.00%; large 25.00%; huge 50.00%" in printed
    assert "a random pixel 46.88%, the centre 25.00%" in printed


def test_half_a_disc_over_half_of_the_image_scores_a_third(run):
    """Half of what is predicted is in the upper half: 1/4 over 1/2 + 1/4."""
    _, printed, _ = run([[[0, 0, 1, 0.5]]], "--protocols", "ezvsl-test")
    table = figures(printed)["ezvsl-test"]
    assert table["centre disc"][0] == table["centre square"][0] == 0
    assert table["centre disc"][2] == pytest.approx(100 / 3, abs=0.05)
    # The square is 160 pixels wide, for 158 would be less than half of the image.
    hits = 80 * 160
    assert table["centre square"][2] == pytest.approx(100 * hits / (25_088 + hits), abs=0.005)


def test_the_square_is_the_smallest_that_covers_half_of_the_image():
    square = centre_square(224)
    predicted = square >= square.flatten().sort().values[PIXELS // 2]
    assert predicted.sum().item() == 160**2
    assert predicted[32:192, 32:192].all()
    assert (square.min(), square.max()) == (0, square[112, 111])


def test_lists_choose_clips_and_count_the_overlap(run, tmp_path):
    boxes = [[[0, 0, 1, 1]], [[0, 0, 0.1, 0.1]], [[0, 0, 1, 1]], [[0, 0, 1, 1]]]
    names = write(tmp_path / "vggss.json", boxes)
    (tmp_path / "test.csv").write_text("\n".join([names[2], names[0], names[3]]))
    # The same clip in the other way of writing, and one that is in no test.
    (tmp_path / "train.txt").write_text("\n".join(["clip0000002_0_10000", names[1], names[0]]))
    lists = ["--test-list", tmp_path / "test.csv", "--train-list", tmp_path / "train.txt"]
    status, printed, _ = run(boxes, *lists)
    assert status == 0
    assert printed.startswith("3 clips of 2 classes")
    assert "mean 100.00%" in printed
    assert f"2 of these 3 clips (66.67%) are among the 3 of {tmp_path / 'train.txt'}" in printed
    assert set(figures(printed)) == set(baselines.MAIN)


def test_parts_do_not_show(monkeypatch):
    annotations = {str(i): Annotation("a", boxes) for i, boxes in enumerate(random_boxes(9))}
    whole = find(annotations, ["ezvsl-test"], 0)
    monkeypatch.setattr("avscenes.testing.baselines._AT_ONCE", 3)
    parts = find(annotations, ["ezvsl-test"], 0)
    assert torch.equal(parts.area, whole.area)
    for key, ciou in whole.ciou.items():
        assert torch.equal(parts.ciou[key], ciou), key


@pytest.mark.parametrize(
    ("all_boxes", "options", "message"),
    [
        ([[[10, 20, 30, 40]]], [], "--annotations: clip0000000_000000: boxes must be shares of"),
        ([[[0, 0, 1, 1]]], ["--test-list", "nowhere.csv"], "--test-list: cannot read nowhere.csv"),
        ([[[0, 0, 1, 1]]], ["--train-list", "no.txt"], "--train-list: cannot read no.txt"),
    ],
)
def test_mistakes_are_one_line(run, all_boxes, options, message):
    status, printed, error = run(all_boxes, *options)
    assert (status, printed) == (2, "")
    assert error.startswith(f"baselines.py: error: {message}")
    assert error.count("\n") == 1


def test_clips_without_boxes_are_named(run, tmp_path):
    (tmp_path / "test.csv").write_text("clip0000000_000000\nother\n")
    status, _, error = run([[[0, 0, 1, 1]]], "--test-list", tmp_path / "test.csv")
    assert status == 2
    assert "1 of the 2 clips" in error
    assert "(first other)" in error


def test_wrong_usage_is_one_line(capsys):
    options = ["--annotations", "vggss.json", "--protocols", "magic"]
    fault = fault_of(capsys, baselines, *options)
    assert fault.startswith("--protocols: must be 'ezvsl-test', ")
    assert fault.endswith(", got 'magic'")


def test_clips_of_a_list_are_chosen_however_their_ids_are_written(tmp_path):
    annotation = Annotation("dog", [[0, 0, 1, 1]])
    listed = ["abcdefghijk_30000_40000", "b.jpg"]
    (tmp_path / "test.csv").write_text("\n".join(listed))
    annotations = {"abcdefghijk_000030": annotation, "b": annotation}
    assert list(chosen(annotations, tmp_path / "test.csv")) == listed
