# SPDX-License-Identifier: Apache-2.0
"""The example clients and CI files, run as a user would run them, against a real server with keys."""
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.request

import onnx
import pytest
import yaml

from pared_server import ROOT, Server

KEY = "team-ci 0123456789abcdef0123456789abcdef"
DIGITS = os.path.join(ROOT, "examples", "digits")
MODEL, TRAIN, TEST = (os.path.join(DIGITS, name) for name in ("digits-cnn.onnx", "train.npz", "test.npz"))
PYTHON = [sys.executable, os.path.join(ROOT, "examples/clients/python/compress.py")]
NODE = ["node", os.path.join(ROOT, "examples/clients/javascript/compress.mjs")]
CLIENTS = [pytest.param(PYTHON, id="python"),
           pytest.param(NODE, id="javascript", marks=pytest.mark.skipif(not shutil.which("node"), reason="skipped: no node"))]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY + "\n")
    with Server("--api_key_file", str(keys)) as s:
        yield s


def run(command, *args, key=KEY.split()[1], cwd=None, env=None):
    return subprocess.run([*command, *map(str, args)], capture_output=True, text=True, timeout=120, cwd=cwd,
                          env={**os.environ, "PARED_API_KEY": key, **(env or {})})


@pytest.mark.parametrize("client", CLIENTS)
def test_upload_run_wait_download(server, client, tmp_path):
    out = tmp_path / "small.onnx"
    done = run(client, server.url, MODEL, "--data", TRAIN, "--eval-data", TEST, "--recipe", "int8", "--out", out)
    assert done.returncode == 0, done
    small = onnx.load(out)
    onnx.checker.check_model(small)
    assert os.path.getsize(out) < 0.5 * os.path.getsize(MODEL)
    assert f"{os.path.getsize(out)} bytes" in done.stdout
    assert any(p.key == "pared.version" for p in small.metadata_props)


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("change, words", [
    (dict(key="wrong"), ["401"]), (dict(recipe="no-such-recipe"), ["422", "/recipe"]), (dict(model=TRAIN), ["422"])], ids=["key", "recipe", "model"])
def test_errors_are_shown(server, client, change, words, tmp_path):
    done = run(client, server.url, change.get("model", MODEL), "--data", TRAIN, "--recipe", change.get("recipe", "int8"), "--out", tmp_path / "x.onnx",
               key=change.get("key", KEY.split()[1]))
    assert done.returncode == 1 and not (tmp_path / "x.onnx").exists(), done
    assert all(word in done.stderr for word in words) and "Traceback" not in done.stderr and "    at " not in done.stderr, done.stderr


@pytest.mark.parametrize("client", CLIENTS)
def test_a_server_that_is_not_there(client, tmp_path):
    done = run(client, "http://127.0.0.1:9", MODEL, "--out", tmp_path / "x.onnx")
    assert done.returncode == 1 and "/v1/models" in done.stderr
    assert "Traceback" not in done.stderr and "    at " not in done.stderr, done.stderr


# ---- CI files


def script_of(name):
    with open(os.path.join(ROOT, "examples/ci", name)) as f:
        text = yaml.safe_load(f)
    if name.startswith("github"):
        return next(s["run"] for s in text["jobs"]["compress"]["steps"] if "run" in s)
    return text["compress"]["script"][0]


@pytest.mark.parametrize("name", ["github-actions.yml", "gitlab-ci.yml"])
def test_the_shell_of_ci_files(server, name, tmp_path):
    shutil.copytree(os.path.join(ROOT, "examples/ci"), tmp_path / "ci")
    (tmp_path / "models").mkdir()
    shutil.copy(MODEL, tmp_path / "models/digits.onnx")
    shutil.copy(TRAIN, tmp_path / "models/digits.npz")
    shell = ["bash", "-e", "-c"] if name.startswith("github") else ["sh", "-e", "-c"]
    env = {"PARED_URL": server.url, "RECIPE": "int8", "GITHUB_RUN_ID": name}
    done = run([*shell, script_of(name)], cwd=tmp_path, env=env)
    assert done.returncode == 0, done
    onnx.checker.check_model(onnx.load(tmp_path / "small/digits.onnx"))
    report = json.loads((tmp_path / "small/digits.report.json").read_text())
    assert report["ratio"]["bytes"] < 0.5
    again = run([*shell, script_of(name)], cwd=tmp_path, env=env)
    first = [line for line in done.stdout.splitlines() if line.startswith("job ")]
    assert again.returncode == 0 and first == [line for line in again.stdout.splitlines() if line.startswith("job ")], "the same run finds its job"


def test_a_failed_job_fails_the_pipeline(server, tmp_path):
    script = os.path.join(ROOT, "examples/ci/compress.sh")
    done = run([script], server.url, MODEL, tmp_path / "out.onnx", env={"RECIPE": "no-such-recipe"})
    assert done.returncode != 0 and not (tmp_path / "out.onnx").exists(), done
    assert "recipe_invalid" in done.stderr and "/recipe" in done.stderr, done
    refused = run([script], server.url, MODEL, tmp_path / "out.onnx", key="wrong")
    assert refused.returncode != 0 and "unauthorized" in refused.stderr and "null" not in refused.stdout, refused


def test_a_refusal_that_passes_is_tried_again(server, tmp_path):
    """A proxy whose server is away for the first request of each kind."""
    asked = []

    class Proxy(http.server.BaseHTTPRequestHandler):
        def forward(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append((self.command, self.path))
            if asked.count(asked[-1]) == 1:
                status, headers, answer = 503, {"Content-Type": "application/problem+json", "Retry-After": "1"}, b'{"status":503,"detail":"away"}'
            else:
                names = [n for n in self.headers if n.lower() not in ("host", "connection", "accept-encoding", "expect")]
                request = urllib.request.Request(server.url + self.path, body or None, {n: self.headers[n] for n in names}, method=self.command)
                with urllib.request.urlopen(request) as got:
                    status, headers, answer = got.status, {"Content-Type": got.headers["Content-Type"]}, got.read()
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_PUT = do_POST = forward

        def log_message(self, *_):
            pass

    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    try:
        done = run([os.path.join(ROOT, "examples/ci/compress.sh")], f"http://127.0.0.1:{proxy.server_port}", MODEL, tmp_path / "out.onnx", env={"RECIPE": "fp16"})
    finally:
        proxy.shutdown()
    assert done.returncode == 0 and "null" not in done.stdout, done
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"))
    assert min(asked.count(one) for one in asked) >= 2 and json.loads((tmp_path / "out.report.json").read_text())["ratio"]["bytes"] < 1
