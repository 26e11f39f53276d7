# SPDX-License-Identifier: Apache-2.0
"""The service under load, and beside nginx: `make load` (QUICK=1 for a short try).

Load       1,000 clients that wait (half event streams of a job that trains, half long polls of one that is queued), 200 that upload at
           once, other jobs that run; meanwhile a process of its own asks for a job, one request after the other on four connections,
           as a dashboard does. Reported: p50 and p99 of that
           GET, the server's peak RSS, what the others got. A client that gets anything but what it asked for ends the run.
nginx      GET of a job against a file of the same size; a download and uploads against the same bytes. Ours are hashed (SHA-256),
           compared with what the client announced, and on disk before the answer; nginx's PUT writes a file and renames it. Plain
           uploads are also read and inspected before the answer. Rounds alternate, each from a synced disk; medians are compared.
           Both log every request to a file.
Generator and server share the machine, so the figures are lower bounds of the server's."""
import asyncio
import base64
import hashlib
import http.client
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from service import DIGITS, PeakRss, big_model, percentiles, varint
from table import QUICK, heading, row

from pared_server import Server

WAITING, UPLOADS, QUEUE = 1000, 200, 20
SECONDS = 8 if QUICK else 40
UPLOAD_BYTES = 256 << 10 if QUICK else 2 << 20
BIG_BYTES = 64 << 20 if QUICK else 1 << 30
ROUNDS = 1 if QUICK else 3
NGINX_PORT = 18099


# ---- load


def padded(model, number, size):
    """Another valid model each time: its doc_string (field 6 of ModelProto; the last one counts) is `size` bytes with a number."""
    text = str(number).encode().ljust(size, b".")
    return model + varint(6 << 3 | 2) + varint(len(text)) + text


class Counts:
    def __init__(self):
        self.events = self.polls = self.uploads = self.streams = 0


async def head_of(reader):
    """Status and headers of an answer."""
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    return int(text[0].split(" ")[1]), {k.lower(): v.strip() for k, v in (line.split(":", 1) for line in text[1:] if line)}


async def connect(server):
    for attempt in range(20):
        try:
            return await asyncio.open_connection(server.host, server.port)
        except OSError:
            await asyncio.sleep(0.05 * (attempt + 1))
    raise RuntimeError("no connection")


async def request(reader, writer, method, path, body=b"", pause=0.0):
    writer.write(f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode())
    for at in range(0, len(body), 64 << 10):
        writer.write(body[at:at + (64 << 10)])
        await writer.drain()
        if pause:
            await asyncio.sleep(pause)
    status, headers = await head_of(reader)
    return status, await reader.readexactly(int(headers.get("content-length", 0)))


async def stream_client(server, job, counts, until):
    reader, writer = await connect(server)
    writer.write(f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode())
    status, _ = await head_of(reader)
    assert status == 200, f"events: {status}"
    counts.streams += 1
    while (left := until - time.monotonic()) > 0:
        try:
            line = await asyncio.wait_for(reader.readline(), left)
        except asyncio.TimeoutError:
            break
        counts.events += line.startswith(b"id:")
        if not line:
            break
    writer.close()


async def poll_client(server, job, counts, until):
    reader, writer = await connect(server)
    while (left := until - time.monotonic()) > 1:
        status, _ = await request(reader, writer, "GET", f"/v1/jobs/{job}?wait={max(1, min(25, int(left)))}")
        assert status == 200, f"long poll: {status}"
        counts.polls += 1
    writer.close()


async def upload_client(server, model, number, counts, until):
    """One upload after the other, each in pieces with pauses, so that all 200 are under way at once."""
    reader, writer = await connect(server)
    turn = 0
    while time.monotonic() < until:
        body = padded(model, number * 1000 + turn, UPLOAD_BYTES)
        status, text = await request(reader, writer, "PUT", f"/v1/models?name=load-{number}-{turn}.onnx", body, SECONDS / 40)
        assert status == 201, (status, text[:300])
        counts.uploads += 1
        turn += 1
    writer.close()


async def job_client(server, job_body, training, queued, running, done, until):
    """Keeps QUEUE jobs waiting or running, so that the one of the long polls never starts."""
    reader, writer = await connect(server)
    head = f"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(job_body)}\r\n\r\n".encode()
    while time.monotonic() < until:
        while len(running) < QUEUE:
            writer.write(head + job_body)
            status, headers = await head_of(reader)
            running.append(json.loads(await reader.readexactly(int(headers["content-length"])))["id"])
            assert status == 202, status
        status, text = await request(reader, writer, "GET", f"/v1/jobs/{running[0]}?wait=2")
        state = json.loads(text)["state"]
        assert status == 200 and state in ("queued", "running", "succeeded"), (status, text[:300])
        if state == "succeeded":
            done.append(running.pop(0))
    states = [json.loads((await request(reader, writer, "GET", f"/v1/jobs/{job}"))[1])["state"] for job in (training, queued)]
    assert states == ["running", "queued"], states
    writer.close()


async def drive(server, training, queued, model, job_body, running, counts, done):
    until = time.monotonic() + SECONDS
    clients = [stream_client(server, training, counts, until) if i % 2 else poll_client(server, queued, counts, until) for i in range(WAITING)]
    clients += [upload_client(server, model, i, counts, until) for i in range(UPLOADS)]
    await asyncio.gather(job_client(server, job_body, training, queued, running, done, until), *clients)


def ask(host, port, job, start_at, seconds, out):
    """The measuring process: times of GET job in ms."""
    connections = [http.client.HTTPConnection(host, port) for _ in range(4)]
    time.sleep(max(0, start_at - time.time()))
    times, until = [], time.time() + seconds
    while time.time() < until:
        for c in connections:
            begin = time.perf_counter()
            c.request("GET", f"/v1/jobs/{job}")
            answer = c.getresponse()
            answer.read()
            times.append((time.perf_counter() - begin) * 1e3)
            assert answer.status == 200
            time.sleep(0.002)
    out.put(times)


def under_load():
    with Server("--workers", "2", "--threads", "1") as s:
        model = (DIGITS / "digits-cnn.onnx").read_bytes()
        id_ = s.request("PUT", "/v1/models?name=digits.onnx", model).json()["id"]
        data = s.request("PUT", "/v1/datasets?name=train", (DIGITS / "train.npz").read_bytes()).json()["id"]
        job_body = json.dumps({"model": id_, "dataset": data, "reuse": False, "recipe": {"steps": [{"method": "quantize.static"}]}}).encode()
        finetune = {"method": "train.finetune", "epochs": 1000}
        training = s.post_json("/v1/jobs", {"model": id_, "dataset": data, "recipe": {"steps": [finetune]}}).json()["id"]
        running = [s.request("POST", "/v1/jobs", job_body, headers={"Content-Type": "application/json"}).json()["id"] for _ in range(QUEUE)]
        queued = s.post_json("/v1/jobs", {"model": id_, "priority": -1000, "recipe": {"steps": []}}).json()["id"]
        rss = PeakRss(s.process.pid)
        rss.start()
        times, counts, done = multiprocessing.Queue(), Counts(), []
        measuring = multiprocessing.Process(target=ask, args=(s.host, s.port, training, time.time() + 3, SECONDS - 4, times))
        measuring.start()
        asyncio.run(drive(s, training, queued, model, job_body, running, counts, done))
        measured = times.get(timeout=60)
        measuring.join()
        rss.stop = True
        what = f"{WAITING} waiting ({counts.streams} streams), {UPLOADS} uploads at once, jobs"
        row(f"GET of a job under load, p50 / p99 ({what})", f"{percentiles(measured)} of {len(measured)} requests", "p99 <= 50 ms (aim 10)")
        row("peak RSS of the server meanwhile", f"{rss.peak / 1e6:.1f} MB", "<= 128 MB")
        row("done meanwhile", f"{counts.uploads} uploads of {UPLOAD_BYTES >> 10} KiB, {len(done)} jobs, {counts.polls} long polls, {counts.events} events", "")


# ---- nginx


class Nginx:
    """nginx with a folder to read from and to PUT into."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="pared-nginx-")
        conf = Path(self.folder, "nginx.conf")
        conf.write_text(f"user root; worker_processes 2; pid {self.folder}/pid; error_log {self.folder}/error.log; events {{ worker_connections 1024; }} http {{ "
                        f"access_log {self.folder}/access.log; sendfile on; keepalive_requests 1000000; client_max_body_size 0; client_body_temp_path {self.folder}/tmp; "
                        f"types {{ application/json json; }} server {{ listen 127.0.0.1:{NGINX_PORT}; root {self.folder}; location /put/ {{ dav_methods PUT; create_full_put_path on; }} }} }}")
        self.process = subprocess.Popen(["nginx", "-c", conf, "-g", "daemon off;"], stderr=subprocess.DEVNULL)
        self.url = f"http://127.0.0.1:{NGINX_PORT}"
        time.sleep(0.5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder)


def wrk(url):
    out = subprocess.run(["wrk", "-t1", "-c32", f"-d{2 if QUICK else 5}s", url], capture_output=True, text=True).stdout
    assert "Non-2xx" not in out, out
    return next(float(line.split()[1]) for line in out.splitlines() if line.startswith("Requests/sec"))


def curl(*args):
    """Bytes a second, as curl measured them."""
    done = subprocess.run(["curl", "-sS", "--fail", "-o", "/dev/null", "-w", "%{size_download} %{size_upload} %{time_total}", *args], capture_output=True, text=True, check=True)
    down, up, seconds = (float(x) for x in done.stdout.split())
    return max(down, up) / seconds


def compare(what, ours, theirs, show, wanted):
    a, b = [], []
    for _ in range(ROUNDS):
        os.sync()  # what one leaves to be written is not the other's to wait for
        b.append(theirs())
        os.sync()
        a.append(ours())
    a, b = statistics.median(a), statistics.median(b)
    row(what, f"{show(a)}, nginx {show(b)}, ratio {a / b:.2f}", wanted)


def beside_nginx():
    def rate(x):
        return f"{x:,.0f}/s"

    def speed(x):
        return f"{x / 2**30:.2f} GiB/s"
    with Server() as s, Nginx() as n:
        model = s.request("PUT", "/v1/models?name=digits.onnx", (DIGITS / "digits-cnn.onnx").read_bytes()).json()["id"]
        job = s.post_json("/v1/jobs", {"model": model, "recipe": {"steps": []}}).json()["id"]
        assert s.wait_job(job)["state"] == "succeeded"
        text = s.get(f"/v1/jobs/{job}").body
        Path(n.folder, "job.json").write_bytes(text)
        compare(f"GET of a job ({len(text)} bytes), keep-alive, wrk -t1 -c32", lambda: wrk(f"{s.url}/v1/jobs/{job}"), lambda: wrk(f"{n.url}/job.json"), rate, ">= 0.5 (aim 0.8)")

        big = os.path.join(s.dir, "big.onnx")
        big_model(big, BIG_BYTES)
        size = os.path.getsize(big)
        id_ = s.request("PUT", "/v1/models?name=big.onnx", open(big, "rb"), headers={"Content-Length": str(size)}, timeout=600).json()["id"]
        shutil.copy(big, os.path.join(n.folder, "big.onnx"))
        content = f"{s.url}/v1/models/{id_}/content"
        for url in (content, f"{n.url}/big.onnx"):
            curl(url)  # both from the page cache
        compare(f"download of {size / 2**20:.0f} MiB", lambda: curl(content), lambda: curl(f"{n.url}/big.onnx"), speed, ">= 0.8")

        with open(big, "rb") as f:
            digest = base64.b64encode(hashlib.file_digest(f, "sha256").digest()).decode()

        def upload():
            made = s.request("POST", "/v1/uploads", headers={"Tus-Resumable": "1.0.0", "Upload-Length": str(size)})
            assert made.status == 201, made
            path = "/v1/uploads/" + made.headers["location"].rsplit("/", 1)[1]
            speed_ = curl("-X", "PATCH", "-H", "Tus-Resumable: 1.0.0", "-H", "Content-Type: application/offset+octet-stream", "-H", "Upload-Offset: 0", "-H", "Expect:",
                          "-H", f"Upload-Checksum: sha256 {digest}", "-H", f"Content-Length: {size}", "-T", big, s.url + path)
            assert s.request("DELETE", path, headers={"Tus-Resumable": "1.0.0"}).status == 204
            return speed_

        def plain():
            for model in s.get("/v1/models").json()["data"]:  # the same bytes again would be known
                s.request("DELETE", "/v1/models/" + model["id"])
            return curl("-H", "Expect:", "-H", f"Repr-Digest: sha-256=:{digest}:", "-T", big, f"{s.url}/v1/models?name=again.onnx")

        def dav():
            return curl("-H", "Expect:", "-T", big, f"{n.url}/put/big.onnx")
        compare(f"upload of {size / 2**20:.0f} MiB (tus PATCH), hashed, compared, synced", upload, dav, speed, ">= 0.5")
        compare(f"upload of {size / 2**20:.0f} MiB (PUT of a model), the same, and the model is read", plain, dav, speed, ">= 0.5")


if __name__ == "__main__":
    heading("Service under load", ["what", "measured", "wanted"])
    under_load()
    if shutil.which("wrk") and shutil.which("nginx"):
        beside_nginx()
    else:
        row("beside nginx", "not measured: wrk or nginx is missing", "")
