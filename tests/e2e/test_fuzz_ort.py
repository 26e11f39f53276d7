# SPDX-License-Identifier: Apache-2.0
"""Random single-node models from the registry's own tables (tests/op_random.h, written by op_samples --random), run by pared plain
and optimized and by ONNX Runtime: where both answer, the answers agree; where only one does, that is counted and printed.
By hand: test_fuzz_ort.py SEED COUNT [DIR] prints every disagreement."""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import ort_cases

ROOT = Path(__file__).resolve().parents[2]
TOOLS = Path(os.environ.get("PARED_TOOLS", ROOT / "build/tools"))

# Disagreements that stay: operator, what its case looks like (a pattern over the description), and why.
KNOWN = [
    (r"(com.microsoft.)?(Embed|Skip\w*|Simplified)?(Layer|RMS|Group|Instance)?Normalization", r"expected \[nan", "squares of values near the largest float32: sums are in double here"),
    ("QuantizeLinear", r"float16", "an infinite float16: ONNX Runtime's cast overflows, here it saturates"),
    (r"Reduce(Min|Max)", r"output 0: \[nan", "NaN counts here, as in NumPy; ONNX Runtime's vectors lose it"),
    (r"Reduce\w+", r"float(\[[^]]*\b0\b[^]]*\]).*keepdims=0.*output 0: float32\[[^]]*\], expected float32\1", "ONNX Runtime keeps reduced axes of empty tensors: see below"),
    ("TopK", r"sorted=0", "the order is left open"),
    ("Upsample", r"\[nan.*expected \[-?inf", "infinity times a weight of 0"),
    ("com.microsoft.QLinearSoftmax", r"expected \[0 0 0 0\]", "a scale of 0"),
    ("com.microsoft.QLinearAveragePool", r"output 0: \[\d+\], expected \[\d+\]", "one place: a tie of rounding"),
    (r"(Blackman|Hann|Hamming)Window", r"periodic=0.*expected \[nan\]", "a symmetric window of one sample divides 0 by 0; it is its middle"),
    ("GRU|LSTM|RNN", r"int32.*output [12]: .*expected \[0. 0. 0. 0.\]", "a sequence of no steps ends in its initial state; ONNX Runtime gives zeros"),
    ("MeanVarianceNormalization", r"\[0. 0. 0. 0.\], expected \[nan", "of equal values; the standard adds 1e-9 to the deviation"),
]


def outputs(folder, kind):
    found = []
    while (path := folder / f"{kind}_{len(found)}.pb").exists():
        tensor = onnx.TensorProto.FromString(path.read_bytes())
        found.append(numpy_helper.to_array(tensor))
    return found


def difference(want, got):
    """None, or what differs."""
    if want.dtype == object or want.dtype.kind in "US":
        return None if want.shape == got.shape and (want.astype(str) == got.astype(str)).all() else "strings"
    if want.shape != got.shape or want.dtype != got.dtype:
        return f"{got.dtype}{list(got.shape)}, expected {want.dtype}{list(want.shape)}"
    if want.size == 0:
        return None
    if want.dtype.kind in "iub":
        return None if np.array_equal(want, got) else f"{got.ravel()[want.ravel() != got.ravel()][:4]}, expected {want.ravel()[want.ravel() != got.ravel()][:4]}"
    a, b = want.astype(np.float64), got.astype(np.float64)
    tolerance = 1e-4 if want.dtype.itemsize >= 4 else 1e-2
    finite = np.abs(a[np.isfinite(a)])
    scale = np.max(finite, initial=1e-6)
    close = np.isclose(a, b, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
    return None if close.all() else f"{b[~close].ravel()[:4]}, expected {a[~close].ravel()[:4]}"


def describe(folder):
    model = onnx.load(folder / "model.onnx")
    node = model.graph.node[0]
    info = {i.name: i for i in model.graph.input}
    weights = {t.name: t for t in model.graph.initializer}
    words = []
    for name in node.input:
        if name in info:
            t = info[name].type.tensor_type
            words.append(f"{onnx.TensorProto.DataType.Name(t.elem_type).lower()}{[d.dim_value for d in t.shape.dim]}")
        elif name in weights:
            w = weights[name]
            words.append(f"!{onnx.TensorProto.DataType.Name(w.data_type).lower()}{list(w.dims)}")
        else:
            words.append("none")
    attrs = " ".join(f"{a.name}={onnx.helper.get_attribute_value(a) if a.type != onnx.AttributeProto.TENSOR else 'tensor'}" for a in node.attribute)
    opset = next(o.version for o in model.opset_import if o.domain == node.domain)
    return f"{node.domain + '.' if node.domain else ''}{node.op_type} opset {opset}: {' '.join(words)} {attrs}"


def judge(folder):
    """(verdict, text)"""
    want, problem = ort_cases.result(folder)
    error = (folder / "error.txt").read_text() if (folder / "error.txt").exists() else None
    fast_error = (folder / "optimized_error.txt").read_text() if (folder / "optimized_error.txt").exists() else None
    if error and error.startswith("killed"):
        return "wrong", error
    if (error is None) != (fast_error is None):
        return "wrong", f"plain: {error or 'runs'}; optimized: {fast_error or 'runs'}"
    if want is None:
        return ("both refuse", "") if error else ("only pared", problem.splitlines()[0][-200:] if problem else "")
    if error:
        return "only ONNX Runtime", error
    for kind in ("output", "optimized"):
        try:
            got = outputs(folder, kind)
        except ValueError:
            return "lists", ""  # a sequence or optional: no tensor to read
        if len(got) != len(want):
            return "wrong", f"{kind}: {len(got)} outputs, expected {len(want)}"
        for i, (w, g) in enumerate(zip(want, got)):
            if d := difference(w, g):
                return "wrong", f"{kind} {i}: {d}"
    return "agree", ""


def run(root, seed, count):
    subprocess.run([TOOLS / "op_samples", "--random", str(seed), str(count), root], check=True, timeout=600, stdout=subprocess.DEVNULL)
    subprocess.run([TOOLS / "run_cases", root], check=True, timeout=600, stdout=subprocess.DEVNULL)
    ort_cases.run_all(root)
    verdicts = []
    for folder in sorted(f for f in Path(root).iterdir() if (f / "model.onnx").exists()):
        verdict, text = judge(folder)
        case = describe(folder)
        if verdict == "wrong":
            for operator, pattern, why in KNOWN:
                if re.fullmatch(operator, case.split()[0]) and re.search(pattern, f"{case} | {text}"):
                    verdict, text = "known", why
                    break
        verdicts.append((verdict, folder.name, case, text))
    return verdicts


def test_random_nodes_agree(tmp_path):
    verdicts = run(tmp_path, 1, 600)
    counts = Counter(v[0] for v in verdicts)
    print(dict(counts))
    for verdict, name, case, text in verdicts:
        if verdict.startswith("only"):
            print(f"{verdict}: {case}: {text[:160]}")
    wrong = [f"{name} {case}: {text}" for verdict, name, case, text in verdicts if verdict == "wrong"]
    assert not wrong, "\n" + "\n".join(wrong)
    assert counts["agree"] > 200


@pytest.mark.parametrize("operator", ["L1", "L2", "LogSum", "LogSumExp", "Prod", "Sum", "SumSquare"])
@pytest.mark.parametrize("shape,axes", [((2, 0, 2, 2), (-1, -2)), ((0, 4), (1,)), ((3, 0), (0,)), ((2, 3, 0), (0, 1))])
def test_reduced_axes_of_empty_tensors_are_gone(operator, shape, axes, tmp_path):
    """What the random nodes above leave to others: NumPy says the shape."""
    path = tmp_path / "m.onnx"
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node(f"Reduce{operator}", ["x", "axes"], ["y"], keepdims=0)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("x", kind, list(shape))], [helper.make_tensor_value_info("y", kind, None)],
                              [numpy_helper.from_array(np.array(axes, np.int64), "axes")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    feed = tmp_path / "feed"
    feed.mkdir()
    (feed / "input_0.pb").write_bytes(numpy_helper.from_array(np.zeros(shape, np.float32), "x").SerializeToString())
    subprocess.run([os.environ.get("PARED", ROOT / "build/pared"), "eval", path, "--data", feed, "--outputs", tmp_path / "o.npz"], check=True, capture_output=True)
    got, want = np.load(tmp_path / "o.npz")["y"], np.zeros(shape, np.float32).sum(axes)
    assert got.shape == want.shape and got.dtype == want.dtype


def main():
    seed, count = int(sys.argv[1]), int(sys.argv[2])
    root = Path(sys.argv[3]) if len(sys.argv) > 3 else Path(tempfile.mkdtemp())
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    verdicts = run(root, seed, count)
    for verdict, name, case, text in verdicts:
        if verdict not in ("agree", "both refuse", "known"):
            print(f"{verdict}: {name} {case}: {text[:300]}")
    print(dict(Counter(v[0] for v in verdicts)))


if __name__ == "__main__":
    main()
