# SPDX-License-Identifier: Apache-2.0
"""Figures of the engine beside ONNX Runtime: forward passes in float and int8, memory, and how time grows."""
import gzip
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from table import PARED, QUICK, SHARED, geometric_mean, heading, row

FLOAT = ["squeezenet_fp32_from_fp16", "mlperftiny_resnet8_cifar10", "ours/resnet20-cifar", "mlperftiny_vww_mobilenetv1_025_96", "structures/mobilenet_v2",
         "structures/resnet18", "structures/resnet50", "version-RFB-320", "super-resolution-10", "ours/vit-fashion"]
OTHERS = ["ours/lenet5-mnist", "ours/mobilenetv3ish-fashion", "ours/densenet-fashion", "ours/shuffle-cifar", "structures/vit_b_16", "structures/efficientnet_b0",
          "structures/lstm_text", "magika_standard_v3_3", "dtln_model_1"]


def filled(name, folder):
    """Path of a model; a structure gets seeded weights by the shared tool."""
    if not name.startswith("structures/"):
        return SHARED / "models" / f"{name}.onnx"
    out = Path(folder, name.split("/")[1] + ".onnx")
    if not out.exists():
        import onnx
        spec = importlib.util.spec_from_file_location("fill_weights", SHARED / "tools/fill_weights.py")
        tool = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(tool)
        raw = gzip.open(SHARED / "models" / f"{name}.onnx.gz").read()
        onnx.save(tool.fill(onnx.load_model_from_string(raw), 0), out)
    return out


def peer_is_missing():
    try:
        import onnxruntime  # noqa: F401
    except ImportError:
        print("\nonnxruntime is missing: the engine is not compared.")
        return True
    if not (SHARED / "models").is_dir():
        print("\nskipped: no shared data")
        return True
    return False


def against_ort(path, threads, batch=1):
    """One measurement by `pared bench --against ort`; the better of two, so that one disturbance does not count."""
    best = None
    for _ in range(1 if QUICK else 2):
        done = subprocess.run([PARED, "bench", path, "--threads", str(threads), "--batch", str(batch), "--against", "ort", "--json"], capture_output=True, text=True,
                              env={**os.environ, "PARED_PYTHON": sys.executable})
        if done.returncode:
            return None, done.stderr.strip().splitlines()[-1] if done.stderr else "failed"
        got = json.loads(done.stdout)
        if best is None or got["ratio"] < best["ratio"]:
            best = got
    return best, None


def compare(paths):
    """Rows for [(name, path)], 1 and 2 threads; returns the ratios by thread count."""
    ratios = {1: [], 2: []}
    for name, path in paths:
        for threads in (1, 2):
            got, why = against_ort(path, threads)
            if not got:
                row(name, threads, why, "", "")
                continue
            ratios[threads].append(got["ratio"])
            row(name, threads, f"{got['p50_ms']:.3f}", f"{got['ort']['p50_ms']:.3f}", f"{got['ratio']:.2f}")
    for threads, values in ratios.items():
        if values:
            row("**geometric mean**", threads, "", "", f"**{geometric_mean(values):.2f}**, worst {max(values):.2f}")
    return ratios


COLUMNS = ["model", "threads", "pared", "ONNX Runtime", "ratio"]


def forward():
    if peer_is_missing():
        return
    with tempfile.TemporaryDirectory() as folder:
        heading("Forward pass, float32, batch 1: p50 in ms, alternating (wanted: geometric mean <= 1.2, none > 1.6)", COLUMNS)
        compare([(n, filled(n, folder)) for n in FLOAT])
        if not QUICK:
            heading("Forward pass of other models", COLUMNS)
            compare([(n, filled(n, folder)) for n in OTHERS])


def quantize(path, out, form):
    """ONNX Runtime's own quantizer, per channel, uint8 activations and int8 weights, random calibration data."""
    import numpy as np
    import onnx
    import onnxruntime as ort
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(q.CalibrationDataReader):
        def __init__(self):
            session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            rng = np.random.default_rng(0)
            self.left = [{i.name: rng.normal(size=[d if isinstance(d, int) else 1 for d in i.shape]).astype(np.float32) for i in session.get_inputs()} for _ in range(4)]

        def get_next(self):
            return self.left.pop() if self.left else None

    model = onnx.load(path)
    if max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1) < 13:
        path = out.with_suffix(".13.onnx")
        onnx.save(onnx.version_converter.convert_version(model, 13), path)
    ready = out.with_suffix(".ready.onnx")
    try:  # its own preparation, which it asks for: BatchNormalization folded, shapes inferred
        quant_pre_process(str(path), str(ready), skip_symbolic_shape=True)
        path = ready
    except Exception as e:
        print(f"({out.stem}: not prepared: {type(e).__name__})", file=sys.stderr)
    q.quantize_static(str(path), str(out), Reader(), quant_format=form, per_channel=True, activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8)
    return out


def int8():
    if peer_is_missing():
        return
    from onnxruntime.quantization import QuantFormat
    with tempfile.TemporaryDirectory() as folder:
        for form in (QuantFormat.QDQ, QuantFormat.QOperator):
            heading(f"Forward pass, int8 {form.name} files of ONNX Runtime's quantizer, batch 1: p50 in ms (wanted: geometric mean <= 1.4)", COLUMNS)
            paths = []
            for name in FLOAT:
                try:
                    paths.append((name, quantize(filled(name, folder), Path(folder, f"{name.replace('/', '-')}.{form.name}.onnx"), form)))
                except Exception as e:  # the peer's quantizer fails on some: say so and go on
                    row(name, "", f"the quantizer fails: {type(e).__name__}", "", "")
            compare(paths)


RSS_SCRIPT = """
import os, sys
pid = os.fork()
if pid == 0:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.execv(sys.argv[1], sys.argv[1:])
_, status, usage = os.wait4(pid, 0)
print(usage.ru_maxrss * 1024 if status == 0 else 0)
"""


def peak_rss(command):
    """Largest resident set of a command. Started from a small process: a child's figure begins with what its parent had when it forked."""
    done = subprocess.run([sys.executable, "-S", "-E", "-c", RSS_SCRIPT, *map(str, command)], capture_output=True, text=True)
    return int(done.stdout or 0)


ORT_SCRIPT = """
import sys, numpy as np, onnxruntime as ort
s = ort.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
z = np.load(sys.argv[2])
s.run(None, {i.name: z[i.name] for i in s.get_inputs()})
"""


def memory():
    if peer_is_missing():
        return
    import numpy as np
    import onnxruntime as ort
    heading("Peak resident memory of one forward pass: `pared eval` and an ONNX Runtime script (wanted for squeezenet: <= 0.6)", ["model", "pared", "ONNX Runtime", "ratio"])
    with tempfile.TemporaryDirectory() as folder:
        for name in ["squeezenet_fp32_from_fp16", "mlperftiny_resnet8_cifar10", "structures/mobilenet_v2", "structures/resnet50"]:
            path, data = filled(name, folder), Path(folder, "x.npz")
            session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
            np.savez(data, **{i.name: np.zeros([d if isinstance(d, int) else 1 for d in i.shape], np.float32) for i in session.get_inputs()})
            del session
            ours = peak_rss([PARED, "eval", path, "--data", data, "--batch", "1"])
            theirs = peak_rss([sys.executable, "-c", ORT_SCRIPT, path, data])
            if ours and theirs:
                row(name, f"{ours / 1e6:.1f} MB", f"{theirs / 1e6:.1f} MB", f"{ours / theirs:.2f}")
            else:
                row(name, ours or "failed", theirs or "failed", "")


def chain(nodes, path):
    import onnx
    from onnx import TensorProto, helper
    body = [helper.make_node("Relu" if i % 2 else "Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(nodes)]
    info = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in ("v0", f"v{nodes}")]
    onnx.save(helper.make_model(helper.make_graph(body, "chain", info[:1], info[1:]), opset_imports=[helper.make_opsetid("", 13)]), path)


def best_ms(command):
    return min(json.loads(subprocess.run(command, capture_output=True, text=True).stdout)["p50_ms"] for _ in range(2))


def growth():
    import time
    heading("Growth (linear is constant in the last column)", ["what", "time", "time each"])
    with tempfile.TemporaryDirectory() as folder:
        for nodes in (10, 100, 1000, 10000):
            path = Path(folder, f"chain{nodes}.onnx")
            chain(nodes, path)
            times = []
            for _ in range(3):
                start = time.perf_counter()
                subprocess.run([PARED, "inspect", path], capture_output=True, check=True)
                times.append((time.perf_counter() - start) * 1e3)
            run = best_ms([PARED, "bench", path, "--threads", "1", "--runs", "20", "--json"])
            row(f"read and plan a chain of {nodes} nodes", f"{min(times):.1f} ms", f"{min(times) / nodes * 1e3:.1f} us a node")
            row("run that chain", f"{run:.3f} ms", f"{run / nodes * 1e6:.0f} ns a node")
        model = SHARED / "models/ours/resnet20-cifar.onnx"
        for batch in (1, 4, 16, 64) if model.exists() else ():
            run = best_ms([PARED, "bench", model, "--threads", "1", "--batch", str(batch), "--runs", "10", "--json"])
            row(f"resnet20-cifar, batch {batch}, 1 thread", f"{run:.2f} ms", f"{run / batch:.3f} ms a sample")
