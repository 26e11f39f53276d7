# SPDX-License-Identifier: Apache-2.0
"""A server of its own, and schemathesis with all checks against it: `make schemathesis`. Arguments go to `st run`."""
import json
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pared_server
import tiny

TESTS = os.path.join(pared_server.ROOT, "tests")


def things(server):
    """(pattern of calls, parameters) that lead to a model, a dataset, an ended job, its first artifact and a link."""
    model = server.request("PUT", "/v1/models?name=kept.onnx", body=tiny.classifier()).json()["id"]
    dataset = server.request("PUT", "/v1/datasets?name=kept.npz", body=tiny.dataset()).json()["id"]
    job = server.post_json("/v1/jobs", {"model": model, "dataset": dataset, "recipe": {"steps": []}}).json()["id"]
    assert server.wait_job(job)["state"] == "succeeded"
    artifact = server.get(f"/v1/jobs/{job}/artifacts").json()["data"][0]["id"]
    link = server.request("POST", f"/v1/jobs/{job}/artifacts/model.onnx/link").json()["url"].rsplit("/", 1)[1]
    ids = {"models": model, "datasets": dataset, "jobs": job, "artifacts": artifact}
    os.environ["PARED_THINGS"] = json.dumps({one[:3]: one for one in ids.values()}) # for schemathesis_hooks.py
    rows = [(f"^GET /v1/{noun}/[{{]id[}}]", {"path.id": one}) for noun, one in ids.items()]
    return rows + [("^GET /v1/links/", {"path.token": link}), ("^POST .*/link$", {"path.id": job, "path.name": "model.onnx"}),
                   ("^POST .*/retry$", {"path.id": job})]


def config(server):
    """The configuration of tests/, and rows that give calls below a thing the id of one that is there."""
    with open(os.path.join(TESTS, "schemathesis.toml")) as f:
        text = f.read()
    for pattern, parameters in things(server): # one word of choice a row: several would mean any of them
        values = ", ".join(f'"{name}" = "{value}"' for name, value in parameters.items())
        text += f'\n[[operations]]\ninclude-name-regex = "{pattern}"\nparameters = {{ {values} }}\n'
    path = os.path.join(server.dir, "schemathesis.toml")
    with open(path, "w") as f:
        f.write(text)
    return path


def main(arguments):
    st = os.environ.get("SCHEMATHESIS", os.path.join(pared_server.ROOT, "build", "api-venv", "bin", "st"))
    with pared_server.Server("--http-connections", "256", "--link-ttl-s", "3600") as server:
        command = [st, "--config-file", config(server), "run", os.path.join(pared_server.ROOT, "openapi.yaml"), "--url", server.url,
                   "--checks", "all", *arguments]
        env = {**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": TESTS}
        status = subprocess.call(command, cwd=server.dir, env=env)
        alive = server.get("/healthz").status == 200
        exit_status = server.stop()
        if not alive or exit_status != 0:
            print(f"the server did not survive: exit status {exit_status}\n{server.log_text()[-4000:]}")
            return 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
