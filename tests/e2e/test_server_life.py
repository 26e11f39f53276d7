# SPDX-License-Identifier: Apache-2.0
"""The life of a server: start, one a folder, cancel of a running job, graceful stop, sudden death, what is left on disk."""
import http.client
import io
import os
import pathlib
import signal
import struct
import subprocess
import threading
import time
import zipfile

import pytest

import tiny
from pared_server import BINARY, ROOT, Server

DIGITS = os.path.join(ROOT, "examples", "digits", "digits-cnn.onnx")


def npy(shape, dtype, data):
    """A .npy file, written by the format's own description (version 1.0)."""
    head = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    head += b" " * (63 - (10 + len(head)) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


def big_dataset(samples=400_000):
    """So many digits that evaluating them takes a good while."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        z.writestr("x.npy", npy((samples, 1, 8, 8), "<f4", bytes(samples * 256)))
        z.writestr("y.npy", npy((samples,), "<i8", bytes(samples * 8)))
    return out.getvalue()


def setup(server, dataset=None):
    with open(DIGITS, "rb") as f:
        body = {"model": server.request("POST", "/v1/models?name=digits.onnx", f.read()).json()["id"], "recipe": {"steps": []}}
    if dataset:
        body["dataset"] = server.request("POST", "/v1/datasets?name=big.npz", dataset).json()["id"]
    return body


def training(server):
    """The body of a job that trains until it is canceled, and tells of each batch."""
    with open(os.path.join(ROOT, "examples", "digits", "train.npz"), "rb") as f:
        body = setup(server, f.read())
    return {**body, "recipe": {"steps": [{"method": "train.finetune", "epochs": 1000, "batch": 8}]}}


def post(server, body):
    answer = server.post_json("/v1/jobs", body)
    assert answer.status == 202, answer
    return answer.json()["id"]


def job(server, id_):
    return server.request("GET", f"/v1/jobs/{id_}").json()


def wait(server, id_, condition, seconds=60):
    until = time.time() + seconds
    while time.time() < until:
        row = job(server, id_)
        if condition(row):
            return row
        time.sleep(0.02)
    pytest.fail(f"after {seconds} s: {row}")


def busy(row):
    return row["state"] == "running" and row["progress"]["stage"]


def children(server):
    """Processes whose working folder is the server's data folder."""
    found = []
    for cwd in pathlib.Path("/proc").glob("[0-9]*/cwd"):
        try:
            if server.data in os.readlink(cwd):
                found.append(int(cwd.parent.name))
        except OSError:
            pass
    return found


@pytest.fixture(scope="module")
def dataset():
    return big_dataset()


def test_idle_memory():
    with Server() as server:
        time.sleep(0.5)
        assert server.rss_bytes() <= 20 << 20


def test_cancel_of_a_running_job(dataset):
    with Server("--threads", "1") as server:
        id_ = post(server, setup(server, dataset))
        wait(server, id_, busy)
        assert len(children(server)) == 1
        assert server.request("POST", f"/v1/jobs/{id_}/cancel").status == 202
        row = wait(server, id_, lambda r: r["state"] != "running", 5)
        assert row["state"] == "canceled", row
        assert not children(server)
        assert server.request("POST", f"/v1/jobs/{id_}/cancel").status == 409


def test_sigterm_hands_the_job_back(dataset):
    with Server("--threads", "1", "--drain_s", "0") as server:
        id_ = post(server, setup(server, dataset))
        wait(server, id_, busy)
        asked = time.time()
        assert server.stop() == 0
        assert time.time() - asked < 5
        assert not children(server)
        server.start()
        row = wait(server, id_, busy)
        assert (row["attempt"], row["losses"], row["crashes"]) == (2, 0, 0)
        server.request("POST", f"/v1/jobs/{id_}/cancel")


def test_sigterm_lets_a_short_job_end():
    with Server("--drain_s", "60") as server:
        id_ = post(server, setup(server))
        wait(server, id_, lambda r: r["state"] != "queued")
        assert server.stop() == 0
        server.start()
        row = job(server, id_)
        assert (row["state"], row["attempt"]) == ("succeeded", 1)


def test_draining_says_no():
    with Server("--drain_delay_s", "3") as server:
        body = setup(server)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        answer = server.request("GET", "/readyz")
        assert answer.status == 503 and answer.json()["code"] == "unavailable"
        answer = server.post_json("/v1/jobs", body)
        assert answer.status == 503 and int(answer.headers["retry-after"]) > 0
        assert server.request("GET", "/healthz").status == 200
        assert server.process.wait(20) == 0


def stopped_reader(server):
    """Upload until a child that reads the file was stopped in the middle of it."""
    def send():
        try:
            server.request("PUT", "/v1/models", tiny.classifier(0))
        except (OSError, http.client.HTTPException):
            pass  # the server ends

    for _ in range(20):
        sender = threading.Thread(target=send)
        sender.start()
        while sender.is_alive():
            for pid in children(server):
                try:
                    os.kill(pid, signal.SIGSTOP)
                    return pid
                except ProcessLookupError:
                    pass
    raise AssertionError("no child was seen")


def test_a_second_signal_stops_at_once():
    """Also while a child reads an upload, here one that would never end."""
    with Server() as server:
        stopped_reader(server)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(15) == 0
        assert not children(server)


def test_sudden_death_loses_no_job(dataset):
    with Server("--threads", "1") as server:
        id_ = post(server, setup(server, dataset))
        queued = post(server, setup(server))
        wait(server, id_, busy)
        server.process.kill()
        server.process.wait()
        time.sleep(0.3)
        assert not children(server), "the job's process dies with its server"
        server.start()
        row = wait(server, id_, busy, 5)
        assert (row["attempt"], row["losses"]) == (2, 1)
        server.request("POST", f"/v1/jobs/{id_}/cancel")
        assert wait(server, queued, lambda r: r["state"] == "succeeded")["attempt"] == 1


def test_one_server_a_folder():
    with Server() as server:
        second = subprocess.run([BINARY, "serve", "--data", server.data, "--listen", "127.0.0.1:0"], capture_output=True, text=True,
                                timeout=20)
        assert second.returncode == 1
        assert "in use by another pared server" in second.stderr
        assert server.request("GET", "/readyz").status == 200


@pytest.mark.parametrize("flags, words", [
    (["--workers", "many"], "0 to 64"), (["--nonsense", "1"], "no setting"), (["--listen", "nowhere"], "HOST:PORT"),
    (["--listen", "0.0.0.0:0"], "api_key_file"), (["--config", "/nonexistent"], "configuration file"), (["--workers"], "needs a value")])
def test_wrong_settings_are_explained(flags, words, tmp_path):
    run = subprocess.run([BINARY, "serve", "--data", tmp_path / "d", *flags], capture_output=True, text=True, timeout=20)
    assert run.returncode == 2 and words in run.stderr and run.stderr.count("\n") == 1, run


def test_a_job_that_needs_too_much_memory_fails_alone(dataset):
    with Server("--threads", "1", "--job_memory_bytes", "1MiB") as server:
        row = wait(server, post(server, setup(server, dataset)), lambda r: r["state"] not in ("queued", "running"))
        assert row["state"] == "failed" and row["error"]["code"] == "job_out_of_memory", row
        assert server.request("GET", "/healthz").status == 200


def test_a_job_ends_at_its_time_limit(dataset):
    with Server("--threads", "1") as server:
        row = wait(server, post(server, {**setup(server, dataset), "timeout_s": 1}), lambda r: r["state"] not in ("queued", "running"))
        assert row["state"] == "failed" and row["error"]["code"] == "job_timed_out", row
