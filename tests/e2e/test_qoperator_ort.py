# SPDX-License-Identifier: Apache-2.0
"""Every operator that format=qoperator writes, by type and granularity, is loaded and run by ONNX Runtime.

The cases are those of tests/unit/test_qoperator.c, which writes the model of pairs, the rewritten model, the input and what our engine gives.
Limits  1 unit of the result's scale (floats: 1e-5 of the largest) between ONNX Runtime and our engine, and between the two forms
Models  quantize.static format=qoperator of whole models: they load, run, and agree with the form of pairs to 40 dB: ours cannot saturate
"""
import collections
import os
import subprocess

import numpy as np
import onnx
import pytest

import methods
from conftest import ROOT
from methods import SHARED, apply, layers, outputs, sqnr

BINARY = ROOT / "build/tests/test_qoperator"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("qoperator")
    if not BINARY.exists():
        subprocess.run(["make", "-s", "build/tests/test_qoperator"], cwd=ROOT, check=True, capture_output=True)
    subprocess.run([BINARY], env=dict(os.environ, PARED_TEST_MODELS=str(path)), check=True, capture_output=True)
    return path


def run(path, x):
    s = methods.session(path)
    return s.run(None, {s.get_inputs()[0].name: x})[0]


def test_every_form(folder):
    cases = sorted(folder.glob("*.qop.onnx"))
    assert len(cases) >= 200
    written, faults = collections.Counter(), []
    for path in cases:
        stem = path.name[:-len(".qop.onnx")]
        bytes_ = np.frombuffer((folder / f"{stem}.bin").read_bytes(), np.float32)
        unit, x, ours = float(bytes_[0]), bytes_[1:1 + 288].reshape(2, 4, 6, 6), bytes_[1 + 288:]
        for node in onnx.load(path).graph.node:
            written[node.op_type] += 1
        try:
            got, pairs = run(path, x), run(folder / f"{stem}.qdq.onnx", x)
        except Exception as error:
            faults.append(f"{stem}: {str(error)[-150:]}")
            continue
        limit = 1.01 * unit if unit else 1e-5 * np.abs(pairs).max()
        assert got.shape == pairs.shape and got.size == ours.size
        for name, other in (("our engine", ours.reshape(got.shape)), ("the pairs", pairs)):
            worst = np.abs(got.astype(np.float64) - other).max()
            if not worst <= limit:
                faults.append(f"{stem}: {worst:.3g} from {name}, limit {limit:.3g}")
    assert not faults, "\n".join(faults)
    assert {"QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu",
            "QLinearAveragePool", "QLinearGlobalAveragePool", "QLinearConcat", "QLinearSoftmax", "QLinearWhere"} <= set(written)


MODELS = [("digits-cnn", "uint8"), ("digits-cnn", "int8")]
MODELS += [("mlperftiny_resnet8_cifar10", "uint8"), ("mlperftiny_resnet8_cifar10", "int8"), ("ours/mobilenetv3ish-fashion", "uint8"),
           ("ours/shuffle-cifar", "uint8"), ("ours/vit-fashion", "int8")] if SHARED else []


@pytest.mark.parametrize("name,activations", MODELS)
def test_models(tmp_path, name, activations):
    model, data = methods.DIGITS / "digits-cnn.onnx", methods.DIGITS / "train.npz"
    if name != "digits-cnn":
        model, data = SHARED / f"models/{name}.onnx", SHARED / f"models/{name}.calib.json"
    samples = methods.spread(methods.load_dataset(data)[0], 8)
    np.savez(tmp_path / "d.npz", x=samples)
    feeds, got = methods.feeds_of(model, samples), {}
    for form in ("qdq", "qoperator"):
        out = tmp_path / f"{form}.onnx"
        report = apply("quantize.static", model, out, data=tmp_path / "d.npz", samples=8, format=form, activations=activations)
        got[form] = outputs(out, feeds)
    assert got["qdq"][0] == got["qoperator"][0]
    assert sqnr(got["qdq"][1], got["qoperator"][1]) > 40
    kinds = methods.ops(tmp_path / "qoperator.onnx")
    assert kinds["QLinearConv"] + kinds["QGemm"] + kinds["QLinearMatMul"] + kinds["MatMulIntegerToFloat"] > 0
    # a product that is still between pairs is told about
    made = {o: n for n in onnx.load(tmp_path / "qoperator.onnx").graph.node for o in n.output}
    left = [n for n in onnx.load(tmp_path / "qoperator.onnx").graph.node
            if n.op_type in ("Conv", "Gemm", "MatMul") and any(i in made and made[i].op_type == "DequantizeLinear" for i in n.input)]
    told = {r["node"] for r in layers(report) if "skipped" in r}
    assert all((n.name or f"{n.op_type} -> {n.output[0]}") in told for n in left)
    warned = any("int8 activations in QOperator form" in w for w in report["steps"][0].get("warnings", []) + report.get("warnings", []))
    assert warned == (activations == "int8")
