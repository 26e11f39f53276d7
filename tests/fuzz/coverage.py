# SPDX-License-Identifier: Apache-2.0
"""coverage.py FUZZER... -- FILE...: replay what each fuzzer of MODE=cover starts from (seeds, kept regressions, the corpus of former runs), then
print how many lines of each file were reached. Lines that no input can reach are named in tests/fuzz/README.md."""
import json
import os
import subprocess
import sys
from pathlib import Path

OUT = Path("build/cover")


def replay(fuzzer):
    folders = [str(p) for p in (Path("build/corpus") / fuzzer, Path("build/seeds") / fuzzer, Path("tests/fuzz/regression") / fuzzer) if p.is_dir()]
    environment = {**os.environ, "LLVM_PROFILE_FILE": str(OUT / f"{fuzzer}.profraw")}
    run = subprocess.run([str(OUT / "fuzz" / f"fuzz_{fuzzer}"), "-runs=0", "-rss_limit_mb=0", *folders], env=environment, capture_output=True, text=True)
    if run.returncode != 0:
        sys.exit(f"fuzz_{fuzzer} ended with {run.returncode}:\n{run.stderr[-3000:]}")
    return environment["LLVM_PROFILE_FILE"]


def main():
    split = sys.argv.index("--")
    fuzzers, files = sys.argv[1:split], sys.argv[split + 1:]
    profiles = [replay(f) for f in fuzzers]
    subprocess.run(["llvm-profdata-14", "merge", "-o", str(OUT / "all.profdata"), *profiles], check=True)
    objects = [str(OUT / "fuzz" / f"fuzz_{f}") for f in fuzzers]
    command = ["llvm-cov-14", "export", "-summary-only", f"-instr-profile={OUT / 'all.profdata'}", objects[0], *[w for o in objects[1:] for w in ("-object", o)]]
    data = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["data"][0]["files"]
    seen = {os.path.relpath(row["filename"]): row["summary"]["lines"] for row in data}
    print("| file | lines | reached |\n|---|---:|---:|")
    for name in files:
        lines = seen.get(name)
        print(f"| {name} | {lines['count']} | {lines['percent']:.1f} % |" if lines else f"| {name} | ? | never linked |")
    count, reached = (sum(seen[f][k] for f in files if f in seen) for k in ("count", "covered"))
    print(f"| all | {count} | {100 * reached / count:.1f} % |")


if __name__ == "__main__":
    main()
