# SPDX-License-Identifier: Apache-2.0
"""Small models and datasets written with the standard library alone: protobuf wire format and npy by hand."""
import io
import random
import struct
import zipfile


def varint(n):
    out = b""
    while True:
        out += bytes([n & 127 | (128 if n > 127 else 0)])
        n >>= 7
        if not n:
            return out


def field(number, value):
    """bytes and str: length-delimited; int: varint."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def value_info(name, dims, elem_type=1):
    shape = b"".join(field(1, field(2, d) if isinstance(d, str) else field(1, d)) for d in dims)
    return field(1, name) + field(2, field(1, field(1, elem_type) + field(2, shape)))


def tensor(name, dims, values=None, external=None):
    out = b"".join(field(1, d) for d in dims) + field(2, 1) + field(8, name)
    if external:
        for key, text in external.items():
            out += field(13, field(1, key) + field(2, str(text)))
        return out + field(14, 1)
    return out + field(9, struct.pack(f"<{len(values)}f", *values))


def node(op_type, inputs, outputs, name="", attributes=b""):
    return b"".join(field(1, i) for i in inputs) + b"".join(field(2, o) for o in outputs) + field(3, name) + field(4, op_type) + attributes


def model(nodes, initializers, inputs, outputs, opset=13, ir=7):
    graph = b"".join(field(1, n) for n in nodes) + field(2, "g") + b"".join(field(5, t) for t in initializers)
    graph += b"".join(field(11, i) for i in inputs) + b"".join(field(12, o) for o in outputs)
    return field(1, ir) + field(2, "pared-tests") + field(7, graph) + field(8, field(1, "") + field(2, opset))


def weights(seed, n):
    rng = random.Random(seed)
    return [rng.uniform(-1, 1) for _ in range(n)]


def classifier(seed=0, inputs=16, classes=4):
    """x [N, inputs] -> MatMul -> Relu -> MatMul -> scores [N, classes]"""
    w1, w2 = tensor("w1", [inputs, 8], weights(seed, inputs * 8)), tensor("w2", [8, classes], weights(seed + 1, 8 * classes))
    nodes = [node("MatMul", ["x", "w1"], ["h"], "fc1"), node("Relu", ["h"], ["r"], "relu"), node("MatMul", ["r", "w2"], ["scores"], "fc2")]
    return model(nodes, [w1, w2], [value_info("x", ["N", inputs])], [value_info("scores", ["N", classes])])


def classifier_external(location="weights.bin", seed=0, inputs=16, classes=4):
    """The same with w1 in a file of its own: (model bytes, file bytes)."""
    data = struct.pack(f"<{inputs * 8}f", *weights(seed, inputs * 8))
    w1 = tensor("w1", [inputs, 8], external={"location": location, "offset": 0, "length": len(data)})
    w2 = tensor("w2", [8, classes], weights(seed + 1, 8 * classes))
    nodes = [node("MatMul", ["x", "w1"], ["h"], "fc1"), node("Relu", ["h"], ["r"], "relu"), node("MatMul", ["r", "w2"], ["scores"], "fc2")]
    return model(nodes, [w1, w2], [value_info("x", ["N", inputs])], [value_info("scores", ["N", classes])]), data


def unknown_operator():
    return model([node("Frobnicate", ["x"], ["y"], "odd")], [], [value_info("x", [1, 4])], [value_info("y", [1, 4])])


def slow_model(seed=0, depth=400, width=512):
    """Takes long enough to be canceled while it runs."""
    inits, nodes, last = [tensor("w", [width, width], [v / width for v in weights(seed, width * width)])], [], "x"
    for i in range(depth):
        nodes.append(node("MatMul", [last, "w"], [f"h{i}"], f"fc{i}"))
        last = f"h{i}"
    nodes.append(node("Relu", [last], ["y"], "out"))
    return model(nodes, inits, [value_info("x", ["N", width])], [value_info("y", ["N", width])])


def npy(values, shape, dtype="<f4"):
    code = {"<f4": "f", "<i8": "q"}[dtype]
    header = "{'descr': '%s', 'fortran_order': False, 'shape': (%s), }" % (dtype, "".join(f"{d}," for d in shape))
    header += " " * (-(len(header) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + struct.pack(f"<{len(values)}{code}", *values)


def npz(arrays):
    """{"x": npy bytes} as an .npz file"""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for name, data in arrays.items():
            z.writestr(zipfile.ZipInfo(name + ".npy"), data)
    return out.getvalue()


def dataset(samples=64, inputs=16, classes=4, seed=0):
    rng = random.Random(seed)
    return npz({"x": npy(weights(seed, samples * inputs), [samples, inputs]),
                "y": npy([rng.randrange(classes) for _ in range(samples)], [samples], "<i8")})
