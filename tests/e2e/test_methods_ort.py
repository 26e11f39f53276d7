# SPDX-License-Identifier: Apache-2.0
"""Every method's artifact is loaded and run by ONNX Runtime and compared with the original model: test_methods_ort.py [NAME...]

Models are other people's (../shared/models, or PARED_SHARED) and the well-known structures filled with seeded weights. PARED names the binary
(default build/pared); PARED_STEP a tests/tools/step binary to use instead. Needs numpy, onnx, onnxruntime.
"""
import collections, gzip, json, os, subprocess, sys, tempfile
import numpy as np
import onnx
import onnxruntime as ort

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
SHARED = os.environ.get("PARED_SHARED", os.path.join(os.path.dirname(ROOT), "shared"))
PARED = os.environ.get("PARED", os.path.join(ROOT, "build", "pared"))
STEP = os.environ.get("PARED_STEP")
PYTHON = sys.executable


def apply(method, model, out, data=None, **params):
    """One method; returns the layer report's rows."""
    words = [f"{k}={v}" for k, v in params.items()]
    if STEP:
        done = subprocess.run([STEP, method, model, out] + (["--data", data] if data else []) + words, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        return json.loads(done.stdout)["layers"]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([PARED, "run", model, "--step", " ".join([method] + words), "--out", folder] + (["--data", data] if data else []),
                              capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip())
        os.replace(os.path.join(folder, "model.onnx"), out)
        return json.load(open(os.path.join(folder, "report.json")))["steps"][0]["layers"]


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 2, 3
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def feeds(s, seed=0):
    rng = np.random.default_rng(seed)
    kinds = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(double)": np.float64}
    found = {}
    for i in s.get_inputs():
        shape = [d if isinstance(d, int) and d > 0 else (2 if k == 0 else 512 if len(i.shape) == 2 else 64) for k, d in enumerate(i.shape)]
        kind = kinds[i.type]
        found[i.name] = rng.standard_normal(shape).astype(kind) if kind not in (np.int64, np.int32) else rng.integers(0, 9, shape).astype(kind)
        if i.name == "sr":
            found[i.name] = np.array(16000, np.int64)
        if i.name == "state":
            found[i.name] = np.zeros((2, 2, 128), np.float32)
    return found


def outputs(path, given=None):
    s = session(path)
    given = given or feeds(s)
    names = [o.name for o in s.get_outputs()]
    return names, [np.asarray(o) for o in s.run(None, given)], given


def worst(a, b):
    """Largest difference relative to the reference's largest value, over all outputs."""
    found = 0.0
    for x, y in zip(a, b):
        assert x.shape == y.shape and x.dtype == y.dtype, (x.shape, y.shape, x.dtype, y.dtype)
        if x.size and x.dtype.kind == "f":
            found = max(found, float(np.abs(x.astype(np.float64) - y.astype(np.float64)).max() / max(np.abs(x).max(), 1e-12)))
        elif x.size:
            found = max(found, float((x != y).mean()))
    return found


def sqnr(a, b):
    a, b = np.concatenate([x.ravel() for x in a]).astype(np.float64), np.concatenate([x.ravel() for x in b]).astype(np.float64)
    noise = ((a - b) ** 2).sum()
    return 10 * np.log10((a ** 2).sum() / noise) if noise else np.inf


def ops(path):
    return collections.Counter(n.op_type for n in onnx.load(path, load_external_data=False).graph.node)


def models(folder):
    """name -> path: real models, ours, and structures filled into `folder`."""
    found = {}
    for sub in ("", "ours"):
        here = os.path.join(SHARED, "models", sub)
        for f in sorted(os.listdir(here)):
            if f.endswith(".onnx"):
                found[f[:-5]] = os.path.join(here, f)
    here = os.path.join(SHARED, "models", "structures")
    for f in sorted(os.listdir(here)):
        out = os.path.join(folder, f[:-8] + ".onnx")
        if not os.path.exists(out):
            subprocess.run([PYTHON, os.path.join(SHARED, "tools", "fill_weights.py"), os.path.join(here, f), out], check=True, capture_output=True)
        found[f[:-8]] = out
    return found


def real_feeds(name, path):
    """Sixteen of the model's own samples if it ships with some, else seeded noise."""
    for sub in ("", "ours"):
        own = os.path.join(SHARED, "models", sub, name + ".calib.json")
        if os.path.exists(own):
            sys.path.insert(0, os.path.join(SHARED, "tools"))
            import ort_eval
            i = session(path).get_inputs()[0]
            fixed = isinstance(i.shape[0], int)
            return {i.name: ort_eval.load(own)[0][:i.shape[0] if fixed else 16].astype(np.float32)}
    return feeds(session(path))


def calibration(name, path, folder):
    """The model's own calibration data if it ships with some, else 16 seeded samples."""
    for sub in ("", "ours"):
        own = os.path.join(SHARED, "models", sub, name + ".calib.json")
        if os.path.exists(own):
            return own
    s = session(path)
    arrays = {}
    for i in s.get_inputs():
        shape = [d if isinstance(d, int) and d > 0 else 64 for d in i.shape[1:]]
        arrays[i.name] = np.random.default_rng(1).standard_normal([4] + shape).astype(np.float32)
    out = os.path.join(folder, name + ".calib.npz")
    np.savez(out, **arrays)
    return out


SMALL = ["mnist-8", "mlperftiny_resnet8_cifar10", "winml-cifar10-ImageClassifier", "squeezenet_fp32_from_fp16", "version-RFB-320",
         "super-resolution-10", "mlperftiny_vww_mobilenetv1_025_96", "mobilenet_v2", "unet_small_bn", "keras_sequential", "resnet18_bn"]


def test_optimize(all_models, folder):
    for name, path in all_models.items():
        out = os.path.join(folder, "out.onnx")
        apply("graph.optimize", path, out)
        names, want, given = outputs(path)
        names2, got, _ = outputs(out, given)
        assert names == names2, name
        error = worst(want, got)
        before, after = sum(ops(path).values()), sum(ops(out).values())
        print(f"  {name}: {before} -> {after} nodes, error {error:.1e}")
        assert error < 1e-5 or (want[0].dtype == np.float16 and error < 1e-2) or name in RANDOM_SENSITIVE, (name, error)
        assert after <= before, name
    left = ops_of_optimized(all_models["keras_sequential"], folder)
    assert left["Conv"] == 3 and left["MaxPool"] == 2 and left["Gemm"] + left["MatMul"] == 2 and left["Transpose"] <= 2 and left["Relu"] == 4
    assert not {"Cast", "Identity", "Add", "Shape", "Gather", "Constant"} & set(left), left


# random inputs put detections on the edge of a threshold: which boxes come out changes with the last bit
RANDOM_SENSITIVE = {"ssdlite320_mobilenet_v3_large"}


def ops_of_optimized(path, folder):
    out = os.path.join(folder, "out.onnx")
    apply("graph.optimize", path, out)
    return ops(out)


def test_prune(all_models, folder):
    for name in SMALL:
        out = os.path.join(folder, "out.onnx")
        for params in ({"sparsity": 0.5}, {"sparsity": 0.9, "scope": "global"}, {"keep": 3}, {"drop": 3}, {"threshold": 0.01}):
            rows = apply("prune.weights", all_models[name], out, **params)
            done = [r for r in rows if "skipped" not in r]
            assert done, name
            if "sparsity" in params:
                total = sum(r["before"]["params"] for r in done)
                zeros = total - sum(r["after"]["nonzero"] for r in done)
                assert abs(zeros / total - params["sparsity"]) < 0.01, (name, zeros / total)
        _, got, _ = outputs(out)
        assert all(np.isfinite(g).all() for g in got), name


def test_dynamic(all_models, folder):
    for name in ("mnist-8", "mlperftiny_resnet8_cifar10", "lenet300-mnist", "mlperftiny_ad01_autoencoder", "vit-fashion", "keras_sequential"):
        for params in ({}, {"per_channel": "false"}, {"conv": "true"}):
            out = os.path.join(folder, "out.onnx")
            rows = apply("quantize.dynamic", all_models[name], out, **params)
            assert any("skipped" not in r for r in rows), name
            _, want, given = outputs(all_models[name])
            _, got, _ = outputs(out, given)
            print(f"  {name} {params}: {sqnr(want, got):.1f} dB, {os.path.getsize(all_models[name])} -> {os.path.getsize(out)} bytes")
            assert sqnr(want, got) > (15 if "per_channel" in params else 20), name


def test_static(all_models, folder):
    for name in SMALL:
        data = calibration(name, all_models[name], folder)
        for params in ({}, {"per_channel": "false"}, {"activations": "int8"}, {"weights": "uint8"}, {"isa": "vnni"}):
            out = os.path.join(folder, "out.onnx")
            rows = apply("quantize.static", all_models[name], out, data=data, samples=16, **params)
            given = real_feeds(name, all_models[name])
            _, want, _ = outputs(all_models[name], given)
            names, got, _ = outputs(out, given)
            assert sqnr(want, got) > 12, (name, sqnr(want, got))
            assert names == outputs(all_models[name], given)[0]
            print(f"  {name} {params}: {sqnr(want, got):.1f} dB, {os.path.getsize(all_models[name])} -> {os.path.getsize(out)} bytes")
            assert all(np.isfinite(g).all() for g in got), name
            assert eight_bit_share(out) >= 0.95, (name, eight_bit_share(out))


def eight_bit_share(path):
    """Of the weights of Conv, ConvTranspose, Gemm and MatMul: the share of elements stored in 8 bits."""
    m = onnx.load(path)
    weights = {t.name: t for t in m.graph.initializer}
    made = {o: n for n in m.graph.node for o in n.output}
    total = small = 0
    for n in m.graph.node:
        if n.op_type not in ("Conv", "ConvTranspose", "Gemm", "MatMul", "MatMulInteger", "ConvInteger"):
            continue
        source = n.input[1]
        if source in made and made[source].op_type == "DequantizeLinear":
            source = made[source].input[0]
        if source in weights:
            count = int(np.prod(weights[source].dims))
            total += count
            small += count if weights[source].data_type in (2, 3) else 0
    return small / total if total else 1.0


def test_fp16(all_models, folder):
    for name in SMALL + ["vit-fashion", "deeplabv3_mobilenet_v3_large"]:
        for params in ({}, {"keep_io": "false"}):
            out = os.path.join(folder, "out.onnx")
            apply("quantize.fp16", all_models[name], out, **params)
            _, want, given = outputs(all_models[name])
            half = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in given.items()}
            _, got, _ = outputs(out, half if params else given)
            error = worst(want, [g.astype(w.dtype) for g, w in zip(got, want)])
            print(f"  {name} {params}: error {error:.1e}, {os.path.getsize(all_models[name])} -> {os.path.getsize(out)} bytes")
            assert error < 2e-2, (name, error)


def main():
    if not os.path.isdir(SHARED):
        print("skipped: no shared data")
        return 0
    tests = {k: v for k, v in globals().items() if k.startswith("test_")}
    wanted = sys.argv[1:] or list(tests)
    with tempfile.TemporaryDirectory() as folder:
        cache = os.environ.get("PARED_FILLED", folder)
        found = models(cache)
        for name in wanted:
            print(name if name in tests else "test_" + name)
            tests[name if name in tests else "test_" + name](found, folder)
    print("ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
