#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compress a model on a pared server: upload, run, wait, download. Needs `requests`.

    compress.py URL model.onnx [--data train.npz] [--eval-data test.npz] [--recipe int8] [--out small.onnx]

The key comes from PARED_API_KEY. Exit status: 0 done, 1 refused or failed, 3 done but a target was missed."""
import argparse
import os
import pathlib
import sys
import uuid

import requests

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("url")
parser.add_argument("model", type=pathlib.Path)
parser.add_argument("--data", type=pathlib.Path, help="calibration or training data")
parser.add_argument("--eval-data", type=pathlib.Path, help="what the report is measured on")
parser.add_argument("--recipe", default="int8", help="a preset or a named recipe of the server")
parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("small.onnx"))
args = parser.parse_args()

session = requests.Session()
if os.environ.get("PARED_API_KEY"):
    session.headers["Authorization"] = "Bearer " + os.environ["PARED_API_KEY"]


def call(method, path, **how):
    """One request. A problem of the server ends the program with its sentence and every fault it lists."""
    try:
        answer = session.request(method, args.url.rstrip("/") + path, timeout=(10, 600), **how)
    except requests.RequestException as error:
        sys.exit(f"{method} {path}: {error}")
    if answer.ok:
        return answer
    problem = answer.json() if "json" in answer.headers.get("Content-Type", "") else {"detail": answer.text}
    faults = [f"\n  {f.get('pointer', f.get('parameter', ''))}: {f['detail']}" for f in problem.get("errors", [])]
    sys.exit(f"{method} {path}: {answer.status_code}: {problem.get('detail')}{''.join(faults)}")


def upload(kind, path):
    """The id of the file on the server; the same bytes again give the same id."""
    with path.open("rb") as body:
        return call("PUT", f"/v1/{kind}", params={"name": path.name}, data=body).json()["id"]


request = {"model": upload("models", args.model), "recipe": args.recipe}
if args.data:
    request["dataset"] = upload("datasets", args.data)
if args.eval_data:
    request["eval_dataset"] = upload("datasets", args.eval_data)

# the key makes it safe to send the request again after a lost answer
job = call("POST", "/v1/jobs", json=request, headers={"Idempotency-Key": str(uuid.uuid4())}).json()
while job["state"] in ("queued", "running"):
    print(f"{job['id']}: {job['state']} {job.get('progress', {}).get('stage', '')}", file=sys.stderr)
    job = call("GET", f"/v1/jobs/{job['id']}?wait=25").json()
if job["state"] != "succeeded":
    sys.exit(f"{job['id']}: {job['state']}: {(job.get('error') or {}).get('detail', '')}")

args.out.write_bytes(call("GET", f"/v1/jobs/{job['id']}/artifacts/model.onnx").content)
report = call("GET", f"/v1/jobs/{job['id']}/report").json()
print(f"{args.out}: {report['after']['bytes']} bytes, {report['ratio']['bytes']:.3f} of {report['before']['bytes']}")
sys.exit(0 if job.get("targets_met", True) is not False else 3)
