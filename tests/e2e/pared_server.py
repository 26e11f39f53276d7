# SPDX-License-Identifier: Apache-2.0
"""A real server for tests: build/pared serve on a free port with an empty data folder, stopped and removed afterwards.

    with Server() as s:
        status, headers, body = s.request("GET", "/healthz")
"""
import http.client
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import urllib.parse

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("PARED_BINARY", os.path.join(ROOT, "build", "pared"))
SHARED = os.environ.get("PARED_SHARED", os.path.join(os.path.dirname(ROOT), "shared"))


def model_path(*parts):
    """A model of the shared collection, or None when it is not there."""
    path = os.path.join(SHARED, "models", *parts)
    return path if os.path.exists(path) else None


class Answer:
    """Status, headers (lower-case names) and body of one response."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    def json(self):
        return json.loads(self.body)

    def __repr__(self):
        return f"{self.status} {self.body[:600]!r}"


def leave_early(host, port, text, rng):
    """Send a request, or the beginning of one, and leave: at once or after a piece of the answer, by a close or by a reset."""
    with socket.create_connection((host, port), timeout=2) as s:
        s.sendall(text[:rng.choice([len(text), rng.randrange(1, len(text))])])
        if rng.random() < 0.5:
            s.settimeout(rng.random() / 4)
            s.recv(rng.randrange(1, 2000))
        if rng.random() < 0.5:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


class Server:
    def __init__(self, *flags, env=None, data=None, listen="127.0.0.1:0", start=True):
        self.dir = tempfile.mkdtemp(prefix="pared-test-")
        self.data = data or os.path.join(self.dir, "data")
        self.flags, self.env, self.listen = list(flags), dict(env or {}), listen
        self.process = None
        if start:
            try:
                self.start()
            except BaseException:
                self.close()
                raise

    def command(self):
        self.address_file = os.path.join(self.dir, "address")
        return [BINARY, "serve", "--data", self.data, "--listen", self.listen, "--address-file", self.address_file, *self.flags]

    def start(self, timeout=20):
        command = self.command()
        if os.path.exists(self.address_file):
            os.unlink(self.address_file)
        self.log = open(os.path.join(self.dir, "log"), "ab")
        self.process = subprocess.Popen(command, stderr=self.log, stdout=self.log, env={**os.environ, **self.env})
        until = time.time() + timeout
        while not os.path.exists(self.address_file):
            if self.process.poll() is not None or time.time() > until:
                raise RuntimeError("the server did not start: " + self.log_text())
            time.sleep(0.02)
        with open(self.address_file) as f:
            self.url = f.read().strip()
        parts = urllib.parse.urlsplit(self.url)
        self.host, self.port = parts.hostname, parts.port

    def log_text(self):
        with open(os.path.join(self.dir, "log"), errors="replace") as f:
            return f.read()

    def stop(self, sig=signal.SIGTERM, timeout=30):
        """Exit status of the server."""
        if self.process is None:
            return None
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.log.close()
        self.process = None
        return status

    def close(self):
        try:
            if self.process is not None:
                self.stop()
        finally:
            shutil.rmtree(self.dir, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- calls

    observer = None  # called as observer(method, path, request headers, request body, Answer) for every request()

    def request(self, method, path, body=None, headers=None, timeout=60, host=None, encode_chunked=False):
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            sent = dict(headers or {})
            if host is not None:
                sent["Host"] = host
            connection.request(method, path, body=body, headers=sent, encode_chunked=encode_chunked)
            response = connection.getresponse()
            answer = Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()
        if Server.observer:
            Server.observer(method, path, sent, body, answer)
        return answer

    def get(self, path, **kw):
        return self.request("GET", path, **kw)

    def post_json(self, path, value, headers=None, **kw):
        body = value if isinstance(value, (bytes, str)) else json.dumps(value)
        return self.request("POST", path, body=body, headers={"Content-Type": "application/json", **(headers or {})}, **kw)

    def put_file(self, path, file):
        with open(file, "rb") as f:
            return self.request("PUT", path, body=f.read(), headers={"Content-Type": "application/octet-stream"})

    def raw(self, data, timeout=5, shut=False):
        """Bytes over a socket; everything that comes back until the server closes or nothing comes for `timeout`. A server that refuses
        may reset the connection while this side still sends: that is a close like any other."""
        with socket.create_connection((self.host, self.port), timeout=timeout) as s:
            try:
                s.sendall(data)
                if shut:
                    s.shutdown(socket.SHUT_WR)
            except OSError:
                pass
            out = b""
            try:
                while True:
                    piece = s.recv(65536)
                    if not piece:
                        return out, True
                    out += piece
            except socket.timeout:
                return out, False
            except ConnectionError:
                return out, True

    def wait_job(self, job_id, timeout=120):
        until = time.time() + timeout
        while time.time() < until:
            job = self.get(f"/v1/jobs/{job_id}?wait=20").json()
            if job["state"] in ("succeeded", "failed", "canceled"):
                return job
        raise TimeoutError(f"job {job_id} is {job['state']}: {job}")

    def files_on_disk(self):
        """What is stored below objects/ and tmp/: counts of files."""
        found = {"objects": 0, "tmp": 0}
        for name in found:
            for _, _, files in os.walk(os.path.join(self.data, "blobs", name)):
                found[name] += len(files)
        return found

    def rss_bytes(self):
        with open(f"/proc/{self.process.pid}/status") as f:
            for line in f:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        return 0


def multipart(parts, boundary="x-pared-test-boundary"):
    """(content type, body) of form data: parts are (name, filename or None, bytes)."""
    body = b""
    for name, filename, data in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
        body += f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + data + b"\r\n"
    return f"multipart/form-data; boundary={boundary}", body + f"--{boundary}--\r\n".encode()
