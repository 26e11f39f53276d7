# SPDX-License-Identifier: Apache-2.0
"""A training step (forward, backward, SGD) beside PyTorch's on the same network and batch."""
from table import QUICK, SHARED, heading, row

import train_step


def training():
    try:
        import torch  # noqa: F401
    except ImportError:
        print("\nPyTorch is missing (4 GB; `make bench-peers` installs it): training steps are not compared.")
        return
    if not (SHARED / "models").is_dir():
        print("\nskipped: no shared data")
        return
    heading("Training step, float32: fastest of alternating runs in ms (wanted: <= 1, aim 0.77, with 2 threads); memory is the peak beyond what the process had before", ["model", "batch", "threads", "pared", "PyTorch", "ratio", "ratio of CPU time", "pared MB", "PyTorch MB"])
    for threads in (2,) if QUICK else (1, 2):
        train_step.measure(threads, SHARED, 3 if QUICK else 8, say=lambda r: row(r["model"], r["batch"], r["threads"], f"{r['pared_ms']:.0f}", f"{r['torch_ms']:.0f}", f"{r['ratio']:.2f}", f"{r['cpu_ratio']:.2f}", f"{r['pared_mb']:.0f}",
                                                                                       f"{r['torch_mb']:.0f}"))
