# SPDX-License-Identifier: Apache-2.0
"""The threats of docs/security.md, tried over HTTP: hostile models, archives and recipes are refused with a sentence, the process that
reads them is walled in, and whatever becomes of it, the server goes on as if nothing had been. The walls themselves are tried from
inside by tests/unit/test_sandbox.c; broken rather than hostile input is in test_bad_input.py."""
import io
import json
import os
import pathlib
import re
import signal
import struct
import subprocess
import tarfile
import time
import zipfile

import pytest

import tiny
from pared_server import BINARY, ROOT, Server, multipart

X, Y = [tiny.value_info("x", ["N", 4])], [tiny.value_info("y", ["N", 4])]
RELU = tiny.node("Relu", ["x"], ["y"], "relu")
INSIDE = re.compile(r"/tmp/|/proc/\d|/work/|/home/|root:|\.c:\d|\b0x[0-9a-f]{6}|errno|null\)")  # what no answer may tell
ENDED = ("succeeded", "failed", "canceled")


@pytest.fixture(scope="module")
def s():
    with Server("--job_timeout_s", "20", "--job_memory_bytes", "512MiB", "--inspect_timeout_s", "20", "--threads", "2") as server:
        pid, rss = server.process.pid, server.rss_bytes()
        yield server
        assert server.process.pid == pid and server.process.poll() is None
        assert server.rss_bytes() < rss + (64 << 20)
        assert server.stop() == 0, server.log_text()[-2000:]


def upload(s, body, path="/v1/models"):
    if isinstance(body, list):
        kind, body = multipart(body)
        return s.request("POST", path, body=body, headers={"Content-Type": kind})
    return s.request("PUT", path, body=body)


def refused(s, body, code, words, path="/v1/models"):
    start = time.time()
    answer = upload(s, body, path)
    doc = answer.json()
    assert (answer.status, doc["code"]) == (422, code), answer
    assert re.search(words, doc["detail"]), doc["detail"]
    assert not INSIDE.search(answer.body.decode()), answer
    assert time.time() - start < 25
    assert s.get("/healthz").status == 200
    assert not os.listdir(os.path.join(s.data, "work"))


def accepted(s, body, path="/v1/models"):
    answer = upload(s, body, path)
    assert answer.status in (200, 201), answer
    return answer.json()["id"]


def run(s, model, dataset=None, steps=(), **more):
    body = {"model": model, "recipe": {"steps": list(steps)}, **more}
    if dataset:
        body["dataset"] = dataset
    answer = s.post_json("/v1/jobs", body)
    assert answer.status == 202, answer
    return s.wait_job(answer.json()["id"])


# ---- files of the server: external data and archives that point elsewhere

LOCATIONS = ["../../../../../../etc/passwd", "/etc/passwd", "a/../../etc/passwd", "..\\..\\etc\\passwd", "/proc/self/environ",
             "catalogue.db/../catalogue.db", "x" * 300, "weights.bin\0.png", "."]


@pytest.mark.parametrize("location", LOCATIONS)
def test_external_data_elsewhere(s, location):
    main, data = tiny.classifier_external(location)
    words = "text with a NUL byte" if "\0" in location else "initializer 'w1'.*it must be the plain name of a file"
    refused(s, [("model", "m.onnx", main), ("weights", "weights.bin", data)], "model_invalid", words)


def external(**fields):
    w1 = tiny.tensor("w1", [16, 8], external={"location": "weights.bin", **fields})
    nodes = [tiny.node("MatMul", ["x", "w1"], ["y"], "fc")]
    return tiny.model(nodes, [w1], [tiny.value_info("x", ["N", 16])], [tiny.value_info("y", ["N", 8])])


@pytest.mark.parametrize("fields", [
    {"offset": -1}, {"offset": -(1 << 63)}, {"offset": (1 << 63) - 1, "length": 512}, {"offset": (1 << 64) - 256, "length": 512},
    {"length": -1}, {"length": 1 << 62}, {"offset": 8, "length": 512}, {"length": "512x"}, {"offset": ""}, {"length": "9" * 40}])
def test_external_data_out_of_range(s, fields):
    refused(s, [("model", "m.onnx", external(**fields)), ("w", "weights.bin", bytes(512))], "model_invalid", "initializer 'w1'")


def test_catalogue_is_no_external_data(s):
    """Names of the server's own files are names like any other: only what came with the model is looked at."""
    for name in ("catalogue.db", "node", "lock"):
        main, _ = tiny.classifier_external(name)
        refused(s, [("model", "m.onnx", main)], "model_invalid", f"external data file '{name}' is missing")


def tar_of(*members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as t:
        for name, kind, link in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            data = b"\x89PNG\r\n\x1a\n" if kind == tarfile.REGTYPE else b""
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_of(members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in members:
            z.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


ARCHIVES = {  # made when they are used: some are large
    "symbolic link": lambda: tar_of(("a/x.png", tarfile.SYMTYPE, "/etc/passwd")),
    "hard link": lambda: tar_of(("a/x.png", tarfile.LNKTYPE, "../../../../catalogue.db")),
    "device": lambda: tar_of(("a/x.png", tarfile.CHRTYPE, "")),
    "pipe": lambda: tar_of(("a/x.png", tarfile.FIFOTYPE, "")),
    "link, then through it": lambda: tar_of(("a", tarfile.SYMTYPE, "/tmp"), ("a/x.png", tarfile.REGTYPE, "")),
    "up the tree": lambda: tar_of(("../../../../x.png", tarfile.REGTYPE, "")),
    "absolute": lambda: tar_of(("/etc/x.png", tarfile.REGTYPE, "")),
    "zip up the tree": lambda: zip_of([("../../../../tmp/evil.npy", tiny.npy([1.0], [1]))]),
    "zip in zip": lambda: zip_of([("x.npy", zip_of([("x.npy", tiny.npy([1.0], [1]))]))]),
    "name of 70,000 letters": lambda: zip_of([("x" * 65000 + ".npy", b"?")]),
    "30,000 members": lambda: zip_of([(f"{i}.txt", b"") for i in range(30000)]),
    "zeros": lambda: zip_of([("x.npy", bytes(100 << 20))]),
}


@pytest.mark.parametrize("row", ARCHIVES)
def test_archive_tricks(s, row):
    before = set(os.listdir("/tmp"))
    answer = upload(s, ARCHIVES[row](), "/v1/datasets")
    if answer.status in (200, 201):  # a name up the tree is only a name: nothing is unpacked under it
        assert row == "zip up the tree", answer
    else:
        doc = answer.json()
        assert (answer.status, doc["code"]) == (422, "dataset_invalid"), answer
        assert len(doc["detail"]) < 1000 and not INSIDE.search(answer.body.decode()), answer
    assert s.get("/healthz").status == 200
    assert not os.listdir(os.path.join(s.data, "work"))
    assert not [n for n in set(os.listdir("/tmp")) - before if "evil" in n]


@pytest.mark.parametrize("name", ["/etc/passwd", "../../../catalogue.db", "..", "", "a/b"])
def test_described_files_elsewhere(s, name):
    description = {"format": "idx", "files": {"x": name}}
    refused(s, [("data", "data.json", json.dumps(description).encode()), ("x", "x.bin", bytes(20))], "invalid", "", "/v1/datasets")


# ---- sizes that are not

def raw_tensor(name, dims, raw, elem_type=1):
    return b"".join(tiny.field(1, d) for d in dims) + tiny.field(2, elem_type) + tiny.field(8, name) + tiny.field(9, raw)


def attribute(name, kind, *values):
    number = {7: 8}[kind]
    return tiny.field(5, tiny.field(1, name) + b"".join(tiny.field(number, v & (1 << 64) - 1) for v in values) + tiny.field(20, kind))


def conv(*attributes):
    nodes = [tiny.node("Conv", ["x", "w"], ["y"], "conv", b"".join(attributes))]
    return tiny.model(nodes, [tiny.tensor("w", [1, 1, 3, 3], [0.0] * 9)], [tiny.value_info("x", [1, 1, 8, 8])], [tiny.value_info("y", [1, 1, 6, 6])])


def op(kind, inputs, inits, *attributes, x=(1, 4), opset=13):
    return tiny.model([tiny.node(kind, inputs, ["y"], "bomb", b"".join(attributes))], inits, [tiny.value_info("x", list(x))],
                      [tiny.value_info("y", ["A"])], opset=opset)


def int64s(name, *values):
    return raw_tensor(name, [len(values)], struct.pack(f"<{len(values)}q", *values), 7)


SIZES = {
    "product wraps to 0": (tiny.model([RELU], [raw_tensor("w", [1 << 32, 1 << 32], b"")], X, Y), "initializer 'w'"),
    "product wraps to 4": (tiny.model([RELU], [raw_tensor("w", [(1 << 62) + 1, 4], bytes(16))], X, Y), "initializer 'w'"),
    "strings by the million": (tiny.model([RELU], [raw_tensor("w", [1 << 20], b"", 8)], X, Y), "initializer 'w'"),
    "a million dimensions": (tiny.model([tiny.node("Add", ["x", "w"], ["y"], "add")], [tiny.field(1, 1) * 1000000 + raw_tensor("w", [], b"1234")], X, Y),
                             "initializer 'w'|dimensions"),
    "group start": (tiny.field(1, 7) + b"\x3b" * 100, "at byte|wire type|not an ONNX model"),
    "length beyond the file": (tiny.field(1, 7) + b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "at byte|cut short|not an ONNX model"),
    "dilations shorter than the kernel": (conv(attribute("dilations", 7, 1)), "dilations"),
    "negative stride": (conv(attribute("strides", 7, -1, -1)), "strides"),
    "stride 0": (conv(attribute("strides", 7, 0, 0)), "strides"),
    "huge pads": (conv(attribute("pads", 7, 1 << 62, 1 << 62, 1 << 62, 1 << 62)), "pads|large|size"),
    "group 0": (conv(attribute("group", 7, 0)), "group"),
    "perm out of range": (op("Transpose", ["x"], [], attribute("perm", 7, 0, 1 << 40)), "perm"),
    "axis far out": (op("Concat", ["x", "x"], [], attribute("axis", 7, -(1 << 62))), "axis"),
}


@pytest.mark.parametrize("row", SIZES)
def test_sizes_that_are_not(s, row):
    body, words = SIZES[row]
    answer = upload(s, body)
    if answer.status in (200, 201):  # read, because reading needs no shapes: it must not run then
        job = run(s, answer.json()["id"])
        text = json.dumps(job.get("error") or s.get(f"/v1/jobs/{job['id']}/report").json().get("warnings"))
        assert job["state"] == "failed" or "not run" in text, job
        assert not INSIDE.search(text), text
        assert s.get("/healthz").status == 200
    else:
        refused(s, body, "model_invalid", words)


# ---- bombs: little to send, much to do

def loop(trips, body_nodes=(), levels=1):
    """A Loop of `trips` rounds, inside as many others as levels say."""
    condition = raw_tensor("go", [], b"\1", 9)
    count = raw_tensor("n", [], struct.pack("<q", trips), 7)

    def body(level):
        names = [f"i{level}", f"c{level}", f"v{level}"]
        inner = tiny.node("Relu", [names[2]], [f"o{level}"], f"relu{level}") if level == levels else \
            tiny.node("Loop", ["n", "go", names[2]], [f"o{level}"], f"loop{level}", body(level + 1))
        again = tiny.node("Identity", [names[1]], [f"d{level}"], f"again{level}")
        graph = tiny.field(1, inner) + tiny.field(1, again) + tiny.field(2, f"body{level}")
        graph += tiny.field(11, tiny.value_info(names[0], [], 7)) + tiny.field(11, tiny.value_info(names[1], [], 9))
        graph += tiny.field(11, tiny.value_info(names[2], [1, 4]))
        graph += tiny.field(12, tiny.value_info(f"d{level}", [], 9)) + tiny.field(12, tiny.value_info(f"o{level}", [1, 4]))
        return tiny.field(5, tiny.field(1, "body") + tiny.field(6, graph) + tiny.field(20, 5))
    return tiny.model([tiny.node("Loop", ["n", "go", "x"], ["y"], "loop", body(1))], [count, condition],
                      [tiny.value_info("x", [1, 4])], [tiny.value_info("y", [1, 4])])


BOMBS = {
    "Tile to 10^15": lambda: op("Tile", ["x", "r"], [int64s("r", 1, 250 * 10**12)]),
    "Expand to 10^15": lambda: op("Expand", ["x", "r"], [int64s("r", 10**12, 250, 4)]),
    "ConstantOfShape of 10^15": lambda: op("ConstantOfShape", ["r"], [int64s("r", 10**15)]),
    "ConstantOfShape of 2^62 x 2^62": lambda: op("ConstantOfShape", ["r"], [int64s("r", 1 << 62, 1 << 62)]),
    "Tile by a negative number": lambda: op("Tile", ["x", "r"], [int64s("r", 1, -5)]),
    "Loop for ever": lambda: loop((1 << 63) - 1),
    "Loop in Loop": lambda: loop(1 << 31, levels=8),
    "Concat of 30,000": lambda: op("Concat", ["x"] * 30000, [], attribute("axis", 7, 0)),
    "Concat doubles 60 times": lambda: tiny.model(
        [tiny.node("Concat", [f"h{i}" if i else "x"] * 2, [f"h{i + 1}" if i < 59 else "y"], f"c{i}", tiny.field(5, tiny.field(1, "axis") + tiny.field(3, 0) + tiny.field(20, 2)))
         for i in range(60)], [], [tiny.value_info("x", [1, 4])], [tiny.value_info("y", ["A", 4])]),
    "20,000 nodes in a row": lambda: tiny.model(
        [tiny.node("Relu", [f"h{i}" if i else "x"], [f"h{i + 1}" if i < 19999 else "y"]) for i in range(20000)], [], X, Y),
}


@pytest.mark.parametrize("row", BOMBS)
def test_bombs(s, row):
    """Refused at the door, or a job that fails with a reason (or succeeds: some are only long), within limits that hold."""
    answer = upload(s, BOMBS[row]())
    assert answer.status in (200, 201, 422), answer
    assert not INSIDE.search(answer.body.decode()) and s.get("/healthz").status == 200
    if answer.status == 422:
        assert answer.json()["code"] in ("model_invalid", "model_too_large", "model_unreadable", "operator_unsupported"), answer
        return
    job = run(s, answer.json()["id"], timeout_s=1 if row.startswith("Loop") else 3)  # a Loop uses up what it is given
    if job["state"] == "failed":
        assert job["error"]["code"] in ("job_out_of_memory", "job_timed_out", "model_too_large", "model_invalid", "shape_mismatch"), job
        assert job["error"]["detail"] and not INSIDE.search(job["error"]["detail"]), job
    else:
        assert job["state"] == "succeeded" and not row.startswith(("ConstantOfShape of 2", "Loop")), job
    assert s.get("/healthz").status == 200


def test_many_empty_nodes_cost_no_more_than_they_are_worth(s):
    """Two bytes of file a node: what is made of them stays within the limits."""
    graph = b"\x0a\x00" * 2_000_000
    answer = upload(s, tiny.field(1, 7) + tiny.field(7, graph) + tiny.field(8, tiny.field(1, "") + tiny.field(2, 13)))
    assert answer.status == 422 and answer.json()["code"] in ("model_invalid", "model_too_large", "model_unreadable"), answer
    assert s.get("/healthz").status == 200


# ---- the job's process, as the machine sees it

SLOW = {"method": "train.finetune", "epochs": 1000, "batch": 8}


def start_slow(server):
    with open(os.path.join(ROOT, "examples", "digits", "digits-cnn.onnx"), "rb") as f:
        model = accepted(server, f.read())
    data = next(pathlib.Path(ROOT, "examples", "digits").glob("*.npz"))
    dataset = accepted(server, data.read_bytes(), "/v1/datasets")
    answer = server.post_json("/v1/jobs", {"model": model, "dataset": dataset, "recipe": {"steps": [SLOW]}})
    assert answer.status == 202, answer
    return answer.json()["id"]


def child_of(server, seconds=10):
    until = time.time() + seconds
    while time.time() < until:
        for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
            try:
                if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == server.process.pid:
                    return int(stat.parent.name)
            except (OSError, IndexError):
                pass
        time.sleep(0.02)
    raise AssertionError("no child")


def running(server, id_, seconds=20):
    until = time.time() + seconds
    while time.time() < until:
        row = server.get(f"/v1/jobs/{id_}").json()
        if row["state"] == "running" and row["progress"]["stage"] == "train":
            return child_of(server)
        assert row["state"] not in ENDED, row
        time.sleep(0.02)
    raise AssertionError(row)


def status_of(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


@pytest.fixture(scope="module")
def slow():
    with Server("--threads", "1", "--sandbox", "strict", "--job_memory_bytes", "1GiB", env={"PARED_TEST_SECRET": "hunter2"}) as server:
        id_ = start_slow(server)
        pid = running(server, id_)
        yield server, pid
        server.request("POST", f"/v1/jobs/{id_}/cancel")


def test_the_process_has_no_powers(slow):
    _, pid = slow
    status = status_of(pid)
    assert {k: status[k].strip() for k in ("NoNewPrivs", "Seccomp", "CapEff", "CapPrm", "CapAmb")} == {
        "NoNewPrivs": "1", "Seccomp": "2", "CapEff": "0" * 16, "CapPrm": "0" * 16, "CapAmb": "0" * 16}
    assert pathlib.Path(f"/proc/{pid}/oom_score_adj").read_text() == "1000\n"
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    assert (int(fields[2]), int(fields[3])) == (pid, pid), "own process group and session"
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():  # every thread, not the first alone
        assert "Seccomp:\t2" in (task / "status").read_text()


def test_the_process_inherits_nothing(slow):
    server, pid = slow
    environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes()
    assert b"hunter2" not in environment and {e.split(b"=")[0] for e in environment.split(b"\0") if e} <= {b"OPENBLAS_NUM_THREADS", b"LC_ALL", b"TRACEPARENT"}
    for fd in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(fd)
        except FileNotFoundError:
            continue
        assert "catalogue" not in target and "socket" not in target and not target.endswith("/lock"), target


def test_the_limits_are_set(slow):
    _, pid = slow
    limits = pathlib.Path(f"/proc/{pid}/limits").read_text()
    rows = {line[:26].strip(): line[26:].split()[:2] for line in limits.splitlines()[1:]}
    assert rows["Max core file size"] == ["0", "0"]
    assert rows["Max locked memory"] == ["0", "0"]
    assert rows["Max open files"][0] == "1024"
    assert rows["Max file size"][0] != "unlimited" and rows["Max data size"][0] != "unlimited"


# ---- how a process may end

def end_by(sig, attempts):
    with Server("--threads", "1") as server:
        id_ = start_slow(server)
        for _ in range(attempts):
            os.kill(running(server, id_), sig)
            until = time.time() + 10
            while server.get(f"/v1/jobs/{id_}").json()["state"] == "running" and time.time() < until:
                time.sleep(0.02)
        job = server.wait_job(id_, timeout=30)
        assert server.get("/healthz").status == 200 and server.stop() == 0
        return job


def test_a_job_whose_process_dies_twice_is_not_tried_again():
    job = end_by(signal.SIGSEGV, 2)
    assert (job["state"], job["attempt"], job["crashes"], job["error"]["code"]) == ("failed", 2, 2, "job_crashed"), job
    assert job["error"]["detail"] == "the job's process died by signal 11 (Segmentation fault) in stage train"


def test_a_forbidden_call_is_not_tried_again():
    job = end_by(signal.SIGSYS, 1)
    assert (job["state"], job["attempt"], job["error"]["code"]) == ("failed", 1, "job_forbidden_call"), job
    assert job["error"]["detail"].endswith("in stage train")


def test_the_kernels_choice_is_named():
    job = end_by(signal.SIGKILL, 1)
    assert (job["state"], job["error"]["code"]) == ("failed", "job_out_of_memory"), job


def test_processor_time_and_signals_of_limits():
    job = end_by(signal.SIGXFSZ, 1)
    assert (job["state"], job["error"]["code"]) == ("failed", "job_disk_limit"), job


def test_a_job_may_fill_only_its_share_of_the_disk():
    """The state that training keeps for the next attempt counts too."""
    with Server("--threads", "1", "--job_disk_bytes", "1MiB") as server:
        nodes = [tiny.node("MatMul", ["x", "w1"], ["h"], "fc1"), tiny.node("Relu", ["h"], ["r"], "relu"), tiny.node("MatMul", ["r", "w2"], ["y"], "fc2")]
        inits = [tiny.tensor("w1", [64, 8192], tiny.weights(1, 64) * 8192), tiny.tensor("w2", [8192, 4], tiny.weights(2, 64) * 512)]
        model = tiny.model(nodes, inits, [tiny.value_info("x", ["N", 64])], [tiny.value_info("y", ["N", 4])])
        dataset = accepted(server, tiny.dataset(samples=500, inputs=64), "/v1/datasets")
        job = run(server, accepted(server, model), dataset, [{"method": "train.finetune", "epochs": 1000, "lr": 1e-6}], timeout_s=30)
        assert job["state"] == "failed" and job["error"]["code"] == "job_disk_limit", job
        assert "1 MiB are allowed (job_disk_bytes)" in job["error"]["detail"], job
        assert server.get("/healthz").status == 200


def test_a_crash_while_reading_an_upload_is_the_uploads_fault():
    """The child that reads is killed while it reads: the client gets an answer, the server goes on."""
    import threading
    with Server("--inspect_timeout_s", "60") as server:
        answers = []
        body = tiny.slow_model(depth=60000, width=8)
        thread = threading.Thread(target=lambda: answers.append(upload(server, body)))
        thread.start()
        os.kill(child_of(server), signal.SIGSEGV)
        thread.join(30)
        assert answers and answers[0].status == 422 and answers[0].json()["code"] == "model_unreadable", answers
        assert "died" in answers[0].json()["detail"]
        assert server.get("/healthz").status == 200 and not os.listdir(os.path.join(server.data, "work"))


# ---- settings

def test_every_mode_does_the_same_work():
    hashes = set()
    for mode in ("strict", "best-effort", "off"):
        with Server("--sandbox", mode, "--threads", "1") as server:
            dataset = accepted(server, tiny.dataset(), "/v1/datasets")
            job = run(server, accepted(server, tiny.classifier()), dataset, [{"method": "quantize.static"}])
            assert job["state"] == "succeeded", job
            model = server.get(f"/v1/jobs/{job['id']}/artifacts/model.onnx")
            assert model.status == 200
            hashes.add(model.body)
    assert len(hashes) == 1


def test_a_mode_that_does_not_exist_is_refused(tmp_path):
    done = subprocess.run([BINARY, "serve", "--data", tmp_path / "d", "--sandbox", "some"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2 and "must be strict, best-effort or off" in done.stderr, done


def test_the_command_line_can_be_fenced_too(tmp_path):
    (tmp_path / "m.onnx").write_bytes(tiny.classifier())
    (tmp_path / "d.npz").write_bytes(tiny.dataset())
    words = ["run", tmp_path / "m.onnx", "--data", tmp_path / "d.npz", "--step", "quantize.static", "--no-latency", "--quiet"]
    for flag, out in (("--sandbox=strict", "a"), ("--sandbox=off", "b")):
        done = subprocess.run([BINARY, *words, "--out", tmp_path / out, flag], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done
    assert (tmp_path / "a" / "model.onnx").read_bytes() == (tmp_path / "b" / "model.onnx").read_bytes()
    done = subprocess.run([BINARY, *words, "--sandbox=loose"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "strict, best-effort or off" in done.stderr


def test_pictures_and_training_behind_the_walls(tmp_path):
    """What the command line does with an archive of pictures (unpacked into a file), a folder of them and checkpoints is the same."""
    from PIL import Image
    inits = [tiny.tensor("w", [192, 4], tiny.weights(1, 192 * 4))]
    nodes = [tiny.node("Flatten", ["x"], ["f"], "flat"), tiny.node("MatMul", ["f", "w"], ["y"], "fc")]
    (tmp_path / "m.onnx").write_bytes(tiny.model(nodes, inits, [tiny.value_info("x", ["N", 3, 8, 8])], [tiny.value_info("y", ["N", 4])]))
    with tarfile.open(tmp_path / "pictures.tar.gz", "w:gz") as archive:
        for i in range(16):
            path = tmp_path / "pictures" / str(i % 4) / f"{i}.{'png' if i % 3 else 'jpg'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.frombytes("RGB", (8, 8), bytes((i * 37 + k * 11) % 256 for k in range(192))).save(path)
            archive.add(path, path.relative_to(tmp_path / "pictures"))

    def trained(data, mode):
        out = tmp_path / f"{data}-{mode}"
        words = ["run", tmp_path / "m.onnx", "--data", tmp_path / data, "--step", "train.finetune epochs=2", "--step", "quantize.static",
                 "--checkpoint", tmp_path / f"state-{out.name}", "--threads", "2", "--no-latency", "--quiet", "--out", out]
        done = subprocess.run([BINARY, *words], env={**os.environ, "PARED_SANDBOX": mode}, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done
        return (out / "model.onnx").read_bytes()
    assert trained("pictures.tar.gz", "strict") == trained("pictures", "strict") == trained("pictures", "off")
    done = subprocess.run([BINARY, "run", tmp_path / "m.onnx"], env={**os.environ, "PARED_SANDBOX": "loose"}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "PARED_SANDBOX 'loose': the mode is strict, best-effort or off" in done.stderr, done
