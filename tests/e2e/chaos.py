#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Jobs while the server is killed with SIGKILL again and again, its catalogue fails now and then, and clients hang up: every accepted
job must end exactly once.

A client posts jobs, each with an Idempotency-Key, and repeats a post whose answer it did not get; it cancels some. Meanwhile the
server is killed at random moments and started again at once; a fraction of the calls of its catalogue fails, half of them after their
commit (build/tools/faulty, see tests/tools/faulty.c); and other clients hang up in the middle of requests, uploads and answers.
At the end the catalogue, the artifacts and the disk are checked:
  - as many jobs as were posted, all ended, each with exactly one event of an ended state
  - a succeeded job has each of its artifacts once, and the bytes have the hash and size that the API says
  - no other blob, no temporary file, no work folder and no process is left
Usage: chaos.py [--pared build/tools/faulty] [--jobs 200] [--kills 20] [--errors 0.01] [--clients 2] [--seed N] [--limit SECONDS]
"""
import argparse
import collections
import hashlib
import http.client
import json
import os
import pathlib
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

from pared_server import leave_early

ROOT = pathlib.Path(__file__).resolve().parents[2]
ENDED = ("succeeded", "failed", "canceled")
GONE = (urllib.error.URLError, ConnectionError, http.client.HTTPException, TimeoutError)


class Server:
    """The server under test: start, kill, and requests that wait for its return."""

    def __init__(self, pared, folder, errors, seed):
        self.pared, self.folder, self.errors, self.seed = pared, folder, errors, seed
        self.address_file, self.newest = folder / "address", []
        self.log = open(folder / "server.log", "ab")
        self.process, self.url, self.starts, self.refusals = None, None, 0, 0

    def start(self):
        self.address_file.unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [self.pared, "serve", "--data", self.folder / "data", "--listen", "127.0.0.1:0", "--address-file", self.address_file,
             "--workers", "2", "--threads", "1", "--lease_ms", "4000", "--reap_ms", "500", "--drain_s", "2", "--sweep_interval_s", "2"],
            stderr=self.log, stdin=subprocess.DEVNULL,
            env={**os.environ, "PARED_FAULT_RATE": f"{self.errors}:{self.seed + 1000 * self.starts + self.refusals}"} if self.errors else None)
        for _ in range(6000):
            if self.process.poll() is not None:
                if self.process.returncode == 1 and self.errors and self.refusals < 50:  # an error while it starts: a refusal, and again
                    self.refusals += 1
                    return self.start()
                sys.exit(f"the server ended by itself with status {self.process.returncode}")
            if self.address_file.exists():
                self.url = self.address_file.read_text()
                self.starts += 1
                return
            time.sleep(0.01)
        sys.exit("the server did not start within 60 s")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def call(self, method, path, body=None, headers=None):
        """(status, bytes) of one request; tried again while the server is away."""
        for _ in range(300):
            request = urllib.request.Request(self.url + path, data=body, headers=headers or {}, method=method)
            try:
                with urllib.request.urlopen(request, timeout=20) as answer:
                    return answer.status, answer.read()
            except urllib.error.HTTPError as error:
                text = error.read()
                if error.code != 503:
                    return error.code, text
            except GONE:
                pass
            time.sleep(0.1)
        sys.exit(f"{method} {path}: no answer")

    def json(self, method, path, body=None, headers=None):
        status, text = self.call(method, path, body, headers)
        if status >= 400:
            sys.exit(f"{method} {path}: {status} {text.decode(errors='replace')}")
        return json.loads(text)


def post_jobs(server, model, count, rng, pace, ids):
    """Post `count` jobs; every tenth is canceled a moment later."""
    steps = [[], [{"method": "prune.weights", "sparsity": 0.5}], [{"method": "graph.optimize"}]]
    for i in range(count):
        body = json.dumps({"model": model, "recipe": {"steps": rng.choice(steps), "seed": i}}).encode()
        job = server.json("POST", "/v1/jobs", body, {"Content-Type": "application/json", "Idempotency-Key": f"chaos-{i}"})
        ids.append(job["id"])
        server.newest = [job["id"]]
        if i % 10 == 9:
            time.sleep(rng.random())
            status, text = server.call("POST", f"/v1/jobs/{job['id']}/cancel")
            if status not in (200, 202, 409):
                sys.exit(f"cancel: {status} {text}")
        time.sleep(rng.random() * pace)


def hang_up(server, model, model_bytes, rng, stop, counts):
    """A client that leaves in the middle: of a head, of an upload, of an answer, of a long poll or an event stream."""
    whole = f"PUT /v1/models?name=half.onnx HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(model_bytes)}\r\n\r\n".encode() + model_bytes
    texts = [whole, b"GET /v1/jobs?limit=100 HTTP/1.1\r\nHost: localhost\r\n\r\n",
             f"GET /v1/models/{model}/content HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()]
    while not stop.is_set():
        job = next(iter(server.newest), "")
        text = rng.choice(texts + [f"GET /v1/jobs/{job}?wait=20 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(),
                                   f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode()])
        try:
            to = urllib.parse.urlsplit(server.url)
            leave_early(to.hostname, to.port, text, rng)
            counts["hung up"] += 1
        except OSError:
            pass
        time.sleep(rng.random() / 5)


def wait_all(server, ids, limit):
    """States of all jobs once they have ended."""
    states, until = {}, time.monotonic() + limit
    while time.monotonic() < until:
        for job in ids:
            if job not in states:
                state = server.json("GET", f"/v1/jobs/{job}")["state"]
                if state in ENDED:
                    states[job] = state
        if len(states) == len(ids):
            return states
        time.sleep(0.3)
    sys.exit(f"after {limit} s only {len(states)} of {len(ids)} jobs have ended")


def check_artifacts(server, states):
    """What succeeded can be downloaded whole; what did not has nothing."""
    for job, state in states.items():
        rows = server.json("GET", f"/v1/jobs/{job}/artifacts")["data"]
        names = sorted(row["name"] for row in rows)
        want = ["model.onnx", "report.html", "report.json"] if state == "succeeded" else []
        assert names == want, f"{job} {state}: {names}"
        for row in rows:
            status, body = server.call("GET", row["href"])
            assert status == 200 and len(body) == row["bytes"], f"{job} {row['name']}: {status}"
            assert hashlib.sha256(body).hexdigest() == row["sha256"], f"{job} {row['name']}: hash"


def check_catalogue(folder, ids):
    """One end for each job, by the events in the catalogue; returns attempts and losses."""
    db = sqlite3.connect(folder / "data" / "catalogue.db")
    rows = {row[0] for row in db.execute("SELECT id FROM job")}
    assert rows == set(ids), f"{len(rows)} jobs in the catalogue, {len(ids)} accepted"
    ends = collections.Counter()
    for job, data in db.execute("SELECT job_id, data FROM job_event WHERE type='state'"):
        ends[job] += json.loads(data)["state"] in ENDED
    wrong = {job: ends[job] for job in ids if ends[job] != 1}
    assert not wrong, f"jobs that did not end exactly once: {wrong}"
    used = {row[0] for row in db.execute("SELECT sha256 FROM resource_file UNION SELECT sha256 FROM artifact")}
    counted = dict(db.execute("SELECT state, count(*) FROM job GROUP BY state"))
    counted["artifacts"] = db.execute("SELECT count(*) FROM artifact").fetchone()[0]
    for what, n in db.execute("SELECT what, sum(n) FROM tally WHERE what NOT IN ('bytes','models') GROUP BY what"):
        assert n == counted.get(what, 0), f"{what}: {counted.get(what, 0)} rows, {n} by the tally"
    totals = db.execute("SELECT sum(attempt), sum(losses), sum(crashes) FROM job").fetchone()
    db.close()
    return used, totals


def check_disk(folder, used):
    data = folder / "data"
    blobs = {path.name for path in (data / "blobs" / "objects").glob("*/*/*")}
    assert blobs == used, f"{len(blobs - used)} blobs too many, {len(used - blobs)} missing"
    left = [path for sub in ("work", "blobs/tmp") for path in (data / sub).rglob("*") if path.is_file()]
    assert not left, f"left behind: {left[:5]}"


def children_of_the_dead(folder):
    """Job processes that still run although their server was killed."""
    found = []
    for status in pathlib.Path("/proc").glob("[0-9]*/cwd"):
        try:
            if str(folder) in os.readlink(status):
                found.append(status.parent.name)
        except OSError:
            pass
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pared", default=str(ROOT / "build/tools/faulty"))
    parser.add_argument("--errors", type=float, default=0.01, help="fraction of the catalogue's calls that fail; 0 for a program without faults")
    parser.add_argument("--clients", type=int, default=2, help="clients that hang up")
    parser.add_argument("--pace", type=float, default=0.15, help="longest pause between two posts")
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--limit", type=float, default=400)
    parser.add_argument("--keep", action="store_true", help="leave the folder for a look")
    args = parser.parse_args()
    rng, started = random.Random(args.seed), time.monotonic()
    folder = pathlib.Path(tempfile.mkdtemp(prefix="pared-chaos-"))
    server = Server(args.pared, folder, args.errors, args.seed)
    server.start()
    with open(ROOT / "examples/digits/digits-cnn.onnx", "rb") as model_file:
        model_bytes = model_file.read()
    model = server.json("POST", "/v1/models?name=digits.onnx", model_bytes)["id"]
    stop, counts_of_clients = threading.Event(), collections.Counter()
    leavers = [threading.Thread(target=hang_up, args=(server, model, model_bytes, random.Random(args.seed + 10 + i), stop, counts_of_clients),
                                daemon=True) for i in range(args.clients)]
    for thread in leavers:
        thread.start()

    ids = []
    # posts are spread over the first half of the kills, so that kills meet posts, claims, runs and publications
    poster = threading.Thread(target=post_jobs, args=(server, model, args.jobs, random.Random(args.seed + 1), args.pace, ids),
                              daemon=True)
    poster.start()
    for _ in range(args.kills):
        time.sleep(rng.uniform(0.2, 4))
        server.kill()
        server.start()
    poster.join()
    assert len(ids) == args.jobs, f"only {len(ids)} jobs were accepted"
    killed = time.monotonic() - started
    states = wait_all(server, ids, args.limit - killed)
    check_artifacts(server, states)
    stop.set()
    for thread in leavers:
        thread.join()
    time.sleep(5)  # a sweep takes away what errors left behind
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=20) == 0, "a graceful stop must end with status 0"
    used, (attempts, losses, crashes) = check_catalogue(folder, ids)
    check_disk(folder, used)
    assert not children_of_the_dead(folder), "job processes outlived their server"
    counts = collections.Counter(states.values())
    assert counts["failed"] == 0, [job for job in ids if states[job] == "failed"]
    assert crashes == 0, f"{crashes} crashes"
    print(f"chaos: {len(ids)} jobs, {args.kills} kills, {server.starts} starts: {dict(counts)}, each exactly once; "
          f"{attempts} attempts, {losses} lost and run again; {args.errors:.0%} of the catalogue's calls failed, "
          f"{counts_of_clients['hung up']} clients hung up; {time.monotonic() - started:.0f} s (seed {args.seed})")
    if args.keep:
        print(folder)
    else:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
