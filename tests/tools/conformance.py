# SPDX-License-Identifier: Apache-2.0
"""conformance.py [--write] [-v] TOOL: run build/tools/conformance over both sets of ONNX backend tests, hold the floors, and
compare docs/CONFORMANCE.md, the list of what fails and why, with what was found (--write: write it). Each failure must be
explained by a row of REASONS; one that is not, a count below its floor or a stale document end with status 1."""
import os
import re
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DOCUMENT = os.path.join(ROOT, "docs", "CONFORMANCE.md")
NODE_CASES = os.path.join(ROOT, "build", "onnx-node-tests")

# name, folder (None: the tool's own), fewest cases that pass
SETS = [
    ("libonnx-testdata", None, 1057),
    ("the node tests of the onnx package", NODE_CASES, 1852),
]

# (what the case's line matches, heading, explanation); the first that matches counts
REASONS = [
    (r"ai\.onnx\.preview\.training", "Out of scope: the training domain",
     "Optimizers and gradients as operators. Training happens in the engine, not in a model."),
    (r"ai\.onnx\.ml,", "Out of scope: classical machine learning", "The domain ai.onnx.ml: trees, label encoders and the like."),
    (r"ImageDecoder", "Out of scope: image decoding", "Pictures are decoded by the dataset reader, not by a model."),
    (r"RegexFullMatch", "Out of scope: regular expressions",
     "The pattern language is RE2's; a model from a stranger must not bring patterns."),
    (r"test_castlike_(BFLOAT16_to_FLOAT|FLOAT_to_BFLOAT16)", "The test contradicts itself",
     "The model declares an input of shape [3,4], its data file holds one element."),
    (r"test_resize_downsample_scales_(cubic|linear)_align_corners", "As ONNX Runtime does it",
     "With align_corners and scales that do not give whole sizes, ONNX's evaluator measures the fractional output, ONNX Runtime "
     "the real one. So do we: models are exported from and deployed to runtimes."),
    (r"test_dft_inverse", "Expected values that are rounding noise",
     "NumPy's float32 transform leaves 2e-7 where the result is 0; it is computed in double here, and gives 0."),
    (r"test_attention_4d_causal_fp16_expanded", "Expected values that are rounding noise",
     "float16 intermediate results, two units in the last place apart."),
]


def run(tool, folder):
    """(printed lines of failures, summary line)."""
    command = [tool, "-v"] + (["-d", folder] if folder else [])
    out = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False).stdout.splitlines()
    failures = [line for line in out if re.match(r"[a-z-]+/test_", line)]
    return failures, out[-1]


def explain(line):
    for pattern, heading, why in REASONS:
        if re.search(pattern, line):
            return heading, why
    return "Not explained", "A case that should pass."


def section(name, failures, summary):
    passed, of = re.search(r"(\d+) of (\d+)", summary).groups()
    random = re.search(r"(\d+) of them", summary).group(1)
    lines = [f"## {name[0].upper()}{name[1:]}: {passed} of {of}", "",
             f"{random} of the passes draw random numbers, which ONNX leaves open: they are compared by dtype and shape.", ""]
    groups = {}
    for line in failures:
        groups.setdefault(explain(line), []).append(line)
    for (heading, why), cases in sorted(groups.items()):
        lines += [f"### {heading} ({len(cases)})", "", why, "", "| case | what happens |", "| --- | --- |"]
        for case in cases:
            where, what = case.split(": ", 1)
            lines.append(f"| {where} | {what.replace('|', chr(92) + '|')} |")
        lines.append("")
    return lines


def main():
    arguments = sys.argv[1:]
    tool = arguments[-1]
    text = ["# Conformance", "",
            "What fails of ONNX's backend tests, and why. Written by `make conformance-doc`; `make conformance` compares.",
            "Outputs are compared as ONNX's own runner does: dtypes and shapes equal, |got - want| <= 1e-7 + 1e-3 |want| (bfloat16:",
            "2^-6 |want|), everything but floats exactly.", ""]
    status = 0
    for name, folder, floor in SETS:
        failures, summary = run(tool, folder)
        print(f"{name}: {summary}")
        if "-v" in arguments:
            print("\n".join(failures))
        if int(re.search(r"(\d+) of", summary).group(1)) < floor:
            print(f"at least {floor} must pass: a change broke what worked")
            status = 1
        text += section(name, failures, summary)
        for line in failures:
            if explain(line)[0] == "Not explained":
                print(f"not explained: {line}")
                status = 1
    text = "\n".join(text).rstrip() + "\n"
    if "--write" in arguments:
        with open(DOCUMENT, "w", encoding="utf-8") as f:
            f.write(text)
    elif not os.path.exists(DOCUMENT) or open(DOCUMENT, encoding="utf-8").read() != text:
        print("docs/CONFORMANCE.md is not current; run: make conformance-doc")
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
