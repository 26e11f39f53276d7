# SPDX-License-Identifier: Apache-2.0
"""A training step (forward, backward, SGD) beside PyTorch's on the same network and batch."""
import subprocess
import sys

from table import ROOT, SHARED, heading


def training():
    try:
        import torch  # noqa: F401
    except ImportError:
        print("\nPyTorch is missing (4 GB; `make bench-peers` installs it): training steps are not compared.")
        return
    if not (SHARED / "models").is_dir():
        print("\nskipped: no shared data")
        return
    heading("Training step, float32, batch 128: p50 in ms (wanted: <= 1.3 with 2 threads)", ["model", "threads", "pared", "PyTorch", "ratio"])
    sys.stdout.flush()
    subprocess.run([sys.executable, ROOT / "tests/bench/train_step.py", "--markdown"])
