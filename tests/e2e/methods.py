# SPDX-License-Identifier: Apache-2.0
"""What the tests of methods share: `pared run` with one step, ONNX Runtime as the judge, ONNX Runtime's own quantizer as the yardstick."""
import collections
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from conftest import ROOT, shared_data

SHARED = shared_data()
PARED = os.environ.get("PARED", str(ROOT / "build/pared"))
DIGITS = ROOT / "examples/digits"


def has_vnni():
    """Does this machine multiply bytes without saturating (AVX512-VNNI or AVX-VNNI)?"""
    with open("/proc/cpuinfo") as f:
        return not {"avx512_vnni", "avx_vnni"}.isdisjoint(f.read().split())


def apply(method, model, out, data=None, threads=None, **params):
    """One step through `pared run`; the model lands in `out`. Returns the report."""
    words = [method] + [f"{k}={v}" for k, v in params.items()]
    with tempfile.TemporaryDirectory() as folder:
        command = [PARED, "run", str(model), "--step", " ".join(words), "--out", folder, "--no-latency", "--quiet"]
        command += ["--data", str(data)] if data else []
        command += ["--threads", str(threads)] if threads else []
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        shutil.copyfile(f"{folder}/model.onnx", out)
        return json.loads(Path(folder, "report.json").read_text())


def layers(report):
    return report["steps"][0]["layers"]


def session(path, threads=1, exact=False):
    """exact: 8-bit products are not added in 16 bits, so that nothing saturates on a CPU without VNNI either."""
    options = ort.SessionOptions()
    if exact:
        options.add_session_config_entry("session.x64quantprecision", "1")
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def outputs(path, feeds, exact=False):
    """Every output for every feed, batches joined."""
    s = session(path, exact=exact)
    runs = [s.run(None, f) for f in feeds]
    return [o.name for o in s.get_outputs()], [np.concatenate([np.atleast_1d(r[i]) for r in runs]) for i in range(len(runs[0]))]


def load_dataset(path):
    """x as the model wants it and y, by the shared evaluation script (Pillow and NumPy) or from an .npz."""
    if str(path).endswith(".npz"):
        z = np.load(path)
        return z["x"], z["y"]
    sys.path.insert(0, str(SHARED / "tools"))
    import ort_eval
    return ort_eval.load(str(path))


def spread(x, n):
    """n samples spread evenly, as calibration takes them: sample i * count / n."""
    return x[[i * len(x) // n for i in range(min(n, len(x)))]]


def feeds_of(model, x):
    """The samples as the model's batches: one by one where its batch is fixed."""
    spec = session(model).get_inputs()[0]
    fixed = isinstance(spec.shape[0], int)
    shape = [d if isinstance(d, int) else x.shape[k + 1] for k, d in enumerate(spec.shape[1:])]
    x = x.reshape(len(x), *shape).astype(np.float32)
    step = spec.shape[0] if fixed else len(x)
    return [{spec.name: x[i:i + step]} for i in range(0, len(x), step)]


def worst(a, b):
    """Largest difference relative to the reference's largest value, over all outputs."""
    found = 0.0
    for x, y in zip(a, b, strict=True):
        assert x.shape == y.shape and x.dtype == y.dtype, (x.shape, y.shape, x.dtype, y.dtype)
        assert np.isfinite(y).all()
        found = max(found, float(np.abs(x.astype(np.float64) - y).max() / max(np.abs(x).max(), 1e-12)))
    return found


def sqnr(a, b):
    """Of all outputs together, in dB."""
    a, b = (np.concatenate([x.ravel() for x in t]).astype(np.float64) for t in (a, b))
    noise = ((a - b) ** 2).sum()
    return 10 * np.log10((a ** 2).sum() / noise) if noise else np.inf


SMALL = (onnx.TensorProto.UINT8, onnx.TensorProto.INT8, onnx.TensorProto.UINT4, onnx.TensorProto.INT4)
# operator -> input that holds the weight
PRODUCTS = {"Conv": 1, "ConvTranspose": 1, "Gemm": 1, "MatMul": 1, "MatMulInteger": 1, "ConvInteger": 1, "QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3,
            "MatMulIntegerToFloat": 1, "DynamicQuantizeMatMul": 1, "MatMulNBits": 1}


def product_weights(path):
    """(node, initializer or None) of the products; DequantizeLinear, Cast, Transpose and Identity before the weight are looked through."""
    m = onnx.load(str(path))
    weights = {t.name: t for t in m.graph.initializer}
    made = {o: n for n in m.graph.node for o in n.output}
    found = []
    for n in m.graph.node:
        if n.op_type in PRODUCTS:
            source = n.input[PRODUCTS[n.op_type]]
            while source in made and made[source].op_type in ("DequantizeLinear", "Cast", "Transpose", "Identity"):
                source = made[source].input[0]
            found.append((n, weights.get(source)))
    return found


def eight_bit_share(path):
    """Of the elements of product weights: the share stored in 8 bits or less."""
    total = small = 0
    for n, w in product_weights(path):
        if w is not None:
            attrs = {a.name: a.i for a in n.attribute}
            count = attrs["K"] * attrs["N"] if n.op_type == "MatMulNBits" else int(np.prod(w.dims))
            total += count
            small += count if w.data_type in SMALL else 0
    return small / total if total else 1.0


def ops(path):
    return collections.Counter(n.op_type for n in onnx.load(str(path)).graph.node)


def ort_static(model, out, samples, per_channel):
    """ONNX Runtime's own static quantizer, min-max, on the same samples one by one. Per channel needs opset 13: converted first, as its
    users must do. Raises what it raises."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self, name):
            self.left = iter([{name: s[None]} for s in samples])

        def get_next(self):
            return next(self.left, None)

    m = onnx.load(str(model))
    if per_channel and max(o.version for o in m.opset_import if o.domain in ("", "ai.onnx")) < 13:
        m = onnx.version_converter.convert_version(m, 13)
    with tempfile.TemporaryDirectory() as folder:
        onnx.save(m, f"{folder}/m.onnx")
        quant_pre_process(f"{folder}/m.onnx", f"{folder}/p.onnx", skip_symbolic_shape=True)
        s = session(f"{folder}/p.onnx").get_inputs()[0]
        shape = [d if isinstance(d, int) else samples.shape[k + 1] for k, d in enumerate(s.shape[1:])]
        samples = samples.reshape(len(samples), *shape).astype(np.float32)
        quantize_static(f"{folder}/p.onnx", str(out), Reader(s.name), per_channel=per_channel, activation_type=QuantType.QUInt8,
                        weight_type=QuantType.QInt8)


def ort_dynamic(model, out, per_channel):
    from onnxruntime.quantization import QuantType, quantize_dynamic
    quantize_dynamic(str(model), str(out), per_channel=per_channel, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"])
