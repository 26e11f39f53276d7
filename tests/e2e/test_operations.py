# SPDX-License-Identifier: Apache-2.0
"""What those who run a server rely on: logs, metrics with their dashboard and alerts, readiness, admission, reload, drain, unit, manual
page, completion."""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest
import yaml

import exposition
from pared_server import BINARY, ROOT, Server

DIGITS = os.path.join(ROOT, "examples", "digits", "digits-cnn.onnx")
SECRET = "s3cr3t-key-that-nobody-may-read"


def upload(server, **headers):
    with open(DIGITS, "rb") as f:
        return server.request("PUT", "/v1/models?name=digits.onnx", f.read(), headers=headers).json()["id"]


def job(server, model, **more):
    answer = server.post_json("/v1/jobs", {"model": model, "recipe": {"steps": []}, **more})
    assert answer.status == 202, answer
    return answer.json()["id"]


def log_has(server, words, seconds=5):
    until = time.time() + seconds
    while time.time() < until:
        for line in server.log_text().splitlines():
            if all(word in line for word in words):
                return line
        time.sleep(0.02)
    pytest.fail(f"no line with {words} in:\n{server.log_text()}")


# ---- logs


def test_json_log_with_ids(tmp_path):
    (tmp_path / "keys").write_text(f"team-a {SECRET}\n")
    auth = {"Authorization": f"Bearer {SECRET}"}
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    with Server("--log_format", "json", "--api_key_file", str(tmp_path / "keys")) as s:
        model = upload(s, **auth)
        answer = s.post_json("/v1/jobs", {"model": model, "recipe": {"steps": []}},
                             headers={**auth, "X-Request-Id": "my-request", "traceparent": f"00-{trace}-00f067aa0ba902b7-01"})
        id_ = answer.json()["id"]
        for _ in range(100):
            if s.get(f"/v1/jobs/{id_}?wait=1", headers=auth).json()["state"] == "succeeded":
                break
        link = s.request("POST", f"/v1/jobs/{id_}/artifacts/model.onnx/link", headers=auth).json()["url"]
        token = link.rsplit("/", 1)[1]
        assert s.get(f"/v1/links/{token}").status == 200
        s.get(f"/v1/models?name=x&bad={SECRET}", headers=auth)
        s.get("/v1/models", headers={"Authorization": "Bearer wrong-" + SECRET})
        s.raw(b"GET /no\x1b[31m%0a\"\\ HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: a\"b\r\n\r\n", timeout=1)
        s.get("/healthz")
        assert s.stop() == 0
        lines = [json.loads(line) for line in s.log_text().splitlines()]  # every line is JSON
        text = s.log_text()
    assert SECRET not in text and token not in text and "/v1/links/{token}" in text
    assert all({"time", "level", "message"} <= set(row) for row in lines)
    request = next(row for row in lines if row.get("request_id") == "my-request")
    assert (request["method"], request["path"], request["status"], request["owner"], request["trace_id"]) == ("POST", "/v1/jobs", 202, "team-a", trace)
    assert request["ms"] > 0 and request["bytes_in"] > 0 and request["bytes_out"] > 0
    started = next(row for row in lines if row.get("job_id") == id_ and "started" in row["message"])
    assert (started["owner"], started["trace_id"]) == ("team-a", trace), "the job's lines are found by the request's trace"
    assert sum(row["message"] == "request" and row.get("status") == 401 and row.get("code") == "unauthorized" for row in lines) == 1
    assert not any(row.get("path") == "/healthz" for row in lines), "answered probes are debug"
    assert "\x1b" not in text


def test_one_access_line_a_request_and_none_when_off():
    with Server() as s:
        for i in range(5):
            s.get(f"/v1/models?limit={i + 1}")
        assert s.stop() == 0
        found = [line for line in s.log_text().splitlines() if " info request method=GET path=/v1/models status=200 ms=" in line]
        assert len(found) == 5 and "limit" not in "".join(found)
    with Server("--access_level", "debug") as s:
        s.get("/v1/models")
        assert s.stop() == 0
        assert " request " not in s.log_text()


# ---- reload


def test_reload(tmp_path):
    settings, keys = tmp_path / "pared.conf", tmp_path / "keys"
    audit = tmp_path / "audit"
    settings.write_text(f"api_key_file = {keys}\nmax_json_bytes = 1MiB\naudit_log = {audit}\n")
    keys.write_text("team-a first-key-0123456789\n")
    with Server("--config", str(settings)) as s:
        first, second = ({"Authorization": f"Bearer {k}"} for k in ("first-key-0123456789", "second-key-0123456789"))
        assert s.get("/v1/models", headers=first).status == 200 and s.get("/v1/models", headers=second).status == 401
        keys.write_text("team-a second-key-0123456789\n")
        settings.write_text(f"api_key_file = {keys}\nmax_json_bytes = 1024\nlog_format = json\nworkers = 3\naudit_log = {audit}\n")
        s.process.send_signal(signal.SIGHUP)
        changed = json.loads(log_has(s, ["settings read again"]))
        assert "max_json_bytes" in changed["message"] and "log_format" in changed["message"]
        assert "workers" in json.loads(log_has(s, ["wait for a restart"]))["message"]
        assert s.get("/v1/models", headers=first).status == 401 and s.get("/v1/models", headers=second).status == 200
        big = s.post_json("/v1/jobs", {"model": "x" * 2000}, headers=second)
        assert big.status == 413 and "1024" in big.json()["detail"]
        settings.write_text("colour = red\n")
        audit.rename(tmp_path / "audit.1")
        s.process.send_signal(signal.SIGHUP)
        log_has(s, ["error", "the old ones stay", "line 1"])
        assert audit.exists(), "a log that was moved is left, whatever is wrong with the settings"
        assert s.get("/v1/models", headers=second).status == 200
        rows = exposition.parse(s.get("/metrics", headers=second).body.decode())["pared_config_reloads_total"].samples
        assert {r[1]["outcome"]: r[2] for r in rows} == {"done": 1, "failed": 1}


# ---- metrics, dashboard, alerts


def counted(server, lines, seconds=10):
    """The metrics once they have these lines: what ends is counted after its client knows, so the first scrape may be too early."""
    until = time.time() + seconds
    while True:
        answer = server.get("/metrics")
        if set(lines) <= set(answer.body.decode().splitlines()) or time.time() > until:
            return answer
        time.sleep(0.02)


@pytest.fixture(scope="module")
def scraped():
    """Families after some traffic and one job, and what had an id in it."""
    with Server() as s:
        model = upload(s)
        id_ = job(s, model)
        assert s.wait_job(id_)["state"] == "succeeded"
        artifacts = len(s.get(f"/v1/jobs/{id_}/artifacts").json()["data"])
        s.get("/v1/models/mdl_00000000000000000000000000")
        s.get("/nothing/at/all")
        s.request("BREW", "/v1/models")
        s.request("PUT", "/v1/models?name=x", b"no model")
        answer = counted(s, ['pared_http_requests_total{method="PUT",route="/v1/models",code="201"} 1',
                             'pared_http_requests_total{method="PUT",route="/v1/models",code="422"} 1',
                             'pared_http_requests_total{method="GET",route="/v1/models/{id}",code="404"} 1',
                             'pared_job_duration_seconds_count{kind="compress",outcome="succeeded"} 1', f"pared_artifact_bytes_count {artifacts}"])
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        return exposition.parse(answer.body.decode()), [model, id_]


def test_metrics_are_well_formed_and_true(scraped):
    families, ids = scraped
    assert len(families) > 35
    text = json.dumps([(f.name, f.samples) for f in families.values()])
    assert not any(i in text for i in ids) and "mdl_0" not in text and "/nothing" not in text

    def value(name, suffix="", **labels):
        found = [v for s, l, v in families[name].samples if s == suffix and all(l.get(k) == w for k, w in labels.items())]
        assert len(found) == 1, (name, labels, found)
        return found[0]
    assert value("pared_upload_bytes_total") == os.path.getsize(DIGITS) + len("no model")
    assert value("pared_uploads_refused_total") == 1
    assert value("pared_jobs_accepted_total") == 1
    assert value("pared_jobs_ended_total", outcome="succeeded") == 1
    assert value("pared_job_duration_seconds", "_count", outcome="succeeded", kind="compress") == 1
    assert value("pared_job_queue_wait_seconds", "_count") == 1
    assert value("pared_artifact_bytes", "_count") >= 2
    assert value("pared_child_exits_total", reason="result") == 2 and value("pared_child_exits_total", reason="error") == 1
    assert value("pared_jobs", state="succeeded", queue="default") == 1
    assert value("pared_http_requests_total", method="PUT", route="/v1/models", code="201") == 1
    assert value("pared_http_requests_total", method="GET", route="/v1/models/{id}", code="404") == 1
    assert value("pared_http_request_duration_seconds", "_count", method="PUT", route="/v1/models") == 2
    assert value("pared_store_up") == 1 and value("pared_workers") == 1 and value("pared_draining") == 0
    assert sum(v for _, _, v in families["pared_store_errors_total"].samples) == 0
    assert 1e6 < value("process_resident_memory_bytes") < 1e9
    assert abs(value("process_start_time_seconds") - time.time()) < 120
    required = {"pared_http_requests_total": {"method", "route", "code"}, "pared_jobs": {"state", "queue"}, "pared_child_exits_total": {"reason"},
                "pared_job_duration_seconds": {"kind", "outcome"}, "pared_store_errors_total": {"op"}, "pared_build_info": {"version"}}
    for name, labels in required.items():
        assert all(labels <= set(l) for _, l, _ in families[name].samples), name


def known(families):
    names = {"up": {"job", "instance"}}
    for family in families.values():
        for suffix in exposition.SUFFIXES[family.type]:
            names[family.name + suffix] = {"job", "instance"} | {k for s, l, _ in family.samples for k in l if s == suffix}
    return names


def check_expression(expression, names):
    found, groups = exposition.names_in(expression)
    assert found or re.search(r"\$", expression), expression
    for name, labels in found.items():
        assert name in names, f"{name} of {expression}"
        assert labels <= names[name], f"{name} has no {labels - names[name]}: {expression}"
    assert groups <= set().union(*(names[n] for n in found)), expression


def test_dashboard_names_what_exists(scraped):
    with open(os.path.join(ROOT, "docker/grafana/pared.json")) as f:
        board = json.load(f)
    targets = [t["expr"] for p in board["panels"] for t in p.get("targets", [])]
    assert len(targets) > 30 and len({p["id"] for p in board["panels"]}) == len(board["panels"])
    for expression in targets + [a["expr"] for a in board["annotations"]["list"]]:
        check_expression(expression, known(scraped[0]))
    used = set().union(*(exposition.names_in(e)[0] for e in targets))
    missing = {n for n in scraped[0] if n.startswith("pared_")} - {re.sub(r"_(bucket|sum|count)$", "", u) for u in used} - used
    assert missing <= {"pared_artifacts"} | used, f"no panel shows {missing}"
    for a in board["panels"]:
        for b in board["panels"]:
            pa, pb = a["gridPos"], b["gridPos"]
            apart = pa["x"] + pa["w"] <= pb["x"] or pb["x"] + pb["w"] <= pa["x"] or pa["y"] + pa["h"] <= pb["y"] or pb["y"] + pb["h"] <= pa["y"]
            assert a is b or apart, (a["title"], b["title"])


def test_alerts_name_what_exists(scraped):
    with open(os.path.join(ROOT, "docker/prometheus/alerts.yaml")) as f:
        rules = [r for g in yaml.safe_load(f)["groups"] for r in g["rules"]]
    with open(os.path.join(ROOT, "docs/operations.md")) as f:
        heads = {re.sub(r"[^a-z0-9 _-]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", f.read(), re.M)}
    assert len({r["alert"] for r in rules}) == len(rules) > 8
    for rule in rules:
        check_expression(rule["expr"], known(scraped[0]))
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"} and rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"] and rule["annotations"]["runbook"].partition("#")[2] in heads, rule["alert"]


# ---- ready, admission, drain


def test_ready_says_what_is_wrong_with_figures():
    with Server("--min_free_disk_bytes", "1000t") as s:
        answer = s.get("/readyz")
        assert answer.status == 503 and answer.headers["content-type"] == "application/problem+json" and answer.headers["retry-after"]
        checks = answer.json()["checks"]
        assert [n for n in checks if not checks[n]["ok"]] == ["disk"] and checks["disk"]["reserve_bytes"] == 1000 << 40
        assert s.get("/healthz").status == 200


def test_short_of_memory_nothing_new_is_taken(tmp_path):
    settings = tmp_path / "pared.conf"
    settings.write_text("")
    with Server("--config", str(settings), "--workers", "0") as s:
        model = upload(s)
        waiting = job(s, model)
        settings.write_text("min_free_memory_bytes = 900t\n")
        s.process.send_signal(signal.SIGHUP)
        log_has(s, ["uploads and jobs are refused", "memory"])
        for answer in (s.post_json("/v1/jobs", {"model": model, "recipe": {"steps": []}}), s.request("PUT", "/v1/models?name=x", b"1234")):
            assert answer.status == 503 and int(answer.headers["retry-after"]) > 0 and "memory" in answer.json()["detail"], answer
        assert s.get("/readyz").status == 503
        assert s.get(f"/v1/jobs/{waiting}").json()["state"] == "queued"
        assert s.request("POST", f"/v1/jobs/{waiting}/cancel").status == 202, "what makes room goes on"
        settings.write_text("")
        s.process.send_signal(signal.SIGHUP)
        log_has(s, ["taken again"])
        job(s, model)


def test_short_of_memory_no_job_is_started():
    with Server("--workers", "0") as s:
        id_ = job(s, upload(s))
        s.stop()
        s.flags = ["--min_free_memory_bytes", "900t"]
        s.start()
        time.sleep(1.5)
        assert s.get(f"/v1/jobs/{id_}").json()["state"] == "queued"
        s.stop()
        s.flags = []
        s.start()
        assert s.wait_job(id_)["state"] == "succeeded"


def test_the_service_manager_is_told(tmp_path):
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.settimeout(5)
        with Server(env={"NOTIFY_SOCKET": path}) as s:
            assert manager.recv(100) == b"READY=1"
            assert s.stop() == 0
            assert manager.recv(100) == b"STOPPING=1"


# ---- unit, manual page, completion


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="skipped: no systemd")
def test_unit(tmp_path):
    unit = os.path.join(ROOT, "dist/systemd/pared.service")
    with open(unit) as f:
        text = f.read()
    copy = tmp_path / "pared.service"
    copy.write_text(text.replace("/usr/local/bin/pared", BINARY).replace("Documentation=man:pared(1) ", "Documentation="))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
    assert done.returncode == 0 and "pared.service" not in done.stderr, done
    done = subprocess.run(["systemd-analyze", "security", "--offline=true", copy], capture_output=True, text=True)
    level = float(re.search(r"exposure level for pared.service: ([0-9.]+)", done.stdout)[1])
    assert level <= 1.6, done.stdout[-300:]
    with open(os.path.join(ROOT, "dist/systemd/pared.conf")) as f:
        settings = tmp_path / "pared.conf"
        settings.write_text(re.sub(r"^#(listen|api_key_file)", r"# \1", f.read(), flags=re.M))
    done = subprocess.run([BINARY, "serve", "--config", settings, "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    with Server("--config", str(settings), listen="127.0.0.1:0") as s:
        assert s.get("/readyz").status == 200


def made(what):
    return subprocess.run(["python3", os.path.join(ROOT, "tools/cli_doc.py"), BINARY, what], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("what, path", [("man", "docs/pared.1"), ("bash", "docs/completion/pared.bash"), ("zsh", "docs/completion/_pared")])
def test_documents_are_those_of_the_binary(what, path):
    with open(os.path.join(ROOT, path)) as f:
        assert made(what) == f.read(), "run: make docs"


@pytest.mark.skipif(not shutil.which("groff"), reason="skipped: no groff")
def test_manual_page_is_clean():
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", os.path.join(ROOT, "docs/pared.1")], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
    text = re.sub(r".\x08|\x1b\[[0-9;]*m", "", done.stdout)
    for line in subprocess.run([BINARY, "--help"], capture_output=True, text=True).stdout.splitlines():
        if line.startswith("  "):
            assert f"pared {line.split()[0]}" in text
    assert all(f"--{name}" in text for name in ("listen", "drain_s", "workers", "recipe", "checkpoint"))


def bash_completes(*words):
    script = "source docs/completion/pared.bash; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); compopt() { :; }; _pared; printf '%s\\n' \"${COMPREPLY[@]}\""
    done = subprocess.run(["bash", "-c", script, "bash", *words], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and not done.stderr, done
    return done.stdout.split()


def test_bash_completion():
    assert {"run", "serve", "inspect"} <= set(bash_completes("pared", ""))
    assert bash_completes("pared", "hea") == ["healthcheck"]
    assert bash_completes("pared", "run", "--che") == ["--checkpoint"]
    assert "prune.weights" in bash_completes("pared", "run", "m.onnx", "--step", "prune.")
    assert "int8" in bash_completes("pared", "run", "m.onnx", "--recipe", "int")
    assert bash_completes("pared", "serve", "--log_level", "d") == ["debug"]
    assert bash_completes("pared", "serve", "--drain") == ["--drain_s", "--drain_delay_s"]
    assert bash_completes("pared", "run", "--data", "examples/digits/train") == ["examples/digits/train.npz"]
    assert bash_completes("pared", "run", "--threads", "") == []
    assert bash_completes("pared", "keys", "re") == ["revoke"]


@pytest.mark.skipif(not shutil.which("zsh"), reason="skipped: no zsh")
def test_zsh_completion(tmp_path):
    """In a real zsh behind a terminal: a tab after `pared hea` and after `pared run --che`."""
    shutil.copy(os.path.join(ROOT, "docs/completion/_pared"), tmp_path)
    probe = ("zmodload zsh/zpty; zpty z zsh -f -i; zpty -w z \"fpath=(%s \\$fpath); autoload -Uz compinit; compinit -u -D; PS1='> '; unsetopt prompt_cr; "
             "stty -echo 2>/dev/null; echo READ''Y\"; zpty -r z out '*READY*'; for line in \"$@\"; do zpty -n -w z \"${line%%|*}\"$'\\t'; "
             "zpty -r z out \"*${line#*|}*\"; print -r -- \"$out\"; zpty -n -w z $'\\x15'; done; zpty -d z") % tmp_path
    lines = ("pared hea|lthcheck", "pared run --che|ckpoint", "pared serve --log_level deb|ug")  # typed | what zsh adds
    done = subprocess.run(["zsh", "-f", "-c", probe, "zsh", *lines], capture_output=True, text=True, timeout=60)
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", done.stdout)
    for word in ("healthcheck", "--checkpoint", "debug"):
        assert word in text, (word, text[-800:], done.stderr)
