# SPDX-License-Identifier: Apache-2.0
"""Channels and heads taken out by `pared run`, judged by ONNX Runtime: what is pruned loads and runs there and says what our engine says;
what was zero goes without a trace; ratios and targets leave what formulas say; threads do not change a byte."""
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import methods
from methods import PARED, SHARED, apply, layers, outputs, worst

OURS = ["lenet5-mnist", "seed-cnn-cifar", "resnet20-cifar", "mobilenetv3ish-fashion", "densenet-fashion", "shuffle-cifar", "vit-fashion"]
STRUCTURES = ["unet_small_bn", "lstm_text", "mobilenet_v3_small", "shufflenet_v2_x1_0"]
SEQUENTIAL = ["lenet5-mnist", "lenet300-mnist", "seed-cnn-cifar", "resnet20-cifar", "mobilenetv3ish-fashion"]
needs_shared = pytest.mark.skipif(SHARED is None, reason="skipped: no shared data")


def path_of(name, folder):
    if name == "digits-cnn":
        return methods.DIGITS / "digits-cnn.onnx"
    if name in STRUCTURES or name.startswith("resnet18"):
        out = Path(folder) / f"{name}.onnx"
        subprocess.run([sys.executable, SHARED / "tools/fill_weights.py", SHARED / f"models/structures/{name}.onnx.gz", out], check=True,
                       capture_output=True)
        return out
    return SHARED / f"models/ours/{name}.onnx"


def feeds(model, seed=0):
    rng, found = np.random.default_rng(seed), {}
    for spec in methods.session(model).get_inputs():
        shape = [d if isinstance(d, int) else 2 if k == 0 else 12 for k, d in enumerate(spec.shape)]
        found[spec.name] = rng.integers(0, 10, shape) if "int64" in spec.type else rng.standard_normal(shape).astype(np.float32)
    return found


def parameters(model):
    return sum(int(np.prod(t.dims)) for t in onnx.load(str(model)).graph.initializer if t.data_type == onnx.TensorProto.FLOAT and t.dims)


def our_outputs(model, feed, folder):
    """The model run by our engine; each feed is one batch."""
    data = Path(folder) / "feed"
    data.mkdir(exist_ok=True)
    for i, spec in enumerate(methods.session(model).get_inputs()):
        (data / f"input_{i}.pb").write_bytes(numpy_helper.from_array(feed[spec.name], spec.name).SerializeToString())
    out = Path(folder) / "outputs.npz"
    subprocess.run([PARED, "eval", model, "--data", data, "--outputs", out, "--json"], check=True, capture_output=True)
    z = np.load(out)
    return [z[o.name] for o in methods.session(model).get_outputs()]


NAMES = ["digits-cnn"] + (OURS + STRUCTURES if SHARED else [])


@pytest.mark.parametrize("name", NAMES)
def test_pruned_models_run_in_onnx_runtime(name, tmp_path):
    model, out = path_of(name, tmp_path), tmp_path / "out.onnx"
    report = apply("prune.channels", model, out, ratio=0.3)
    onnx.checker.check_model(str(out))
    feed = feeds(model)
    _, got = outputs(out, [feed])
    _, was = outputs(model, [feed])
    assert [g.shape for g in got] == [w.shape for w in was]
    assert worst(got, our_outputs(out, feed, tmp_path)) < 1e-4
    assert report["ratio"]["params"] <= 0.75 and parameters(out) < 0.76 * parameters(model)
    rows = layers(report)
    assert all("skipped" in r or r["after"]["channels"] < r["before"]["channels"] for r in rows)
    # nothing is written but what was asked for: the report's shapes are the file's
    weights = {t.name: list(t.dims) for t in onnx.load(str(out)).graph.initializer}
    assert all(weights[r["weight"]] == r["shape"] for r in rows if "skipped" not in r and r["weight"] in weights)


@needs_shared
@pytest.mark.parametrize("name", ["shuffle-cifar", "vit-fashion"])
@pytest.mark.parametrize("ratio", [0.5, 0.9])
def test_no_axis_is_emptied(name, ratio, tmp_path):
    """Fused query-key-value weights and channel shuffles hold channels of several kinds in one group: some of each stay."""
    model, out = path_of(name, tmp_path), tmp_path / "out.onnx"
    report = apply("prune.channels", model, out, ratio=ratio, recover="none")
    feed = feeds(model)
    assert worst(outputs(out, [feed])[1], our_outputs(out, feed, tmp_path)) < 1e-4
    assert report["ratio"]["params"] < (1 - ratio) ** 1.5


def zeroed(model, folder):
    """Three of ten output channels of every product but the last are zero, with their biases and normalization: index % 10 < 3."""
    m = onnx.load(str(model))
    weights = {t.name: t for t in m.graph.initializer}
    made = {o: n for n in m.graph.node for o in n.output}
    products = [n for n in m.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    touched = set()

    def zero(name, axis):
        while name in made and made[name].op_type in ("Identity", "Transpose"):
            axis = axis if made[name].op_type == "Identity" else 1 - axis
            name = made[name].input[0]
        if name not in weights or name in touched:
            return
        touched.add(name)
        w = numpy_helper.to_array(weights[name]).copy()
        axis %= w.ndim
        if w.shape[axis] > 1:
            w[(slice(None),) * axis + (np.arange(w.shape[axis]) % 10 < 3,)] = 0
            weights[name].CopyFrom(numpy_helper.from_array(w, name))

    for n in m.graph.node:
        if n in products[:-1]:
            trans = any(a.name == "transB" and a.i for a in n.attribute)
            zero(n.input[1], 0 if n.op_type == "Conv" or trans else 1)
            if len(n.input) > 2:
                zero(n.input[2], -1)
        elif n.op_type == "BatchNormalization":
            for k in (1, 2, 3):
                zero(n.input[k], 0)
        elif n.op_type == "Add":  # a bias of its own
            for i in n.input:
                if i in weights and len(weights[i].dims) == 1 and any(o in made and made[o] in products[:-1] for o in n.input):
                    zero(i, 0)
    out = Path(folder) / "zeroed.onnx"
    onnx.save(m, out)
    return out


@pytest.mark.parametrize("name", ["digits-cnn"] + (SEQUENTIAL if SHARED else []))
def test_what_is_zero_goes_without_a_trace(name, tmp_path):
    model, out = zeroed(path_of(name, tmp_path), tmp_path), tmp_path / "out.onnx"
    report = apply("prune.channels", model, out, ratio=0.3)
    assert report["ratio"]["params"] < 0.75
    feed = feeds(model)
    assert worst(outputs(model, [feed])[1], outputs(out, [feed])[1]) < 1e-5


def macs_of(model):
    """Conv, Gemm and MatMul at batch 1, by the shapes ONNX's own inference finds."""
    m = onnx.load(str(model))
    for v in m.graph.input:
        if v.type.tensor_type.shape.dim and not v.type.tensor_type.shape.dim[0].dim_value:
            v.type.tensor_type.shape.dim[0].dim_value = 1
    del m.graph.value_info[:]
    m = onnx.shape_inference.infer_shapes(m)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*m.graph.value_info, *m.graph.input, *m.graph.output]}
    shapes |= {t.name: list(t.dims) for t in m.graph.initializer}
    total = 0
    for n in m.graph.node:
        if n.op_type == "Conv":
            total += int(np.prod(shapes[n.output[0]])) * int(np.prod(shapes[n.input[1]][1:]))
        elif n.op_type in ("Gemm", "MatMul"):
            w = shapes[n.input[1]]
            trans = any(a.name == "transB" and a.i for a in n.attribute)
            total += int(np.prod(shapes[n.output[0]])) * (w[1] if trans else w[-2])
    return total


FIGURES = {"macs": macs_of, "params": parameters, "bytes": lambda p: Path(p).stat().st_size}


@pytest.mark.parametrize("name", ["digits-cnn"] + (["resnet20-cifar", "mobilenetv3ish-fashion"] if SHARED else []))
@pytest.mark.parametrize("target", ["macs:0.5", "params:0.3", "bytes:0.6"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_targets_are_met_from_below(name, target, scope, tmp_path):
    model, out = path_of(name, tmp_path), tmp_path / "out.onnx"
    report = apply("prune.channels", model, out, target=target, scope=scope)
    figure, wanted = target.split(":")
    got = FIGURES[figure](out) / FIGURES[figure](model)
    slack = 0.05 if figure == "bytes" else 0.005  # the file has names and shapes beside its weights
    assert float(wanted) - 0.02 - slack < got <= float(wanted) + slack
    assert report["targets"] == [{"target": f"prune.channels {figure}", "wanted": float(wanted), "got": pytest.approx(got, abs=slack), "met": True}]


def test_a_missed_target_makes_the_best_there_is(tmp_path):
    done = subprocess.run([PARED, "run", methods.DIGITS / "digits-cnn.onnx", "--step", "prune.channels target=params:0.01 min_keep=4", "--out",
                           tmp_path, "--no-latency", "--quiet"], capture_output=True, text=True)
    assert done.returncode == 3
    report = json.loads((tmp_path / "report.json").read_text())
    row = next(r for r in layers(report) if r["node"].startswith("target"))["after"]
    assert row["met"] is False and row["stopped_by"] and report["targets"][0]["met"] is False
    assert all(r["after"]["channels"] == 4 and r["after"]["limit"] == "kept at min_keep 4" for r in layers(report) if "limit" in r.get("after", {}))
    assert any("cannot reach params:0.01" in w for w in report["warnings"])
    methods.session(tmp_path / "model.onnx")


@pytest.mark.parametrize("words", [{"ratio": 0.4}, {"target": "macs:0.4", "scope": "global"}, {"ratio": 0.4, "criterion": "taylor", "steps": 2}])
def test_threads_change_nothing(words, tmp_path):
    found = set()
    for threads in (1, 2):
        apply("prune.channels", methods.DIGITS / "digits-cnn.onnx", tmp_path / "m.onnx", data=methods.DIGITS / "train.npz", threads=threads,
              samples=32, **words)
        found.add(hashlib.sha256((tmp_path / "m.onnx").read_bytes()).hexdigest())
    assert len(found) == 1


@needs_shared
def test_heads_go_whole(tmp_path):
    """Queries, keys and values of two of the four heads are zero in every block: pruning half of the heads changes nothing."""
    m = onnx.load(str(path_of("vit-fashion", tmp_path)))
    for t in m.graph.initializer:
        if "attn.qkv" in t.name:
            w = numpy_helper.to_array(t).copy()
            gone = np.isin(np.arange(192) % 64 // 16, [1, 2])  # 3 x 4 heads x 16
            w[gone if w.shape[0] == 192 else (slice(None), gone)] = 0
            t.CopyFrom(numpy_helper.from_array(w, t.name))
    model, out = tmp_path / "zeroed.onnx", tmp_path / "out.onnx"
    onnx.save(m, model)
    report = apply("prune.heads", model, out, ratio=0.5)
    cut = [r for r in layers(report) if "skipped" not in r]
    assert len(cut) == 4 and all((r["before"]["heads"], r["after"]["heads"]) == (4, 2) for r in cut)
    feed = feeds(model)
    assert worst(outputs(model, [feed])[1], outputs(out, [feed])[1]) < 1e-5
    kept = apply("prune.heads", model, out, keep=3)
    assert [r["after"]["heads"] for r in layers(kept) if "skipped" not in r] == [3] * 4


HEADS, WIDTH, LENGTH = 4, 8, 5


def attention(kind, path):
    """Attention over x with a residual sum and a head; every other head (with grouped queries: key-value head) is zero."""
    rng, size = np.random.default_rng(0), HEADS * WIDTH
    init, nodes = [], []

    def weight(name, *shape, group=0):
        w = rng.standard_normal(shape).astype(np.float32) * 0.3
        if group:
            w[..., np.arange(shape[-1]) % size // (group * WIDTH) % 2 == 1] = 0
        init.append(numpy_helper.from_array(w, name))

    def node(op, inputs, output, **attributes):
        nodes.append(onnx.helper.make_node(op, inputs, [output], name=output, **attributes))

    kv = 2 if kind == "GroupQueryAttention" else HEADS
    if kind == "ms.Attention":
        weight("w", size, 3 * size, group=1)
        weight("b", 3 * size, group=1)
        node("Attention", ["x", "w", "b"], "att", domain="com.microsoft", num_heads=HEADS)
    else:
        for name, heads in (("q", HEADS), ("k", kv), ("v", kv)):
            weight(f"w{name}", size, heads * WIDTH, group=heads // kv)
            node("MatMul", ["x", f"w{name}"], name)
        if kind == "Attention":
            node("Attention", ["q", "k", "v"], "att", q_num_heads=HEADS, kv_num_heads=HEADS)
        elif kind == "MultiHeadAttention":
            node(kind, ["q", "k", "v"], "att", domain="com.microsoft", num_heads=HEADS)
        else:
            init += [numpy_helper.from_array(np.array([LENGTH - 1], np.int32), "last"), numpy_helper.from_array(np.array(LENGTH, np.int32), "total")]
            node(kind, ["q", "k", "v", "", "", "last", "total"], "att", domain="com.microsoft", num_heads=HEADS, kv_num_heads=kv)
    weight("wo", size, size)
    weight("wc", size, 3)
    node("MatMul", ["att", "wo"], "proj")
    node("Add", ["proj", "x"], "sum")
    node("MatMul", ["sum", "wc"], "y")
    ends = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, s) for n, s in (("x", [1, LENGTH, size]), ("y", None))]
    opsets = [onnx.helper.make_opsetid("", 23 if kind == "Attention" else 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "attention", ends[:1], ends[1:], init), opset_imports=opsets, ir_version=10), path)


@pytest.mark.parametrize("kind", ["Attention", "ms.Attention", "MultiHeadAttention", "GroupQueryAttention"])
def test_heads_of_attention_operators(kind, tmp_path):
    model, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    attention(kind, model)
    report = apply("prune.heads", model, out, ratio=0.5)
    before = 2 if kind == "GroupQueryAttention" else 4  # a key-value head goes with its queries
    cut = [r for r in layers(report) if "skipped" not in r]
    assert [(r["before"]["heads"], r["after"]["heads"]) for r in cut] == [(before, before // 2)]
    feed = feeds(model)
    assert worst(outputs(model, [feed])[1], outputs(out, [feed])[1]) < 1e-6


@needs_shared
def test_resnet18_at_half(tmp_path):
    """The size Torch-Pruning reaches: 0.483 G multiply-accumulates, 3.06 M parameters; cutting takes less than two seconds."""
    model, out = path_of("resnet18_bn", tmp_path), tmp_path / "out.onnx"
    report = apply("prune.channels", model, out, ratio=0.5)
    assert report["after"]["macs"] == pytest.approx(0.483e9, rel=0.002) and report["after"]["params"] == pytest.approx(3.06e6, rel=0.002)
    assert macs_of(out) == report["after"]["macs"]
    assert report["steps"][0]["seconds"] < 2
    assert np.isfinite(outputs(out, [feeds(out)])[1][0]).all()
