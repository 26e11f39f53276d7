# SPDX-License-Identifier: Apache-2.0
"""A client that a tool makes from openapi.yaml: its code compiles, and it uploads, queues, waits and downloads. Skipped only where neither
build/api-venv (`make schemathesis` makes it) nor the registry is there."""
import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pared_server
import tiny

VENV = os.path.join(pared_server.ROOT, "build", "api-venv")

FLOW = '''
import sys, time
from io import BytesIO
from pared_client import Client
from pared_client.api.datasets import get_dataset, put_dataset
from pared_client.api.jobs import create_job, delete_job, get_artifact, get_job, get_report, list_artifacts, list_jobs, retry_job
from pared_client.api.models import get_model, list_models, put_model
from pared_client.api.operation import get_version
from pared_client.api.recipes import list_methods
from pared_client.models import *
from pared_client.types import File

client = Client(base_url=sys.argv[1], raise_on_unexpected_status=True)
assert get_version.sync(client=client).name == "pared"
assert list_methods.sync(client=client).data
with open(sys.argv[2], "rb") as f:
    model = put_model.sync(client=client, body=File(payload=f, mime_type="application/octet-stream"), name="generated.onnx")
with open(sys.argv[3], "rb") as f:
    dataset = put_dataset.sync(client=client, body=File(payload=f, mime_type="application/octet-stream"), name="generated.npz")
assert isinstance(model, Model) and isinstance(dataset, Dataset), (model, dataset)
assert get_model.sync(model.id, client=client).name == "generated.onnx"
request = JobRequest.from_dict({"model": model.id, "dataset": dataset.id, "labels": {"from": "generated"},
                                "recipe": {"steps": [{"method": "prune.weights", "sparsity": 0.5}]}})
job = create_job.sync(client=client, body=request)
assert isinstance(job, Job), job
for _ in range(10):
    job = get_job.sync(job.id, client=client, wait=20)
    if job.state not in ("queued", "running"):
        break
assert job.state == "succeeded", job
assert job.metrics.after.sparsity > 0.4
names = [a["name"] if isinstance(a, dict) else a.name for a in list_artifacts.sync(job.id, client=client).data]
assert "model.onnx" in names, names
report = get_report.sync(job.id, client=client)
assert report.before.nonzero > report.after.nonzero
made = get_artifact.sync(job.id, "model.onnx", client=client)
with open(sys.argv[4], "wb") as f:
    f.write(made.payload.read())
assert [j["id"] if isinstance(j, dict) else j.id for j in list_jobs.sync(client=client, state=[JobState.SUCCEEDED], label="from=generated").data] == [job.id]
again = retry_job.sync(job.id, client=client)
assert again.retry_of == job.id
problem = create_job.sync(client=client, body=JobRequest.from_dict({"model": model.id, "recipe": "no-such-recipe"}))
assert isinstance(problem, Problem) and problem.status == 422 and problem.errors, problem
assert delete_job.sync_detailed(job.id, client=client).status_code == 204
print("done")
'''


def tool():
    """openapi-python-client of the pinned version, installed if it is not there."""
    path = os.path.join(VENV, "bin", "openapi-python-client")
    if not os.path.exists(path):
        made = subprocess.run(["make", "-s", "build/api-venv/ok"], cwd=pared_server.ROOT, capture_output=True, text=True)
        if made.returncode != 0:
            pytest.skip("skipped: the package registry cannot be reached: " + made.stderr.strip().splitlines()[-1][:200])
    return path


def test_completes_a_job(tmp_path):
    client = tmp_path / "client"
    made = subprocess.run([tool(), "generate", "--path", os.path.join(pared_server.ROOT, "openapi.yaml"), "--output-path", client], cwd=tmp_path,
                          capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    python = os.path.join(VENV, "bin", "python")
    subprocess.run([python, "-m", "compileall", "-q", client], check=True)
    (tmp_path / "m.onnx").write_bytes(tiny.classifier())
    (tmp_path / "d.npz").write_bytes(tiny.dataset())
    (tmp_path / "flow.py").write_text(FLOW)
    with pared_server.Server() as server:
        ran = subprocess.run([python, "flow.py", server.url, "m.onnx", "d.npz", "out.onnx"], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(client)},
                             capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0 and ran.stdout.endswith("done\n"), ran.stdout + ran.stderr + server.log_text()[-1000:]
    import onnx
    onnx.checker.check_model(onnx.load(tmp_path / "out.onnx"))
