# SPDX-License-Identifier: Apache-2.0
"""seeds.py KIND DIR: a few small valid inputs to start a fuzzer from, made here (nothing is downloaded, nothing is committed)."""
import base64
import gzip
import hashlib
import io
import json
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import onnx
from PIL import Image


def tar_of(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_of(files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in files.items():
            z.writestr(name, data)
    return out.getvalue()


def picture(mode, kind, size=(9, 7), **options):
    pixels = np.random.default_rng(3).integers(0, 256, (size[0], size[1], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def many_scans():
    """A progressive JPEG whose last scan comes 250 times: little to send, much to decode."""
    data = picture("RGB", "JPEG", (64, 64), progressive=True)
    scan = data.rindex(b"\xff\xda")
    return data[:scan] + data[scan:-2] * 250 + data[-2:]


def saved(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def npz(**arrays):
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def folder(files):
    """A whole folder for fuzz_dataset."""
    return b"files\n" + b"\n--next--\n".join(name.encode() + b"\n" + data for name, data in files.items())


def described(beside=None, /, **description):
    """A data.json and its files."""
    return folder({"data.json": json.dumps(description).encode(), **(beside or {})})


def described_datasets(rng, pictures, idx):
    small, grey = npz(x=rng.normal(size=(4, 3, 5, 5)).astype(np.float32), y=np.arange(4)), rng.integers(0, 255, (3, 6, 5), np.uint8)
    yield described({"a.npz": small}, format="npz", files={"x": "a.npz"}, offset=1, limit=2, shuffle=True, inputs={"x": "picture"})
    yield described({"a.npy": saved(grey), "b.npy": saved(np.arange(3))}, format="npz", files={"x": "a.npy", "y": "b.npy"},
                    preprocess={"mean": [0.5], "std": [0.5], "scale": 0.1, "layout": "nhwc", "channels": "gray"})
    yield described({"a.npy": saved(grey)}, format="npz", files={"x": "a.npy"}, preprocess={"resize_shorter": 4, "center_crop": 3, "layout": "nchw"})
    yield described({"a": idx, "b": gzip.compress(idx)}, format="idx", files={"x": "a", "z": "b"}, inputs={"x": "x", "z": "z"})
    yield described({"a": bytes(3073 * 2)}, format="cifar10", files={"x": "a"}, classes=["cat", "dog"],
                    preprocess={"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.2], "channels": "bgr", "resize_shorter": 16, "center_crop": 12})
    yield described({"a": bytes([10]) + bytes(3072)}, format="cifar10", files={"x": "a"})
    yield described({"a.tar": tar_of(pictures)}, format="images", files={"x": "a.tar"}, classes=["b", "a"],
                    augment={"flip": True, "crop_pad": 1, "resized_crop": [0.5, 1], "jitter": {"brightness": 0.4}, "rotate": 15, "cutout": 2, "mixup": 0.2},
                    preprocess={"resize_shorter": 6, "center_crop": 4, "channels": "rgb"})
    csv = b"file,class\n0.png,1\n1.jpg,cat\n2.png, 0\n3.jpg,2\r\n"
    yield described({"a.zip": zip_of({k.split("/")[1]: v for k, v in pictures.items()}), "b.csv": csv}, format="images", files={"x": "a.zip", "y": "b.csv"}, classes=["dog", "cat"])
    yield tar_of({**pictures, "labels.csv": csv.replace(b"cat", b"3")})
    yield tar_of({**pictures, "labels.csv": b"file,class\n0.png,lynx\n"})
    yield tar_of({**pictures, "labels.csv": b"a/0.png,0\n"})
    yield folder(pictures)
    for preprocess in ({"channels": "gray"}, {"resize_shorter": 12000, "center_crop": 4}, {"center_crop": 8}, {"resize_shorter": 9, "center_crop": 9}):
        yield described({"a.tar": tar_of({"a/a.png": picture("RGB", "PNG"), "b/b.jpg": picture("RGB", "JPEG")})}, format="images", files={"x": "a.tar"}, preprocess=preprocess)
    png = picture("RGB", "PNG")
    for damaged in (png[:20], png[:-30] + bytes(30), png.replace(b"IDAT", b"IDAX")):
        yield described({"a.tar": tar_of({"a/a.png": damaged, "b/b.png": png})}, format="images", files={"x": "a.tar"})
    for key, wrong in {"format": "tar", "files": [], "inputs": {"x": 1}, "preprocess": 1, "augment": {"flip": 1}, "classes": [1], "offset": -1, "limit": 0, "shuffle": 1,
                       "other": 1}.items():
        yield described(**{"format": "npz", "files": {"x": "a"}, key: wrong})
    for key, wrong in {"mean": [], "std": [0], "channels": "cmyk", "layout": "hwc", "scale": 0, "center_crop": 0, "resize_shorter": 1 << 20, "other": 1}.items():
        yield described(format="npz", preprocess={key: wrong})
    for name in ("../a", "missing", "x" * 5000, "link"):
        yield described(format="npz", files={"x": name})
    yield described({"a": b""}, format="images", files={"x": "a"})
    yield described({"a.npz": small, "b.npz": small}, format="npz", files={"x": "a.npz", "y": "b.npz"})
    yield described({"y.npy": saved(np.arange(3))}, format="npz", files={"y": "y.npy"})
    yield described(format="npz")
    yield described({"a": idx}, format="idx")
    yield described({"input_0.pb": tensor("x", grey)}, format="onnx")
    yield described({"a.npy": saved(grey)}, format="npz", files={"x": "a.npy"}, classes=1)
    yield b" {\"format\": \"npz\", "


def tensor(name, array):
    return onnx.numpy_helper.from_array(array, name).SerializeToString()


def arrays_to_refuse(rng):
    x = rng.normal(size=(2, 3)).astype(np.float32)
    yield from (saved(np.asfortranarray(x)), saved(x.astype(">f4")), saved(np.array(1.0)), saved(x[:0]), saved(x)[:-1], saved(x).replace(b"(2, 3)", b"[2, 3]"),
                saved(x).replace(b"descr", b"dscr_"), saved(x).replace(b"\x93NUMPY\1\0v\0", b"\x93NUMPY\2\0t\0\0\0"), saved(x)[:11], b"\x93NUMPY\2\0" + b"\xff" * 8)
    yield from (npz(x=np.array([1, np.nan])), npz(x=x, y=np.array([0, -1])), npz(x=x, y=np.array([0.5, np.inf])), npz(x=x, y=np.arange(3)), npz(y=np.arange(3)),
                npz(x=x, z=x[:1]), npz(**{f"a{i}": np.zeros((1, 1), np.uint8) for i in range(66)}), npz(), zip_of({"a.npy": b"", "b.txt": b""}))
    for dtype in "?bBhHiIlLefd":
        yield npz(x=np.ones((2, 3), dtype), z=np.ones((2, 2), np.int32))
    yield npz(x=x.reshape(2, 3, 1), y=x)
    yield npz(x=np.zeros((1, 2, 2, 2, 2, 1), np.float32))
    yield npz(picture=rng.normal(size=(2, 48)).astype(np.float32))
    yield npz(x=np.full((2, 12), 7, np.uint8))
    yield from (b"", b"text", bytes([0, 0, 8, 4, 0, 0, 0, 1]), gzip.compress(b"text"), gzip.compress(bytes(3000))[:-9], gzip.compress(bytes([0, 0, 8, 1, 0, 0, 0, 2, 1, 2]))[:-4])
    yield gzip.compress(bytes(5 << 20))
    yield zip_of({"x.npy": bytes(5 << 20)})


def dataset():
    rng = np.random.default_rng(0)
    pictures = {f"{'ab'[i % 2]}/{i}.{'png' if kind == 'PNG' else 'jpg'}": picture(mode, kind) for i, (mode, kind) in
                enumerate([("RGB", "PNG"), ("L", "JPEG"), ("P", "PNG"), ("RGB", "JPEG")])}
    arrays = npz(x=rng.normal(size=(4, 3, 2, 2)).astype(np.float32), y=np.arange(4))
    idx = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2]) + bytes(8)
    yield from [arrays, saved(rng.integers(0, 255, (3, 4, 4), np.uint8)), idx, gzip.compress(idx), bytes(3073), tar_of(pictures), zip_of(pictures),
                gzip.compress(tar_of(pictures)), tar_of({"text": b"none"})]
    yield from pictures.values()
    yield from arrays_to_refuse(rng)
    yield from described_datasets(rng, pictures, idx)
    wide = io.BytesIO()
    Image.fromarray(np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000).save(wide, "PNG")
    yield tar_of({"a.png": wide.getvalue()})
    yield from (tar_of({"a/a.png": picture(mode, "PNG")}) for mode in ("1", "LA", "RGBA"))
    yield from (tar_of({"a/a.jpg": picture(mode, "JPEG", progressive=True)}) for mode in ("L", "CMYK"))
    yield from (tar_of({"a/a.jpg": many_scans()}), tar_of({"./a/a.jpg": picture("L", "JPEG")[:150], "none.txt": b""}), tar_of({"a.png": picture("L", "PNG")[:60]}),
                tar_of({"a.png": b"no picture"}), tar_of({"a.png": picture("1", "PNG", (1, 17000))}), tar_of({"a.jpg": picture("L", "JPEG", (1, 17000))}),
                tar_of({"a/a.png": picture("L", "PNG"), "a/b.png": picture("L", "PNG", (3, 3))}), tar_of({"x" * 4200 + ".png": b""}))
    text = onnx.helper.make_tensor("x", onnx.TensorProto.STRING, [1], [b"a"]).SerializeToString()
    x = rng.normal(size=(2, 12)).astype(np.float16)
    yield from (folder({"input_0.pb": tensor("x", x), "output_0.pb": tensor("y", x)}), folder({"input_0.pb": tensor("z", x.astype(np.float64)), "input_1.pb": tensor("x", np.arange(2))}),
                folder({"output_0.pb": tensor("y", x)}), folder({"input_0.pb": b"\xff"}), folder({"input_0.pb": text, "output_0.pb": b"\1"}))


def text_fields(**fields):
    return [onnx.StringStringEntryProto(key=k, value=str(v)) for k, v in fields.items()]


def outside(name="w", dtype=onnx.TensorProto.FLOAT, dims=(4,), **where):
    return onnx.TensorProto(name=name, data_type=dtype, dims=dims, data_location=onnx.TensorProto.EXTERNAL, external_data=text_fields(**where))


def odd_tensors():
    """Every list of elements, right and wrong."""
    T = onnx.TensorProto
    for dtype in range(1, 27):
        for count, dims in ((4, (4,)), (3, (4,)), (0, (0,)), (4, ()), (0, (4,))):
            for field in ("float_data", "int32_data", "int64_data", "double_data", "uint64_data"):
                if count == 4 and dims == (4,) or field == ("float_data", "int32_data", "int64_data")[dtype % 3]:
                    yield T(name="w", data_type=dtype, dims=dims, **{field: [1] * count})
        yield T(name="w", data_type=dtype, dims=(4,), raw_data=bytes(32 if dtype in (7, 11, 13) else 16))
    yield from (T(name="w", data_type=8, dims=(2,), string_data=[b"a", b"b"]), T(name="w", data_type=8, dims=(2,), string_data=[b"a"]), T(name="w", data_type=8, dims=(2,), raw_data=b"a"),
                T(name="w", data_type=1, dims=(1,), string_data=[b"a"]), T(name="w", data_type=1, dims=(-1,)), T(name="w", data_type=1, dims=(1 << 40, 1 << 40)), T(name="w", data_type=99, dims=(1,)),
                T(name="w", data_type=1, dims=(1,), raw_data=bytes(4), float_data=[1]), T(name="w", data_type=1, dims=[1] * 20, float_data=[1]), T(data_type=1, dims=(1,), float_data=[1]))
    yield from (outside(location="w.bin"), outside(location="w.bin", offset=16, length=16), outside(location="w.bin", offset=4), outside(location="w.bin", length=15), outside(location="missing"),
                outside(location="../w.bin"), outside(location="/etc/passwd"), outside(location=""), outside(offset=0), outside(location="w.bin", offset="x"), outside(location="w.bin", offset=999),
                outside(location="w.bin", offset="-1"), outside(location="w.bin", length="18446744073709551616"), outside(dtype=8, location="w.bin"), outside(dims=(500,), location="w.bin"),
                outside(dtype=10, location="w.bin", offset=8, length=8), outside(dims=(40,), location="a", offset=0, length=160), outside(location="sub/w.bin"), outside(location="sub"), outside(location="link"), outside(location="empty"), outside(dims=(0,), location="empty"),
                outside(location="w.bin", offset=""), outside(location="w.bin", other=1, checksum="x"))


def odd_attributes():
    H, A = onnx.helper, onnx.AttributeProto
    tensor, graph = H.make_tensor("t", 1, [1], [1.0]), H.make_graph([H.make_node("Relu", ["x"], ["i"])], "g", [], [H.make_tensor_value_info("i", 1, None)])
    sparse, kind = H.make_sparse_tensor(tensor, H.make_tensor("i", 7, [1], [0]), [4]), H.make_tensor_type_proto(1, [2])
    for name, value in (("f", 1.5), ("i", 3), ("s", "text"), ("t", tensor), ("g", graph), ("floats", [1.5]), ("ints", [1, 2]), ("strings", ["a", "b"]), ("tensors", [tensor, tensor]),
                        ("graphs", [graph]), ("sp", sparse), ("sps", [sparse]), ("tp", kind), ("tps", [kind])):
        yield H.make_attribute(name, value)
    for kind in range(15):
        yield A(name="both", type=kind, f=1, i=2, s=b"s", floats=[1], ints=[1], strings=[b"a"], t=tensor, g=graph, tensors=[tensor], graphs=[graph], sparse_tensor=sparse, sparse_tensors=[sparse])
    yield from (A(name="none"), A(i=1), A(name="ref", ref_attr_name="a", type=2), A(name="t", type=4, t=onnx.TensorProto(data_type=1, dims=[-1])))


def odd_types():
    H = onnx.helper
    plain = H.make_tensor_type_proto(1, ["N", 2, None], shape_denotation=["DATA_BATCH", "", "X"])
    yield from (plain, H.make_sequence_type_proto(plain), H.make_optional_type_proto(H.make_sequence_type_proto(plain)), H.make_map_type_proto(7, plain), H.make_sparse_tensor_type_proto(1, [3]),
                H.make_tensor_type_proto(1, [-1]), H.make_tensor_type_proto(1, [1] * 20), H.make_tensor_type_proto(99, [1]), onnx.TypeProto(), onnx.TypeProto(denotation="IMAGE"),
                onnx.TypeProto(sequence_type=onnx.TypeProto.Sequence()), onnx.TypeProto(opaque_type=onnx.TypeProto.Opaque(domain="a", name="b")))


def odd_models():
    H = onnx.helper
    relu, x, y = H.make_node("Relu", ["x"], ["y"], "n", doc_string="d"), H.make_tensor_value_info("x", 1, [2]), H.make_tensor_value_info("y", 1, [2])

    def model(nodes=(relu,), inputs=(x,), outputs=(y,), **rest):
        top = {k: rest.pop(k) for k in list(rest) if k in ("functions", "metadata_props", "opset_import", "producer_name", "training_info")}
        graph = onnx.GraphProto(node=nodes, name="g", input=inputs, output=outputs, **rest)
        return onnx.ModelProto(**{"ir_version": 10, "opset_import": [H.make_opsetid("", 17)], "graph": graph, **top})
    for tensor in odd_tensors():
        yield model(initializer=[tensor])
        if tensor.external_data:  # fuzz_onnx_read chooses by the length how a model is read
            yield from (model(initializer=[tensor], producer_name="p" * n) for n in range(1, 17))
    yield model(initializer=[outside(name, location="w.bin") for name in "ab"])
    for attribute in odd_attributes():
        node = H.make_node("Relu", ["x"], ["y"])
        node.attribute.append(attribute)
        yield model([node])
    for kind in odd_types():
        yield model(inputs=[onnx.ValueInfoProto(name="x", type=kind)])
    function = H.make_function("f", "Twice", ["a"], ["b"], [H.make_node("Add", ["a", "a"], ["b"])], [H.make_opsetid("", 17)], attributes=["alpha"], attribute_protos=[H.make_attribute("beta", 1)], doc_string="d",
                               overload="o", value_info=[H.make_tensor_value_info("b", 1, [2])])
    function.metadata_props.extend(text_fields(k="v"))
    yield model([H.make_node("Twice", ["x"], ["y"], domain="f")], functions=[function], opset_import=[H.make_opsetid("", 17), H.make_opsetid("f", 1)])
    bad = H.make_function("f", "Bad", ["a"], ["b"], [H.make_node("Add", ["a", "a"], ["a"])], [])
    yield from (model(functions=[bad]), model(metadata_props=text_fields(k="v", author="me"), producer_name="p"))
    sparse = [H.make_sparse_tensor(H.make_tensor(n, 1, [1], [1.0]), H.make_tensor("i", 7, [1], [0]), [4]) for n in ("s", "")]
    yield from (model(sparse_initializer=sparse[:1]), model(sparse_initializer=sparse[1:]), model(inputs=[x, x]), model(outputs=[y, y]), model([relu, relu]), model([onnx.NodeProto(input=["x"], output=["y"])]),
                model(inputs=[onnx.ValueInfoProto()]), model(value_info=[y, H.make_tensor_value_info("z", 1, None)]), model(quantization_annotation=[onnx.TensorAnnotation(tensor_name="x")]),
                model(initializer=[H.make_tensor("x", 1, [2], [1, 2])] * 2), model([H.make_node("Relu", ["x", "", "later"], ["", "y"]), H.make_node("Relu", ["y"], ["later"])]), model([]), onnx.ModelProto(),
                onnx.ModelProto(ir_version=3, graph=onnx.GraphProto()), model(training_info=[onnx.TrainingInfoProto()]))


def onnx_read():
    root = Path("/usr/share/libonnx-testdata")
    for path in sorted(root.rglob("model.onnx")):
        if path.stat().st_size < 2000:
            yield path.read_bytes()
    whole = b""
    for made in odd_models():
        yield made.SerializeToString()
        whole = max(whole, made.SerializeToString(), key=len)
    tag = lambda number, kind: bytes([number << 3 | kind])
    yield from (whole + tag(15, 2) + b"\3new", whole + tag(12, 0) + b"\1" + tag(13, 1) + bytes(8) + tag(14, 5) + bytes(4), whole[:-3], whole[:40], whole + tag(15, 3), whole + tag(15, 7), whole + b"\0", whole + b"\xff" * 11,
                tag(7, 0) + b"\1", tag(1, 2) + b"\0", tag(7, 2) + b"\xff\xff\xff\xff\x0f", whole + whole, tag(7, 2) + b"\0" + tag(7, 2) + b"\0", tag(7, 2) + b"\6" + (tag(1, 2) + b"\1" + b"\x08"), tag(2, 2) + b"\2a\0", tag(1, 0) + b"\xff" * 11, tag(15, 6) + b"x", tag(2, 0) + b"\1", tag(1, 5) + bytes(4))
    initializer = lambda inner: tag(7, 2) + bytes([len(inner) + 2]) + tag(5, 2) + bytes([len(inner)]) + inner
    yield from (initializer(b"\x0a\1\4\x10\1\x22\x07" + bytes(7)), initializer(b"\x0a\1\1\x10\7\x3a\2\xff\xff"), initializer(b"\x0a\1\1\x10\1\x25" + bytes(4)), initializer(b"\x0a\1\1\x10\x0b\x51" + bytes(8)))
    number = lambda n: bytes([n & 127 | 128, n >> 7]) if n > 127 else bytes([n])

    def inside(fields, inner):
        for field in reversed(fields):
            inner = tag(field, 2) + number(len(inner)) + inner
        return inner
    attribute, packed = (7, 1, 5), bytes(8) + b"\xff"  # graph, node, attribute
    yield from (inside((*attribute, 7), packed[:8]), inside((*attribute, 7), packed), inside((*attribute, 8), packed), inside(attribute + (6, 1, 5) * 70, b""), b"2 " + b"a line of text, and then some \n\n\n",
                inside((7, 1), tag(1, 2) + b"\xff"), inside((7,), tag(1, 2)), whole + tag(15, 2) + b"\xff")
    new = tag(15, 2) + b"\3new" + tag(14, 0) + b"\1"  # fields of a later version, in what is kept as it came
    yield from (inside(path, new) + whole for path in ((20,), (7, 14), (7, 14, 2), (7, 15), (7, 15, 1), (7, 11, 2), (7, 11, 2, 5), (7, 11, 2, 9, 1), (*attribute, 22), (7, 5, 13), (7, 5, 16)))
    yield inside((7,) * 80, b"")
    yield from (b"", b"PK\3\4" + bytes(40), b"\x1f\x8b\x08" + bytes(40), b"\x89PNG\r\n\x1a\n" + bytes(20), b"\x7fELF" + bytes(60), b"plain text", b"{\"json\": 1}", b"\x93NUMPY\1\0" + bytes(20), b"\x89HDF\r\n\x1a\n" + bytes(9),
                b"\x08\x0a", bytes(4) + b"TFL3" + bytes(40), b"\x80\x02}q" + bytes(20))


def multipart():
    part = lambda head, body=b"x": b"--b\r\n" + head + b"\r\n\r\n" + body + b"\r\n--b--"
    named = b'Content-Disposition: form-data; name="n"'
    yield b'--b\r\nContent-Disposition: form-data; name="model"; filename="m.onnx"\r\n\r\nbytes\r\n--b--\r\n'
    yield b'--b\r\nContent-Disposition: form-data; name="data"\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n--b--'
    yield from (part(named + b'; filename="a\\"%22b\\\\"'), part(named, b"\r\n--\r\n--c\r\r\n-"), part(named + b"; filename=" + b"f" * 300), part(named[:-2]), part(b"Content-Type: a/b"),
                part(named + b"\r\nContent-Transfer-Encoding: base64"), part(named + b"\r\nContent-Transfer-Encoding: binary"), part(named + b"\0"), part(named + b"\r\nX: " + b"x" * 8200),
                part(b"Content-Disposition: attachment; name=n"), part(b"Content-Disposition: form-data; x; name*=a; name=n"), b"--b\r\n\r\n", b"--b \tx\r\n", b"--b\t\r\n" + named,
                (b"--b\r\n" + named + b"\r\n\r\n\r\n") * 1001, b"pre\r\n" + part(named))
    for kind in (b'form-data; boundary="a b"', b"form-data; boundary=", b"form-data; boundary=" + b"b" * 71, b'form-data; boundary="a', b"form-data; boundary=\x80", b"form-data; Boundary=c;x", b"x"):
        yield kind + b"\n--a b\r\n" + named + b"\r\n\r\n\r\n--a b--"


WRONG = (1, -1, 0.5, 1e300, "x", "", True, None, [], [1, "x"], {}, {"x": 1})
METHODS = ("analyse.sensitivity", "encode.cluster", "encode.container", "factor.cp", "factor.depthwise_separable", "factor.spatial_svd", "factor.svd", "factor.tucker", "graph.optimize", "iterate",
           "prune.channels", "prune.heads", "prune.layers", "prune.weights", "quantize.adaround", "quantize.auto", "quantize.bf16", "quantize.dequantize", "quantize.dynamic", "quantize.equalize",
           "quantize.fp16", "quantize.smooth", "quantize.static", "quantize.weights", "recover.bias_correction", "recover.bn_stats", "recover.least_squares", "train.distill", "train.finetune", "train.qat")


def recipes():
    step = lambda method="prune.weights", **params: {"method": method, **params}
    inner = step(steps=[])
    for _ in range(40):
        inner = step("iterate", steps=[inner])
    yield {"steps": [step("graph.optimize"), step(sparsity=0.5, include=["*"])], "targets": {"max_bytes_ratio": 0.5, "min_accuracy": 1, "max_macs_ratio": 0}, "seed": 1}
    for method in METHODS:
        yield {"steps": [step(method)]}
        for key in ("include", "sparsity", "steps", "bits", "epochs", "scope", "schedule", "seed", "optimizer", "augment", "nearly"):
            yield {"steps": [step(method, **{key: WRONG[(len(method) + len(key)) % len(WRONG)]})]}
    for wrong in WRONG:
        yield from (wrong, {"steps": wrong}, {"steps": [wrong]}, {"steps": [], "targets": wrong}, {"steps": [], "seed": wrong}, {"steps": [step(wrong)]}, {"steps": [], "targets": {"min_accuracy": wrong}},
                    {"steps": [], "stepz": wrong}, {"steps": [], "targets": {"min_accurasy": wrong}})
        for key in ("sparsity", "include", "scope", "block", "nothing"):
            yield {"steps": [step(**{key: wrong})]}
        for key in ("epochs", "lr", "optimizer", "augment", "batch", "seed", "steps"):
            yield {"steps": [step("train.finetune", **{key: wrong})]}
        yield {"steps": [step("factor.svd", rank=wrong)]}
    yield from ({}, {"steps": [inner]}, {"steps": [step()] * 300}, {"steps": [step(include="a/~b")]}, {"steps": [step("train.finetune", steps=[step(), step("graph.optimize")])]},
                {"steps": [step("iterate", steps=[step(), step("train.finetune", epochs=1)], rounds=2)]}, {"steps": [step("graph.optimize", steps=[])]}, {"steps": [step("train.qat"), step("quantize.static")]},
                {"steps": [step("quantize.static"), step("train.qat"), step("encode.container")]})


def recipe():
    for made in recipes():
        yield json.dumps(made).encode()
    yield from (b"[" * 100, b"{", b'{"a\\"": "[[["}', b'{"a": 1, "a": 2}', b'"' + b"\xc3\xa9" * 200 + b'"', b'{"steps": [{"method": "' + b"\xc3\xa9" * 200 + b'"}]}')
    yield from (b"prune.weights sparsity=0.5", b"prune.weights:sparsity=0.5,include=a", b"prune.weights sparsity=[1,2] include=*", b"graph.optimize", b"x", b"", b" a = b", b"prune.weights sparsity",
                b"prune.weights sparsity=0.5 sparsity=1", b"prune.weights =1", b"prune.weights include={", b"prune.weights include=" + b"\xc3" * 9, b"iterate steps=[{\"method\":\"x\"}]")


def ops():
    rng = np.random.default_rng(1)
    for _ in range(300):  # bytes of tests/op_random.h: any bytes are a case
        yield rng.integers(0, 256, int(rng.integers(8, 200)), np.uint8).tobytes()


def container():
    body = lambda adaptive, text, rest=b"": bytes([len(adaptive)]) + adaptive + bytes([len(text)]) + (b"\0" + text if text else b"") + rest
    noise = np.random.default_rng(2).integers(0, 256, 60, np.uint8).tobytes()
    huffman = bytes([1, 0x11]) + noise[:4]  # two symbols of one bit
    rans = bytes([1, 0x80, 0x10, 0x80, 0x10]) + b"\0\0\1\0" * 2
    yield from [body(b"", b"onnx"), body(b"", b"", bytes([0, 4, 0x20]) + noise[:16]), body(noise, b"", bytes([0, 30, 0x10, 5, 4, 4])),
                body(noise, b"", bytes([0, 99, 4, 9, 2, 1, 1, 0, 7, 9])), body(b"", b"", bytes([0, 32, 2, 2, 1, 1, 0, 5, 6, 2, len(huffman)]) + huffman),
                body(b"", b"", bytes([0, 200, 1, 3, 2, 0, 9, 255, 4, 2, 0, 8, 9])), body(b"", b"", bytes([0, 8, 1, 1, 3, len(rans)]) + rans), body(noise, b"")[:-1] + bytes([20, 4])]

    number = lambda n: bytes([n & 127 | 128, n >> 7]) if n > 127 else bytes([n])
    part = lambda lead, inner: (lead + number(len(inner)) + inner) + zlib.crc32(lead + number(len(inner)) + inner).to_bytes(4, "little")
    entry = lambda name, data, size=None: number(len(name)) + name + number(len(data) if size is None else size) + hashlib.sha256(data).digest()
    block = part(b"", body(b"", b"onnx"))
    good = part(b"PARED\1", b"\1" + entry(b"m", b"onnx")) + block
    yield from (good, good + b"x", good[:-1], good[:20], b"PARED", b"PARED\2" + good[6:], part(b"PARED\1", b"\2" + entry(b"m", b"onnx") + entry(b"n", b"")) + block, part(b"PARED\1", b"\2" + entry(b"m", b"") * 2),
                part(b"PARED\1", b"\1" + entry(b"../m", b"")), part(b"PARED\1", b"\1" + entry(b"m", b"onnx", 1 << 13)) + block, part(b"PARED\1", b"\1" + entry(b"m", b"onyx")) + block,
                part(b"PARED\1", b"\1" + entry(b"m", b"on")) + block, part(b"PARED\1", b"\1" + entry(b"m", b"") + b"x"), part(b"PARED\1", b"\0"), part(b"PARED\1", b"\1"), good[:-2] + b"xx",
                part(b"PARED\1", b"\1\1m\xff\xff\xff\x7f" + bytes(32)), b"PARED\1\xff\xff\xff\xff\x0f", part(b"PARED\1", b"\1" + entry(b"m", b"onnx")) + b"\xff\xff\xff\x7f",
                part(b"PARED\1", b"\1" + entry(b"m", b"onnx")) + part(b"", b"\0\0"))
    deflated = zlib.compress(b"text " * 9)
    yield from (bytes([0, 45, 5, len(deflated)]) + deflated, bytes([0, 45, 5, 3, 1, 2, 3]), bytes([0, 45, 9]), bytes([0, 45, 1, 65]))
    yield from (b"text" + lead + tail for lead in (b"\0", b"\1") for tail in (b"text " * 60, bytes(range(40)), noise * 20, b"ab" * 300))
    rng = np.random.default_rng(5)
    few, sparse = rng.integers(0, 4, 300).astype(np.float32), np.where(rng.random(400) < 0.05, rng.normal(size=400), 0).astype(np.float32)
    for array in (rng.normal(size=200).astype(np.float32), few, sparse, few * (rng.random(300) < 0.1), rng.integers(0, 9, 500).astype(np.int8), np.zeros(99, np.int8),
                  np.arange(64, dtype=np.float64), rng.normal(size=99).astype(np.float16), np.frombuffer(b"text text " * 30, np.uint8), np.where(np.arange(900) % 300 == 7, 9, 0).astype(np.uint8)):
        width = array.itemsize.bit_length() - 1
        for only in range(7):
            yield b"array" + bytes([width | 4 * (array.dtype.kind == "f") | 8 * (only in (0, 5)), 19, 0, 255, only, only % 2, 1 + only % 3, 3, 1, 130, 5, 40, 255]) + array.tobytes()
    for data in (b"\0" * 1000 + b"\1" * 24, noise * 17):  # 40 times over: long enough for rANS with all its lanes
        yield b"array" + bytes([0, 19, 0, 255, 4, 2, 1, 9, 1]) + data
    H, filled = onnx.helper, [1.0] * 100
    tensors = [H.make_tensor("r", 1, [10, 10], np.ones(100, np.float32).tobytes(), raw=True), H.make_tensor("f", 1, [100], filled), H.make_tensor("d", 11, [100], filled),
               outside("o", dims=(20,), location="a", offset=160), outside("p", dims=(16,), location="a"), outside("q", dims=(16,), location="b.data", length=64), outside("u", dims=(16,), location="a", offset=8)]
    for order in (tensors, tensors[::-1]):
        yield b"regions" + H.make_model(H.make_graph([], "g", [], [], initializer=order)).SerializeToString()
    for model in (*list(onnx_read())[::40], *(m.SerializeToString() for m in odd_models())):
        yield b"regions" + model


def tus():
    digest = lambda name, data: base64.b64encode(hashlib.new(name, data).digest())
    body = b"bytes of a request"
    yield b"filename bS5vbm54,note,empty ,a YWJj\nsha1 " + digest("sha1", body) + b"\n\n18\n" + body
    yield b"\nsha256 " + digest("sha256", body) + b"\nsha-256=:" + digest("sha256", body) + b":, sha-512=:" + digest("sha512", body) + b":;q=1\n0\n" + body
    yield b"k\n\nmd5=:AA==:, x=\"a,b\\\"\";y, sha-512=:" + digest("sha512", b"") + b":\n999999999999999999\n"
    for meta in (b"a " + base64.b64encode(b"\0"), b"a b c", b"a\x80", b",", b"a YQ==,a YQ==", b",".join(b"k%d" % i for i in range(65)), b"k" * 8200, b"a YQ", b"a Y\tQ="):
        yield meta + b"\n\n\n\n"
    for checksum in (b"md5 AAAA", b"sha1", b"sha1 AAAA", b"sha1 " + b"A" * 200, b"sha1 " + b"A" * 27 + b"\x0c"):
        yield b"\n" + checksum + b"\n\n5\n" + body
    whole = b"sha-256=:" + digest("sha256", body) + b":"
    for field in (b"=", b"A=1", b"sha-256", b"sha-256=:", b"sha-256=:AA:", b", ".join([whole] * 5), b"*a=1;x=\"\\\"\", " + whole, whole + b" ", b"a", b"sha-512=:" + digest("sha512", b"other") + b":"):
        yield b"\n\n" + field + b"\n1x\n" + body


def http():
    get = lambda target, *headers: b"\n".join([b"GET " + target + b" HTTP/1.1", b"Host:localhost", *headers])
    yield b"GET /v1/jobs?limit=5&state=queued HTTP/1.1\nHost:localhost:8080\nRange:bytes=0-9\nIf-None-Match:W/\"abc\", \"x\"\ntraceparent:00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    yield b"POST http://127.0.0.1/v1/models/mdl_01/content?file=a%20b HTTP/1.1\nHost:[::1]:80\nContent-Length:5\nOrigin:https://ci.example\nSec-Fetch-Site:same-site"
    yield b"PATCH /v1/uploads/upl_01m82yxp996vqy55w7rg0kkykt HTTP/1.0\nTransfer-Encoding:chunked\nX-HTTP-Method-Override:DELETE\nRange:bytes=-5"
    yield b"OPTIONS /v1/jobs/%6a/artifacts/%e2%82%ac HTTP/1.1\nHost:pared.example\nHost:x\nContent-Length :5"
    yield from (get(t) for t in (b"/v1/%", b"/v1/%zz", b"/v1/..", b"/v1/%2e/a", b"/v1/a%2fb", b"/v1/%01", b"/v1/%5c", b"/v1/%ff", b"/a/b/c/d/e/f/g/h/i", b"*", b"?a", b"https://h", b"https://h?x#y", b"/v1/jobs/",
                                 b"/v1/jobs?a=%zz", b"/v1/jobs?%zz=a", b"/v1/jobs?a=%00", b"/v1/jobs?a+b=%2B+&&c", b"/?" + b"a&" * 40, b"/" + b"a" * 8200, b"/v1/jobs/a/cancel"))
    yield from (get(b"/", h) for h in (b"Content-Length:", b"Content-Length:1\nContent-Length:1", b"Content-Length:1\nTransfer-Encoding:chunked", b"Transfer-Encoding:gzip", b"Content-Length:x", b":",
                                       b"a b:c", b"a:\x01", b"Host:two", b"X-HTTP-Method:PUT", b"a:" + b"b" * 17000, b"\n".join([b"a:b"] * 101)))
    yield from (b"PUT / HTTP/1.1\n" + h for h in (b"", b"Host:[::1", b"Host:a:b", b"Host:localhost:123456", b"Host:pared.example\nOrigin:http://pared.example", b"Host:localhost\nOrigin:x",
                                                 b"Host:localhost\nSec-Fetch-Site:cross-site", b"Host:other.example:80"))
    yield from (get(b"/", b"Range:" + r) for r in (b"bytes=5", b"bytes=1-0", b"bytes= 0-0 ", b"bytes=-", b"bytes=99-", b"bytes=18446744073709551616-", b"bytes=-0", b"bytes=0-,2-3", b"items=0-1", b"bytes=100-200"))
    yield from (get(b"/", b"If-None-Match:" + e) for e in (b"*", b"\"a", b"abc", b"W/\"abc\"", b" , \"abc\""))
    spans = (b"0af7651916cd43dd8448eb211c80319c", b"b7ad6b7169203331")
    yield from (get(b"/", b"traceparent:" + v + b"-" + b"-".join(spans) + tail) for v in (b"00", b"01", b"ff", b"0G") for tail in (b"-01", b"-01-more", b"-0", b"_01"))
    ours = b"trusted:10.0.0.0/8,::1,fd00::/8\n"
    yield from (get(b"/", ours + b"Forwarded:" + v) for v in (b"for=1.2.3.4", b"for=\"[fd00::1]:80\";proto=https, for=10.0.0.2", b"by=a", b"for=unknown", b"for=", b"proto=http; for=\"a,b\"", b"for=\"[::1\""))
    yield from (get(b"/", ours + b"X-Forwarded-For:" + v) for v in (b"1.2.3.4, 10.9.9.9", b" 1.2.3.4:5 ", b"::ffff:1.2.3.4", b"[2001:db8::1]:4", b"x" * 90, b"", b","))
    yield from (get(b"/", b"trusted:" + t) for t in (b"10.0.0.0/33", b"10.0.0.0/", b"a", b"::/129", b"1" * 60, b"10.0.0.5", b"::/0", b"10.0.0.0/9999"))


def json_():
    steps = [{"method": "graph.optimize"}, {"method": "prune.weights", "sparsity": 0.5, "include": ["*"]}, {"method": "quantize.static"}]
    job = {"model": "@M", "dataset": "@D", "val_dataset": "@D", "eval_dataset": "@D", "teacher": "@M", "recipe": {"steps": steps[:2], "targets": {"max_bytes_ratio": 0.5}, "seed": 1},
           "priority": 1, "timeout_s": 60, "threads": 1, "memory_bytes": 1 << 30, "labels": {"a": "b"}, "name": "n", "reuse": False}
    yield from (b"", b"j{", b"x{}", b"r[]", b"r{}", b"j" + b"[" * 100, b"j" + b" " * 4050, b"r" + b" " * 4090, b'j{"model": "@M", "model": "@M"}')
    for body in (job, {"model": "@M", "recipe": "small"}, {"model": "@M", "recipe": "fp16"}, {"model": "@M", "recipe": "int8", "dataset": "@D"}, {"model": "@M", "dataset": "@D", "recipe": {"steps": steps}},
                 {"model": "mdl_0", "recipe": {"steps": []}}, {"model": "@D", "dataset": "@M", "recipe": "fp16"}, {"model": "@M", "recipe": {"steps": [{"method": "train.finetune"}]}},
                 {"model": "@M", "dataset": "@D", "recipe": {"steps": [{"method": "train.finetune", "epochs": 1}]}}):
        yield b"j" + json.dumps(body).encode()
    for wrong in WRONG:
        for key in job:
            yield b"j" + json.dumps({"model": "@M", "recipe": "fp16", key: wrong}).encode()
        for key in ("name", "recipe", "description", "labels", "nothing"):
            yield b"r" + json.dumps({"name": "mine", "recipe": {"steps": steps[:1]}, key: wrong}).encode()
        for key in ("upload", "uploads", "artifact", "name", "nothing"):
            yield from (b"m" + json.dumps({key: wrong}).encode(), b"d" + json.dumps({key: wrong}).encode())
        yield b"j" + json.dumps({"model": "@M", "recipe": "fp16", "labels": {"k": wrong}}).encode()
    yield from (b"k" + key for key in (b"", b"run-7", b"a b", b"a\n", b"\xff", b"k" * 255, b"k" * 256))
    many = {str(i): "v" for i in range(40)}
    yield from (b"j" + json.dumps({"model": "@M", "recipe": "fp16", "labels": labels}).encode() for labels in (many, {"": "v"}, {"a=b": "v"}, {"a\n": "v"}, {"k": "v" * 300}))
    yield from (b"r" + json.dumps({"name": "mine", "recipe": recipe}).encode() for recipe in ({"steps": steps, "targets": {"max_bytes_ratio": 0.5}}, {"steps": []}))
    for name in ("int8", "a" * 80, "a b", "../a", "a.b-c_1"):
        yield b"r" + json.dumps({"name": name, "recipe": {"steps": steps[:1]}}).encode()
    yield b"r" + json.dumps({"name": "mine", "recipe": {"steps": steps[:1]}}).encode()
    for body in ({"upload": "upl_01m82yxp996vqy55w7rg0kkykt"}, {"uploads": ["upl_01m82yxp996vqy55w7rg0kkykt", "x"], "name": "n"}, {"artifact": "art_01m815f1gk4zqfhrf60qn4k0as"},
                 {"artifact": "job_01m815f1gk4zqfhrf60qn4k0as/model.onnx"}, {"upload": "x", "uploads": []}, {"uploads": ["upl_01m82yxp996vqy55w7rg0kkykt"] * 2}):
        yield b"m" + json.dumps(body).encode()
        yield b"d" + json.dumps(body).encode()


def main():
    kind, folder = sys.argv[1], Path(sys.argv[2])
    made = {"json": json_}.get(kind) or globals().get(kind, lambda: [b""])  # json is a module's name here
    for i, data in enumerate(made()):
        (folder / f"seed-{i}").write_bytes(data)


if __name__ == "__main__":
    main()
