#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Mixed load for a given time on a server under a sanitizer: uploads, jobs, reads, lists, long polls, deletes, cancels. It ends well when no
sanitizer reported anything, no answer was a 5xx, and the memory of the last quarter is not above that of the second by a tenth and 16 MiB.
Usage: soak.py --mode asan|tsan --seconds N"""
import argparse
import os
import pathlib
import random
import statistics
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
parser = argparse.ArgumentParser()
parser.add_argument("--mode", choices=["asan", "tsan"], default="asan")
parser.add_argument("--seconds", type=float, default=60)
args = parser.parse_args()
os.environ["PARED_BINARY"] = str(ROOT / "build" / args.mode / "pared")
from pared_server import Server  # noqa: E402  (reads PARED_BINARY)

report = ROOT / "build" / args.mode / "soak-report"
options = {"asan": ("ASAN_OPTIONS", "detect_leaks=1"), "tsan": ("TSAN_OPTIONS", "halt_on_error=0")}[args.mode]
environment = {options[0]: f"{options[1]}:log_path={report}", "PARED_INSPECT_MEMORY_BYTES": "1000t", "PARED_JOB_MEMORY_BYTES": "1000t"}
model_bytes = (ROOT / "examples/digits/digits-cnn.onnx").read_bytes()
bad, requests, stop = [], [0], threading.Event()


def client(server, model, rng):
    jobs = []
    while not stop.is_set():
        what = rng.randrange(7)
        if what == 0 or not jobs:
            answer = server.post_json("/v1/jobs", {"model": model, "recipe": {"steps": [], "seed": rng.randrange(1 << 30)}})
            jobs += [answer.json()["id"]] if answer.status == 202 else []
        elif what == 1:
            answer = server.request("PUT", "/v1/models?name=soak.onnx", model_bytes)
        elif what == 2:
            answer = server.get("/v1/jobs?limit=50")
        elif what == 3:
            answer = server.get(f"/v1/jobs/{rng.choice(jobs)}?wait=1")
        elif what == 4:
            answer = server.get(f"/v1/models/{model}/content", headers={"Range": "bytes=0-999"})
        elif what == 5:
            answer = server.post_json(f"/v1/jobs/{rng.choice(jobs)}/cancel", {})
        else:
            answer = server.request("DELETE", f"/v1/jobs/{jobs.pop(rng.randrange(len(jobs)))}")
        requests[0] += 1
        if answer.status >= 500 and answer.status != 503:
            bad.append(answer)


for old in report.parent.glob("soak-report.*"):
    old.unlink()
with Server("--workers", "2", "--threads", "1", env=environment) as server:
    model = server.request("PUT", "/v1/models?name=soak.onnx", model_bytes).json()["id"]
    threads = [threading.Thread(target=client, args=(server, model, random.Random(i)), daemon=True) for i in range(8)]
    for thread in threads:
        thread.start()
    rss, end = [], time.time() + args.seconds
    while time.time() < end and server.process.poll() is None:
        rss.append(server.rss_bytes())
        time.sleep(min(1, args.seconds / 40))
    stop.set()
    for thread in threads:
        thread.join(30)
    status = server.stop()
reports = sorted(report.parent.glob("soak-report.*"))
n = len(rss) // 4
early, late = statistics.median(rss[n:2 * n]), statistics.median(rss[3 * n:])
print(f"soak {args.mode}: {args.seconds:.0f} s, {requests[0]} requests, {len(bad)} server errors, {len(reports)} reports, exit status {status}, "
      f"RSS {early / 1e6:.0f} MB -> {late / 1e6:.0f} MB")
sys.exit(bool(bad or reports or status or late > early * 1.1 + (16 << 20)))
