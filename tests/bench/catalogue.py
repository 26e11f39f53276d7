# SPDX-License-Identifier: Apache-2.0
"""The catalogue with 100,000 jobs beside an empty one (build/tools/catalogue_bench): what a call costs there."""
import json
import subprocess
import tempfile

from table import QUICK, ROOT, heading, row

TOOL = ROOT / "build/tools/catalogue_bench"
JOBS, QUEUED, RUNS = 100_000, 10_000, 1 if QUICK else 3
CALLS = [  # what it is, its name in the tool, is it wanted to cost the same
    ("submit a job", "submit", True), ("claim a job", "claim", True), ("end a job", "settle", True),
    ("GET of a queued job: its place", "get_queued", True), ("GET of a queued job: what stands before it", "ahead", True),
    ("list, first page", "list", True), ("list, a page from the middle", "list_middle", True),
    ("list by state", "list_failed", True), ("list by model", "list_model", True),
    ("list by label", "list_label", True), ("list by name", "list_name", True),
    ("list by a label of 10 jobs, model and state", "list_rare", False), ("list by what no job has", "list_none", False),
    ("counts of /v1/stats and /metrics", "count", True)]


def once(jobs, queued):
    with tempfile.TemporaryDirectory(prefix="pared-catalogue-") as folder:
        return json.loads(subprocess.run([TOOL, folder, str(jobs), str(queued)], check=True, capture_output=True).stdout)


def catalogue():
    """Least of alternating runs, each the median of 200 calls: processor time of the thread, since a shared disk's
    fdatasync, the same in all columns, is most of a write by the clock."""
    runs = [[once(*kind) for kind in ((0, 0), (JOBS, 0), (JOBS, QUEUED))] for _ in range(RUNS)]
    heading(f"The catalogue: {JOBS:,} jobs beside none, processor time of a call in µs (pages of 50)",
            ["call", "empty", f"{JOBS:,} ended jobs", "ratio", f"{QUEUED:,} queued besides", "ratio wanted"])
    for what, name, same in CALLS:
        empty, full, waiting = (min(run[i][name]["cpu_us"] for run in runs) for i in range(3))
        row(what, f"{empty:.0f}", f"{full:.0f}", f"{full / empty:.2f}" if same else "", f"{waiting:.0f}",
            "<= 1.5" if same else "bounded")
