# SPDX-License-Identifier: Apache-2.0
"""A server of its own, and schemathesis with all checks and phases against it: `make schemathesis`. Arguments go to `st run`. It runs twice:
once each call by itself, with ids of things that are there, and once chains of calls along the links of openapi.yaml (phase "stateful"),
whose ids come from the answers before."""
import argparse
import base64
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pared_server
import tiny

TESTS = os.path.join(pared_server.ROOT, "tests")
FILES = {f"/v1/{noun}": base64.b64encode(body).decode() for noun, body in (("models", tiny.classifier(1)), ("datasets", tiny.dataset(seed=1)))}
RUNS = (["examples", "coverage", "fuzzing"], ["stateful"])


def things(server):
    """A model, a dataset, an ended job, its first artifact and a link: {letters before an id: id}, and (pattern of calls, parameters)."""
    model = server.request("PUT", "/v1/models?name=kept.onnx", body=tiny.classifier()).json()["id"]
    dataset = server.request("PUT", "/v1/datasets?name=kept.npz", body=tiny.dataset()).json()["id"]
    job = server.post_json("/v1/jobs", {"model": model, "dataset": dataset, "recipe": {"steps": []}}).json()["id"]
    assert server.wait_job(job)["state"] == "succeeded"
    artifact = server.get(f"/v1/jobs/{job}/artifacts").json()["data"][0]["id"]
    link = server.request("POST", f"/v1/jobs/{job}/artifacts/model.onnx/link").json()["url"].rsplit("/", 1)[1]
    ids = {"models": model, "datasets": dataset, "jobs": job, "artifacts": artifact}
    rows = [(f"^GET /v1/{noun}/[{{]id[}}]", {"path.id": one}) for noun, one in ids.items()]
    rows += [("^GET /v1/links/", {"path.token": link}), ("^POST .*/link$", {"path.id": job, "path.name": "model.onnx"}),
             ("^POST .*/retry$", {"path.id": job})]
    return {one[:3]: one for one in ids.values()}, rows


def config(server, rows):
    """Path of the configuration of tests/ with the parameters that rows give to calls."""
    with open(os.path.join(TESTS, "schemathesis.toml")) as f:
        text = f.read()
    for pattern, parameters in rows: # one word of choice a row: several would mean any of them
        values = ", ".join(f'"{name}" = "{value}"' for name, value in parameters.items())
        text += f'\n[[operations]]\ninclude-name-regex = "{pattern}"\nparameters = {{ {values} }}\n'
    path = os.path.join(server.dir, "schemathesis.toml")
    with open(path, "w") as f:
        f.write(text)
    return path


def run(server, phases, arguments):
    """Exit status of one run of schemathesis."""
    st = os.environ.get("SCHEMATHESIS", os.path.join(pared_server.ROOT, "build", "api-venv", "bin", "st"))
    ids, rows = ({}, []) if phases == ["stateful"] else things(server)
    command = [st, "--config-file", config(server, rows), "run", os.path.join(pared_server.ROOT, "openapi.yaml"), "--url", server.url,
               "--checks", "all", "--phases", ",".join(phases), *arguments]
    env = {**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": TESTS, "PARED_THINGS": json.dumps(ids), "PARED_FILES": json.dumps(FILES)}
    return subprocess.call(command, cwd=server.dir, env=env)


def main(arguments):
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--phases", default=",".join(phase for phases in RUNS for phase in phases))
    own, rest = parser.parse_known_args(arguments)
    status = 0
    with pared_server.Server("--http-connections", "256", "--link-ttl-s", "3600") as server:
        for phases in RUNS:
            wanted = [phase for phase in phases if phase in own.phases.split(",")]
            status = (run(server, wanted, rest) if wanted else 0) or status
        alive = server.get("/healthz").status == 200
        exit_status = server.stop()
        if not alive or exit_status != 0:
            print(f"the server did not survive: exit status {exit_status}\n{server.log_text()[-4000:]}")
            return 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
