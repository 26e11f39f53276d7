# SPDX-License-Identifier: Apache-2.0
"""Figures of the service: binary, memory, latency of calls, uploads. wrk and nginx for the HTTP ones."""
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from table import PARED, QUICK, ROOT, heading, row

from pared_server import Server

DIGITS = ROOT / "examples/digits"


class PeakRss(threading.Thread):
    """Largest VmRSS of a process, sampled every 20 ms."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self.stop = pid, 0, False

    def run(self):
        while not self.stop:
            with open(f"/proc/{self.pid}/status") as f:
                self.peak = max([self.peak] + [int(line.split()[1]) * 1024 for line in f if line.startswith("VmRSS:")])
            time.sleep(0.02)


def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out + bytes([n]))


def field(number, payload_len):
    return varint(number << 3 | 2) + varint(payload_len)


def big_model(path, weight_bytes):
    """One MatMul with a weight of zeros, written as a sparse file: a valid model of almost 2 GiB in one message."""
    import onnx
    k = weight_bytes // 4 // 1024
    tensor = onnx.TensorProto(dims=[k, 1024], data_type=1, name="w").SerializeToString()
    raw = field(9, k * 1024 * 4)
    x = onnx.helper.make_tensor_value_info("x", 1, [1, k])
    y = onnx.helper.make_tensor_value_info("y", 1, [1, 1024])
    graph = onnx.GraphProto(name="g", node=[onnx.helper.make_node("MatMul", ["x", "w"], ["y"])]).SerializeToString()
    tail = onnx.GraphProto(input=[x], output=[y]).SerializeToString()
    init = field(5, len(tensor) + len(raw) + k * 4096)
    model = onnx.ModelProto(ir_version=8).SerializeToString()
    opset = onnx.ModelProto(opset_import=[onnx.helper.make_opsetid("", 13)]).SerializeToString()
    head = graph + init + tensor + raw
    with open(path, "wb") as f:
        f.write(model + field(7, len(head) + k * 4096 + len(tail)) + head)
        f.seek(k * 4096, os.SEEK_CUR)
        f.write(tail + opset)


def service():
    heading("Service", ["what", "measured", "wanted"])
    stripped = tempfile.mktemp()
    subprocess.run(["strip", "-o", stripped, PARED], check=True)
    row("stripped binary", f"{os.path.getsize(stripped) / 1e6:.2f} MB", "<= 5 MB")
    os.unlink(stripped)
    with Server() as s:
        time.sleep(1)
        row("idle server, RSS", f"{s.rss_bytes() / 1e6:.1f} MB", "<= 20 MB")
        submit_latency(s, "data on disk")
    memory = tempfile.mkdtemp(dir="/dev/shm")
    with Server(data=os.path.join(memory, "data")) as s:
        s.dir, real = memory, s.dir
        submit_latency(s, "data in memory")
        s.dir = real
    shutil.rmtree(memory)
    with Server() as s:
        big_upload(s)
    with Server() as s:
        cancel_latency(s)
    with Server() as s:
        healthz(s)


def digits(server):
    ids = []
    for kind, name in [("models", "digits-cnn.onnx"), ("datasets", "train.npz")]:
        ids.append(server.request("PUT", f"/v1/{kind}?name={name}", body=(DIGITS / name).read_bytes()).json()["id"])
    return ids


def percentiles(times):
    times = sorted(times)
    return f"{times[len(times) // 2]:.2f} / {times[int(len(times) * 0.99)]:.2f} ms"


def sync_latency(folder):
    """What one durable append costs on this disk: the floor of every accepted job."""
    times = []
    with open(os.path.join(folder, "sync"), "wb", buffering=0) as f:
        for _ in range(500):
            f.write(b"x" * 4096)
            start = time.perf_counter()
            os.fdatasync(f.fileno())
            times.append((time.perf_counter() - start) * 1e3)
    return percentiles(times)


def submit_latency(s, where):
    """Posts one after the other while the worker runs the jobs; each is in the catalogue, synced, before its 202."""
    import http.client
    model, _ = digits(s)
    body = json.dumps({"model": model, "recipe": "optimize"})
    connection, times, ids = http.client.HTTPConnection(s.host, s.port), [], []
    for _ in range(100 if QUICK else 500):
        start = time.perf_counter()
        connection.request("POST", "/v1/jobs", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        times.append((time.perf_counter() - start) * 1e3)
        assert answer.status == 202, text
        ids.append(json.loads(text)["id"])
    row(f"POST of a job to its 202, p50 / p99, {where}", f"{percentiles(times)} (one fdatasync there: {sync_latency(s.dir)})", "p99 <= 10 ms")
    for job in ids:
        s.request("POST", f"/v1/jobs/{job}/cancel")


def big_upload(s):
    path = os.path.join(s.dir, "big.onnx")
    big_model(path, 64 << 20 if QUICK else (2 << 30) - (1 << 20))
    rss = PeakRss(s.process.pid)
    rss.start()
    start = time.perf_counter()
    done = subprocess.run(["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-T", path, f"{s.url}/v1/models?name=big.onnx"], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    rss.stop = True
    size = os.path.getsize(path)
    row(f"`curl -T` of {size / 2**30:.2f} GiB ({done.stdout}), peak RSS of the server", f"{rss.peak / 1e6:.1f} MB, {seconds:.1f} s with reading and zstd", "<= 64 MB")


def cancel_latency(s):
    import numpy as np
    model, _ = digits(s)
    z = np.load(DIGITS / "train.npz")
    path = os.path.join(s.dir, "many.npz")
    np.savez(path, x=np.tile(z["x"], (400, 1, 1, 1)), y=np.tile(z["y"], 400))
    with open(path, "rb") as f:
        data = s.request("PUT", "/v1/datasets?name=many", body=f.read(), timeout=120).json()["id"]
    worst = 0
    for _ in range(2 if QUICK else 5):
        job = s.post_json("/v1/jobs", {"model": model, "dataset": data, "recipe": {"steps": [{"method": "quantize.static", "samples": 500000}]}}).json()["id"]
        while s.get(f"/v1/jobs/{job}").json()["state"] != "running":
            time.sleep(0.01)
        time.sleep(0.5)
        start = time.perf_counter()
        s.request("POST", f"/v1/jobs/{job}/cancel")
        state = s.get(f"/v1/jobs/{job}?wait=10").json()["state"]
        assert state == "canceled", state
        worst = max(worst, time.perf_counter() - start)
    row("cancel of a running job, worst of 5", f"{worst * 1e3:.0f} ms", "<= 1 s")


def wrk(url):
    out = subprocess.run(["wrk", "-t2", "-c64", f"-d{2 if QUICK else 5}s", url], capture_output=True, text=True).stdout
    return next(float(line.split()[1]) for line in out.splitlines() if line.startswith("Requests/sec"))


def healthz(s):
    if not (shutil.which("wrk") and shutil.which("nginx")):
        row("GET /healthz", "not measured: wrk or nginx is missing")
        return
    folder = tempfile.mkdtemp()
    Path(folder, "healthz").write_text(s.get("/healthz").body.decode())
    conf = Path(folder, "nginx.conf")
    conf.write_text(f"user root; worker_processes 2; pid {folder}/pid; error_log {folder}/error.log; events {{ worker_connections 1024; }} http {{ access_log off; keepalive_requests 1000000;"
                    f" server {{ listen 127.0.0.1:18099; root {folder}; }} }}")
    nginx = subprocess.Popen(["nginx", "-c", conf, "-g", "daemon off;"], stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    ours, theirs = [], []
    for _ in range(3):
        theirs.append(wrk("http://127.0.0.1:18099/healthz"))
        ours.append(wrk(s.url + "/healthz"))
    nginx.terminate()
    nginx.wait()
    shutil.rmtree(folder)
    a, b = statistics.median(ours), statistics.median(theirs)
    row("GET /healthz, keep-alive, wrk -t2 -c64", f"{a:,.0f}/s, nginx {b:,.0f}/s, ratio {a / b:.2f}", ">= 30,000 where nginx serves 70,000 (0.43)")
