# SPDX-License-Identifier: Apache-2.0
"""Every rule that the API follows, kept once and broken once: methods, conditions, ranges, digests, pages and filters, names, labels,
idempotency, retries, reuse of results, estimates."""
import base64
import hashlib
import json
import os
import re
import sys
import time
import unittest
import urllib.parse

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pared_server
import test_http
import tiny
from pared_server import multipart

STEPS = test_http.STEPS
quote = urllib.parse.quote


def routes():
    """(method, path) of every row of the route table."""
    with open(os.path.join(pared_server.ROOT, "api", "routes.def")) as f:
        return re.findall(r'^ROUTE(?:_UNTIL)?\((\w+), "([^"]+)"', f.read(), re.M)


class Case(test_http.Case):
    def done(self, seed=0, **body):
        job = self.s.wait_job(self.job(model=self.model(seed), **body))
        self.assertEqual(job["state"], "succeeded", job)
        return job

    def ok(self, path, status=200, **kw):
        answer = self.s.get(path, **kw)
        self.assertEqual(answer.status, status, answer)
        return answer


class Methods(Case):
    """HEAD and OPTIONS of every route; methods it does not have; overriding a method is no way in."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        model = cls.s.request("PUT", "/v1/models", body=tiny.classifier()).json()["id"]
        dataset = cls.s.request("PUT", "/v1/datasets", body=tiny.dataset()).json()["id"]
        job = cls.s.wait_job(cls.s.post_json("/v1/jobs", {"model": model, "recipe": STEPS}).json()["id"])["id"]
        artifact = cls.s.get(f"/v1/jobs/{job}/artifacts").json()["data"][0]["id"]
        cls.ids = {"models": model, "datasets": dataset, "jobs": job, "artifacts": artifact}

    def fill(self, path):
        path = path.replace("{file.ext}", "index.html").replace("/artifacts/{name}", "/artifacts/model.onnx")
        path = path.replace("methods/{name}", "methods/graph.optimize").replace("recipes/{name}", "recipes/fp16")
        noun = path.split("/")[2] if path.count("/") > 1 else ""
        return path.replace("{id}", self.ids.get(noun, "none")) if "{id}" in path else path

    def test_every_route(self):
        by_path = {}
        for method, path in routes():
            by_path.setdefault(path, set()).add(method)
        for path, methods in by_path.items():
            url = self.fill(path)
            with self.subTest(path=path):
                allow = methods | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
                options = self.s.request("OPTIONS", url)
                self.assertEqual(options.status, 204, options)
                self.assertEqual(set(options.headers["allow"].split(", ")), allow)
                for method in {"PUT", "POST", "DELETE", "PATCH", "TRACE"} - allow:
                    answer = self.s.request(method, url)
                    self.problem(answer, 405, "method_not_allowed")
                    self.assertEqual(set(answer.headers["allow"].split(", ")), allow)

    def test_head_is_get_without_body(self):
        changing = {"date", "x-request-id", "server-timing", "traceparent", "etag", "content-length"}
        for method, path in routes():
            if method != "GET" or path.endswith("/events") or path.startswith("/v1/uploads"):
                continue
            with self.subTest(path=path):
                url = self.fill(path)
                get, head = self.s.get(url), self.s.request("HEAD", url)
                self.assertEqual((head.status, head.body), (get.status, b""))
                self.assertEqual(set(head.headers), set(get.headers))
                skip = changing if path in ("/v1/stats", "/readyz", "/metrics") else changing - {"etag", "content-length"}
                for name in set(get.headers) - skip:
                    self.assertEqual(head.headers[name], get.headers[name], name)

    def test_overrides_are_refused(self):
        """As openapi.yaml says: a header that would override the method is 400, whatever it says and whichever the method."""
        url = "/v1/models/" + self.ids["models"]
        for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "x-http-method-override"):
            for value in ("DELETE", "GET", "PATCH", "delete", "nonsense", ""):
                for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"):
                    with self.subTest(name=name, value=value, method=method):
                        answer = self.s.request(method, url, headers={name: value})
                        self.assertEqual(answer.status, 400, answer)
                        if method != "HEAD":
                            self.problem(answer, 400, "bad_request", says="override")
        tus = {"Tus-Resumable": "1.0.0"}
        upload = self.s.request("POST", "/v1/uploads", headers={**tus, "Upload-Length": "5"}).headers["location"]
        self.problem(self.s.request("POST", upload, headers={**tus, "X-HTTP-Method-Override": "DELETE"}), 400, says="override")
        self.ok(upload)
        self.problem(self.s.get(url + "?_method=DELETE"), 422, parameter="_method")
        self.problem(self.s.get(url + "?method=DELETE"), 422, parameter="method")
        self.ok(url)

    def test_cache_control(self):
        expected = {"/v1/models": "private, no-cache", "/v1/jobs/{id}": "private, no-cache", "/v1/stats": "no-store", "/healthz": "no-store",
                    "/readyz": "no-store", "/metrics": "no-store", "/v1/models/{id}/content": "private, max-age=3600, immutable",
                    "/v1/jobs/{id}/artifacts/{name}": "private, max-age=3600, immutable",
                    "/v1/artifacts/{id}/content": "private, max-age=3600, immutable", "/version": "private, no-cache", "/": "no-cache"}
        for path, value in expected.items():
            self.assertEqual(self.ok(self.fill(path)).headers["cache-control"], value, path)
        self.assertEqual(self.s.get("/v1/nothing").headers["cache-control"], "no-store")

    def test_version(self):
        answer = self.ok("/version").json()
        self.assertEqual((answer["name"], answer["api"]), ("pared", ["v1"]))
        self.assertEqual(answer["version"], self.ok("/healthz").json()["version"])


class Conditions(Case):
    """ETag of every resource; If-None-Match, If-Match."""

    def test_every_get(self):
        job = self.done(1)
        artifact = self.ok(f"/v1/jobs/{job['id']}/artifacts").json()["data"][0]
        model, dataset = job["model"], self.dataset(1)
        strong = [f"/v1/models/{model}", f"/v1/models/{model}/layers", f"/v1/models/{model}/graph", f"/v1/models/{model}/groups",
                  f"/v1/models/{model}/content", f"/v1/datasets/{dataset}", f"/v1/datasets/{dataset}/content", "/v1/methods",
                  "/v1/methods/graph.optimize", "/v1/recipes/fp16", f"/v1/jobs/{job['id']}", f"/v1/jobs/{job['id']}/report",
                  f"/v1/jobs/{job['id']}/artifacts/model.onnx", f"/v1/artifacts/{artifact['id']}", f"/v1/artifacts/{artifact['id']}/content",
                  "/version", "/", "/openapi.yaml"]
        weak = ["/v1/models", "/v1/datasets", "/v1/recipes", "/v1/jobs", f"/v1/jobs/{job['id']}/artifacts", f"/v1/jobs/{job['id']}/metrics"]
        for url in strong + weak:
            with self.subTest(url=url):
                etag = self.ok(url).headers["etag"]
                self.assertRegex(etag, r'^"[^"]+"$' if url in strong else r'^W/"[^"]+"$')
                for tags in (etag, f'"x", {etag}', "*", "W/" + etag.removeprefix("W/")):
                    answer = self.ok(url, 304, headers={"If-None-Match": tags})
                    self.assertEqual((answer.body, answer.headers["etag"]), (b"", etag))
                    self.assertEqual(answer.headers["cache-control"], self.ok(url).headers["cache-control"])
                for tags in ('"x"', "x", '"', etag.removeprefix("W/").strip('"')):
                    self.ok(url, headers={"If-None-Match": tags})

    def test_tag_follows_the_content(self):
        before = self.ok("/v1/models").headers["etag"]
        self.model(77)
        self.assertNotEqual(self.ok("/v1/models").headers["etag"], before)
        self.ok("/v1/models", headers={"If-None-Match": before})

    def test_delete_if_match(self):
        recipe = {"name": "mine", "recipe": {"steps": []}}
        self.assertEqual(self.s.post_json("/v1/recipes", recipe).status, 201)
        job = self.done(2)
        urls = ["/v1/jobs/" + job["id"], "/v1/models/" + job["model"], "/v1/datasets/" + self.dataset(2), "/v1/recipes/mine"]
        for url in urls:
            with self.subTest(url=url):
                etag = self.ok(url).headers["etag"]
                for tags in ('"other"', "W/" + etag, "x"):
                    self.problem(self.s.request("DELETE", url, headers={"If-Match": tags}), 412, "precondition_failed")
                self.ok(url)
                self.assertEqual(self.s.request("DELETE", url, headers={"If-Match": f'"other", {etag}'}).status, 204)
                self.problem(self.s.get(url), 404, "not_found")

    def test_states_have_weak_tags(self):
        with pared_server.Server("--workers", "0") as s:
            model = s.request("PUT", "/v1/models", body=tiny.classifier()).json()["id"]
            job = s.post_json("/v1/jobs", {"model": model, "recipe": STEPS}).json()["id"]
            answer = s.get("/v1/jobs/" + job)
            self.assertRegex(answer.headers["etag"], r'^W/"v\d+"$')
            self.assertEqual(answer.json()["queue_position"], 1)
            self.assertNotIn("eta_s", answer.json(), "nothing has run here")
            self.problem(s.request("DELETE", "/v1/jobs/" + job, headers={"If-Match": answer.headers["etag"]}), 412)
            self.problem(s.request("DELETE", "/v1/models/" + model, headers={"If-Match": s.get("/v1/models/" + model).headers["etag"]}), 409, "in_use")
            self.problem(s.request("POST", f"/v1/jobs/{job}/retry", body=b""), 409, "wrong_state")
            canceled = s.request("POST", f"/v1/jobs/{job}/cancel", body=b"")
            self.assertEqual((canceled.status, canceled.headers["retry-after"]), (202, "1"))
            self.assertRegex(s.get("/v1/jobs/" + job).headers["etag"], r'^"v\d+"$')


class Downloads(Case):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.bytes = tiny.classifier(3)
        cls.url = "/v1/models/" + cls.s.request("PUT", "/v1/models?name=m.onnx", body=cls.bytes).json()["id"] + "/content"

    def test_ranges(self):
        """RFC 9110 14: one range is answered by 206; what is no range, or several, by all; what lies beyond by 416."""
        n = len(self.bytes)
        huge = "9" * 30
        parts = {"0-0": (0, 1), "0-9": (0, 10), "10-": (10, n - 10), "-10": (n - 10, 10), f"0-{huge}": (0, n), f"-{huge}": (0, n), f"{n - 1}-": (n - 1, 1),
                 " 5-9": (5, 5)}
        for value, (first, length) in parts.items():
            with self.subTest(value=value):
                answer = self.ok(self.url, 206, headers={"Range": "bytes=" + value})
                self.assertEqual(answer.body, self.bytes[first:first + length])
                self.assertEqual(answer.headers["content-range"], f"bytes {first}-{first + length - 1}/{n}")
                self.assertEqual(answer.headers["content-length"], str(length))
        for value in (f"{n}-", f"{huge}-", f"{huge}-{huge}", "-0", "18446744073709551615-"):
            with self.subTest(value=value):
                answer = self.s.get(self.url, headers={"Range": "bytes=" + value})
                self.problem(answer, 416, "range_not_satisfiable")
                self.assertEqual(answer.headers["content-range"], f"bytes */{n}")
        for value in ("bytes=5-4", "bytes=0-1,3-4", "bytes=a-b", "bytes=", "bytes=-", "bytes", "items=0-4", "bytes=0-4x", "bytes=--5", "bytes=+1-5", "bytes=0x1-5"):
            with self.subTest(value=value):
                self.assertEqual(self.ok(self.url, headers={"Range": value}).body, self.bytes)

    def test_head_has_no_ranges(self):
        answer = self.s.request("HEAD", self.url, headers={"Range": "bytes=0-9"})
        self.assertEqual((answer.status, answer.headers["content-length"]), (200, str(len(self.bytes))))

    def test_if_range(self):
        etag = self.ok(self.url).headers["etag"]
        self.assertEqual(etag.strip('"'), hashlib.sha256(self.bytes).hexdigest())
        self.ok(self.url, 206, headers={"Range": "bytes=0-9", "If-Range": etag})
        for other in ('"x"', "W/" + etag, "Mon, 23 Nov 2026 00:00:00 GMT", "", etag.strip('"')):
            self.assertEqual(self.ok(self.url, headers={"Range": "bytes=0-9", "If-Range": other}).body, self.bytes)

    def test_conditions_come_first(self):
        etag = self.ok(self.url).headers["etag"]
        self.ok(self.url, 304, headers={"Range": "bytes=0-9", "If-None-Match": etag})
        self.ok(self.url, 206, headers={"Range": "bytes=0-9", "If-Match": etag, "If-None-Match": '"x"'})
        self.problem(self.s.get(self.url, headers={"If-Match": '"x"', "If-None-Match": etag}), 412)

    def test_digest(self):
        whole = "sha-256=:" + base64.b64encode(hashlib.sha256(self.bytes).digest()).decode() + ":"
        self.assertEqual(self.ok(self.url).headers["repr-digest"], whole)
        self.assertEqual(self.ok(self.url, 206, headers={"Range": "bytes=0-9"}).headers["repr-digest"], whole)
        bad = "sha-256=:" + base64.b64encode(bytes(32)).decode() + ":"
        self.problem(self.s.request("PUT", "/v1/models", body=tiny.classifier(90), headers={"Repr-Digest": bad}), 422)

    def test_artifact_by_id(self):
        job = self.done(4)
        for row in self.ok(f"/v1/jobs/{job['id']}/artifacts").json()["data"]:
            self.assertEqual(self.ok("/v1/artifacts/" + row["id"]).json(), row)
            by_id, by_name = self.ok(f"/v1/artifacts/{row['id']}/content"), self.ok(row["href"])
            self.assertEqual(by_id.body, by_name.body)
            self.assertEqual(by_id.headers["content-disposition"], by_name.headers["content-disposition"])
            self.assertEqual(hashlib.sha256(by_id.body).hexdigest(), row["sha256"])
        for wrong in ("x", "art_", "art_01m815f1gk4zqfhrf60qn4k0as", job["id"], "art_01m815f1gk4zqfhrf60qn4k0a%2e"):
            self.problem(self.s.get("/v1/artifacts/" + wrong), 404)
            self.problem(self.s.get(f"/v1/artifacts/{wrong}/content"), 404)


class Names(Case):
    GOOD = ["plain.onnx", "modèle été.onnx", "模型.onnx", "модель.onnx", "נסיון.onnx", "😀🏳️‍🌈.onnx", "a b+c&d=e%f#g?.onnx", "'quoted\".onnx", "<script>alert(1)<script>",
            "...", "x" * 200, "é" * 100, "CON", "-rf", "e\u0301", "a;b"]
    BAD = ["", ".", "..", "../m.onnx", "a/b", "/etc/passwd", "a\\b", "..\\b", "a\x00b", "a\nb", "a\r\nX-Evil: 1", "\x1b[31m", "a\x7fb", "x" * 201, "x" * 300, "é" * 101,
           "ok\u202egnp.onnx", "\u200fm.onnx", "a\u2066b", "a\u2028b", "\ufeffm.onnx", "a\u0085b"]

    def test_round_trips(self):
        for i, name in enumerate(self.GOOD):
            with self.subTest(name=name):
                body = tiny.classifier(100 + i)
                answer = self.s.request("PUT", "/v1/models?name=" + quote(name, safe=""), body=body)
                self.assertEqual(answer.status, 201, answer)
                url = "/v1/models/" + answer.json()["id"]
                self.assertEqual(self.ok(url).json()["name"], name)
                rows = self.ok("/v1/models?name=" + quote(name, safe="")).json()["data"]
                self.assertEqual([r["name"] for r in rows], [name])
                disposition = self.ok(url + "/content").headers["content-disposition"]
                plain, star = re.fullmatch(r"attachment; filename=\"([ -!#-\[\]-~]*)\"; filename\*=UTF-8''([A-Za-z0-9%._-]*)", disposition).groups()
                self.assertEqual(urllib.parse.unquote(star, errors="strict"), name)
                self.assertNotRegex(plain, r'["\\/%]')
                self.assertEqual(self.ok(url + "/content?file=" + quote(name, safe="")).body, body)

    def test_refused(self):
        for name in self.BAD:
            with self.subTest(name=name):
                answer = self.s.request("PUT", "/v1/models?name=" + quote(name, safe=""), body=tiny.classifier(99))
                self.problem(answer, 400 if "\0" in name else 422)
                if "\0" not in name:
                    self.problem(self.s.get("/v1/models?name=" + quote(name, safe="")), 422, parameter="name")
                    self.problem(self.s.post_json("/v1/jobs", {"model": "x", "recipe": STEPS, "name": name}), 422, pointer="/name")
        for raw in ("%ff", "%c3%28", "%ed%a0%80", "%zz", "%"):
            self.assertIn(self.s.request("PUT", "/v1/models?name=" + raw, body=tiny.classifier(99)).status, (400, 422), raw)

    def test_names_of_parts(self):
        for name in ("../w.bin", "a/b", "..", "x" * 300, "a\u202eb"):
            kind, body = multipart([("model", "m.onnx", tiny.classifier(98)), ("part", name, b"1234")])
            answer = self.s.request("POST", "/v1/models", body=body, headers={"Content-Type": kind})
            if answer.status >= 400:
                self.problem(answer, 400 if answer.status == 400 else 422)
                continue
            for file in answer.json()["files"]: # what a browser puts before the name is cut off
                self.assertNotRegex(file["name"], r"[/\\\u202e]|^\.\.$")
                self.assertLessEqual(len(file["name"]), 200)

    def test_paths(self):
        for path in ("/v1/jobs/..%2fmodels", "/v1/models/%2e%2e", "/v1/../v1/models", "/v1/models/%00", "/..%2f..%2fetc/passwd", "/v1/recipes/..%5cx", "/v1//models",
                     "/v1/models/" + "x" * 300, "/index.html/..", "/%2e%2e/%2e%2e/etc/passwd", "/.git/config", "/v1/models/\u202e"):
            answer = self.s.get(quote(path, safe="/%"))
            self.assertIn(answer.status, (400, 404), path)
            self.assertNotIn(b"root:", answer.body)

    def test_html_stays_text(self):
        evil = "<img src=x onerror=alert(1)>"
        answer = self.s.post_json("/v1/jobs", {"model": "x", "recipe": STEPS, "labels": {evil: 1}})
        self.problem(answer, 422)
        self.assertEqual(answer.headers["x-content-type-options"], "nosniff")


class Labels(Case):
    def test_limits(self):
        model = self.model(20)

        def post(labels):
            return self.s.post_json("/v1/jobs", {"model": model, "recipe": STEPS, "labels": labels})
        good = [{}, {"k" * 63: "v" * 1000}, {f"k{i}": "v" for i in range(64)}, {"é😀": ""}, {"a b": "x,y=z\\ \n\t😀"}]
        for labels in good:
            answer = post(labels)
            self.assertEqual(answer.status, 202, answer)
            self.assertEqual(self.ok("/v1/jobs/" + answer.json()["id"]).json()["labels"], labels)
        bad = [([], "/labels"), ("x", "/labels"), ({f"k{i}": "v" for i in range(65)}, "/labels"), ({"k" * 64: "v"}, "/labels/" + "k" * 64), ({"": "v"}, "/labels/"),
               ({"a=b": "v"}, "/labels/a=b"), ({"a,b": "v"}, "/labels/a,b"), ({"a\n": "v"}, "/labels/a\n"), ({"k": 1}, "/labels/k"), ({"k": None}, "/labels/k"),
               ({"k": "v" * 1001}, "/labels/k"), ({"k": {}}, "/labels/k"), ({"a/b~c": 1}, "/labels/a~1b~0c")]
        for labels, pointer in bad:
            with self.subTest(labels=str(labels)[:60]):
                self.problem(post(labels), 422, "invalid", pointer=pointer)
        self.problem(self.s.post_json("/v1/jobs", '{"model":"%s","recipe":{"steps":[]},"labels":{"a":"x\\u0000y"}}' % model), 400, "bad_json")
        self.problem(self.s.post_json("/v1/jobs", '{"model":"%s","recipe":{"steps":[]},"labels":{"a":"\\ud800"}}' % model), 400, "bad_json")


class Lists(Case):
    """Filters and cursors, over jobs that never run."""
    flags = ("--workers", "0")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.models = [cls.s.request("PUT", "/v1/models?name=m.onnx", body=tiny.classifier(i)).json()["id"] for i in range(2)]
        cls.rows = []
        for i in range(40):
            body = {"model": cls.models[i % 2], "recipe": STEPS, "priority": i % 3, "labels": {"team": "ab"[i % 2], "n": str(i % 5), "odd": "a,b=c\\"}}
            if i % 4 == 0:
                body["name"] = "nightly"
            job = cls.s.post_json("/v1/jobs", body).json()
            if i % 5 == 0:
                cls.s.request("POST", f"/v1/jobs/{job['id']}/cancel", body=b"")
            cls.rows.append({**job, "state": "canceled" if i % 5 == 0 else "queued"})

    def pages(self, query, limit):
        """All ids of a list, page by page."""
        ids, cursor = [], ""
        while True:
            page = self.ok(f"/v1/jobs?limit={limit}{query}{cursor}").json()
            self.assertLessEqual(len(page["data"]), limit)
            ids += [row["id"] for row in page["data"]]
            if not page["next_cursor"]:
                return ids
            self.assertEqual(len(page["data"]), limit, "a page before the last is full")
            cursor = "&cursor=" + page["next_cursor"]

    def test_filters(self):
        half = self.rows[20]["created_at"]
        cases = [
            ("", lambda r: True),
            ("&state=canceled", lambda r: r["state"] == "canceled"),
            ("&state=queued,canceled", lambda r: True),
            ("&state=running,canceled,failed", lambda r: r["state"] == "canceled"),
            ("&state=succeeded", lambda r: False),
            ("&label=team%3Da", lambda r: r["labels"]["team"] == "a"),
            ("&label=team=b,n=3", lambda r: (r["labels"]["team"], r["labels"]["n"]) == ("b", "3")),
            ("&label=" + quote("odd=a\\,b=c\\\\"), lambda r: True),
            ("&label=team=nobody", lambda r: False),
            ("&model=" + self.models[1], lambda r: r["model"] == self.models[1]),
            ("&model=mdl_01m815ehw04c71nbr6be46pcr5", lambda r: False),
            ("&name=nightly", lambda r: r.get("name") == "nightly"),
            ("&priority=2", lambda r: r["priority"] == 2),
            ("&priority=-1", lambda r: False),
            ("&created_from=" + half, lambda r: r["created_at"] >= half),
            ("&created_before=" + half, lambda r: r["created_at"] < half),
            ("&created_from=2099-01-01", lambda r: False),
            ("&created_before=2099-01-01T00:00:00%2B02:00", lambda r: True),
            ("&state=queued&label=team=a&priority=1&created_from=" + half, lambda r: r["state"] == "queued" and r["labels"]["team"] == "a" and r["priority"] == 1 and r["created_at"] >= half),
            ("&name=nightly&state=canceled&model=" + self.models[0], lambda r: r.get("name") == "nightly" and r["state"] == "canceled" and r["model"] == self.models[0]),
        ]
        for query, takes in cases:
            expected = [r["id"] for r in reversed(self.rows) if takes(r)]
            for limit in (1, 7, 200):
                with self.subTest(query=query, limit=limit):
                    self.assertEqual(self.pages(query, limit), expected)

    def test_cursor_stays_right_while_rows_come_and_go(self):
        first = self.ok("/v1/jobs?limit=5&label=team=a").json()
        new = self.s.post_json("/v1/jobs", {"model": self.models[0], "recipe": STEPS, "labels": {"team": "a"}}).json()["id"]
        second = self.ok(f"/v1/jobs?limit=5&label=team=a&cursor={first['next_cursor']}").json()
        expected = [r["id"] for r in reversed(self.rows) if r["labels"]["team"] == "a"]
        self.assertEqual([r["id"] for r in first["data"] + second["data"]], expected[:10])
        self.s.request("POST", f"/v1/jobs/{new}/cancel", body=b"")
        self.assertEqual(self.s.request("DELETE", f"/v1/jobs/{new}").status, 204)
        again = self.ok(f"/v1/jobs?limit=5&label=team=a&cursor={new}").json()
        self.assertEqual([r["id"] for r in again["data"]], expected[:5], "a cursor outlives its row")

    def test_wrong_words(self):
        wrong = {"state": ["", "done", "queued,", ",queued", "queued,,running", "Queued", "q" * 100], "label": ["", "team", "=a", "a=b,", "a=1,b=2,c=3,d=4,e=5", "a\n=b"],
                 "model": ["", "x", "dst_01m815f09k7kt2rf9850qgfvqp"], "retry_of": ["x"], "priority": ["", "x", "1001", "1.5"],
                 "created_from": ["", "yesterday", "2026-13-01", "2026-11-23T25:00:00Z", "1700000000"], "created_before": ["x"], "cursor": ["", "x", self.models[0]],
                 "limit": ["0", "201"], "offset": ["5"], "sort": ["name"]}
        for name, values in wrong.items():
            for value in values:
                with self.subTest(name=name, value=value):
                    self.problem(self.s.get(f"/v1/jobs?{name}={quote(value)}"), 422, "invalid", parameter=name)

    def test_resources(self):
        rows = self.ok("/v1/models?name=m.onnx&limit=1").json()
        self.assertEqual([r["id"] for r in rows["data"]], [self.models[1]])
        rest = self.ok(f"/v1/models?name=m.onnx&limit=1&cursor={rows['next_cursor']}").json()
        self.assertEqual(([r["id"] for r in rest["data"]], rest["next_cursor"]), ([self.models[0]], None))
        self.assertEqual(self.ok("/v1/models?name=M.onnx").json()["data"], [])
        self.assertEqual(self.ok("/v1/models?created_before=2020-01-01").json()["data"], [])
        self.assertEqual(len(self.ok("/v1/models?created_from=2020-01-01").json()["data"]), 2)
        dataset = self.s.request("PUT", "/v1/datasets?name=d.npz", body=tiny.dataset()).json()["id"]
        self.assertEqual([r["id"] for r in self.ok("/v1/datasets?name=d.npz&created_from=2020-01-01&created_before=2099-01-01").json()["data"]], [dataset])
        page = self.ok("/v1/recipes?limit=1")
        self.assertIn("next_cursor", page.json())
        self.problem(self.s.get("/v1/recipes?name=x"), 422, parameter="name")


class Again(Case):
    """Idempotency-Key, retry, reuse."""

    def test_key_with_another_request(self):
        job = self.done(30)
        url, key = f"/v1/jobs/{job['id']}/retry", {"Idempotency-Key": "again-1"}
        first, second = (self.s.request("POST", url, body=b"", headers=key) for _ in range(2))
        self.assertEqual((first.status, second.status), (202, 202), second)
        self.assertEqual(first.json()["id"], second.json()["id"])
        self.assertEqual(second.headers["idempotent-replayed"], "true")
        self.problem(self.s.post_json("/v1/jobs", {"model": job["model"], "recipe": STEPS}, headers=key), 422, says="Idempotency-Key")
        other = self.done(31)
        self.problem(self.s.request("POST", f"/v1/jobs/{other['id']}/retry", body=b"", headers=key), 422)
        for bad in ("", "x" * 256, "a b", "a\tb", "é", "\x80"):
            self.problem(self.s.request("POST", url, body=b"", headers={"Idempotency-Key": bad}), 400, "bad_request", says="Idempotency-Key")
        for good in ("x" * 255, "!~", '"8e03978e-40d5-43dd-bc93-6894a57f9324"'):
            self.assertEqual(self.s.request("POST", url, body=b"", headers={"Idempotency-Key": good}).status, 202)

    def test_retry(self):
        dataset = self.dataset(3)
        labels = {"team": "vision"}
        old = self.done(32, dataset=dataset, name="nightly", labels=labels, priority=3, threads=1, timeout_s=60,
                        recipe={"steps": [{"method": "prune.weights", "sparsity": 0.25}], "seed": 5})
        answer = self.s.request("POST", old["links"]["retry"], body=b"")
        self.assertEqual((answer.status, answer.headers["retry-after"]), (202, "2"), answer)
        new = self.s.wait_job(answer.json()["id"])
        self.assertEqual(answer.headers["location"], "/v1/jobs/" + new["id"])
        self.assertNotEqual(new["id"], old["id"])
        self.assertEqual((new["retry_of"], new["links"]["parent"]), (old["id"], "/v1/jobs/" + old["id"]))
        for key in ("model", "dataset", "recipe", "labels", "name", "priority", "threads", "timeout_s"):
            self.assertEqual(new[key], old[key], key)
        digest = [self.ok(f"/v1/jobs/{j['id']}/artifacts/model.onnx").headers["repr-digest"] for j in (old, new)]
        self.assertEqual(*digest)
        self.assertEqual([r["id"] for r in self.ok("/v1/jobs?retry_of=" + old["id"]).json()["data"]], [new["id"]])
        self.assertEqual(len(self.ok("/v1/jobs?label=team=vision").json()["data"]), 2)
        self.assertEqual(self.s.request("DELETE", "/v1/datasets/" + dataset).status, 204)
        self.problem(self.s.request("POST", old["links"]["retry"], body=b""), 422, "reference_not_found", says="dataset")
        self.problem(self.s.request("POST", "/v1/jobs/job_01m815gz3k6f0w5v1q2n9r8t7x/retry", body=b""), 404)

    def test_reuse(self):
        recipe = {"steps": [{"method": "prune.weights", "sparsity": 0.5}], "seed": 1}
        old = self.done(33, recipe=recipe)

        def post(**body):
            return self.s.post_json("/v1/jobs", {"model": old["model"], "recipe": recipe, **body})
        answer = post(reuse=True)
        self.assertEqual((answer.status, answer.headers["location"]), (200, "/v1/jobs/" + old["id"]), answer)
        self.assertEqual({**answer.json(), "reused": None}, {**old, "reused": None})
        self.assertIs(answer.json()["reused"], True)
        self.assertNotIn("retry-after", answer.headers)
        same = {"steps": [{"sparsity": 0.5, "method": "prune.weights", "scope": "auto"}], "seed": 1, "targets": {}}
        self.assertEqual(post(reuse=True, recipe=same, labels={"other": "1"}, priority=5).status, 200, "defaults and order of keys do not count")
        for different in ({"reuse": False}, {}, {"reuse": True, "recipe": {**recipe, "seed": 2}}, {"reuse": True, "model": self.model(34)},
                          {"reuse": True, "dataset": self.dataset(4)}):
            answer = post(**different)
            self.assertEqual(answer.status, 202, different)
            self.assertNotEqual(answer.json()["id"], old["id"])
            self.assertNotIn("reused", answer.json())
        for wrong in ("yes", 1, None):
            self.problem(post(reuse=wrong), 422, pointer="/reuse")

    def test_estimates(self):
        """Three jobs of a kind tell how long the fourth takes."""
        model = self.s.request("PUT", "/v1/models", body=tiny.slow_model(depth=60, width=256)).json()["id"]
        recipe = {"steps": [{"method": "quantize.fp16"}]}
        for _ in range(3):
            self.assertEqual(self.s.wait_job(self.job(model=model, recipe=recipe))["state"], "succeeded")
        jobs = [self.job(model=model, recipe=recipe) for _ in range(3)]
        seen = [self.ok("/v1/jobs/" + j).json() for j in reversed(jobs)]
        waiting = [j for j in seen if j["state"] == "queued"]
        self.assertTrue(waiting, "three jobs are not done at once")
        for job in waiting:
            self.assertGreaterEqual(job["eta_s"], job["wait_s"])
            self.assertLess(job["eta_s"], 300)
        done = self.s.wait_job(jobs[-1])
        self.assertNotIn("eta_s", done)
        self.assertNotIn("wait_s", done)


class Uploads(Case):
    """The calls of resumable uploads once each; test_uploads.py has their rules."""

    def test_overlap(self):
        """A patch that begins anywhere but at the end is refused and changes nothing."""
        body = tiny.classifier(61)
        tus = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
        url = self.s.request("POST", "/v1/uploads", headers={"Tus-Resumable": "1.0.0", "Upload-Length": str(len(body))}).headers["location"]

        def patch(offset, data):
            return self.s.request("PATCH", url, body=data, headers={**tus, "Upload-Offset": str(offset)})
        self.assertEqual(patch(0, body[:100]).headers["upload-offset"], "100")
        for offset, length in ((0, 100), (0, 200), (50, 100), (99, 1), (99, 2), (101, 10)):
            with self.subTest(offset=offset, length=length):
                self.problem(patch(offset, b"\xff" * length), 409, "wrong_state", says="at 100 of")
        self.assertEqual(patch(100, body[100:]).status, 204)
        model = self.s.post_json("/v1/models", {"upload": url.rsplit("/", 1)[1]}).json()
        self.assertEqual(model["sha256"], hashlib.sha256(body).hexdigest())

    def test_life(self):
        tus = {"Tus-Resumable": "1.0.0"}
        body = tiny.classifier(60)
        made = self.s.request("POST", "/v1/uploads", body=b"", headers={**tus, "Upload-Length": str(len(body))})
        self.assertEqual(made.status, 201, made)
        url = urllib.parse.urlsplit(made.headers["location"]).path
        self.ok(url, headers=tus)
        self.ok("/v1/uploads?limit=5")
        part = {**tus, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        self.assertEqual(self.s.request("PATCH", url, body=body, headers=part).status, 204)
        other = self.s.request("POST", "/v1/uploads", body=b"", headers={**tus, "Upload-Length": "5"})
        self.assertEqual(self.s.request("DELETE", urllib.parse.urlsplit(other.headers["location"]).path, headers=tus).status, 204)
        page = self.ok("/v1/uploads?limit=1").json()
        self.ok("/v1/uploads?limit=1&cursor=" + page["data"][0]["id"])


class Words(Case):
    """Query words of calls whose own tests send them elsewhere."""

    def test_rest(self):
        job = self.done(70)
        self.ok(f"/v1/jobs/{job['id']}?wait=1")
        self.ok(f"/v1/jobs/{job['id']}?wait=1&since=1")
        self.ok(f"/v1/jobs/{job['id']}/metrics?limit=5")
        self.ok(f"/v1/jobs/{job['id']}/metrics?cursor=0")
        dataset = self.dataset(7)
        name = self.ok("/v1/datasets/" + dataset).json()["files"][0]["name"]
        self.ok(f"/v1/datasets/{dataset}/content?file=" + quote(name))
        self.ok("/v1/datasets?limit=1&cursor=" + dataset)
        self.ok("/v1/recipes?limit=5&cursor=rcp_01m815gz3k6f0w5v1q2n9r8t7x")
        self.problem(self.s.get(f"/v1/datasets/{dataset}/content?file=nothing"), 404)


if __name__ == "__main__":
    unittest.main(verbosity=2)
