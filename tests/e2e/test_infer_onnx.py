# SPDX-License-Identifier: Apache-2.0
"""Inference against onnx.shape_inference (strict, with data propagation): wherever onnx gives a size, ours is the same.

Declarations in the files (value_info, shapes of outputs) are taken out first, for both. Known to be open in ours, each
counted: sequences (their element types are not inferred) and If whose branches differ in rank."""
import gzip
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from conftest import ROOT, shared_data

SHARED = shared_data()
TESTDATA = Path("/usr/share/libonnx-testdata")
TOOL = ROOT / "build/tools/plan_types"


def ours(paths):
    """{path: {value: (dtype, dims or None)}}; a model that cannot be planned is left out."""
    assert TOOL.exists(), "build it first: make tools"
    done = subprocess.run([TOOL], input="\n".join(map(str, paths)) + "\n", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    models, current = {}, None
    for line in done.stdout.splitlines():
        if line.startswith("# "):
            current = models.setdefault(line[2:], {})
        elif line.startswith("! "):
            models = {k: v for k, v in models.items() if v is not current}
        elif not line.startswith("~ "):
            name, dtype, dims = line.split("\t")
            current[name] = (dtype, None if dims == "..." else dims.split(",") if dims else [])
    return models


def theirs(path):
    """{value: dims, None for an open one} of what nodes make."""
    model = onnx.load(path)
    del model.graph.value_info[:]
    for o in model.graph.output:
        if o.type.HasField("tensor_type"):
            o.type.tensor_type.ClearField("shape")
    try:
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except Exception:
        return {}
    made = {o for n in model.graph.node for o in n.output}
    return {v.name: [d.dim_value if d.HasField("dim_value") else None for d in v.type.tensor_type.shape.dim]
            for v in [*model.graph.value_info, *model.graph.output]
            if v.name in made and v.type.HasField("tensor_type") and v.type.tensor_type.HasField("shape")}


def compare(paths):
    found, sizes, more, formulas, unranked, open_, wrong = ours(paths), 0, 0, 0, 0, [], []
    for path in paths:
        for name, want in theirs(path).items() if str(path) in found else ():
            _, got = found[str(path)].get(name, (None, None))
            if got is None:
                unranked += 1
                continue
            if len(got) != len(want):
                wrong.append((path, name, want, got))
                continue
            for w, g in zip(want, got):
                if w is None:
                    more += g.isdigit()
                    formulas += not g.isdigit() and g != "?"
                    continue
                sizes += 1
                if not g.isdigit():
                    open_.append((path, name, want, got))
                elif int(g) != w:
                    wrong.append((path, name, want, got))
    print(f"{len(found)} models, {sizes} sizes from onnx; {len(wrong)} differ, {len(open_)} open in ours; where onnx has none: "
          f"{more} sizes and {formulas} formulas; {unranked} values of unknown rank", file=sys.stderr)
    return sizes, open_, wrong, unranked


@pytest.mark.skipif(SHARED is None, reason="skipped: no shared data")
def test_shared_models(tmp_path):
    paths = sorted((SHARED / "models").glob("*.onnx")) + sorted((SHARED / "models/ours").glob("*.onnx"))
    sys.path.insert(0, str(SHARED / "tools"))
    from fill_weights import fill
    for packed in sorted((SHARED / "models/structures").glob("*.gz")):
        model = fill(onnx.load_model_from_string(gzip.open(packed).read()), 0)
        paths.append(tmp_path / packed.name.removesuffix(".gz"))
        onnx.save(model, paths[-1])
    sizes, open_, wrong, unranked = compare(paths)
    assert sizes > 15000 and not wrong and not open_ and unranked <= 4, (wrong + open_)[:5]


@pytest.mark.skipif(not TESTDATA.is_dir(), reason="skipped: no libonnx-testdata")
def test_node_tests():
    sizes, open_, wrong, unranked = compare(sorted(TESTDATA.glob("data/*/*/model.onnx")))
    assert sizes > 4000 and not wrong and len(open_) <= 1 and unranked <= 8, (wrong + open_)[:5]
