# SPDX-License-Identifier: Apache-2.0
"""What the tables of make bench share: where things are, and Markdown rows that appear as they are measured."""
import math
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))
PARED = ROOT / "build/pared"
SHARED = Path(os.environ.get("PARED_SHARED", ROOT.parent / "shared"))
QUICK = "--quick" in sys.argv


def row(*cells):
    print(f"| {' | '.join(str(c) for c in cells)} |", flush=True)


def heading(title, columns):
    print(f"\n## {title}\n\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)


def geometric_mean(values):
    return math.exp(sum(math.log(v) for v in values) / len(values))
