# SPDX-License-Identifier: Apache-2.0
"""Models built by the onnx package, with everything the format can say, read and written by pared: the same bytes, or the same
message where the file is not in canonical field order. (The corpora are in tests/unit/test_onnx_write.c.)"""
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tiny import field, varint

ROOT = Path(__file__).resolve().parents[2]
COPY = ROOT / "build/tests/test_onnx_write"


def info(name, dtype=TensorProto.FLOAT, shape=("N", 4)):
    return helper.make_tensor_value_info(name, dtype, shape)


def model(nodes=None, initializers=(), inputs=None, outputs=None, **kw):
    nodes = nodes or [helper.make_node("Relu", ["x"], ["y"], name="relu")]
    graph = helper.make_graph(nodes, "g", inputs or [info("x")], outputs or [info("y")], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], **kw)


def every_dtype():
    lists = []
    for number in range(1, 27):
        if number == TensorProto.STRING:
            values = [b"a", b"", "\u00e9".encode(), b"\0"]
        elif number in (TensorProto.COMPLEX64, TensorProto.COMPLEX128):
            values = [1 + 2j, -3j, 0, 4]
        else:
            values = [0, 1, 1, 0]
        try:
            lists.append(helper.make_tensor(f"typed{number}", number, [4], values))
        except Exception:  # a dtype this version of the helper cannot make
            continue
    raw = [numpy_helper.from_array(np.arange(6, dtype=t).reshape(2, 3), f"raw_{t}")
           for t in ("float32", "int64", "uint8", "float64", "float16")]
    return model(initializers=lists + raw + [numpy_helper.from_array(np.zeros((0, 3), np.float32), "empty")])


def everything():
    m = model(doc_string="", producer_name="maker", producer_version="", domain="d", model_version=0)
    m.metadata_props.add(key="k", value="")
    m.metadata_props.add(key="only key")
    node = m.graph.node[0]
    node.doc_string, node.overload = "doc", ""
    node.metadata_props.add(key="a", value="b")
    device = node.device_configurations.add(configuration_id="c")
    device.sharding_spec.add(tensor_name="x", device=[1, 2])
    m.configuration.add(name="c", num_devices=2, device=["a", "b"])
    m.graph.quantization_annotation.add(tensor_name="x").quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="s")
    m.graph.metadata_props.add(key="g", value="v")
    m.graph.input[0].metadata_props.add(key="i", value="v")
    m.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    m.graph.input[0].type.denotation = "TENSOR"
    m.training_info.add().algorithm.name = "step"
    sparse = m.graph.sparse_initializer.add(dims=[3])
    sparse.values.CopyFrom(numpy_helper.from_array(np.array([1.0], np.float32), "sparse"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([1], np.int64)))
    return m


def types():
    tensor = helper.make_tensor_type_proto(TensorProto.INT32, [1, None, "M"])
    many = [helper.make_sequence_type_proto(tensor), helper.make_optional_type_proto(helper.make_sequence_type_proto(tensor)),
            helper.make_map_type_proto(TensorProto.STRING, tensor), helper.make_sparse_tensor_type_proto(TensorProto.FLOAT, [2])]
    m = model()
    m.graph.input.extend(helper.make_value_info(f"in{i}", t) for i, t in enumerate(many))
    m.graph.value_info.add(name="no type")
    m.graph.value_info.add(name="no shape").type.tensor_type.elem_type = 1
    odd = m.graph.value_info.add(name="minus one").type.tensor_type
    odd.elem_type = 1
    odd.shape.dim.add().dim_value = -1
    odd.shape.dim.add().dim_param = ""
    far = m.graph.value_info.add(name="rank 20").type.tensor_type
    far.shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=1) for _ in range(20))
    opaque = m.graph.value_info.add(name="opaque").type.opaque_type
    opaque.domain, opaque.name = "d", "o"
    m.graph.value_info.add(name="new dtype").type.tensor_type.elem_type = 28
    return m


def attributes():
    body = helper.make_graph([helper.make_node("Neg", ["x"], ["inner"])], "b", [], [info("inner")])
    node = helper.make_node(
        "Anything", ["x", "", "x"], ["y", ""], domain="custom", i=-1, f=0.0, s=b"\0\xff", ints=[1, -2], floats=[1.5, -0.0],
        strings=["a", ""], t=numpy_helper.from_array(np.eye(2, dtype=np.float32)), g=body, graphs=[body, body],
        tp=helper.make_tensor_type_proto(1, [1]), tps=[helper.make_tensor_type_proto(1, None)])
    node.attribute.add(name="empty ints", type=onnx.AttributeProto.INTS)
    node.attribute.add(name="sparse", type=onnx.AttributeProto.SPARSE_TENSOR).sparse_tensor.dims.append(3)
    node.attribute.add(name="sparses", type=onnx.AttributeProto.SPARSE_TENSORS).sparse_tensors.add().dims.append(4)
    m = model([node])
    m.opset_import.add(domain="custom", version=1)
    return m


def functions():
    node = helper.make_node("LeakyRelu", ["a"], ["b"])
    node.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    f = helper.make_function("local", "F", ["a"], ["b"], [node], [helper.make_opsetid("", 21)], ["slope"],
                             attribute_protos=[helper.make_attribute("gain", 2.0)], overload="o", doc_string="d")
    f.value_info.append(info("b"))
    m = model([helper.make_node("F", ["x"], ["y"], domain="local", overload="o", slope=0.1)])
    m.functions.append(f)
    m.opset_import.add(domain="local", version=1)
    return m


CANONICAL = [every_dtype, everything, types, attributes, functions]


def copy(tmp_path, data):
    source, target = tmp_path / "in.onnx", tmp_path / "out.onnx"
    source.write_bytes(data)
    done = subprocess.run([COPY, "--copy", source, target], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return target.read_bytes()


@pytest.mark.parametrize("make", CANONICAL, ids=lambda f: f.__name__)
def test_same_bytes(make, tmp_path):
    data = make().SerializeToString()
    assert copy(tmp_path, data) == data


def not_canonical():
    """Fields out of order, packed lists where the schema has none, a type that is not the payload's, unknown fields, IR 1."""
    plain = model().SerializeToString()
    header = onnx.ModelProto(ir_version=8, producer_name="late")
    yield "graph before header", field(7, model().graph.SerializeToString()) + header.SerializeToString() + \
        field(8, helper.make_opsetid("", 21).SerializeToString())
    packed = onnx.NodeProto(op_type="Relu", input=["x"], output=["y"]).SerializeToString() + \
        field(5, field(1, b"ints") + field(8, b"\x01\x02\x03") + b"\xa0\x01\x07")
    rest = model()
    del rest.graph.node[:]
    yield "packed ints", varint(8) + varint(8) + field(7, rest.graph.SerializeToString() + field(1, packed)) + \
        field(8, helper.make_opsetid("", 21).SerializeToString())
    two = model()
    two.graph.node[0].attribute.add(name="both", type=onnx.AttributeProto.INT, i=1, f=2.0, s=b"x").floats.extend([1.0])
    yield "two payloads", two.SerializeToString()
    undefined = model()
    undefined.graph.node[0].attribute.add(name="u", type=0, i=3)
    undefined.graph.node[0].attribute.add(name="untyped", f=3)
    yield "attribute types", undefined.SerializeToString()
    yield "unknown fields", plain + varint(1000 << 3) + b"\x05" + field(1001, b"abc") + varint(1002 << 3 | 5) + b"1234"
    split = onnx.TensorProto(dims=[2], data_type=1, name="w").SerializeToString() + \
        varint(4 << 3 | 5) + b"\0\0\x80?" + field(12, b"doc") + varint(4 << 3 | 5) + b"\0\0\0@"
    yield "split typed list", varint(8) + varint(8) + field(7, model().graph.SerializeToString() + field(5, split)) + \
        field(8, helper.make_opsetid("", 21).SerializeToString())
    segment = onnx.TensorProto(dims=[2], data_type=27, name="w", raw_data=b"12")
    segment.segment.begin = 1
    odd = model()
    odd.graph.initializer.append(segment)
    yield "tensor that cannot be held", odd.SerializeToString()


@pytest.mark.parametrize("name,data", list(not_canonical()), ids=lambda v: v if isinstance(v, str) else "")
def test_same_message(name, data, tmp_path):
    assert onnx.ModelProto.FromString(copy(tmp_path, data)) == onnx.ModelProto.FromString(data)
