r"""List the nearest samples of a training set, for HardPos and Cross-Modal Alignment.

    python examples/neighbours.py --checkpoint RUN/checkpoints/best.ckpt --output-dir LISTS --k 20
    python examples/neighbours.py --image-weights resnet18.pth \
        --checkpoint RUN/checkpoints/best.ckpt --dataset vggsound --data-root vggsound/train \
        --train-list vggss_144k.txt --labels labels.csv --output-dir LISTS
    python examples/train_fnac.py --loss hardpos --neighbours LISTS/neighbours.npz ...

The samples are those that train_fnac.py trains on with the same options. Started again, it goes on
where it stopped.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

import avcontrast
from avscenes.files.errors import UserError
from avscenes.files.output import writing_to
from avscenes.files.whole_files import write_json
from avscenes.options.neighbours import RESULT, Options, build_parser, check, complete
from avscenes.sets.clips import too_many
from avscenes.testing.results import LEFT_OUT, write_left_out
from avscenes.training.nearest import best_purity, chance_purity, purity
from avscenes.training.neighbours import (
    Samples,
    claim,
    digest_of,
    encode,
    encoded,
    encoders_of,
    load_image_network,
    read_samples,
    search,
    unit_features,
    write_lists,
)
from avscenes.training.trained import load_trained

_LENGTHS = (1, 10, 100)


def check_count(k: int, count: int) -> None:
    """Raise `UserError` when there are not so many other samples."""
    if k >= count:
        raise UserError(f"--k: must be below the number of samples, {count}, got {k}")


def list_neighbours(options: Options) -> None:
    """Encode the samples, find the neighbours of each, and write and print what comes out."""
    output, parts = options.output_dir, options.output_dir / "parts"
    trained = None
    if options.checkpoint is not None:
        trained = load_trained(options.checkpoint, options.device)
    settings = complete(options, trained)
    network = None
    if options.image_weights is not None:
        network = load_image_network(options.image_weights, options.device)
    encoders = encoders_of(trained, network)
    samples = read_samples(settings, options.labels)
    check_count(options.k, len(samples.names))
    about = {
        "dataset": settings.dataset,
        "data_root": settings.data_root and str(settings.data_root.absolute()),
        "ids": hashlib.sha256(repr(samples.names).encode()).hexdigest(),
        **{
            name: path and digest_of(path)
            for name in ("checkpoint", "image_weights")
            for path in [getattr(options, name)]
        },
        "k": options.k,
    }
    claim(parts, about)
    encode(parts, samples, encoders, batch_size=options.batch_size, workers=settings.workers)
    rows, skipped = encoded(parts, samples)
    if skipped:
        listed = write_left_out(output, skipped)
        if len(skipped) > settings.max_missing * len(samples.names):
            count, most = len(samples.names), settings.max_missing
            message = too_many("--data-root", "clips", count, skipped, most)
            raise UserError(f"{message}; the list: {listed}")
    check_count(options.k, len(rows))
    lists = {
        kind: search(parts, kind, unit_features(parts, samples, kind).to(options.device), options.k)
        for kind in (("image",) if encoders.sound is None else ("image", "sound"))
    }
    names = [samples.names[row] for row in rows.tolist()]
    purities = _purities(lists, samples, rows)
    versions = {"avcontrast": avcontrast.__version__, "torch": torch.__version__}
    counts = {"samples": len(names), "left_out": len(skipped)}
    write_json(output / "neighbours.json", {**about, **counts, "purity": purities, **versions})
    write_lists(output / RESULT, names, lists)
    shutil.rmtree(parts)
    for entry in skipped[:10]:
        print(f"left out: clip {entry.clip}: {entry.reason}")
    if len(skipped) > 10:
        print(f"left out: {len(skipped) - 10} more, all in {output / LEFT_OUT}")
    if purities:
        print(_table(purities))
    if encoders.sound is None:
        print(
            "note: --image-weights encode no sounds, so the lists are by image alone; "
            "train_fnac.py needs both, and --checkpoint encodes sounds"
        )
    print(f"the {options.k} nearest of {len(names)} samples written to {output / RESULT}")


def _purities(
    lists: dict[str, Tensor], samples: Samples, rows: Tensor
) -> dict[str, dict[int, float]]:
    """Return the share of neighbours of the same class by who lists them, if classes are known."""
    if samples.labels is None:
        return {}
    labels = samples.labels[rows]
    k = lists["image"].shape[1]
    lengths = [*(length for length in _LENGTHS if length < k), k]
    return {
        **{kind: purity(found, labels, lengths) for kind, found in lists.items()},
        "best possible": best_purity(labels, lengths),
        "chance": dict.fromkeys(lengths, chance_purity(labels)),
    }


def _table(purities: dict[str, dict[int, float]]) -> str:
    heading = "of the same class among the first"
    lines = [f"{heading}{''.join(f'{length:>8}' for length in purities['chance'])}"]
    for who, shares in purities.items():
        lines.append(
            f"  {who:<{len(heading) - 2}}{''.join(f'{share:>8.3f}' for share in shares.values())}"
        )
    return "\n".join(lines)


def run(options: Options) -> None:
    """Check the options and do everything."""
    check(options)
    with writing_to(options.output_dir):
        list_neighbours(options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    return build_parser().run(run, arguments, "the same command goes on where it stopped")


if __name__ == "__main__":
    sys.exit(main())
