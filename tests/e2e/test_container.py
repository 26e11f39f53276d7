# SPDX-License-Identifier: Apache-2.0
"""encode.cluster and encode.container as a user meets them: `pared run`, `pared decode`, ONNX Runtime, xz and the Python reader."""
import lzma
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from conftest import ROOT
from methods import PARED, layers, outputs

sys.path.insert(0, str(ROOT / "examples"))
import pared_reader  # noqa: E402


def run(model, out, *steps, data=None):
    command = [PARED, "run", str(model), "--out", str(out), "--no-latency", "--quiet"]
    for step in steps:
        command += ["--step", step]
    done = subprocess.run(command + (["--data", str(data)] if data else []), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return out


def pack(model, out, *steps, data=None, container="encode.container"):
    """(model.onnx, model.pared) after the steps."""
    run(model, out, *steps, container, data=data)
    return out / "model.onnx", out / "model.pared"


def decode(*words, **more):
    return subprocess.run([PARED, "decode", *map(str, words)], capture_output=True, timeout=120, **more)


def small_model(path, rng, external=False):
    """Weights of many types, some sparse, some with few values, an attribute tensor and an empty initializer."""
    def kept(a):
        return np.where(rng.random(a.shape) < 0.1, a, 0).astype(a.dtype)

    normal = rng.normal(size=(64, 48)).astype(np.float32)
    arrays = {
        "w": normal, "sparse": kept(rng.normal(size=(48, 96)).astype(np.float32)), "shared": kept(rng.choice(np.float32([-1, -.5, .25, 2]), (96, 40))),
        "book": rng.choice(rng.normal(size=200).astype(np.float32), (30, 50)), "half": normal[:12].astype(np.float16), "double": normal[:2].astype(np.float64),
        "int8": rng.integers(-9, 9, (70, 31)).astype(np.int8), "uint8": rng.integers(0, 256, 999).astype(np.uint8), "int32": rng.integers(-5, 500, 333).astype(np.int32),
        "int64": np.arange(100, dtype=np.int64), "bool": rng.random(200) < 0.2, "zeros": np.zeros((40, 40), np.float32), "nan": np.float32([np.nan, np.inf, -0.0, 1e-42] * 20),
        "complex": (rng.normal(size=40) + 1j).astype(np.complex64), "one": np.full(77, 3.5, np.float32), "none": np.zeros((0, 4), np.float32)}
    initializers = [numpy_helper.from_array(a, name) for name, a in arrays.items()]
    typed = helper.make_tensor("typed", TensorProto.FLOAT, [50], rng.normal(size=50).tolist())
    bf16 = helper.make_tensor("bf16", TensorProto.BFLOAT16, [64], rng.normal(size=64).tolist())
    int4 = helper.make_tensor("int4", TensorProto.INT4, [201], rng.integers(-8, 8, 201).tolist())
    nodes = [helper.make_node("MatMul", ["x", "w"], ["a"]), helper.make_node("MatMul", ["a", "sparse"], ["b"]), helper.make_node("MatMul", ["b", "shared"], ["y"]),
             helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(rng.normal(size=(20, 20)).astype(np.float32), "inside"))]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 64])], [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 40])],
                              initializers + [typed, bf16, int4])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, str(path), save_as_external_data=external, location="weights.bin", size_threshold=1000)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    model = small_model(folder / "in.onnx", np.random.default_rng(1))
    return pack(model, folder / "out")


@pytest.mark.parametrize("container", ["encode.container", "encode.container effort=fast", "encode.container effort=smallest",
                                       "encode.container coding=huffman", "encode.container coding=rans", "encode.container coding=adaptive"])
def test_round_trip_and_python_reader(tmp_path, container):
    model = small_model(tmp_path / "in.onnx", np.random.default_rng(2))
    onnx_file, pared_file = pack(model, tmp_path / "out", container=container)
    assert pared_file.stat().st_size < len(lzma.compress(onnx_file.read_bytes(), preset=9))
    done = decode(pared_file)
    assert done.returncode == 0 and done.stdout == onnx_file.read_bytes()
    assert pared_reader.read(pared_file.read_bytes()) == {"model.onnx": onnx_file.read_bytes()}


def test_external_data(tmp_path):
    model = small_model(tmp_path / "in.onnx", np.random.default_rng(3), external=True)
    onnx_file, pared_file = pack(model, tmp_path / "out")
    parts = ("model.onnx", "weights.bin")
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == sorted([*parts, pared_file.name, "report.json", "report.html"])
    files = {name: (tmp_path / "out" / name).read_bytes() for name in parts}
    assert decode(pared_file).returncode == 2  # two files do not fit into stdout
    assert decode(pared_file, "--out", tmp_path / "back").returncode == 0
    assert {f.name: f.read_bytes() for f in (tmp_path / "back").iterdir()} == files
    assert pared_reader.read(pared_file.read_bytes()) == files
    x = np.random.default_rng(4).normal(size=(2, 64)).astype(np.float32)
    np.testing.assert_array_equal(outputs(tmp_path / "back/model.onnx", [{"x": x}])[1][0], outputs(onnx_file, [{"x": x}])[1][0])


def test_every_kind_of_damage_is_refused(tmp_path, small):
    good = small[1].read_bytes()
    rng = np.random.default_rng(5)
    cases = [good[:n] for n in (0, 3, 6, 10, len(good) // 2, len(good) - 1)] + [good + b"x", b"PARED\2" + good[6:], b"no container at all"]
    for at in rng.integers(0, 8 * len(good), 20):
        flipped = bytearray(good)
        flipped[at // 8] ^= 1 << at % 8
        cases.append(bytes(flipped))
    bad, out = tmp_path / "bad.pared", tmp_path / "out.onnx"
    for data in cases:
        bad.write_bytes(data)
        done = decode(bad, "-o", out)
        assert done.returncode == 1 and done.stderr.startswith(b"pared: "), done.stderr
        assert [f.name for f in tmp_path.iterdir()] == ["bad.pared"]  # nothing is left behind
        with pytest.raises(Exception):
            assert pared_reader.read(data) != {"model.onnx": small[0].read_bytes()}, "read as something else"
            raise ValueError("not the model")


def test_command_line(tmp_path, small):
    assert decode("--help").returncode == 0
    assert decode().returncode == 2 and decode(small[1], small[1]).returncode == 2
    assert decode(small[1], "-o", tmp_path / "a", "--out", tmp_path / "b").returncode == 2
    assert decode(tmp_path / "missing").returncode == 1
    assert b"limit" in decode(small[1], "--max-bytes", "1000").stderr
    assert decode("-", input=small[1].read_bytes()).stdout == small[0].read_bytes()
    terminal = os.openpty()[1]
    done = subprocess.run([PARED, "decode", str(small[1])], stdout=terminal, stderr=subprocess.PIPE)
    assert done.returncode == 2 and b"terminal" in done.stderr


@pytest.mark.parametrize("opset", [13, 21])
def test_cluster_as_gather_runs_in_onnx_runtime(tmp_path, opset):
    rng = np.random.default_rng(6)
    w = [rng.normal(size=s).astype(np.float32) for s in ((16, 3, 5, 5), (400, 64), (64, 10))]
    nodes = [helper.make_node("Conv", ["x", "w0"], ["a"], name="conv", strides=[5, 5]), helper.make_node("Flatten", ["a"], ["f"]),
             helper.make_node("MatMul", ["f", "w1"], ["b"], name="fc1"), helper.make_node("MatMul", ["b", "w2"], ["y"], name="fc2")]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 25, 25])],
                              [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])], [numpy_helper.from_array(a, f"w{i}") for i, a in enumerate(w)])
    model = tmp_path / "in.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10), str(model))
    prune = "prune.weights sparsity=0.5"
    plain = run(model, tmp_path / "plain", prune, "encode.cluster bits=3 groups=2")
    gather = run(model, tmp_path / "gather", prune, "encode.cluster bits=3 groups=2 form=gather")
    x = rng.normal(size=(4, 3, 25, 25)).astype(np.float32)
    np.testing.assert_array_equal(outputs(plain / "model.onnx", [{"x": x}])[1][0], outputs(gather / "model.onnx", [{"x": x}])[1][0])
    assert (gather / "model.onnx").stat().st_size < (plain / "model.onnx").stat().st_size / 3
    for t in onnx.load(plain / "model.onnx").graph.initializer:
        a = numpy_helper.to_array(t).reshape(2, -1)
        assert [len(np.unique(row)) for row in a] == [9, 9] and (a == 0).mean() == 0.5


@pytest.mark.parametrize("name", ["lenet5-mnist", "vit-fashion", "resnet20-cifar"])
def test_smaller_than_xz(tmp_path, shared, name):
    source = shared / f"models/ours/{name}.onnx"
    recipes = {"plain": [], "pruned": ["prune.weights sparsity=0.9"], "clustered": ["prune.weights sparsity=0.8", "encode.cluster bits=4"],
               "half": ["quantize.fp16"], "nbits": ["quantize.weights bits=4"], "int8": ["quantize.dynamic"]}
    print()
    for kind, steps in recipes.items():
        if name == "resnet20-cifar" and kind in ("nbits", "int8"):
            continue  # only convolutions
        model, pared_file = pack(source, tmp_path / kind, *steps)
        xz = len(lzma.compress(model.read_bytes(), preset=9))
        print(f"{name:16} {kind:10} {model.stat().st_size:8} xz -9 {xz:8} pared {pared_file.stat().st_size:8} {pared_file.stat().st_size / xz:.3f}")
        assert pared_file.stat().st_size < xz
        assert decode(pared_file).stdout == model.read_bytes()


def test_every_shared_model_comes_back(tmp_path, shared):
    """Any model file, unchanged: a run without other steps gives the model's own bytes."""
    names = sorted((shared / "models").glob("*.onnx")) + sorted((shared / "models/ours").glob("*.onnx"))
    for path in names:
        if path.stat().st_size > 4 << 20:
            continue
        model, pared_file = pack(path, tmp_path / path.stem)
        assert decode(pared_file).stdout == model.read_bytes(), path.name


def test_wrong_parameters(tmp_path, small):
    for step, words in [("encode.cluster bits=0", "bits"), ("encode.cluster bits=10 form=gather", "at most 256"), ("encode.cluster init=best", "init"),
                        ("encode.container effort=most", "effort")]:
        done = subprocess.run([PARED, "run", str(small[0]), "--step", step, "--out", str(tmp_path / "o"), "--quiet"], capture_output=True, text=True)
        assert done.returncode == 1 and words in done.stderr, done.stderr
