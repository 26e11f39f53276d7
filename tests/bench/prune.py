# SPDX-License-Identifier: Apache-2.0
"""Figures of pruning: how long finding, scoring and cutting take, in how much memory, and what half the multiply-accumulates gain in ONNX
Runtime."""
import tempfile
from pathlib import Path

from engine import filled, peer_is_missing
from quantize import ort_ratio, run
from table import QUICK, heading, row

STRUCTURES = ["structures/resnet18", "structures/resnet50", "structures/densenet121_bn", "structures/shufflenet_v2_x1_0", "structures/vit_b_16"]
FASTER = ["ours/resnet20-cifar", "structures/squeezenet1_1", "structures/mobilenet_v2", "ours/mobilenetv3ish-fashion"]


def cutting(folder):
    heading("Pruning half of the channels by l2, no data (wanted: ResNet-18 below 2 s)", ["model", "parameters", "MACs", "step s", "peak of the step, MB"])
    for name in STRUCTURES[:2] if QUICK else STRUCTURES:
        report, why, _ = run(filled(name, folder), "prune.channels ratio=0.5 recover=none", None, Path(folder, "cut"), "--no-latency")
        if not report:
            row(name, why, "", "", "")
            continue
        step, ratio = report["steps"][0], report["ratio"]
        row(name, f"{ratio['params']:.3f}", f"{ratio['macs']:.3f}", f"{step['seconds']:.2f}", f"{step['peak_rss_bytes'] / 1e6:.0f}")


def large(folder):
    """1 GB of 1x1 convolutions."""
    import numpy as np
    import onnx
    side, count = 2048, 8 if QUICK else 64
    rng, path = np.random.default_rng(0), Path(folder, "large.onnx")
    first = rng.standard_normal((side, side, 1, 1)).astype(np.float32) / np.float32(side ** 0.5)
    nodes = [onnx.helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], name=f"conv{i}") for i in range(count)]
    ends = [onnx.helper.make_tensor_value_info(f"x{i}", onnx.TensorProto.FLOAT, [1, side, 1, 1]) for i in (0, count)]
    graph = onnx.helper.make_graph(nodes, "large", ends[:1], ends[1:], [onnx.numpy_helper.from_array(np.roll(first, i, 0), f"w{i}") for i in range(count)])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    heading("Pruning a large model, no data (wanted for 1 GB: below 10 s and 1.2 times the model)", ["bytes", "step s", "peak of the step / model"])
    report, why, _ = run(path, "prune.channels ratio=0.5", None, Path(folder, "cut"), "--no-latency")
    size = path.stat().st_size
    row(f"{size / 1e9:.2f} G", *(f"{report['steps'][0]['seconds']:.1f}", f"{report['steps'][0]['peak_rss_bytes'] / size:.2f}") if report else (why, ""))


def faster(folder):
    heading("Pruned to half the multiply-accumulates, channels in eights: ONNX Runtime, batch 1, 1 thread, p50 in ms (wanted >= 1.5)",
            ["model", "MACs", "before", "after", "times faster", "bytes"])
    for name in FASTER:
        model = filled(name, folder)
        report, why, _ = run(model, "prune.channels target=macs:0.5 round_to=8 recover=none", None, Path(folder, "cut"), "--no-latency")
        if not report:
            row(name, why, "", "", "", "")
            continue
        before, after = ort_ratio(model, Path(folder, "cut/model.onnx"), 10 if QUICK else 100)
        row(name, f"{report['ratio']['macs']:.3f}", f"{before:.3f}", f"{after:.3f}", f"{before / after:.2f}", f"{report['ratio']['bytes']:.3f}")


def prune():
    if peer_is_missing():
        return
    for table in (cutting, large, faster):
        with tempfile.TemporaryDirectory() as folder:
            table(folder)
