# SPDX-License-Identifier: Apache-2.0
"""factor.* with ONNX Runtime and NumPy as judges.

exact      weights that have a low rank by construction are factorized and give what they gave, for strides, pads, dilations,
           groups, auto_pad, one to three axes, float16
ranks      error and rank of factor.svd are NumPy's singular values'; vbmf's rank follows the published formula
targets    met from below, within 2 %
models     what there is of real models loads and runs after every method
"""
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import methods
from methods import SHARED, apply, layers, outputs

needs_shared = pytest.mark.skipif(not SHARED, reason="skipped: no shared data")
METHODS = ["svd", "spatial_svd", "tucker", "cp", "depthwise_separable"]


def conv_model(path, w, size, bias=True, dtype=np.float32, **attrs):
    """One convolution of a weight, with a Relu behind it."""
    group = attrs.get("group", 1)
    elem = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = [numpy_helper.from_array(w.astype(dtype), "w")]
    if bias:
        weights.append(numpy_helper.from_array(np.linspace(-1, 1, w.shape[0]).astype(dtype), "b"))
    nodes = [helper.make_node("Conv", ["x", "w"] + ["b"] * bias, ["c"], "conv", **attrs), helper.make_node("Relu", ["c"], ["y"])]
    x = helper.make_tensor_value_info("x", elem, [1, w.shape[1] * group, *size])
    y = helper.make_tensor_value_info("y", elem, None)
    m = helper.make_model(helper.make_graph(nodes, "g", [x], [y], weights), opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(m, path)


def low_rank(method, group, out, inputs, kernel, rng):
    """A weight that the method's lowest ranks hold exactly."""
    parts = []
    for _ in range(group):
        a, b = rng.normal(size=(out // group, 1)), rng.normal(size=(1, inputs // group))
        axes = [rng.normal(size=k) for k in kernel]
        if method == "tucker":
            w = (a @ b)[(...,) + (None,) * len(kernel)] * rng.normal(size=kernel)
        elif method == "depthwise_separable":
            w = rng.normal(size=(out // group, inputs // group) + (1,) * len(kernel)) * rng.normal(size=(1, inputs // group, *kernel))
        elif method == "spatial_svd":
            first = rng.normal(size=(1, inputs // group, kernel[0]) + (1,) * (len(kernel) - 1))
            w = first * rng.normal(size=(out // group, 1, 1, *kernel[1:]))
        else:
            w = (a @ b)[(...,) + (None,) * len(kernel)]
            for i, d in enumerate(axes):
                w = w * d.reshape([1, 1] + [-1 if i == k else 1 for k in range(len(kernel))])
        parts.append(w)
    return np.concatenate(parts)


WINDOWS = [
    dict(kernel=(3, 3), size=(9, 8), pads=[1, 1, 1, 1]),
    dict(kernel=(3, 3), size=(9, 8), strides=[2, 1], pads=[1, 0, 2, 1]),
    dict(kernel=(3, 2), size=(11, 12), strides=[1, 3], dilations=[2, 1], pads=[0, 2, 1, 0]),
    dict(kernel=(3, 3), size=(7, 7), strides=[2, 2], pads=[1, 1, 1, 1], group=2),
    dict(kernel=(3, 5), size=(7, 10), strides=[2, 3], auto_pad="SAME_UPPER"),
    dict(kernel=(2, 3), size=(8, 10), strides=[3, 2], auto_pad="SAME_LOWER"),
    dict(kernel=(2, 3), size=(8, 10), strides=[1, 2], auto_pad="VALID", group=3),
    dict(kernel=(5,), size=(14,), strides=[2], dilations=[2], pads=[3, 1]),
    dict(kernel=(2, 3, 2), size=(5, 6, 7), strides=[1, 2, 1], dilations=[1, 1, 2], pads=[1, 0, 1, 0, 1, 1]),
    dict(kernel=(1, 1), size=(6, 6), strides=[2, 1], pads=[1, 0, 0, 1]),
    dict(kernel=(1, 1), size=(6, 6), group=2),
]


@pytest.mark.parametrize("method", METHODS)
def test_exact(tmp_path, method):
    rng = np.random.default_rng(1)
    done = 0
    for i, window in enumerate(WINDOWS):
        attrs = dict(window)
        kernel, size = attrs.pop("kernel"), attrs.pop("size")
        if (method == "svd") != (kernel == (1, 1)):
            continue
        group = attrs.get("group", 1)
        w = low_rank(method, group, 12 * group, 8 * group, kernel, rng)
        path, out = tmp_path / f"{i}.onnx", tmp_path / f"{i}.out.onnx"
        conv_model(path, w, size, bias=i % 2 == 0, **attrs)
        report = apply(f"factor.{method}", path, out, energy=0.9999)
        row = layers(report)[0]
        assert "skipped" not in row, row
        x = [{"x": rng.normal(size=(1, 8 * group, *size)).astype(np.float32)}]
        assert methods.worst(outputs(path, x)[1], outputs(out, x)[1]) < (2e-2 if method == "cp" else 1e-5), (window, row)
        assert len(onnx.load(out).graph.node) > len(onnx.load(path).graph.node)
        done += 1
    assert done >= 2


def test_half(tmp_path):
    rng = np.random.default_rng(2)
    w = low_rank("tucker", 1, 12, 8, (3, 3), rng)
    conv_model(tmp_path / "m.onnx", w, (7, 7), dtype=np.float16, pads=[1, 1, 1, 1])
    apply("factor.tucker", tmp_path / "m.onnx", tmp_path / "o.onnx", energy=0.999)
    assert {t.data_type for t in onnx.load(tmp_path / "o.onnx").graph.initializer} == {TensorProto.FLOAT16}
    x = [{"x": rng.normal(size=(1, 8, 7, 7)).astype(np.float16)}]
    assert methods.worst(outputs(tmp_path / "m.onnx", x)[1], outputs(tmp_path / "o.onnx", x)[1]) < 1e-2


def matmul_model(path, w):
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", w.shape[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    g = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"], "mm")], "g", [x], [y], [numpy_helper.from_array(w, "w")])
    onnx.save(helper.make_model(g, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


def test_error_is_the_tail(tmp_path):
    rng = np.random.default_rng(3)
    w = (rng.normal(size=(60, 40)) * np.exp(-np.arange(40) / 8)).astype(np.float32)
    s = np.linalg.svd(w.astype(np.float64), compute_uv=False) ** 2
    matmul_model(tmp_path / "m.onnx", w)
    for energy in (0.8, 0.95, 0.99):
        row = layers(apply("factor.svd", tmp_path / "m.onnx", tmp_path / "o.onnx", energy=energy))[0]["after"]
        rank = int(np.searchsorted(np.cumsum(s) / s.sum(), energy) + 1)
        assert row["rank"] == rank
        assert row["error"] == pytest.approx(s[rank:].sum() / s.sum(), rel=1e-6)
        a, b = (numpy_helper.to_array(t).astype(np.float64) for t in onnx.load(tmp_path / "o.onnx").graph.initializer)
        product = a @ b if a.shape[0] == 60 else b @ a
        assert ((w - product) ** 2).sum() / s.sum() == pytest.approx(row["error"], rel=1e-4)


def evb_rank(w):
    """Nakajima et al. (2013), theorems 2 and 3, on a fine grid of the noise's variance."""
    s = np.linalg.svd(w.astype(np.float64), compute_uv=False)
    length, width = sorted(w.shape)
    alpha = length / width
    tau_bar = 2.5129 * np.sqrt(alpha)
    x_bar = (1 + tau_bar) * (1 + alpha / tau_bar)
    grid = np.exp(np.linspace(np.log(s[-1] ** 2 / width / 10 + 1e-12), np.log((s ** 2).sum() / (length * width)), 20000))

    def energy(v):
        x = s ** 2 / (width * v)
        big = x[x > x_bar]
        tau = (big - (1 + alpha) + np.sqrt((big - (1 + alpha)) ** 2 - 4 * alpha)) / 2
        small = x[x <= x_bar]
        return (small - np.log(small)).sum() + (big - tau + np.log((tau + 1) / big) + alpha * np.log(tau / alpha + 1)).sum()

    v = grid[np.argmin([energy(v) for v in grid])]
    return int((s > np.sqrt(width * v * x_bar)).sum())


@pytest.mark.parametrize("rank,noise", [(3, 0.3), (8, 0.1), (12, 0.6)])
def test_vbmf(tmp_path, rank, noise):
    rng = np.random.default_rng(rank)
    w = (rng.normal(size=(90, rank)) @ rng.normal(size=(rank, 70)) + noise * rng.normal(size=(90, 70))).astype(np.float32)
    matmul_model(tmp_path / "m.onnx", w)
    row = layers(apply("factor.svd", tmp_path / "m.onnx", tmp_path / "o.onnx", vbmf="true"))[0]["after"]
    assert row["rank"] == evb_rank(w) == rank


def test_whitening(tmp_path):
    """Inputs that lie near a few directions: the decomposition for the output beats the one of the weight, in ONNX Runtime's figures."""
    rng = np.random.default_rng(5)
    w = rng.normal(size=(48, 40)).astype(np.float32)
    x = (rng.normal(size=(512, 6)) @ rng.normal(size=(6, 48)) + 0.1 * rng.normal(size=(512, 48))).astype(np.float32)
    matmul_model(tmp_path / "m.onnx", w)
    np.save(tmp_path / "x.npy", x[:256])
    noise = {}
    for name, params in {"plain": dict(whiten="false", recover="none"), "white": dict(recover="none"), "fit": {}}.items():
        apply("factor.svd", tmp_path / "m.onnx", tmp_path / "o.onnx", tmp_path / "x.npy", rank=6, **params)
        noise[name] = methods.sqnr(outputs(tmp_path / "m.onnx", [{"x": x[256:]}])[1], outputs(tmp_path / "o.onnx", [{"x": x[256:]}])[1])
    assert noise["white"] > noise["plain"] + 10
    assert noise["fit"] > noise["white"] - 0.1


@needs_shared
@pytest.mark.parametrize("method,target", [("spatial_svd", "macs:0.5"), ("tucker", "params:0.6"), ("cp", "macs:0.5"), ("depthwise_separable", "bytes:0.7")])
def test_targets(tmp_path, method, target):
    figure, wanted = target.split(":")
    report = apply(f"factor.{method}", SHARED / "models/ours/resnet20-cifar.onnx", tmp_path / "o.onnx", target=target)
    got = next(t["got"] for t in report["targets"] if t["target"] == figure)
    assert float(wanted) * 0.98 <= got <= float(wanted)
    if figure != "bytes":
        assert report["ratio"][figure] == pytest.approx(got, abs=2e-3)


@needs_shared
@pytest.mark.parametrize("name,method,least", [("resnet20-cifar", "depthwise_separable", 0.8), ("lenet5-mnist", "tucker", 0.95)])
def test_accuracy(tmp_path, name, method, least):
    """Half the multiply-accumulates with data, no training: the figure that is left, on 500 samples of the test set."""
    folder = SHARED / "models/ours"
    x, y = (methods.spread(v, 500) for v in methods.load_dataset(folder / f"{name}.test.json"))
    apply(f"factor.{method}", folder / f"{name}.onnx", tmp_path / "o.onnx", folder / f"{name}.calib.json", target="macs:0.5")
    scores = np.concatenate([outputs(tmp_path / "o.onnx", [f])[1][0] for f in methods.feeds_of(tmp_path / "o.onnx", x)])
    assert (scores.argmax(1) == y).mean() >= least


def runs(path):
    s = methods.session(path)
    feeds = {}
    for i in s.get_inputs():
        shape = [d if isinstance(d, int) else 1 for d in i.shape]
        kind = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(int32)": np.int32}.get(i.type)
        if kind is None:
            return
        feeds[i.name] = np.zeros(shape, kind)
    try:
        s.run(None, feeds)
    except Exception as e:  # shapes made up here may not fit: then the original must not run either
        return e


LONG = ("magika_standard_v3_3.onnx", "squeezenet_fp32_from_fp16.onnx")  # 20 s each; the latter's twin in half precision stays
MODELS = sorted(p.name for p in (SHARED / "models").glob("*.onnx") if p.name not in LONG) if SHARED else []
OURS = sorted(p.name for p in (SHARED / "models/ours").glob("*.onnx")) if SHARED else []


@needs_shared
@pytest.mark.parametrize("name", MODELS + ["ours/" + n for n in OURS if "seed-cnn" not in n])
def test_models(tmp_path, name):
    path = SHARED / "models" / name
    before = runs(path)
    for i, method in enumerate(METHODS):
        params = dict(energy=0.95) if (i + len(name)) % 2 else dict(ratio=0.5)
        report = apply(f"factor.{method}", path, tmp_path / "o.onnx", **params)
        for row in layers(report):
            assert ("skipped" in row) != ("after" in row), row
        after = runs(tmp_path / "o.onnx")
        assert (after is None) == (before is None), (method, after)


@needs_shared
@pytest.mark.parametrize("name,method", [("squeezenet1_1", "svd"), ("mobilenet_v3_small", "svd"), ("lstm_text", "svd"), ("unet_small_bn", "tucker")])
def test_structures(tmp_path, name, method):
    packed = SHARED / f"models/structures/{name}.onnx.gz"
    subprocess.run([sys.executable, SHARED / "tools/fill_weights.py", packed, tmp_path / "m.onnx"], check=True)
    report = apply(f"factor.{method}", tmp_path / "m.onnx", tmp_path / "o.onnx", ratio=0.5)
    assert any("after" in r for r in layers(report)) or name == "lstm_text"
    assert runs(tmp_path / "o.onnx") is None or runs(tmp_path / "m.onnx") is not None


def test_refused(tmp_path):
    w = np.random.default_rng(1).normal(size=(20, 20)).astype(np.float32)
    matmul_model(tmp_path / "m.onnx", w)
    for params, part in [(dict(rank=2, energy=0.9), "2 ways"), (dict(target="size:0.5"), "macs:"), (dict(target="macs:1.5"), "between 0 and 1"),
                         (dict(sensitivity="measured"), "no target"), (dict(rank=0), "rank"), (dict(energy=1), "energy"),
                         (dict(whiten="true"), "data")]:
        with pytest.raises(RuntimeError, match=part):
            apply("factor.svd", tmp_path / "m.onnx", tmp_path / "o.onnx", **params)
    with pytest.raises(RuntimeError, match="vbmf"):
        apply("factor.depthwise_separable", tmp_path / "m.onnx", tmp_path / "o.onnx", vbmf="true")
