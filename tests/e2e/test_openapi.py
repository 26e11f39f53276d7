# SPDX-License-Identifier: Apache-2.0
"""openapi.yaml against the route table, both ways, and against the traffic of other tests: statuses, types, headers, schemas, query words."""
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
import test_api_rules
import test_http

with open(os.path.join(pared_server.ROOT, "openapi.yaml")) as f:
    CONTRACT = yaml.safe_load(f)
METHODS = ("get", "put", "post", "delete", "patch")


def route_table():
    """{(method, path): (body, answer, auth, query, summary, deprecated)} of api/routes.def"""
    with open(os.path.join(pared_server.ROOT, "api", "routes.def")) as f:
        rows = re.findall(r'^ROUTE(_UNTIL)?\((\w+), "([^"]+)", \w+, (\w+), (\w+), (\w+), \w+, "([^"]*)",\s+"([^"]*)"(?:, "([^"]*)", "[^"]*", "[^"]*")?\)$',
                          f.read(), re.M)
    # a segment's name in the contract has no dot in it
    return {(m, p.replace("{file.ext}", "{file}")): (*rest, deprecated) for _, m, p, *rest, deprecated in rows}


def resolve_all(table):
    return {name: resolve(row) for name, row in table.items()}


def examples(media):
    return [media["example"]] if "example" in media else [resolve(e)["value"] for e in media.get("examples", {}).values()]


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
        for call, (body, answer, auth, query, summary, deprecated) in route_table().items():
            with self.subTest(call=call):
                operation = operations()[call]
                self.assertEqual(operation["summary"], summary)
                self.assertEqual(bool(operation.get("deprecated")), bool(deprecated))
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
        bodies = [(call, media) for call, o in operations().items() for media in o.get("requestBody", {}).get("content", {}).items()]
        answers = [((*call, status), media) for call, o in operations().items() for status, r in o["responses"].items()
                   for media in resolve(r).get("content", {}).items()]
        for place, (kind, media) in bodies + answers:
            with self.subTest(place=place, kind=kind):
                if kind.endswith("json"):
                    self.assertTrue(examples(media), "no example")
                for example in examples(media):
                    jsonschema.validate(example, schema_with_components(media["schema"]))

    def test_parameters(self):
        """What a client may send has a type; what can be said by an example is."""
        for call, operation in operations().items():
            for parameter in operation["parameters"]:
                with self.subTest(call=call, parameter=parameter["name"]):
                    for example in examples(parameter):
                        jsonschema.validate(example, schema_with_components(parameter["schema"]))

    def test_error_codes(self):
        """Every status the error table knows has a response here, but those only a job's error has."""
        with open(os.path.join(pared_server.ROOT, "core", "base", "err.h")) as f:
            statuses = {int(s) for s in re.findall(r"X\(\w+, (\d+), ", f.read())}
        described = {int(s) for o in operations().values() for s in o["responses"]}
        self.assertLessEqual(statuses - described, {405, 414, 429, 431, 500, 504})


# Headers that any answer may have: HTTP's own, and those that the server puts on all of them.
COMMON_HEADERS = {"date", "connection", "content-length", "content-type", "content-encoding", "transfer-encoding", "vary", "x-request-id",
                  "x-content-type-options", "cache-control", "referrer-policy", "cross-origin-resource-policy", "cross-origin-opener-policy",
                  "content-security-policy", "x-frame-options", "permissions-policy", "strict-transport-security", "server-timing",
                  "traceparent", "ratelimit", "ratelimit-policy", "allow", "tus-resumable", "x-accel-buffering", "access-control-allow-origin",
                  "access-control-expose-headers", "access-control-allow-credentials", "retry-after", "www-authenticate", "server"}


def check_answer(method, response, answer):
    """Faults of one answer against its description."""
    content, declared = response.get("content", {}), {k.lower() for k in response.get("headers", {})}
    kind = answer.headers.get("content-type", "").split(";")[0]
    if kind and method != "HEAD" and kind not in content and "*/*" not in content:
        yield f"type {kind}, the contract has {list(content)}"
    for name in set(answer.headers) - COMMON_HEADERS - declared:
        yield f"the header {name} is not in the contract"
    for name, header in response.get("headers", {}).items():
        value = answer.headers.get(name.lower())
        if value is None:
            if resolve(header).get("required"):
                yield f"the header {name} is missing"
            continue
        schema = resolve(header)["schema"]
        try:
            jsonschema.validate(int(value) if schema.get("type") == "integer" else value, schema_with_components(schema))
        except (ValueError, jsonschema.ValidationError) as e:
            yield f"the header {name} is {value!r}: {str(e)[:100]}"
    media = content.get(kind, {})
    if "schema" in media and kind.endswith("json") and method != "HEAD" and answer.status != 206 and "content-encoding" not in answer.headers:
        try:
            jsonschema.validate(answer.json(), schema_with_components(media["schema"]))
        except jsonschema.ValidationError as e:
            yield f"{e.json_path}: {e.message[:200]}"


class Traffic(unittest.TestCase):
    """All of other tests once more, every exchange held against the contract."""

    def test_traffic(self):
        table, seen, words, faults = operations(), set(), set(), []
        patterns = [(re.compile("^" + re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(p)) + "$"), p) for p in CONTRACT["paths"]]

        def observe(method, path, headers, body, answer):
            bare, _, query = path.partition("?")
            bare = urllib.parse.unquote(bare)
            # a path that is spelt out hides one with {segments}
            found = sorted((p.count("{"), p) for pattern, p in patterns if pattern.match(bare))
            call = ("GET" if method == "HEAD" else method, found[0][1] if found else None)
            if call not in table:
                if answer.status not in (204, 400, 403, 404, 405):
                    faults.append(f"{method} {path}: {answer.status} of a call that is not in the contract")
                return
            problem = answer.headers.get("content-type") == "application/problem+json"
            if answer.status in (414, 431) or (problem and answer.status in (400, 404) and "%" in path):
                return  # the guard's, before there is a call
            response = resolve(table[call]["responses"].get(str(answer.status)))
            if response is None:
                faults.append(f"{method} {path}: status {answer.status} is not in the contract")
                return
            seen.add((*call, answer.status))
            if answer.status < 400:
                words.update((*call, name) for name in urllib.parse.parse_qs(query, keep_blank_values=True))
            faults.extend(f"{method} {path}: {answer.status}: {fault}" for fault in check_answer(method, response, answer))

        pared_server.Server.observer = staticmethod(observe)
        try:
            result = unittest.TestResult()
            for module in (test_http, test_api_rules):
                unittest.defaultTestLoader.loadTestsFromModule(module).run(result)
        finally:
            pared_server.Server.observer = None
        self.assertEqual(faults[:20], [])
        hit = {(m, p) for m, p, status in seen if status < 400}
        # a stream is read by test_events.py, not by request()
        self.assertEqual(set(table) - hit - {("GET", "/v1/jobs/{id}/events")}, set(), "calls without a good answer in the recorded traffic")
        wanted = {(*call, q["name"]) for call, o in table.items() for q in o["parameters"] if q["in"] == "query"}
        self.assertEqual(wanted - words - {("GET", "/v1/jobs/{id}/events", "after")}, set(), "query words without a good answer")


if __name__ == "__main__":
    unittest.main(verbosity=2)
