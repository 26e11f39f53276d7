# SPDX-License-Identifier: Apache-2.0
"""Training as a job: it survives the death of the server, tells its measurements, learns from a teacher, holds steps, makes further files; and
what is wrong with it is said before it is queued."""
import json
import os
import signal
import subprocess
import time

import pytest

from pared_server import BINARY, ROOT, Server
from tiny import classifier

DIGITS = os.path.join(ROOT, "examples", "digits")
RAMP = {"method": "prune.weights", "sparsity": 0.5}
LONG = {"steps": [{"method": "train.finetune", "epochs": 12, "steps": [RAMP]}, {"method": "encode.container"}]}


def upload(server, kind="models", file="digits-cnn.onnx"):
    answer = server.put_file(f"/v1/{kind}?name={file}", os.path.join(DIGITS, file))
    assert answer.status in (200, 201), answer
    return answer.json()["id"]


def request(server, recipe, **more):
    return {"model": upload(server), "dataset": upload(server, "datasets", "train.npz"), "recipe": recipe, **more}


def post(server, body):
    answer = server.post_json("/v1/jobs", body)
    assert answer.status == 202, answer
    return answer.json()["id"]


def metrics(server, id_):
    return server.get(f"/v1/jobs/{id_}/metrics").json()["data"]


def hashes(server, id_):
    return {a["name"]: a["sha256"] for a in server.get(f"/v1/jobs/{id_}/artifacts").json()["data"] if not a["name"].startswith("report.")}


def wait_epoch(server, id_, epoch, seconds=60):
    until = time.time() + seconds
    while time.time() < until:
        job = server.get(f"/v1/jobs/{id_}").json()
        assert job["state"] in ("queued", "running"), job
        if job.get("progress", {}).get("metric", {}).get("epoch", 0) >= epoch:
            return job
        time.sleep(0.02)
    pytest.fail(f"after {seconds} s: {job}")


def wait_empty(folder, seconds=5):
    until = time.time() + seconds
    while os.listdir(folder) and time.time() < until:
        time.sleep(0.05)
    return os.listdir(folder)


def test_a_killed_training_goes_on_to_the_same_bytes():
    with Server("--threads", "2") as whole, Server("--threads", "2") as killed:
        id_ = post(whole, request(whole, LONG))
        job = whole.wait_job(id_)
        assert job["state"] == "succeeded", job
        wanted = hashes(whole, id_)
        rows = metrics(whole, id_)
        assert [r["epoch"] for r in rows] == list(range(1, 13))
        assert all(r["method"] == "train.finetune" and r["step"] == 1 and r["attempt"] == 1 for r in rows)
        assert len(whole.get(f"/v1/jobs/{id_}/metrics?limit=5").json()["data"]) == 5
        assert [r["epoch"] for r in whole.get(f"/v1/jobs/{id_}/metrics?cursor={rows[9]['seq']}").json()["data"]] == [11, 12]
        assert wait_empty(os.path.join(whole.data, "work")) == []
        assert set(wanted) == {"model.onnx", "model.pared"}
        assert whole.get(f"/v1/jobs/{id_}/artifacts/model.pared").status == 200

        id_ = post(killed, request(killed, LONG))
        wait_epoch(killed, id_, 5)
        killed.stop(signal.SIGKILL)
        killed.start()
        job = killed.wait_job(id_)
        assert job["state"] == "succeeded" and job["attempt"] == 2 and job["losses"] == 1, job
        again = [r["epoch"] for r in metrics(killed, id_) if r["attempt"] == 2]
        assert again and again[0] >= 4 and again[-1] == 12, again
        assert hashes(killed, id_) == wanted
        assert wait_empty(os.path.join(killed.data, "work")) == []
        report = killed.get(f"/v1/jobs/{id_}/report").json()
        assert report["artifacts"]["model.pared"]["sha256"] == wanted["model.pared"]
        assert job["metrics"]["artifacts"]["model.pared"]["bytes"] > 0


def test_a_canceled_training_leaves_nothing():
    with Server("--threads", "2") as server:
        id_ = post(server, request(server, LONG))
        wait_epoch(server, id_, 1)
        assert server.request("POST", f"/v1/jobs/{id_}/cancel").status == 202
        assert server.wait_job(id_)["state"] == "canceled"
        assert wait_empty(os.path.join(server.data, "work")) == []
        assert metrics(server, id_)


def test_what_is_wrong_is_said_before_queueing():
    with Server(start=True) as server:
        good = request(server, {"steps": [{"method": "train.finetune", "epochs": 1}]})
        tiny = server.request("POST", "/v1/models?name=tiny.onnx", classifier(classes=4)).json()["id"]

        def faults(**change):
            body = {k: v for k, v in {**good, **change}.items() if v is not None}
            answer = server.post_json("/v1/jobs", body)
            assert answer.status == 422, answer
            return {e["pointer"]: e["detail"] for e in answer.json()["errors"]}

        assert "needs a dataset" in faults(dataset=None)["/recipe/steps/0"]
        assert "4 classes" in faults(model=tiny)["/dataset"]
        assert "there is no" in faults(teacher="mdl_01m82k9m6230rr9bw1fradfwp4")["/teacher"]
        assert "must be the id" in faults(teacher=good["dataset"])["/teacher"]
        wrong = {"method": "train.finetune", "steps": [{"method": "graph.optimize"}, {"method": "prune.weights", "sparsity": 3}]}
        found = faults(recipe={"steps": [wrong]})
        assert "graph.optimize is none of them" in found["/recipe/steps/0/steps/0/method"]
        assert "between 0 and 1" in found["/recipe/steps/0/steps/1/sparsity"]
        assert "holds no steps" in faults(recipe={"steps": [{"method": "graph.optimize", "steps": []}]})["/recipe/steps/0/steps"]
        assert "needs steps" in faults(recipe={"steps": [{"method": "iterate"}]})["/recipe/steps/0/steps"]
        deep = {"method": "graph.optimize"}
        for _ in range(5):
            deep = {"method": "iterate", "until": {"max_bytes_ratio": 0.5}, "steps": [deep]}
        assert any("no deeper" in text for text in faults(recipe={"steps": [deep]}).values())


def test_a_job_with_a_teacher():
    with Server() as server:
        body = request(server, {"steps": [{"method": "train.distill", "epochs": 1}]})
        body["teacher"] = body["model"]
        id_ = post(server, body)
        job = server.wait_job(id_)
        assert job["state"] == "succeeded" and job["teacher"] == body["model"], job
        report = server.get(f"/v1/jobs/{id_}/report").json()
        assert report["teacher"]["name"] == "digits-cnn.onnx" and len(report["teacher"]["sha256"]) == 64


def run(tmp_path, *args, data="train.npz"):
    command = [BINARY, "run", os.path.join(DIGITS, "digits-cnn.onnx"), "--out", str(tmp_path / "out"), "--no-latency", "--data", os.path.join(DIGITS, data)]
    return subprocess.run([*command, *args], capture_output=True, text=True, timeout=120)


def test_nested_steps_on_the_command_line(tmp_path):
    done = run(tmp_path, "--step", f"train.finetune epochs=2 steps=[{json.dumps(RAMP)}]", "--target", "max_container_ratio=0.9",
               "--step", "encode.container", "--checkpoint", str(tmp_path / "state"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("pared: train.finetune: epoch") == 2
    report = json.loads((tmp_path / "out/report.json").read_text())
    inner = report["steps"][0]["steps"]
    assert len(inner) == 1 and inner[0]["method"] == "prune.weights" and inner[0]["runs"] >= 2 and inner[0]["layers"]
    assert report["recipe"]["steps"][0]["steps"][0]["sparsity"] == 0.5
    made = report["artifacts"]["model.pared"]
    assert (tmp_path / "out/model.pared").stat().st_size == made["bytes"]
    target = report["targets"][0]
    assert target["target"] == "max_container_ratio" and target["met"] and abs(target["got"] - made["bytes"] / report["before"]["bytes"]) < 1e-9
    assert os.listdir(tmp_path / "state") == []
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.validate(report, json.load(open(os.path.join(ROOT, "docs", "report.schema.json"))))


def test_teachers_that_cannot_teach(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    step = ["--step", "train.finetune epochs=1"]
    done = run(tmp_path, *step, "--teacher", str(tmp_path / "broken.onnx"))
    assert done.returncode == 1 and "teacher" in done.stderr and "broken.onnx" in done.stderr
    done = run(tmp_path, *step, "--teacher", str(tmp_path / "absent.onnx"))
    assert done.returncode == 1 and "teacher" in done.stderr
    done = run(tmp_path, "--step", "graph.optimize", "--teacher", os.path.join(DIGITS, "digits-cnn.onnx"))
    assert done.returncode == 0 and "no step of the recipe learns" in done.stderr
