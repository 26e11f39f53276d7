# SPDX-License-Identifier: Apache-2.0
"""How many of the backend tests pass, by suite."""
import subprocess

from table import ROOT, heading, row


def conformance():
    heading("Conformance", ["suite", "result"])
    done = subprocess.run(["make", "-s", "conformance"], cwd=ROOT, capture_output=True, text=True)
    for line in done.stdout.splitlines():
        if " passed," in line:
            row(*line.split(maxsplit=1))
