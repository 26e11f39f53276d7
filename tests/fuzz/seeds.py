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
from pathlib import Path

import numpy as np
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


def dataset():
    rng = np.random.default_rng(0)
    pictures = {}
    for i, (mode, kind) in enumerate([("RGB", "PNG"), ("L", "JPEG"), ("P", "PNG"), ("RGB", "JPEG")]):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).convert(mode).save(buffer, kind)
        pictures[f"{'ab'[i % 2]}/{i}.{'png' if kind == 'PNG' else 'jpg'}"] = buffer.getvalue()
    arrays = io.BytesIO()
    np.savez(arrays, x=rng.normal(size=(4, 3, 2, 2)).astype(np.float32), y=np.arange(4))
    plain = io.BytesIO()
    np.save(plain, rng.integers(0, 255, (3, 4, 4), np.uint8))
    idx = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2]) + bytes(8)
    yield from [arrays.getvalue(), plain.getvalue(), idx, gzip.compress(idx), bytes(3073), tar_of(pictures), zip_of(pictures), gzip.compress(tar_of(pictures)),
                json.dumps({"format": "idx", "files": {"x": "input"}, "preprocess": {"mean": [0.5], "channels": "gray"}, "limit": 2}).encode()]
    yield from pictures.values()


def onnx_read():
    root = Path("/usr/share/libonnx-testdata")
    for path in sorted(root.rglob("model.onnx")):
        if path.stat().st_size < 2000:
            yield path.read_bytes()


def multipart():
    yield b'--b\r\nContent-Disposition: form-data; name="model"; filename="m.onnx"\r\n\r\nbytes\r\n--b--\r\n'
    yield b'--b\r\nContent-Disposition: form-data; name="data"\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n\r\n--b--'


def recipe():
    yield json.dumps({"steps": [{"method": "graph.optimize"}, {"method": "prune.weights", "sparsity": 0.5, "include": ["*"]}], "targets": {"max_bytes_ratio": 0.5}, "seed": 1}).encode()
    yield b'{"steps": []}'


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


def tus():
    digest = lambda name, data: base64.b64encode(hashlib.new(name, data).digest())
    body = b"bytes of a request"
    yield b"filename bS5vbm54,note,empty ,a YWJj\nsha1 " + digest("sha1", body) + b"\n\n18\n" + body
    yield b"\nsha256 " + digest("sha256", body) + b"\nsha-256=:" + digest("sha256", body) + b":, sha-512=:" + digest("sha512", body) + b":;q=1\n0\n" + body
    yield b"k\n\nmd5=:AA==:, x=\"a,b\\\"\";y, sha-512=:" + digest("sha512", b"") + b":\n999999999999999999\n"


def http():
    yield b"GET /v1/jobs?limit=5&state=queued HTTP/1.1\nHost:localhost:8080\nRange:bytes=0-9\nIf-None-Match:W/\"abc\", \"x\"\ntraceparent:00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    yield b"POST http://127.0.0.1/v1/models/mdl_01/content?file=a%20b HTTP/1.1\nHost:[::1]:80\nContent-Length:5\nOrigin:https://ci.example\nSec-Fetch-Site:same-site"
    yield b"PATCH /v1/uploads/upl_01m82yxp996vqy55w7rg0kkykt HTTP/1.0\nTransfer-Encoding:chunked\nX-HTTP-Method-Override:DELETE\nRange:bytes=-5"
    yield b"OPTIONS /v1/jobs/%6a/artifacts/%e2%82%ac HTTP/1.1\nHost:pared.example\nHost:x\nContent-Length :5"


def json_():
    steps = [{"method": "graph.optimize"}, {"method": "prune.weights", "sparsity": 0.5, "include": ["*"]}, {"method": "quantize.static"}]
    job = {"model": "@M", "dataset": "@D", "val_dataset": "@D", "eval_dataset": "@D", "teacher": "@M", "recipe": {"steps": steps[:2], "targets": {"max_bytes_ratio": 0.5}, "seed": 1},
           "priority": 1, "timeout_s": 60, "threads": 1, "memory_bytes": 1 << 30, "labels": {"a": "b"}, "name": "n", "reuse": False}
    for body in (job, {"model": "@M", "recipe": "small"}, {"model": "@M", "dataset": "@D", "recipe": {"steps": steps}}, {"model": "mdl_0", "recipe": {"steps": []}}):
        yield b"j" + json.dumps(body).encode()
    yield b"r" + json.dumps({"name": "mine", "recipe": {"steps": steps[:1]}}).encode()
    for body in ({"upload": "upl_01m82yxp996vqy55w7rg0kkykt"}, {"uploads": ["upl_01m82yxp996vqy55w7rg0kkykt", "x"], "name": "n"}, {"artifact": "art_01m815f1gk4zqfhrf60qn4k0as"}):
        yield b"m" + json.dumps(body).encode()
        yield b"d" + json.dumps(body).encode()


def main():
    kind, folder = sys.argv[1], Path(sys.argv[2])
    made = {"json": json_}.get(kind) or globals().get(kind, lambda: [b""])  # json is a module's name here
    for i, data in enumerate(made()):
        (folder / f"seed-{i}").write_bytes(data)


if __name__ == "__main__":
    main()
