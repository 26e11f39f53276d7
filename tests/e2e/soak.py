#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mixed load for a given time on a server under a sanitizer.

Eight clients and two that hang up: models and data sets uploaded by every way (body, form, resumable pieces, an artifact), jobs of many
kinds and priorities, cancels, retries, lists, long polls, streams of events, whole, partial and linked downloads, deletes, refusals.
Settings are read again, backups are taken and metrics are read meanwhile. Jobs, artifacts and uploads end by age, and the sweep for
forgotten files runs every few seconds. It ends well when
  - no sanitizer reported anything, of the server or of a child (a job whose process reports fails), and a stop ends with status 0
  - every answer had a status that its request may have; refusals for want of memory or disk (503, 507) are below one in a hundred
  - memory is flat: the median of the last quarter is at most that of the second, a twentieth of it (a third, in less than
    15 minutes) and 8 MiB; so are open files
  - nothing is left behind: no process, no work file, no stored file without a row
Usage: soak.py --mode asan|tsan --seconds N [--pared PROGRAM] [--clients 8] [--seed N]"""
import argparse
import array
import base64
import collections
import hashlib
import http.client
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
parser = argparse.ArgumentParser()
parser.add_argument("--mode", choices=["asan", "tsan"], default="asan")
parser.add_argument("--seconds", type=float, default=60)
parser.add_argument("--pared", help="default: build/MODE/pared")
parser.add_argument("--clients", type=int, default=8)
parser.add_argument("--seed", type=int, default=1)
args = parser.parse_args()
BINARY = pathlib.Path(args.pared or ROOT / "build" / args.mode / "pared").resolve()
os.environ["PARED_BINARY"] = str(BINARY)
from pared_server import Server, leave_early, multipart  # noqa: E402  (reads PARED_BINARY)
from test_server_life import children, npy  # noqa: E402

REPORT = BINARY.parent / "soak-report"
# a small quarantine: else ASan's own grows until it has its 256 MB, which hides what the server does
OPTIONS = {"asan": ("ASAN_OPTIONS", "detect_leaks=1:quarantine_size_mb=16"), "tsan": ("TSAN_OPTIONS", "halt_on_error=0")}[args.mode]
ENVIRONMENT = {OPTIONS[0]: f"{OPTIONS[1]}:log_path={REPORT}", "PARED_SANDBOX": "off",  # sanitizers trace themselves and write reports
               "PARED_INSPECT_MEMORY_BYTES": "1000t", "PARED_JOB_MEMORY_BYTES": "1000t"}
FLAGS = ["--workers", "2", "--threads", "2", "--sweep_interval_s", "3", "--job_ttl_s", "40", "--artifact_ttl_s", "20", "--upload_ttl_s", "60",
         "--idempotency_ttl_s", "60", "--storage_check_s", "5", "--log_level", "warn", "--min_free_memory_bytes", "0", "--events_ping_s", "1",
         "--http_header_timeout_s", "300", "--http_min_rate_bytes", "0"]  # a sanitized server on a busy machine is slow itself
TUS = {"Tus-Resumable": "1.0.0"}
DIGITS = ROOT / "examples/digits"
MODEL, TRAIN, TEST = ((DIGITS / name).read_bytes() for name in ("digits-cnn.onnx", "train.npz", "test.npz"))
PRUNE = {"method": "prune.weights", "sparsity": 0.5}
RECIPES = [  # steps, needs data
    ([], False), ([{"method": "graph.optimize"}], False), ([PRUNE], False), ([{"method": "prune.channels", "ratio": 0.2}], False),
    ([{"method": "quantize.dynamic"}], False), ([PRUNE, {"method": "encode.container"}], False),
    ([{"method": "quantize.static", "samples": 16}], True), ([{"method": "train.finetune", "epochs": 1, "steps": [PRUNE]}], True)]
ENDED = ("succeeded", "failed", "canceled")
SHORT = (503, 507)
stop, lock = threading.Event(), threading.Lock()
answers, bad, ends = collections.Counter(), [], collections.Counter()


def wrong(*what):
    bad.append(what)
    if len(bad) <= 20:
        print("wrong:", *[str(part)[:400] for part in what], flush=True)



def unlike(rng):
    """The model with a text of its own (ModelProto.doc_string): other bytes, other content."""
    text = b"%016x" % rng.getrandbits(64)
    return MODEL + b"\x32" + bytes([len(text)]) + text


def small_data(rng):
    values = array.array("f", [rng.random() for _ in range(8 * 64)])
    return npy((8, 1, 8, 8), "<f4", values.tobytes())


class Client:
    """One client: what it has made, and a connection that it keeps for a while."""

    def __init__(self, server, seed):
        self.server, self.rng, self.connection = server, random.Random(seed), None
        self.models, self.datasets, self.jobs, self.artifacts, self.recipes = [], [], [], [], []
        self.made = []  # models that jobs made: quantized, say, which other jobs refuse
        self.model = self.call("PUT", "/v1/models?name=soak.onnx", MODEL, may=(200, 201)).json()["id"]
        self.train = self.call("PUT", "/v1/datasets?name=train.npz", TRAIN, may=(200, 201)).json()["id"]

    def call(self, method, path, body=None, headers=None, may=(200,)):
        """An answer, counted. A body that is no bytes goes as JSON."""
        sent = dict(headers or {})
        if body is not None and not isinstance(body, bytes):
            body, sent["Content-Type"] = json.dumps(body), "application/json"
        answer = self.kept(method, path, body, sent) if self.rng.random() < 0.5 else self.server.request(method, path, body, sent, timeout=300)
        with lock:
            answers[answer.status] += 1
            if answer.status not in (*may, *SHORT):
                wrong(method, path, answer)
        return answer

    def kept(self, method, path, body, headers):
        from pared_server import Answer
        for fresh in (False, True):  # a connection that was idle for long may be gone
            if self.connection is None or fresh:
                self.connection = http.client.HTTPConnection(self.server.host, self.server.port, timeout=300)
            try:
                self.connection.request(method, path, body=body, headers=headers)
                got = self.connection.getresponse()
                return Answer(got.status, {k.lower(): v for k, v in got.getheaders()}, got.read())
            except (ConnectionError, http.client.HTTPException):
                self.connection.close()
                if fresh:
                    raise

    # ---- uploads

    def keep(self, answer, rows):
        if answer.status in (200, 201) and answer.json()["id"] != self.model:  # which a job without steps gives back
            rows.append(answer.json()["id"])

    def upload_body(self):
        self.keep(self.call("PUT", "/v1/models?name=body.onnx", unlike(self.rng), may=(201,)), self.models)

    def upload_form(self):
        kind, body = multipart([("model", "form.onnx", unlike(self.rng))])
        self.keep(self.call("POST", "/v1/models", body, {"Content-Type": kind}, may=(201,)), self.models)

    def upload_pieces(self):
        data, at = unlike(self.rng), 0
        name = base64.b64encode(b"pieces.onnx").decode()
        begun = self.call("POST", "/v1/uploads", headers={**TUS, "Upload-Length": str(len(data)), "Upload-Metadata": f"filename {name}"}, may=(201,))
        if begun.status != 201:
            return
        path, leaves = begun.headers["location"], self.rng.random() < 0.2
        while at < len(data):
            piece = data[at:at + self.rng.randrange(1, len(data))]
            digest = base64.b64encode(hashlib.sha256(piece).digest()).decode()
            done = self.call("PATCH", path, piece, {**TUS, "Upload-Offset": str(at), "Content-Type": "application/offset+octet-stream",
                                                    "Upload-Checksum": f"sha256 {digest}"}, may=(204, 404, 409))  # or it took too long, or was sent again
            at += len(piece) if done.status == 204 else len(data)
            if leaves and self.rng.random() < 0.5:  # it ends by its age
                return
        self.call("HEAD", path, headers=TUS, may=(200, 404))
        if self.rng.random() < 0.2:
            self.call("DELETE", path, headers=TUS, may=(204, 404))
        else:
            self.keep(self.call("POST", "/v1/models", {"upload": path.rsplit("/", 1)[1]}, may=(201, 422)), self.models)

    def upload_artifact(self):
        if self.artifacts:  # may have ended by its age
            self.keep(self.call("POST", "/v1/models", {"artifact": self.rng.choice(self.artifacts)["id"]}, may=(200, 201, 422)), self.made)

    def upload_dataset(self):
        self.keep(self.call("PUT", "/v1/datasets?name=x.npy", small_data(self.rng), may=(201,)), self.datasets)

    def upload_nonsense(self):
        self.call("PUT", "/v1/models?name=no.onnx", self.rng.randbytes(self.rng.randrange(1, 5000)), may=(422,))
        cut = MODEL[:self.rng.randrange(1, len(MODEL))]
        self.call("PUT", "/v1/models?name=cut.onnx", cut, may=(200, 201, 422))

    # ---- jobs

    def post(self):
        if len(self.jobs) >= 15:  # a machine that is too slow for more
            return self.cancel()
        steps, data = self.rng.choice(RECIPES)
        body = {"model": self.rng.choice([self.model, *self.models[-5:]]), "recipe": {"steps": steps, "seed": self.rng.randrange(1 << 30)},
                "priority": self.rng.randrange(5), "labels": {"client": str(self.rng.randrange(9)), "kind": "soak"}, "name": "soak"}
        if data:
            body["dataset"] = self.train
        if self.rng.random() < 0.3:
            body["reuse"], body["recipe"]["seed"] = True, 7
        answer = self.call("POST", "/v1/jobs", body, {"Idempotency-Key": f"{self.rng.getrandbits(64):x}"}, may=(200, 202, 422))
        if answer.status in (200, 202):
            self.jobs.append(answer.json()["id"])

    def a_job(self):
        return self.rng.choice(self.jobs)

    def post_nonsense(self):
        self.call("POST", "/v1/jobs", {"model": self.model, "recipe": {"steps": [{"method": "no.such", "x": [1] * 50}]}}, may=(422,))
        self.call("POST", "/v1/jobs", b"{" * self.rng.randrange(1, 3000), {"Content-Type": "application/json"}, may=(400,))
        self.call("GET", "/v1/jobs?limit=zero", may=(400, 422))
        self.call("GET", "/v1/jobs/job_" + "0" * 26, may=(404,))

    def look(self):
        answer = self.call("GET", f"/v1/jobs/{self.a_job()}?wait={self.rng.choice([0, 0, 1, 2])}", may=(200, 404))
        if answer.status == 200 and answer.json()["state"] in ENDED:
            job = answer.json()
            with lock:
                ends[job["state"] if job["state"] != "failed" else "failed: " + job["error"]["code"]] += 1
                if job["state"] == "failed":
                    wrong("a job", job["id"], answer)
            if job["state"] == "succeeded":
                self.artifacts = self.call("GET", f"/v1/jobs/{job['id']}/artifacts", may=(200, 404)).json().get("data") or self.artifacts

    def cancel(self):
        self.call("POST", f"/v1/jobs/{self.a_job()}/cancel", may=(200, 202, 404, 409))

    def retry(self):
        answer = self.call("POST", f"/v1/jobs/{self.a_job()}/retry", may=(202, 404, 409, 422))
        if answer.status == 202:
            self.jobs.append(answer.json()["id"])

    def delete(self):
        job = self.jobs.pop(self.rng.randrange(len(self.jobs)))
        if self.call("DELETE", f"/v1/jobs/{job}", may=(204, 404, 409)).status == 409:
            self.jobs.append(job)

    def delete_resources(self):
        for kind, rows in (("models", self.models), ("models", self.made), ("datasets", self.datasets)):
            if rows:
                row = rows.pop(0)
                if self.call("DELETE", f"/v1/{kind}/{row}", may=(204, 404, 409)).status == 409:
                    rows.append(row)

    def lists(self):
        cursor = ""
        for _ in range(3):
            query = self.rng.choice(["", "&state=succeeded", "&state=queued,running", "&label=client:3", "&name=soak", f"&model={self.model}"])
            page = self.call("GET", f"/v1/jobs?limit=20{query}{cursor}", headers={"Accept-Encoding": self.rng.choice(["gzip", "zstd", "identity"])},
                             may=(200, 400, 422))
            if page.headers.get("content-encoding") or page.status != 200 or not page.json().get("next_cursor"):
                break
            cursor = f"&cursor={page.json()['next_cursor']}"
        for path in ("/v1/models?limit=30", "/v1/datasets", "/v1/uploads", "/v1/recipes", "/v1/stats", "/metrics", "/readyz", "/v1/methods"):
            if self.rng.random() < 0.3:
                self.call("GET", path)

    def recipe(self):
        name = f"r-{self.rng.getrandbits(40):x}"
        self.call("POST", "/v1/recipes", {"name": name, "recipe": {"steps": [PRUNE]}}, may=(201,))
        self.call("GET", f"/v1/recipes/{name}")
        self.call("DELETE", f"/v1/recipes/{name}", may=(204,))

    # ---- reading

    def download(self):
        ranges = self.rng.choice([{}, {"Range": "bytes=100-4000"}, {"Range": "bytes=-10"}, {"Range": "bytes=0-1,50-60"}])
        self.call("GET", f"/v1/models/{self.model}/content", headers=ranges, may=(200, 206))
        for part in ("", "/layers", "/graph", "/groups"):
            self.call("GET", f"/v1/models/{self.model}{part}")
        if self.artifacts:
            row = self.rng.choice(self.artifacts)
            answer = self.call("GET", row["href"], may=(200, 404))
            if answer.status == 200 and hashlib.sha256(answer.body).hexdigest() != row["sha256"]:
                wrong("hash of", row["href"], answer)
            link = self.call("POST", row["href"] + "/link", may=(200, 201, 404))
            if link.status != 404 and "url" in link.json():
                self.call("GET", "/" + link.json()["url"].split("/", 3)[-1] if "://" in link.json()["url"] else link.json()["url"], may=(200, 404))
        job = self.a_job()
        for part in ("report", "metrics"):
            self.call("GET", f"/v1/jobs/{job}/{part}", may=(200, 404, 409))

    def events(self):
        """A stream of events, to its end or for a while."""
        text = f"GET /v1/jobs/{self.a_job()}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode()
        until = time.time() + self.rng.random() * 4
        with socket.create_connection((self.server.host, self.server.port), timeout=1) as s:
            s.sendall(text)
            while time.time() < until:
                try:
                    if not s.recv(65536):
                        break
                except TimeoutError:
                    pass

    ACTIONS = {post: 8, look: 12, cancel: 2, retry: 1, delete: 4, lists: 4, download: 3, events: 4, upload_body: 3, upload_form: 2, upload_pieces: 2,
               upload_artifact: 2, upload_dataset: 2, upload_nonsense: 1, post_nonsense: 1, delete_resources: 9, recipe: 1}

    def run(self):
        kinds, weights = list(self.ACTIONS), list(self.ACTIONS.values())
        while not stop.is_set():
            what = self.rng.choices(kinds, weights)[0] if self.jobs else Client.post
            try:
                what(self)
            except Exception as error:  # a cut connection, an answer that is no JSON: a fault of the server
                if self.server.process.poll() is None and not stop.is_set():
                    wrong(what.__name__, repr(error))
            time.sleep(self.rng.random() * 0.1)


def hang_up(server, rng, model):
    """Leave in the middle of a head, a body, an answer, a long poll."""
    texts = [b"PUT /v1/models?name=half.onnx HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(MODEL) + MODEL,
             b"GET /v1/jobs?limit=100 HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /v1/models/%s/content HTTP/1.1\r\nHost: localhost\r\n\r\n" % model.encode(),
             b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\nTransfer-Encoding: chunked\r\n\r\n"
             b"40\r\n--b\r\nContent-Disposition: form-data; name=\"model\"; filename=\"a\"\r\n"]
    while not stop.is_set():
        text = rng.choice(texts)
        try:
            leave_early(server.host, server.port, text, rng)
        except OSError:
            pass
        time.sleep(rng.random() / 2)


def operate(server):
    """What an operator does now and then: settings read again, a backup."""
    while not stop.wait(15):
        server.process.send_signal(signal.SIGHUP)
        to = tempfile.mkdtemp(prefix="pared-soak-backup-")
        run = subprocess.run([BINARY, "backup", "--data", server.data, "--to", to + "/b"], capture_output=True, text=True,
                             env={**os.environ, **ENVIRONMENT}, timeout=600)
        if run.returncode:
            wrong("backup", run.returncode, run.stderr)
        shutil.rmtree(to)


def look_at(process):
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024, len(os.listdir(f"/proc/{process.pid}/fd"))


def slope(values, seconds):
    """Of the line of least squares, by the hour."""
    at = [i * seconds / len(values) / 3600 for i in range(len(values))]
    middle, mean = statistics.fmean(at), statistics.fmean(values)
    return sum((t - middle) * (v - mean) for t, v in zip(at, values)) / sum((t - middle) ** 2 for t in at)


def left_behind(server):
    """Read from the folder of a server that has stopped."""
    data = pathlib.Path(server.data)
    db = sqlite3.connect(data / "catalogue.db")
    used = {row[0] for row in db.execute("SELECT sha256 FROM resource_file UNION SELECT sha256 FROM artifact UNION SELECT sha256 FROM upload")}
    active = {row[0] for row in db.execute("SELECT id FROM job WHERE state IN('queued','running')")}
    db.close()
    found = [p for p in (data / "blobs" / "objects").glob("*/*/*") if p.name not in used]
    found += [p for p in (data / "work").rglob("*") if p.is_file() and not any(job in str(p) for job in active)]
    return found + [f"process {pid}" for pid in children(server)]


def main():
    for old in REPORT.parent.glob("soak-report.*"):
        old.unlink()
    memory, files, begun = [], [], time.time()
    with Server(*FLAGS, env=ENVIRONMENT) as server:
        clients = [Client(server, args.seed * 1000 + i) for i in range(args.clients)]
        threads = [threading.Thread(target=client.run, daemon=True) for client in clients]
        threads += [threading.Thread(target=hang_up, args=(server, random.Random(args.seed * 1000 + 500 + i), clients[0].model), daemon=True) for i in range(2)]
        threads += [threading.Thread(target=operate, args=(server,), daemon=True)]
        for thread in threads:
            thread.start()
        told = begun
        while time.time() < begun + args.seconds and server.process.poll() is None:
            rss, fds = look_at(server.process)
            memory.append(rss)
            files.append(fds)
            if time.time() > told + 300:
                told = time.time()
                print(f"{told - begun:.0f} s: {sum(answers.values())} answers, {len(bad)} bad, RSS {rss:.0f} MB, {fds} files", flush=True)
            time.sleep(min(1, args.seconds / 60))
        stop.set()
        for thread in threads:
            thread.join(60)
        time.sleep(5)  # a last sweep
        status = server.stop()
        left = left_behind(server)
        log = server.log_text()
    reports = sorted(REPORT.parent.glob("soak-report.*"))
    n = len(memory) // 4
    second, last = (statistics.median(memory[i * n:(i + 1) * n]) for i in (1, 3))
    files_second, files_last = (statistics.median(files[i * n:(i + 1) * n]) for i in (1, 3))
    short = sum(answers[code] for code in SHORT)
    faults = {"reports": [p.name for p in reports], "wrong": len(bad), "left behind": left[:5],
              "exit status": status, "memory": last > second * (1.05 if args.seconds >= 900 else 1.3) + 8, "files": files_last > files_second + 30,
              "refusals": short if short * 100 > sum(answers.values()) else 0}
    print(f"soak {args.mode}: {args.seconds:.0f} s, {sum(answers.values())} answers {dict(sorted(answers.items()))}, {len(bad)} bad; jobs seen to end "
          f"{dict(ends)}; {len(reports)} reports, exit status {status}, {len(left)} left behind; RSS {second:.0f} MB (second quarter) -> {last:.0f} MB "
          f"(last), {slope(memory[n:], args.seconds * 3 / 4):+.1f} MB an hour, {max(memory):.0f} MB at most; open files {files_second:.0f} -> {files_last:.0f}")
    if any(faults.values()):
        print(json.dumps({k: v for k, v in faults.items() if v}, indent=1, default=str), log[-3000:], sep="\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
