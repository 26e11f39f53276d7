# SPDX-License-Identifier: Apache-2.0
"""Models that ask for too much, never end, or are odd: what `pared eval`, `bench` and `inspect` say, and how soon."""
import json
import subprocess
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto as T
from onnx import helper as h


def save(path, nodes, inputs, outputs, weights=(), infos=()):
    info = [h.make_tensor_value_info(*i) for i in (*inputs, *outputs)]
    graph = h.make_graph(nodes, "g", info[:len(inputs)], info[len(inputs):], list(weights), value_info=[h.make_tensor_value_info(*i) for i in infos])
    onnx.save(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8), path)
    return path


def run(*words, timeout=60):
    return subprocess.run([str(w) for w in words], capture_output=True, text=True, timeout=timeout)


def data(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_100_gb_are_refused_before_they_are_taken(pared, tmp_path):
    """A product of two long vectors: 160,000 x 160,000 floats."""
    model = save(tmp_path / "m.onnx", [h.make_node("MatMul", ["x", "r"], ["big"], "outer"), h.make_node("ReduceSum", ["big"], ["y"], keepdims=0)],
                 [("x", T.FLOAT, [160000, 1]), ("r", T.FLOAT, [1, 160000])], [("y", T.FLOAT, [])])
    start = time.monotonic()
    for words in (["bench", model], ["bench", model, "--plain"], ["bench", model, "--max-memory", "90G"]):
        done = run(pared, *words)
        assert done.returncode == 1 and "node 'outer'" in done.stderr and "over the limit of" in done.stderr, done.stderr
    assert "float32[160000,160000]" in done.stderr and str(90 << 30) in done.stderr
    assert time.monotonic() - start < 20


@pytest.mark.parametrize("text", ["0", "-1", "1.5G", "2X", "G", "99999999999999999999", "9999999999G"])
def test_max_memory_takes_sizes(pared, tmp_path, text):
    done = run(pared, "bench", tmp_path / "none.onnx", "--max-memory", text)
    assert done.returncode == 2 and "--max-memory takes a number of bytes" in done.stderr


def endless(path):
    body = h.make_graph([h.make_node("Identity", ["go"], ["go_on"]), h.make_node("Sin", ["v"], ["w"])], "body",
                        [h.make_tensor_value_info("i", T.INT64, []), h.make_tensor_value_info("go", T.BOOL, []), h.make_tensor_value_info("v", T.FLOAT, [2])],
                        [h.make_tensor_value_info("go_on", T.BOOL, []), h.make_tensor_value_info("w", T.FLOAT, [2])])
    return save(path, [h.make_node("Loop", ["", "", "x"], ["y"], "forever", body=body)], [("x", T.FLOAT, [2])], [("y", T.FLOAT, [2])])


def test_a_loop_without_end_is_stopped(pared, tmp_path):
    model = endless(tmp_path / "m.onnx")
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "input_0.pb").write_bytes(onnx.numpy_helper.from_array(np.ones(2, np.float32), "x").SerializeToString())
    done = run(pared, "eval", model, "--data", folder)
    assert done.returncode == 1 and "has not ended after 1000000 rounds" in done.stderr and "'forever'" in done.stderr
    start = time.monotonic()
    done = run(pared, "eval", model, "--data", folder, "--max-seconds", "1")
    if "takes longer than the limit of 1 seconds" not in done.stderr:  # a fast machine may run a million rounds first
        assert "1000000 rounds" in done.stderr
    assert done.returncode == 1 and time.monotonic() - start < 15


def test_division_by_zero_in_shapes(pared, tmp_path):
    nodes = [h.make_node("Shape", ["x"], ["s"]), h.make_node("Div", ["s", "zero"], ["d"], "divide"), h.make_node("Reshape", ["x", "d"], ["y"])]
    for dims in ([2, 3], ["n", 3]):
        model = save(tmp_path / "m.onnx", nodes, [("x", T.FLOAT, dims)], [("y", T.FLOAT, None)], [h.make_tensor("zero", T.INT64, [1], [0])])
        done = run(pared, "bench", model)
        assert done.returncode == 1 and "node 'divide'" in done.stderr and "division by zero" in done.stderr, done.stderr
        assert run(pared, "inspect", model).returncode == 0


def test_nan_weights_are_reported(pared, tmp_path):
    weight = onnx.numpy_helper.from_array(np.array([1, np.nan, np.nan], np.float32), "w")
    model = save(tmp_path / "m.onnx", [h.make_node("Mul", ["x", "w"], ["y"])], [("x", T.FLOAT, ["n", 3])], [("y", T.FLOAT, ["n", 3])], [weight])
    done = run(pared, "eval", model, "--data", data(tmp_path / "x.npz", x=np.ones((2, 3), np.float32)))
    assert done.returncode == 0 and "weight 'w' holds 2 NaN" in done.stderr, done.stderr
    assert json.loads(run(pared, "inspect", model, "--json").stdout)["warnings"] == ["weight 'w' holds 2 NaN"]


def test_wrong_declarations_are_reported_and_ignored(pared, tmp_path):
    model = save(tmp_path / "m.onnx", [h.make_node("Relu", ["x"], ["r"]), h.make_node("Transpose", ["r"], ["y"])],
                 [("x", T.FLOAT, [2, 3])], [("y", T.FLOAT, [2, 3])], infos=[("r", T.DOUBLE, [2, 3])])
    facts = json.loads(run(pared, "inspect", model, "--json").stdout)
    assert len(facts["warnings"]) == 2 and all("the declaration is ignored" in w for w in facts["warnings"])
    assert "value 'y' is declared as float32[2,3] but is float32[3,2]" in facts["warnings"][1]
    assert "warning" in run(pared, "inspect", model).stdout
    assert run(pared, "bench", model, "--runs", "1").returncode == 0
