# SPDX-License-Identifier: Apache-2.0
"""Training that cannot be, or goes wrong: refused before anything is queued where that can be told, else ended with the best that there is and a
sentence. On the digits network and on models made here byte by byte."""
import io
import json
import subprocess
import urllib.parse

import numpy as np
import pytest

import tiny
from methods import DIGITS, PARED
from pared_server import Server

CNN, TRAIN, TEST = DIGITS / "digits-cnn.onnx", DIGITS / "train.npz", DIGITS / "test.npz"
FINETUNE = {"method": "train.finetune", "epochs": 1, "samples": 200}


@pytest.fixture(scope="module")
def s():
    with Server() as server:
        yield server


def npz(**arrays):
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def put(s, kind, name, body):
    answer = s.request("POST", f"/v1/{kind}?name={urllib.parse.quote(name)}", body=body)
    assert answer.status in (200, 201), answer
    return answer.json()


@pytest.fixture(scope="module")
def made(s):
    x = np.load(TRAIN)["x"][:64]
    hardmax = tiny.model(
        [tiny.node("MatMul", ["x", "w1"], ["h"], "fc1"), tiny.node("Hardmax", ["h"], ["r"], "choose"), tiny.node("MatMul", ["r", "w2"], ["scores"], "fc2")],
        [tiny.tensor("w1", [16, 8], tiny.weights(1, 128)), tiny.tensor("w2", [8, 4], tiny.weights(2, 32))],
        [tiny.value_info("x", ["N", 16])], [tiny.value_info("scores", ["N", 4])])
    rng = np.random.default_rng(0)
    return {
        "cnn": put(s, "models", "cnn.onnx", CNN.read_bytes()),
        "tiny": put(s, "models", "tiny.onnx", tiny.classifier()),
        "hardmax": put(s, "models", "hardmax.onnx", hardmax),
        "train": put(s, "datasets", "train.npz", TRAIN.read_bytes()),
        "unlabelled": put(s, "datasets", "unlabelled.npz", npz(x=x)),
        "vectors": put(s, "datasets", "vectors.npz", npz(x=rng.normal(size=(64, 16)).astype("f4"), y=rng.integers(0, 4, 64))),
        "too_many": put(s, "datasets", "too_many.npz", npz(x=rng.normal(size=(64, 16)).astype("f4"), y=np.arange(64) % 9)),
    }


def job(s, made, model, data, *steps, **more):
    body = {"model": made[model]["id"], "recipe": {"steps": list(steps), "seed": 3}, **more}
    if data:
        body["dataset"] = made[data]["id"]
    return s.post_json("/v1/jobs", body)


def faults(answer):
    doc = answer.json()
    return {e["pointer"]: e["detail"] for e in doc.get("errors", [])}


PRUNE = {"method": "prune.weights", "sparsity": 0.5}
UNTIL = {"max_accuracy_drop": 0.01}


@pytest.mark.parametrize("model, data, steps, pointer, part", [
    ("cnn", None, [FINETUNE], "/recipe/steps/0", "needs a dataset"),
    ("cnn", "unlabelled", [FINETUNE], "/recipe/steps/0", "needs a dataset with labels"),
    ("hardmax", "vectors", [FINETUNE], "/recipe/steps/0", "Hardmax (ai.onnx, opset 13) x1"),
    ("cnn", "train", [{**FINETUNE, "lr": -1}], "/recipe/steps/0/lr", "between 0 (excluded) and 100"),
    ("cnn", "train", [{**FINETUNE, "momentum": 1}], "/recipe/steps/0/momentum", "1 (excluded)"),
    ("cnn", "train", [{**FINETUNE, "optimiser": "adam"}], "/recipe/steps/0/optimiser", "did you mean 'optimizer'"),
    ("cnn", "train", [{**FINETUNE, "augment": {"flipp": True}}], None, "flip"),
    ("cnn", "train", [{**FINETUNE, "steps": [{"method": "quantize.dynamic"}]}], None, "quantize.dynamic"),
    ("cnn", "train", [{**PRUNE, "steps": 1, "schedule": "surgery"}], "/recipe/steps/0", "needs a training step around it"),
    ("cnn", "train", [{"method": "graph.optimize", "steps": [PRUNE]}], "/recipe/steps/0/steps", "holds no steps"),
    ("cnn", "train", [{"method": "iterate", "until": {"max_acuracy_drop": 0.1}, "steps": [PRUNE]}], "/recipe/steps/0/until/max_acuracy_drop",
     "did you mean 'max_accuracy_drop'"),
    ("cnn", "train", [{"method": "iterate", "until": {"max_latency_ratio": 0.1}, "steps": [PRUNE]}], "/recipe/steps/0/until/max_latency_ratio",
     "finished model only"),
    ("cnn", "train", [{"method": "iterate", "until": {}, "steps": [PRUNE]}], "/recipe/steps/0/until", "at least one wish"),
    ("cnn", "train", [{"method": "iterate", "steps": [PRUNE]}], "/recipe/steps/0/until", "required"),
    ("cnn", "train", [{"method": "iterate", "until": UNTIL, "steps": [{**FINETUNE, "lr": 1e3}]}], "/recipe/steps/0/steps/0/lr", "and 100"),
    ("cnn", None, [{"method": "iterate", "until": UNTIL, "steps": [PRUNE]}], "/recipe/steps/0", "needs a dataset"),
])
def test_refused_before_it_is_queued(s, made, model, data, steps, pointer, part):
    answer = job(s, made, model, data, *steps)
    assert answer.status == 422, answer
    found = faults(answer)
    if pointer:
        assert pointer in found, found
        assert part in found[pointer], found
    else:
        assert any(part in detail for detail in found.values()), found
    assert s.get("/v1/jobs").json()["data"] == [] or all(j["state"] != "queued" for j in s.get("/v1/jobs").json()["data"])


def test_operators_without_gradient_are_facts(s, made):
    assert made["hardmax"]["operators_without_gradient"] == ["Hardmax (ai.onnx, opset 13) x1"]
    assert made["cnn"]["operators_without_gradient"] == []


@pytest.mark.parametrize("model, data, steps, part", [
    ("tiny", "too_many", [FINETUNE], "8"),  # a class beyond the four outputs
    ("cnn", "train", [{**FINETUNE, "include": ["nothing*"]}], "train"),
    ("cnn", "unlabelled", [{"method": "iterate", "until": UNTIL, "steps": [PRUNE]}], "no labels of classes"),
    ("cnn", "train", [{"method": "iterate", "until": UNTIL, "steps": [{**PRUNE, "schedule": "surgery"}]}], "needs a training step around it"),
])
def test_jobs_that_fail_say_why(s, made, model, data, steps, part):
    answer = job(s, made, model, data, *steps)
    if answer.status == 422:
        assert part in json.dumps(answer.json()), answer
        return
    assert answer.status in (200, 201, 202), answer
    ended = s.wait_job(answer.json()["id"])
    assert ended["state"] == "failed"
    assert part in (ended.get("error") or ended.get("problem"))["detail"], ended


def run(tmp_path, *steps, data=TRAIN, eval_data=TEST):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"steps": list(steps), "seed": 3}))
    done = subprocess.run([PARED, "run", str(CNN), "--recipe", str(recipe), "--data", str(data), "--eval-data", str(eval_data), "--out", str(tmp_path / "out"),
                           "--no-latency", "--quiet"], capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 3), done.stderr
    return json.loads((tmp_path / "out" / "report.json").read_text())


def test_numbers_that_are_not_finite_from_the_start(tmp_path):
    """Nothing good was made: the job fails and says at which batch of which epoch and learning rate."""
    with pytest.raises(AssertionError, match="not a finite number at batch [0-9]+ of [0-9]+ of epoch [0-9]+, at a learning rate of 100"):
        run(tmp_path, {"method": "train.finetune", "epochs": 4, "samples": 600, "batch": 16, "lr": 100, "clip": 0, "schedule": "constant"})


def test_the_best_epoch_stays_when_the_rate_rises_too_far(tmp_path):
    """Good epochs, then ever worse ones: the best stays. Where the numbers end in nothing finite, a warning says at which batch."""
    report = run(tmp_path, {"method": "prune.weights", "sparsity": 0.85},
                 {"method": "train.finetune", "epochs": 16, "warmup": 15, "lr": 1, "clip": 0, "samples": 800, "batch": 32})
    training = report["steps"][1]["details"]["training"]
    kept = [e for e in training["epochs"] if e["epoch"] == training["kept_epoch"]]
    assert kept and kept[0]["val_top1"] == max(e.get("val_top1", 0) for e in training["epochs"])
    if "stopped" in training:
        assert len(training["epochs"]) < 16
        assert any("not a finite number at batch" in w and f"Epoch {training['kept_epoch']} is kept" in w for w in report["warnings"])


def test_too_high_a_learning_rate_keeps_the_best_epoch(tmp_path):
    report = run(tmp_path, {"method": "train.finetune", "epochs": 3, "samples": 600, "lr": 2, "clip": 1, "schedule": "constant"})
    assert report["after"]["metrics"]["top1"] >= report["before"]["metrics"]["top1"] - 0.005


# ---- what goes right: nested schedules and rounds, end to end

def zeros(path):
    import onnx
    from onnx import numpy_helper
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def test_schedules_in_training(tmp_path):
    """Weights by a ramp and by surgery: the sparsity is exact at the end, and training made up for it."""
    for schedule in ("cubic", "surgery"):
        out = tmp_path / schedule
        out.mkdir()
        report = run(out, {"method": "train.finetune", "epochs": 4, "samples": 800, "lr": 0.1, "batch": 32,
                           "steps": [{"method": "prune.weights", "sparsity": 0.8, "schedule": schedule}]})
        nested = report["steps"][0]["steps"][0]
        assert nested["runs"] > 3
        for row in nested["layers"]:
            if "after" in row:
                assert abs(row["after"]["nonzero"] - 0.2 * row["after"]["params"]) <= 1
        for name, w in zeros(out / "out" / "model.onnx").items():
            rows = [r for r in nested["layers"] if r.get("weight") == name and "after" in r]
            if rows:
                assert np.count_nonzero(w) <= rows[0]["after"]["nonzero"]
        plain = tmp_path / (schedule + "-plain")
        plain.mkdir()
        at_once = run(plain, {"method": "prune.weights", "sparsity": 0.8})
        assert report["after"]["metrics"]["top1"] > at_once["after"]["metrics"]["top1"]
        assert report["after"]["metrics"]["top1"] >= report["before"]["metrics"]["top1"] - 0.03


def test_channels_in_training(tmp_path):
    report = run(tmp_path, {"method": "train.finetune", "epochs": 4, "samples": 800, "lr": 0.1, "batch": 32,
                            "steps": [{"method": "prune.channels", "ratio": 0.5, "schedule": "cubic"}]})
    rows = {r["node"]: r for r in report["steps"][0]["steps"][0]["layers"] if "after" in r}
    assert rows and all(r["after"]["channels"] == r["before"]["channels"] // 2 for r in rows.values())
    assert report["ratio"]["macs"] < 0.4
    assert report["after"]["metrics"]["top1"] > 0.8


def test_iterate_prunes_and_trains_until_the_drop_is_reached(tmp_path):
    report = run(tmp_path, {"method": "iterate", "until": {"max_accuracy_drop": 0.01}, "rounds": 4, "from": 0.4, "to": 1,
                            "steps": [{"method": "prune.weights", "sparsity": 0.98, "schedule": "linear"}, {**FINETUNE, "samples": 800, "lr": 0.1, "batch": 32}]})
    step = report["steps"][0]
    rounds, kept = step["details"]["rounds"], step["details"]["kept_round"]
    assert [r["round"] for r in rounds] == list(range(len(rounds))) and 2 <= len(rounds) <= 5
    assert rounds[kept]["good"] and rounds[kept]["kept"] and kept > 0
    good = [r for r in rounds if r["good"]]
    assert rounds[kept]["ratio"]["zstd_bytes"] == min(r["ratio"]["zstd_bytes"] for r in good)
    assert report["ratio"]["nonzero"] == pytest.approx(rounds[kept]["ratio"]["nonzero"], abs=1e-9)
    assert [t for t in report["targets"] if t["target"] == "iterate max_accuracy_drop"][0]["met"]
    assert report["ratio"]["nonzero"] < 0.65
    again = tmp_path / "again"
    again.mkdir()
    run(again, report["recipe"]["steps"][0])
    assert (again / "out" / "model.onnx").read_bytes() == (tmp_path / "out" / "model.onnx").read_bytes()


def test_joint_wishes_end_the_rounds(tmp_path):
    report = run(tmp_path, {"method": "iterate", "until": {"max_accuracy_drop": 0.05, "max_nonzero_ratio": 0.5}, "rounds": 6,
                            "steps": [{"method": "prune.weights", "sparsity": 0.9}, {**FINETUNE, "samples": 800, "lr": 0.1, "batch": 32}]})
    step = report["steps"][0]
    assert step["details"]["stopped"] == "all wishes hold"
    assert report["ratio"]["nonzero"] <= 0.5
    assert len(step["details"]["rounds"]) < 7
    assert all(t["met"] for t in report["targets"])
