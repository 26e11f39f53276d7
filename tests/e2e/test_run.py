# SPDX-License-Identifier: Apache-2.0
"""pared run, inspect and methods as a shell sees them: files, report, exit statuses, sentences. And the server's child, `pared __job`."""
import hashlib
import json
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import jsonschema
import pytest

import tiny

ROOT = Path(__file__).resolve().parents[2]
PARED = Path(os.environ.get("PARED", ROOT / "build/pared"))
DIGITS = ROOT / "examples/digits"
SCHEMA = json.loads((ROOT / "docs/report.schema.json").read_text())


def call(*args, status=0, **options):
    done = subprocess.run([PARED, *map(str, args)], capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == status, (args, done.returncode, done.stdout[-500:], done.stderr[-2000:])
    return done


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def report_of(folder):
    report = json.loads((Path(folder) / "report.json").read_text())
    jsonschema.validate(report, SCHEMA)
    return report


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    (folder / "m.onnx").write_bytes(tiny.classifier())
    (folder / "d.npz").write_bytes(tiny.dataset())
    return folder


# ---- what a run writes

def test_no_steps_gives_the_same_bytes(tmp_path):
    call("run", DIGITS / "digits-cnn.onnx", "--out", tmp_path)
    assert sha256(tmp_path / "model.onnx") == sha256(DIGITS / "digits-cnn.onnx")
    report = report_of(tmp_path)
    assert report["source"] == {"name": "digits-cnn.onnx", "sha256": sha256(DIGITS / "digits-cnn.onnx")}
    assert report["recipe"] == {"steps": [], "targets": {}, "seed": 0} and report["warnings"] == []
    assert report["fidelity"]["source"] == "generated" and report["fidelity"]["outputs"][0]["max_abs"] == 0
    assert "metrics" not in report["before"]
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "report.html", "report.json"]


def test_report_tells_what_happened(tmp_path):
    done = call("run", DIGITS / "digits-cnn.onnx", "--data", DIGITS / "test.npz", "--step", "graph.optimize", "--step",
                "prune.weights sparsity=0.25 exclude=/fc*", "--target", "max_zstd_bytes_ratio=0.9", "--seed", 5, "--out", tmp_path)
    report = report_of(tmp_path)
    assert [s["method"] for s in report["steps"]] == ["graph.optimize", "prune.weights"]
    assert report["seed"] == report["recipe"]["seed"] == 5
    assert report["before"]["metrics"]["top1"] == 0.998 and report["before"]["metrics"]["samples"] == 500  # as PyTorch counted it
    assert report["before"]["metrics"]["split"] == "dataset" and report["fidelity"]["samples"] == 500
    assert report["before"]["macs"] == report["after"]["macs"] == 489600
    assert report["before"]["bytes"] == (DIGITS / "digits-cnn.onnx").stat().st_size
    assert report["after"]["bytes"] == (tmp_path / "model.onnx").stat().st_size
    assert report["artifact"]["sha256"] == sha256(tmp_path / "model.onnx")
    assert report["ratio"]["nonzero"] == pytest.approx(report["after"]["nonzero"] / report["before"]["nonzero"])
    skipped = [r["skipped"] for r in report["steps"][1]["layers"] if r["node"].startswith("/fc")]
    assert skipped == ["not selected by include and exclude"]
    assert report["targets"] == [{"target": "max_zstd_bytes_ratio", "wanted": 0.9, "got": pytest.approx(report["ratio"]["zstd_bytes"]), "met": True}]
    assert "file size" in done.stdout and "max_zstd_bytes_ratio" in done.stdout and "step 2/2 prune.weights" in done.stderr


def test_artifact_carries_its_recipe_and_onnx_accepts_it(tmp_path):
    onnx = pytest.importorskip("onnx")
    call("run", DIGITS / "digits-cnn.onnx", "--step", "prune.weights sparsity=0.5", "--no-latency", "--out", tmp_path)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(model)
    metadata = {p.key: p.value for p in model.metadata_props}
    assert json.loads(metadata["pared.recipe"]) == report_of(tmp_path)["recipe"]
    assert metadata["pared.source_sha256"] == sha256(DIGITS / "digits-cnn.onnx") and "pared.version" in metadata


def test_same_input_recipe_and_seed_give_the_same_bytes(tmp_path):
    recipe = tmp_path / "r.json"
    recipe.write_text('{"steps": [{"method": "graph.optimize"}, {"method": "quantize.static", "samples": 64}], "seed": 3}')
    seen = set()
    for i, threads in enumerate((1, 2, 2, 5)):
        call("run", DIGITS / "digits-cnn.onnx", "--recipe", recipe, "--data", DIGITS / "train.npz", "--threads", threads, "--no-latency", "--quiet",
             "--out", tmp_path / str(i))
        seen.add(sha256(tmp_path / str(i) / "model.onnx"))
    assert len(seen) == 1


def test_preset_and_eval_data(tmp_path):
    call("run", DIGITS / "digits-cnn.onnx", "--recipe", "int8", "--data", DIGITS / "train.npz", "--eval-data", DIGITS / "test.npz", "--target",
         "max_accuracy_drop=0.005", "--no-latency", "--out", tmp_path)
    report = report_of(tmp_path)
    assert report["after"]["metrics"]["split"] == "eval_dataset" and report["targets"][0]["met"]
    assert report["after"]["params"] < 1.01 * report["before"]["params"]
    assert "latency_ms" not in report["after"] and "latency" not in report["ratio"]


def test_a_run_over_an_older_one_replaces_it(tmp_path, classifier):
    for sparsity in (0.5, 0.9):
        call("run", classifier / "m.onnx", "--step", f"prune.weights sparsity={sparsity}", "--no-latency", "--out", tmp_path)
    assert report_of(tmp_path)["steps"][0]["parameters"]["sparsity"] == 0.9
    assert sorted(os.listdir(tmp_path)) == ["model.onnx", "report.html", "report.json"]


def test_external_data_stays_external(tmp_path):
    model, data = tiny.classifier_external()
    (tmp_path / "m.onnx").write_bytes(model)
    (tmp_path / "weights.bin").write_bytes(data)
    call("run", tmp_path / "m.onnx", "--no-latency", "--out", tmp_path / "out")
    assert (tmp_path / "out/weights.bin").read_bytes() == data and (tmp_path / "out/model.onnx").read_bytes() == model
    assert report_of(tmp_path / "out")["before"]["bytes"] == len(model) + len(data)


def test_stdin_and_json(tmp_path, classifier):
    done = subprocess.run([PARED, "run", "-", "--json", "--quiet", "--no-latency", "--out", tmp_path], input=tiny.classifier(), capture_output=True)
    assert done.returncode == 0 and done.stderr == b""
    report = json.loads(done.stdout)
    jsonschema.validate(report, SCHEMA)
    assert report["source"]["name"] == "stdin"
    recipe = '{"steps": [{"method": "graph.optimize"}]}'
    call("run", classifier / "m.onnx", "--recipe", "-", "--no-latency", "--out", tmp_path, input=recipe)
    assert report_of(tmp_path)["steps"][0]["method"] == "graph.optimize"


# ---- exit statuses and sentences

def test_missed_targets_are_status_3_and_the_artifact_is_there(tmp_path, classifier):
    done = call("run", classifier / "m.onnx", "--step", "prune.weights sparsity=0.9", "--target", "max_bytes_ratio=0.1", "--no-latency", "--out", tmp_path, status=3)
    assert "missed" in done.stdout and (tmp_path / "model.onnx").exists()
    report = report_of(tmp_path)
    assert report["targets"][0]["met"] is False and report["targets"][0]["got"] > 0.1
    assert any("larger than the source" in w for w in report["warnings"])


def test_unknown_operator_weights_only_work_goes_on(tmp_path):
    (tmp_path / "m.onnx").write_bytes(tiny.unknown_operator())
    call("run", tmp_path / "m.onnx", "--step", "prune.weights sparsity=0.5", "--out", tmp_path / "out")
    report = report_of(tmp_path / "out")
    assert "fidelity" not in report and "latency_ms" not in report["before"] and "Frobnicate" in report["warnings"][0]
    (tmp_path / "d.npz").write_bytes(tiny.npz({"x": tiny.npy(tiny.weights(0, 4), [1, 4])}))
    done = call("run", tmp_path / "m.onnx", "--step", "quantize.static", "--data", tmp_path / "d.npz", "--out", tmp_path / "no", status=1)
    assert "/steps/0" in done.stderr and "Frobnicate" in done.stderr


WRONG_RECIPES = [
    ('{"steps": [{"method": "prune.weights", "sparsty": 1}]}', "/steps/0/sparsty", "did you mean 'sparsity'?"),
    ('{"steps": [{"method": "prune.weights", "sparsity": 2}]}', "/steps/0/sparsity", "between 0 and 1, found 2"),
    ('{"steps": [{"method": "prune.weights", "sparsity": "half"}]}', "/steps/0/sparsity", "must be a number"),
    ('{"steps": [{"method": "prune.wieghts"}]}', "/steps/0/method", "did you mean 'prune.weights'?"),
    ("{}", "/steps", "'steps' is missing"),
    ('{"steps": [], "steps": []}', "", "duplicate object key"),
    ('{"steps": ' + "[" * 70 + "]" * 70 + "}", "", "deeper than 64 levels"),
    ('{"steps": [], "x": "' + "y" * 10_000_000 + '"}', "", "1048576"),
    ("steps: []", "", "not valid JSON"),
    ('{"steps": [{"method": "quantize.static"}]}', "/steps/0", "needs a dataset"),
    ('{"steps": [], "targets": {"max_accuracy_drop": 0.01}}', "/targets/max_accuracy_drop", "labels"),
]


@pytest.mark.parametrize("text,pointer,sentence", WRONG_RECIPES, ids=range(len(WRONG_RECIPES)))
def test_wrong_recipes(tmp_path, classifier, text, pointer, sentence):
    (tmp_path / "r.json").write_text(text)
    done = call("run", classifier / "m.onnx", "--recipe", tmp_path / "r.json", "--quiet", "--out", tmp_path / "out", status=1)
    assert pointer in done.stderr and sentence in done.stderr and len(done.stderr) < 2000 and done.stdout == ""
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == []


def test_all_faults_at_once(classifier):
    done = call("run", classifier / "m.onnx", "--step", "prune.weights sparsity=2 keep=x", "--step", "no.such", status=1)
    assert "3 faults" in done.stderr and "/steps/0/sparsity" in done.stderr and "/steps/0/keep" in done.stderr and "/steps/1/method" in done.stderr


BAD_MODELS = {
    "empty": b"", "text": b"hello, this is no model\n", "png": b"\x89PNG\r\n\x1a\n" + bytes(100), "truncated": tiny.classifier()[:200],
    "missing": tiny.model([tiny.node("Relu", ["nowhere"], ["y"])], [], [tiny.value_info("x", [1])], [tiny.value_info("y", [1])]),
    "cycle": tiny.model([tiny.node("Add", ["x", "b"], ["a"]), tiny.node("Relu", ["a"], ["b"])], [], [tiny.value_info("x", [1])], [tiny.value_info("a", [1])]),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_bad_models(tmp_path, kind):
    path = tmp_path / "bad.onnx"
    path.write_bytes(BAD_MODELS[kind])
    for command in (["run", path, "--quiet", "--out", tmp_path / "out"], ["inspect", path]):
        done = call(*command, status=1)
        assert done.stderr.startswith("pared: ") and "bad.onnx" in done.stderr and done.stderr.count("\n") == 1 and done.stdout == ""
    assert os.listdir(tmp_path / "out") == []


def test_external_data_never_leaves_its_folder(tmp_path):
    (tmp_path / "weights.bin").write_bytes(bytes(512))
    (tmp_path / "sub").mkdir()
    for location in ("../weights.bin", "/etc/passwd", "..", "sub/w"):
        (tmp_path / "sub/m.onnx").write_bytes(tiny.classifier_external(location)[0])
        done = call("run", tmp_path / "sub/m.onnx", "--quiet", "--out", tmp_path / "out", status=1)
        assert "w1" in done.stderr and "root:" not in done.stderr
    (tmp_path / "sub/link.bin").symlink_to("/etc/passwd")
    (tmp_path / "sub/m.onnx").write_bytes(tiny.classifier_external("link.bin")[0])
    call("run", tmp_path / "sub/m.onnx", "--quiet", "--out", tmp_path / "out", status=1)


def test_bad_datasets(tmp_path, classifier):
    arrays = {
        "shape": tiny.npz({"x": tiny.npy(tiny.weights(0, 60), [4, 15]), "y": tiny.npy([0] * 4, [4], "<i8")}),
        "labels": tiny.npz({"x": tiny.npy(tiny.weights(0, 64), [4, 16]), "y": tiny.npy([0, 1, 2, 99], [4], "<i8")}),
        "count": tiny.npz({"x": tiny.npy(tiny.weights(0, 64), [4, 16]), "y": tiny.npy([0, 1, 2], [3], "<i8")}),
        "nothing": b"",
        "nan": tiny.npz({"x": tiny.npy([float("nan")] + [1.0] * 63, [4, 16]), "y": tiny.npy([0, 1, 2, 3], [4], "<i8")}),
    }
    for name, data in arrays.items():
        (tmp_path / "d.npz").write_bytes(data)
        done = call("run", classifier / "m.onnx", "--data", tmp_path / "d.npz", "--quiet", "--out", tmp_path / "out", status=1)
        assert done.stderr.startswith("pared: dataset: ") and "dataset: dataset" not in done.stderr, (name, done.stderr)
    call("run", classifier / "m.onnx", "--data", tmp_path / "nowhere.npz", "--quiet", "--out", tmp_path / "out", status=1)
    assert os.listdir(tmp_path / "out") == []


def test_outputs_that_are_not_finite_fail_the_job(tmp_path):
    w = tiny.tensor("w", [4, 4], [30000.0] * 16)  # fits float16; its products with the evaluation data do not
    (tmp_path / "m.onnx").write_bytes(tiny.model([tiny.node("MatMul", ["x", "w"], ["y"], "fc")], [w], [tiny.value_info("x", ["N", 4])], [tiny.value_info("y", ["N", 4])]))
    (tmp_path / "small.npz").write_bytes(tiny.npz({"x": tiny.npy([0.01] * 32, [8, 4])}))
    (tmp_path / "d.npz").write_bytes(tiny.npz({"x": tiny.npy([100.0] * 32, [8, 4])}))
    done = call("run", tmp_path / "m.onnx", "--recipe", "fp16", "--data", tmp_path / "small.npz", "--eval-data", tmp_path / "d.npz", "--quiet", "--out", tmp_path / "out", status=1)
    assert "not finite" in done.stderr and "'y'" in done.stderr and os.listdir(tmp_path / "out") == []
    # what the original gives too is no fault of the result
    zero = tiny.tensor("zero", [4], [0.0] * 4)
    (tmp_path / "m.onnx").write_bytes(tiny.model([tiny.node("Div", ["x", "zero"], ["y"])], [zero], [tiny.value_info("x", ["N", 4])], [tiny.value_info("y", ["N", 4])]))
    call("run", tmp_path / "m.onnx", "--step", "graph.optimize", "--data", tmp_path / "d.npz", "--no-latency", "--out", tmp_path / "out")
    assert report_of(tmp_path / "out")["fidelity"]["samples"] == 8


def test_interrupting_leaves_nothing_behind(tmp_path):
    (tmp_path / "m.onnx").write_bytes(tiny.slow_model(depth=1000))
    (tmp_path / "d.npz").write_bytes(tiny.npz({"x": tiny.npy([0.5] * 512 * 1000, [1000, 512])}))
    run = subprocess.Popen([PARED, "run", tmp_path / "m.onnx", "--data", tmp_path / "d.npz", "--out", tmp_path / "out"], stderr=subprocess.PIPE, text=True)
    for line in run.stderr:
        if "verify" in line:
            break
    run.send_signal(signal.SIGINT)
    assert run.wait(timeout=60) == 1 and "canceled during 'verify'" in run.stderr.read()
    run.stderr.close()
    assert os.listdir(tmp_path / "out") == []


def test_usage_is_status_2(classifier):
    model = classifier / "m.onnx"
    for args in ([], [model, model], [model, "--no-such"], [model, "--threads", "x"], [model, "--seed", "-1"], [model, "--step", "a=1"], [model, "--target", "x"],
                 [model, "--recipe", "int9"]):
        done = call("run", *args, status=2)
        assert "--help" in done.stderr and done.stdout == ""
    assert "did you mean 'int8'?" in call("run", model, "--recipe", "int9", status=2).stderr
    assert "Exit status" in call("run", "--help").stdout


# ---- inspect and methods

def test_inspect(tmp_path):
    facts = json.loads(call("inspect", DIGITS / "digits-cnn.onnx", "--json", "--layers").stdout)
    assert facts["macs"] == 489600 and facts["ops"]["Conv"] == 5 and facts["runnable"] is True and facts["missing_operators"] == []
    assert facts["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["N", 1, 8, 8]}]
    assert facts["sha256"] == sha256(DIGITS / "digits-cnn.onnx")
    convs = [r for r in facts["layers"] if r["op_type"] == "Conv"]
    assert len(convs) == 5 and all(r["prune"]["possible"] and r["quantize"]["possible"] for r in convs)
    batchnorm = next(r for r in facts["layers"] if r["op_type"] == "BatchNormalization")
    assert not batchnorm["prune"]["possible"] and batchnorm["prune"]["why"]
    assert sum(r["macs"] for r in facts["layers"]) == facts["macs"]
    (tmp_path / "m.onnx").write_bytes(tiny.unknown_operator())
    facts = json.loads(call("inspect", tmp_path / "m.onnx", "--json").stdout)
    assert facts["runnable"] is False and "Frobnicate" in facts["missing_operators"][0] and "macs" not in facts
    assert "cannot run" in call("inspect", tmp_path / "m.onnx").stdout


def test_methods():
    catalogue = json.loads(call("methods", "--json").stdout)
    names = [m["name"] for m in catalogue]
    assert names == sorted(names) and "prune.weights" in names
    one = json.loads(call("methods", "prune.weights", "--json").stdout)
    assert one in catalogue
    rows = {p["name"]: p for p in json.loads(call("methods", "quantize.static", "--json").stdout)["parameters"]}
    assert rows["calibrator"]["choices"] == ["minmax", "moving_average", "percentile", "entropy", "mse"] and rows["calibrator"]["default"] == "mse"
    assert rows["percentile"]["default"] == 99.999
    shown = call("methods", "quantize.static").stdout
    assert all(c in shown for c in rows["calibrator"]["choices"])
    sparsity = next(p for p in one["parameters"] if p["name"] == "sparsity")
    assert sparsity["type"] == "number" and sparsity["min"] == 0 and sparsity["max"] == 1 and sparsity["doc"]
    assert "sparsity" in call("methods", "prune.weights").stdout and "Presets" in call("methods").stdout
    assert "did you mean 'prune.weights'?" in call("methods", "prune.weigths", status=1).stderr


# ---- the server's child

def job(spec, status):
    """Run `pared __job` as server/child.c does: descriptor 3 is the spec, 4 the status pipe."""
    with tempfile.TemporaryFile() as given:
        given.write(spec if isinstance(spec, bytes) else json.dumps(spec).encode())
        given.seek(0)
        read, write = os.pipe()
        # posix_spawn places the descriptors; Python's own are moved out of the way first
        high = [os.dup2(given.fileno(), 40), os.dup2(write, 41)]
        os.close(write)
        actions = [(os.POSIX_SPAWN_DUP2, high[0], 3), (os.POSIX_SPAWN_DUP2, high[1], 4), (os.POSIX_SPAWN_CLOSE, 40), (os.POSIX_SPAWN_CLOSE, 41)]
        pid = os.posix_spawn(PARED, ["pared", "__job"], {}, file_actions=actions)
        for fd in high:
            os.close(fd)
        with os.fdopen(read) as lines:
            said = [json.loads(line) for line in lines]
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code == status, (code, said[-3:])
        return said


@pytest.fixture
def folders(tmp_path):
    for name in ("work", "out"):
        (tmp_path / name).mkdir()
    return tmp_path


def spec_of(folders, kind, **more):
    return {"kind": kind, "work": str(folders / "work"), "out": str(folders / "out"), "die_with_parent": False, **more}


def test_job_child_runs_a_recipe(folders, classifier):
    blob = folders / "blob"
    blob.write_bytes(tiny.dataset())
    said = job(spec_of(folders, "job", model={"name": "m.onnx", "path": str(classifier / "m.onnx")}, dataset={"files": [{"name": "d", "path": str(blob)}]},
                       recipe={"steps": [{"method": "prune.weights", "sparsity": 0.5}], "targets": {"max_bytes_ratio": 2}}, threads=1), 0)
    result = said[-1]
    assert result["type"] == "result" and result["targets_met"] is True and result["metrics"]["ratio"]["bytes"] > 0
    assert [a["name"] for a in result["artifacts"]] == ["model.onnx", "report.json", "report.html"]
    for artifact in result["artifacts"]:
        path = folders / "out" / artifact["name"]
        assert sha256(path) == artifact["sha256"] and path.stat().st_size == artifact["bytes"]
    progress = [line for line in said if line["type"] == "progress"]
    assert {"read", "write", "verify", "latency"} <= {p["stage"] for p in progress}
    assert any(p["step"] == 1 and p["steps"] == 1 and p.get("method") == "prune.weights" for p in progress)
    assert report_of(folders / "out")["source"]["name"] == "m.onnx"


def test_job_child_refuses_with_pointers(folders, classifier):
    said = job(spec_of(folders, "job", model={"name": "m.onnx", "path": str(classifier / "m.onnx")}, recipe={"steps": [{"method": "prune.weights", "sparsity": 7}]}), 1)
    assert said[-1]["type"] == "error" and said[-1]["code"] == "recipe_invalid"
    assert said[-1]["errors"] == [{"pointer": "/recipe/steps/0/sparsity", "detail": "'sparsity' must be between 0 and 1, found 7"}]
    (folders / "bad").write_bytes(b"\x00" * 50)
    said = job(spec_of(folders, "inspect_model", model={"name": "m.onnx", "path": str(folders / "bad")}), 1)
    assert said[-1]["code"] == "model_invalid" and str(folders) not in said[-1]["detail"]


def test_job_child_inspects(folders, classifier):
    model, data = tiny.classifier_external()
    (folders / "a").write_bytes(model)
    (folders / "b").write_bytes(data)
    said = job(spec_of(folders, "inspect_model", model={"name": "m.onnx", "path": str(folders / "a")}, external=[{"name": "weights.bin", "path": str(folders / "b")}]), 0)
    assert said[-1]["facts"]["params"] == 16 * 8 + 8 * 4 and said[-1]["facts"]["external_files"] == ["weights.bin"]
    layers, graph = (json.loads((folders / "out" / n).read_text()) for n in ("layers.json", "graph.json"))
    assert [r["node"] for r in layers["data"]] == ["fc1", "fc2"]
    assert {n["op_type"] for n in graph["nodes"]} == {"Input", "MatMul", "Relu", "Output"} and len(graph["edges"]) == 4
    spec = spec_of(folders, "inspect_dataset", dataset={"files": [{"name": "d.npz", "path": str(classifier / "d.npz")}]})
    del spec["out"]
    assert job(spec, 0)[-1]["facts"]["samples"] == 64


def test_job_child_memory_limit(folders, classifier):
    for width, status, code in ((1 << 28, 1, "model_too_large"), (100_000_000, 75, "job_out_of_memory")):  # 1 GiB an input; twice 400 MB
        big = tiny.model([tiny.node("Add", ["x", "x"], ["y"])], [], [tiny.value_info("x", [1, width])], [tiny.value_info("y", [1, width])])
        (folders / "m").write_bytes(big)
        said = job(spec_of(folders, "job", model={"name": "m.onnx", "path": str(folders / "m")}, recipe={"steps": []}, memory_bytes=512 << 20, threads=1), status)
        assert said[-1]["type"] == "error" and said[-1]["code"] == code


@pytest.mark.parametrize("spec", [b"", b"{", b"[]", b'{"kind": "job"}', b'{"kind": "job", "work": "/tmp", "x": 1}'])
def test_job_child_unusable_spec(spec):
    assert job(spec, 70) == []


def test_job_child_is_not_for_hands():
    assert "by the server" in call("__job", status=70, close_fds=True).stderr
