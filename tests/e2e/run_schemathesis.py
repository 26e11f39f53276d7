# SPDX-License-Identifier: Apache-2.0
"""A server of its own, and schemathesis with all checks against it: `make schemathesis`. Arguments go to `st run`."""
import os
import subprocess
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import pared_server

TESTS = os.path.join(pared_server.ROOT, "tests")


def main(arguments):
    st = os.environ.get("SCHEMATHESIS", os.path.join(pared_server.ROOT, "build", "api-venv", "bin", "st"))
    with pared_server.Server("--http-connections", "256") as server:
        command = [st, "--config-file", os.path.join(TESTS, "schemathesis.toml"), "run", os.path.join(pared_server.ROOT, "openapi.yaml"),
                   "--url", server.url, "--checks", "all", *arguments]
        status = subprocess.call(command, cwd=server.dir)
        alive = server.get("/healthz").status == 200
        exit_status = server.stop()
        if not alive or exit_status != 0:
            print(f"the server did not survive: exit status {exit_status}\n{server.log_text()[-4000:]}")
            return 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
