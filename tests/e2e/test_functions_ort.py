# SPDX-License-Identifier: Apache-2.0
"""Local functions whose bodies hold nested graphs (core/engine/plan_inline.c), against ONNX Runtime: each model becomes a case
of the conformance tool (tests/tools/conformance.c)."""
import pathlib
import subprocess

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parents[2]
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]


def scalar(name, value):
    return numpy_helper.from_array(np.array(value), name)


def tensor(name, dtype=TensorProto.FLOAT, shape=None):
    return helper.make_tensor_value_info(name, dtype, shape)


def choose():
    """choose(x, c): c > 0 ? x + bias : -x, the bias an initializer of the branch."""
    then = helper.make_graph([helper.make_node("Add", ["x", "bias"], ["t"])], "then", [], [tensor("t")],
                             [numpy_helper.from_array(np.float32([10]), "bias")])
    other = helper.make_graph([helper.make_node("Neg", ["x"], ["t"])], "else", [], [tensor("t")])
    return helper.make_function("local", "choose", ["x", "c"], ["y"], [
        helper.make_node("Constant", [], ["zero"], value=scalar("", np.float32(0))),
        helper.make_node("Greater", ["c", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=then, else_branch=other)], OPSETS[:1])


def repeat():
    """repeat(x, n): n rounds of x = choose(2 x, x[0] - 20), whose body calls another function and reads an outer value."""
    body = helper.make_graph(
        [helper.make_node("Mul", ["v", "two"], ["doubled"]),
         helper.make_node("Gather", ["v", "first"], ["head"]),
         helper.make_node("Sub", ["twenty", "head"], ["c"]),
         helper.make_node("choose", ["doubled", "c"], ["v_out"], domain="local"),
         helper.make_node("Identity", ["keep"], ["keep_out"])], "body",
        [tensor("i", TensorProto.INT64, []), tensor("keep", TensorProto.BOOL, []), tensor("v")],
        [tensor("keep_out", TensorProto.BOOL, []), tensor("v_out")], [numpy_helper.from_array(np.float32([2]), "two")])
    return helper.make_function("local", "repeat", ["x", "n"], ["y"], [
        helper.make_node("Constant", [], ["twenty"], value=scalar("", np.float32(20))),
        helper.make_node("Constant", [], ["first"], value=scalar("", np.int64(0))),
        helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)], OPSETS)


def model(nodes, functions):
    graph = helper.make_graph(nodes, "main", [tensor("x", shape=[3]), tensor("n", TensorProto.INT64, [])],
                              [tensor("y", shape=[3])])
    return helper.make_model(graph, opset_imports=OPSETS, functions=functions, ir_version=8)


CASES = {
    "if": model([helper.make_node("Cast", ["n"], ["c"], to=TensorProto.FLOAT),
                 helper.make_node("choose", ["x", "c"], ["y"], domain="local")], [choose()]),
    "if_twice": model([helper.make_node("Cast", ["n"], ["c"], to=TensorProto.FLOAT),
                       helper.make_node("choose", ["x", "c"], ["h"], domain="local"),
                       helper.make_node("choose", ["h", "c"], ["y"], domain="local")], [choose()]),
    "loop_calls_function": model([helper.make_node("repeat", ["x", "n"], ["y"], domain="local")], [choose(), repeat()]),
    "loops_one_after_another": model([helper.make_node("repeat", ["x", "n"], ["h"], domain="local"),
                                      helper.make_node("repeat", ["h", "n"], ["y"], domain="local")],
                                     [choose(), repeat()]),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rounds", [0, 1, 4])
def test_nested_graphs_in_functions(tmp_path, name, rounds):
    feeds = {"x": np.float32([3, -1, 0.5]), "n": np.array(rounds, np.int64)}
    data = CASES[name].SerializeToString()
    session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])
    folder = tmp_path / "node" / name / "test_data_set_0"
    folder.mkdir(parents=True)
    (folder.parent / "model.onnx").write_bytes(data)
    for i, (key, value) in enumerate(feeds.items()):
        (folder / f"input_{i}.pb").write_bytes(numpy_helper.from_array(value, key).SerializeToString())
    want = session.run(None, feeds)[0]
    (folder / "output_0.pb").write_bytes(numpy_helper.from_array(want, "y").SerializeToString())
    done = subprocess.run([ROOT / "build/tools/conformance", "-v", "-d", tmp_path, "-m", "1"], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stdout
