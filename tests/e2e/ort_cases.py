# SPDX-License-Identifier: Apache-2.0
"""Folders of cases run in ONNX Runtime: each DIR/NAME with model.onnx and input_K.pb (in the order of the graph's inputs) gets
want.npz (y0, y1, ...) or want_error.txt. ONNX Runtime can crash on hostile models, so the cases run in a child process; one that
takes it down is recorded as "crashed" and the next child goes on behind it. Also a program: ort_cases.py DIR."""
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

BYTES_ONLY = ("FLOAT8", "FLOAT4", "BFLOAT16", "INT4", "INT2")
SECONDS = 20


def read_tensor(path):
    return onnx.TensorProto.FromString(path.read_bytes())


def feed_of(tensor):
    name = onnx.TensorProto.DataType.Name(tensor.data_type)
    array = numpy_helper.to_array(tensor)
    if any(part in name for part in BYTES_ONLY):
        if "INT" in name or "FLOAT4" in name:
            raise ValueError(f"no way to feed {name} from Python")
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.copy("C").view(np.uint16 if "16" in name else np.uint8), tensor.data_type)
    return ort.OrtValue.ortvalue_from_numpy(array.copy("C"))  # ascontiguousarray would give a scalar an axis


def run_folder(folder):
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])
    feeds = {}
    for k, info in enumerate(session.get_inputs()):
        feeds[info.name] = feed_of(read_tensor(folder / f"input_{k}.pb"))
    out = {}
    for k, value in enumerate(session.run_with_ort_values(None, feeds)):
        kind = value.data_type()
        if "bfloat16" in kind or "float8" in kind or "int4" in kind or "int2" in kind or "float4" in kind:
            raise ValueError(f"no way to read {kind} in Python")
        out[f"y{k}"] = value.numpy()
    np.savez(folder / "want.npz", **out)


def missing(root):
    return [f for f in sorted(Path(root).iterdir()) if (f / "model.onnx").exists() and not (f / "want.npz").exists() and not (f / "want_error.txt").exists()]


def run_all(root):
    """In a child per crash."""
    while missing(root):
        try:
            subprocess.run([sys.executable, __file__, str(root)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=600, env={**os.environ, "ORT_CASES_CHILD": "1"})
        except subprocess.TimeoutExpired:
            pass
        current = Path(root) / "current"
        if not current.exists():
            break
        folder = Path(root) / current.read_text()
        if not (folder / "want.npz").exists() and not (folder / "want_error.txt").exists():
            (folder / "want_error.txt").write_text("crashed")


def result(folder):
    """(outputs, None) or (None, sentence)."""
    if (folder / "want.npz").exists():
        found = np.load(folder / "want.npz")
        return [found[f"y{k}"] for k in range(len(found.files))], None
    return None, (folder / "want_error.txt").read_text() if (folder / "want_error.txt").exists() else "no answer"


def main():
    import signal
    root = Path(sys.argv[1])
    if not os.environ.get("ORT_CASES_CHILD"):
        run_all(root)
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for folder in missing(root):
        (root / "current").write_text(folder.name)
        signal.alarm(SECONDS)
        try:
            run_folder(folder)
        except Exception as problem:
            (folder / "want_error.txt").write_text(str(problem) or type(problem).__name__)
        signal.alarm(0)


if __name__ == "__main__":
    main()
