r"""Compute from boxes alone what a localisation score has to be compared with.

    python examples/baselines.py --annotations vggss.json
    python examples/baselines.py --annotations vggss.json \
        --test-list vggss_heard_test.csv --train-list vggss_heard.txt

No image, sound or model is read.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from avcontrast import metrics
from avscenes.files.errors import UserError
from avscenes.options.parser import OneLineParser
from avscenes.sets.vggss import read_annotations
from avscenes.testing.baselines import chosen, find, overlap, report

MAIN = ("ezvsl-test", "lvs", "alignment-adaptive")


def build_parser() -> OneLineParser:
    """Return the parser."""
    parser = OneLineParser(
        prog="baselines.py",
        description="Compute from boxes alone what a localisation score has to be compared with.",
        allow_abbrev=False,
    )
    parser.add_argument("--annotations", type=Path, required=True, help="vggss.json")
    parser.add_argument("--test-list", type=Path, help="ids of the clips (default: all)")
    parser.add_argument("--train-list", type=Path, help="ids to look for the test clips in")
    parser.add_argument(
        "--protocols",
        nargs="+",
        choices=list(metrics.PROTOCOLS),
        default=list(MAIN),
        metavar="NAME",
        help=f"of {', '.join(metrics.PROTOCOLS)} (default: {' '.join(MAIN)})",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random maps (default: 0)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 2 for wrong usage."""
    settings: argparse.Namespace = build_parser().parse_args(arguments)
    try:
        annotations = chosen(read_annotations(settings.annotations), settings.test_list)
        # First, because it takes no time.
        shared = settings.train_list and overlap(settings.train_list, list(annotations))
        findings = find(annotations, list(dict.fromkeys(settings.protocols)), settings.seed)
    except UserError as error:
        print(f"baselines.py: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + 2
    print(report(annotations, findings))
    if shared:
        print(f"\n{shared}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
