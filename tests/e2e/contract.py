# SPDX-License-Identifier: Apache-2.0
"""openapi.yaml, and every exchange of every test held against it: the status, the type, the headers, the body. tests/e2e/conftest.py puts
observe() behind Server.request() and asks for the faults after each test, so a test fails with the exchange that the contract does not have."""
import functools
import os
import re
import urllib.parse

import jsonschema
import yaml

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
METHODS = ("get", "put", "post", "delete", "patch")

# Headers that any answer may have: HTTP's own, and those that the server puts on all of them.
COMMON_HEADERS = {"date", "connection", "content-length", "content-type", "content-encoding", "transfer-encoding", "vary", "x-request-id",
                  "x-content-type-options", "cache-control", "referrer-policy", "cross-origin-resource-policy", "cross-origin-opener-policy",
                  "content-security-policy", "x-frame-options", "permissions-policy", "strict-transport-security", "server-timing",
                  "traceparent", "ratelimit", "ratelimit-policy", "allow", "tus-resumable", "x-accel-buffering", "access-control-allow-origin",
                  "access-control-expose-headers", "access-control-allow-credentials", "retry-after", "www-authenticate", "server"}

faults = []   # what the contract does not have, since take_faults()
seen = set()  # (method, path of the contract, status)
words = set() # (method, path of the contract, query word) of answers that are no errors


@functools.cache
def document():
    with open(os.path.join(ROOT, "openapi.yaml")) as f:
        return yaml.load(f, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def resolve(node):
    while isinstance(node, dict) and "$ref" in node:
        at = document()
        for key in node["$ref"].lstrip("#/").split("/"):
            at = at[key]
        node = at
    return node


@functools.cache
def operations():
    """{(method, path): operation}, the parameters of its path included."""
    return {(m.upper(), p): dict(item[m], parameters=[resolve(q) for q in item.get("parameters", []) + item[m].get("parameters", [])])
            for p, item in document()["paths"].items() for m in METHODS if m in item}


_validators = {}


def validate(value, schema):
    """Raises jsonschema.ValidationError. References point into #/components: the schema is a part of the whole document."""
    if id(schema) not in _validators:
        whole = {"components": document()["components"], **schema}
        _validators[id(schema)] = jsonschema.Draft202012Validator(whole), schema
    error = jsonschema.exceptions.best_match(_validators[id(schema)][0].iter_errors(value))
    if error is not None:
        raise error


@functools.cache
def patterns():
    """A path that is spelt out hides one with {segments}: those with fewer of them come first."""
    paths = sorted(document()["paths"], key=lambda p: (p.count("{"), p))
    return [(re.compile(re.sub(r"\\{[^}]*\\}", "[^/]+", re.escape(p))), p) for p in paths]


def call_of(method, path):
    """(method, path of the contract) of a request target, or None; and its query."""
    bare, _, query = path.partition("?")
    bare = urllib.parse.unquote(bare)
    found = next((p for pattern, p in patterns() if pattern.fullmatch(bare)), None)
    call = ("GET" if method == "HEAD" else method, found)
    return (call if call in operations() else None), query


def check_headers(response, answer):
    declared = {name.lower(): resolve(header) for name, header in response.get("headers", {}).items()}
    for name in set(answer.headers) - COMMON_HEADERS - set(declared):
        yield f"the header {name} is not in the contract"
    for name, header in declared.items():
        value = answer.headers.get(name)
        if value is None:
            if header.get("required"):
                yield f"the header {name} is missing"
            continue
        try:
            validate(int(value) if header["schema"].get("type") == "integer" else value, header["schema"])
        except (ValueError, jsonschema.ValidationError) as e:
            yield f"the header {name} is {value!r}: {str(e)[:100]}"


def check_answer(method, response, answer):
    """Faults of one answer against its description."""
    content = response.get("content", {})
    kind = answer.headers.get("content-type", "").split(";")[0]
    if kind and method != "HEAD" and kind not in content and "*/*" not in content:
        yield f"type {kind}, the contract has {list(content)}"
    yield from check_headers(response, answer)
    media = content.get(kind, {})
    if "schema" in media and kind.endswith("json") and method != "HEAD" and answer.status != 206 and "content-encoding" not in answer.headers:
        try:
            validate(answer.json(), media["schema"])
        except jsonschema.ValidationError as e:
            yield f"{e.json_path}: {e.message[:200]}"


def observe(method, path, headers, body, answer):
    call, query = call_of(method, path)
    if call is None:
        if answer.status not in (204, 400, 403, 404, 405):
            faults.append(f"{method} {path}: {answer.status} of a call that is not in the contract")
        return
    problem = answer.headers.get("content-type") == "application/problem+json"
    if problem and answer.status in (400, 404) and "%" in path:
        return  # the guard's, before there is a call
    if problem and answer.status == 500:
        return  # a broken disk: no call promises it, and a test that does not break one fails by its own words
    response = resolve(operations()[call]["responses"].get(str(answer.status)))
    if response is None:
        faults.append(f"{method} {path}: status {answer.status} is not in the contract")
        return
    seen.add((*call, answer.status))
    if answer.status < 400:
        words.update((*call, name) for name in urllib.parse.parse_qs(query, keep_blank_values=True))
    faults.extend(f"{method} {path}: {answer.status}: {fault}" for fault in check_answer(method, response, answer))


def take_faults():
    found = faults[:]
    faults.clear()
    return found
