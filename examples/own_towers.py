r"""Train, evaluate and look at towers of your own: here a ViT and an AST of Hugging Face.

    python examples/own_towers.py --clips CLIPS --output-dir RUN
    python examples/own_towers.py --clips CLIPS --output-dir RUN --epochs 3 \
        --annotations boxes.json --labels labels.csv --video street.mp4

CLIPS is what `prepare.py` makes of a folder of videos. Both networks stay as they are; a linear
layer behind each is trained. Needs `pip install transformers` beside the extra `examples`.

To take towers of your own, write two functions like `see` and `hear` below: everything after them
knows nothing else about a model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from pydantic import BaseModel, Field
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm  # type: ignore[import-untyped]

from avcontrast import InfoNCE
from avscenes.files.errors import UserError
from avscenes.files.output import check_free, writing_to
from avscenes.files.strict import Count, File, Positive, Whole, option
from avscenes.files.whole_files import write_whole
from avscenes.media.audio import SAMPLE_RATE
from avscenes.media.footage import Unreadable, read_footage
from avscenes.options.parser import ModelParser
from avscenes.pictures.heat_video import heat_video
from avscenes.pictures.report import evaluate_towers
from avscenes.sets.clips import RawPairs, check_files, clips_in
from avscenes.sets.lists import check_layout
from avscenes.sets.own import pairs_in, split_of
from avscenes.testing.towers import Towers

SECONDS = 10  # of sound, for which AST was trained
HELD_OUT = 0.2


class Options(BaseModel, strict=True, frozen=True):
    """The options."""

    clips: File = Field(description="folder with frames/ID.jpg and audio/ID.wav")
    output_dir: File = Field(description="where the results go")
    image_model: str = option("google/vit-base-patch16-224", "a ViT, by its name or folder")
    audio_model: str = option("MIT/ast-finetuned-audioset-10-10-0.4593", "an AST, likewise")
    epochs: Whole = option(3, "passes over the clips")
    batch_size: Count = option(32, "pairs in a batch")
    lr: Positive = option(1e-3, "learning rate of Adam")
    annotations: File | None = option(None, "boxes of held-out clips, for localisation")
    labels: File | None = option(None, "classes of held-out clips, for retrieval by class")
    video: File | None = option(None, "a video to draw the maps over")


class Pair(nn.Module):
    """A ViT and an AST with a linear layer behind each, as functions of raw inputs.

    Args:
        vit: `transformers.ViTModel`.
        ast: `transformers.ASTModel`.
        extract: `transformers.ASTFeatureExtractor` for it.
        dim: Of the features in which images and sounds meet.
    """

    def __init__(self, vit: Any, ast: Any, extract: Any, dim: int = 256) -> None:  # noqa: ANN401
        super().__init__()
        self.vit = vit.requires_grad_(False).eval()
        self.ast = ast.requires_grad_(False).eval()
        self.extract = extract
        self.visual = nn.Conv2d(vit.config.hidden_size, dim, 1)
        self.audio = nn.Linear(ast.config.hidden_size, dim)

    def see(self, images: Tensor) -> Tensor:
        """Encode images, uint8 [b, 3, size, size], as maps [b, dim, h, w]."""
        pixels = (images / 255 - 0.5) / 0.5  # as this ViT was trained
        tokens = self.vit(pixel_values=pixels.to(self.audio.weight)).last_hidden_state
        side = images.shape[-1] // self.vit.config.patch_size
        patches = tokens[:, -side * side :]  # the class token comes first
        maps: Tensor = self.visual(patches.transpose(1, 2).unflatten(2, (side, side)))
        return maps

    def hear(self, waves: Tensor) -> Tensor:
        """Encode sounds, [b, n] at 16 kHz, as vectors [b, dim]."""
        sounds = [wave.numpy() for wave in waves]
        inputs = self.extract(sounds, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_values
        vectors: Tensor = self.audio(self.ast(inputs.to(self.audio.weight)).pooler_output)
        return vectors

    def towers(self) -> Towers:
        """Return what evaluation and pictures take."""
        return Towers(self.see, self.hear, self.vit.config.image_size, SECONDS)


def load_pair(image_model: str, audio_model: str) -> Pair:
    """Return pretrained networks; they are downloaded unless they are folders.

    Raises:
        UserError: When transformers is not installed or there is no such model.
    """
    try:
        from transformers import ASTFeatureExtractor, ASTModel, ViTModel
    except ModuleNotFoundError as error:
        raise UserError(f"it needs {error.name}: pip install transformers") from error
    try:
        vit = ViTModel.from_pretrained(image_model, add_pooling_layer=False)
        ast = ASTModel.from_pretrained(audio_model)
        extract = ASTFeatureExtractor.from_pretrained(audio_model)
    except OSError as error:
        raise UserError(f"cannot load a model: {str(error).splitlines()[0]}") from error
    return Pair(vit, ast, extract)


def train(pair: Pair, clips: RawPairs, epochs: int, batch_size: int, lr: float) -> None:
    """Train the two linear layers."""
    criterion = InfoNCE()
    layers = [*pair.visual.parameters(), *pair.audio.parameters()]
    optimizer = torch.optim.Adam(layers, lr=lr)
    loader = DataLoader(clips, batch_size, shuffle=True, drop_last=True)
    for epoch in range(epochs):
        total = 0.0
        for images, waves in tqdm(loader, desc=f"epoch {epoch + 1}", leave=False, disable=None):
            loss = criterion(pair.see(images), pair.hear(waves))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / len(loader):.3f}", flush=True)


def run(options: Options) -> None:
    """Train on the clips of a folder, evaluate on those held out, and draw over a video."""
    pair = load_pair(options.image_model, options.audio_model)
    root, output = options.clips, options.output_dir
    check_free("--output-dir", output)
    check_layout("--clips", root, ())
    footage = None
    if options.video is not None:
        try:
            footage = read_footage(options.video)
        except Unreadable as error:
            raise UserError(f"--video: {error}") from error
    try:
        split = split_of(pairs_in("--clips", root).pairs, HELD_OUT)
    except ValueError as error:
        raise UserError(f"--clips: {error} in {root}") from error
    broken = {entry.clip for entry in check_files("train", clips_in(root, split.train), 1)}
    usable = [clip for clip in clips_in(root, split.train) if clip.name not in broken]
    batch_size = min(options.batch_size, len(usable))
    if batch_size < 2:
        raise UserError(f"--clips: {len(usable)} clips of {root} can be read to train on")
    towers = pair.towers()
    with writing_to(output):
        clips = RawPairs(usable, towers.image_size, towers.seconds)
        train(pair, clips, options.epochs, batch_size, options.lr)
        listed = output / "test.txt"
        write_whole(listed, "".join(f"{clip}\n" for clip in split.test).encode())
        report = evaluate_towers(
            towers,
            output / "evaluation",
            "clips",
            name=f"{options.image_model} with {options.audio_model}",
            batch_size=batch_size,
            test_root=root,
            test_list=listed,
            annotations=options.annotations,
            labels=options.labels,
        )
        print(report.text)
        if footage is not None:
            heat_video(towers, footage, output / "heat.mp4", strip=output / "strip.png")
    print(f"\nwritten to {output}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    description = "Train, evaluate and look at a ViT and an AST of Hugging Face."
    return ModelParser(Options, "own_towers.py", description).run(run, arguments)


if __name__ == "__main__":
    sys.exit(main())
