# SPDX-License-Identifier: Apache-2.0
"""openapi.yaml against the route table, both ways, and against the traffic of test_http.py."""
import json
import os
import re
import sys
import unittest
import urllib.parse

import jsonschema
import yaml

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pared_server
import test_http

with open(os.path.join(pared_server.ROOT, "openapi.yaml")) as f:
    CONTRACT = yaml.safe_load(f)
METHODS = ("get", "put", "post", "delete", "patch")


def route_table():
    """{(method, path): (body, answer, auth, query, summary)} of api/routes.def"""
    with open(os.path.join(pared_server.ROOT, "api", "routes.def")) as f:
        rows = re.findall(r'^ROUTE\((\w+), "([^"]+)", \w+, (\w+), (\w+), (\w+), \w+, "([^"]*)", "([^"]*)"\)$', f.read(), re.M)
    return {(m, p): rest for m, p, *rest in rows}


def resolve(node):
    while isinstance(node, dict) and "$ref" in node:
        at = CONTRACT
        for key in node["$ref"].lstrip("#/").split("/"):
            at = at[key]
        node = at
    return node


def operations():
    return {(m.upper(), p): dict(item[m], parameters=[resolve(q) for q in item.get("parameters", []) + item[m].get("parameters", [])])
            for p, item in CONTRACT["paths"].items() for m in METHODS if m in item}


def schema_with_components(schema):
    """References point into #/components: the schema is checked as a part of the whole document."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "components": CONTRACT["components"], **schema}


class Contract(unittest.TestCase):
    def test_same_calls(self):
        self.assertEqual(set(operations()), set(route_table()))

    def test_same_words(self):
        for call, (body, answer, auth, query, summary) in route_table().items():
            with self.subTest(call=call):
                operation = operations()[call]
                self.assertEqual(operation["summary"], summary)
                self.assertEqual({q["name"] for q in operation["parameters"] if q["in"] == "query"}, set(query.split()))
                self.assertEqual({q["name"] for q in operation["parameters"] if q["in"] == "path"}, set(re.findall(r"{([^}]+)}", call[1])))
                self.assertEqual("requestBody" in operation, body != "NONE")
                self.assertEqual(operation.get("security", CONTRACT["security"]) == [{}], auth == "OPEN")

    def test_ids_and_references(self):
        ids = [o["operationId"] for o in operations().values()]
        self.assertEqual(len(ids), len(set(ids)))
        text = json.dumps(CONTRACT)
        for ref in set(re.findall(r'"\$ref": "([^"]+)"', text)):
            self.assertIsNotNone(resolve({"$ref": ref}), ref)

    def test_schemas_and_examples(self):
        for name, schema in CONTRACT["components"]["schemas"].items():
            jsonschema.Draft202012Validator.check_schema(schema)
            if "example" in schema:
                jsonschema.validate(schema["example"], schema_with_components(schema))
        for call, operation in operations().items():
            for media in operation.get("requestBody", {}).get("content", {}).values():
                for example in [media["example"]] if "example" in media else [e["value"] for e in media.get("examples", {}).values()]:
                    jsonschema.validate(example, schema_with_components(media["schema"]))

    def test_error_codes(self):
        """Every status the error table knows has a response here, but those only a job's error has."""
        with open(os.path.join(pared_server.ROOT, "core", "base", "err.h")) as f:
            statuses = {int(s) for s in re.findall(r"X\(\w+, (\d+), ", f.read())}
        described = {int(s) for o in operations().values() for s in o["responses"]}
        self.assertLessEqual(statuses - described, {405, 414, 429, 431, 500, 504})


class Traffic(unittest.TestCase):
    """All of test_http.py once more, every exchange held against the contract."""

    def test_traffic(self):
        table, seen, faults = operations(), set(), []
        patterns = [(re.compile("^" + re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(p)) + "$"), p) for p in CONTRACT["paths"]]

        def observe(method, path, headers, body, answer):
            bare = urllib.parse.unquote(path.split("?")[0])
            # a path that is spelt out hides one with {segments}
            found = sorted((p.count("{"), p) for pattern, p in patterns if pattern.match(bare))
            call = ("GET" if method == "HEAD" else method, found[0][1] if found else None)
            if call not in table:
                if answer.status not in (204, 400, 403, 404, 405):
                    faults.append(f"{method} {path}: {answer.status} of a call that is not in the contract")
                return
            problem = answer.headers.get("content-type") == "application/problem+json"
            if bare in ("/{file.ext}",) or (problem and answer.status in (400, 404) and "%" in path):
                return
            response = resolve(table[call]["responses"].get(str(answer.status)))
            if response is None:
                faults.append(f"{method} {path}: status {answer.status} is not in the contract")
                return
            seen.add((*call, answer.status))
            content = response.get("content", {})
            kind = answer.headers.get("content-type", "").split(";")[0]
            if kind and method != "HEAD" and kind not in content and "*/*" not in content:
                faults.append(f"{method} {path}: {answer.status} of type {kind}, the contract has {list(content)}")
            media = content.get(kind, {})
            if "schema" in media and kind.endswith("json") and method != "HEAD":
                try:
                    jsonschema.validate(answer.json(), schema_with_components(media["schema"]))
                except jsonschema.ValidationError as e:
                    faults.append(f"{method} {path}: {answer.status}: {e.json_path}: {e.message[:200]}")

        pared_server.Server.observer = staticmethod(observe)
        try:
            result = unittest.TestResult()
            unittest.defaultTestLoader.loadTestsFromModule(test_http).run(result)
        finally:
            pared_server.Server.observer = None
        self.assertEqual(faults[:20], [])
        hit = {(m, p) for m, p, status in seen if status < 400}
        self.assertEqual(set(table) - hit, set(), "calls without a good answer in the recorded traffic")


if __name__ == "__main__":
    unittest.main(verbosity=2)
