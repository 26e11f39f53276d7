# SPDX-License-Identifier: Apache-2.0
"""What training gives after pruning, quantization and clustering: whole test sets judged by ONNX Runtime, beside published figures and controls.

    train_accuracy.py [--tables=a,b]       exit status 1 when a limit is missed; FULL=1: the long ones too (about an hour of two cores)

Tables (TABLES below):
  compression  Deep Compression of lenet300-mnist and lenet5-mnist: float bytes over .pared bytes (limits 40 / 39) at most 0.1 point below the original
  vit          vit-fashion, half of the heads and of the MLP width, distilled (limit: 1 point lost)
  quarter      resnet20-cifar, half of all channels, 3 epochs (limit 1 point above Torch-Pruning + SGD)                                      FULL
  sparse       resnet20-cifar, 90 % zeros, 3 epochs (limit: not below PyTorch doing the same)                                                FULL
  unlabelled   resnet20-cifar, half of all channels, 5 epochs of distillation without labels (limit 94 % of the float accuracy)             FULL
  int4         resnet20-cifar, 4-bit weights trained with distillation, beside the float network trained alike (limit 0.5 point)            FULL
  half         resnet20-cifar, half of the multiply-accumulates, distilled, beside the unpruned network trained alike (limit 1.5 points)    FULL
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import methods
from quant_accuracy import classes, paths

FULL = os.environ.get("FULL", "") not in ("", "0")


def run(model, folder, steps, data, seed=0):
    """`pared run` of a recipe: report, folder of the artifacts, seconds."""
    out = Path(folder) / f"out{len(list(Path(folder).iterdir()))}"
    recipe = Path(folder) / "recipe.json"
    recipe.write_text(json.dumps({"steps": steps, "seed": seed}))
    start = time.monotonic()
    done = subprocess.run([methods.PARED, "run", str(model), "--recipe", str(recipe), "--data", str(data), "--out", str(out), "--quiet", "--no-latency"],
                          capture_output=True, text=True)
    if done.returncode not in (0, 3):
        raise RuntimeError(done.stderr.strip())
    return json.loads((out / "report.json").read_text()), out, time.monotonic() - start


def network(name):
    """Path, training data, test samples and labels, top-1 of the network as it is."""
    model, _, test = paths(name)
    x, y = methods.load_dataset(test)
    return model, model.parent / f"{model.stem}.train.json", x, y, top1(model, x, y)


def top1(model, x, y):
    return float((classes(model, x) == y).mean())


# ---- recipes ----
def surgery(sparsity, **train):
    """Dynamic network surgery: weights go and come back while the network trains."""
    return {"method": "train.finetune", **train, "steps": [{"method": "prune.weights", "schedule": "surgery", "scope": "global", "sparsity": sparsity}]}


SHARED_VALUES = [{"method": "encode.cluster", "bits": 4}, {"method": "train.finetune", "epochs": 3, "optimizer": "adam", "lr": 1e-4, "weight_decay": 0}, {"method": "encode.container"}]
COMPRESSION = {
    "ours/lenet300-mnist": (40, [surgery(0.97, epochs=60, optimizer="adam", lr=2e-3, l1=2e-5, weight_decay=0)] + SHARED_VALUES),
    "ours/lenet5-mnist": (39, [surgery(0.985, epochs=15, optimizer="adam", lr=1e-3, l1=5e-5, weight_decay=0)] + SHARED_VALUES),
}
HALF_CHANNELS = {"method": "prune.channels", "ratio": 0.5, "samples": 512}
HALF_MACS = {"method": "prune.channels", "target": "macs:0.5", "allocation": "sensitivity", "samples": 512}
NINETY_ZEROS = {"method": "prune.weights", "sparsity": 0.9, "criterion": "obs", "samples": 512}


# ---- the tables: each yields (line, missed) ----
def compression(folder):
    yield f"{'network':16} {'top-1':>8} {'after':>8} {'float bytes':>12} {'.pared':>8} {'ratio':>7} {'limit':>6} {'non-zero':>9} {'min':>5}", False
    for name, (limit, steps) in COMPRESSION.items():
        model, train, x, y, full = network(name)
        report, out, seconds = run(model, folder, steps, train)
        decoded = Path(folder) / "decoded.onnx"
        decoded.write_bytes(subprocess.run([methods.PARED, "decode", out / "model.pared"], check=True, capture_output=True).stdout)
        got, size = top1(decoded, x, y), (out / "model.pared").stat().st_size
        floats = 4 * report["before"]["params"]
        yield (f"{model.stem:16} {full:8.2%} {got:8.2%} {floats:12,} {size:8,} {floats / size:7.1f} {limit:6} {report['after']['nonzero']:9,} {seconds / 60:5.1f}",
               floats / size < limit or got < full - 0.00105)


def accuracy(label, folder, steps, name, limit, control=None, against=None):
    """A row: the network after the steps, at least `limit`, or at most `limit` below the control steps' network."""
    model, train, x, y, full = network(name)
    report, out, seconds = run(model, folder, steps, train)
    got = top1(out / "model.onnx", x, y)
    line = f"{label:58} {full:8.2%} {got:8.2%}  MACs x {report['ratio']['macs']:.3f}, non-zero x {report['ratio']['nonzero']:.3f}, {seconds / 60:.1f} min"
    if control is not None:
        _, peer, _ = run(model, folder, control, train)
        theirs = top1(peer / "model.onnx", x, y)
        return f"{line}; control {theirs:.2%}, drop {100 * (theirs - got):.2f} (limit {100 * limit:g})", theirs - got > limit
    return f"{line}; limit {limit:.2%}{f', {against}' if against else ''}", got < limit


def head():
    return f"{'what':58} {'top-1':>8} {'after':>8}", False


def vit(folder):
    _, _, _, _, full = network("ours/vit-fashion")
    yield head()
    yield accuracy("vit-fashion, half of heads and MLP width, distilled", folder,
                   [{"method": "prune.heads", "ratio": 0.5, "samples": 512}, {"method": "prune.channels", "ratio": 0.5, "include": ["*fc1*"], "samples": 512},
                    {"method": "train.distill", "epochs": 12, "optimizer": "adamw", "lr": 1e-3}], "ours/vit-fashion", full - 0.01)


def quarter(folder):
    yield head()
    yield accuracy("half of all channels, 3 epochs of train.finetune", folder, [HALF_CHANNELS, {"method": "train.finetune", "epochs": 3}], "ours/resnet20-cifar", 0.8038, against="Torch-Pruning 79.38 %")
    yield accuracy("half of all channels, 3 epochs of train.distill", folder, [HALF_CHANNELS, {"method": "train.distill", "epochs": 3}], "ours/resnet20-cifar", 0.8038, against="Torch-Pruning 79.38 %")


def sparse(folder):
    yield head()
    yield accuracy("90 % zeros, 3 epochs of train.finetune", folder, [NINETY_ZEROS, {"method": "train.finetune", "epochs": 3}], "ours/resnet20-cifar", 0.8195, against="PyTorch 81.95 %")


def unlabelled(folder):
    _, _, _, _, full = network("ours/resnet20-cifar")
    yield head()
    yield accuracy("half of all channels, 5 epochs of train.distill labels=ignore", folder, [HALF_CHANNELS, {"method": "train.distill", "epochs": 5, "labels": "ignore"}],
                   "ours/resnet20-cifar", 0.94 * full)


def int4(folder):
    yield head()
    yield accuracy("4-bit weights, 8-bit activations, train.qat", folder, [{"method": "graph.optimize"}, {"method": "quantize.static", "weights": "int4", "samples": 512}, {"method": "train.qat", "epochs": 3}],
                   "ours/resnet20-cifar", 0.005, control=[{"method": "train.distill", "epochs": 3, "keep": "last"}])


def half(folder):
    yield head()
    yield accuracy("half of the MACs by channels, train.distill", folder, [HALF_MACS, {"method": "train.distill", "epochs": 8}], "ours/resnet20-cifar", 0.015,
                   control=[{"method": "train.distill", "epochs": 8}])


TABLES = {"compression": compression, "vit": vit, "quarter": quarter, "sparse": sparse, "unlabelled": unlabelled, "int4": int4, "half": half}
LONG = ("quarter", "sparse", "unlabelled", "int4", "half")


def main():
    options = dict(w[2:].split("=") for w in sys.argv[1:] if w.startswith("--"))
    if not methods.SHARED:
        print("skipped: no shared data")
        return 0
    missed = 0
    for title in options["tables"].split(",") if "tables" in options else [t for t in TABLES if FULL or t not in LONG]:
        print(f"\n{title}")
        with tempfile.TemporaryDirectory() as folder:
            for line, bad in TABLES[title](folder):
                missed += bad
                print(f"{line}{'   MISSED' if bad else ''}", flush=True)
    print(f"\n{missed} limits are missed" if missed else "\nevery limit is met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
