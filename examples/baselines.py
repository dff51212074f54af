r"""Compute from boxes alone what a localisation score has to be compared with.

    python examples/baselines.py --annotations vggss.json
    python examples/baselines.py --annotations vggss.json \
        --test-list vggss_heard_test.csv --train-list vggss_heard.txt

No image, sound or model is read.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from pydantic import BaseModel, Field

from avscenes.files.strict import File, option
from avscenes.options.parser import ModelParser
from avscenes.sets.vggss import read_annotations
from avscenes.testing.baselines import chosen, find, overlap, report
from avscenes.testing.settings import Protocol

MAIN = ("ezvsl-test", "lvs", "alignment-adaptive")


class Options(BaseModel, strict=True, frozen=True):
    """The options."""

    annotations: File = Field(description="vggss.json")
    test_list: File | None = option(None, "ids of the clips (default: all)")
    train_list: File | None = option(None, "ids to look for the test clips in")
    protocols: list[Protocol] = list(MAIN)
    seed: int = option(0, "of the random maps")


def compute(settings: Options) -> None:
    """Print everything."""
    annotations = chosen(read_annotations(settings.annotations), settings.test_list)
    # First, because it takes no time.
    shared = settings.train_list and overlap(settings.train_list, list(annotations))
    findings = find(annotations, list(dict.fromkeys(settings.protocols)), settings.seed)
    print(report(annotations, findings))
    if shared:
        print(f"\n{shared}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 2 for wrong usage."""
    description = "Compute from boxes alone what a localisation score has to be compared with."
    return ModelParser(Options, "baselines.py", description).run(compute, arguments)


if __name__ == "__main__":
    sys.exit(main())
