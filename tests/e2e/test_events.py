# SPDX-License-Identifier: Apache-2.0
"""Streams of events and long polls of a real server, read byte by byte: ids, resume, pings, the end, a stop, a thousand readers."""
import http.client
import json
import os
import re
import resource
import signal
import socket
import threading
import time

import pytest

import tiny
from pared_server import Server
from test_server_life import training

STEPS = {"steps": [{"method": "graph.optimize"}]}


class Stream:
    """One reader of an event stream over a socket of its own."""

    def __init__(self, server, job, query="", headers=(), timeout=30):
        self.socket = socket.create_connection((server.host, server.port), timeout=timeout)
        head = f"GET /v1/jobs/{job}/events{query} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
        self.socket.sendall((head + "".join(f"{h}\r\n" for h in headers) + "\r\n").encode())
        self.file = self.socket.makefile("rb")
        self.status = int(self.file.readline().split()[1])
        self.headers = http.client.parse_headers(self.file)
        self.ended = False  # the last chunk came: the answer is whole
        self.text = b""

    def chunk(self):
        """The next chunk; None at the end of the answer."""
        size = int(self.file.readline(), 16)
        data = self.file.read(size + 2)[:-2]
        if size == 0:
            self.ended = True
            return None
        return data

    def blocks(self):
        """Whole blocks of the stream, as they come."""
        while True:
            while b"\n\n" in self.text:
                block, self.text = self.text.split(b"\n\n", 1)
                yield block.decode()
            piece = self.chunk()
            if piece is None:
                assert self.text == b"", self.text
                return
            self.text += piece

    def events(self):
        """(id or None, type, data) of every event."""
        for block in self.blocks():
            fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":"))
            if "event" in fields:
                yield int(fields["id"]) if "id" in fields else None, fields["event"], json.loads(fields["data"])

    def close(self):
        self.file.close()
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def upload(server, seed=0):
    return server.request("PUT", "/v1/models?name=tiny.onnx", body=tiny.classifier(seed)).json()["id"]


def post(server, **body):
    answer = server.post_json("/v1/jobs", {"recipe": STEPS, **body})
    assert answer.status == 202, answer
    return answer.json()["id"]


@pytest.fixture(scope="module")
def s():
    with Server("--events_ping_s", "1") as server:
        yield server
        assert server.get("/healthz").status == 200
        assert server.stop() == 0, server.log_text()[-2000:]


@pytest.fixture(scope="module")
def idle():
    """No worker: jobs stay queued until they are canceled."""
    with Server("--events_ping_s", "1", "--workers", "0") as server:
        yield server
        assert server.stop() == 0, server.log_text()[-2000:]


@pytest.fixture(scope="module")
def done(s):
    job = post(s, model=upload(s))
    assert s.wait_job(job)["state"] == "succeeded"
    return job


def test_whole_life(s):
    job = post(s, model=upload(s, 1))
    with Stream(s, job) as stream:
        assert stream.status == 200
        assert stream.headers["Content-Type"] == "text/event-stream"
        assert stream.headers["X-Accel-Buffering"] == "no"
        assert "no-transform" in stream.headers["Cache-Control"]
        events = list(stream.events())
        assert stream.ended
    ids = [i for i, _, _ in events if i]
    assert ids == list(range(1, len(ids) + 1))
    states = [data["state"] for _, kind, data in events if kind == "state"]
    assert states == ["queued", "running", "succeeded"]
    assert events[-1] == (None, "end", {"state": "succeeded"})
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", data["at"]) for i, _, data in events if i)


def test_begins_with_retry(s, done):
    with Stream(s, done) as stream:
        assert next(stream.blocks()) == "retry: 2000"


@pytest.mark.parametrize("how", ["header", "query", "both"])
def test_resume(s, done, how):
    with Stream(s, done) as stream:
        whole = [e for e in stream.events() if e[0]]
    for after in (0, 1, len(whole) - 1, len(whole), len(whole) + 100):
        query = {"header": "", "query": f"?after={after}", "both": "?after=0"}[how]
        headers = () if how == "query" else (f"Last-Event-ID: {after}",)
        with Stream(s, done, query, headers) as stream:
            events = list(stream.events())
        assert events[:-1] == [e for e in whole if e[0] > after]
        assert events[-1][1] == "end"


@pytest.mark.parametrize("query, header, status", [
    ("?after=-1", None, 422), ("?after=x", None, 422), ("?after=99999999999999999999", None, 422), ("?since=1", None, 422), ("?after=x", "1", 422),
    ("", "x", 422), ("", "-1", 422), ("", "1 2", 422), ("", "9" * 30, 422), ("", "", 200)])
def test_wrong_places(s, done, query, header, status):
    answer = s.get(f"/v1/jobs/{done}/events{query}", headers={} if header is None else {"Last-Event-ID": header})
    assert answer.status == status, answer
    if status != 200:
        assert answer.headers["content-type"] == "application/problem+json" and answer.json()["code"] == "invalid"


def test_no_such_job(s):
    for id_ in ("job_01m815f1gk4zqfhrf60qn4k0as", "nonsense", "mdl_01m815f1gk4zqfhrf60qn4k0as"):
        assert s.get(f"/v1/jobs/{id_}/events").status == 404


def test_head_and_http10(s, done):
    head = s.request("HEAD", f"/v1/jobs/{done}/events")
    assert (head.status, head.body, head.headers["content-type"]) == (200, b"", "text/event-stream")
    out, closed = s.raw(f"GET /v1/jobs/{done}/events HTTP/1.0\r\n\r\n".encode())
    assert closed and b"\r\n\r\nretry: 2000\n\n" in out and out.endswith(b'event: end\ndata: {"state":"succeeded"}\n\n')
    assert b"chunked" not in out


def test_never_compressed(s, done):
    answer = s.get(f"/v1/jobs/{done}/events", headers={"Accept-Encoding": "gzip, zstd"})
    assert "content-encoding" not in answer.headers and answer.body.startswith(b"retry:")


def test_ping_and_cancel(idle):
    job = post(idle, model=upload(idle))
    with Stream(idle, job) as stream:
        blocks = stream.blocks()
        assert next(blocks) == "retry: 2000" and "queued" in next(blocks)
        started = time.time()
        assert next(blocks) == ": ping"
        assert 0.9 < time.time() - started < 10
        idle.post_json(f"/v1/jobs/{job}/cancel", {})
        canceled = time.time()
        kinds = [re.search(r"event: (\w+)", b).group(1) for b in blocks if "event:" in b]
        assert kinds == ["state", "end"] and stream.ended
        assert time.time() - canceled < 10


def test_keep_alive_after_the_end(s, done):
    """The connection of a stream that has ended takes the next request."""
    with Stream(s, done) as stream:
        list(stream.events())
        stream.socket.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in stream.file.readline()


def test_deleted_job(idle):
    job = post(idle, model=upload(idle))
    idle.post_json(f"/v1/jobs/{job}/cancel", {})
    assert idle.request("DELETE", f"/v1/jobs/{job}").status == 204
    assert idle.get(f"/v1/jobs/{job}/events").status == 404


def test_progress_without_id():
    """A running job tells where it is; such events have no id and are not told again to one who comes back."""
    with Server("--threads", "1") as server:
        job = server.post_json("/v1/jobs", training(server)).json()["id"]
        with Stream(server, job) as stream:
            seen = []
            for event in stream.events():
                seen.append(event)
                if sum(kind == "progress" and i is None for i, kind, _ in seen) == 3:
                    server.post_json(f"/v1/jobs/{job}/cancel", {})
        live = [data for i, kind, data in seen if kind == "progress" and i is None]
        assert all({"step", "steps", "stage", "done", "total"} <= set(data) for data in live)
        assert seen[-1][1:] == ("end", {"state": "canceled"})
        with Stream(server, job) as stream:
            assert [e for e in stream.events()] == [e for e in seen if e[0] or e[1] == "end"]


def cpu_seconds(server):
    with open(f"/proc/{server.process.pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def open_files(server):
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def test_a_thousand_readers():
    """They cost little memory, no CPU while nothing happens, no thread and no store connection: others are served at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    with Server("--workers", "0") as server:
        job = post(server, model=upload(server))
        before = server.rss_bytes()
        streams = [Stream(server, job) for _ in range(1000)]
        iterators = [stream.events() for stream in streams]
        assert all(next(i)[2]["state"] == "queued" for i in iterators)
        grown, cpu = server.rss_bytes() - before, cpu_seconds(server)
        time.sleep(1)
        rested = cpu_seconds(server) - cpu
        started = time.time()
        for _ in range(20):
            assert server.get(f"/v1/jobs/{job}").status == 200
        took = time.time() - started
        threads = len(os.listdir(f"/proc/{server.process.pid}/task"))
        asked = time.time()
        server.post_json(f"/v1/jobs/{job}/cancel", {})
        for i in iterators:
            assert [kind for _, kind, _ in i] == ["state", "end"]
        told = time.time() - asked
        print(f"RSS +{grown >> 20} MiB, CPU of 1 s at rest {rested:.2f} s, 20 GETs {took * 1e3:.0f} ms, all told {told:.2f} s, {threads} threads")
        assert grown < 48 << 20 and rested < 0.1 and took < 20 and told < 30 and threads < 40
        for stream in streams:
            stream.close()
        assert server.stop() == 0


def test_too_many_streams():
    """Streams may not take all connections: three quarters, then 503; short requests go on."""
    with Server("--workers", "0", "--http_connections", "64") as server:
        job = post(server, model=upload(server))
        streams = [Stream(server, job) for _ in range(48)]
        assert {stream.status for stream in streams} == {200}
        with Stream(server, job) as more:
            assert more.status == 503 and int(more.headers["Retry-After"]) > 0
        started = time.time()
        assert server.get(f"/v1/jobs/{job}?wait=10").json()["state"] == "queued"
        assert time.time() - started < 8, "a long poll that would be one too many answers at once"
        for stream in streams:
            stream.close()
        assert server.get("/healthz").status == 200


def test_readers_that_leave():
    """Clients that hang up are noticed at the next ping, at the latest: all their connections are free again."""
    with Server("--workers", "0", "--http_connections", "64", "--events_ping_s", "1") as server:
        job = post(server, model=upload(server))
        before = open_files(server)
        for _ in range(2):  # of 48 streams that there may be
            streams = [Stream(server, job) for _ in range(40)]
            assert {stream.status for stream in streams} == {200} and open_files(server) > before + 30
            for stream in streams:
                stream.close()
            until = time.time() + 5
            while open_files(server) > before + 8 and time.time() < until:  # the catalogue opens a few of its own
                time.sleep(0.02)
            assert open_files(server) <= before + 8


@pytest.mark.parametrize("delay", ["0", "1"])
def test_stop_with_open_streams(delay):
    """SIGTERM ends every stream cleanly (the last chunk comes), long polls are answered, the exit status is 0."""
    with Server("--workers", "0", "--drain_delay_s", delay) as server:
        job = post(server, model=upload(server))
        streams = [Stream(server, job) for _ in range(100)]
        polls = [socket.create_connection((server.host, server.port)) for _ in range(50)]
        for poll in polls:
            poll.sendall(f"GET /v1/jobs/{job}?wait=30 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        for stream in streams:
            blocks = list(stream.blocks())
            assert stream.ended and blocks[-1].startswith(": the server is stopping"), blocks
            assert not any("event: end" in b for b in blocks)
        for poll in polls:
            poll.settimeout(5)
            assert b"200 OK" in poll.recv(65536)
        assert server.process.wait(20) == 0, server.log_text()
        assert "Fatal" not in server.log_text()


def test_stop_with_readers_that_do_not_read():
    """Streams whose clients hang, with their buffers full, cannot hold the stop up."""
    with Server("--workers", "0") as server:
        job = post(server, model=upload(server))
        held = []
        for _ in range(50):
            c = socket.socket()
            c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            c.connect((server.host, server.port))
            c.sendall(f"GET /v1/jobs/{job}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            held.append(c)
        time.sleep(0.3)
        started = time.time()
        assert server.stop() == 0
        assert time.time() - started < 15


def test_resume_over_a_restart():
    with Server("--workers", "0") as server:
        job = post(server, model=upload(server))
        with Stream(server, job) as stream:
            last = next(stream.events())[0]
        assert server.stop() == 0
        server.start()
        with Stream(server, job, headers=(f"Last-Event-ID: {last}",)) as stream:
            events = stream.events()
            server.post_json(f"/v1/jobs/{job}/cancel", {})
            assert [(i, kind) for i, kind, _ in events] == [(last + 1, "state"), (None, "end")]


def test_other_owner(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("alice alice-key-0123456789\nbob bob-key-0123456789\n")
    with Server("--workers", "0", "--api_key_file", str(keys)) as server:
        alice = {"Authorization": "Bearer alice-key-0123456789"}
        model = server.request("PUT", "/v1/models?name=t.onnx", body=tiny.classifier(0), headers=alice).json()["id"]
        job = server.post_json("/v1/jobs", {"model": model, "recipe": STEPS}, headers=alice).json()["id"]
        assert server.get(f"/v1/jobs/{job}/events").status == 401
        assert server.get(f"/v1/jobs/{job}/events", headers={"Authorization": "Bearer bob-key-0123456789"}).status == 404
        with Stream(server, job, headers=("Authorization: Bearer alice-key-0123456789",)) as stream:
            assert next(stream.events())[2]["state"] == "queued"


# ---- long polls by version

def test_since(idle):
    job = post(idle, model=upload(idle, 3))
    version = idle.get(f"/v1/jobs/{job}").json()["version"]
    started = time.time()
    assert idle.get(f"/v1/jobs/{job}?wait=20&since={version + 1}").json()["version"] == version
    assert idle.get(f"/v1/jobs/{job}?wait=20&since=0").json()["version"] == version
    assert time.time() - started < 10, "another version than the one known is an answer"
    started = time.time()
    assert idle.get(f"/v1/jobs/{job}?wait=1&since={version}").json()["version"] == version
    assert 0.9 < time.time() - started < 10
    answers = []
    thread = threading.Thread(target=lambda: answers.append((idle.get(f"/v1/jobs/{job}?wait=20&since={version}").json(), time.time())))
    thread.start()
    time.sleep(0.3)
    asked = time.time()
    idle.post_json(f"/v1/jobs/{job}/cancel", {})
    thread.join()
    row, answered = answers[0]
    assert row["state"] == "canceled" and row["version"] > version and answered - asked < 10
    started = time.time()
    assert idle.get(f"/v1/jobs/{job}?wait=20&since={row['version']}").json()["state"] == "canceled"
    assert time.time() - started < 10, "an ended job has nothing to wait for"


@pytest.mark.parametrize("since", ["-1", "x", "1.5", "99999999999999999999", ""])
def test_wrong_since(idle, since):
    job = post(idle, model=upload(idle, 3))
    answer = idle.get(f"/v1/jobs/{job}?wait=1&since={since}")
    assert answer.status == 422 and answer.json()["errors"][0]["parameter"] == "since"
