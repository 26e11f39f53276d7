# SPDX-License-Identifier: Apache-2.0
"""The documents' commands do what they say: blocks ```sh of docs/curl.md in one shell, ```python of docs/export.md; anchors and files
that documents name exist."""
import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from pared_server import BINARY, ROOT, Server

DOCS = pathlib.Path(ROOT, "docs")
DIGITS = pathlib.Path(ROOT, "examples", "digits")


def blocks(name, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", (DOCS / name).read_text(), re.M | re.S)


def external_model(folder):
    """y = x W with W in weights.bin."""
    weight = numpy_helper.from_array(np.arange(64, dtype=np.float32).reshape(8, 8), "W")
    (folder / "weights.bin").write_bytes(weight.raw_data)
    set_external_data(weight, "weights.bin", offset=0, length=256)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "W"], ["y"])], "g", [helper.make_tensor_value_info("x", 1, [1, 8])],
                              [helper.make_tensor_value_info("y", 1, [1, 8])], [weight])
    (folder / "big.onnx").write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


@pytest.mark.parametrize("keys", [False, True], ids=["open", "keys"])
def test_curl_walk_through(keys, tmp_path):
    for name in ("train.npz", "test.npz"):
        shutil.copy(DIGITS / name, tmp_path)
    shutil.copy(DIGITS / "digits-cnn.onnx", tmp_path / "model.onnx")
    external_model(tmp_path)
    (tmp_path / "keys").write_text("docs 0123456789abcdef0123456789abcdef\n")
    script = "set -euo pipefail\nshopt -s inherit_errexit\n" + "\n".join(f"echo '== block {i}' >&2\n" + text for i, text in enumerate(blocks("curl.md", "sh")))
    with Server(*(["--api_key_file", str(tmp_path / "keys")] if keys else [])) as s:
        env = {**os.environ, "PARED_URL": s.url, **({"PARED_API_KEY": "0123456789abcdef0123456789abcdef"} if keys else {})}
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-1500:])
    assert os.path.getsize(tmp_path / "small.onnx") < 0.5 * os.path.getsize(tmp_path / "model.onnx")


def test_export_from_pytorch(torch, tmp_path):
    """The page's PyTorch code, then pared on what it wrote: the outputs are PyTorch's."""
    code = "\n".join(b for b in blocks("export.md", "python") if "torch" in b and "tf2onnx" not in b)
    code += "\nnp.savez('want.npz', y=model(torch.from_numpy(np.load('samples.npz')['image'])).detach().numpy())\n"
    done = subprocess.run([torch, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if done.returncode and "No module named 'onnx" in done.stderr:
        pytest.skip("skipped: torch without the onnx package")
    assert done.returncode == 0, done.stderr[-2000:]
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"))
    run = subprocess.run([BINARY, "eval", "model.onnx", "--data", "samples.npz", "--outputs", "got.npz"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run
    got, want = np.load(tmp_path / "got.npz"), np.load(tmp_path / "want.npz")
    np.testing.assert_allclose(got[got.files[0]], want["y"], rtol=1e-3, atol=1e-4)
    run = subprocess.run([BINARY, "run", "model.onnx", "--recipe", "int8", "--data", "samples.npz", "--out", "out"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode in (0, 3) and (tmp_path / "out/model.onnx").exists(), run


def test_python_of_the_documents_compiles():
    found = blocks("export.md", "python")
    assert len(found) >= 3
    for text in found:
        compile(text, "docs/export.md", "exec")


def slugs(path):
    heads = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^a-z0-9 _-]", "", h.lower()).replace(" ", "-") for h in heads}


@pytest.mark.parametrize("name", ["curl.md", "operations.md", "export.md"])
def test_links_lead_somewhere(name):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", (DOCS / name).read_text()):
        path, _, anchor = target.partition("#")
        file = (DOCS / path).resolve() if path else DOCS / name
        assert file.exists(), target
        assert not anchor or anchor in slugs(file), target


def test_settings_that_are_named_exist():
    known = set(re.findall(r"^\| `([a-z0-9_]+)`", (DOCS / "CONFIG.md").read_text(), re.M))
    text = (DOCS / "operations.md").read_text()
    named = set(re.findall(r"^\| `([a-z0-9_]+)`", text, re.M)) | set(re.findall(r"^([a-z0-9_]+) = ", text, re.M))
    assert named and named <= known, named - known
