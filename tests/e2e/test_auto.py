# SPDX-License-Identifier: Apache-2.0
"""quantize.auto: finds the layer that 8 bits ruin, and only it; keeps to its limits; its files run in ONNX Runtime."""
import json
import subprocess

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import methods

WIDE, CLASSES, SAMPLES = 16, 6, 600


def network(path, constant):
    """Conv and Gemm layers. Channel 0 behind `fragile`'s input is a large constant nobody uses: it takes all the codes."""
    rng = np.random.default_rng(1)

    def w(name, *shape, scale):
        return numpy_helper.from_array((scale * rng.standard_normal(shape)).astype(np.float32), name)
    bias = np.zeros(WIDE, np.float32)
    bias[0] = constant
    fragile = (0.3 * rng.standard_normal((WIDE, WIDE, 1, 1))).astype(np.float32)
    fragile[:, 0] = 0
    weights = [w("w1", WIDE, 3, 3, 3, scale=0.3), numpy_helper.from_array(bias, "b1"), numpy_helper.from_array(fragile, "w2"),
               w("w3", WIDE, WIDE, 3, 3, scale=0.1), w("w4", WIDE, CLASSES, scale=1.0)]
    nodes = [helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], name="first", pads=[1, 1, 1, 1]), helper.make_node("Relu", ["c1"], ["r1"]),
             helper.make_node("Conv", ["r1", "w2"], ["c2"], name="fragile"), helper.make_node("Relu", ["c2"], ["r2"]),
             helper.make_node("Conv", ["r2", "w3"], ["c3"], name="third", strides=[2, 2]), helper.make_node("Relu", ["c3"], ["r3"]),
             helper.make_node("GlobalAveragePool", ["r3"], ["p"]), helper.make_node("Flatten", ["p"], ["f"]),
             helper.make_node("MatMul", ["f", "w4"], ["y"], name="last")]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", CLASSES])], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))


def rows(report, key):
    return {r["node"]: r["after"] for r in methods.layers(report) if key in r.get("after", {})}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("auto")
    network(folder / "m.onnx", 3000)
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((SAMPLES, 3, 8, 8)) + rng.standard_normal((SAMPLES, 3, 1, 1))).astype(np.float32)
    y = methods.outputs(folder / "m.onnx", [{"x": x}])[1][0].argmax(1)
    np.savez(folder / "d.npz", x=x, y=y.astype(np.int64))
    np.savez(folder / "plain.npz", x=x)
    return folder, x, y


@pytest.mark.parametrize("params", [{}, {"sensitivity": "fisher"}, {"fallback": "int16"}, {"format": "qoperator"}, {"isa": "avx2"}, {"isa": "arm"}])
def test_finds_the_fragile_layer(data, tmp_path, params):
    folder, x, y = data
    out = tmp_path / "q.onnx"
    report = methods.apply("quantize.auto", folder / "m.onnx", out, folder / "d.npz", max_drop=0.05, **params)
    ranking = rows(report, "rank")
    assert set(ranking) == {"first", "fragile", "third", "last"}
    kept = {n for n, r in ranking.items() if r["decision"] != "int8"}
    assert kept == {"fragile"}, ranking
    if "sensitivity" not in params:
        assert ranking["fragile"]["rank"] == 1
    assert len(rows(report, "kept_layers")) >= 2
    got = methods.outputs(out, [{"x": x}], exact=True)[1][0].argmax(1)
    assert (got == y).mean() > 0.95
    whole = tmp_path / "whole.onnx"
    methods.apply("quantize.static", folder / "m.onnx", whole, folder / "d.npz")
    assert (methods.outputs(whole, [{"x": x}], exact=True)[1][0].argmax(1) == y).mean() < 0.8  # without it


def test_validation_data_and_same_bytes(data, tmp_path):
    folder, _, _ = data
    made = []
    for threads in ("1", "2"):
        run = tmp_path / threads
        subprocess.run([methods.PARED, "run", str(folder / "m.onnx"), "--step", "quantize.auto max_drop=0.05", "--data", str(folder / "plain.npz"),
                        "--val-data", str(folder / "d.npz"), "--out", str(run), "--no-latency", "--quiet", "--threads", threads], check=True, timeout=120)
        made.append((run / "model.onnx").read_bytes())
        ranking = rows(json.loads((run / "report.json").read_text()), "rank")
        assert {n for n, r in ranking.items() if r["decision"] == "float32"} == {"fragile"}
    assert made[0] == made[1]


def test_budget_keeps_the_best(data, tmp_path):
    folder, _, _ = data
    for params in ({"evaluations": 1}, {"budget_s": 0.000001}):
        out = tmp_path / "q.onnx"
        report = methods.apply("quantize.auto", folder / "m.onnx", out, folder / "plain.npz", max_drop=0, **params)
        assert len(rows(report, "kept_layers")) == 1
        assert any("budget" in w for w in report["warnings"])
        methods.outputs(out, [{"x": data[1][:4]}])
    report = methods.apply("quantize.auto", folder / "m.onnx", out, folder / "plain.npz", max_drop=0.05, evaluations=7)
    assert rows(report, "rank")["fragile"]["decision"] == "float32"


def test_easy_model_without_loss(tmp_path):
    out = tmp_path / "q.onnx"
    report = methods.apply("quantize.auto", methods.DIGITS / "digits-cnn.onnx", out, methods.DIGITS / "train.npz", max_drop=0)
    trials = rows(report, "kept_layers")
    assert any(t["passes"] and t["drop"] <= 0 for t in trials.values())
    assert all(r["decision"] == "int8" for r in rows(report, "rank").values())
    assert methods.eight_bit_share(out) > 0.95
    x, y = methods.load_dataset(methods.DIGITS / "test.npz")
    got = methods.outputs(out, methods.feeds_of(out, x))[1][0].reshape(len(x), -1).argmax(1)
    assert (got == y).mean() > 0.98
