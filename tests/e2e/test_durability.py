# SPDX-License-Identifier: Apache-2.0
"""What survives what: death of the server at every call of its catalogue, errors of the catalogue, full and read-only disks, damaged
files, files that nothing refers to, ages, and backups taken from a server at work.

Faults of the catalogue come from build/tools/faulty, which is pared with a hook (tests/tools/faulty.c)."""
import concurrent.futures
import contextlib
import hashlib
import http.client
import json
import os
import pathlib
import resource
import shutil
import signal
import sqlite3
import subprocess
import threading
import time

import pytest

import contract
from pared_server import BINARY, ROOT, Server
from test_server_life import DIGITS, job, post, setup, wait

FAULTY = os.environ.get("PARED_FAULTY", os.path.join(os.path.dirname(BINARY), "tools", "faulty"))
ENDED = ("succeeded", "failed", "canceled")
QUICK = ["--threads", "1", "--lease_ms", "1000", "--reap_ms", "200", "--drain_s", "0"]


@pytest.fixture(scope="module")
def faulty():
    if not os.path.exists(FAULTY):
        pytest.skip("build it first: make tools")
    return FAULTY


@pytest.fixture
def broken_storage(traffic):
    """Of a test that breaks the server's files: 500 is the answer to that, and in no contract."""
    yield
    contract.faults[:] = [fault for fault in contract.faults if "status 500" not in fault]


class FaultyServer(Server):
    def command(self):
        return [FAULTY, *super().command()[1:]]


def ended(row):
    return row["state"] in ENDED


def ends(server):
    """How many events of an ended state each job has, read beside the server."""
    db = sqlite3.connect(f"file:{server.data}/catalogue.db?mode=ro", uri=True)
    rows = db.execute("SELECT job.id, (SELECT count(*) FROM job_event e WHERE e.job_id=job.id AND type='state' AND json_extract(data,'$.state')"
                      " IN ('succeeded','failed','canceled')) FROM job").fetchall()
    db.close()
    return dict(rows)


def check_artifacts(server, id_):
    rows = server.get(f"/v1/jobs/{id_}/artifacts").json()["data"]
    names = [row["name"] for row in rows]
    assert {"model.onnx", "report.json"} <= set(names) and len(names) == len(set(names))
    for row in rows:
        assert hashlib.sha256(server.get(row["href"]).body).hexdigest() == row["sha256"]


# ---- death at every call


def submit(server, body, key):
    """POST a job until it is answered; the server may be gone meanwhile (None)."""
    try:
        answer = server.post_json("/v1/jobs", body, {"Idempotency-Key": key}, timeout=10)
    except (OSError, http.client.HTTPException):
        return None
    return answer.json()["id"] if answer.status == 202 else None


def life(server, model, key):
    """One job from its post to its files; None when the server died on the way."""
    id_ = submit(server, {"model": model, "recipe": {"steps": [{"method": "prune.weights", "sparsity": 0.5}]}}, key)
    until = time.time() + 20
    while id_ and time.time() < until and server.process.poll() is None:
        with contextlib.suppress(OSError, ValueError, KeyError, http.client.HTTPException):
            if ended(job(server, id_)):
                check_artifacts(server, id_)
                return id_
        time.sleep(0.02)
    return None


def points_of_a_life(faulty):
    """Every (call, moment) of the catalogue that a job's life comes by, in order, each once."""
    with FaultyServer(*QUICK, start=False) as server:
        log = os.path.join(server.dir, "calls")
        server.env = {"PARED_FAULT_LOG": log}
        server.start()
        model = setup(server)["model"]
        open(log, "w").close()
        assert life(server, model, "first")
        time.sleep(0.5)
        server.stop()
        with open(log) as f:
            return list(dict.fromkeys(tuple(line.split()) for line in f))


def die_and_recover(points):
    """For each point a death there and a life after it; the points that no death came to."""
    missed = []
    recipe = {"steps": [{"method": "prune.weights", "sparsity": 0.5}]}
    with FaultyServer(*QUICK) as server:
        model = setup(server)["model"]
        for i, (call, moment) in enumerate(points):
            server.stop(signal.SIGKILL)
            server.env = {"PARED_FAULT_KILL": f"{call}:{moment}"}
            with contextlib.suppress(RuntimeError):  # some calls are made before it is ready
                server.start()
                life(server, model, f"key-{i}")
            try:
                assert server.process.wait(3) == -signal.SIGKILL, (call, moment)
            except subprocess.TimeoutExpired:
                missed.append((call, moment))
                server.stop(signal.SIGKILL)
            server.env = {}
            server.start()
            id_ = submit(server, {"model": model, "recipe": recipe}, f"key-{i}")
            row = wait(server, id_, ended, 20)
            assert row["state"] == "succeeded", (call, moment, row)
            check_artifacts(server, id_)
        assert set(ends(server).values()) == {1} and len(ends(server)) == len(points)
        assert server.files_on_disk()["tmp"] == 0
        assert not [p for p in pathlib.Path(server.data, "work").rglob("*") if p.is_file()]
    return missed


def test_death_at_every_call_of_a_jobs_life(faulty):
    """Calls are seen where sessions of the catalogue begin and end: one that is new is in the list by itself."""
    points = points_of_a_life(faulty)
    always = {"store_job_insert", "store_job_claim", "store_job_settle", "store_job_get"}
    assert always <= {call for call, _ in points} and len(points) >= 10, points
    with concurrent.futures.ThreadPoolExecutor(2) as lanes:  # most of it is waiting
        missed = sum(lanes.map(die_and_recover, (points[::2], points[1::2])), [])
    # a slow machine makes calls that a life does without, such as another beat
    assert len(missed) <= 3 and not always & {call for call, _ in missed}, missed


def test_errors_of_the_catalogue_lose_nothing(faulty):
    """Every tenth call fails, half of those after their commit."""
    with FaultyServer(*QUICK, env={"PARED_FAULT_RATE": "0.1:7"}) as server:
        with open(DIGITS, "rb") as f:
            data = f.read()
        while (answer := server.request("PUT", "/v1/models?name=m.onnx", data)).status not in (200, 201):
            assert answer.status == 503 and answer.json()["code"] == "store_unavailable", answer
        ids = []
        for i in range(10):
            while not (id_ := submit(server, {"model": answer.json()["id"], "recipe": {"steps": [], "seed": i}}, f"k{i}")):
                pass
            ids.append(id_)
        server.stop(signal.SIGKILL)
        server.env = {"PARED_FAULT_RATE": "0.05:8"}
        server.start()
        for id_ in ids:
            until = time.time() + 60
            while (row := server.get(f"/v1/jobs/{id_}")).status != 200 or not ended(row.json()):
                assert time.time() < until, row
                time.sleep(0.05)
            assert row.json()["state"] == "succeeded", row
        assert ends(server) == {id_: 1 for id_ in ids}


# ---- disks


@contextlib.contextmanager
def small_disk(tmp_path, size):
    mount = tmp_path / "disk"
    mount.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", mount], capture_output=True).returncode:
        pytest.skip("a file system of its own needs root")
    try:
        yield mount
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


def test_a_full_disk_refuses_and_recovers(tmp_path):
    with small_disk(tmp_path, "40m") as disk, Server(*QUICK, data=str(disk / "data")) as server:
        body = setup(server)
        assert wait(server, post(server, body), ended)["state"] == "succeeded"
        before = server.files_on_disk()
        filler = disk / "filler"
        with open(filler, "wb", buffering=0) as f:
            with contextlib.suppress(OSError):
                while f.write(bytes(1 << 16)):
                    pass
        until = time.time() + 10  # it looks once a second
        while server.get("/readyz").status == 200:
            assert time.time() < until
            time.sleep(0.1)
        for answer in (server.request("PUT", "/v1/models?name=x.onnx", bytes(1 << 20)), server.post_json("/v1/jobs", body)):
            assert answer.status == 507 and answer.json()["code"] == "disk_full", answer
        assert server.get("/readyz").status == 503 and server.get("/healthz").status == 200
        assert server.get("/v1/jobs").status == 200
        assert server.files_on_disk() == before
        filler.unlink()
        until = time.time() + 10
        while (answer := server.post_json("/v1/jobs", body)).status != 202:
            assert time.time() < until, answer
            time.sleep(0.1)
        assert wait(server, answer.json()["id"], ended)["state"] == "succeeded"


class Unprivileged(Server):
    """A server that permissions hold for: as root, it runs as nobody."""

    def start(self, timeout=20):
        for path in (self.dir, self.data):
            os.makedirs(path, exist_ok=True)
            os.chmod(path, 0o755)
            if not os.geteuid():
                os.chown(path, 65534, 65534)
        super().start(timeout)

    def command(self):
        as_nobody = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
        return ([] if os.geteuid() else as_nobody) + super().command()


def writable(server, yes):
    for path in [pathlib.Path(server.data), *pathlib.Path(server.data).rglob("*")]:
        if path.is_dir():
            path.chmod(0o755 if yes else 0o555)


def test_folders_that_become_read_only(broken_storage):
    with Unprivileged(*QUICK) as server:
        body = setup(server)
        done = post(server, body)
        assert wait(server, done, ended)["state"] == "succeeded"
        writable(server, False)
        try:
            answer = server.request("PUT", "/v1/models?name=x.onnx", b"x" * 1000)
            assert answer.status == 500 and answer.json()["code"] == "io_error", answer
            assert server.data not in answer.body.decode() and server.get("/healthz").status == 200
            check_artifacts(server, done)
            waits = post(server, {**body, "recipe": {"steps": [], "seed": 2}})  # the catalogue is open and takes it
            time.sleep(0.5)
            assert job(server, waits)["state"] == "queued"
        finally:
            writable(server, True)
        assert wait(server, waits, ended)["state"] == "succeeded"


def test_a_read_only_data_folder_is_refused_with_a_sentence(tmp_path):
    with Unprivileged(*QUICK) as server:
        setup(server)
        server.stop()
        for made in (True, False):
            if not made:
                shutil.rmtree(server.data)
                os.mkdir(server.data)
            writable(server, False)
            if made:
                os.chmod(os.path.join(server.data, "catalogue.db"), 0o444)
                os.chmod(os.path.join(server.data, "lock"), 0o444)
            run = subprocess.run(server.command(), capture_output=True, text=True, timeout=20)
            writable(server, True)
            assert run.returncode == 1 and "data folder" in run.stderr and "ermission denied" in run.stderr, run


def test_a_file_size_limit_kills_nothing(broken_storage):
    """ulimit -f: a write beyond it raises SIGXFSZ, which ends a process that does not expect it."""
    class Limited(Server):
        def start(self, timeout=20):
            old = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (12 << 20, old[1]))
            try:
                super().start(timeout)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, old)

    with Limited(*QUICK) as server:
        body = setup(server)
        answer = server.request("PUT", "/v1/models?name=x.onnx", bytes(13 << 20))
        assert answer.status in (500, 507) and answer.json()["code"] in ("io_error", "disk_full"), answer
        assert server.files_on_disk()["tmp"] == 0
        assert wait(server, post(server, body), ended)["state"] == "succeeded"


# ---- damaged and forgotten files


def object_path(server, sha256):
    return pathlib.Path(server.data, "blobs", "objects", sha256[:2], sha256[2:4], sha256)


def damage(path):
    os.chmod(path, 0o644)
    with open(path, "r+b") as f:
        f.seek(100)
        old = f.read(1)
        f.seek(100)
        f.write(bytes([old[0] ^ 1]))


def test_damaged_files_are_neither_served_nor_used(broken_storage):
    with Server(*QUICK) as server:
        body = setup(server)
        done = post(server, body)
        assert wait(server, done, ended)["state"] == "succeeded"
        model = server.get(f"/v1/models/{body['model']}").json()
        artifact = next(row for row in server.get(f"/v1/jobs/{done}/artifacts").json()["data"] if row["name"] == "report.json")
        for restart in (False, True):
            for sha256 in ([] if restart else [model["sha256"], artifact["sha256"]]):
                damage(object_path(server, sha256))
            if restart:
                server.stop()
                server.start()
            for path in (f"/v1/models/{body['model']}/content", artifact["href"], f"/v1/jobs/{done}/report"):
                answer = server.get(path, headers={"Range": "bytes=0-9"} if restart else {})
                assert answer.status == 500 and answer.json()["code"] == "storage_corrupt", (path, answer)
                assert server.data not in answer.body.decode()
            row = wait(server, post(server, body), ended)
            assert row["state"] == "failed" and row["error"]["code"] == "storage_corrupt", row
            assert row["attempt"] == 1 and row["crashes"] == 0
        assert "is damaged" in server.log_text()
        with open(DIGITS, "rb") as f:  # the same upload heals it
            assert server.request("PUT", "/v1/models?name=again.onnx", f.read()).json()["id"] == body["model"]
        assert wait(server, post(server, {**body, "recipe": {"steps": [], "seed": 3}}), ended)["state"] == "succeeded"
        object_path(server, model["sha256"]).unlink()  # gone altogether
        row = wait(server, post(server, {**body, "recipe": {"steps": [], "seed": 4}}), ended)
        assert row["state"] == "failed" and row["error"]["code"] == "storage_corrupt", row


def test_forgotten_files_are_swept_and_ages_end_things():
    with Server(*QUICK, "--sweep_interval_s", "1", "--artifact_ttl_s", "3", "--job_ttl_s", "6") as server:
        body = setup(server)
        stray = object_path(server, "ab" * 32)
        stray.parent.mkdir(parents=True)
        stray.write_bytes(b"nothing refers to this")
        id_ = post(server, body)
        row = wait(server, id_, ended)
        assert row["expires_at"] > row["finished_at"]
        artifacts = server.get(f"/v1/jobs/{id_}/artifacts").json()["data"]
        assert artifacts and all(row["created_at"] < a["expires_at"] < row["expires_at"] for a in artifacts)

        def until(condition, seconds):
            end = time.time() + seconds
            while not condition():
                assert time.time() < end
                time.sleep(0.1)
        until(lambda: not stray.exists(), 5)
        until(lambda: not server.get(f"/v1/jobs/{id_}/artifacts").json()["data"], 8)
        assert job(server, id_)["state"] == "succeeded"
        answer = server.get(artifacts[0]["href"])
        assert answer.status == 404, answer
        until(lambda: server.get(f"/v1/jobs/{id_}").status == 404, 12)
        assert server.files_on_disk()["objects"] == 1  # the model stays
        assert server.get(f"/v1/models/{body['model']}/content").status == 200


# ---- backups


def backup(data, to, *more):
    return subprocess.run([BINARY, "backup", "--data", data, "--to", str(to), *more], capture_output=True, text=True, timeout=60)


def test_a_backup_of_a_server_at_work_can_be_served(tmp_path):
    stop, posted = threading.Event(), []

    def work(server, body):
        seed = 0
        while not stop.is_set():
            if len(posted) < 8:
                seed += 1
                posted.append(post(server, {**body, "recipe": {"steps": [], "seed": seed}}))
            old = posted[0]
            if ended(job(server, old)) and server.request("DELETE", f"/v1/jobs/{old}").status == 204:  # files go while they are copied
                posted.pop(0)
            time.sleep(0.05)

    with Server(*QUICK) as server:
        body = setup(server)
        done = post(server, body)
        assert wait(server, done, ended)["state"] == "succeeded"
        started = server.request("POST", "/v1/uploads", headers={"Tus-Resumable": "1.0.0", "Upload-Length": "1000"})
        assert started.status == 201  # it never ends, and is not in the backup
        thread = threading.Thread(target=work, args=(server, body))
        thread.start()
        try:
            time.sleep(1)
            first = json.loads(backup(server.data, tmp_path / "folder", "--json").stdout)
            runs = [backup(server.data, to) for to in (tmp_path / "folder", tmp_path / "b.tar", tmp_path / "b.tar.zst")]
            again = json.loads(backup(server.data, tmp_path / "folder", "--json").stdout)
        finally:
            stop.set()
            thread.join()
        assert not [run for run in runs if run.returncode], runs
        assert first["left_out"] == 0 and again["left_out"] == 0 and again["copied"] < again["files"], (first, again)
    folders = [tmp_path / "folder"]
    for name in ("b.tar", "b.tar.zst"):
        folders.append(tmp_path / (name + ".d"))
        folders[-1].mkdir()
        subprocess.run(["tar", "-xf", tmp_path / name, "-C", folders[-1]], check=True)
    for folder in folders:
        assert sorted(p.name for p in folder.iterdir()) == ["blobs", "catalogue.db", "node"]
        runs_jobs = folder == folders[0]
        with Server(*QUICK, *([] if runs_jobs else ["--workers", "0"]), data=str(folder)) as restored:
            check_artifacts(restored, done)
            assert not restored.get("/v1/uploads").json()["data"]
            with open(DIGITS, "rb") as f:
                assert restored.get(f"/v1/models/{body['model']}/content").body == f.read()
            rows = restored.get("/v1/jobs?limit=100").json()["data"]
            assert done in [row["id"] for row in rows]
            for row in rows if runs_jobs else []:
                row = wait(restored, row["id"], ended)
                assert row["state"] == "succeeded", row
                check_artifacts(restored, row["id"])


def test_the_printed_commands_restore(tmp_path):
    """docs/operations.md, run line by line; the service is a server of ours, its folders are below tmp_path."""
    text = pathlib.Path(ROOT, "docs/operations.md").read_text().split("## Backup and restore")[1].split("\n## ")[0]
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    assert sum("pared backup" in line for line in lines) == 2 and sum("systemctl" in line for line in lines) == 2
    (tmp_path / "backup").mkdir()
    with Server(*QUICK, data=str(tmp_path / "pared")) as server:
        done = post(server, setup(server))
        assert wait(server, done, ended)["state"] == "succeeded"
        for line in lines:
            if "systemctl" in line:
                server.start() if " start " in line else server.stop()
                continue
            line = line.replace("/var/lib", str(tmp_path)).replace("/backup", str(tmp_path / "backup")).replace("sudo -u pared ", "").replace("sudo ", "")
            line = line.replace("chown -R pared:", f"chown -R {os.getuid()}:{os.getgid()}").replace("pared backup", f"{BINARY} backup")
            subprocess.run(["bash", "-euc", line], check=True, timeout=60)
        assert (tmp_path / "pared.before").exists()
        check_artifacts(server, done)
    with Server(*QUICK, data=str(tmp_path / "backup/pared")) as server:  # the other way: the folder
        check_artifacts(server, done)


def test_backup_says_what_is_wrong(tmp_path):
    with Server(*QUICK) as server:
        body = setup(server)
        sha256 = server.get(f"/v1/models/{body['model']}").json()["sha256"]
        damage(object_path(server, sha256))
        run = backup(server.data, tmp_path / "b")
        assert run.returncode == 1 and sha256 in run.stderr and "damaged" in run.stderr, run
        object_path(server, sha256).unlink()
        run = backup(server.data, tmp_path / "b.tar")
        assert run.returncode == 1 and sha256 in run.stderr and "missing" in run.stderr, run
        for data, to, status, words in ((server.data, server.data, 1, "data folder of a server"), (tmp_path / "nothing", tmp_path / "c", 2, "no data folder"),
                                        (server.data, ROOT, 2, "something else"), (server.data, "/proc/none/b.tar", 1, "archive")):
            run = backup(data, to)
            assert run.returncode == status and words in run.stderr and run.stderr.count("\n") == 1, run
    assert subprocess.run([BINARY, "backup", "--data", "x"], capture_output=True).returncode == 2


def test_an_old_catalogue_is_upgraded_and_a_newer_one_refused():
    with Server(*QUICK) as server:
        body = setup(server)
        server.stop()
        db = sqlite3.connect(f"{server.data}/catalogue.db")
        version = db.execute("SELECT version FROM schema_version").fetchone()[0]
        db.execute("UPDATE schema_version SET version=version+1")
        db.commit()
        run = subprocess.run([BINARY, "serve", "--data", server.data, "--listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=20)
        assert run.returncode == 1 and f"version {version + 1}" in run.stderr and "newer pared" in run.stderr, run
        db.execute("UPDATE schema_version SET version=version-1")
        db.commit()
        db.close()
        server.start()
        assert wait(server, post(server, body), ended)["state"] == "succeeded"
