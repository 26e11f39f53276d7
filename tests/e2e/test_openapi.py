# SPDX-License-Identifier: Apache-2.0
"""openapi.yaml against the route table, both ways, and against one good answer of every call. The traffic of all other tests is held
against it too: see contract.py."""
import json
import os
import re
import sys
import unittest
import urllib.parse

import jsonschema

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import contract
import pared_server
import tiny
from contract import document, operations, resolve, validate


def route_table():
    """{(method, path): (body, answer, auth, query, summary, deprecated)} of api/routes.def"""
    with open(os.path.join(pared_server.ROOT, "api", "routes.def")) as f:
        rows = re.findall(r'^ROUTE(_UNTIL)?\((\w+), "([^"]+)", \w+, (\w+), (\w+), (\w+), \w+, "([^"]*)",\s+"([^"]*)"(?:, "([^"]*)", "[^"]*", "[^"]*")?\)$',
                          f.read(), re.M)
    # a segment's name in the contract has no dot in it
    return {(m, p.replace("{file.ext}", "{file}")): (*rest, deprecated) for _, m, p, *rest, deprecated in rows}


def examples(media):
    return [media["example"]] if "example" in media else [resolve(e)["value"] for e in media.get("examples", {}).values()]


class Contract(unittest.TestCase):
    def test_same_calls(self):
        self.assertEqual(set(operations()), set(route_table()))

    def test_same_words(self):
        for call, (body, answer, auth, query, summary, deprecated) in route_table().items():
            with self.subTest(call=call):
                operation = operations()[call]
                self.assertEqual(operation["summary"], summary)
                self.assertEqual(bool(operation.get("deprecated")), bool(deprecated))
                self.assertEqual({q["name"] for q in operation["parameters"] if q["in"] == "query"}, set(query.split()))
                self.assertEqual({q["name"] for q in operation["parameters"] if q["in"] == "path"}, set(re.findall(r"{([^}]+)}", call[1])))
                self.assertEqual("requestBody" in operation, body != "NONE")
                self.assertEqual(operation.get("security", document()["security"]) == [{}], auth == "OPEN")

    def test_ids_and_references(self):
        ids = [o["operationId"] for o in operations().values()]
        self.assertEqual(len(ids), len(set(ids)))
        text = json.dumps(document())
        for ref in set(re.findall(r'"\$ref": "([^"]+)"', text)):
            self.assertIsNotNone(resolve({"$ref": ref}), ref)

    def test_schemas_and_examples(self):
        for name, schema in document()["components"]["schemas"].items():
            jsonschema.Draft202012Validator.check_schema(schema)
            if "example" in schema:
                validate(schema["example"], schema)
        bodies = [(call, media) for call, o in operations().items() for media in o.get("requestBody", {}).get("content", {}).items()]
        answers = [((*call, status), media) for call, o in operations().items() for status, r in o["responses"].items()
                   for media in resolve(r).get("content", {}).items()]
        for place, (kind, media) in bodies + answers:
            with self.subTest(place=place, kind=kind):
                jsonschema.Draft202012Validator.check_schema(media.get("schema", {}))
                if kind.endswith("json"):
                    self.assertTrue(examples(media), "no example")
                for example in examples(media):
                    validate(example, media["schema"])

    def test_parameters(self):
        """What a client may send has a type; what can be said by an example is."""
        for call, operation in operations().items():
            for parameter in operation["parameters"]:
                with self.subTest(call=call, parameter=parameter["name"]):
                    jsonschema.Draft202012Validator.check_schema(parameter["schema"])
                    for example in examples(parameter):
                        validate(example, parameter["schema"])

    def test_error_codes(self):
        """Every status the error table knows has a response here, but those only a job's error has."""
        with open(os.path.join(pared_server.ROOT, "core", "base", "err.h")) as f:
            statuses = {int(s) for s in re.findall(r"X\(\w+, (\d+), ", f.read())}
        described = {int(s) for o in operations().values() for s in o["responses"]}
        self.assertLessEqual(statuses - described, {405, 500, 504})


class EveryCall(unittest.TestCase):
    """Each call of the contract, with each of its query words, answered well once."""

    def ask(self, method, path, status=200, body=None, **headers):
        answer = self.s.request(method, path, body=body, headers={k.replace("_", "-"): v for k, v in headers.items()})
        self.assertEqual(answer.status, status, f"{method} {path}: {answer}")
        return answer

    def json(self, path, value, status):
        return self.ask("POST", path, status, json.dumps(value), Content_Type="application/json").json()

    def uploads(self):
        body, tus = tiny.classifier(60), {"Tus_Resumable": "1.0.0"}
        first, other = (urllib.parse.urlsplit(self.ask("POST", "/v1/uploads", 201, Upload_Length=str(len(body)), **tus).headers["location"]).path
                        for _ in range(2))
        self.ask("GET", first)
        self.ask("HEAD", first, **tus)
        self.ask("PATCH", first, 204, body, Upload_Offset="0", Content_Type="application/offset+octet-stream", **tus)
        self.ask("DELETE", other, 204, **tus)
        self.ask("GET", "/v1/uploads?limit=1&cursor=" + other.rsplit("/", 1)[1])
        self.json("/v1/models", {"upload": first.rsplit("/", 1)[1]}, 201)

    def resources(self):
        """A model and a dataset, which stay."""
        made = {}
        for noun, body, other in (("models", tiny.classifier(), tiny.classifier(1)), ("datasets", tiny.dataset(), tiny.dataset(seed=1))):
            one = self.ask("POST", f"/v1/{noun}?name=a", 201, other).json()["id"]
            made[noun] = self.ask("PUT", f"/v1/{noun}?name=b", 201, body).json()["id"]
            self.ask("GET", f"/v1/{noun}?name=a&created_from=2020-01-01&created_before=2099-01-01&limit=1&cursor={made[noun]}")
            self.ask("GET", f"/v1/{noun}/{one}")
            self.ask("GET", f"/v1/{noun}/{one}/content?file=" + self.ask("GET", f"/v1/{noun}/{one}").json()["files"][0]["name"])
            self.ask("DELETE", f"/v1/{noun}/{one}", 204)
        for part in ("layers", "graph", "groups"):
            self.ask("GET", f"/v1/models/{made['models']}/{part}")
        return made

    def jobs(self, made):
        recipe = {"steps": [{"method": "prune.weights", "sparsity": 0.5}], "targets": {"max_nonzero_ratio": 0.9}}
        self.json("/v1/recipes", {"name": "mine", "recipe": recipe}, 201)
        self.ask("GET", "/v1/recipes/mine")
        self.ask("GET", "/v1/recipes?limit=1&cursor=rcp_" + "z" * 26)
        job = self.json("/v1/jobs", {"model": made["models"], "dataset": made["datasets"], "recipe": "mine", "labels": {"a": "b"}}, 202)["id"]
        url = "/v1/jobs/" + job
        for _ in range(4):
            if self.ask("GET", url + "?wait=20").json()["state"] == "succeeded":
                break
        self.ask("GET", url + "?wait=1&since=1")
        self.ask("GET", url + "/events?after=1")
        self.ask("GET", url + "/report")
        self.ask("GET", url + "/metrics?limit=5&cursor=0")
        rows = self.ask("GET", url + "/artifacts").json()["data"]
        self.ask("GET", url + "/artifacts/model.onnx")
        self.ask("GET", self.ask("POST", url + "/artifacts/model.onnx/link").json()["url"])
        for part in ("", "/content"):
            self.ask("GET", "/v1/artifacts/" + rows[0]["id"] + part)
        again = self.ask("POST", url + "/retry", 202).json()["id"]
        self.ask("GET", f"/v1/jobs?state=queued,running,succeeded&label=a=b&model={made['models']}&retry_of={job}&priority=0"
                        f"&created_from=2020-01-01&created_before=2099-01-01&limit=1&cursor={again}")
        self.json("/v1/jobs", {"model": made["models"], "recipe": {"steps": []}, "name": "n"}, 202)
        self.ask("GET", "/v1/jobs?name=n")
        self.ask("DELETE", "/v1/recipes/mine", 204)
        self.ask("DELETE", url, 204)

    def cancel(self):
        """A server without workers: the job is still there to be canceled."""
        with pared_server.Server("--workers", "0") as self.s:
            model = self.ask("PUT", "/v1/models", 201, tiny.classifier()).json()["id"]
            job = self.json("/v1/jobs", {"model": model, "recipe": {"steps": []}}, 202)["id"]
            self.ask("POST", f"/v1/jobs/{job}/cancel", 202)

    def test_every_call(self):
        contract.seen.clear()
        contract.words.clear()
        with pared_server.Server() as self.s:
            self.uploads()
            self.jobs(self.resources())
            for path in ("/v1/methods", "/v1/methods/prune.weights", "/v1/stats", "/version", "/healthz", "/readyz", "/metrics", "/openapi.yaml", "/",
                         "/app.js"):
                self.ask("GET", path)
        self.cancel()
        table = operations()
        self.assertEqual(contract.take_faults(), [])
        self.assertEqual(set(table) - {(m, p) for m, p, status in contract.seen if status < 300}, set(), "calls without a good answer")
        wanted = {(*call, q["name"]) for call, o in table.items() for q in o["parameters"] if q["in"] == "query"}
        self.assertEqual(wanted - contract.words, set(), "query words without a good answer")

    def test_what_it_would_find(self):
        """Answers that break the contract are seen."""
        model = resolve(document()["components"]["examples"]["Model"])["value"]
        kind = {"content-type": "application/json"}

        def found(method, path, status, headers, body):
            contract.observe(method, path, {}, None, pared_server.Answer(status, headers, json.dumps(body).encode()))
            return " ".join(contract.take_faults())
        url = "/v1/models/" + model["id"]
        self.assertEqual(found("GET", url, 200, kind, model), "")
        self.assertIn("status 418", found("GET", url, 418, kind, model))
        self.assertIn("type text/html", found("GET", url, 200, {"content-type": "text/html"}, model))
        self.assertIn("header x-new", found("GET", url, 200, {**kind, "x-new": "1"}, model))
        self.assertIn("$.bytes", found("GET", url, 200, kind, {**model, "bytes": "823"}))
        self.assertIn("'name' is a required", found("GET", url, 200, kind, {k: v for k, v in model.items() if k != "name"}))
        self.assertIn("not in the contract", found("GET", "/v1/nothing", 200, kind, {}))
        self.assertIn("header retry-after is 'soon'", found("POST", "/v1/jobs", 202, {**kind, "retry-after": "soon"}, {}))


if __name__ == "__main__":
    unittest.main(verbosity=2)
