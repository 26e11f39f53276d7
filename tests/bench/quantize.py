# SPDX-License-Identifier: Apache-2.0
"""Figures of quantization: what a calibrator costs beside min-max, memory against the number of samples, the whole process beside ONNX
Runtime's quantizer, 4-bit weights a second, and what the files made gain in ONNX Runtime. Pictures are generated; times are the smallest
of alternating runs."""
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from engine import filled, peer_is_missing
from table import PARED, QUICK, ROOT, heading, row

CALIBRATORS = ["minmax", "moving_average", "percentile", "entropy", "mse"]
SIZE = 224
PREPROCESS = {"resize_shorter": 256, "center_crop": SIZE, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
FORMS = [("QDQ", "quantize.static samples=16"), ("QDQ for VNNI", "quantize.static samples=16 isa=vnni"),
         ("QOperator", "quantize.static samples=16 format=qoperator"), ("dynamic", "quantize.dynamic"), ("float16", "quantize.fp16")]


# ---- data ----
def pictures(folder, count, side=256):
    """A dataset of `count` JPEGs: smooth colours with noise, 64 different ones under many names."""
    import numpy as np
    from PIL import Image
    rng, into = np.random.default_rng(0), Path(folder, f"pictures{count}-{side}")
    (into / "x").mkdir(parents=True)
    for i in range(count):
        path = into / "x" / f"{i:05d}.jpg"
        if i >= 64:
            os.link(into / "x" / f"{i % 64:05d}.jpg", path)
            continue
        cells = int(rng.integers(3, 24))
        smooth = np.asarray(Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8)).resize((side, side), Image.BICUBIC), np.float32)
        Image.fromarray(np.clip(smooth + rng.normal(0, 8, smooth.shape), 0, 255).astype(np.uint8)).save(path, quality=90)
    preprocess = PREPROCESS if side > 64 else {"scale": 1}
    (into / "data.json").write_text(json.dumps({"format": "images", "files": {"x": "x"}, "preprocess": preprocess}))
    return into


# ---- running ----
def run(model, step, data, out, *options):
    """(report, wall seconds of the process, CPU seconds of it); (None, last line of stderr, 0) when it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [PARED, "run", model, "--step", step, "--out", out, "--threads", "2", "--quiet", "--json", *options]
    done = subprocess.run([*map(str, command), *(["--data", str(data)] if data else [])], capture_output=True, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or ["failed"])[-1], 0
    return json.loads(done.stdout), wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


ORT_SCRIPT = """
import glob, resource, sys
import numpy as np
from PIL import Image
import onnxruntime as ort
from onnxruntime import quantization as q
model, folder, method, out = sys.argv[1:5]
source = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).get_inputs()[0]
small = source.shape[-1] <= 64
mean, std = np.array([.485, .456, .406], np.float32), np.array([.229, .224, .225], np.float32)
class Reader(q.CalibrationDataReader):
    def __init__(self):
        self.files = iter(sorted(glob.glob(folder + "/x/*.jpg")))
    def get_next(self):
        path = next(self.files, None)
        if path is None:
            return None
        image = Image.open(path).convert("RGB")
        if small:
            x = np.asarray(image, np.float32)
        else:
            edge = (image.width - 224) // 2
            x = (np.asarray(image.crop((edge, edge, edge + 224, edge + 224)), np.float32) / 255 - mean) / std
        return {source.name: (x if source.shape[-1] == 3 else x.transpose(2, 0, 1))[None]}
kind = {"minmax": q.CalibrationMethod.MinMax, "percentile": q.CalibrationMethod.Percentile, "entropy": q.CalibrationMethod.Entropy}[method]
q.quantize_static(model, out, Reader(), quant_format=q.QuantFormat.QDQ, per_channel=True, calibrate_method=kind,
                  activation_type=q.QuantType.QUInt8, weight_type=q.QuantType.QInt8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def two_cores():
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


def ort_quantizer(model, data, method, out):
    """(peak bytes, wall seconds, CPU seconds) of ONNX Runtime's own, on two cores; (None, why, 0)."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", ORT_SCRIPT, model, data, method, out], capture_output=True, text=True, preexec_fn=two_cores)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or ["failed"])[-1][:80], 0
    return int(done.stdout.split()[-1]) * 1024, wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def free_memory():
    return int(next(line for line in open("/proc/meminfo") if line.startswith("MemAvailable")).split()[1]) * 1024


def at_opset_13(path, folder):
    import onnx
    model = onnx.load(path)
    if max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")) >= 13:
        return path
    out = Path(folder, path.stem + ".13.onnx")
    onnx.save(onnx.version_converter.convert_version(model, 13), out)
    return out


# ---- the tables ----
def calibrators(folder):
    samples, rounds = (16, 1) if QUICK else (100, 2)
    model, data = filled("structures/resnet50", folder), pictures(folder, samples)
    heading(f"Calibrators, ResNet-50-224, {samples} pictures, 2 threads: the step (wanted: <= 1.3 of min-max)", ["calibrator", "seconds of the step", "ratio", "CPU seconds of the process", "ratio of CPU time"])
    wall, cpu = {}, {}
    for _ in range(rounds):
        for name in CALIBRATORS:
            report, why, seconds = run(model, f"quantize.static calibrator={name} samples={samples}", data, Path(folder, "out"), "--no-latency")
            if not report:
                row(name, why, "", "", "")
                return
            wall[name] = min(wall.get(name, 1e9), report["steps"][0]["seconds"])
            cpu[name] = min(cpu.get(name, 1e9), seconds)
    for name in CALIBRATORS:
        row(name, f"{wall[name]:.2f}", f"{wall[name] / wall['minmax']:.2f}", f"{cpu[name]:.2f}", f"{cpu[name] / cpu['minmax']:.2f}")


def memory(folder):
    few, many = (10, 100) if QUICK else (10, 1000)
    sets = {n: pictures(Path(folder, "memory"), n) for n in (few, many)}
    heading(f"Peak resident memory of calibration, {few} and {many} pictures (wanted: flat to 1.05; <= 48 MiB + 2 x model + a batch's activations + 64 KiB a tensor)",
            ["model", "calibrator", f"{few} pictures", f"{many} pictures", "growth", "48 MiB + 2 x model"])
    for name in ("squeezenet_fp32_from_fp16", "structures/resnet50"):
        path = filled(name, folder)
        for calibrator in CALIBRATORS if name.startswith("squeeze") and not QUICK else ("minmax", "entropy"):
            peak = {}
            for n, data in sets.items():
                report, why, _ = run(path, f"quantize.static calibrator={calibrator} samples={n}", data, Path(folder, "out"), "--no-latency")
                peak[n] = report["steps"][0]["peak_rss_bytes"] if report else None
            if None in peak.values():
                row(name, calibrator, why, "", "", "")
                continue
            row(name, calibrator, f"{peak[few] / 2**20:.1f} MiB", f"{peak[many] / 2**20:.1f} MiB", f"{peak[many] / peak[few]:.3f}", f"{48 + 2 * path.stat().st_size / 2**20:.1f} MiB")


def whole_process(folder):
    samples = 16 if QUICK else 100
    large, small = pictures(Path(folder, "whole"), samples), pictures(Path(folder, "whole"), samples, 32)
    heading(f"The whole process, {samples} pictures, 2 threads: `pared run` (measuring and verifying included) and ONNX Runtime's quantize_static, which only writes (wanted: min-max <= 0.5, percentile and entropy <= 0.15)",
            ["model", "calibrator", "pared, s", "without latency, s", "ONNX Runtime, s", "ratio", "without latency", "CPU time, s", "CPU time, s", "ratio", "peak, MB"])
    for name in ("squeezenet_fp32_from_fp16", "mlperftiny_resnet8_cifar10", "structures/mobilenet_v2", "structures/resnet50"):
        model = filled(name, folder)
        data, peer = small if "resnet8" in name else large, at_opset_13(model, folder)
        for method in ("minmax", "percentile", "entropy"):
            step, out = f"quantize.static calibrator={method} samples={samples}", Path(folder, "out")
            best = [1e9, 1e9, 1e9, 1e9]
            for _ in range(1 if QUICK or name.endswith("50") else 2):
                report, wall, _ = run(model, step, data, out)
                plain, wall_plain, cpu = run(model, step, data, out, "--no-latency")
                if not report or not plain:
                    break
                best[:3] = min(best[0], wall), min(best[1], wall_plain), min(best[2], cpu)
            if best[0] == 1e9:
                row(name, method, wall, *[""] * 8)
                continue
            need = {"minmax": 1, "percentile": 10, "entropy": 10}[method] * (3 if name.endswith("50") else 1) * samples / 100 * 2**30
            if method != "minmax" and free_memory() < need:
                row(name, method, f"{best[0]:.2f}", f"{best[1]:.2f}", f"left out: it keeps every activation, {need / 2**30:.0f} GiB", *[""] * 6)
                continue
            if method == "entropy" and name.endswith("50") and not QUICK:
                continue  # the peer takes minutes; its percentile row says it
            peak, theirs, their_cpu = ort_quantizer(peer, data, method, Path(folder, "peer.onnx"))
            if peak is None:
                row(name, method, f"{best[0]:.2f}", f"{best[1]:.2f}", theirs, *[""] * 6)
                continue
            row(name, method, f"{best[0]:.2f}", f"{best[1]:.2f}", f"{theirs:.2f}", f"{best[0] / theirs:.2f}", f"{best[1] / theirs:.2f}", f"{best[2]:.2f}", f"{their_cpu:.2f}",
                f"{best[2] / their_cpu:.2f}", f"{report['steps'][0]['peak_rss_bytes'] / 1e6:.0f} / {peak / 1e6:.0f}")


def weights(folder):
    gib = 0.25 if QUICK or shutil.disk_usage(folder).free < 10 * 2**30 else 3
    big = Path(folder, "big")
    subprocess.run([sys.executable, ROOT / "tests/e2e/make_big_model.py", big, str(gib)], check=True, capture_output=True)
    piece = random.Random(0).randbytes(1 << 20)
    import numpy as np
    piece = (np.frombuffer(piece, np.uint8).astype(np.float32) - 127.5).tobytes()
    with open(big / "big.data", "r+b") as f:
        size = os.fstat(f.fileno()).st_size
        for _ in range(size // len(piece)):
            f.write(piece)
    heading(f"4-bit weights of a generated {gib:g} GiB model (wanted of rtn: >= 200 MB/s a core, <= 512 MB)", ["algorithm", "threads", "MB of float32 a second and core", "peak resident memory"])
    for algorithm, threads in (("rtn", 1), ("rtn", 2), ("hqq", 2)):
        started = time.perf_counter()
        report, why, _ = run(big / "big.onnx", f"quantize.weights algorithm={algorithm}", None, Path(folder, "out"), "--no-latency", "--threads", str(threads))
        if not report:
            row(algorithm, threads, why, "")
            continue
        step = report["steps"][0]
        row(algorithm, threads, f"{size / 1e6 / step['seconds'] / threads:.0f}", f"{step['peak_rss_bytes'] / 1e6:.0f} MB")
        if time.perf_counter() - started > 120:
            break


def ort_ratio(float_path, int_path, runs):
    """p50 of the float file over p50 of the other, in ONNX Runtime, alternating, one thread."""
    import numpy as np
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    sessions = [ort.InferenceSession(str(p), options, providers=["CPUExecutionProvider"]) for p in (float_path, int_path)]
    x = {i.name: np.random.default_rng(0).normal(size=[d if isinstance(d, int) else 1 for d in i.shape]).astype(np.float32) for i in sessions[0].get_inputs()}
    times = [[], []]
    for i in range(runs + 3):
        for session, to in zip(sessions, times):
            start = time.perf_counter()
            session.run(None, x)
            if i >= 3:
                to.append((time.perf_counter() - start) * 1e3)
    return [sorted(t)[len(t) // 2] for t in times]


def latency(folder):
    flags = open("/proc/cpuinfo").read()
    unit = "VNNI" if "vnni" in flags else "no VNNI"
    heading(f"Files made, in ONNX Runtime on this CPU ({unit}), batch 1, 1 thread, p50 in ms (wanted with VNNI: squeezenet, resnet8 >= 1.5, MobileNetV2 >= 1.8)", ["model", "form", "float", "quantized", "times faster", "bytes"])
    large, small = pictures(Path(folder, "latency"), 16), pictures(Path(folder, "latency"), 16, 32)
    for name in ("squeezenet_fp32_from_fp16", "mlperftiny_resnet8_cifar10", "structures/mobilenet_v2"):
        model = filled(name, folder)
        for form, step in FORMS:
            out = Path(folder, "form")
            report, why, _ = run(model, step, (small if "resnet8" in name else large) if "static" in step else None, out, "--no-latency")
            if not report:
                row(name, form, why, "", "", "")
                continue
            try:
                before, after = ort_ratio(model, out / "model.onnx", 10 if QUICK else 100)
            except Exception as e:
                row(name, form, f"ONNX Runtime refuses it: {type(e).__name__}", "", "", "")
                continue
            row(name, form, f"{before:.3f}", f"{after:.3f}", f"{before / after:.2f}", f"{model.stat().st_size} -> {(out / 'model.onnx').stat().st_size}")


def quantize():
    if peer_is_missing():
        return
    try:
        import PIL  # noqa: F401
    except ImportError:
        print("\nPillow is missing: no pictures to calibrate on.")
        return
    for table in (calibrators, memory, whole_process, weights, latency):
        with tempfile.TemporaryDirectory() as folder:
            table(folder)
