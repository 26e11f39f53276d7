# SPDX-License-Identifier: Apache-2.0
"""Hostile and broken files over HTTP: each gets its status and a sentence that names the place; nothing is left on disk; the server goes on."""
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import tempfile
import unittest
import zipfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tiny
from pared_server import Server, multipart
from test_http import Case

X, Y = [tiny.value_info("x", ["N", 4])], [tiny.value_info("y", ["N", 4])]


def relu(*more, inits=(), inputs=None, outputs=None, **kw):
    return tiny.model([tiny.node("Relu", ["x"], ["y"], "relu"), *more], list(inits), inputs or X, outputs or Y, **kw)


def raw_tensor(name, dims, raw, elem_type=1):
    return b"".join(tiny.field(1, d) for d in dims) + tiny.field(2, elem_type) + tiny.field(8, name) + tiny.field(9, raw)


def nested(depth):
    """An If in an If in an If ..."""
    graph = tiny.field(1, tiny.node("Relu", ["x"], ["y"], "leaf")) + tiny.field(2, "g")
    for _ in range(depth):
        attribute = tiny.field(5, tiny.field(1, "then_branch") + tiny.field(6, graph) + tiny.field(20, 5))
        graph = tiny.field(1, tiny.node("If", ["c"], ["y"], "if", attribute)) + tiny.field(2, "g")
    graph += b"".join(tiny.field(11, v) for v in X) + b"".join(tiny.field(12, v) for v in Y)
    return tiny.field(1, 7) + tiny.field(7, graph) + tiny.field(8, tiny.field(1, "") + tiny.field(2, 13))


NEGATIVE, HUGE = (1 << 64) - 5, 1 << 62
MODELS = {  # name: (bytes, what the sentence must name)
    "text": (b"this is no model, only a sentence\n" * 20, None),
    "png": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(200), None),
    "another message": (tiny.field(1, "name") + tiny.field(2, "value") + tiny.field(3, 7), None),
    "one byte": (b"\x08", None),
    "cycle": (tiny.model([tiny.node("Relu", ["b"], ["a"], "first"), tiny.node("Relu", ["a"], ["b"], "second"), tiny.node("Relu", ["x"], ["y"])], [], X, Y), "cycle"),
    "missing value": (relu(tiny.node("Add", ["x", "nowhere"], ["z"], "adder")), "nowhere"),
    "value twice": (relu(tiny.node("Relu", ["x"], ["y"], "again")), "y"),
    "initializer twice": (relu(inits=[tiny.tensor("w", [1], [1.0]), tiny.tensor("w", [1], [2.0])]), "w"),
    "output nobody makes": (relu(outputs=[tiny.value_info("ghost", [1])]), "ghost"),
    "negative dimension": (relu(inits=[raw_tensor("w", [NEGATIVE], b"")]), "w"),
    "dimensions that overflow": (relu(inits=[raw_tensor("w", [1 << 40, 1 << 40], b"")]), "w"),
    "2^62 elements in 100 bytes": (relu(inits=[raw_tensor("w", [HUGE], b"1234")]), "w"),
    "raw_data too short": (relu(inits=[raw_tensor("w", [10], b"1234")]), "w"),
    "raw_data too long": (relu(inits=[raw_tensor("w", [1], b"12345678")]), "w"),
    "nested 10,000 deep": (nested(10000), None),
}


class BadModels(Case):
    def refused(self, body, says=None, status=422, path="/v1/models"):
        before = self.s.files_on_disk()
        doc = self.problem(self.s.request("PUT", path, body=body), status)
        if says:
            self.assertIn(says, doc["detail"])
        self.assertEqual(self.s.files_on_disk(), before)
        self.assertEqual(self.s.get("/healthz").status, 200)
        return doc

    def test_models(self):
        for name, (body, says) in MODELS.items():
            with self.subTest(model=name):
                self.refused(body, says)

    def test_truncated(self):
        """Cut at every 1/64 of its length."""
        whole = tiny.classifier(5)
        for k in range(1, 64):
            with self.subTest(cut=k):
                self.refused(whole[:len(whole) * k // 64])

    def test_unknown_operator(self):
        """Understood as far as needed: kept, its weights may be worked on, running it is refused with the list."""
        answer = self.s.request("PUT", "/v1/models", body=tiny.unknown_operator())
        self.assertEqual(answer.status, 201, answer)
        facts = answer.json()
        self.assertFalse(facts["runnable"])
        self.assertIn("Frobnicate", " ".join(facts["missing_operators"]))
        job = self.s.post_json("/v1/jobs", {"model": facts["id"], "recipe": {"steps": [{"method": "prune.weights", "sparsity": 0.5}]}})
        self.assertEqual(job.status, 202, job)
        self.assertEqual(self.s.wait_job(job.json()["id"])["state"], "succeeded")

    def test_symlink_names(self):
        main, data = tiny.classifier_external("weights.bin", 1)
        for name in ("../weights.bin", "a/../weights.bin", "/weights.bin"):
            kind, body = multipart([("model", "m.onnx", main), ("weights", name, data)])
            answer = self.s.request("POST", "/v1/models", body=body, headers={"Content-Type": kind})
            self.assertIn(answer.status, (200, 201), "a client's folders do not matter, only the name: " + name)


class BadData(Case):
    def refused(self, body, says=None):
        before = self.s.files_on_disk()
        doc = self.problem(self.s.request("POST", "/v1/datasets", body=body), 422)
        if says:
            self.assertIn(says, doc["detail"])
        self.assertEqual(self.s.files_on_disk(), before)

    def test_values(self):
        n = float("nan")
        self.refused(tiny.npz({"x": tiny.npy([1.0, n, 2.0, 3.0], [2, 2])}), "x")
        self.refused(tiny.npz({"x": tiny.npy([1.0, float("inf"), 2.0, 3.0], [2, 2])}), "x")
        self.refused(tiny.npz({"x": tiny.npy([1.0] * 4, [2, 2]), "y": tiny.npy([0, -1], [2], "<i8")}))
        self.refused(tiny.npz({"x": tiny.npy([1.0] * 4, [2, 2]), "y": tiny.npy([0], [1], "<i8")}))
        self.refused(tiny.npy([1.0] * 4, [2, 3]))
        self.refused(tiny.npz({}))

    def test_bombs(self):
        def zip_of(name, size):
            out = io.BytesIO()
            with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
                with z.open(name, "w", force_zip64=True) as f:
                    for _ in range(size >> 20):
                        f.write(bytes(1 << 20))
            return out.getvalue()
        bomb = zip_of("x.npy", 300 << 20)
        self.assertLess(len(bomb), 1 << 20)
        self.refused(bomb)

    def test_archives(self):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as t:
            for name in ("../../evil.png", "/etc/evil.png"):
                info = tarfile.TarInfo(name)
                info.size = 8
                t.addfile(info, io.BytesIO(b"\x89PNG\r\n\x1a\n"))
        self.refused(out.getvalue())
        self.refused(out.getvalue()[:40])


class Full(unittest.TestCase):
    def check(self, s, size):
        answer = s.request("PUT", "/v1/models", body=bytes(size))
        self.assertEqual(answer.status, 507, answer)
        self.assertEqual(answer.json()["code"], "disk_full")
        self.assertNotIn(s.dir, answer.body.decode())
        self.assertEqual(s.files_on_disk(), {"objects": 0, "tmp": 0})
        self.assertEqual(s.get("/healthz").status, 200)

    def test_reserve(self):
        with Server("--min_free_disk_bytes", "1000t") as s:
            self.check(s, 1000)
            self.assertEqual(s.get("/readyz").status, 503)
            self.assertIn("retry-after", s.get("/readyz").headers)

    def test_small_disk(self):
        with tempfile.TemporaryDirectory() as folder:
            if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True).returncode != 0:
                self.skipTest("no right to mount a small file system")
            try:
                with Server("--min_free_disk_bytes", "0", data=os.path.join(folder, "data")) as s:
                    self.check(s, 40 << 20)
                    answer = s.request("PUT", "/v1/models", body=tiny.classifier())
                    self.assertEqual(answer.status, 201, "there is room again: " + repr(answer))
            finally:
                subprocess.run(["umount", folder], check=True)


del Case  # its tests are run by its own module


if __name__ == "__main__":
    unittest.main(verbosity=2)
