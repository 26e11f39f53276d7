# SPDX-License-Identifier: Apache-2.0
"""A server of its own, and schemathesis with all checks against it: `make schemathesis`. Arguments go to `st run`."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pared_server
import tiny

TESTS = os.path.join(pared_server.ROOT, "tests")


def things(server):
    """Ids of a model, a dataset, an ended job and its first artifact."""
    model = server.request("PUT", "/v1/models?name=kept.onnx", body=tiny.classifier()).json()["id"]
    dataset = server.request("PUT", "/v1/datasets?name=kept.npz", body=tiny.dataset()).json()["id"]
    job = server.post_json("/v1/jobs", {"model": model, "dataset": dataset, "recipe": {"steps": []}}).json()["id"]
    assert server.wait_job(job)["state"] == "succeeded"
    artifact = server.get(f"/v1/jobs/{job}/artifacts").json()["data"][0]["id"]
    return {"models": model, "datasets": dataset, "jobs": job, "artifacts": artifact}


def config(server):
    """The configuration of tests/, and rows that give every GET below a thing the id of one that is there."""
    with open(os.path.join(TESTS, "schemathesis.toml")) as f:
        text = f.read()
    for noun, one in things(server).items():
        text += f'\n[[operations]]\ninclude-path-regex = "^/v1/{noun}/[{{]id[}}]"\ninclude-method = "GET"\nparameters = {{ "path.id" = "{one}" }}\n'
    path = os.path.join(server.dir, "schemathesis.toml")
    with open(path, "w") as f:
        f.write(text)
    return path


def main(arguments):
    st = os.environ.get("SCHEMATHESIS", os.path.join(pared_server.ROOT, "build", "api-venv", "bin", "st"))
    with pared_server.Server("--http-connections", "256") as server:
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
