# SPDX-License-Identifier: Apache-2.0
"""Accuracy with quantize.static against the same model in float, both run by ONNX Runtime on the whole test set: quant_accuracy.py [NAME...] [key=value...]

Fails if a model drops more than 0.5 point, if it agrees less often with the float model's top class than ONNX Runtime's own static quantizer
does on the same calibration samples (the reference column), or if less than 95 % of the products' weights are stored in 8 bits.
"""
import json, os, subprocess, sys, tempfile
from test_methods_ort import SHARED, apply, eight_bit_share

# agreement of ONNX Runtime's quantizer (its better of per channel and per tensor), measured where 8-bit products do not saturate
REFERENCE = {"mnist-8": 0.9995, "mlperftiny_resnet8_cifar10": 0.9608, "winml-cifar10-ImageClassifier": 0.9877, "ours/lenet5-mnist": 0.9998,
             "ours/resnet20-cifar": 0.9902, "ours/digits-cnn": None}


def judge(model, data, against):
    tool = os.path.join(SHARED, "tools", "ort_eval.py")
    done = subprocess.run([sys.executable, tool, model, data, "--against", against], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def main():
    if not os.path.isdir(SHARED):
        print("skipped: no shared data")
        return 0
    params = dict(w.split("=") for w in sys.argv[1:] if "=" in w)
    names = [w for w in sys.argv[1:] if "=" not in w] or list(REFERENCE)
    bad = 0
    print(f"{'model':32} {'float':>7} {'int8':>7} {'drop':>6} {'agree':>7} {'ORT':>7} {'8 bit':>6} {'bytes':>20}")
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            base, out = os.path.join(SHARED, "models", name), os.path.join(folder, "out.onnx")
            apply("quantize.static", base + ".onnx", out, data=base + ".calib.json", **params)
            before = judge(base + ".onnx", base + ".test.json", base + ".onnx")
            after = judge(out, base + ".test.json", base + ".onnx")
            drop, share, reference = before["top1"] - after["top1"], eight_bit_share(out), REFERENCE.get(name)
            fine = drop <= 0.005 and share >= 0.95 and (reference is None or after["agreement"] >= reference)
            bad += not fine
            print(f"{name:32} {before['top1']:7.2%} {after['top1']:7.2%} {100 * drop:6.2f} {after['agreement']:7.2%} "
                  f"{'-' if reference is None else format(reference, '7.2%'):>7} {share:6.1%} "
                  f"{os.path.getsize(base + '.onnx'):9} -> {os.path.getsize(out):7} {'' if fine else 'MISSED'}", flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
