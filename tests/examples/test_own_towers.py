import sys
from itertools import chain

import own_towers
import pytest
import torch
from script_runs import fault_of, run_script
from small_sets import write_image, write_sound
from video_files import write_video

from avscenes.files.errors import UserError


@pytest.fixture
def folder(tmp_path):
    for number in range(8):
        write_image(tmp_path / "clips" / "frames" / f"c{number}.jpg", number, (5 * number, 8))
        write_sound(tmp_path / "clips" / "audio" / f"c{number}.wav", number)
    return tmp_path / "clips"


@pytest.fixture
def models(tmp_path):
    """Folders of a tiny ViT and a tiny AST with random weights."""
    transformers = pytest.importorskip("transformers")
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    vit = transformers.ViTConfig(**size, intermediate_size=16, image_size=32, patch_size=8)
    transformers.ViTModel(vit, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    ast = transformers.ASTConfig(**size, intermediate_size=16, max_length=64)
    transformers.ASTModel(ast).save_pretrained(tmp_path / "ast")
    transformers.ASTFeatureExtractor(max_length=64).save_pretrained(tmp_path / "ast")
    return {"--image-model": tmp_path / "vit", "--audio-model": tmp_path / "ast"}


@pytest.mark.filterwarnings("default")  # of transformers, whose warnings are not ours
def test_two_networks_of_hugging_face_are_trained_evaluated_and_shown(
    models, folder, tmp_path, capsys
):
    video = write_video(tmp_path / "in.mp4", seconds=1, fps=10)
    options = {"--clips": folder, "--output-dir": tmp_path / "run", "--epochs": 1, **models}
    words = [*chain(*options.items()), "--batch-size", 2, "--video", video]
    assert run_script(own_towers, *words) == 0
    printed = capsys.readouterr().out
    assert "epoch 1: loss " in printed
    assert "R@1, own pair, image to sound" in printed
    made = {str(path.relative_to(tmp_path / "run")) for path in (tmp_path / "run").rglob("*.*")}
    assert made == {
        *("test.txt", "heat.mp4", "strip.png", "evaluation/gallery.png", "evaluation/table.txt"),
        *("evaluation/metrics.json", "evaluation/samples.csv"),
    }


@pytest.mark.filterwarnings("default")
def test_patches_keep_their_places(models):
    pair = own_towers.load_pair(str(models["--image-model"]), str(models["--audio-model"]))
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    images[1, :, :8, 24:] = 255  # the last patch of the first row
    with torch.no_grad():
        maps = pair.see(images)
        assert pair.hear(torch.rand(2, 16_000) - 0.5).shape == (2, 256)
    assert maps.shape == (2, 256, 4, 4)
    change = (maps[1] - maps[0]).norm(dim=0)
    assert change.flatten().argmax() == 3
    assert not any(weight.requires_grad for weight in pair.vit.parameters())


def test_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "transformers", None)
    options = ["--clips", tmp_path, "--output-dir", tmp_path / "run"]
    fault = fault_of(capsys, own_towers, *options)
    assert fault == "it needs transformers: pip install transformers"
    with pytest.raises(UserError, match="it needs transformers"):
        own_towers.load_pair("a", "b")
