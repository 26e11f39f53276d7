# SPDX-License-Identifier: Apache-2.0
"""The HTTP interface of a real server: every route, its statuses, hostile requests. python3 -m unittest tests/e2e/test_http.py"""
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import unittest
import urllib.parse

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tiny
from pared_server import Server, multipart

STEPS = {"steps": [{"method": "graph.optimize"}]}


class Case(unittest.TestCase):
    flags = ()
    env = {}

    @classmethod
    def setUpClass(cls):
        cls.s = Server(*cls.flags, env=cls.env)

    @classmethod
    def tearDownClass(cls):
        try:
            alive = cls.s.get("/healthz").status if cls.s.process else 200
            status = cls.s.stop()
            assert alive == 200, "the server does not answer any more"
            assert status == 0, f"exit status {status}: {cls.s.log_text()[-2000:]}"
        finally:
            cls.s.close()

    def problem(self, answer, status, code=None, *, pointer=None, parameter=None, says=None):
        """The answer is a whole problem document that tells nothing of the inside."""
        self.assertEqual(answer.status, status, answer)
        self.assertEqual(answer.headers["content-type"], "application/problem+json")
        doc = answer.json()
        self.assertEqual(doc["status"], status)
        self.assertEqual(doc["type"], "urn:pared:problem:" + doc["code"])
        self.assertEqual(doc["request_id"], answer.headers["x-request-id"])
        for key in ("title", "detail", "instance"):
            self.assertTrue(doc[key], doc)
        self.assertNotRegex(answer.body.decode(), r"/tmp/|/proc/|\.c:\d")
        if code:
            self.assertEqual(doc["code"], code, doc)
        if pointer is not None:
            self.assertIn(pointer, [e.get("pointer") for e in doc.get("errors", [])], doc)
        if parameter is not None:
            self.assertIn(parameter, [e.get("parameter") for e in doc.get("errors", [])], doc)
        if says:
            self.assertIn(says, doc["detail"])
        return doc

    def model(self, seed=0, **kw):
        answer = self.s.request("PUT", "/v1/models?name=tiny.onnx", body=tiny.classifier(seed, **kw))
        self.assertIn(answer.status, (200, 201), answer)
        return answer.json()["id"]

    def dataset(self, seed=0):
        answer = self.s.request("POST", "/v1/datasets?name=tiny.npz", body=tiny.dataset(seed=seed))
        self.assertIn(answer.status, (200, 201), answer)
        return answer.json()["id"]

    def job(self, **body):
        answer = self.s.post_json("/v1/jobs", {"recipe": STEPS, **body})
        self.assertEqual(answer.status, 202, answer)
        return answer.json()["id"]


class Forms(Case):
    """What HTTP itself asks for: methods, paths, types, conditions."""

    def test_healthz(self):
        answer = self.s.get("/healthz")
        self.assertEqual((answer.status, answer.json()["status"]), (200, "ok"))
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertTrue(answer.headers["x-request-id"])

    def test_readyz_metrics_stats(self):
        ready = self.s.get("/readyz").json()
        self.assertEqual(ready["status"], "ready")
        self.assertEqual({name: check["ok"] for name, check in ready["checks"].items()}, dict.fromkeys(("draining", "store", "disk", "memory"), True))
        metrics = self.s.get("/metrics")
        self.assertTrue(metrics.headers["content-type"].startswith("text/plain"))
        self.assertIn(b"# TYPE pared_", metrics.body)
        stats = self.s.get("/v1/stats").json()
        self.assertEqual(set(stats["jobs"]), {"queued", "running", "succeeded", "failed", "canceled"})

    def test_pages(self):
        page = self.s.get("/")
        self.assertEqual(page.status, 200)
        self.assertTrue(page.headers["content-type"].startswith("text/html"))
        self.assertIn("default-src 'self'", page.headers["content-security-policy"])
        self.assertIn("frame-ancestors 'none'", page.headers["content-security-policy"])
        self.assertEqual(page.headers["x-content-type-options"], "nosniff")
        self.assertEqual(page.headers["referrer-policy"], "no-referrer")
        for name in set(re.findall(r'(?:src|href)="/([\w.-]+\.(?:js|css|svg))"', page.body.decode())):
            self.assertEqual(self.s.get("/" + name).status, 200, name)
        again = self.s.get("/", headers={"If-None-Match": page.headers["etag"]})
        self.assertEqual((again.status, again.body), (304, b""))
        self.problem(self.s.get("/nothing.js"), 404, "not_found")
        self.assertIn(b"openapi: 3.1", self.s.get("/openapi.yaml").body[:200])

    def test_not_found(self):
        for path in ("/nothing", "/v1", "/v1/", "/v1/nothing", "/v1/models/", "/v1/jobs/x/y/z", "/V1/models", "//v1/models"):
            self.problem(self.s.get(path), 404, "not_found")
            self.problem(self.s.request("POST", path), 404, "not_found")

    def test_encoded_paths(self):
        for path in ("/healthz%00", "/%68ealthz%00x", "/v1%2Fmodels", "/v1%2fmodels", "/v1/../healthz", "/v1/%2e%2e/healthz",
                     "/v1/%2E%2e/%2e%2e/etc/passwd", "/v1/recipes/..%2f..%2fetc", "/v1/recipes/a%5cb", "/./healthz", "/%ff", "/a%0d%0ab.js"):
            self.problem(self.s.get(path), 404, "not_found")
        self.assertEqual(self.s.get("/%68ealthz").status, 200)
        for path in ("/%", "/%4", "/%zz", "/v1/models?limit=%", "/v1/models?limit=%00"):
            self.problem(self.s.get(path), 400, "bad_request")

    def test_methods(self):
        cases = {"/healthz": "GET, HEAD, OPTIONS", "/v1/models": "PUT, POST, GET, HEAD, OPTIONS", "/v1/jobs": "POST, GET, HEAD, OPTIONS",
                 "/v1/jobs/job_x": "GET, HEAD, DELETE, OPTIONS", "/v1/jobs/job_x/cancel": "POST, OPTIONS", "/": "GET, HEAD, OPTIONS"}
        for path, allow in cases.items():
            answer = self.s.request("PATCH", path)
            self.problem(answer, 405, "method_not_allowed")
            self.assertEqual(answer.headers["allow"], allow)
            options = self.s.request("OPTIONS", path)
            self.assertEqual((options.status, options.headers["allow"], options.body), (204, allow, b""))
            self.assertNotIn("access-control-allow-origin", options.headers)
        self.problem(self.s.request("BREW", "/healthz"), 405)

    def test_head(self):
        for path in ("/healthz", "/v1/models", "/", "/metrics"):
            head = self.s.request("HEAD", path)
            self.assertEqual((head.status, head.body), (200, b""))
            self.assertGreater(int(head.headers["content-length"]), 0)

    def test_accept(self):
        self.problem(self.s.get("/v1/models", headers={"Accept": "text/html"}), 406, "not_acceptable")
        self.problem(self.s.get("/v1/models", headers={"Accept": "application/json;q=0, text/html"}), 406, "not_acceptable")
        for accept in ("*/*", "application/*", "application/json", "text/html, application/json;q=0.5", "text/html,*/*;q=0.1"):
            self.assertEqual(self.s.get("/v1/models", headers={"Accept": accept}).status, 200, accept)
        self.assertEqual(self.s.get("/", headers={"Accept": "text/html"}).status, 200)

    def test_query(self):
        self.problem(self.s.get("/v1/models?nothing=1"), 422, "invalid", parameter="nothing")
        self.problem(self.s.get("/v1/models?limit=1&limit=2"), 422, "invalid", parameter="limit")
        for limit in ("0", "201", "-1", "x", "", "1.5", "99999999999999999999"):
            self.problem(self.s.get("/v1/models?limit=" + limit), 422, "invalid", parameter="limit")
        self.problem(self.s.get("/v1/models?cursor=x"), 422, "invalid", parameter="cursor")
        self.problem(self.s.get("/v1/jobs?cursor=mdl_01m815ehw04c71nbr6be46pcr5"), 422, "invalid", parameter="cursor")
        self.problem(self.s.get("/v1/jobs?state=done"), 422, "invalid", parameter="state")
        self.problem(self.s.request("PUT", "/v1/models?name=a%2Fb", body=tiny.classifier()), 422, "invalid", parameter="name")

    def test_request_id(self):
        self.assertEqual(self.s.get("/healthz", headers={"X-Request-Id": "my-id.1"}).headers["x-request-id"], "my-id.1")
        for bad in ("a b", "x" * 129, "a\"b", "<script>"):
            self.assertNotEqual(self.s.get("/healthz", headers={"X-Request-Id": bad}).headers["x-request-id"], bad)

    def test_keep_alive(self):
        connection = http.client.HTTPConnection(self.s.host, self.s.port)
        for path, status in (("/healthz", 200), ("/nothing", 404), ("/v1/models", 200), ("/v1/models?x=1", 422), ("/healthz", 200)):
            connection.request("GET", path)
            response = connection.getresponse()
            response.read()
            self.assertEqual(response.status, status)
            self.assertNotEqual((response.getheader("Connection") or "").lower(), "close", path)
        connection.close()


class Smuggling(Case):
    """What libmicrohttpd alone would take in another sense than a proxy before it."""

    def refused(self, data, status=b"400"):
        out, closed = self.s.raw(data)
        self.assertTrue(out.startswith(b"HTTP/1.1 " + status), out[:300])
        self.assertTrue(closed, "the connection must be closed")
        self.assertEqual(len(re.findall(rb"HTTP/1\.1 \d", out)), 1, "nothing behind the request may be answered")

    def test_refused(self):
        behind = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        head = b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\n"
        for lines in (b"Content-Length: 5\r\nContent-Length: 6\r\n", b"Content-Length: 5\r\nContent-Length: 5\r\n",
                      b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"Content-Length : 5\r\n",
                      b"Transfer-Encoding: xchunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n",
                      b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", b"X\x01Y: 1\r\n", b"Host: other\r\n"):
            with self.subTest(lines=lines):
                self.refused(head + lines + b"\r\n" + b"12345" + behind)

    def test_no_host(self):
        self.refused(b"GET /healthz HTTP/1.1\r\n\r\n")
        out, _ = self.s.raw(b"GET /healthz HTTP/1.0\r\n\r\n")
        self.assertIn(b" 200 OK", out[:20])

    def test_lengths(self):
        for value in (b"-1", b"+5", b"5x", b"0x5", b"18446744073709551617", b"99999999999999999999999999"):
            out, closed = self.s.raw(b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: " + value + b"\r\n\r\n{}", timeout=2)
            self.assertRegex(out[:16], rb"HTTP/1.1 (400|413)", value)

    def test_garbage(self):
        for data in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x00" * 100, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\nHost: localhost\r\n\r\n", b"\r\n" * 1000,
                     b"GET /" + b"a" * 300000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"y" * 400000 + b"\r\n\r\n"):
            out, _ = self.s.raw(data, timeout=1, shut=True)
            self.assertNotIn(b" 200 ", out[:15], data[:40])
        self.assertEqual(self.s.get("/healthz").status, 200)

    def test_pipelined(self):
        out, _ = self.s.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n" * 3 + b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        self.assertEqual(out.count(b"HTTP/1.1 200 OK"), 4)


class Browsers(Case):
    """Pages of other sites: DNS rebinding and cross-site requests."""

    def test_host(self):
        for host in ("evil.example.com", "localhost.evil.com", "127.0.0.1.nip.io", "localhost@evil.com"):
            for path in ("/healthz", "/", "/v1/models"):
                self.problem(self.s.get(path, host=host), 403, "forbidden")
        for host in ("localhost", "localhost:1234", "127.0.0.1", "[::1]:8080"):
            self.assertEqual(self.s.get("/healthz", host=host).status, 200)
        out, _ = self.s.raw(b"GET http://evil.example.com/healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        self.assertIn(b" 403 ", out[:20])

    def test_origin(self):
        body, json_type = json.dumps({"model": "x"}), {"Content-Type": "application/json"}
        for origin in ("http://evil.example.com", "null", f"http://localhost:{self.s.port + 1}", f"http://127.0.0.1:{self.s.port}.evil.com"):
            for method, path in (("POST", "/v1/jobs"), ("PUT", "/v1/models"), ("DELETE", "/v1/models/mdl_x"), ("POST", "/v1/jobs/job_x/cancel")):
                self.problem(self.s.request(method, path, body=body, headers={**json_type, "Origin": origin}), 403, "forbidden")
        own = {**json_type, "Origin": self.s.url}
        self.assertEqual(self.s.request("POST", "/v1/jobs", body=body, headers=own).status, 422)
        self.problem(self.s.request("POST", "/v1/jobs", body=body, headers={**json_type, "Sec-Fetch-Site": "cross-site"}), 403)
        self.assertEqual(self.s.get("/v1/models", headers={"Origin": "http://evil.example.com"}).status, 200)
        self.assertNotIn("access-control-allow-origin", self.s.get("/v1/models", headers={"Origin": "http://evil.example.com"}).headers)


class Json(Case):
    def test_type(self):
        for kind in (None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"):
            answer = self.s.request("POST", "/v1/jobs", body="{}", headers={"Content-Type": kind} if kind else {})
            self.problem(answer, 415, "unsupported_media_type", says="curl, use --json")
        self.assertEqual(self.s.request("POST", "/v1/jobs", body="{}", headers={"Content-Type": "application/json; charset=utf-8"}).status, 422)
        self.problem(self.s.post_json("/v1/jobs", "{}", headers={"Content-Encoding": "gzip"}), 415)

    def test_not_json(self):
        for body in ("", "{", "nope", "{'a': 1}", '{"a": 1,}', '{"a": 1} x', '{"a": "\x01"}', b'{"a": "\xff"}', '{"a": NaN}', '{"a": 1e999}', '{"a": "\\u0000"}'):
            doc = self.problem(self.s.post_json("/v1/jobs", body), 400, "bad_json")
            if body:
                self.assertRegex(doc["detail"], r"line \d+")

    def test_duplicate_keys(self):
        self.problem(self.s.post_json("/v1/jobs", '{"model": "a", "model": "b"}'), 400, "bad_json", says="model")

    def test_depth(self):
        self.assertEqual(self.s.post_json("/v1/jobs", "[" * 64 + "]" * 64).status, 422)
        self.problem(self.s.post_json("/v1/jobs", "[" * 65 + "]" * 65), 400, "bad_json", says="64")
        self.problem(self.s.post_json("/v1/jobs", '{"a":' * 100000 + "1" + "}" * 100000), 400, "bad_json", says="64")

    def test_large(self):
        big = json.dumps({"labels": {"a": "x" * (10 << 20)}})
        self.problem(self.s.post_json("/v1/jobs", big), 413, "too_large")
        self.problem(self.s.request("POST", "/v1/jobs", body=iter([big[i:i + 65536].encode() for i in range(0, len(big), 65536)]),
                                    headers={"Content-Type": "application/json", "Transfer-Encoding": "chunked"}, encode_chunked=True), 413, "too_large")
        just = json.dumps({"labels": {"a": "x" * ((1 << 20) - 100)}})
        self.assertEqual(self.s.post_json("/v1/jobs", just).status, 422)

    def test_not_an_object(self):
        for path in ("/v1/jobs", "/v1/recipes", "/v1/models"):
            for body in ("[]", "1", "null", '"x"'):
                self.problem(self.s.post_json(path, body), 422)


class Models(Case):
    def test_life(self):
        body = tiny.classifier(1)
        first = self.s.request("PUT", "/v1/models?name=first.onnx", body=body)
        self.assertEqual(first.status, 201, first)
        model = first.json()
        self.assertEqual(first.headers["location"], "/v1/models/" + model["id"])
        self.assertEqual((model["name"], model["bytes"], model["nodes"]), ("first.onnx", len(body), 3))
        self.assertRegex(model["id"], r"^mdl_[0-9a-z]{26}$")
        self.assertRegex(model["created_at"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$")
        again = self.s.request("POST", "/v1/models?name=again.onnx", body=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
        self.assertEqual((again.status, again.json()["id"]), (200, model["id"]))
        got = self.s.get("/v1/models/" + model["id"]).json()
        self.assertEqual(got, model)
        layers = self.s.get(f"/v1/models/{model['id']}/layers").json()["data"]
        self.assertEqual([l["op_type"] for l in layers if l.get("op_type") == "MatMul"], ["MatMul", "MatMul"])
        self.assertEqual(self.s.get(f"/v1/models/{model['id']}/graph").status, 200)
        groups = self.s.get(f"/v1/models/{model['id']}/groups").json()["data"]
        self.assertEqual(sum(g["prunable"] for g in groups), 1)  # between the products; the classes are the output's
        self.assertTrue(all(g["prunable"] or g["frozen"] for g in groups), groups)
        content = self.s.get(f"/v1/models/{model['id']}/content")
        self.assertEqual(content.body, body)
        self.assertIn('filename="first.onnx"', content.headers["content-disposition"])
        self.assertEqual(self.s.request("DELETE", "/v1/models/" + model["id"]).status, 204)
        for path in ("", "/layers", "/graph", "/groups", "/content"):
            self.problem(self.s.get(f"/v1/models/{model['id']}{path}"), 404, "not_found")
        self.problem(self.s.request("DELETE", "/v1/models/" + model["id"]), 404, "not_found")

    def test_chunked(self):
        body = tiny.classifier(2)
        answer = self.s.request("PUT", "/v1/models", body=iter([body[:100], body[100:]]), headers={"Transfer-Encoding": "chunked"}, encode_chunked=True)
        self.assertEqual(answer.status, 201, answer)
        self.assertEqual(answer.json()["name"], "model.onnx")

    def test_curl(self):
        path = os.path.join(self.s.dir, "m.onnx")
        with open(path, "wb") as f:
            f.write(tiny.classifier(3))
        for words in (["-T", path], ["--data-binary", "@" + path], ["-F", "model=@" + path], ["-T", "-"]):
            with open(path, "rb") as f:
                out = subprocess.run(["curl", "-sS", *words, self.s.url + "/v1/models?name=curl.onnx"], stdin=f, capture_output=True, check=True)
            self.assertEqual(json.loads(out.stdout)["name"], "curl.onnx", out.stdout)

    def test_external_data(self):
        main, data = tiny.classifier_external("weights.bin", 4)
        self.problem(self.s.request("PUT", "/v1/models", body=main), 422)
        kind, body = multipart([("model", "m.onnx", main), ("weights", "weights.bin", data)])
        answer = self.s.request("POST", "/v1/models", body=body, headers={"Content-Type": kind})
        self.assertEqual(answer.status, 201, answer)
        model = answer.json()
        self.assertEqual([f["name"] for f in model["files"]], ["m.onnx", "weights.bin"])
        self.assertEqual(model["bytes"], len(main) + len(data))
        kind, body = multipart([("weights.bin", None, data), ("model", "other.onnx", main)])
        again = self.s.request("POST", "/v1/models", body=body, headers={"Content-Type": kind})
        self.assertEqual((again.status, again.json()["id"]), (200, model["id"]), again)
        self.assertEqual(self.s.get(f"/v1/models/{model['id']}/content?file=weights.bin").body, data)
        self.problem(self.s.get(f"/v1/models/{model['id']}/content?file=nothing"), 404)

    def test_external_elsewhere(self):
        before = self.s.files_on_disk()
        for location in ("../../etc/passwd", "/etc/passwd", "sub/weights.bin", "..", ""):
            main, data = tiny.classifier_external(location, 5)
            kind, body = multipart([("model", "m.onnx", main), ("weights", "weights.bin", data)])
            self.problem(self.s.request("POST", "/v1/models", body=body, headers={"Content-Type": kind}), 422)
        self.assertEqual(self.s.files_on_disk(), before)

    def test_multipart_faults(self):
        model = tiny.classifier(6)
        for parts, pointer in (([("file", "m.onnx", model)], "/model"), ([], "/model")):
            kind, body = multipart(parts)
            self.problem(self.s.request("POST", "/v1/models", body=body, headers={"Content-Type": kind}), 422, pointer=pointer)
        kind, body = multipart([("model", "m.onnx", model), ("a", "w.bin", b"1"), ("b", "w.bin", b"2")])
        self.problem(self.s.request("POST", "/v1/models", body=body, headers={"Content-Type": kind}), 422, pointer="/b")
        kind, body = multipart([("model", "m.onnx", model)])
        for cut in (body[:-10], body[:200], b""):
            if cut:
                self.problem(self.s.request("POST", "/v1/models", body=cut, headers={"Content-Type": kind}), 400, "bad_request")
        self.problem(self.s.request("POST", "/v1/models", body=body, headers={"Content-Type": "multipart/form-data"}), 400, "bad_request", says="boundary")
        self.assertEqual(self.s.files_on_disk()["tmp"], 0)

    def test_no_model(self):
        before = self.s.files_on_disk()
        for body in (b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"\0" * 100, b"\x0a" * 1000, tiny.classifier(7)[:-20], tiny.unknown_operator()[:-3], os.urandom(5000)):
            self.problem(self.s.request("PUT", "/v1/models", body=body), 422)
        self.assertEqual(self.s.files_on_disk(), before)
        out, _ = self.s.raw(b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        self.assertIn(b" 411 ", out[:20])
        self.assertIn(b'"length_required"', out)

    def test_cut(self):
        """The client goes away in the middle: nothing is left."""
        before = self.s.files_on_disk()
        body = tiny.classifier(8) * 2000
        for framing in (f"Content-Length: {len(body)}\r\n", "Transfer-Encoding: chunked\r\n"):
            with socket.create_connection((self.s.host, self.s.port)) as c:
                c.sendall(f"PUT /v1/models HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n".encode())
                if "chunked" in framing:
                    c.sendall(f"{len(body) - 5000:x}\r\n".encode())
                c.sendall(body[:-6000])
                time.sleep(0.3)
                self.assertGreaterEqual(self.s.files_on_disk()["tmp"], 1)
        until = time.time() + 5
        while self.s.files_on_disk() != before and time.time() < until:
            time.sleep(0.05)
        self.assertEqual(self.s.files_on_disk(), before)

    def test_length_too_long(self):
        body = tiny.classifier(9)
        out, closed = self.s.raw(b"PUT /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % (len(body) + 100) + body, timeout=2, shut=True)
        self.assertNotIn(b" 201 ", out[:20])
        time.sleep(0.2)
        self.assertEqual(self.s.files_on_disk()["tmp"], 0)

    def test_length_too_short(self):
        body = tiny.classifier(10)
        out, closed = self.s.raw(b"PUT /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (len(body) - 100) + body, timeout=5)
        self.assertIn(b" 422 ", out[:20])

    def test_at_once(self):
        body, answers = tiny.classifier(11), []
        def put():
            answers.append(self.s.request("PUT", "/v1/models", body=body))
        threads = [threading.Thread(target=put) for _ in range(8)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        self.assertEqual(len({a.json()["id"] for a in answers}), 1)
        self.assertEqual(sorted(a.status for a in answers), [200] * 7 + [201])

    def test_ids(self):
        dataset = self.dataset(3)
        for wrong in ("x", "mdl_", "mdl_01m815ehw04c71nbr6be46pcr5", dataset, "job_01m815ehw04c71nbr6be46pcr5", "MDL_01m815ehw04c71nbr6be46pcr5", "mdl_" + "z" * 500):
            for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/layers"), ("GET", "/graph"), ("GET", "/groups"), ("GET", "/content")):
                self.problem(self.s.request(method, f"/v1/models/{wrong}{path}"), 404, "not_found")

    def test_pages_of_a_list(self):
        ids = [self.model(100 + i) for i in range(5)]
        seen, cursor = [], ""
        while True:
            page = self.s.get("/v1/models?limit=2" + cursor).json()
            self.assertLessEqual(len(page["data"]), 2)
            seen += [m["id"] for m in page["data"]]
            if page["next_cursor"] is None:
                break
            cursor = "&cursor=" + page["next_cursor"]
        self.assertEqual(len(seen), len(set(seen)))
        self.assertEqual([i for i in seen if i in ids], ids[::-1])

    def test_names(self):
        name = "modèle \"1\" 模型.onnx"
        answer = self.s.request("PUT", "/v1/models?name=" + urllib.parse.quote(name), body=tiny.classifier(12))
        self.assertEqual(answer.json()["name"], name)
        content = self.s.get(f"/v1/models/{answer.json()['id']}/content")
        self.assertIn("filename*=UTF-8''" + urllib.parse.quote(name, safe=""), content.headers["content-disposition"])
        self.assertTrue(content.headers["content-disposition"].isascii())

    def test_artifact_as_model(self):
        job = self.s.wait_job(self.job(model=self.model(13)))
        self.assertEqual(job["state"], "succeeded", job)
        artifact = next(a for a in self.s.get(job["links"]["artifacts"]).json()["data"] if a["name"] == "model.onnx")
        answer = self.s.post_json("/v1/models", {"artifact": artifact["id"], "name": "smaller.onnx"})
        self.assertEqual(answer.status, 201, answer)
        self.assertEqual((answer.json()["sha256"], answer.json()["parent_job"], answer.json()["name"]), (artifact["sha256"], job["id"], "smaller.onnx"))
        self.assertEqual(self.s.request("DELETE", "/v1/jobs/" + job["id"]).status, 204)
        self.assertEqual(self.s.get(f"/v1/models/{answer.json()['id']}/content").status, 200)
        self.problem(self.s.post_json("/v1/models", {"artifact": "art_01m815ehw04c71nbr6be46pcr5"}), 422, "reference_not_found", pointer="/artifact")
        self.problem(self.s.post_json("/v1/models", {"artefact": "x"}), 422, "invalid", pointer="/artefact")
        self.problem(self.s.post_json("/v1/models", {"artifact": 5}), 422, "invalid", pointer="/artifact")


class Limits(Case):
    flags = ("--max_upload_bytes", "100000")

    def test_declared(self):
        self.problem(self.s.request("PUT", "/v1/models", body=b"x" * 100001), 413, "too_large")

    def test_chunked(self):
        answer = self.s.request("PUT", "/v1/models", body=iter([b"x" * 50000] * 10), headers={"Transfer-Encoding": "chunked"}, encode_chunked=True)
        self.problem(answer, 413, "too_large")
        self.assertEqual(self.s.files_on_disk(), {"objects": 0, "tmp": 0})

    def test_expect(self):
        """A client that waits for 100 Continue gets its refusal without having sent anything."""
        out, closed = self.s.raw(b"PUT /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\nExpect: 100-continue\r\n\r\n")
        self.assertIn(b"HTTP/1.1 413", out)
        self.assertNotIn(b"100 Continue", out)
        self.assertTrue(closed)

    def test_curl(self):
        path = os.path.join(self.s.dir, "big")
        with open(path, "wb") as f:
            f.truncate(300 << 20)
        out = subprocess.run(["curl", "-sS", "-T", path, "-w", "%{http_code}", self.s.url + "/v1/models"], capture_output=True)
        self.assertTrue(out.stdout.endswith(b"413"), out)

    def test_endless(self):
        """A stream without end is cut some time after it was refused."""
        with socket.create_connection((self.s.host, self.s.port), timeout=20) as c:
            c.sendall(b"PUT /v1/models HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
            piece = b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
            with self.assertRaises(OSError):
                for _ in range(300):
                    c.sendall(piece)


class Uploads(Case):
    """Each call of resumable uploads once; test_uploads.py has the rest."""

    def test_life(self):
        tus, data = {"Tus-Resumable": "1.0.0"}, tiny.classifier(77)
        begun = self.s.request("POST", "/v1/uploads", headers={**tus, "Upload-Length": str(len(data)), "Upload-Metadata": "filename dS5vbm54"})
        self.assertEqual(begun.status, 201, begun)
        path = begun.headers["location"]
        self.assertEqual(self.s.get(path).json()["offset"], 0)
        self.assertEqual(self.s.get("/v1/uploads").json()["data"][0]["id"], begun.json()["id"])
        more = {**tus, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        self.assertEqual(self.s.request("PATCH", path, body=data, headers=more).status, 204)
        self.problem(self.s.request("PATCH", path, body=data, headers=more), 409, "wrong_state")
        self.problem(self.s.request("PATCH", path, body=b"", headers={**more, "Upload-Checksum": "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=", "Upload-Offset": str(len(data))}), 460)
        self.problem(self.s.request("POST", "/v1/uploads", headers={"Upload-Length": "1"}), 412)
        model = self.s.post_json("/v1/models", {"upload": begun.json()["id"]})
        self.assertEqual((model.status, model.json()["name"]), (201, "u.onnx"), model)
        self.problem(self.s.get(path), 404)
        path = self.s.request("POST", "/v1/uploads", headers={**tus, "Upload-Length": "1"}).headers["location"]
        self.problem(self.s.request("DELETE", path), 412)
        self.assertEqual(self.s.request("DELETE", path, headers=tus).status, 204)


class Datasets(Case):
    def test_life(self):
        body = tiny.dataset(seed=1)
        first = self.s.request("PUT", "/v1/datasets?name=d.npz", body=body)
        self.assertEqual(first.status, 201, first)
        found = first.json()
        self.assertEqual((found["name"], found["format"], found["samples"], found["labels"]), ("d.npz", "npz", 64, "classes"))
        self.assertEqual(first.headers["location"], "/v1/datasets/" + found["id"])
        again = self.s.request("POST", "/v1/datasets", body=body)
        self.assertEqual((again.status, again.json()["id"]), (200, found["id"]))
        self.assertEqual(self.s.get("/v1/datasets/" + found["id"]).json(), found)
        self.assertIn(found["id"], [d["id"] for d in self.s.get("/v1/datasets").json()["data"]])
        self.assertEqual(self.s.get(f"/v1/datasets/{found['id']}/content").body, body)
        self.problem(self.s.get("/v1/models/" + found["id"]), 404)
        self.assertEqual(self.s.request("DELETE", "/v1/datasets/" + found["id"]).status, 204)
        self.problem(self.s.get("/v1/datasets/" + found["id"]), 404)

    def test_parts(self):
        x = tiny.npz({"x": tiny.npy(tiny.weights(5, 64 * 16), [64, 16])})
        description = json.dumps({"format": "npz", "files": {"x": "features.npz"}}).encode()
        kind, body = multipart([("x", "anything.npz", x), ("data", "data.json", description)])
        answer = self.s.request("POST", "/v1/datasets?name=parts", body=body, headers={"Content-Type": kind})
        self.assertEqual(answer.status, 201, answer)
        self.assertEqual([f["name"] for f in answer.json()["files"]], ["data.json", "features.npz"])
        self.assertEqual(answer.json()["samples"], 64)

    def test_part_faults(self):
        x = tiny.dataset(seed=6)
        def send(description, *parts):
            kind, body = multipart([("data", "data.json", description if isinstance(description, bytes) else json.dumps(description).encode()), *parts])
            return self.s.request("POST", "/v1/datasets", body=body, headers={"Content-Type": kind})
        part = ("x", "x.npz", x)
        self.problem(send({"format": "npz", "files": {"x": "a.npz", "y": "b.npz"}}, part), 422, pointer="/data/files/y")
        self.problem(send({"format": "npz", "files": {"x": "../a.npz"}}, part), 422, pointer="/data/files/x")
        self.problem(send({"format": "npz", "files": {"x": "/etc/passwd"}}, part), 422, pointer="/data/files/x")
        self.problem(send({"format": "npz", "files": {"x": "a.npz"}}, part, ("z", "z", b"1")), 422, pointer="/z")
        self.problem(send({"format": "npz"}, part), 422, pointer="/data/files")
        self.problem(send({"format": "nope", "files": {"x": "a.npz"}}, part), 422)
        self.problem(send(b"not json", part), 422, "dataset_invalid")
        self.problem(send(b"[" * 100, part), 422, "dataset_invalid")
        kind, body = multipart([part])
        self.problem(self.s.request("POST", "/v1/datasets", body=body, headers={"Content-Type": kind}), 422, pointer="/data")
        self.problem(self.s.post_json("/v1/datasets", {}), 422, pointer="/upload")
        self.assertEqual(self.s.files_on_disk()["tmp"], 0)

    def test_no_dataset(self):
        before = self.s.files_on_disk()
        nan = tiny.npz({"x": tiny.npy([float("nan")] * 16, [1, 16])})
        for body in (b"hello", os.urandom(3000), tiny.dataset()[:-100], nan):
            self.problem(self.s.request("POST", "/v1/datasets", body=body), 422)
        self.assertEqual(self.s.files_on_disk(), before)


class Recipes(Case):
    def test_methods(self):
        methods = self.s.get("/v1/methods").json()
        names = [m["name"] for m in methods["data"]]
        for name in ("graph.optimize", "prune.weights"):
            self.assertIn(name, names)
            self.assertEqual(self.s.get("/v1/methods/" + name).json()["name"], name)
        self.problem(self.s.get("/v1/methods/nothing"), 404)

    def test_life(self):
        rows = self.s.get("/v1/recipes").json()["data"]
        self.assertIn("optimize", [r["name"] for r in rows if r["preset"]])
        self.assertTrue(self.s.get("/v1/recipes/optimize").json()["preset"])
        body = {"name": "mine", "recipe": STEPS}
        made = self.s.post_json("/v1/recipes", body)
        self.assertEqual((made.status, made.headers["location"]), (201, "/v1/recipes/mine"), made)
        self.assertEqual(self.s.post_json("/v1/recipes", body).status, 200)
        self.problem(self.s.post_json("/v1/recipes", {"name": "mine", "recipe": {"steps": []}}), 409, "wrong_state")
        self.problem(self.s.post_json("/v1/recipes", {"name": "optimize", "recipe": STEPS}), 409)
        self.assertEqual(self.s.get("/v1/recipes/mine").json()["recipe"]["steps"][0]["method"], "graph.optimize")
        self.assertIn("mine", [r["name"] for r in self.s.get("/v1/recipes").json()["data"]])
        self.assertEqual(self.s.request("DELETE", "/v1/recipes/mine").status, 204)
        self.problem(self.s.request("DELETE", "/v1/recipes/mine"), 404)
        self.problem(self.s.request("DELETE", "/v1/recipes/optimize"), 403)

    def test_faults(self):
        self.problem(self.s.post_json("/v1/recipes", {"name": "a b", "recipe": STEPS}), 422, pointer="/name")
        self.problem(self.s.post_json("/v1/recipes", {"name": "x"}), 422, pointer="/recipe")
        self.problem(self.s.post_json("/v1/recipes", {"name": "x", "recipe": {"steps": [{"method": "prune.weights", "sparsity": 2}]}}), 422, pointer="/recipe/steps/0/sparsity")
        self.problem(self.s.post_json("/v1/recipes", {"name": "x", "recipe": {"steps": [{"method": "nothing"}]}}), 422, pointer="/recipe/steps/0/method")


class Jobs(Case):
    def test_life(self):
        model, data = self.model(1), self.dataset(1)
        answer = self.s.post_json("/v1/jobs", {"model": model, "dataset": data, "recipe": "optimize", "labels": {"team": "a"}, "priority": 5})
        self.assertEqual(answer.status, 202, answer)
        job = answer.json()
        self.assertEqual(answer.headers["location"], "/v1/jobs/" + job["id"])
        self.assertIn("retry-after", answer.headers)
        self.assertEqual((job["state"], job["model"], job["dataset"], job["recipe_name"], job["labels"], job["priority"]),
                         ("queued", model, data, "optimize", {"team": "a"}, 5))
        done = self.s.wait_job(job["id"])
        self.assertEqual(done["state"], "succeeded", done)
        self.assertIn("before", done["metrics"])
        self.assertIsNone(done["error"])
        self.assertIn(job["id"], [j["id"] for j in self.s.get("/v1/jobs?state=succeeded").json()["data"]])
        self.assertNotIn(job["id"], [j["id"] for j in self.s.get("/v1/jobs?state=failed").json()["data"]])
        report = self.s.get(f"/v1/jobs/{job['id']}/report")
        self.assertEqual(report.headers["content-type"], "application/json")
        self.assertEqual(report.json()["source"]["name"], "tiny.onnx")
        self.assertEqual(self.s.get(f"/v1/jobs/{job['id']}/metrics").json(), {"data": [], "next_cursor": None})
        artifacts = self.s.get(f"/v1/jobs/{job['id']}/artifacts").json()["data"]
        self.assertEqual({a["name"] for a in artifacts} >= {"model.onnx", "report.json"}, True)
        self.problem(self.s.request("POST", f"/v1/jobs/{job['id']}/cancel"), 409, "wrong_state")
        self.problem(self.s.get(f"/v1/jobs/{job['id']}/artifacts/nothing"), 404)
        self.assertEqual(self.s.request("DELETE", "/v1/jobs/" + job["id"]).status, 204)
        for path in ("", "/report", "/artifacts", "/metrics", "/artifacts/model.onnx"):
            self.problem(self.s.get(f"/v1/jobs/{job['id']}{path}"), 404, "not_found")

    def test_downloads(self):
        job = self.s.wait_job(self.job(model=self.model(2)))
        url = f"/v1/jobs/{job['id']}/artifacts/model.onnx"
        whole = self.s.get(url)
        n = len(whole.body)
        self.assertEqual((whole.status, whole.headers["accept-ranges"], int(whole.headers["content-length"])), (200, "bytes", n))
        self.assertRegex(whole.headers["etag"], r'^"[0-9a-f]{64}"$')
        self.assertRegex(whole.headers["repr-digest"], r"^sha-256=:[A-Za-z0-9+/]{43}=:$")
        self.assertTrue(whole.headers["content-disposition"].startswith("attachment"))
        etag = whole.headers["etag"]
        for value, first, last in (("bytes=0-9", 0, 9), (f"bytes={n - 5}-", n - 5, n - 1), ("bytes=-7", n - 7, n - 1), ("bytes=5-99999999", 5, n - 1)):
            part = self.s.get(url, headers={"Range": value})
            self.assertEqual((part.status, part.body), (206, whole.body[first:last + 1]), value)
            self.assertEqual(part.headers["content-range"], f"bytes {first}-{last}/{n}")
        beyond = self.s.get(url, headers={"Range": f"bytes={n}-"})
        self.problem(beyond, 416, "range_not_satisfiable")
        self.assertEqual(beyond.headers["content-range"], f"bytes */{n}")
        for value in ("bytes=0-1,3-4", "lines=0-1", "bytes=9-3"):
            self.assertEqual(self.s.get(url, headers={"Range": value}).status, 200, value)
        self.assertEqual(self.s.get(url, headers={"If-None-Match": etag}).status, 304)
        self.assertEqual(self.s.get(url, headers={"If-None-Match": '"x", ' + etag}).status, 304)
        self.assertEqual(self.s.get(url, headers={"If-None-Match": '"x"'}).status, 200)
        self.problem(self.s.get(url, headers={"If-Match": '"x"'}), 412, "precondition_failed")
        self.assertEqual(self.s.get(url, headers={"If-Range": etag, "Range": "bytes=0-0"}).status, 206)
        self.assertEqual(self.s.get(url, headers={"If-Range": '"x"', "Range": "bytes=0-0"}).status, 200)
        head = self.s.request("HEAD", url)
        self.assertEqual((head.status, int(head.headers["content-length"]), head.body), (200, n, b""))

    def test_faults(self):
        """All of them at once."""
        answer = self.s.post_json("/v1/jobs", {"dataset": "dst_01m815ehw04c71nbr6be46pcr5", "teacher": "dst_01m815ehw04c71nbr6be46pcr5", "colour": "red",
                                               "recipe": {"steps": [{"method": "prune.weights", "sparsity": "much", "sparcity": 1}, {"method": "nothing"}], "sead": 1},
                                               "priority": 1.5, "timeout_s": -1, "threads": "all", "labels": {"a": 1}})
        doc = self.problem(answer, 422)
        found = {e["pointer"] for e in doc["errors"]}
        for pointer in ("/model", "/dataset", "/teacher", "/colour", "/recipe/steps/0/sparsity", "/recipe/steps/0/sparcity", "/recipe/steps/1/method", "/recipe/sead",
                        "/priority", "/timeout_s", "/threads", "/labels/a"):
            self.assertIn(pointer, found)
        model = self.model(3)
        self.problem(self.s.post_json("/v1/jobs", {"model": model}), 422, pointer="/recipe")
        self.problem(self.s.post_json("/v1/jobs", {"model": model, "recipe": {}}), 422, pointer="/recipe/steps")
        self.problem(self.s.post_json("/v1/jobs", {"model": model, "recipe": "nothing"}), 422, pointer="/recipe")
        self.problem(self.s.post_json("/v1/jobs", {"model": model, "recipe": 5}), 422)
        self.problem(self.s.post_json("/v1/jobs", {"model": self.dataset(3), "recipe": STEPS}), 422, pointer="/model")
        self.assertEqual(self.s.get("/v1/jobs").json()["data"][:0], [])

    def test_needs(self):
        model = self.model(4)
        self.problem(self.s.post_json("/v1/jobs", {"model": model, "recipe": {"steps": [{"method": "quantize.static"}]}}), 422, "recipe_invalid")
        odd = self.s.request("PUT", "/v1/models", body=tiny.unknown_operator())
        self.assertEqual(odd.status, 201, odd)
        answer = self.s.post_json("/v1/jobs", {"model": odd.json()["id"], "dataset": self.dataset(4), "recipe": {"steps": [{"method": "quantize.static"}]}})
        self.problem(answer, 422, "operator_unsupported")
        self.assertIn("Frobnicate", answer.body.decode())

    def test_idempotency(self):
        model, key = self.model(5), {"Idempotency-Key": "k-1"}
        first = self.s.post_json("/v1/jobs", {"model": model, "recipe": STEPS}, headers=key)
        second = self.s.post_json("/v1/jobs", {"model": model, "recipe": STEPS}, headers=key)
        self.assertEqual((first.status, second.status), (202, 202))
        self.assertEqual(first.json()["id"], second.json()["id"])
        self.assertEqual(second.headers["idempotent-replayed"], "true")
        self.assertNotIn("idempotent-replayed", first.headers)
        self.problem(self.s.post_json("/v1/jobs", {"model": model, "recipe": {"steps": []}}, headers=key), 422)
        self.problem(self.s.post_json("/v1/jobs", {"model": model, "recipe": STEPS}, headers={"Idempotency-Key": "x" * 300}), 400)

    def test_ids(self):
        for wrong in ("x", "job_", "job_01m815ehw04c71nbr6be46pcr5", self.model(6)):
            for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/cancel"), ("GET", "/report"), ("GET", "/artifacts"), ("GET", "/metrics"), ("GET", "/artifacts/model.onnx"), ("GET", "?wait=5")):
                self.problem(self.s.request(method, f"/v1/jobs/{wrong}{path}"), 404, "not_found")

    def test_etag(self):
        job = self.s.wait_job(self.job(model=self.model(7)))
        url = "/v1/jobs/" + job["id"]
        etag = self.s.get(url).headers["etag"]
        answer = self.s.get(url, headers={"If-None-Match": etag})
        self.assertEqual((answer.status, answer.body, answer.headers["etag"]), (304, b"", etag))
        started = time.time()
        self.assertEqual(self.s.get(url + "?wait=25", headers={"If-None-Match": etag}).status, 304)
        self.assertLess(time.time() - started, 15, "an ended job changes no more: no wait")
        self.problem(self.s.get(url + "?wait=x"), 422, parameter="wait")


class Queue(Case):
    """No worker: jobs stay queued."""
    flags = ("--workers", "0")

    def test_cancel_and_wait(self):
        model = self.model(1)
        first, second = self.job(model=model), self.job(model=model)
        job = self.s.get("/v1/jobs/" + second)
        self.assertEqual(job.json()["queue_position"], 2)
        self.problem(self.s.get(f"/v1/jobs/{first}/report"), 409, "wrong_state")
        self.problem(self.s.request("DELETE", "/v1/jobs/" + first), 409, "wrong_state")
        self.problem(self.s.request("DELETE", "/v1/models/" + model), 409, "in_use")
        started = time.time()
        self.assertEqual(self.s.get(f"/v1/jobs/{first}?wait=1").json()["state"], "queued")
        self.assertTrue(0.9 < time.time() - started < 10, time.time() - started)
        started = time.time()
        self.assertEqual(self.s.get(f"/v1/jobs/{second}?wait=1", headers={"If-None-Match": job.headers["etag"]}).status, 304)
        self.assertTrue(0.9 < time.time() - started < 10)
        waiting, ended = [], []
        def wait(headers):
            waiting.append(self.s.get(f"/v1/jobs/{first}?wait=20", headers=headers))
            ended.append(time.time())
        threads = [threading.Thread(target=wait, args=({"If-None-Match": '"x", W/"v1"'} if i % 2 else {},)) for i in range(10)]
        [t.start() for t in threads]
        time.sleep(0.5)
        answer = self.s.request("POST", f"/v1/jobs/{first}/cancel")
        canceled = time.time()
        self.assertEqual((answer.status, answer.json()["state"]), (202, "canceled"))
        [t.join() for t in threads]
        self.assertLess(max(ended) - canceled, 10)
        self.assertEqual({w.json()["state"] for w in waiting}, {"canceled"})
        self.problem(self.s.request("POST", f"/v1/jobs/{first}/cancel"), 409, "wrong_state")
        self.problem(self.s.get(f"/v1/jobs/{first}/report"), 404)
        self.assertEqual(self.s.request("DELETE", "/v1/jobs/" + first).status, 204)

    def test_many_waiting(self):
        """Parked requests hold no thread: the server answers others at once."""
        job = self.job(model=self.model(2))
        sockets = [socket.create_connection((self.s.host, self.s.port)) for _ in range(200)]
        for s in sockets:
            s.sendall(f"GET /v1/jobs/{job}?wait=30 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        time.sleep(0.5)
        started = time.time()
        for _ in range(20):
            self.assertEqual(self.s.get("/v1/models").status, 200)
        self.assertLess(time.time() - started, 15)
        self.s.request("POST", f"/v1/jobs/{job}/cancel")
        for s in sockets:
            s.settimeout(5)
            self.assertIn(b"200 OK", s.recv(65536)[:20])
            s.close()


class Stop(unittest.TestCase):
    def test_stop_while_waiting(self):
        """SIGTERM: parked requests are answered, new jobs are refused, the exit status is 0."""
        with Server("--workers", "0") as s:
            model = s.request("PUT", "/v1/models", body=tiny.classifier(1)).json()["id"]
            job = s.post_json("/v1/jobs", {"model": model, "recipe": STEPS}).json()["id"]
            answers = []
            thread = threading.Thread(target=lambda: answers.append(s.get(f"/v1/jobs/{job}?wait=30")))
            thread.start()
            idle = socket.create_connection((s.host, s.port))
            half = socket.create_connection((s.host, s.port))
            half.sendall(b"PUT /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 300000)
            time.sleep(0.3)
            started = time.time()
            self.assertEqual(s.stop(), 0, s.log_text())
            self.assertLess(time.time() - started, 20)
            thread.join()
            self.assertEqual(answers[0].status, 200)
            idle.close()
            half.close()
            s.start()
            self.assertEqual(s.get("/v1/jobs/" + job).json()["state"], "queued")
            self.assertEqual(s.files_on_disk()["tmp"], 0)


class Keys(Case):
    KEYS = "# keys\nalice alice-key-0123456789\nbob   bob-key-0123456789\n\nplain-key-0123456789\n"

    @classmethod
    def setUpClass(cls):
        cls.s = Server(start=False)
        path = os.path.join(cls.s.dir, "keys")
        with open(path, "w") as f:
            f.write(cls.KEYS)
        cls.s.env["PARED_API_KEY_FILE"] = path
        cls.s.start()

    def auth(self, key):
        return {"Authorization": "Bearer " + key}

    def test_keys(self):
        for path in ("/healthz", "/", "/readyz", "/openapi.yaml"):
            self.assertEqual(self.s.get(path).status, 200)
        for path in ("/v1/models", "/metrics", "/v1/methods"):
            answer = self.s.get(path)
            self.problem(answer, 401, "unauthorized")
            self.assertTrue(answer.headers["www-authenticate"].startswith("Bearer"))
            for wrong in ("Bearer nothing", "Bearer ", "Basic YTpi", "Bearer alice-key-012345678", "Bearer alice-key-01234567899", "alice-key-0123456789"):
                self.problem(self.s.get(path, headers={"Authorization": wrong}), 401)
            self.assertEqual(self.s.get(path, headers=self.auth("alice-key-0123456789")).status, 200)
            self.assertEqual(self.s.get(path, headers=self.auth("plain-key-0123456789")).status, 200)
        self.problem(self.s.request("PUT", "/v1/models", body=b"x" * 1000000), 401)

    def test_owners(self):
        """Another owner's things do not exist."""
        alice, bob = self.auth("alice-key-0123456789"), self.auth("bob-key-0123456789")
        body = tiny.classifier(1)
        hers = self.s.request("PUT", "/v1/models", body=body, headers=alice).json()["id"]
        for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/content"), ("GET", "/layers"), ("GET", "/groups")):
            self.problem(self.s.request(method, f"/v1/models/{hers}{path}", headers=bob), 404)
        self.problem(self.s.post_json("/v1/jobs", {"model": hers, "recipe": STEPS}, headers=bob), 422, pointer="/model")
        his = self.s.request("PUT", "/v1/models", body=body, headers=bob)
        self.assertEqual(his.status, 201)
        self.assertNotEqual(his.json()["id"], hers)
        job = self.s.post_json("/v1/jobs", {"model": hers, "recipe": STEPS}, headers=alice).json()["id"]
        for method, path in (("GET", ""), ("GET", "/report"), ("POST", "/cancel"), ("DELETE", ""), ("GET", "/artifacts")):
            self.problem(self.s.request(method, f"/v1/jobs/{job}{path}", headers=bob), 404)
        self.assertEqual(self.s.get("/v1/jobs", headers=bob).json()["data"], [])


class Start(unittest.TestCase):
    def refused(self, listen, *flags, env=None, says):
        s = Server(*flags, env=env, listen=listen, start=False)
        try:
            with self.assertRaises(RuntimeError) as caught:
                s.start(timeout=10)
            self.assertIn(says, str(caught.exception))
        finally:
            s.close()

    def test_open_address_needs_keys(self):
        self.refused("0.0.0.0:0", says="API keys are needed")
        self.refused("[::]:0", says="API keys are needed")
        self.refused("127.0.0.1:0", env={"PARED_API_KEY_FILE": "/nonexistent/keys"}, says="api_key_file")

    def test_open_address_with_keys(self):
        s = Server(listen="0.0.0.0:0", start=False)
        try:
            path = os.path.join(s.dir, "keys")
            with open(path, "w") as f:
                f.write("a-long-enough-key-1\n")
            s.env["PARED_API_KEY_FILE"] = path
            s.start()
            s.host = "127.0.0.1"
            self.assertEqual(s.get("/healthz").status, 200)
            self.assertEqual(s.get("/v1/models").status, 401)
        finally:
            s.close()

    def test_port_in_use(self):
        with Server() as s:
            self.refused(f"127.0.0.1:{s.port}", says="listen")


if __name__ == "__main__":
    unittest.main(verbosity=2)
