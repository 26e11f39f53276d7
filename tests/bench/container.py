# SPDX-License-Identifier: Apache-2.0
"""Figures of containers: bytes of model.pared beside `xz -9` of the same model.onnx, and how fast both are unpacked (user CPU time, the
smallest of some runs, against the float bytes of the model's parameters)."""
import json
import lzma
import resource
import subprocess
import tempfile
from pathlib import Path

from engine import filled
from table import PARED, QUICK, heading, row

MODELS = ["ours/lenet5-mnist", "ours/vit-fashion", "structures/resnet18"]
KINDS = {"float": [], "90 % zeros": ["prune.weights sparsity=0.9"], "80 % zeros, 16 values": ["prune.weights sparsity=0.8", "encode.cluster bits=4"],
         "float16": ["quantize.fp16"], "4-bit blocks": ["quantize.weights bits=4"], "int8": ["quantize.dynamic conv=true"]}


def cpu_seconds(*command):
    """Of the fastest of three runs."""
    best = float("inf")
    for _ in range(1 if QUICK else 3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def container():
    heading("Containers: bytes beside xz -9 of the same file (wanted: smaller, aim 0.9), float bytes unpacked a second of one core (wanted: >= 200 MB/s)",
            ["model", "kind", "model.onnx", "xz -9", "model.pared", "ratio", "decode MB/s", "xz -d MB/s"])
    with tempfile.TemporaryDirectory() as folder:
        for name in MODELS[:2] if QUICK else MODELS:
            for kind, steps in KINDS.items():
                out = Path(folder, "out")
                words = [w for s in [*steps, "encode.container"] for w in ("--step", s)]
                done = subprocess.run([PARED, "run", filled(name, folder), *words, "--out", out, "--quiet", "--no-latency"], capture_output=True, text=True)
                if done.returncode:
                    row(name, kind, done.stderr.strip(), "", "", "", "", "")
                    continue
                model, packed, xz = out / "model.onnx", out / "model.pared", Path(folder, "model.xz")
                xz.write_bytes(lzma.compress(model.read_bytes(), preset=9))
                floats = 4e-6 * json.loads((out / "report.json").read_text())["before"]["params"]
                speed = [f"{floats / seconds:.0f}" if floats > 1 and seconds > 0 else "" for seconds in
                         (cpu_seconds(PARED, "decode", packed), cpu_seconds("xz", "-dc", xz))]
                size = packed.stat().st_size
                row(name, kind, *(f"{p.stat().st_size:,}" for p in (model, xz)), f"{size:,}", f"{size / xz.stat().st_size:.3f}", *speed)
