# SPDX-License-Identifier: Apache-2.0
"""Samples as pared reads them against NumPy and Pillow, on files made here (and on the shared sets when they are there)."""
import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
DUMP = ROOT / "build/tools/dataset_dump"


def model_with_input(path, shape, dtype=onnx.TensorProto.FLOAT):
    x = onnx.helper.make_tensor_value_info("x_in", dtype, shape)
    y = onnx.helper.make_tensor_value_info("y_out", dtype, shape)
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x_in"], ["y_out"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def dump(model, data, tmp):
    out = tmp / "dump.bin"
    done = subprocess.run([DUMP, model, data, out], capture_output=True, text=True)
    if done.returncode:
        return done.stderr.strip(), None
    dtype = done.stdout.split()[1]
    labels = np.fromfile(f"{out}.labels", np.int64)
    return np.fromfile(out, {"float32": np.float32, "uint8": np.uint8, "float16": np.float16}[dtype]), labels


def picture(rng, w, h, mode="RGB"):
    a = rng.integers(0, 256, (h, w, 3), np.uint8)
    smooth = Image.fromarray(a).resize((w, h)).convert(mode)
    return smooth


@pytest.fixture
def folder_of_pictures(tmp_path):
    """Class folders with JPEG and PNG of several sizes and modes."""
    rng = np.random.default_rng(5)
    files = {}
    for i, (name, mode, kind) in enumerate([("b/1.png", "RGB", "PNG"), ("a/2.jpg", "RGB", "JPEG"), ("a/10.png", "L", "PNG"),
                                            ("c/x.png", "RGBA", "PNG"), ("b/0.jpeg", "L", "JPEG"), ("c/p.png", "P", "PNG")]):
        buffer = io.BytesIO()
        picture(rng, 37 + 11 * i, 29 + 7 * i, mode).save(buffer, kind)
        files[name] = buffer.getvalue()
    return files


def expected_pictures(files, shorter, crop, gray=False):
    out = []
    for name in sorted(files):
        image = Image.open(io.BytesIO(files[name])).convert("L" if gray else "RGB")
        k = shorter / min(image.size)
        image = image.resize([max(shorter, round(s * k)) for s in image.size], Image.BILINEAR)
        w, h = image.size
        image = image.crop(((w - crop) // 2, (h - crop) // 2, (w - crop) // 2 + crop, (h - crop) // 2 + crop))
        a = np.asarray(image)
        out.append(a[..., None] if a.ndim == 2 else a)
    return np.stack(out)


@pytest.mark.parametrize("kind", ["tar.gz", "tar", "zip", "folder"])
@pytest.mark.parametrize("gray", [False, True])
def test_pictures_match_pillow(tmp_path, folder_of_pictures, kind, gray):
    files = folder_of_pictures
    path = tmp_path / f"set.{kind}"
    if kind == "folder":
        for name, data in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
    elif kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
            for name, data in files.items():
                z.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz" if kind == "tar.gz" else "w") as t:
            for name, data in files.items():
                info = tarfile.TarInfo("./" + name)
                info.size = len(data)
                t.addfile(info, io.BytesIO(data))
    mean, std = ([0.5], [0.25]) if gray else ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    (tmp_path / "data.json").write_text(json.dumps({"format": "images", "files": {"x": path.name}, "preprocess": {
        "resize_shorter": 24, "center_crop": 20, "channels": "gray" if gray else "bgr", "mean": mean, "std": std}}))
    model = model_with_input(tmp_path / "m.onnx", [None, 1 if gray else 3, 20, 20])
    got, labels = dump(model, tmp_path / "data.json", tmp_path)
    raw = expected_pictures(files, 24, 20, gray)
    if not gray:
        raw = raw[..., ::-1]
    want = ((raw.astype(np.float32) * np.float32(1 / 255) - np.array(mean, np.float32)) / np.array(std, np.float32)).transpose(0, 3, 1, 2)
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]
    steps = np.abs(got.reshape(want.shape) - want) * np.array(std, np.float32).reshape(1, -1, 1, 1) * 255
    assert steps.max() <= 1.01  # at most one grey level: JPEG decoders may differ by one
    assert (steps > 0.01).mean() < 0.01


def test_labels_csv_and_flat_archive(tmp_path, folder_of_pictures):
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as z:
        for i, (name, data) in enumerate(sorted(folder_of_pictures.items())):
            z.writestr(f"{i}.png", data)
        z.writestr("labels.csv", "file,class\n" + "\n".join(f"{i}.png,{i % 3}" for i in range(6)))
    (tmp_path / "data.json").write_text(json.dumps({"format": "images", "files": {"x": "flat.zip"}, "preprocess": {"resize_shorter": 8, "center_crop": 8}}))
    got, labels = dump(model_with_input(tmp_path / "m.onnx", [None, 3, 8, 8]), tmp_path / "data.json", tmp_path)
    assert labels.tolist() == [0, 1, 2, 0, 1, 2] and got.size == 6 * 3 * 64


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int64, np.uint8])
def test_npz_arrays(tmp_path, dtype):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 200, (30, 4, 5)).astype(dtype)
    np.savez_compressed(tmp_path / "d.npz", x=x, y=np.arange(30) % 7)
    got, labels = dump(model_with_input(tmp_path / "m.onnx", [None, 4, 5] if dtype != np.uint8 else [None, 1, 4, 5]), tmp_path / "d.npz", tmp_path)
    want = x.astype(np.float32) * (np.float32(1 / 255) if dtype == np.uint8 else 1)
    assert np.array_equal(got, want.ravel()) and labels.tolist() == (np.arange(30) % 7).tolist()


def test_size_that_does_not_fit_names_the_remedy(tmp_path, folder_of_pictures):
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as z:
        for name, data in folder_of_pictures.items():
            z.writestr(name, data)
    sentence, _ = dump(model_with_input(tmp_path / "m.onnx", [None, 3, 8, 8]), tmp_path / "p.zip", tmp_path)
    assert "the model's input 'x_in' wants [3,8,8]; resize_shorter and center_crop in `preprocess` set the size" in sentence


def test_shared_sets_match_the_judge(tmp_path, shared):
    import importlib.util
    spec = importlib.util.spec_from_file_location("ort_eval", shared / "tools/ort_eval.py")
    judge = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(judge)
    for model, data in [("mnist-8.onnx", "mnist-8.calib.json"), ("mlperftiny_resnet8_cifar10.onnx", "mlperftiny_resnet8_cifar10.lossless.json"),
                        ("winml-cifar10-ImageClassifier.onnx", "winml-cifar10-ImageClassifier.calib.json"),
                        ("ours/resnet20-cifar.onnx", "ours/resnet20-cifar.test.json"), ("ours/lenet5-mnist.onnx", "ours/lenet5-mnist.calib.json"),
                        ("ours/digits-cnn.onnx", "ours/digits-cnn.test.json")]:
        description = json.loads((shared / "models" / data).read_text())
        description["limit"] = min(description.get("limit", 300), 300)
        description["files"] = {k: str((shared / "models" / data).parent / v) for k, v in description["files"].items()}
        (tmp_path / "data.json").write_text(json.dumps(description))
        got, labels = dump(shared / "models" / model, tmp_path / "data.json", tmp_path)
        assert labels is not None, got
        x, y = judge.load(str(tmp_path / "data.json"))
        assert np.array_equal(labels, y), model
        scale = max(1e-6, float(np.abs(x).max()))
        assert np.abs(got - x.astype(np.float32).ravel()).max() / scale < 2e-6, model
