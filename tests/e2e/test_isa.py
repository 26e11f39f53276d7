# SPDX-License-Identifier: Apache-2.0
"""8-bit arithmetic of CPUs: on x86 without VNNI, sums of two neighbouring products saturate at 16 bits. ONNX Runtime really does so on such a CPU; its
session option for exact products says what should come out. Beside it, the instruction is simulated here over the codes that whole models see."""
import numpy as np
import onnx
import pytest

import methods

NAMES = ["mlperftiny_resnet8_cifar10", "ours/resnet20-cifar", "ours/mobilenetv3ish-fashion"]
LIMIT = 400


def paths(shared, name):
    base = shared / "models" / name
    return tuple(base.parent / f"{base.name}{end}" for end in (".onnx", ".calib.json", ".test.json"))


def batches(model, x):
    (feed,) = methods.feeds_of(model, x) if len(methods.feeds_of(model, x)) == 1 else (None,)
    if feed is None:
        return methods.feeds_of(model, x)
    (name, whole), = feed.items()
    return [{name: whole[i:i + 100]} for i in range(0, len(whole), 100)]


def scores(model, x, exact):
    return methods.outputs(model, batches(model, x), exact)[1][0].reshape(len(x), -1)


def quantized_products(m):
    """(node, name of the activation's codes, weight codes as [outputs, groups' inputs, positions], signed activations) of what ONNX Runtime multiplies in
    integers with sums of pairs: depthwise convolutions are not."""
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in m.graph.initializer}
    made = {o: n for n in m.graph.node for o in n.output}
    for n in m.graph.node:
        if n.op_type not in ("Conv", "Gemm", "MatMul") or any(made.get(n.input[i], n).op_type != "DequantizeLinear" for i in (0, 1)):
            continue
        w, x = weights.get(made[n.input[1]].input[0]), made[n.input[0]]
        attrs = {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute}
        if w is None or w.dtype != np.int8 or attrs.get("group", 1) == w.shape[0]:
            continue
        if n.op_type == "MatMul" or (n.op_type == "Gemm" and not attrs.get("transB")):
            w = w.T
        yield n, x.input[0], w.reshape(w.shape[0], w.shape[1], -1), attrs, weights[x.input[2]]


def pairs(w):
    """Weights of neighbours in the order of summation, kernel positions outermost, and where they stand: (first, second, flat index of the first)."""
    flat = w.transpose(0, 2, 1).reshape(w.shape[0], -1).astype(np.int32)
    even = flat.shape[1] // 2 * 2
    return flat[:, 0:even:2], flat[:, 1:even:2]


def columns(codes, w, n, attrs, zero):
    """im2col: [places, positions * inputs] in the order of summation, for one group at a time."""
    if n.op_type != "Conv":
        yield slice(None), codes.reshape(-1, codes.shape[-1])
        return
    kh, kw = attrs.get("kernel_shape", [1, w.shape[2]])
    (sh, sw), pads, group = attrs.get("strides", [1, 1]), attrs.get("pads", [0, 0, 0, 0]), attrs.get("group", 1)
    codes = np.pad(codes, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=zero)
    view = np.lib.stride_tricks.sliding_window_view(codes, (kh, kw), axis=(2, 3))[:, :, ::sh, ::sw]
    for g in range(group):
        part = view[:, g * w.shape[1]:(g + 1) * w.shape[1]].transpose(0, 2, 3, 4, 5, 1)
        yield slice(g * w.shape[0] // group, (g + 1) * w.shape[0] // group), part.reshape(-1, kh * kw * w.shape[1])


def saturating(path, x):
    """How many sums of pairs do not fit into int16 on these samples, and how many pairs could for some activations."""
    m = onnx.load(str(path))
    products = list(quantized_products(m))
    assert products
    for name in {p[1] for p in products}:
        m.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = methods.ort.SessionOptions()
    options.graph_optimization_level = methods.ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    s = methods.ort.InferenceSession(m.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names, found, possible = [o.name for o in s.get_outputs()], 0, 0
    suspects = []
    for n, source, w, attrs, zero in products:
        a, b = pairs(w)
        at = np.argwhere(255 * np.abs(a + b) > 32767) if a.size else np.empty((0, 2), int)
        at = at[[a[o, k] * b[o, k] > 0 for o, k in at]] if len(at) else at
        possible += len(at)
        suspects.append(at)
    for feed in batches(path, x):
        values = dict(zip(names, s.run(None, feed)))
        for (n, source, w, attrs, zero), at in zip(products, suspects):
            if not len(at):
                continue
            shift = 128 if zero.dtype == np.int8 else 0
            a, b = pairs(w)
            codes = values[source].astype(np.int32) + shift
            for outputs, rows in columns(codes, w, n, attrs, int(zero) + shift):
                for o, k in at:
                    if o in range(*outputs.indices(w.shape[0])):
                        sums = rows[:, 2 * k] * a[o, k] + rows[:, 2 * k + 1] * b[o, k]
                        found += int(((sums > 32767) | (sums < -32768)).sum())
    return found, possible


def check_arithmetics(out, x, y, isa):
    plain, exact = scores(out, x, False), scores(out, x, True)
    assert abs((plain.argmax(1) == y).mean() - (exact.argmax(1) == y).mean()) <= 0.001
    if isa == "portable":
        assert np.array_equal(plain, exact)  # not one sum saturates: the same bits
    return exact


@pytest.mark.parametrize("name", NAMES)
def test_isas(shared, tmp_path, name):
    model, calibration, test = paths(shared, name)
    x, y = methods.load_dataset(test)
    x, y = methods.spread(x, LIMIT), methods.spread(y, LIMIT)
    want = scores(model, x, True).argmax(1)
    for isa in ("portable", "avx2", "vnni", "arm"):
        out = tmp_path / f"{isa}.onnx"
        report = methods.apply("quantize.static", model, out, calibration, isa=isa)
        rows = [r["after"] for r in methods.layers(report) if "exact_on" in r.get("after", {})]
        found, possible = saturating(out, x[:20])
        got = check_arithmetics(out, x, y, isa) if isa in ("portable", "avx2") else scores(out, x, True)
        assert (got.argmax(1) == want).mean() >= 0.95
        assert (found == 0) == (isa in ("portable", "avx2") or possible == 0), (isa, found, possible)
        if isa == "portable":
            assert possible == 0 and all(r.get("pair_sum", 0) <= 32767 for r in rows)
            assert all(r["exact_on"].startswith("every CPU") for r in rows)
        elif isa == "avx2":
            assert all(r.get("pair_sum_measured", 0) <= 32767 for r in rows)
        elif isa == "vnni":
            assert possible > 0 and any("elsewhere" in r["exact_on"] for r in rows)
        else:
            assert not any(t.data_type == onnx.TensorProto.UINT8 for t in onnx.load(str(out)).graph.initializer)
