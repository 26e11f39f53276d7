# SPDX-License-Identifier: Apache-2.0
"""Clients that mean harm, or cannot do better, over raw sockets against a real server: slow ones, many, too large headers, requests two
parties may read differently, pipelines. After each, others are served as before."""
import gzip
import json
import os
import re
import resource
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

import tiny
from pared_server import Server

OK = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"  # nothing is waited for behind its answer
STEPS = {"steps": [{"method": "graph.optimize"}]}


@pytest.fixture(scope="module")
def s():
    with Server("--workers", "0") as server:
        yield server
        assert server.get("/healthz").status == 200
        assert server.stop() == 0, server.log_text()[-2000:]


@pytest.fixture(scope="module")
def hasty():
    """Deadlines short enough to be waited for."""
    with Server("--workers", "0", "--http_header_timeout_s", "1", "--http_min_rate_bytes", "1000", "--http_rate_window_s", "2") as server:
        yield server
        assert server.stop() == 0, server.log_text()[-2000:]


def statuses(out):
    return [int(m) for m in re.findall(rb"HTTP/1\.1 (\d{3}) ", out)]


def connect(server):
    return socket.create_connection((server.host, server.port), timeout=30)


def closes(c, seconds):
    """Seconds until the server closes; what it said before."""
    c.settimeout(seconds)
    started, out = time.time(), b""
    try:
        while True:
            piece = c.recv(65536)
            if not piece:
                break
            out += piece
    except ConnectionError:
        pass
    except socket.timeout:
        raise AssertionError(f"still open after {seconds} s") from None
    return time.time() - started, out


def served(server, seconds=2):
    started = time.time()
    assert server.get("/healthz").status == 200
    assert server.get("/v1/stats").status == 200
    took = time.time() - started
    assert took < seconds, took


# ---- smuggling: what two parties could read differently is refused, the connection closed, nothing behind it answered

HEAD = b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\n"
AMBIGUOUS = {
    "two lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
    "same length twice": HEAD + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\n12345",
    "list of lengths": HEAD + b"Content-Length: 5, 5\r\n\r\n12345",
    "length and chunks": HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": HEAD + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "space before colon": HEAD + b"Content-Length : 5\r\n\r\n12345",
    "tab before colon": HEAD + b"Content-Length\t: 5\r\n\r\n12345",
    "space before colon of chunks": HEAD + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "xchunked": HEAD + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "gzip, chunked": HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked, identity": HEAD + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "identity": HEAD + b"Transfer-Encoding: identity\r\n\r\n",
    "chunked in quotes": HEAD + b"Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
    "chunked with vertical tab": HEAD + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunks twice": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and other": HEAD + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n\r\n0\r\n\r\n",
    "negative length": HEAD + b"Content-Length: -5\r\n\r\n",
    "signed length": HEAD + b"Content-Length: +5\r\n\r\n12345",
    "hex length": HEAD + b"Content-Length: 0x5\r\n\r\n12345",
    "length with unit": HEAD + b"Content-Length: 5x\r\n\r\n12345",
    "length in two words": HEAD + b"Content-Length: 5 5\r\n\r\n12345",
    "empty length": HEAD + b"Content-Length:\r\n\r\n12345",
    "no host": b"GET /healthz HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
    "control character in a name": HEAD + b"X\x01Y: 1\r\n\r\n",
    "control character in a value": HEAD + b"X: a\x01b\r\n\r\n",
    "NUL in a name": HEAD + b"X\x00: a\r\n\r\n",
    "line without colon": HEAD + b"nonsense\r\n\r\n",
    "method override": HEAD + b"X-HTTP-Method-Override: DELETE\r\nContent-Length: 0\r\n\r\n",
    "method override, another": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-HTTP-Method: DELETE\r\n\r\n",
    "method override, a third": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nx-method-override: DELETE\r\n\r\n",
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_ambiguous(s, name):
    out, closed = s.raw(AMBIGUOUS[name] + OK * 2, timeout=3)
    assert set(statuses(out)) <= {400}, out[:400]  # libmicrohttpd 0.9.75 sends the head of its own refusals twice
    assert closed, "the connection must be closed"
    served(s)


DROPPED = {
    "NUL in a value": b"X: a\x00b\r\nContent-Length: 0\r\n",
    "NUL in a length": b"Content-Length: 0\x005\r\n",
    "NUL before chunked": b"Content-Length: 0\r\nX: \x00chunked\r\n",
    "no name": b": chunked\r\nContent-Length: 0\r\n",
    "no name, a request behind": b": x\r\nGET /v1/models HTTP/1.1\r\nHost: localhost\r\n",
    "more blanks": b"Content-Length:   0\r\n",
    "bare line feed": b"Content-Length: 0\n",
}


@pytest.mark.parametrize("name", DROPPED)
def test_what_the_parser_drops(s, name):
    """libmicrohttpd 0.9.75 ends a value at NUL, and the whole header at a line without a name, before anyone can look. Where the parts it
    shows do not explain every byte of the header, the request is answered and the connection closed: nothing behind it is a request."""
    out, closed = s.raw(b"POST /v1/nothing HTTP/1.1\r\nHost: localhost\r\n" + DROPPED[name] + b"\r\n" + OK, timeout=3)
    assert statuses(out) == [404] and closed, out
    assert b"Connection: close" in out


def test_ordinary_clients_keep_their_connection(s):
    """Headers as curl, Python and browsers write them are explained to the byte."""
    for lines in (b"", b"Accept: */*\r\nUser-Agent: curl/7.88.1\r\n", b"Accept-Encoding: identity\r\n", b"Connection: keep-alive\r\nCookie: a=b; c=d\r\n"):
        out, _ = s.raw((b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + lines + b"\r\n") * 3 + LAST)
        assert statuses(out) == [200] * 4 and out.count(b"Connection: close") == 1, out


FOLDED = {
    "folded header": b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n",
    "folded length": HEAD + b"Content-Length: 1\r\n 0\r\n\r\n1234567890",
    "folded chunked": HEAD + b"Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "space before the first header": b"GET /healthz HTTP/1.1\r\n Host: localhost\r\n\r\n",
}


@pytest.mark.parametrize("name", FOLDED)
def test_folded_lines(s, name):
    """obs-fold (RFC 9112 5.2) is refused, or read as one line; what is behind is not read."""
    out, closed = s.raw(FOLDED[name] + OK, timeout=3)
    assert len(statuses(out)) <= 1 and closed, out[:400]


BAD_CHUNKS = {
    "no number": b"zz\r\nabc\r\n0\r\n\r\n",
    "negative": b"-1\r\nabc\r\n0\r\n\r\n",
    "beyond 64 bit": b"10000000000000000\r\nabc\r\n0\r\n\r\n",
    "much beyond": b"f" * 300 + b"\r\nabc\r\n0\r\n\r\n",
    "0x": b"0x3\r\nabc\r\n0\r\n\r\n",
    "plus": b"+3\r\nabc\r\n0\r\n\r\n",
    "data longer than said": b"3\r\nabcdef\r\n0\r\n\r\n",
    "no line end behind the data": b"3\r\nabc0\r\n\r\n",
}


@pytest.mark.parametrize("name", BAD_CHUNKS)
def test_bad_chunks(s, name):
    """A chunk that cannot be read ends the connection; what follows is no request, and nothing is left on disk."""
    out, closed = s.raw(b"PUT /v1/models HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" + BAD_CHUNKS[name] + OK, timeout=2, shut=True)
    assert 200 not in statuses(out) and 201 not in statuses(out), out[:400]
    assert closed
    assert s.files_on_disk()["tmp"] == 0
    served(s)


def test_chunks_with_extensions_and_trailers(s):
    """Legal, and without meaning here: a trailer cannot become a header."""
    body = json.dumps({"name": "r1", "recipe": STEPS}).encode()
    out, _ = s.raw(b"POST /v1/recipes HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n" +
                   b"%x;a=b;c=\"d\"\r\n" % len(body) + body + b"\r\n0\r\nContent-Length: 5\r\nX-HTTP-Method-Override: DELETE\r\n\r\n" + LAST)
    assert statuses(out)[-1:] == [200] and len(statuses(out)) == 2 and statuses(out)[0] < 300, out


def test_a_body_where_none_belongs(s):
    """The body of a GET is read and dropped: it is not the next request."""
    inner = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
    out, _ = s.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner + LAST)
    assert statuses(out) == [200, 200] and out.count(b'"status":"ok"') == 2, out
    out, _ = s.raw(b"DELETE /v1/nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner + LAST)
    assert statuses(out) == [404, 200], out


@pytest.mark.parametrize("line", [
    b"GET /healthz", b"GET  /healthz HTTP/1.1", b"GET /healthz HTTP/1.1 HTTP/1.1", b"GET /health z HTTP/1.1", b"GET\t/healthz\tHTTP/1.1",
    b" GET /healthz HTTP/1.1", b"GET /healthz HTTP/2.0", b"GET /healthz HTTP/1.2", b"GET /healthz http/1.1", b"get /healthz HTTP/1.1", b"GET healthz HTTP/1.1",
    b"GET \\healthz HTTP/1.1", b"CONNECT localhost:80 HTTP/1.1", b"TRACE /healthz HTTP/1.1", b"PRI * HTTP/2.0", b"OPTIONS * HTTP/1.1", b"GET * HTTP/1.1",
    b"GET http://evil.example/healthz HTTP/1.1", b"GET //healthz HTTP/1.1", b"GET /healthz#x HTTP/1.1", b"GET /\x80 HTTP/1.1", b"G\x00T /healthz HTTP/1.1",
    b"GET /healthz\x00 HTTP/1.1"])
def test_odd_request_lines(s, line):
    out, _ = s.raw(line + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n", timeout=0.5)
    for status in statuses(out):
        assert status in (200, 204, 400, 403, 404, 405, 501, 505), out
    if b"http://evil" in line:
        assert statuses(out) == [403]
    if line.startswith((b"CONNECT", b"TRACE", b"get")):
        assert 200 not in statuses(out), out
    served(s)


def test_absolute_target_decides_the_host(s):
    out, _ = s.raw(b"GET http://localhost/healthz HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    assert statuses(out) == [200]


def test_bare_line_feeds(s):
    """Read as line ends, by us as by others (RFC 9112 2.2): one request, one answer, and the end."""
    out, closed = s.raw(b"GET /healthz HTTP/1.1\nHost: localhost\n\n" + OK, timeout=3)
    assert statuses(out) == [200] and closed
    out, _ = s.raw(b"POST /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nX: y\nContent-Length: 6\r\n\r\n12345" + OK, timeout=2)
    assert statuses(out) == [400], out


def test_header_injection(s):
    """Nothing a client sends comes back as a header line of its own."""
    for value in (b"a\r\nSet-Cookie: x=1", b"a%0d%0aSet-Cookie:%20x=1", b"a\nSet-Cookie: x=1", b"\xe2\x80\xa8Set-Cookie: x=1"):
        out, _ = s.raw(b"GET /v1/models?limit=" + value.replace(b" ", b"%20") + b" HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: " + value + b"\r\nConnection: close\r\n\r\n",
                       timeout=0.5)
        assert not re.search(rb"^set-cookie:", out.split(b"\r\n\r\n")[0], re.I | re.M), out


# ---- sizes

def test_header_sizes(s):
    for size, status in ((1000, 200), (15000, 200), (17000, 431), (300000, 431)):
        out, _ = s.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * size + b"\r\n\r\n", timeout=2, shut=True)
        assert statuses(out) in ([status], [413] if status == 431 else []), (size, out[:200])
    for count, status in ((90, 200), (101, 431), (3000, 431)):
        out, _ = s.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(count)) + b"\r\n", timeout=2, shut=True)
        assert statuses(out) == [status], (count, out[:200])
    served(s)


def test_megabyte_headers(s):
    """Answered or cut, at once, and never kept in memory."""
    before = s.rss_bytes()
    for kind in (b"X: " + b"y" * (1 << 20), b"X" * (1 << 20) + b": y", b"\r\n".join(b"X%d: %s" % (i, b"y" * 1000) for i in range(1000)), b"y" * (1 << 20)):
        started = time.time()
        out, closed = s.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + kind + b"\r\n\r\n", timeout=5)
        assert closed and time.time() - started < 4 and set(statuses(out)) <= {400, 413, 431}, out[:200]
    assert s.rss_bytes() - before < 8 << 20
    served(s)


def test_long_targets(s):
    for size, status in ((100, 404), (8000, 404), (9000, 414), (300000, 414)):
        out, _ = s.raw(b"GET /" + b"a" * size + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", timeout=2, shut=True)
        assert statuses(out) == [status] or (size > 30000 and statuses(out) in ([431], [413], [])), (size, out[:200])
    served(s)


# ---- pipelines

def test_pipeline(s):
    """A hundred requests in one packet: a hundred answers in order."""
    requests = b"".join(b"GET /v1/models?limit=%d HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: n%d\r\n\r\n" % (i % 200 + 1, i) for i in range(100))
    out, _ = s.raw(requests + LAST, timeout=10)
    assert statuses(out) == [200] * 101
    assert re.findall(rb"X-Request-Id: n(\d+)\r", out) == [b"%d" % i for i in range(100)]


def test_pipeline_of_everything(s):
    """Bodies, refusals and long polls in one pipeline keep their order."""
    model = s.request("PUT", "/v1/models", body=tiny.classifier(1)).json()["id"]
    job = s.post_json("/v1/jobs", {"model": model, "recipe": STEPS}).json()["id"]
    body = json.dumps({"model": model, "recipe": STEPS}).encode()
    requests = [b"GET /v1/jobs/%s?wait=1 HTTP/1.1\r\nHost: localhost\r\n\r\n" % job.encode(),
                b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body,
                b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello",
                b"GET /v1/nothing HTTP/1.1\r\nHost: localhost\r\n\r\n",
                b"HEAD /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n",
                b"PUT /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", LAST]
    out, _ = s.raw(b"".join(requests), timeout=10)
    assert statuses(out) == [200, 202, 415, 404, 200, 422, 200], out


def test_pipeline_behind_a_stream(s):
    """The request behind a stream is answered when the stream has ended."""
    model = s.request("PUT", "/v1/models", body=tiny.classifier(2)).json()["id"]
    job = s.post_json("/v1/jobs", {"model": model, "recipe": STEPS}).json()["id"]
    with connect(s) as c:
        c.sendall(b"GET /v1/jobs/%s/events HTTP/1.1\r\nHost: localhost\r\n\r\n" % job.encode() + OK)
        time.sleep(0.5)
        s.post_json(f"/v1/jobs/{job}/cancel", {})
        out = b""
        c.settimeout(5)
        while b'"status":"ok"' not in out:
            out += c.recv(65536)
    assert statuses(out) == [200, 200] and out.index(b"event: end") < out.index(b'"status":"ok"')


def test_endless_pipeline_without_reading(s):
    """A client that asks and asks and does not read is stopped by its own full buffers, not by our memory."""
    before = s.rss_bytes()
    with connect(s) as c:
        c.settimeout(0.5)
        with pytest.raises(OSError):
            while True:
                c.sendall(b"GET /openapi.yaml HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
        served(s)
        assert s.rss_bytes() - before < 16 << 20


# ---- slow ones

def drip(c, data, pause, seconds):
    """A byte every `pause` seconds, until the server closes; seconds it took."""
    started = time.time()
    c.settimeout(0.01)
    for byte in data:
        try:
            c.sendall(bytes([byte]))
            if c.recv(1) == b"":
                break
        except socket.timeout:
            pass
        except OSError:
            break
        assert time.time() - started <= seconds, f"still open after {seconds} s"
        time.sleep(pause)
    return time.time() - started


def slow_header(server):
    with connect(server) as c:
        assert drip(c, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100, 0.2, 6) < 4


def slow_header_on_a_used_connection(server):
    """The same on a connection that was served before; resting between requests is allowed, for longer than a header may take."""
    with connect(server) as c:
        c.sendall(OK)
        assert b"200 OK" in c.recv(65536)
        time.sleep(2)
        c.sendall(OK)
        assert b"200 OK" in c.recv(65536)
        time.sleep(1.3)
        assert drip(c, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 100, 0.2, 8) < 5


def silent_connection(server):
    with connect(server) as c:
        assert closes(c, 5)[0] < 4


def slow_body(server):
    with connect(server) as c:
        c.sendall(b"PUT /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n")
        assert 1.5 < drip(c, b"x" * 1000, 0.2, 20) < 10


def slow_reader(server):
    """Who takes his answer a byte at a time loses it."""
    model = server.request("PUT", "/v1/models", body=padded(tiny.classifier(3), 8 << 20)).json()["id"]
    with socket.socket() as c:
        c.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        c.settimeout(30)
        c.connect((server.host, server.port))
        c.sendall(f"GET /v1/models/{model}/content HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        started, got = time.time(), 0
        try:
            while time.time() - started < 30:
                piece = c.recv(50)
                got += len(piece)
                if not piece:
                    break
                time.sleep(0.2)
        except OSError:  # reset
            pass
        assert got < 4 << 20 and time.time() - started < 15, "cut after a window or two"


def many_slow_headers(server):
    """Two hundred at once: all cut, others served meanwhile."""
    slow = [connect(server) for _ in range(200)]
    until = time.time() + 3
    while time.time() < until:
        for c in slow:
            try:
                c.sendall(b"G")
            except OSError:
                pass
        served(server)
        time.sleep(0.2)
    alive = 0
    for c in slow:
        c.settimeout(1)
        try:
            alive += c.recv(1) != b""
        except ConnectionError:
            pass
        except socket.timeout:
            alive += 1
        c.close()
    assert alive == 0


SLOW = (slow_header, slow_header_on_a_used_connection, silent_connection, slow_body, slow_reader, many_slow_headers)


def test_slow_clients_are_cut(hasty):
    """All kinds at once, since each is mostly waiting; each is cut at its own time, and the others are served."""
    with ThreadPoolExecutor(len(SLOW)) as pool:
        under_way = {case.__name__: pool.submit(case, hasty) for case in SLOW}
        faults = {name: result.exception() for name, result in under_way.items() if result.exception()}
    assert not faults
    assert hasty.files_on_disk()["tmp"] == 0
    served(hasty)


def test_clients_that_leave_are_noticed():
    """Their last bytes and the end of the connection may come together. It is seen all the same, long before the 20 s after which a body is too slow,
    the 10 s of a header or the 60 s of a resting connection: what they held is free for others."""
    with Server() as server:
        for kind in (b"PUT /v1/models HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500000\r\n\r\n" + bytes(400000), OK[:-4], OK):
            for _ in range(40):
                with connect(server) as c:
                    c.sendall(kind)
            started = time.time()
            while b"\npared_http_connections 1\n" not in server.get("/metrics").body:  # the one that asks
                assert time.time() - started < 7, kind[:60]
                time.sleep(0.1)
        assert server.files_on_disk()["tmp"] == 0


def padded(model, size):
    """The model with metadata of so many bytes."""
    return model + tiny.field(14, tiny.field(1, "padding") + tiny.field(2, "y" * size))


# ---- many

def raise_files(count):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        pytest.skip(f"needs {count} open files, the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))


def connect_many(server, count):
    """So many connections; as fast as the backlog takes them."""
    found = []
    for _ in range(count):
        c = socket.socket()
        c.settimeout(10)
        c.connect((server.host, server.port))
        found.append(c)
    return found


def open_files(server):
    return len(os.listdir(f"/proc/{server.process.pid}/fd"))


def test_ten_thousand_idle_connections():
    """Room for all of them: held, cheap, and others are served as before."""
    raise_files(12000)
    with Server("--workers", "0", "--http_connections", "11000", "--http_header_timeout_s", "60") as server:
        before = server.rss_bytes()
        idle = connect_many(server, 10000)
        until = time.time() + 10
        while open_files(server) < 10000 and time.time() < until:
            time.sleep(0.1)
        assert open_files(server) > 10000
        served(server)
        grown = server.rss_bytes() - before
        print(f"10,000 idle: RSS +{grown >> 20} MiB")
        assert grown < 100 << 20
        for c in idle:
            c.close()
        served(server, 2)
        assert server.stop() == 0


def test_ten_thousand_idle_connections_and_little_room():
    """Room for 512: each new one pushes the oldest idle one out; working clients keep their turn and their connection."""
    raise_files(12000)
    with Server("--workers", "0", "--http_connections", "512") as server:
        worker = connect(server)
        worker.sendall(OK)  # known as one that works before the others come, however late its thread gets a turn
        assert b"200 OK" in worker.recv(65536)
        stop, faults, longest = threading.Event(), [], [0.0]

        def work():
            while not stop.is_set():
                started = time.time()
                try:
                    worker.sendall(OK)
                    if b"200 OK" not in worker.recv(65536):
                        raise OSError("closed")
                except OSError as e:
                    faults.append(repr(e))
                    return
                longest[0] = max(longest[0], time.time() - started)
                time.sleep(0.01)
        thread = threading.Thread(target=work)
        thread.start()
        idle = connect_many(server, 10000)
        served(server, 2)
        stop.set()
        thread.join()
        assert not faults and longest[0] < 2, (faults, longest)
        assert open_files(server) < 700
        for c in idle:
            c.close()
        served(server, 2)


def test_few_files_allowed():
    """The connections are fitted to the limit of open files, with a word in the log; files for work are left."""
    with Limited(600) as server:
        assert "do not fit" in server.log_text()
        idle = connect_many(server, 550)
        served(server, 2)
        assert server.request("PUT", "/v1/models", body=tiny.classifier(1)).status in (200, 201)
        for c in idle:
            c.close()


class Limited(Server):
    """A server that may open only so many files, and cannot raise that."""

    def __init__(self, files):
        self.files = files
        super().__init__("--workers", "0")

    def command(self):
        return ["prlimit", f"--nofile={self.files}:{self.files}", *super().command()]


# ---- what an answer says of itself

def encoded(server, path, accept, **headers):
    return server.get(path, headers={**({"Accept-Encoding": accept} if accept else {}), **headers})


@pytest.mark.parametrize("accept, coding", [
    (None, None), ("", None), ("identity", None), ("br", None), ("gzip", "gzip"), ("zstd", "zstd"), ("gzip, zstd", "zstd"), ("zstd;q=0.5, gzip", "gzip"),
    ("*", "zstd"), ("*;q=0", None), ("gzip;q=0", None), ("gzip;q=0, *", "zstd"), ("GZIP", "gzip"), ("gzip ; q=1", "gzip"), ("identity;q=1, gzip;q=0.5", None),
    ("x-gzip", "gzip"), ("gzip;q=2", None), ("gzip;q=x", None), (", ,gzip,,", "gzip"), ("a" * 5000, None), ("gzipped", None)])
def test_content_coding(s, accept, coding):
    plain = s.get("/v1/methods")
    answer = encoded(s, "/v1/methods", accept)
    assert answer.headers.get("content-encoding") == coding
    assert "Accept-Encoding" in answer.headers["vary"]
    body = answer.body
    if coding == "gzip":
        body = gzip.decompress(body)
    elif coding == "zstd":
        body = unzstd(body)
    assert body == plain.body
    assert coding is None or len(answer.body) < len(plain.body) / 2
    assert int(answer.headers["content-length"]) == len(answer.body)


def unzstd(data):
    import subprocess
    if not os.path.exists("/usr/bin/zstd"):
        pytest.skip("skipped: no zstd command")
    return subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=True).stdout


def test_coding_and_etag(s):
    """A coded answer has a weak ETag (other bytes, same meaning); either is good for If-None-Match. HEAD says what GET would."""
    plain, coded = s.get("/openapi.yaml"), encoded(s, "/openapi.yaml", "gzip")
    assert not plain.headers["etag"].startswith("W/") and coded.headers["etag"] == "W/" + plain.headers["etag"]
    for etag in (plain.headers["etag"], coded.headers["etag"]):
        for accept in (None, "gzip"):
            answer = encoded(s, "/openapi.yaml", accept, **{"If-None-Match": etag})
            assert (answer.status, answer.body) == (304, b"") and "Accept-Encoding" in answer.headers["vary"]
            assert "content-encoding" not in answer.headers
    head = s.request("HEAD", "/openapi.yaml", headers={"Accept-Encoding": "gzip"})
    assert head.headers["content-encoding"] == "gzip" and head.headers["content-length"] == coded.headers["content-length"]


def test_small_and_packed_answers_stay(s):
    assert "content-encoding" not in encoded(s, "/healthz", "gzip").headers
    model = s.request("PUT", "/v1/models", body=tiny.classifier(1)).json()["id"]
    content = encoded(s, f"/v1/models/{model}/content", "gzip, zstd")
    assert "content-encoding" not in content.headers and content.body == tiny.classifier(1)


def test_server_timing(s):
    timing = s.get("/v1/models").headers["server-timing"]
    parts = dict(re.findall(r"(\w+);dur=([\d.]+)", timing))
    assert set(parts) == {"queue", "app", "store"}
    assert 0 < float(parts["store"]) <= float(parts["app"]) < 5000


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize("given, kept", [
    (TRACE, True), ("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", True), (TRACE + "-more", False), (TRACE.upper(), False),
    ("00-" + "0" * 32 + "-00f067aa0ba902b7-01", False), ("00-4bf92f3577b34da6a3ce929d0e0e4736-" + "0" * 16 + "-01", False),
    ("ff" + TRACE[2:], False), ("nonsense", False), ("", False), ("x" * 10000, False), (None, False)])
def test_traceparent(s, given, kept):
    answer = s.get("/healthz", headers={} if given is None else {"traceparent": given})
    parent = answer.headers["traceparent"]
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", parent)
    assert (parent[3:35] == TRACE[3:35]) == kept
    assert parent[36:52] != TRACE[36:52], "a span of its own"
    assert parent.endswith("-01" if kept else "-00")


def test_trace_of_a_job():
    """The trace of the request that queued a job is in its row, in the log of its worker and in its process's environment."""
    from test_server_life import busy, children, training, wait
    with Server("--threads", "1") as server:
        job = server.post_json("/v1/jobs", training(server), headers={"traceparent": TRACE}).json()
        assert job["traceparent"][3:35] == TRACE[3:35]
        wait(server, job["id"], busy)
        with open(f"/proc/{children(server)[0]}/environ", "rb") as f:
            environment = dict(v.split(b"=", 1) for v in f.read().split(b"\0") if v)
        inside = environment[b"TRACEPARENT"].decode()
        assert inside[3:35] == TRACE[3:35] and inside[36:52] not in (TRACE[36:52], job["traceparent"][36:52])
        server.post_json(f"/v1/jobs/{job['id']}/cancel", {})
        wait(server, job["id"], lambda r: r["state"] == "canceled")
        assert any(TRACE[3:35] in line and job["id"] in line for line in server.log_text().splitlines())


@pytest.mark.parametrize("given, kept", [("abc-123_X.y", True), ("a" * 128, True), ("a" * 129, False), ("a b", False), ("<script>", False), ("é", False), ("", False)])
def test_request_id(s, given, kept):
    out, _ = s.raw(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: " + given.encode() + b"\r\nConnection: close\r\n\r\n")
    found = re.search(rb"X-Request-Id: ([^\r]*)\r", out).group(1).decode()
    assert (found == given) == kept and re.fullmatch(r"[\w.-]{1,128}", found)
