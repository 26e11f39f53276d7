# SPDX-License-Identifier: Apache-2.0
"""Resumable uploads (tus 1.0): real clients (tuspy, tus-js-client), cut connections, sudden death, every refusal, and what they become."""
import base64
import email.utils
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import tiny
from pared_server import ROOT, Server, multipart

TUS = {"Tus-Resumable": "1.0.0"}
MIB = 1 << 20


@pytest.fixture(scope="module")
def s():
    with Server() as server:
        yield server
        assert server.stop() == 0, server.log_text()[-2000:]


def b64(data):
    return base64.b64encode(data if isinstance(data, bytes) else data.encode()).decode()


def create(s, length, metadata=None, **headers):
    sent = {**TUS, "Upload-Length": str(length), **{k.replace("_", "-"): v for k, v in headers.items()}}
    if metadata is not None:
        sent["Upload-Metadata"] = ",".join(f"{k} {b64(v)}" for k, v in metadata.items()) if isinstance(metadata, dict) else metadata
    return s.request("POST", "/v1/uploads", headers=sent)


def started(s, length, metadata=None):
    answer = create(s, length, metadata)
    assert answer.status == 201, answer
    return answer.headers["location"]


def patch(s, path, offset, body, **headers):
    sent = {**TUS, "Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset), **{k.replace("_", "-"): v for k, v in headers.items()}}
    return s.request("PATCH", path, body=body, headers={k: v for k, v in sent.items() if v is not None})


def offset_of(s, path):
    answer = s.request("HEAD", path, headers=TUS)
    assert answer.status == 200 and answer.headers["cache-control"] == "no-store", answer
    return int(answer.headers["upload-offset"])


def put(s, data, name="m.onnx"):
    """A complete upload of these bytes: its id."""
    path = started(s, len(data), {"filename": name})
    if data:
        assert patch(s, path, 0, data).status == 204
    return path.rsplit("/", 1)[1]


def problem(answer, status, code, says=""):
    assert answer.status == status, answer
    document = answer.json()
    assert document["code"] == code and document["status"] == status, document
    assert says in document["detail"], document
    return document


def half_sent(s, path, offset, whole, part, **headers):
    """A PATCH that announces len(whole) bytes and sends len(part): the open socket."""
    lines = {"Host": f"127.0.0.1:{s.port}", **TUS, "Content-Type": "application/offset+octet-stream", "Upload-Offset": offset, "Content-Length": len(whole),
             **{k.replace("_", "-"): v for k, v in headers.items()}}
    sock = socket.create_connection((s.host, s.port), timeout=20)
    sock.sendall(f"PATCH {path} HTTP/1.1\r\n".encode() + "".join(f"{k}: {v}\r\n" for k, v in lines.items()).encode() + b"\r\n" + part)
    return sock


def until(what, seconds=10):
    end = time.time() + seconds
    while not what():
        assert time.time() < end
        time.sleep(0.05)


def settled(s, path):
    """The offset once the server has seen that a connection is gone."""
    at = -1
    while at != (at := offset_of(s, path)):
        time.sleep(0.3)
    return at


def noise(n, seed=0):
    return random.Random(seed).randbytes(n)


# ---- the protocol

def test_options(s):
    answer = s.request("OPTIONS", "/v1/uploads")
    assert answer.status == 204
    assert answer.headers["tus-resumable"] == answer.headers["tus-version"] == "1.0.0"
    assert set(answer.headers["tus-extension"].split(",")) == {"creation", "expiration", "checksum", "termination"}
    assert answer.headers["tus-checksum-algorithm"].split(",") == ["sha1", "sha256"]
    assert int(answer.headers["tus-max-size"]) == 16 << 30


def test_in_pieces(s):
    data = noise(300_000)
    answer = create(s, len(data), {"filename": "a b.bin", "note": "müsli 🥣 <b>", "flag": ""})
    assert answer.status == 201 and answer.headers["tus-resumable"] == "1.0.0"
    path, body = answer.headers["location"], answer.json()
    assert path == "/v1/uploads/" + body["id"] and body["state"] == "receiving" and body["offset"] == 0 and "sha256" not in body
    assert body["metadata"] == {"filename": "a b.bin", "note": "müsli 🥣 <b>", "flag": ""}
    expires = email.utils.parsedate_to_datetime(answer.headers["upload-expires"]).timestamp()
    assert abs(expires - time.time() - 86400) < 30
    at = 0
    for size in (1, 99_999, 0, 200_000):
        answer = patch(s, path, at, data[at:at + size])
        assert answer.status == 204 and answer.body == b"", answer
        at += size
        assert int(answer.headers["upload-offset"]) == at == offset_of(s, path)
    head = s.request("HEAD", path, headers=TUS)
    assert head.headers["upload-length"] == str(len(data)) and head.headers["upload-metadata"].startswith("filename " + b64("a b.bin") + ",")
    body = s.get(path).json()
    assert body["state"] == "complete" and body["sha256"] == hashlib.sha256(data).hexdigest()
    assert body["id"] in [u["id"] for u in s.get("/v1/uploads?limit=200").json()["data"]]
    assert patch(s, path, at, b"").status == 204, "nothing at the end changes nothing"
    problem(patch(s, path, at, b"x"), 413, "too_large")
    assert s.request("DELETE", path, headers=TUS).status == 204
    problem(s.request("DELETE", path, headers=TUS), 404, "not_found")
    assert s.request("HEAD", path, headers=TUS).status == 404
    problem(patch(s, path, 0, b"x"), 404, "not_found")
    assert s.files_on_disk()["objects"] == 0


def test_chunked_body(s):
    data = noise(400_000, 1)
    path = started(s, len(data))
    answer = s.request("PATCH", path, body=iter([data[:10], data[10:]]), encode_chunked=True,
                       headers={**TUS, "Content-Type": "application/offset+octet-stream", "Upload-Offset": "0", "Transfer-Encoding": "chunked"})
    assert answer.status == 204 and s.get(path).json()["sha256"] == hashlib.sha256(data).hexdigest()
    for place, offset, body in ((path, len(data), [b"x"]), (started(s, 5), 0, [b"hello", b"x"])):  # complete already, or completed by the way
        answer = s.request("PATCH", place, body=iter(body), encode_chunked=True,
                           headers={**TUS, "Content-Type": "application/offset+octet-stream", "Upload-Offset": str(offset), "Transfer-Encoding": "chunked"})
        problem(answer, 413, "too_large")


def test_refusals_of_creation(s):
    assert s.request("POST", "/v1/uploads", headers={"Upload-Length": "1"}).headers["tus-version"] == "1.0.0"
    for version in (None, "0.2.2", "1.0", "1.0x"):
        answer = s.request("POST", "/v1/uploads", headers={"Upload-Length": "1", **({"Tus-Resumable": version} if version else {})})
        problem(answer, 412, "precondition_failed", "1.0.0")
        assert answer.headers["tus-version"] == answer.headers["tus-resumable"] == "1.0.0"
    for length in ("", "-1", "+5", "1e3", "0x10", "5 5", "9" * 19, "9" * 400):
        problem(create(s, length), 400, "bad_request", "Upload-Length")
    problem(s.request("POST", "/v1/uploads", headers=TUS), 400, "bad_request", "Upload-Length")
    problem(create(s, (16 << 30) + 1), 413, "too_large", "max_upload_bytes")
    problem(create(s, 10, Upload_Defer_Length="1"), 400, "bad_request", "creation-defer-length")
    problem(create(s, 10, Upload_Concat="partial"), 400, "bad_request", "concatenation")
    for metadata in ("filename !!!", "filename abc", ",", "a YQ==,,b YQ==", "a YQ==,a YQ==", "a YQ== YQ==", "ä YQ==".encode().decode("latin-1"),
                     ",".join(f"k{i}" for i in range(65)), "k " + "YWFh" * 2100):
        problem(create(s, 10, metadata), 400, "bad_request", "Upload-Metadata")
    problem(s.get("/v1/uploads?name=x"), 422, "invalid")
    problem(s.get("/v1/uploads?cursor=mdl_0"), 422, "invalid")
    assert s.get("/v1/uploads").headers["tus-resumable"] == "1.0.0"


def test_refusals_of_patch(s):
    path = started(s, 10)
    for version in (None, "2.0.0"):
        answer = patch(s, path, 0, b"x", Tus_Resumable=version)
        problem(answer, 412, "precondition_failed")
        assert answer.headers["tus-version"] == "1.0.0"
    for kind in (None, "application/octet-stream", "application/json", "application/offset+octet-stream; a=b"):
        problem(patch(s, path, 0, b"x", Content_Type=kind), 415, "unsupported_media_type")
    for offset in (1, 9, 10, 11, 10 ** 17):
        problem(patch(s, path, offset, b"x"), 409, "wrong_state", "at 0 of 10")
    for offset in ("-1", "", "x", "1.0", "9" * 19):
        problem(patch(s, path, offset, b"x"), 400, "bad_request", "Upload-Offset")
    problem(patch(s, path, 0, b"12345678901"), 413, "too_large", "10")
    problem(patch(s, path, 0, b"x", Content_Encoding="gzip"), 415, "unsupported_media_type")
    problem(patch(s, "/v1/uploads/upl_" + "0" * 26, 0, b"x"), 404, "not_found")
    problem(patch(s, "/v1/uploads/mdl_" + "0" * 26, 0, b"x"), 404, "not_found")
    for bad in ("..%2f..%2fcatalogue.db", "upl_%00", "x" * 300):
        assert patch(s, "/v1/uploads/" + bad, 0, b"x").status == 404
    assert s.request("POST", path, headers={**TUS, "X-HTTP-Method-Override": "PATCH"}).status in (400, 405)
    answer = s.request("POST", path, headers=TUS)
    assert answer.status == 405 and answer.headers["tus-resumable"] == "1.0.0"
    assert offset_of(s, path) == 0
    assert s.request("DELETE", path).status == 412 and offset_of(s, path) == 0
    assert s.request("HEAD", path).status == 412


def test_checksum(s):
    data = noise(100_000, 2)
    path = started(s, len(data))
    sha1, sha256 = b64(hashlib.sha1(data[:40_000]).digest()), b64(hashlib.sha256(data[40_000:70_000]).digest())
    assert patch(s, path, 0, data[:40_000], Upload_Checksum="sha1 " + sha1).status == 204
    for wrong in (b64(bytes(32)), b64(hashlib.sha256(data[:40_000]).digest())):
        problem(patch(s, path, 40_000, data[40_000:70_000], Upload_Checksum="sha256 " + wrong), 460, "checksum_mismatch", wrong)
        assert offset_of(s, path) == 40_000
    for bad in ("md5 " + b64(bytes(16)), "sha1", "sha1 ", "sha1 !!", "sha1 " + b64(bytes(19)), "sha256 " + sha1, "SHA1 " + sha1, "sha1  " + sha1, sha1):
        problem(patch(s, path, 40_000, data[40_000:70_000], Upload_Checksum=bad), 400, "bad_request", "Upload-Checksum")
    assert patch(s, path, 40_000, data[40_000:70_000], Upload_Checksum="sha256 " + sha256).status == 204
    digest = "sha-512=:" + b64(hashlib.sha512(data[70_000:]).digest()) + ":"
    problem(patch(s, path, 70_000, data[70_000:-1] + b"?", Content_Digest=digest), 460, "checksum_mismatch")
    assert patch(s, path, 70_000, data[70_000:], Content_Digest=digest).status == 204
    assert s.get(path).json()["sha256"] == hashlib.sha256(data).hexdigest()


def test_empty_upload(s):
    path = started(s, 0)
    assert s.get(path).json()["sha256"] == hashlib.sha256(b"").hexdigest()
    problem(s.post_json("/v1/models", {"upload": path.rsplit("/", 1)[1]}), 422, "model_invalid")


# ---- cut, overtaken, killed

def test_cut_connection(s):
    data = noise(3 * MIB, 3)
    path = started(s, len(data))
    half_sent(s, path, 0, data, data[:MIB + 123]).close()
    at = settled(s, path)
    assert MIB - 65_536 < at <= MIB + 123  # what the server has read counts, though the request was never whole
    assert patch(s, path, at, data[at:]).status == 204
    assert s.get(path).json()["sha256"] == hashlib.sha256(data).hexdigest()


def test_cut_connection_with_checksum(s):
    data = noise(2 * MIB, 4)
    path = started(s, len(data))
    assert patch(s, path, 0, data[:1000]).status == 204
    sock = half_sent(s, path, 1000, data[1000:], data[1000:MIB], Upload_Checksum="sha256 " + b64(hashlib.sha256(data[1000:]).digest()))
    upload = Path(s.data, "uploads", path.rsplit("/", 1)[1])
    until(lambda: upload.stat().st_size > 1000)
    assert offset_of(s, path) == 1000, "bytes that were not verified do not count"
    sock.close()
    until(lambda: upload.stat().st_size == 1000)
    assert patch(s, path, 1000, data[1000:]).status == 204
    assert s.get(path).json()["sha256"] == hashlib.sha256(data).hexdigest()


def test_one_writer(s):
    data = noise(MIB, 5)
    path = started(s, len(data))
    sock = half_sent(s, path, 0, data, data[:300_000])
    upload = Path(s.data, "uploads", path.rsplit("/", 1)[1])
    until(lambda: upload.exists() and upload.stat().st_size > 0)
    at = offset_of(s, path)
    for offset in (0, at, 300_000):
        problem(patch(s, path, offset, data[offset:]), 423, "locked")
    problem(s.post_json("/v1/models", {"upload": path.rsplit("/", 1)[1]}), 409, "wrong_state", "send the rest")
    sock.sendall(data[300_000:])
    assert b" 204 " in sock.recv(4096)
    sock.close()
    assert s.get(path).json()["sha256"] == hashlib.sha256(data).hexdigest()


def test_stale_writer_is_overtaken(s):
    """A connection that died without a word: the client comes back by another one."""
    data = noise(MIB, 6)
    path = started(s, len(data))
    sock = half_sent(s, path, 0, data, data[:600_000])
    until(lambda: offset_of(s, path) >= 262_144)
    time.sleep(5.2)
    at = offset_of(s, path)
    assert patch(s, path, at, data[at:]).status == 204
    sock.sendall(data[600_000:])  # the old one is told, and changes nothing
    assert b" 409 " in sock.recv(4096)
    sock.close()
    assert s.get(path).json()["sha256"] == hashlib.sha256(data).hexdigest()


def test_deleted_while_written(s):
    data = noise(MIB, 7)
    path = started(s, len(data))
    sock = half_sent(s, path, 0, data, data[:300_000])
    until(lambda: offset_of(s, path) > 0)
    assert s.request("DELETE", path, headers=TUS).status == 204
    sock.sendall(data[300_000:])
    assert b" 409 " in sock.recv(4096)
    sock.close()
    assert not Path(s.data, "uploads", path.rsplit("/", 1)[1]).exists()


def test_many_at_once(s):
    """Overlapping patches of one upload from many threads: whoever wins, the content is right."""
    from concurrent.futures import ThreadPoolExecutor
    data = noise(400_000, 8)
    path = started(s, len(data))

    def push(_):
        statuses = set()
        while (at := offset_of(s, path)) < len(data):
            statuses.add(patch(s, path, at, data[at:at + 7_777]).status)
        return statuses
    with ThreadPoolExecutor(6) as pool:
        assert set().union(*pool.map(push, range(6))) <= {204, 409, 423}
    assert s.get(path).json()["sha256"] == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("checksum", [False, True])
def test_killed(checksum):
    data = tiny.model([tiny.node("MatMul", ["x", "w"], ["y"], "fc")], [tiny.tensor("w", [512, 512], tiny.weights(1, 512 * 512))],
                      [tiny.value_info("x", ["N", 512])], [tiny.value_info("y", ["N", 512])])
    with Server() as s:
        path = started(s, len(data), {"filename": "big.onnx"})
        assert patch(s, path, 0, data[:100_000]).status == 204
        headers = {"Upload_Checksum": "sha1 " + b64(hashlib.sha1(data[100_000:]).digest())} if checksum else {}
        sock = half_sent(s, path, 100_000, data[100_000:], data[100_000:100_000 + 600_000], **headers)
        upload = Path(s.data, "uploads", path.rsplit("/", 1)[1])
        until(lambda: upload.stat().st_size >= 100_000 + 2 * 262_144)  # the server has 256 KiB buffers
        size = upload.stat().st_size
        s.stop(signal.SIGKILL)
        sock.close()
        s.start()
        at = offset_of(s, path)
        assert at == (100_000 if checksum else size)
        assert s.get(path).json()["metadata"] == {"filename": "big.onnx"}
        assert patch(s, path, at, data[at:]).status == 204
        # complete: it survives the next death, is used once, and is gone
        s.stop(signal.SIGKILL)
        s.start()
        answer = s.post_json("/v1/models", {"upload": path.rsplit("/", 1)[1]})
        assert answer.status == 201, answer
        model = answer.json()
        assert model["name"] == "big.onnx" and model["sha256"] == hashlib.sha256(data).hexdigest()
        assert s.get(f"/v1/models/{model['id']}/content").body == data
        assert s.request("HEAD", path, headers=TUS).status == 404 and not upload.exists()
        assert s.files_on_disk() == {"objects": 1, "tmp": 0} and s.stop() == 0


def test_killed_before_the_last_step():
    """All bytes are there, but the server died before it could say so."""
    data = tiny.classifier(3)
    with Server() as s:
        path = started(s, len(data))
        sock = socket.create_connection((s.host, s.port))
        sock.sendall((f"PATCH {path} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nContent-Type: application/offset+octet-stream\r\nUpload-Offset: 0\r\n"
                      f"Transfer-Encoding: chunked\r\n\r\n{len(data):x}\r\n").encode() + data + b"\r\n")
        time.sleep(0.3)
        sock.close()  # what had arrived is kept when the connection ends
        until(lambda: offset_of(s, path) == len(data))
        assert "sha256" not in s.get(path).json()
        s.stop(signal.SIGKILL)
        s.start()
        assert s.get(path).json()["state"] == "complete"
        assert s.post_json("/v1/models", {"upload": path.rsplit("/", 1)[1]}).status == 201
        # and one whose row was written, but whose file was not moved yet
        upload = put(s, tiny.classifier(4))
        sha = s.get(f"/v1/uploads/{upload}").json()["sha256"]
        s.stop(signal.SIGKILL)
        blob = Path(s.data, "blobs", "objects", sha[:2], sha[2:4], sha)
        os.rename(blob, Path(s.data, "uploads", upload))
        Path(s.data, "uploads", "upl_" + "0" * 26).write_bytes(b"of nobody")
        s.start()
        assert blob.exists() and os.listdir(Path(s.data, "uploads")) == []
        assert s.post_json("/v1/models", {"upload": upload}).status == 201


def test_power_cut():
    """After a reboot only what was synced counts. The file may be longer: its end may never have reached the disk."""
    import sqlite3
    data = noise(500_000, 9)
    with Server() as s:
        path = started(s, len(data))
        assert patch(s, path, 0, data[:100_000]).status == 204
        half_sent(s, path, 100_000, data[100_000:], data[100_000:400_000]).close()
        assert settled(s, path) > 300_000
        s.stop(signal.SIGKILL)
        with sqlite3.connect(os.path.join(s.data, "catalogue.db")) as db:
            assert db.execute("UPDATE upload SET tail='another boot' WHERE received=100000").rowcount == 1
        s.start()
        assert offset_of(s, path) == 100_000
        assert patch(s, path, 100_000, data[100_000:]).status == 204
        assert s.get(path).json()["sha256"] == hashlib.sha256(data).hexdigest()


# ---- the end of those that nobody uses

def test_expiry():
    with Server("--upload-ttl-s", "2") as s:
        path, done = started(s, 10), put(s, b"complete, but of no use")
        assert patch(s, path, 0, b"12345").status == 204
        time.sleep(1.2)
        assert patch(s, path, 5, b"6").status == 204  # it lives on
        assert s.get(f"/v1/uploads/{done}").json()["state"] == "complete"
        time.sleep(1.2)
        assert offset_of(s, path) == 6
        problem(s.get(f"/v1/uploads/{done}"), 404, "not_found", "expired")
        until(lambda: os.listdir(os.path.join(s.data, "uploads")) == [] and s.files_on_disk()["objects"] == 0)
        for answer in (s.request("HEAD", path, headers=TUS), patch(s, path, 6, b"7890"), s.request("DELETE", path, headers=TUS)):
            assert answer.status == 404
        assert s.get("/v1/uploads").json()["data"] == []
        problem(s.post_json("/v1/models", {"upload": done}), 422, "reference_not_found")


def test_disk_full(tmp_path):
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("needs to mount a small file system")
    try:
        with Server("--min-free-disk-bytes", "0", data=str(tmp_path / "data")) as s:
            problem(create(s, 100 * MIB), 507, "disk_full", "room")
            data = noise(20 * MIB, 10)
            path = started(s, len(data))
            Path(tmp_path, "ballast").write_bytes(bytes(shutil.disk_usage(tmp_path).free - 8 * MIB))
            answer = patch(s, path, 0, data)
            problem(answer, 507, "disk_full", "Go on later")
            at = offset_of(s, path)
            assert 4 * MIB < at < 9 * MIB
            os.unlink(tmp_path / "ballast")
            time.sleep(1.5)  # the server looks once a second
            assert patch(s, path, at, data[at:]).status == 204
            assert s.get(path).json()["sha256"] == hashlib.sha256(data).hexdigest()
            assert s.request("DELETE", path, headers=TUS).status == 204
            assert s.files_on_disk() == {"objects": 0, "tmp": 0}
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_refused_below_the_reserve():
    with Server("--min-free-disk-bytes", str(1 << 49)) as s:
        assert create(s, 1).status == 507


def test_owners(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("anna anna-key-0123456789abcdef\nbert bert-key-0123456789abcdef\n")
    with Server("--api-key-file", str(keys)) as s:
        anna, bert = ({"Authorization": f"Bearer {n}-key-0123456789abcdef"} for n in ("anna", "bert"))
        assert create(s, 5).status == 401
        answer = create(s, 5, **anna)
        path = answer.headers["location"]
        assert patch(s, path, 0, b"12", **anna).status == 204
        sock = half_sent(s, path, 2, b"345", b"3", **anna)
        for answer in (s.request("HEAD", path, headers={**TUS, **bert}), s.get(path, headers=bert), patch(s, path, 2, b"345", **bert),
                       s.request("DELETE", path, headers={**TUS, **bert})):
            assert answer.status == 404, answer  # also while it is locked: nobody learns that it exists
        sock.sendall(b"45")
        assert b" 204 " in sock.recv(4096)
        sock.close()
        problem(s.post_json("/v1/models", {"upload": path.rsplit("/", 1)[1]}, headers=bert), 422, "reference_not_found")
        assert s.get("/v1/uploads", headers=bert).json()["data"] == []
        assert len(s.get("/v1/uploads", headers=anna).json()["data"]) == 1


# ---- what they become

def test_models(s):
    data = tiny.classifier(20)
    upload = put(s, data, "twenty.onnx")
    before = s.files_on_disk()
    for body, pointer in (({}, "/upload"), ({"upload": upload, "artifact": "art_" + "0" * 26}, ""), ({"upload": 5}, "/upload"), ({"upload": None}, "/upload"),
                          ({"uploads": []}, "/uploads"), ({"uploads": upload}, "/uploads"), ({"uploads": [1]}, "/uploads/0"), ({"upload": upload, "nme": "x"}, "/nme"),
                          ({"uploads": [upload, upload]}, "/uploads/1"), ({"upload": upload, "name": "a/b"}, "/name"), ({"upload": "upl_" + "0" * 26}, "/upload"),
                          ({"uploads": [upload, "../../x"]}, "/uploads/1")):
        answer = s.post_json("/v1/models", body)
        assert answer.status == 422 and pointer in [e.get("pointer") for e in answer.json()["errors"]], (body, answer)
    problem(s.post_json("/v1/models", {"upload": put(s, b"no model at all", "no.onnx")}), 422, "model_invalid")
    assert s.files_on_disk()["objects"] == before["objects"] + 1
    answer = s.post_json("/v1/models", {"upload": upload, "name": "other.onnx"})
    assert answer.status == 201 and answer.json()["name"] == "other.onnx", answer
    problem(s.post_json("/v1/models", {"upload": upload}), 422, "reference_not_found", "used")
    again = s.post_json("/v1/models", {"upload": put(s, data)})
    assert again.status == 200 and again.json()["id"] == answer.json()["id"], "the same content is the same model"
    assert s.request("DELETE", f"/v1/models/{answer.json()['id']}").status == 204


def test_external_data(s):
    values = tiny.tensor("w", [4, 4], tiny.weights(5, 16))[-64:]
    model = tiny.model([tiny.node("MatMul", ["x", "w"], ["y"], "fc")], [tiny.tensor("w", [4, 4], external={"location": "w.bin", "length": 64})],
                       [tiny.value_info("x", ["N", 4])], [tiny.value_info("y", ["N", 4])])
    main, weights = put(s, model, "ext.onnx"), put(s, values, "w.bin")
    nameless = started(s, 64)
    assert patch(s, nameless, 0, values).status == 204
    answer = s.post_json("/v1/models", {"uploads": [main, nameless.rsplit("/", 1)[1]]})
    assert answer.status == 422 and "/uploads/1" in [e["pointer"] for e in answer.json()["errors"]]
    assert s.post_json("/v1/models", {"uploads": [main, weights, put(s, values[::-1], "w.bin")]}).status == 422  # two of one name
    assert s.post_json("/v1/models", {"upload": main}).status == 422  # its data is missing
    answer = s.post_json("/v1/models", {"uploads": [main, weights]})
    assert answer.status == 201, answer
    assert [(f["name"], f["bytes"]) for f in answer.json()["files"]] == [("ext.onnx", len(model)), ("w.bin", 64)]
    # by multipart it is the same model
    kind, body = multipart([("model", "ext.onnx", model), ("w.bin", "w.bin", values)])
    same = s.request("POST", "/v1/models", body=body, headers={"Content-Type": kind})
    assert same.status == 200 and same.json()["id"] == answer.json()["id"]


def test_datasets(s):
    answer = s.post_json("/v1/datasets", {"upload": put(s, tiny.dataset(seed=21), "d.npz")})
    assert answer.status == 201 and answer.json()["name"] == "d.npz", answer
    description = json.dumps({"format": "npz", "files": {"x": "a.npz"}}).encode()
    x = tiny.dataset(seed=22)
    answer = s.post_json("/v1/datasets", {"uploads": [put(s, description, "d.json"), put(s, x, "b.npz")]})
    assert answer.status == 422 and "/data/files/x" in [e["pointer"] for e in answer.json()["errors"]]
    answer = s.post_json("/v1/datasets", {"uploads": [put(s, description, "d.json"), put(s, x, "a.npz"), put(s, x[:-1], "c.npz")]})
    assert answer.status == 422 and "/uploads" in [e["pointer"] for e in answer.json()["errors"]]
    problem(s.post_json("/v1/datasets", {"uploads": [put(s, b"no json", "d.json"), put(s, x, "a.npz")]}), 422, "dataset_invalid", "first upload")
    answer = s.post_json("/v1/datasets", {"uploads": [put(s, description, "d.json"), put(s, x, "a.npz")], "name": "two"})
    assert answer.status == 201 and answer.json()["name"] == "two", answer
    kind, body = multipart([("data", "data.json", description), ("x", "x.npz", x)])
    same = s.request("POST", "/v1/datasets", body=body, headers={"Content-Type": kind})
    assert same.status == 200 and same.json()["id"] == answer.json()["id"]
    problem(s.post_json("/v1/datasets", {"artifact": "art_" + "0" * 26}), 422, "reference_not_found")


# ---- RFC 9530 on whole uploads

def test_digests(s):
    data = tiny.classifier(30)
    sha256, sha512 = b64(hashlib.sha256(data).digest()), b64(hashlib.sha512(data).digest())
    before = s.files_on_disk()
    wrong = b64(bytes(32))
    for header in ("Repr-Digest", "Content-Digest"):
        problem(s.request("PUT", "/v1/models", body=data, headers={header: f"sha-256=:{wrong}:"}), 422, "digest_mismatch", sha256)
        problem(s.request("PUT", "/v1/models", body=data, headers={header: f"sha-256=:{sha256}:, sha-512=:{b64(bytes(64))}:"}), 422, "digest_mismatch")
        for bad in ("", "sha-256", "sha-256=" + sha256, f"sha-256=:{sha256}", "sha-256=::", f"sha-256=:{b64(bytes(31))}:", "=:x:", f"sha-256=:{sha256}:,", "md5é", "1=:x:",
                    ", ".join([f"sha-256=:{sha256}:"] * 5), "sha-256=:" + "A" * 500 + ":"):
            problem(s.request("PUT", "/v1/models", body=data, headers={header: bad}), 400, "bad_request", header)
    assert s.files_on_disk() == before
    good = f'md5=:{b64(bytes(16))}:, x="a,b\\"c";q=1, sha-256=:{sha256}:;p=2 ,\tsha-512=:{sha512}:, unixsum=30637'
    assert s.request("PUT", "/v1/models", body=data, headers={"Repr-Digest": good, "Content-Digest": f"sha-512=:{sha512}:"}).status == 201
    kind, body = multipart([("data", "d.json", b'{"format": "npz", "files": {"x": "a.npz"}}'), ("x", "a", tiny.dataset(seed=31))])
    digest = f"sha-256=:{b64(hashlib.sha256(body).digest())}:"
    problem(s.request("POST", "/v1/datasets", body=body + b"\r\n", headers={"Content-Type": kind, "Content-Digest": digest}), 422, "digest_mismatch")
    assert s.request("POST", "/v1/datasets", body=body, headers={"Content-Type": kind, "Content-Digest": digest}).status == 201


def test_digests_of_json(s):
    body = b'{"name": "digested", "recipe": {"steps": []}}'
    json_type = {"Content-Type": "application/json"}
    for header in ("Repr-Digest", "Content-Digest"):
        problem(s.request("POST", "/v1/recipes", body=body, headers={**json_type, header: "sha-256"}), 400, "bad_request", header)
        problem(s.request("POST", "/v1/recipes", body=body, headers={**json_type, header: f"sha-256=:{b64(bytes(32))}:"}), 422, "digest_mismatch")
    good = {"Repr-Digest": f"sha-256=:{b64(hashlib.sha256(body).digest())}:"}
    assert s.request("POST", "/v1/recipes", body=body, headers={**json_type, **good}).status == 201


# ---- real clients

def test_tuspy(s, tmp_path):
    from tusclient import client
    data = tiny.classifier(40, inputs=3000)
    file = tmp_path / "forty.onnx"
    file.write_bytes(data)
    tus = client.TusClient(s.url + "/v1/uploads")
    # cut: it stops after two pieces; another process goes on with the URL
    uploader = tus.uploader(str(file), chunk_size=10_000, metadata={"filename": "forty.onnx"}, upload_checksum=True)
    uploader.upload(stop_at=20_000)
    assert offset_of(s, uploader.url[len(s.url):]) == 20_000
    half_sent(s, uploader.url[len(s.url):], 20_000, data[20_000:], data[20_000:50_001]).close()
    at = settled(s, uploader.url[len(s.url):])
    again = tus.uploader(str(file), url=uploader.url, chunk_size=30_000, upload_checksum=True)
    assert again.offset == at > 20_000
    again.upload()
    answer = s.post_json("/v1/models", {"upload": again.url.rsplit("/", 1)[1]})
    assert answer.status == 201 and answer.json()["sha256"] == hashlib.sha256(data).hexdigest() and answer.json()["name"] == "forty.onnx"


@pytest.fixture(scope="session")
def tus_js():
    """Folder of tus-js-client (make build/npm/ok)."""
    module = Path(ROOT, "build", "npm", "node_modules", "tus-js-client")
    if not module.exists():
        pytest.skip("skipped: tus-js-client is not below build/npm (make build/npm/ok)")
    return module


@pytest.mark.parametrize("chunk, cut", [(0, ""), (100_000, ""), (100_000, "cut")])
def test_tus_js_client(s, tmp_path, tus_js, chunk, cut):
    data = noise(8 * MIB, 50 + chunk)
    file = tmp_path / "data"
    file.write_bytes(data)
    done = subprocess.run(["node", str(Path(__file__).with_name("tus_upload.mjs")), str(tus_js), s.url + "/v1/uploads", str(file), str(chunk), cut],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    body = s.get(told["url"][len(s.url):]).json()
    assert body["sha256"] == hashlib.sha256(data).hexdigest() and body["metadata"] == {"filename": "m.onnx", "note": "müsli 🥣"}
    assert told["offsets"][0] == 0 and (told["offsets"][1] > 0 if cut else len(told["offsets"]) == 1)


def test_tus_js_client_over_a_killed_server(tmp_path, tus_js):
    """The server dies under the client and comes back: the client's own retries finish the upload."""
    data = noise(40 * MIB, 60)
    file = tmp_path / "data"
    file.write_bytes(data)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with Server(listen=f"127.0.0.1:{port}") as s:
        client = subprocess.Popen(["node", str(Path(__file__).with_name("tus_upload.mjs")), str(tus_js), s.url + "/v1/uploads", str(file), str(500_000), ""],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        uploads = Path(s.data, "uploads")
        until(lambda: any(f.stat().st_size > MIB for f in uploads.iterdir()), 20)
        s.stop(signal.SIGKILL)
        s.start()
        out, errors = client.communicate(timeout=60)
        assert client.returncode == 0, errors
        assert s.get(json.loads(out)["url"][len(s.url):]).json()["sha256"] == hashlib.sha256(data).hexdigest()
