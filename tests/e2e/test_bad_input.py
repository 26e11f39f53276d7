# SPDX-License-Identifier: Apache-2.0
"""Hostile and broken input over HTTP. Every row is a request with its exact status, code and sentence; after each one
nothing is left on disk and the server goes on serving. Models and data are made here, byte by byte."""
import gzip
import io
import json
import os
import re
import struct
import subprocess
import tarfile
import tempfile
import threading
import time
import zipfile

import pytest

import tiny
from pared_server import BINARY, ROOT, Server, multipart

X, Y = [tiny.value_info("x", ["N", 4])], [tiny.value_info("y", ["N", 4])]
RELU = tiny.node("Relu", ["x"], ["y"], "relu")
INSIDE = re.compile(r"/tmp/|/proc/|/work/|/home/|\.c:\d|0x[0-9a-f]{6}|errno|null\)")  # what no answer may tell


@pytest.fixture(scope="module")
def s():
    with Server() as server:
        yield server
        assert server.stop() == 0, server.log_text()[-2000:]


def stored(s):
    """Files of blobs and of jobs' work folders."""
    work = sum(len(files) for _, _, files in os.walk(os.path.join(s.data, "work")))
    return {**s.files_on_disk(), "work": work}


def settled(s):
    """As stored(), once the work folder of a job that has just ended is gone: it is removed after the job's end is published."""
    until = time.time() + 5
    while stored(s)["work"] and time.time() < until:
        time.sleep(0.02)
    return stored(s)


def goes_on(s, before):
    until = time.time() + 5
    while stored(s) != before and time.time() < until:
        time.sleep(0.02)
    assert stored(s) == before
    assert s.get("/healthz").status == 200


def refused(s, send, status, code, detail, errors=None):
    """`detail` is the whole sentence; errors: (pointer, detail) of each fault, in order."""
    before = settled(s)
    answer = send()
    assert answer.headers["content-type"] == "application/problem+json", answer
    doc = answer.json()
    assert (answer.status, doc["code"], doc["detail"]) == (status, code, detail)
    assert not INSIDE.search(answer.body.decode()), answer
    if errors is not None:
        assert [(e["pointer"], e["detail"]) for e in doc["errors"]] == errors
    goes_on(s, before)
    return answer


def put(s, body, path="/v1/models"):
    return s.request("PUT", path, body=body)


def put_parts(s, parts, path="/v1/models"):
    kind, body = multipart(parts)
    return s.request("POST", path, body=body, headers={"Content-Type": kind})


def made(answer):
    assert answer.status in (200, 201), answer
    return answer.json()["id"]


def job_of(s, **body):
    answer = s.post_json("/v1/jobs", body)
    assert answer.status == 202, answer
    return s.wait_job(answer.json()["id"])


def job_fails(s, code, detail, **body):
    before = settled(s)
    job = job_of(s, **body)
    assert (job["state"], job["error"]["code"], job["error"]["detail"]) == ("failed", code, detail)
    assert not INSIDE.search(json.dumps(job["error"]))
    report = s.get(f"/v1/jobs/{job['id']}/report")
    assert (report.status, report.json()["code"]) == (404, "not_found")
    goes_on(s, before)


# ---- models

def relu(*more, inits=(), inputs=None, outputs=None, **kw):
    return tiny.model([RELU, *more], list(inits), inputs or X, outputs or Y, **kw)


def raw_tensor(name, dims, raw, elem_type=1):
    return b"".join(tiny.field(1, d) for d in dims) + tiny.field(2, elem_type) + tiny.field(8, name) + tiny.field(9, raw)


def nested(depth):
    """An If in an If in an If ...: the heads from the inside out, each with the length of all that lies in it."""
    def head(number, length):
        return tiny.varint(number << 3 | 2) + tiny.varint(length)
    leaf, node = tiny.field(1, tiny.node("Relu", ["x"], ["y"], "leaf")) + tiny.field(2, "g"), tiny.node("If", ["c"], ["y"], "if")
    kind, heads, size = tiny.field(20, 5), [], len(leaf)
    for _ in range(depth):
        attribute = tiny.field(1, "then_branch") + head(6, size)
        attribute = head(5, len(attribute) + size + len(kind)) + attribute
        heads.append(head(1, len(node) + len(attribute) + size + len(kind)) + node + attribute)
        size += len(heads[-1]) + len(kind + tiny.field(2, "g"))
    graph = b"".join(reversed(heads)) + leaf + (kind + tiny.field(2, "g")) * depth
    graph += b"".join(tiny.field(11, v) for v in X) + b"".join(tiny.field(12, v) for v in Y)
    return tiny.field(1, 7) + tiny.field(7, graph) + tiny.field(8, tiny.field(1, "") + tiny.field(2, 13))


def two_relus(first, second):
    return tiny.model([tiny.node("Relu", ["b"], ["a"], first), tiny.node("Relu", ["a"], ["b"], second), RELU], [], X, Y)


NEGATIVE, HUGE = (1 << 64) - 5, 1 << 62
OPSET_13 = tiny.field(8, tiny.field(1, "") + tiny.field(2, 13))
PLAIN_NAME = "is not allowed: it must be the plain name of a file beside the model"
MODELS = {
    "empty file": (b"", "the model file is empty (0 bytes)"),
    "text": (b"this is no model, only a sentence\n" * 20, "this is a text file, not an ONNX model"),
    "PNG": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(200), "this is a PNG picture, not an ONNX model"),
    "JPEG": (b"\xff\xd8\xff\xe0" + bytes(300), "this is a JPEG picture, not an ONNX model"),
    "zip": (tiny.dataset(), "this is a zip archive (PyTorch and Keras save their models so; export to ONNX instead), not an ONNX model"),
    "another message": (tiny.field(1, "name") + tiny.field(2, "value") + tiny.field(3, 7),
                        "not an ONNX model: field 1 (ir_version) of ModelProto at byte 0 has wire type 2 (length-delimited), expected 0 (varint)"),
    "one byte": (b"\x08", "not an ONNX model, or only its first bytes: field 1 (ir_version) of ModelProto at byte 0 has a broken number"),
    "no graph": (tiny.field(1, 7) + tiny.field(2, "producer") + OPSET_13, "not an ONNX model: it has no graph (field 7 of ModelProto)"),
    "cycle": (two_relus("first", "second"), "node 'second' (Relu) is part of a cycle: its inputs depend on its own outputs"),
    "cycle, name no UTF-8": (two_relus(b"first", b"sec\xc3"), "node 'sec?' (Relu) is part of a cycle: its inputs depend on its own outputs"),
    "missing initializer": (tiny.model([tiny.node("Add", ["x", "w"], ["y"], "adder")], [], X, Y),
                            "node 'adder' (Add) reads 'w' (input 1), which no node, graph input or initializer defines"),
    "value twice": (relu(tiny.node("Relu", ["x"], ["y"], "again")), "node 'again' defines 'y', a name that is taken already; names must be unique"),
    "initializer twice": (relu(inits=[tiny.tensor("w", [1], [1.0]), tiny.tensor("w", [1], [2.0])]),
                          "initializer 'w' defines 'w', a name that is taken already; names must be unique"),
    "input twice": (relu(inputs=X + X), "graph input 'x' defines 'x', a name that is taken already; names must be unique"),
    "output nobody makes": (relu(outputs=[tiny.value_info("ghost", [1])]), "graph output 'ghost' is defined by no node, graph input or initializer"),
    "no outputs": (tiny.model([RELU], [], X, []), "the graph has no outputs, so there is nothing to compute"),
    "negative dimension": (relu(inits=[raw_tensor("w", [NEGATIVE], b"")]), "initializer 'w': dims[0] is -5; a dimension is at least 0"),
    "two negative dimensions": (relu(inits=[raw_tensor("w", [NEGATIVE, NEGATIVE], bytes(100))]), "initializer 'w': dims[0] is -5; a dimension is at least 0"),
    "negative input dimension": (relu(inputs=[tiny.value_info("x", [NEGATIVE, 4])]), "value 'x': dimension 0 is -5; a dimension is at least 0"),
    "dimensions that overflow": (relu(inits=[raw_tensor("w", [1 << 40, 1 << 40], b"")]),
                                 "initializer 'w': float32[1099511627776,1099511627776] is larger than any tensor can be"),
    "input dimensions that overflow": (relu(inputs=[tiny.value_info("x", [1 << 40, 1 << 40])]),
                                       "graph input 'x' has shape [1099511627776,1099511627776]: more elements than 64 bits can count"),
    "2^62 elements in 100 bytes": (relu(inits=[raw_tensor("w", [HUGE], b"1234")]), "initializer 'w': float32[4611686018427387904] is larger than any tensor can be"),
    "raw_data too short": (relu(inits=[raw_tensor("w", [10], b"1234")]), "initializer 'w': raw_data holds 4 bytes, but float32[10] needs 40"),
    "raw_data too long": (relu(inits=[raw_tensor("w", [1], b"12345678")]), "initializer 'w': raw_data holds 8 bytes, but float32[1] needs 4"),
    "nested 10,000 deep": (nested(10000), "the model file is damaged: nested deeper than 64 levels at byte offset 821"),
    "opset 99": (relu(opset=99), "the model is written for opset 99 of the standard operators; the newest known is 28: export it with an older opset"),
    "opset 0": (relu(opset=0), "opset_import of domain '' has version 0; versions start at 1"),
    "no opset": (relu()[:-len(OPSET_13)], "the model imports no version of the standard operators (opset_import with an empty domain)"),
    "IR version 99": (relu(ir=99), "the model has ir_version 99; the newest known is 14: export it for an older release of ONNX"),
    "external data not sent": (tiny.classifier_external("weights.bin")[0],
                               "initializer 'w1': external data file 'weights.bin' is missing; give it together with the model"),
    "external data up the tree": (tiny.classifier_external("../../etc/passwd")[0], f"initializer 'w1': external data location '../../etc/passwd' {PLAIN_NAME}"),
    "external data absolute": (tiny.classifier_external("/etc/passwd")[0], f"initializer 'w1': external data location '/etc/passwd' {PLAIN_NAME}"),
}


@pytest.mark.parametrize("row", MODELS)
def test_model(s, row):
    body, detail = MODELS[row]
    refused(s, lambda: put(s, body), 422, "model_invalid", detail)


def test_model_truncated(s):
    """Cut at every 1/64 of its length."""
    whole = tiny.classifier(5)
    start = len(tiny.field(1, 7) + tiny.field(2, "pared-tests"))  # of the graph: one byte of tag, two of length
    graph = len(whole) - len(OPSET_13) - start - 3
    for k in range(1, 64):
        n = len(whole) * k // 64
        place = (f"not an ONNX model, or only its first bytes: field 2 (producer_name) of ModelProto at byte 2 announces 11 bytes, but only {n - 4} are left"
                 if n < start else
                 f"the model file is cut short: field 7 (graph) of ModelProto at byte {start} announces {graph} bytes, but only {n - start - 3} are left")
        refused(s, lambda: put(s, whole[:n]), 422, "model_invalid", place)


def test_real_model_truncated(s):
    """The same with the example of the project, at the ends of its parts too."""
    with open(os.path.join(ROOT, "examples", "digits", "digits-cnn.onnx"), "rb") as f:
        whole = f.read()
    before = settled(s)
    for n in [len(whole) * k // 64 for k in range(1, 64)] + [len(whole) - 1, len(whole) - 2]:
        answer = put(s, whole[:n])
        assert (answer.status, answer.json()["code"]) == (422, "model_invalid"), (n, answer)
        assert re.search(r" at byte \d+ |opset_import", answer.json()["detail"]), (n, answer)
    goes_on(s, before)


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd", "sub/weights.bin", "..", ""])
def test_external_location(s, location):
    main, data = tiny.classifier_external(location)
    refused(s, lambda: put_parts(s, [("model", "m.onnx", main), ("weights", "weights.bin", data)]), 422, "model_invalid",
            f"initializer 'w1': external data location '{location}' {PLAIN_NAME}")


def test_external_too_short(s):
    main, data = tiny.classifier_external("weights.bin")
    refused(s, lambda: put_parts(s, [("model", "m.onnx", main), ("weights", "weights.bin", data[:100])]), 422, "model_invalid",
            "initializer 'w1': external data wants 512 bytes at offset 0 of 'weights.bin', which has only 100")


@pytest.mark.parametrize("name", ["../weights.bin", "a/../weights.bin", "/weights.bin"])
def test_part_folders(s, name):
    """A client's folders do not matter, only the name."""
    main, data = tiny.classifier_external("weights.bin", 1)
    made(put_parts(s, [("model", "m.onnx", main), ("weights", name, data)]))


def test_external_symlink(tmp_path):
    """Only the command line can meet a link beside a model."""
    main, data = tiny.classifier_external("weights.bin")
    (tmp_path / "m.onnx").write_bytes(main)
    (tmp_path / "elsewhere").write_bytes(data)
    (tmp_path / "weights.bin").symlink_to("elsewhere")
    out = subprocess.run([BINARY, "inspect", "m.onnx"], cwd=tmp_path, capture_output=True, text=True)
    assert (out.returncode, out.stdout) == (1, "")
    assert out.stderr == "pared: m.onnx: initializer 'w1': external data file 'weights.bin' is a symbolic link, expected a regular file\n"


def odd_model(s):
    """A product with weights, then an operator nobody knows."""
    nodes = [tiny.node("MatMul", ["x", "w"], ["h"], "fc"), tiny.node("Frobnicate", ["h"], ["y"], "odd")]
    answer = put(s, tiny.model(nodes, [tiny.tensor("w", [4, 4], tiny.weights(1, 16))], X, Y))
    facts = answer.json()
    assert (facts["runnable"], facts["missing_operators"]) == (False, ["Frobnicate (ai.onnx, opset 13) x1"])
    return facts["id"]


def test_unknown_operator_weights_only(s):
    job = job_of(s, model=odd_model(s), recipe={"steps": [{"method": "prune.weights", "sparsity": 0.5}]})
    assert job["state"] == "succeeded", job
    report = s.get(f"/v1/jobs/{job['id']}/report").json()
    assert "fidelity" not in report
    assert "latency_ms" not in report["before"]
    assert report["after"]["nonzero"] == 8
    assert report["warnings"][0] == ("the model was not run, these operators are not supported: Frobnicate (ai.onnx, opset 13) x1; "
                                     "the structure of the result was verified instead")


def test_unknown_operator_run(s):
    says = "quantize.static must run the model, and these operators are not supported: Frobnicate (ai.onnx, opset 13) x1"
    model, data = odd_model(s), made(put(s, tiny.dataset(), "/v1/datasets"))
    refused(s, lambda: s.post_json("/v1/jobs", {"model": model, "dataset": data, "recipe": {"steps": [{"method": "quantize.static"}]}}),
            422, "operator_unsupported", "/recipe/steps/0: " + says, [("/recipe/steps/0", says)])


def no_inputs(s):
    return made(put(s, tiny.model([tiny.node("Relu", ["w"], ["y"], "relu")], [tiny.tensor("w", [2], [1, 2])], [], [tiny.value_info("y", [2])])))


def test_no_inputs(s):
    """A constant is a model; only feeding it is not possible."""
    model = no_inputs(s)
    assert s.get("/v1/models/" + model).json()["inputs"] == []
    assert job_of(s, model=model, recipe={"steps": [{"method": "graph.optimize"}]})["state"] == "succeeded"
    job_fails(s, "dataset_invalid", "dataset: the model has no inputs to feed; leave the dataset out", model=model,
              dataset=made(put(s, tiny.dataset(), "/v1/datasets")), recipe={"steps": []})


# ---- datasets

def zip_of(name, data, method=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as z:
        z.writestr(name, data)
    return out.getvalue()


def declaring(archive, size):
    """A zip of one member whose headers tell another size."""
    out = bytearray(archive)
    directory = out.rfind(b"PK\x01\x02")
    out[22:26] = out[directory + 24:directory + 28] = struct.pack("<I", size)
    return bytes(out)


def tar_of(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as t:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


def npy_claiming(shape):
    header = ("{'descr': '<f4', 'fortran_order': False, 'shape': %s, }" % shape).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header.encode() + bytes(16)


def floats(*values):
    return tiny.npy(list(values), [2, 2])


def labels(*values):
    return tiny.npy(list(values), [len(values)], "<i8")


ZIP_BOMB = zip_of("x.npy", bytes(66 << 20))
SMALL_ZIP = zip_of("x.npy", bytes(1 << 20))
GZIP_BOMB = gzip.compress(bytes([0, 0, 8, 3]) + struct.pack(">3I", 10, 28, 28) + bytes(66 << 20))
DAMAGED = "the archive (tar, tar.gz or zip) is damaged, empty or cut short: its directory cannot be read"
DATASETS = {
    "empty file": (b"", "the file is empty"),
    "text": (b"hello", "no known dataset format; use .npz, .npy, IDX, CIFAR-10 .bin, a .tar, .tar.gz or .zip of pictures, or a data.json"),
    "NaN": (tiny.npz({"x": floats(1, float("nan"), 2, 3)}), "sample 0 of array 'x': value 1 is NaN; remove or repair the sample"),
    "infinity": (tiny.npz({"x": floats(1, 2, 3, float("inf"))}), "sample 1 of array 'x': value 1 is infinite; remove or repair the sample"),
    "NaN in the targets": (tiny.npz({"x": floats(1, 2, 3, 4), "y": tiny.npy([0.5, float("nan")], [2])}), "labels 'y': value 1 is NaN; remove or repair the sample"),
    "negative label": (tiny.npz({"x": floats(1, 2, 3, 4), "y": labels(0, -1)}), "label -1 of sample 1 is negative; classes count from 0"),
    "too few labels": (tiny.npz({"x": floats(1, 2, 3, 4), "y": labels(0)}), "labels 'y' have 1 entries for 2 samples"),
    "labels only": (tiny.npz({"y": labels(0, 1)}), "labels 'y' are the only array; add the samples, named like the model's input or 'x'"),
    "shape beyond the data": (tiny.npy([1.0] * 4, [2, 3]), "array 'x' of float32[2,3] does not match its 16 bytes of data"),
    "2^62 elements": (npy_claiming("(4611686018427387904,)"), "array 'x' of float32[4611686018427387904] does not match its 16 bytes of data"),
    "negative shape": (npy_claiming("(-2, 2)"), "array 'x' has no readable shape in its header"),
    "IDX of 2^61 bytes": (bytes([0, 0, 8, 3]) + struct.pack(">3I", 1 << 31, 1 << 15, 1 << 15) + bytes(300),
                          "array 'x' of uint8[2147483648,32768,32768] does not match its 300 bytes of data"),
    "no samples": (tiny.npz({"x": tiny.npy([], [0, 16])}), "array 'x' is [0,16]: it has no elements"),
    "complex numbers": (tiny.npz({"x": floats(1, 2, 3, 4).replace(b"'<f4'", b"'<c8'")}),
                        "array 'x' has element type '<c8'; use bool, integers or float16/32/64, little-endian"),
    "big-endian": (tiny.npz({"x": floats(1, 2, 3, 4).replace(b"'<f4'", b"'>f4'")}),
                   "array 'x' has element type '>f4'; use bool, integers or float16/32/64, little-endian"),
    "text as elements": (tiny.npz({"x": floats(1, 2, 3, 4).replace(b"'<f4'", b"'<U4'")}),
                         "array 'x' has element type '<U4'; use bool, integers or float16/32/64, little-endian"),
    "npz of nothing": (tiny.npz({}), DAMAGED),
    "npz cut short": (tiny.dataset()[:-100], DAMAGED),
    "zip bomb": (ZIP_BOMB, f"member 'x.npy': unpacks to more than 1000 times its {len(ZIP_BOMB)} bytes: refused as a zip bomb"),
    "zip bomb that declares little": (declaring(ZIP_BOMB, 100), f"member 'x.npy': unpacks to more than 1000 times its {len(ZIP_BOMB)} bytes: refused as a zip bomb"),
    "zip that declares 4 GiB": (declaring(SMALL_ZIP, 0xfffffff0), f"member 'x.npy': unpacks to more than 1000 times its {len(SMALL_ZIP)} bytes: refused as a zip bomb"),
    "gzip bomb": (GZIP_BOMB, f"unpacks to more than 1000 times its {len(GZIP_BOMB)} bytes: refused as a zip bomb"),
    "PNG cut short": (tar_of({"cats/a.png": b"\x89PNG\r\n\x1a\n"}), "picture 'cats/a.png': damaged PNG: read beyond end of data"),
    "JPEG without picture": (tar_of({"cats/a.jpg": b"\xff\xd8\xff\xe0" + bytes(300)}), "picture 'cats/a.jpg': damaged JPEG: JPEG datastream contains no image"),
    "picture by its name only": (zip_of("cats/a.png", bytes(100)), "picture 'cats/a.png': neither JPEG nor PNG (by its first bytes)"),
    "pictures up the tree": (tar_of({"../../evil.png": b"evil", "/etc/evil.png": b"evil"}), "picture '../../evil.png': neither JPEG nor PNG (by its first bytes)"),
    "no pictures": (tar_of({"cats/a.txt": b"a cat"}), "no .jpg, .jpeg or .png picture in it"),
    "tar.gz cut short": (tar_of({"cats/a.png": os.urandom(5000)})[:2000], "damaged gzip file: unexpected end of file"),
}


@pytest.mark.parametrize("row", DATASETS)
def test_dataset(s, row):
    body, detail = DATASETS[row]
    refused(s, lambda: s.request("POST", "/v1/datasets", body=body), 422, "dataset_invalid", "dataset: " + detail)


@pytest.fixture(scope="module")
def model(s):
    return made(put(s, tiny.classifier(0)))


def data_of(s, **arrays):
    return made(put(s, tiny.npz(arrays), "/v1/datasets"))


STATIC = {"steps": [{"method": "quantize.static"}]}


def test_wrong_shape(s, model):
    data = data_of(s, x=tiny.npy([1.0] * 70, [10, 7]), y=labels(*[0] * 10))
    job_fails(s, "dataset_invalid", "dataset: a sample is [7], the model's input 'x' wants [16]", model=model, dataset=data, recipe=STATIC)
    job_fails(s, "dataset_invalid", "eval_dataset: a sample is [7], the model's input 'x' wants [16]", model=model, eval_dataset=data, recipe={"steps": []})


def test_wrong_arrays(s, model):
    data = data_of(s, a=tiny.npy([1.0] * 160, [10, 16]), b=tiny.npy([1.0] * 160, [10, 16]))
    job_fails(s, "dataset_invalid", "dataset: no array for the model's input 'x'; the dataset has 'a', 'b'. Name the array like the input, "
              "or map it in data.json /inputs", model=model, dataset=data, recipe=STATIC)


def test_wrong_dtype(s):
    """Fractions are not token ids: nothing is rounded in silence."""
    ids = tiny.model([RELU], [], [tiny.value_info("x", ["N", 16], 7)], [tiny.value_info("y", ["N", 16], 7)], opset=14)
    job_fails(s, "dataset_invalid", "dataset: array 'x' is float32, the model's input 'x' wants int64; save the array in that type",
              model=made(put(s, ids)), dataset=data_of(s, x=tiny.npy([0.5] * 160, [10, 16])), recipe={"steps": []})


def test_labels_out_of_range(s, model):
    for top in (4, 10 ** 9):
        data = data_of(s, x=tiny.npy([0.5] * 160, [10, 16]), y=labels(*[0, 1, 2, 3] * 2, 0, top))
        says = f"its labels go up to {top}, and the model has 4 classes, 0 to 3: it needs labels in that range"
        refused(s, lambda: s.post_json("/v1/jobs", {"model": model, "dataset": data, "recipe": STATIC}), 422, "recipe_invalid", "/dataset: " + says, [("/dataset", says)])


def test_missing_labels(s, model):
    """Enough for calibration, not for accuracy: no metrics are made up, and a target on them is refused."""
    data = data_of(s, x=tiny.npy(tiny.weights(3, 160), [10, 16]))
    job = job_of(s, model=model, dataset=data, recipe=STATIC)
    assert job["state"] == "succeeded", job
    assert "metrics" not in s.get(f"/v1/jobs/{job['id']}/report").json()["before"]
    says = "'max_accuracy_drop' can only be judged on a dataset with integer labels, and none is given"
    recipe = {"steps": [], "targets": {"max_accuracy_drop": 0.01}}
    refused(s, lambda: s.post_json("/v1/jobs", {"model": model, "dataset": data, "recipe": recipe}),
            422, "recipe_invalid", "/recipe/targets/max_accuracy_drop: " + says, [("/recipe/targets/max_accuracy_drop", says)])


@pytest.mark.parametrize("recipe, says", [
    (STATIC, "quantize.static needs a dataset, and none is given"),
    ({"steps": [{"method": "prune.channels", "ratio": 0.5, "criterion": "taylor"}]}, "prune.channels needs a dataset with these parameters, and none is given"),
])
def test_missing_dataset(s, model, recipe, says):
    refused(s, lambda: s.post_json("/v1/jobs", {"model": model, "recipe": recipe}), 422, "recipe_invalid", "/recipe/steps/0: " + says, [("/recipe/steps/0", says)])


# ---- recipes

def step(**parameters):
    return {"steps": [{"method": "prune.weights", **parameters}]}


def channels(**parameters):
    return {"steps": [{"method": "prune.channels", **parameters}]}


RECIPES = {
    "unknown method": ({"steps": [{"method": "prune.wieghts"}]}, "/steps/0/method", "there is no method \"prune.wieghts\"; did you mean 'prune.weights'?"),
    "method far from all": ({"steps": [{"method": "zzzz"}]}, "/steps/0/method", 'there is no method "zzzz"; the catalogue of methods lists them'),
    "unknown parameter": (step(sparsity=0.5, sparcity=0.5), "/steps/0/sparcity", "prune.weights has no parameter 'sparcity'; did you mean 'sparsity'?"),
    "wrong type": (step(sparsity="much"), "/steps/0/sparsity", "'sparsity' must be a number, found a string (\"much\")"),
    "fraction for a count": ({"steps": [{"method": "quantize.static", "samples": 1.5}]}, "/steps/0/samples", "'samples' must be an integer, found a number (1.5)"),
    "too large": (step(sparsity=2), "/steps/0/sparsity", "'sparsity' must be between 0 and 1, found 2"),
    "too small": ({"steps": [{"method": "quantize.static", "samples": 0}]}, "/steps/0/samples", "'samples' must be between 1 and 1000000, found 0"),
    "not of the list": (step(sparsity=0.5, scope="universe"), "/steps/0/scope", "'scope' must be one of auto, layer, global, row, found \"universe\""),
    "no glob": (step(sparsity=0.5, include=3), "/steps/0/include", "'include' must be a glob or a list of globs over node names, found an integer (3)"),
    "none of four": (step(), "/steps/0", "prune.weights needs exactly one of sparsity, threshold, keep and drop; 0 are given"),
    "two of four": (step(sparsity=0.5, keep=3), "/steps/0", "prune.weights needs exactly one of sparsity, threshold, keep and drop; 2 are given"),
    "channels without a measure": (channels(), "/steps/0", "prune.channels needs one of ratio and target (or ratios)"),
    "channels by two measures": (channels(ratio=0.5, target="macs:0.5"), "/steps/0", "prune.channels takes one of ratio and target, not several"),
    "ratio of a group": (channels(ratio=0.5, ratios={"conv": 2}), "/steps/0/ratios/conv", "the ratio of 'conv' must be at least 0 and below 1, found 2"),
    "more than all": (step(structure="3:2"), "/steps/0/structure",
                      "'structure' is \"3:2\": of n:m, n weights of m neighbours stay: n must be at least 1 and below m, m at most 64"),
    "no steps": ({}, "/steps", "'steps' is missing; an empty list is allowed and leaves the model as it is"),
    "steps null": ({"steps": None}, "/steps", "'steps' must be an array of steps, found null"),
    "step a number": ({"steps": [3]}, "/steps/0", "a step must be an object with a 'method', found an integer"),
    "step without method": ({"steps": [{}]}, "/steps/0/method", "'method' is missing; it names the step, as in {\"method\": \"graph.optimize\"}"),
    "unknown key": ({"steps": [], "sead": 3}, "/sead", "a recipe has no key 'sead'; it takes steps, targets and seed; did you mean 'seed'?"),
    "negative seed": ({"steps": [], "seed": -1}, "/seed", "'seed' must be at least 0, found -1"),
    "unknown target": ({"steps": [], "targets": {"max_byte_ratio": 1}}, "/targets/max_byte_ratio", "there is no target 'max_byte_ratio'; did you mean 'max_bytes_ratio'?"),
    "target below its range": ({"steps": [], "targets": {"max_bytes_ratio": -1}}, "/targets/max_bytes_ratio", "'max_bytes_ratio' must be between 0 and 100, found -1"),
    "a list": ([], "", "a recipe must be an object with 'steps', found an array"),
    "a name nobody gave": ("nothing", "", "names no recipe: 'nothing' is neither a preset nor one of yours (GET /v1/recipes)"),
}


@pytest.mark.parametrize("row", RECIPES)
def test_recipe(s, model, row):
    recipe, pointer, detail = RECIPES[row]
    refused(s, lambda: s.post_json("/v1/jobs", {"model": model, "recipe": recipe}), 422, "recipe_invalid",
            f"/recipe{pointer}: {detail}" + ("" if detail.endswith("?") else "."), [("/recipe" + pointer, detail)])


def around(model, inner):
    return '{"model":"%s","recipe":%s}' % (model, inner)


def test_json_64_levels(s, model):
    """64 levels are read, and judged by what they say; one more is not read."""
    says = "a recipe must be an object with 'steps', found an array"
    refused(s, lambda: s.post_json("/v1/jobs", around(model, "[" * 63 + "]" * 63)), 422, "recipe_invalid", f"/recipe: {says}.", [("/recipe", says)])
    body = around(model, "[" * 64 + "]" * 64)
    refused(s, lambda: s.post_json("/v1/jobs", body), 400, "bad_json", f"JSON is nested deeper than 64 levels (at byte {body.rindex('[')})")


BODIES = {
    "10 MB": ('{"a":"' + "x" * (10 << 20) + '"}', 413, "too_large", "The JSON body has 10485768 bytes; at most 1048576 are taken."),
    "same key twice": ('{"model": "a", "model": "b"}', 400, "bad_json", "not valid JSON: duplicate object key near '\"model\"' (line 1, column 22)"),
    "same key twice in a step": ('{"recipe":\n{"steps":[{"method":"prune.weights","sparsity":0.5,"sparsity":0.9}]}}', 400, "bad_json",
                                 "not valid JSON: duplicate object key near '\"sparsity\"' (line 2, column 61)"),
    "nothing": ("", 400, "bad_json", "not valid JSON: unexpected token near end of file (line 1, column 0)"),
    "NaN": ('{"a": NaN}', 400, "bad_json", "not valid JSON: invalid token near 'NaN' (line 1, column 9)"),
    "more behind it": ("{} x", 400, "bad_json", "not valid JSON: end of file expected near 'x' (line 1, column 4)"),
}


@pytest.mark.parametrize("row", BODIES)
def test_json(s, row):
    body, status, code, detail = BODIES[row]
    refused(s, lambda: s.post_json("/v1/jobs", body), status, code, detail)


# ---- transfers

def raw_put(s, head, body=b"", **kw):
    out, _ = s.raw(b"PUT /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + head + b"\r\n" + body, **kw)
    return out


def raw_refused(s, head, body, status, code, detail):
    before = settled(s)
    out = raw_put(s, head, body)
    assert out.startswith(b"HTTP/1.1 %d " % status), out
    doc = json.loads(out.split(b"\r\n\r\n", 1)[1])
    assert (doc["status"], doc["code"], doc["detail"]) == (status, code, detail)
    goes_on(s, before)


def test_length(s):
    whole = tiny.classifier(10)
    raw_refused(s, b"Content-Length: %d\r\n" % (len(whole) - 100), whole, 422, "model_invalid",
                "the model file is cut short: field 7 (graph) of ModelProto at byte 15 announces 799 bytes, but only 705 are left")
    raw_refused(s, b"Content-Length: 5\r\nContent-Length: 9\r\n", whole, 400, "bad_request", "Content-Length is given 2 times; send it once.")
    raw_refused(s, b"Content-Length: 5000000000000\r\n", whole, 413, "too_large",
                "The upload has 5000000000000 bytes; this server takes at most 17179869184 (max_upload_bytes).")
    raw_refused(s, b"", b"", 411, "length_required", "An upload needs a body: send Content-Length and the bytes, or a chunked body.")


@pytest.mark.parametrize("head", [b"Content-Length: %d\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_cut_in_the_middle(s, head):
    """The client sends half of what it announced and says goodbye: no model, whatever had come."""
    before, whole = settled(s), tiny.classifier(11 if b"%d" in head else 13)
    body = whole if b"chunked" not in head else b"%x\r\n" % (len(whole) + 1) + whole
    out = raw_put(s, head % (2 * len(whole)) if b"%d" in head else head, body, shut=True)
    assert b" 20" not in out[:16]
    goes_on(s, before)
    assert put(s, whole).status == 201, "it was not there"


def test_same_bytes_at_once(s):
    body, answers, before = tiny.classifier(12), [], settled(s)
    threads = [threading.Thread(target=lambda: answers.append(put(s, body))) for _ in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len({a.json()["id"] for a in answers}) == 1
    assert sorted(a.status for a in answers) == [200, 201]
    goes_on(s, {**before, "objects": before["objects"] + 1})


KINDS = {"model": ("models", "mdl_"), "dataset": ("datasets", "dst_"), "job": ("jobs", "job_")}


@pytest.mark.parametrize("kind", KINDS)
def test_id_of_another_kind(s, model, kind):
    plural, prefix = KINDS[kind]
    other = model if kind != "model" else data_of(s, x=floats(1, 2, 3, 4))
    refused(s, lambda: s.get(f"/v1/{plural}/{other}"), 404, "not_found", f"There is no {kind} '{other}': ids of {plural} start with `{prefix}`.")
    refused(s, lambda: s.request("DELETE", f"/v1/{plural}/{other}"), 404, "not_found", f"There is no {kind} '{other}': ids of {plural} start with `{prefix}`.")


def test_reference_of_another_kind(s, model):
    data = data_of(s, x=floats(1, 2, 3, 4))
    refused(s, lambda: s.post_json("/v1/jobs", {"model": data, "dataset": model, "recipe": "optimize"}), 422, "invalid",
            "/model: must be the id of a model, `mdl_...`. (2 faults in all: see errors)",
            [("/model", "must be the id of a model, `mdl_...`"), ("/dataset", "must be the id of a dataset, `dst_...`")])


def test_names_nobody_gave(s):
    refused(s, lambda: s.get("/v1/recipes/nothing"), 404, "not_found", "There is no recipe 'nothing'; GET /v1/recipes lists them.")
    refused(s, lambda: s.get("/v1/methods/nothing"), 404, "not_found", "There is no method 'nothing'; GET /v1/methods lists them.")


@pytest.mark.parametrize("method, path, allow", [
    ("PUT", "/v1/models/mdl_x", "GET, HEAD, DELETE, OPTIONS"), ("DELETE", "/v1/datasets", "PUT, POST, GET, HEAD, OPTIONS"), ("PUT", "/v1/jobs", "POST, GET, HEAD, OPTIONS"),
    ("POST", "/v1/methods", "GET, HEAD, OPTIONS"), ("GET", "/v1/jobs/job_x/cancel", "POST, OPTIONS"), ("POST", "/healthz", "GET, HEAD, OPTIONS")])
def test_method_the_route_lacks(s, method, path, allow):
    answer = refused(s, lambda: s.request(method, path), 405, "method_not_allowed", f"This path does not take {method}; it takes {allow}.")
    assert answer.headers["allow"] == allow


# ---- a full disk

FULL = "The server's disk is full; delete models, datasets or jobs, or give it more space."


def test_reserve():
    with Server("--min_free_disk_bytes", "1000t") as s:
        refused(s, lambda: put(s, bytes(1000)), 507, "disk_full", FULL)
        assert s.get("/readyz").status == 503
        assert "retry-after" in s.get("/readyz").headers


def test_reserve_and_retry(tmp_path):
    with Server("--workers", "0", data=str(tmp_path / "data")) as s:
        job = s.post_json("/v1/jobs", {"model": put(s, tiny.classifier(1)).json()["id"], "recipe": {"steps": []}}).json()["id"]
        assert s.post_json(f"/v1/jobs/{job}/cancel", {}).status == 202
    with Server("--workers", "0", "--min_free_disk_bytes", "1000t", data=str(tmp_path / "data")) as s:
        refused(s, lambda: s.request("POST", f"/v1/jobs/{job}/retry"), 507, "disk_full", FULL)


@pytest.fixture
def small_disk():
    """A folder of 8 MiB."""
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], capture_output=True).returncode != 0:
            pytest.skip("skipped: no right to mount a small file system")
        try:
            yield folder
        finally:
            subprocess.run(["umount", folder], check=True)


def test_upload_fills_the_disk(small_disk):
    with Server("--min_free_disk_bytes", "0", data=os.path.join(small_disk, "data")) as s:
        main, _ = tiny.classifier_external("weights.bin")
        refused(s, lambda: put(s, bytes(20 << 20)), 507, "disk_full", FULL)
        refused(s, lambda: put(s, bytes(20 << 20), "/v1/datasets"), 507, "disk_full", FULL)
        refused(s, lambda: put_parts(s, [("model", "m.onnx", main), ("weights", "weights.bin", bytes(20 << 20))]), 507, "disk_full", FULL)
        assert stored(s) == {"objects": 0, "tmp": 0, "work": 0}
        assert put(s, tiny.classifier()).status == 201, "there is room again"


def test_job_fills_the_disk(small_disk):
    """A full disk is not the job's fault: it waits, leaves nothing behind, and succeeds once there is room."""
    with Server("--min_free_disk_bytes", "0", data=os.path.join(small_disk, "data")) as s:
        model = made(put(s, tiny.classifier(1, 16000)))  # half a MB
        before, ballast, free = stored(s), os.path.join(small_disk, "ballast"), os.statvfs(small_disk)
        with open(ballast, "wb") as f:
            f.write(bytes(free.f_bavail * free.f_frsize - 300000))
        job = s.post_json("/v1/jobs", {"model": model, "recipe": {"steps": []}}).json()
        until = time.time() + 30
        while s.get(job["links"]["self"]).json()["losses"] < 1 and time.time() < until:
            time.sleep(0.05)
        assert s.get(job["links"]["self"]).json()["losses"] >= 1, "it was tried"
        goes_on(s, before)
        os.unlink(ballast)
        done = s.wait_job(job["id"], 60)
        assert (done["state"], done["crashes"]) == ("succeeded", 0)
