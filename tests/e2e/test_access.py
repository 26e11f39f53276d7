# SPDX-License-Identifier: Apache-2.0
"""Who may do what, on a real server: keys and their scopes, owners, limits, links, TLS, other origins, the audit log."""
import http.client
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tiny
from pared_server import BINARY, Server

STEPS = {"steps": [{"method": "graph.optimize"}]}
ALL = ["models:read", "models:write", "jobs:read", "jobs:write"]


def keys(data, *words, status=0):
    run = subprocess.run([BINARY, "keys", *words, "--data", data], capture_output=True, text=True, timeout=30)
    assert run.returncode == status, run
    return run


def add(data, *flags):
    """(header, id) of a new key."""
    made = json.loads(keys(data, "add", "--json", *flags).stdout)
    return {"Authorization": "Bearer " + made["key"]}, made["id"]


@pytest.fixture
def data(tmp_path):
    return str(tmp_path / "data")


def problem(answer, status, code, says=""):
    assert answer.status == status, answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code and says in answer.json()["detail"], answer
    return answer


def upload(s, auth, seed=0, status=201):
    answer = s.request("PUT", f"/v1/models?name=m{seed}.onnx", body=tiny.classifier(seed), headers=auth)
    assert answer.status == status, answer
    return answer.json().get("id")


def submit(s, auth, model, **more):
    return s.post_json("/v1/jobs", {"model": model, "recipe": STEPS, **more}, headers=auth)


def finished(s, auth, job):
    until = time.time() + 60
    while time.time() < until:
        answer = s.get(f"/v1/jobs/{job}?wait=10", headers=auth).json()
        if answer["state"] in ("succeeded", "failed", "canceled"):
            assert answer["state"] == "succeeded", answer
            return answer
    raise TimeoutError(job)


def route_table():
    """(method, path, body, scope) of every route."""
    with open(os.path.join(os.path.dirname(__file__), "..", "..", "api", "routes.def")) as f:
        return re.findall(r'^ROUTE(?:_UNTIL)?\((\w+), "([^"]+)", \w+, (\w+), \w+, (\w+),', f.read(), re.M)


def other_id(name):
    """An id of nothing, of the same kind."""
    return name[:4] + "0" * (len(name) - 4)


# ---- pared keys


def test_the_command(data):
    assert "no data folder" in keys(data, "list", status=2).stderr and not os.path.exists(data)
    made = keys(data, "add", "--owner", "ci", "--name", "nightly \u2713", "--scopes", "jobs:read,models:read", "--expires", "30d")
    key = made.stdout.strip()
    assert re.fullmatch(r"pared_[0-9a-z]{26}_[0-9a-f]{64}", key)
    other = keys(data, "add").stdout.strip()
    assert other[33:] != key[33:]
    rows = json.loads(keys(data, "list", "--json").stdout)
    assert [r["owner"] for r in rows] == ["ci", "local"] and rows[0]["scopes"] == ["models:read", "jobs:read"] and rows[1]["scopes"] == ALL
    assert rows[0]["id"] == "key_" + key[6:32] and rows[0]["state"] == "active" and rows[0]["last_used_at"] is None
    keys(data, "revoke", rows[0]["id"])
    keys(data, "revoke", rows[0]["id"])
    assert [r["state"] for r in json.loads(keys(data, "list", "--json").stdout)] == ["revoked", "active"]
    # for the user of the server alone, whatever the umask
    assert [oct(os.stat(p).st_mode & 0o777) for p in (data, os.path.join(data, "catalogue.db"))] == ["0o700", "0o600"]
    listed = keys(data, "list").stdout
    assert "nightly" in listed and key[33:] not in listed
    # the secret is nowhere on the disk
    for folder, _, files in os.walk(data):
        for name in files:
            with open(os.path.join(folder, name), "rb") as f:
                content = f.read()
            assert key[33:].encode() not in content and other[33:].encode() not in content, name
    for words, says in [(["add", "--scopes", "everything"], "is no scope"), (["add", "--expires", "soon"], "is no time"), (["add", "--expires", "0d"], "is no time"),
                        (["add", "--owner", "a b"], "--owner"), (["add", "--requests-per-s", "-1"], "--requests-per-s"), (["revoke"], "id of a key"),
                        (["revoke", "job_01m82ybkh709nc2wx9rgz3fdkb"], "id of a key"), (["take"], "add, list or revoke"), ([], "add, list or revoke"),
                        (["list", "now"], "too many"), (["add", "--nonsense"], "no option")]:
        assert says in keys(data, *words, status=2).stderr, words
    assert "there is no key" in keys(data, "revoke", "key_01m82ybkh709nc2wx9rgz3fdkb", status=1).stderr


# ---- keys


def test_wrong_expired_revoked(data):
    auth, key_id = add(data, "--owner", "alice")
    short, _ = add(data, "--owner", "alice", "--expires", "1s")
    key = auth["Authorization"][7:]
    with Server(data=data) as s:
        assert s.get("/v1/models", headers=auth).status == 200
        assert s.get("/v1/models", headers={"Authorization": "bearer  " + key}).status == 200
        assert s.get("/healthz").status == 200 and s.get("/").status == 200
        changed = key[:-1] + ("0" if key[-1] != "0" else "1")
        for wrong in (changed, key[:-1], key + "0", key.upper(), "pared_", "pared_" + "0" * 26 + "_" + "0" * 64, key_id, "x" * 300, ""):
            answer = problem(s.get("/v1/models", headers={"Authorization": "Bearer " + wrong}), 401, "unauthorized", "not one of this server's")
            assert answer.headers["www-authenticate"].startswith("Bearer")
        for header in ({}, {"Authorization": "Basic " + key}, {"Authorization": key}):
            problem(s.get("/v1/models", headers=header), 401, "unauthorized", "needs an API key")
        time.sleep(1.1)
        problem(s.get("/v1/models", headers=short), 401, "unauthorized", "expired at 20")
        # a key made, and one revoked, while the server runs; it looks once a second
        late, _ = add(data, "--owner", "alice")
        since = time.time()
        while s.get("/v1/models", headers=late).status != 200:
            assert time.time() - since < 10
            time.sleep(0.02)
        keys(data, "revoke", key_id)
        since = time.time()
        while s.get("/v1/models", headers=auth).status == 200:
            assert time.time() - since < 10
            time.sleep(0.02)
        problem(s.get("/v1/models", headers=auth), 401, "unauthorized", "was revoked")
        assert s.stop() == 0
        row = [r for r in json.loads(keys(data, "list", "--json").stdout) if r["id"] == key_id][0]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:00\.000Z", row["last_used_at"]), row
        s.start()
        problem(s.get("/v1/models", headers=auth), 401, "unauthorized", "was revoked")
        assert s.get("/v1/models", headers=late).status == 200


def test_the_last_revoked_key_does_not_open_the_server(data):
    with Server(data=data) as s:
        assert s.get("/v1/models").status == 200  # no keys yet, and on loopback
        _, key_id = add(data)
        keys(data, "revoke", key_id)
        until = time.time() + 5
        while s.get("/v1/models").status == 200:
            assert time.time() < until
            time.sleep(0.05)
        problem(s.get("/v1/models"), 401, "unauthorized")
        assert s.stop() == 0
        s.start()
        problem(s.get("/v1/models"), 401, "unauthorized")


def test_keys_let_the_server_listen_everywhere(data):
    add(data)
    with Server(data=data, listen="0.0.0.0:0") as s:
        s.host = "127.0.0.1"
        problem(s.get("/v1/models"), 401, "unauthorized")


def test_key_file_beside_the_catalogue(data, tmp_path):
    auth, _ = add(data, "--owner", "alice")
    file = tmp_path / "keys"
    file.write_text("# two\nbob bob-key-0123456789\nlocal-key-0123456789\n")
    with Server("--api-key-file", str(file), data=data) as s:
        for header in (auth, {"Authorization": "Bearer bob-key-0123456789"}, {"Authorization": "Bearer local-key-0123456789"}):
            assert s.get("/v1/models", headers=header).status == 200
        file.write_text("bob bob-key-9876543210\n")
        s.process.send_signal(signal.SIGHUP)
        until = time.time() + 5
        while s.get("/v1/models", headers={"Authorization": "Bearer bob-key-9876543210"}).status != 200:
            assert time.time() < until
            time.sleep(0.05)
        problem(s.get("/v1/models", headers={"Authorization": "Bearer bob-key-0123456789"}), 401, "unauthorized")
        assert s.get("/v1/models", headers=auth).status == 200


@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["text", "json"])
def test_a_key_that_nobody_saw_opens_nothing(data, flags):
    with open("/dev/full", "w") as full:
        run = subprocess.run([BINARY, "keys", "add", *flags, "--data", data], stdout=full, stderr=subprocess.PIPE, text=True, timeout=30)
    assert run.returncode != 0 and "revoked again" in run.stderr, run
    assert [row["state"] for row in json.loads(keys(data, "list", "--json").stdout)] == ["revoked"]


# ---- scopes and owners


def test_scopes(data):
    """Every route of the table, with a key that has all scopes but the one it needs, and one that has only this."""
    names = {"MODELS_READ": "models:read", "MODELS_WRITE": "models:write", "JOBS_READ": "jobs:read", "JOBS_WRITE": "jobs:write", "ADMIN": "admin"}
    table = route_table()
    only = {scope: add(data, "--scopes", scope)[0] for scope in names.values()}
    without = {scope: add(data, "--scopes", ",".join(s for s in [*ALL, "admin"] if s != scope))[0] for scope in names.values()}
    assert len(table) > 35 and set(names) <= {need for _, _, _, need in table}
    with Server("--workers", "0", data=data) as s:
        for method, path, body, need in table:
            if need not in names:
                continue
            scope, url = names[need], re.sub(r"\{[^}]*\}", "x", path)
            sent = {"body": b"{}", "extra": {"Content-Type": "application/json"}} if body != "NONE" else {"body": None, "extra": {}}
            answer = s.request(method, url, body=sent["body"], headers={**without[scope], **sent["extra"]})
            assert answer.status == 403, (method, path, answer)
            if method != "HEAD":
                problem(answer, 403, "forbidden", f"needs the scope {scope}")
            assert f'scope="{scope}"' in answer.headers["www-authenticate"]
            assert s.request(method, url, body=sent["body"], headers={**only[scope], **sent["extra"]}).status not in (401, 403), (method, path)


def test_other_owners_ids_do_not_exist(data):
    """Every route of the table whose path names a thing: 404 for everybody but its owner. So do ids in bodies, lists and keys of requests."""
    alice, _ = add(data, "--owner", "alice")
    bob, _ = add(data, "--owner", "bob")
    also_alice, _ = add(data, "--owner", "alice")
    tus = {"Tus-Resumable": "1.0.0"}
    with Server(data=data) as s:
        model = upload(s, alice)
        dataset = s.request("PUT", "/v1/datasets", body=tiny.dataset(), headers=alice).json()["id"]
        assert s.post_json("/v1/recipes", {"name": "hers", "recipe": STEPS}, headers=alice).status == 201
        job = submit(s, {**alice, "Idempotency-Key": "same"}, model).json()["id"]
        finished(s, alice, job)
        artifact = [a for a in s.get(f"/v1/jobs/{job}/artifacts", headers=alice).json()["data"] if a["name"] == "model.onnx"][0]["id"]
        part = s.request("POST", "/v1/uploads", headers={**alice, **tus, "Upload-Length": "5"}).json()["id"]
        ids = {"models": model, "datasets": dataset, "jobs": job, "artifacts": artifact, "uploads": part, "recipes": "hers"}
        seen = set()
        for method, path, body, _ in route_table():
            noun = path.split("/")[2] if path.startswith("/v1/") else ""
            if noun not in ids or "{" not in path:
                continue
            seen.add(noun)
            url = path.replace("{name}", "hers" if noun == "recipes" else "model.onnx").replace("{id}", ids[noun])
            more = {**tus, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"} if noun == "uploads" else {}
            sent = b"x" if body != "NONE" else None
            answer = s.request(method, url, body=sent, headers={**bob, **more})
            problem(answer, 404, "not_found")
            assert answer.json()["detail"] == s.request(method, url.replace(ids[noun], other_id(ids[noun])), body=sent, headers={**bob, **more}).json()[
                "detail"].replace(other_id(ids[noun]), ids[noun]), "nothing tells it from an id of nothing"
            if method == "GET" and not path.endswith("/events"):
                assert s.get(url, headers=also_alice).status == 200, path
        assert seen == set(ids)
        problem(submit(s, bob, model), 422, "invalid", "there is no")
        problem(submit(s, bob, upload(s, bob, 1), recipe="hers"), 422, "recipe_invalid", "names no recipe")
        for noun, body in (("models", {"artifact": artifact}), ("models", {"upload": part}), ("datasets", {"upload": part})):
            problem(s.post_json("/v1/" + noun, body, headers=bob), 422, "reference_not_found")
        for noun in ("jobs", "datasets", "uploads"):
            assert s.get("/v1/" + noun, headers=bob).json()["data"] == [], noun
        for word in ("model=" + model, "retry_of=" + job, "cursor=" + job):
            assert s.get("/v1/jobs?" + word, headers=bob).json()["data"] == [], word
        his = upload(s, bob)
        assert his != model  # the same bytes are another owner's own model
        answer = submit(s, {**bob, "Idempotency-Key": "same"}, his)
        assert answer.status == 202 and answer.json()["id"] != job  # a key of a request is its owner's
        assert submit(s, bob, his, reuse=True).json()["id"] != job


# ---- limits


def test_requests_a_second(data):
    slow, slow_id = add(data, "--requests-per-s", "2")
    free, _ = add(data, "--requests-per-s", "0")
    usual, _ = add(data)
    with Server(data=data) as s:
        statuses = [s.get("/v1/models", headers=slow) for _ in range(30)]
        good = [a for a in statuses if a.status == 200]
        assert 20 <= len(good) <= 26, len(good)
        assert good[0].headers["ratelimit-policy"].startswith('"requests";q=20;w=10')
        assert re.fullmatch(r'"requests";r=19;t=\d+', good[0].headers["ratelimit"])
        refused = problem(statuses[-1], 429, "rate_limited", f"{slow_id} may send 2 requests a second")
        assert refused.headers["retry-after"] == "1" and refused.headers["ratelimit"].startswith('"requests";r=0;t=')
        assert s.get("/v1/models", headers=free).status == 200  # others are not touched
        assert "ratelimit" not in s.get("/v1/models", headers=free).headers
        assert s.get("/v1/models", headers=usual).headers["ratelimit-policy"].startswith('"requests";q=1000;w=10')
        time.sleep(1.1)
        assert s.get("/v1/models", headers=slow).status == 200


def test_jobs_and_bytes(data):
    size = len(tiny.classifier(0))
    auth, _ = add(data, "--owner", "a", "--active-jobs", "2")
    small, _ = add(data, "--owner", "b", "--stored-bytes", str(2 * size + 10))
    other, _ = add(data, "--owner", "c")
    with Server("--workers", "0", "--key-active-jobs", "3", data=data) as s:
        model = upload(s, auth)
        jobs = [submit(s, auth, model, priority=i) for i in range(3)]
        assert [j.status for j in jobs] == [202, 202, 429]
        refused = problem(jobs[2], 429, "rate_limited", "2 are queued or running")
        assert int(refused.headers["retry-after"]) > 0 and '"active-jobs";q=2' in refused.headers["ratelimit-policy"]
        assert s.request("POST", f"/v1/jobs/{jobs[0].json()['id']}/cancel", headers=auth).status in (200, 202)
        assert submit(s, auth, model).status == 202
        theirs = upload(s, other)
        assert [submit(s, other, theirs, priority=i).status for i in range(4)] == [202, 202, 202, 429]  # the setting
        upload(s, small, 1), upload(s, small, 2)
        answer = s.request("PUT", "/v1/models", body=tiny.classifier(3), headers=small)
        problem(answer, 429, "rate_limited", "stored bytes")
        assert upload(s, small, 1, status=200)  # what is there already takes no room
        tus = {**small, "Tus-Resumable": "1.0.0", "Upload-Length": str(size)}
        problem(s.request("POST", "/v1/uploads", headers=tus), 429, "rate_limited", "stored")
        listed = s.get("/v1/models", headers=small).json()["data"]
        assert len(listed) == 2
        assert s.request("DELETE", f"/v1/models/{listed[0]['id']}", headers=small).status in (200, 204)
        upload(s, small, 3)


def test_bytes_under_way(data):
    """What an owner sends at once is together no more than it may store; what is cut counts no longer."""
    key, _ = add(data, "--owner", "a", "--stored-bytes", "1000000")
    body = bytes(900_000)

    def ask_until(status):
        """The answer to an upload of its own: the other one comes and goes a moment after it was sent or cut."""
        for _ in range(100):
            answer = s.request("PUT", "/v1/models", body=body, headers=key)
            if answer.status == status:
                break
            time.sleep(0.05)
        return answer

    with Server(data=data) as s:
        problem(s.request("PUT", "/v1/models", body=bytes(1_000_001), headers=key), 429, "rate_limited", "1000001 bytes")
        with socket.create_connection((s.host, s.port)) as slow:
            head = f"PUT /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: {key['Authorization']}\r\nContent-Length: {len(body)}\r\n\r\n"
            slow.sendall(head.encode() + body[:800_000])
            problem(ask_until(429), 429, "rate_limited", "under way")
        assert ask_until(422).status == 422


def test_no_owner_starves_another(data):
    """One owner queues five jobs, two others come later with two each, of the lowest priority: they take turns."""
    auth = {name: add(data, "--owner", name)[0] for name in "abc"}
    with Server("--workers", "0", data=data) as s:
        models = {name: upload(s, auth[name]) for name in "abc"}
        jobs = {}
        for name, count, priority in (("a", 5, 90), ("b", 2, -90), ("c", 2, 0)):
            for i in range(count):
                jobs[submit(s, auth[name], models[name], priority=priority + (i == 1)).json()["id"]] = f"{name}{i}"
        first = {label: s.get(f"/v1/jobs/{job}", headers=auth[label[0]]).json()["queue_position"] for job, label in jobs.items()}
        assert sorted(first.values()) == list(range(1, 10)), first
        assert s.stop() == 0
        s.flags = ["--workers", "1"]
        s.start()
        done = {label: finished(s, auth[label[0]], job)["started_at"] for job, label in jobs.items()}
    order = sorted(done, key=done.get)
    assert order[:6] == ["a1", "b1", "c1", "a0", "b0", "c0"], order
    assert order[6:] == [f"a{i}" for i in range(2, 5)]
    assert [label for label, _ in sorted(first.items(), key=lambda item: item[1])] == order  # as the positions said


# ---- links


def test_links(data):
    alice, _ = add(data, "--owner", "alice")
    reader, _ = add(data, "--owner", "alice", "--scopes", "jobs:read")
    models, _ = add(data, "--owner", "alice", "--scopes", "models:read")
    with Server("--link-ttl-s", "2", data=data) as s:
        job = submit(s, alice, upload(s, alice)).json()["id"]
        finished(s, alice, job)
        path = f"/v1/jobs/{job}/artifacts/"
        problem(s.request("POST", path + "model.onnx/link", headers=models), 403, "forbidden", "jobs:read")
        problem(s.request("POST", path + "nothing.onnx/link", headers=reader), 404, "not_found")
        link = s.request("POST", path + "model.onnx/link", headers=reader)
        assert link.status == 200 and link.headers["cache-control"] == "no-store", link
        url = link.json()["url"]
        file = s.get(path + "model.onnx", headers=alice)
        got = s.get(url)
        assert (got.status, got.body) == (200, file.body)
        assert got.headers["cache-control"] == "private, no-store" != file.headers["cache-control"]  # the copy ends with the link
        assert got.headers["content-disposition"].startswith("attachment;") and got.headers["content-security-policy"] == "sandbox"
        assert got.headers["repr-digest"] == file.headers["repr-digest"]
        part = s.get(url, headers={"Range": "bytes=2-5"})
        assert (part.status, part.body) == (206, file.body[2:6])
        assert s.request("HEAD", url).status == 200
        other = s.request("POST", path + "report.json/link", headers=reader).json()["url"]
        a, b = url.rsplit("/", 1)[1].split("."), other.rsplit("/", 1)[1].split(".")
        later = str(int(a[1]) + 3600000)
        for token in (".".join([b[0], a[1], a[2]]), ".".join([a[0], later, a[2]]), ".".join([a[0], a[1], b[2]]), a[0], ".".join(a)[:-1], "x", "..",
                      ".".join([a[0], a[1], "0" * 64]), ".".join(["0" * 26, a[1], a[2]])):
            problem(s.get("/v1/links/" + token), 404, "not_found")
        problem(s.request("PUT", url, body=b"x"), 405, "method_not_allowed")
        s.stop()
        s.start()  # a restart changes nothing
        time.sleep(max(0, int(a[1]) / 1000 - time.time() + 0.05))
        problem(s.get(url), 403, "forbidden", "has ended")
        assert ".".join(a) not in s.log_text()  # a link is a secret while it lasts


def test_pages_and_files_cannot_run(data):
    """Headers of every kind of answer; HTML of a job is saved, not shown."""
    with Server(data=data) as s:
        job = submit(s, {}, upload(s, {})).json()["id"]
        finished(s, {}, job)
        names = [a["name"] for a in s.get(f"/v1/jobs/{job}/artifacts").json()["data"]]
        page = s.get("/")
        csp = page.headers["content-security-policy"]
        assert "default-src 'self'" in csp and "frame-ancestors 'none'" in csp and "unsafe" not in csp
        assert page.headers["cross-origin-opener-policy"] == "same-origin"
        assert not re.search(rb"<script(?![^>]*\bsrc=)[^>]*>|\sstyle=|<style|\son[a-z]+=|javascript:", page.body), "inline script or style"
        for path in ["/", "/v1/jobs", f"/v1/jobs/{job}/report", "/healthz", "/v1/nothing", "/openapi.yaml"] + [f"/v1/jobs/{job}/artifacts/{n}" for n in names]:
            answer = s.get(path)
            assert answer.headers["x-content-type-options"] == "nosniff", path
            assert answer.headers["referrer-policy"] == "no-referrer", path
            assert answer.headers["cross-origin-resource-policy"] == "same-origin", path
            assert "frame-ancestors 'none'" in answer.headers["content-security-policy"] or answer.headers["content-security-policy"] == "sandbox", path
        assert "report.html" in names
        for name in names:
            answer = s.get(f"/v1/jobs/{job}/artifacts/{name}")
            assert answer.headers["content-security-policy"] == "sandbox" and answer.headers["content-disposition"].startswith("attachment;"), name


def test_header_injection(data):
    """Nothing a client sends comes back as a header line."""
    with Server("--allowed-origins", "https://ci.example.com", data=data) as s:
        for value in ("https://ci.example.com\r\nX-Evil: 1", "https://ci.example.com\nX-Evil: 1", "https://ci.example.com\tX-Evil: 1"):
            raw, _ = s.raw(f"GET /healthz HTTP/1.1\r\nHost: localhost\r\nOrigin: {value}\r\nConnection: close\r\n\r\n".encode())
            assert b"X-Evil" not in raw.split(b"\r\n\r\n")[0], raw
        for target in ("/v1/models?name=a%0d%0aX-Evil:%201", "/%0d%0aX-Evil:%201", "/v1/links/%0d%0aX-Evil:1"):
            raw, _ = s.raw(f"PUT {target} HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: a\x0bX-Evil\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx".encode())
            assert b"X-Evil" not in raw.split(b"\r\n\r\n")[0], raw


# ---- other origins


def test_cors(data):
    auth, _ = add(data)
    origin = "https://ci.example.com"
    with Server("--allowed-origins", origin + ",http://127.0.0.1:3000", "--cors-max-age-s", "77", data=data) as s:
        ask = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization,content-type,idempotency-key"}
        for allowed in (origin, "http://127.0.0.1:3000"):
            answer = s.request("OPTIONS", "/v1/jobs", headers={"Origin": allowed, **ask})
            assert answer.status == 204 and answer.headers["access-control-allow-origin"] == allowed
            assert "POST" in answer.headers["access-control-allow-methods"] and answer.headers["access-control-max-age"] == "77"
            assert {"authorization", "content-type", "idempotency-key", "upload-offset"} <= {h.strip().lower() for h in answer.headers["access-control-allow-headers"].split(",")}
            assert "access-control-allow-credentials" not in answer.headers
        got = s.get("/v1/jobs", headers={"Origin": origin, **auth})
        assert got.status == 200 and got.headers["access-control-allow-origin"] == origin and "Origin" in got.headers["vary"]
        assert {"etag", "location", "retry-after"} <= {h.strip().lower() for h in got.headers["access-control-expose-headers"].split(",")}
        refused = problem(s.get("/v1/jobs", headers={"Origin": origin}), 401, "unauthorized")
        assert refused.headers["access-control-allow-origin"] == origin  # the page may read why
        for foreign in ("https://evil.example", "null", origin + ".evil.example", "http://ci.example.com", origin + ":444", origin + "/"):
            for answer in (s.request("OPTIONS", "/v1/jobs", headers={"Origin": foreign, **ask}), s.get("/v1/jobs", headers={"Origin": foreign, **auth})):
                assert not [h for h in answer.headers if h.startswith("access-control")], foreign
            problem(s.post_json("/v1/jobs", {}, headers={"Origin": foreign, **auth}), 403, "forbidden")
    with Server() as s:
        answer = s.request("OPTIONS", "/v1/jobs", headers={"Origin": origin, **ask})
        assert answer.status == 204 and "access-control-allow-origin" not in answer.headers and "vary" not in answer.headers


# ---- audit


def audit_lines(path):
    with open(path) as f:
        return [json.loads(line) for line in f]


def wait_lines(path, count):
    until = time.time() + 5
    while len(audit_lines(path)) < count and time.time() < until:
        time.sleep(0.02)
    return audit_lines(path)


def test_audit(data, tmp_path):
    alice, alice_id = add(data, "--owner", "alice")
    reader, reader_id = add(data, "--owner", "bob", "--scopes", "models:read", "--requests-per-s", "1")
    log = str(tmp_path / "audit.jsonl")
    with Server("--audit-log", log, "--workers", "0", "--trusted-proxies", "127.0.0.0/8, 10.0.0.0/8", data=data) as s:
        named = lambda name, **more: {"X-Request-Id": name, **more}
        model = upload(s, named("made", **alice))
        s.get("/v1/models", headers=alice)
        job = submit(s, named("queued", **alice, **{"X-Forwarded-For": "203.0.113.9, 10.0.0.4"}), model).json()["id"]
        s.request("DELETE", f"/v1/models/{model}", headers=named("deleted", **alice))
        s.get("/v1/jobs", headers=named("forbidden", **reader))
        s.get("/v1/jobs", headers=named("unknown", Authorization="Bearer wrong-key-0123456789", **{"X-Forwarded-For": "6.6.6.6"}))
        s.request("POST", '/v1/models?name="%0a{"owner":"root"}', body=b"x", headers=named("nobody"))
        limited = [s.get("/v1/models", headers=reader).status for _ in range(12)].count(429)
        assert limited > 0
        lines = wait_lines(log, 6 + limited)  # in the order in which answers were done, which need not be that of requests
        assert len(lines) == 6 + limited
        assert os.stat(log).st_mode & 0o777 == 0o600
        made, queued, deleted, forbidden, unknown, nobody = (next(line for line in lines if line["request_id"] == name) for name in (
            "made", "queued", "deleted", "forbidden", "unknown", "nobody"))
        for line in lines:
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"]) and line["request_id"] and line["client"], line
        pick = lambda line, *names: tuple(line.get(n) for n in names)
        assert pick(made, "request_id", "owner", "key", "method", "path", "status", "outcome", "client") == ("made", "alice", alice_id, "PUT", "/v1/models", 201, "done", "127.0.0.1")
        assert made["resource"] == f"/v1/models/{model}" and queued["resource"] == f"/v1/jobs/{job}"
        assert pick(queued, "client", "route", "status") == ("203.0.113.9", "/v1/jobs", 202)
        assert pick(deleted, "path", "route", "outcome", "code", "status") == (f"/v1/models/{model}", "/v1/models/{id}", "failed", "in_use", 409)
        assert pick(forbidden, "owner", "key", "method", "outcome", "code") == ("bob", reader_id, "GET", "refused", "forbidden")
        assert pick(unknown, "owner", "key", "client", "code") == (None, None, "6.6.6.6", "unauthorized")
        assert pick(nobody, "status", "owner", "outcome") == (401, None, "refused")
        assert [line["key"] for line in lines if line.get("code") == "rate_limited"] == [reader_id] * limited
        text = open(log).read()
        for header in (alice, reader):
            assert header["Authorization"][40:] not in text
        # rotation
        os.rename(log, log + ".1")
        s.process.send_signal(signal.SIGHUP)
        until = time.time() + 5
        while not os.path.exists(log) and time.time() < until:
            time.sleep(0.02)
        assert s.request("POST", f"/v1/jobs/{job}/cancel", headers=alice).status in (200, 202)
        assert pick(wait_lines(log, 1)[0], "path", "outcome") == (f"/v1/jobs/{job}/cancel", "done")


def test_a_cut_upload_is_audited(data, tmp_path):
    alice, _ = add(data, "--owner", "alice")
    log = str(tmp_path / "audit.jsonl")
    with Server("--audit-log", log, data=data) as s:
        path = s.request("POST", "/v1/uploads", headers={**alice, "Tus-Resumable": "1.0.0", "Upload-Length": "1000"}).headers["location"]
        with socket.create_connection((s.host, s.port)) as client:
            client.sendall(f"PATCH {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {alice['Authorization']}\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: 0\r\n"
                           "Content-Type: application/offset+octet-stream\r\nContent-Length: 1000\r\n\r\nhundred".encode())
            time.sleep(0.3)
        line = wait_lines(log, 2)[1]
        assert (line["method"], line["path"], line["status"], line["outcome"], line["owner"]) == ("PATCH", path, 499, "cut", "alice")


@pytest.mark.parametrize("flags, says", [
    (["--audit-log", "/nonexistent/audit"], "audit_log"), (["--trusted-proxies", "10.0.0.0/33"], "trusted_proxies"), (["--forwarded-header", "X-Real-IP"], "forwarded_header"),
    (["--tls-key", "/nonexistent"], "tls_certificate is missing"), (["--tls-certificate", "/nonexistent/c", "--tls-key", "/nonexistent/k"], "tls_certificate"),
    (["--key-requests-per-s", "-1"], "key_requests_per_s")])
def test_refused_settings(flags, says):
    with pytest.raises(RuntimeError, match=says):
        Server(*flags).close()


# ---- TLS


def certificate(folder, name, days="2"):
    cert, key = os.path.join(folder, name + ".crt"), os.path.join(folder, name + ".key")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", key, "-out", cert, "-days", days,
                    "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True, capture_output=True)
    return cert, key


def curl(s, cert, *words):
    return subprocess.run(["curl", "-s", "-m", "20", "--cacert", cert, "-w", "%{http_code}", *words, s.url + "/healthz"], capture_output=True, text=True)


def test_tls(data, tmp_path):
    cert, key = certificate(str(tmp_path), "first")
    other_cert, other_key = certificate(str(tmp_path), "second")
    with pytest.raises(RuntimeError, match="is not the key of the certificate"):
        Server("--tls-certificate", cert, "--tls-key", other_key).close()
    auth, _ = add(data)
    with Server("--tls-certificate", cert, "--tls-key", key, data=data) as s:
        assert s.url.startswith("https://")
        assert curl(s, cert).stdout.endswith("200")
        assert curl(s, other_cert).returncode == 60  # not signed by this one
        assert curl(s, cert, "--tls-max", "1.1").returncode != 0
        assert curl(s, cert, "--tlsv1.3").stdout.endswith("200") and curl(s, cert, "--tls-max", "1.2").stdout.endswith("200")
        plain = subprocess.run(["curl", "-s", "-m", "5", s.url.replace("https", "http") + "/healthz"], capture_output=True)
        assert plain.returncode != 0 and plain.stdout == b""
        assert subprocess.run([BINARY, "healthcheck", "--listen", f"127.0.0.1:{s.port}", "--tls-certificate", cert, "--tls-key", key], timeout=10).returncode == 0
        # a whole job: upload, wait, download
        def call(method, path, body=None, **headers):
            connection = http.client.HTTPSConnection(s.host, s.port, timeout=30, context=ssl.create_default_context(cafile=cert))
            connection.request(method, path, body=body, headers={**auth, **headers})
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            return answer.status, content
        status, made = call("PUT", "/v1/models?name=m.onnx", tiny.classifier(0))
        assert status == 201
        status, job = call("POST", "/v1/jobs", json.dumps({"model": json.loads(made)["id"], "recipe": STEPS}), **{"Content-Type": "application/json"})
        assert status == 202
        job = json.loads(job)["id"]
        while json.loads(call("GET", f"/v1/jobs/{job}?wait=10")[1])["state"] not in ("succeeded", "failed"):
            pass
        status, file = call("GET", f"/v1/jobs/{job}/artifacts/model.onnx")
        assert status == 200 and len(file) > 100
        # renewal: the files are replaced, SIGHUP
        for new, old in ((other_cert, cert), (other_key, key)):
            os.replace(new, old)
        s.process.send_signal(signal.SIGHUP)
        until = time.time() + 5
        while curl(s, cert).returncode != 0:
            assert time.time() < until
            time.sleep(0.05)
        with open(key, "w") as f:
            f.write("nonsense")
        s.process.send_signal(signal.SIGHUP)
        until = time.time() + 5
        while "the old certificate stays" not in s.log_text():
            assert time.time() < until
            time.sleep(0.05)
        assert curl(s, cert).stdout.endswith("200")  # what is no key is not taken
