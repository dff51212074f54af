import json
import math
import os
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import evaluate
import numpy as np
import pytest
import soundfile
import torch
import train_fnac
from PIL import Image
from script_runs import change_settings, fault_of, read_rows, run_script
from set_runs import cells_of
from torch.nn import functional as F
from video_files import write_video

from avcontrast import metrics
from avscenes.models.object_maps import heat_maps, load_object_network, object_maps, stretch
from avscenes.pictures import report
from avscenes.pictures.gallery import ranked
from avscenes.sets import clips
from avscenes.testing.run import Conditions
from avscenes.testing.scoring import score

TESTED = 24
FIGURES = ("model_", "centre_disc_", "ceiling_", "class_", "pair_", "hit_", "chance_")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of one epoch and what it reported."""
    output = tmp_path_factory.mktemp("trained") / "run"
    options = [
        *("--train-size", 16, "--validation-size", 8, "--test-size", TESTED, "--batch-size", 8),
        *("--epochs", 1, "--warm-start-epochs", 0, "--accelerator", "cpu", "--output-dir", output),
    ]
    assert run_script(train_fnac, *options) == 0
    return output


def checkpoint(run):
    return run / "checkpoints" / "last.ckpt"


def run(*options):
    return run_script(evaluate, *options, "--device", "cpu")


def fail(capsys, *options):
    return fault_of(capsys, evaluate, *options, "--device", "cpu")


def test_the_figures_are_those_of_the_training_script(trained, tmp_path, capsys):
    output = tmp_path / "results"
    assert run("--checkpoint", checkpoint(trained), "--output-dir", output) == 0
    found = json.loads((output / "metrics.json").read_text())
    reported = json.loads((trained / "metrics.json").read_text())
    names = {name for name in reported if name.startswith(FIGURES)}
    assert len(names) == 82
    for name in names:
        assert found[name] == reported[name], name
    for name in ("dataset", "protocol", "object_share", "epoch", "test_samples", "left_out"):
        assert found[name] == reported[name], name
    for name in ("samples.csv", "table.txt"):
        assert (output / name).read_bytes() == (trained / name).read_bytes()
    assert {path.name for path in output.iterdir()} == {
        *("metrics.json", "samples.csv", "gallery.png", "table.txt")
    }
    assert found["protocol"] == "ezvsl-test"
    assert found["left_out"] == 0
    printed = capsys.readouterr().out
    assert (output / "table.txt").read_text() in printed

    lines = printed.splitlines()
    assert f"(epoch 1), synthetic: {TESTED} pairs" in lines[0]
    assert lines[1] == "ezvsl-test (bilinear, corners aligned, >=, half of the image)"
    cells = {line[:32].strip(): line[32:].split() for line in lines[3:] if line}
    assert cells[""] == ["model", "centre", "disc", "ceiling", "chance"]
    expected = [f"{found[f'{who}_success_half']:.3f}" for who in ("model", "centre_disc")]
    assert cells["success@0.5, half of the image"][:2] == expected
    area = [float(row["gt_area"]) for row in read_rows(output / "samples.csv")]
    assert cells["pointing"][2:] == ["1.000", f"{sum(area) / TESTED:.3f}"]
    chance = f"{5 / TESTED:.3f}"
    assert cells["R@5, own pair, sound to image"][1:] == ["-", "1.000", chance]
    table = cells_of((output / "table.txt").read_text())
    assert [label for label, row in table.items() if "-" in row[2:]] == []
    adaptive = [f"{found[f'{who}_auc_area']:.3f}" for who in ("model", "centre_disc")]
    assert cells["AUC, area of the object"][:2] == adaptive


def test_every_sample_has_a_row_of_which_the_figures_are_made(trained, tmp_path, object_weights):
    output = tmp_path / "results"
    status = run(
        *("--checkpoint", checkpoint(trained), "--output-dir", output, "--test-size", 5),
        *("--object-weights", object_weights, "--protocol", "alignment-adaptive"),
        *("--batch-size", 2),
    )
    assert status == 0
    found = json.loads((output / "metrics.json").read_text())
    rows = read_rows(output / "samples.csv")
    assert [row["id"] for row in rows] == [f"scene {number}" for number in range(5)]
    assert rows[0]["class"] == "striped disc"
    for who in ("model", "ogl", "mix", "centre_disc", "ceiling", "chance"):
        ciou = torch.tensor([float(row[f"{who}_ciou_area"]) for row in rows])
        assert found[f"{who}_mean_ciou_area"] == pytest.approx(ciou.mean().item(), abs=1e-5)
        assert found[f"{who}_success_area"] == metrics.success_rate(ciou).item()
        pointing = [float(row[f"{who}_pointing"]) for row in rows]
        assert found[f"{who}_pointing"] == pytest.approx(sum(pointing) / 5, abs=1e-6)
        assert all(math.isfinite(float(row["gt_area"])) for row in rows)
    assert found["object_share"] == 0.6
    assert "mix: 0.4 model + 0.6 OGL" in (output / "table.txt").read_text()
    with Image.open(output / "gallery.png") as image:
        assert image.height > 700


def test_the_object_map_is_the_mean_activation_of_the_last_stage(object_weights):
    network = load_object_network(object_weights, torch.device("cpu"))
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        x = F.max_pool2d(F.relu(network.bn1(network.conv1(images))), 3, 2, 1)
        for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
            x = stage(x)
    found = object_maps(network, images)
    assert found.shape == (1, 7, 7)
    torch.testing.assert_close(found, x.abs().sum(dim=1) / 512)
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert object_maps(network, images[..., :32, :32]).shape == (1, 7, 7)


def small_maps():
    generator = torch.Generator().manual_seed(2)
    return torch.rand(3, 7, 7, generator=generator) - 0.3, torch.rand(3, 7, 7, generator=generator)


def test_a_flat_map_is_not_stretched():
    constant = torch.full((1, 2, 2), 0.7)
    assert torch.equal(stretch(constant), constant)


@pytest.mark.parametrize("protocol", ["ezvsl-test", "fnac-test2", "slavc-test"])
def test_a_mix_of_one_kind_scores_as_that_kind(protocol):
    cosines, objects = small_maps()
    truth = torch.stack(
        [metrics.ground_truth_map([[0.1 * n, 0.2, 0.8, 0.9]], 56) for n in range(3)]
    )
    for share, same in ((0.0, "model"), (1.0, "ogl")):
        heats = heat_maps(cosines, objects, size=56, protocol=protocol, object_share=share)
        scores = score(heats, truth, metrics.PROTOCOLS[protocol])
        torch.testing.assert_close(
            scores["mix_ciou_half"], scores[f"{same}_ciou_half"], atol=1e-3, rtol=0
        )
        assert torch.equal(scores["mix_pointing"], scores[f"{same}_pointing"])


def test_the_caption_says_how_many_maps_are_flat():
    maps, _ = small_maps()
    tested = SimpleNamespace(
        how=Conditions("flickr", "lvs"),
        **{"visible": torch.ones(3).bool(), "rows": torch.arange(3), "maps": maps},
        **{"skipped": [], "objects": None},
    )
    tests = SimpleNamespace(labelled=SimpleNamespace(silent=(), located=True))
    what = (tests, tested, Path("best.ckpt"), 2)
    first, second = evaluate.caption(*what).splitlines()
    assert first == "best.ckpt (epoch 2), flickr: 3 pairs"
    expected = "lvs (bilinear, corners not aligned, > or the maximum, half of the image)"
    assert second == expected
    maps[1:] = 0.4
    third = evaluate.caption(*what).splitlines()[2]
    assert third.startswith("2 of the 3 maps of the model are flat and point nowhere: ")


def test_the_gallery_ranks_by_ciou():
    ciou = torch.tensor([0.1, 0.9, 0.5, 0.5, 0.7, 0.2, 0.8])
    assert ranked(ciou) == {"best": [1, 6], "median": [4, 2], "worst": [5, 0]}
    assert ranked(ciou[:2]) == {"best": [1], "median": [1], "worst": [0]}
    assert [len(places) for places in ranked(torch.rand(20)).values()] == [3, 3, 3]


@pytest.fixture
def clip_run(tmp_path, make_clip, checkpoint):
    """An untrained model of clips, and five clips of which one is broken and one unknown."""
    checkpoint.rename(checkpoint.with_name("last.ckpt"))
    for name in ("a", "b", "c", "d", "e"):
        make_clip(tmp_path / "test", name, size=(32, 32), seconds=1)
    (tmp_path / "test" / "audio" / "c.wav").write_bytes(b"RIFF")
    (tmp_path / "test.csv").write_text("a\nb\nc\nd\ne\n")
    entries = [
        {"file": name, "class": "dog" if name < "c" else "cat", "bbox": [[0.1, 0.2, 0.7, 0.8]]}
        for name in "abcd"
    ]
    (tmp_path / "vggss.json").write_text(json.dumps(entries))
    change_settings(
        tmp_path / "run",
        image_dropout=0.9,
        test_root=str(tmp_path / "test"),
        test_list=str(tmp_path / "test.csv"),
        annotations=str(tmp_path / "vggss.json"),
        max_missing=0.5,
        batch_size=2,
        workers=0,
    )
    return tmp_path / "run"


def test_broken_clips_are_named_counted_and_left_out(clip_run, capsys, monkeypatch):
    decode = Mock(wraps=clips._decode)
    monkeypatch.setattr(clips, "_decode", decode)
    monkeypatch.setattr(report, "draw_gallery", lambda path, *_, **__: path.touch())
    assert run("--checkpoint", checkpoint(clip_run)) == 0
    assert [call.args[0].name for call in decode.call_args_list] == ["a", "b", "c", "d"]
    printed = capsys.readouterr().out
    assert "left out: clip e: no entry in --annotations\nleft out: clip c: " in printed
    assert "(epoch 3), vggsound: 3 pairs, 2 left out" in printed
    output = clip_run / "evaluation-vggsound-ezvsl-test"
    assert [row["id"] for row in read_rows(output / "samples.csv")] == ["a", "b", "d"]
    assert [row["class"] for row in read_rows(output / "samples.csv")] == ["dog", "dog", "cat"]
    assert [row["clip"] for row in read_rows(output / "left_out.csv")] == ["e", "c"]
    assert json.loads((output / "metrics.json").read_text())["left_out"] == 2


def test_too_many_broken_clips_stop_the_test(clip_run, tmp_path, capsys):
    message = fail(
        capsys,
        *("--checkpoint", checkpoint(clip_run), "--max-missing", 0.3),
        *("--output-dir", tmp_path / "results"),
    )
    assert message == (
        "--test-root: 2 of 5 test clips cannot be used, more than --max-missing 0.3; "
        f"first e: no entry in --annotations; the list: {tmp_path}/results/left_out.csv"
    )
    assert [row["clip"] for row in read_rows(tmp_path / "results" / "left_out.csv")] == ["e", "c"]
    # The folder can be used again.
    again = ["--output-dir", tmp_path / "results", "--max-missing", 0.5]
    assert run("--checkpoint", checkpoint(clip_run), *again) == 0
    assert (tmp_path / "results" / "table.txt").is_file()
    assert len(read_rows(tmp_path / "results" / "left_out.csv")) == 2


def test_a_batch_that_is_too_many_does_not_end_the_list(clip_run, tmp_path, capsys):
    for name in ("a", "d"):
        (tmp_path / "test" / "frames" / f"{name}.jpg").write_bytes(b"broken")
    fail(
        capsys,
        *("--checkpoint", checkpoint(clip_run), "--max-missing", 0.3, "--batch-size", 1),
        *("--output-dir", tmp_path / "results"),
    )
    rows = read_rows(tmp_path / "results" / "left_out.csv")
    assert sorted(row["clip"] for row in rows) == ["a", "c", "d", "e"]


def test_a_set_of_which_nothing_can_be_read_is_listed(clip_run, tmp_path, capsys):
    for name in ("a", "b", "d"):
        (tmp_path / "test" / "frames" / f"{name}.jpg").write_bytes(b"broken")
    message = fail(capsys, "--checkpoint", checkpoint(clip_run), "--max-missing", 1)
    assert message.startswith("--test-root: none of the 5 test clips can be used; first e: ")
    output = clip_run / "evaluation-vggsound-ezvsl-test"
    assert [path.name for path in output.iterdir()] == ["left_out.csv"]
    assert len(read_rows(output / "left_out.csv")) == 5


def test_a_full_disk_is_one_line(clip_run, tmp_path, capsys, monkeypatch):
    full = Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr(os, "fsync", full)
    output = tmp_path / "results"
    message = fail(capsys, "--checkpoint", checkpoint(clip_run), "--output-dir", output)
    assert message == f"cannot write to {output}: No space left on device"
    assert not output.exists()


def test_what_is_interrupted_at_the_end_leaves_nothing(clip_run, capsys, monkeypatch):
    monkeypatch.setattr(report, "draw_gallery", Mock(side_effect=KeyboardInterrupt))
    assert run("--checkpoint", checkpoint(clip_run)) == 130
    assert capsys.readouterr().err == "interrupted; nothing was written\n"
    assert sorted(path.name for path in clip_run.iterdir()) == ["checkpoints", "config.json"]


@pytest.mark.parametrize("kind", ["scenes", "clips"])
def test_one_pair_becomes_a_picture(kind, trained, clip_run, tmp_path, object_weights, capsys):
    model = checkpoint(trained if kind == "scenes" else clip_run)
    files = [tmp_path / f"zpWuikVorYg_000032_from_somewhere.{kind}" for kind in ("png", "flac")]
    Image.new("RGBA", (90, 60), (200, 30, 30, 128)).save(files[0])
    time = np.arange(8_000) / 8_000
    soundfile.write(files[1], 0.5 * np.sin(2 * np.pi * 440 * time), 8_000)
    pair = ["--image", files[0], "--sound", files[1]]
    output = tmp_path / "maps" / "heat.png"
    ogl = ["--object-weights", object_weights] if kind == "clips" else []
    assert run("--checkpoint", model, *pair, *ogl, "--output", output) == 0
    assert f"written to {output}" in capsys.readouterr().out
    with Image.open(output) as image:
        image.load()
        assert image.width > (3 if ogl else 1.4) * image.height
        title = np.asarray(image.convert("L"))[:30]
        assert title.min() < 100
        assert title[:, -3:].min() > 250, "the title does not fit"
    assert [path.name for path in output.parent.iterdir()] == ["heat.png"]
    message = fail(capsys, "--checkpoint", model, *pair, "--output", output)
    assert message == f"--output: {output} holds results already; name another place"


@pytest.mark.parametrize("option", ["--image", "--sound"])
def test_unreadable_pairs(clip_run, tmp_path, capsys, option):
    none, text = tmp_path / "none", tmp_path / "text"
    text.write_text("neither")
    options = [
        *("--checkpoint", checkpoint(clip_run), "--output", tmp_path / "heat.png"),
        *("--image", tmp_path / "test" / "frames" / "a.jpg"),
        *("--sound", tmp_path / "test" / "audio" / "a.wav"),
    ]
    message = fail(capsys, *options, option, none)
    assert message == f"{option}: cannot read {none}: No such file or directory"
    message = fail(capsys, *options, option, text)
    reason = "cannot identify image file" if option == "--image" else ""
    assert message.startswith(f"{option}: cannot read {text}: {reason}")
    assert not (tmp_path / "heat.png").exists()


@pytest.mark.parametrize("kind", ["scenes", "clips"])
def test_maps_over_a_video(kind, trained, clip_run, tmp_path, capsys):
    model = checkpoint(trained if kind == "scenes" else clip_run)
    video = write_video(tmp_path / "in.mp4", seconds=1, fps=10)
    made = [tmp_path / "maps" / name for name in ("out.mp4", "strip.png")]
    options = ["--checkpoint", model, "--video", video, "--batch-size", 4]
    assert run(*options, "--output", made[0], "--strip", made[1]) == 0
    assert capsys.readouterr().out == "".join(f"written to {path}\n" for path in made)
    assert sorted((tmp_path / "maps").iterdir()) == made
    message = fail(capsys, *options, "--output", made[0])
    assert message == f"--output: {made[0]} holds results already; name another place"


def test_videos_that_cannot_be_used(clip_run, tmp_path, capsys):
    mute = write_video(tmp_path / "mute.mp4", seconds=1, acodec="")
    common = ["--checkpoint", checkpoint(clip_run), "--output", tmp_path / "out.mp4"]
    message = fail(capsys, *common, "--video", mute)
    assert message == f"--video: cannot read {mute}: no audio stream"
    message = fail(capsys, *common, "--video", tmp_path / "none.mp4")
    assert message == f"--video: cannot read {tmp_path / 'none.mp4'}: No such file or directory"
    assert not (tmp_path / "out.mp4").exists()


VIDEO = ["--video", "a.mp4", "--output", "b.mp4"]
PAIR = ["--image", "a.jpg", "--sound", "a.wav", "--output", "a.png"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--protocol", "best"], "--protocol: must be 'ezvsl-test', "),
        (["--dataset", "imagenet"], "--dataset: must be 'synthetic', 'vggsound', "),
        (["--batch-size", "0"], "--batch-size: must be a whole number of at least 1, got '0'"),
        (["--workers", "-1"], "--workers: must be a whole number of at least 0, got '-1'"),
        (["--object-share", "2"], "--object-share: must be between 0 and 1, got '2'"),
        (["--object-share", "nan"], "--object-share: must be between 0 and 1, got 'nan'"),
        (["--object-share", "0.5"], "--object-share needs --object-weights"),
        (["--image", "a.jpg"], "--image needs --sound and --output"),
        (["--video", "a.mp4"], "--video needs --output"),
        ([*VIDEO[:3], "b.avi"], "--output: must end in .mp4 or .gif, got b.avi"),
        ([*VIDEO, "--strip", "c.jpg"], "--strip: must end in .png, got c.jpg"),
        ([*VIDEO, "--sound", "a.wav"], "--sound does not go with --video"),
        ([*VIDEO, "--protocol", "lvs"], "--protocol does not go with --video"),
        ([*VIDEO, "--test-size", "3"], "--test-size is for a test set and does not go with --"),
        ([*PAIR, "--strip", "b.png"], "--strip needs --video"),
        (["--image", "a.jpg", "--sound", "a.wav"], "--image needs --output"),
        (["--output", "a.png"], "--output needs --image"),
        (["--image", "a", "--sound", "b", "--output", "c.jpg"], "--output: must end in .png"),
        ([*PAIR, "--dataset", "is3"], "--dataset is for a test set and does not go with --image"),
        ([*PAIR, "--test-size", "3"], "--test-size is for a test set and does not go with --image"),
        (["--dataset", "synthetic"], "--dataset synthetic: the checkpoint was trained on vggsound"),
        (["--test-list", "none.csv"], "--test-list: cannot read none.csv: No such file"),
        (["--test-root", "none"], "--test-root: there is no folder none"),
        (["--annotations", "none"], "--annotations: cannot read none: No such file"),
        (["--object-weights", "none.pth"], "--object-weights: cannot read none.pth: "),
    ],
)
def test_mistakes_are_named_in_one_line(clip_run, capsys, options, message):
    assert message in fail(capsys, "--checkpoint", checkpoint(clip_run), *options)
    assert sorted(path.name for path in clip_run.iterdir()) == ["checkpoints", "config.json"]


def test_a_device_that_is_none(clip_run, capsys):
    options = ["--checkpoint", checkpoint(clip_run), "--device", "abacus"]
    assert fault_of(capsys, evaluate, *options).startswith("--device: cannot use abacus: ")


def test_clips_without_annotations(clip_run, tmp_path, capsys):
    (tmp_path / "test.csv").write_text("x\ny\n")
    assert fail(capsys, "--checkpoint", checkpoint(clip_run)).startswith(
        "--test-root: none of the 2 test clips can be used; first x: no entry in --annotations; "
    )


def test_checkpoints_that_cannot_be_used(clip_run, tmp_path, capsys):
    path = checkpoint(clip_run)
    missing = tmp_path / "missing.ckpt"
    assert fail(capsys, "--checkpoint", missing) == f"--checkpoint: there is no file {missing}"
    config = clip_run / "config.json"
    change_settings(clip_run, encoder="resnet18")
    settings = config.read_text()
    message = fail(capsys, "--checkpoint", path)
    assert message == f"--checkpoint: {path} does not fit the settings in {config}"
    config.write_text("{}")
    message = fail(capsys, "--checkpoint", path)
    assert message == f"--checkpoint: {config} holds no settings of a run"
    config.unlink()
    message = fail(capsys, "--checkpoint", path)
    assert message == (
        f"--checkpoint: there is no config.json in {clip_run}, the folder of the run"
    )
    config.write_text(settings)
    path.write_bytes(b"broken")
    message = fail(capsys, "--checkpoint", path)
    assert message.startswith(f"--checkpoint: cannot read {path}: ")
    torch.save({"weights": 3}, path)
    message = fail(capsys, "--checkpoint", path)
    assert message == f"--checkpoint: {path} is no checkpoint of train_fnac.py"


def test_an_output_folder_in_use_is_left_alone(clip_run, tmp_path, capsys):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "notes.txt").write_text("mine")
    common = ["--checkpoint", checkpoint(clip_run), "--output-dir"]
    message = fail(capsys, *common, tmp_path / "used")
    assert message == f"--output-dir: {tmp_path / 'used'} holds results already; name another place"
    assert [path.name for path in (tmp_path / "used").iterdir()] == ["notes.txt"]
    message = fail(capsys, *common, tmp_path / "vggss.json" / "results")
    assert message.endswith(f"{tmp_path / 'vggss.json'} is no writable folder")
