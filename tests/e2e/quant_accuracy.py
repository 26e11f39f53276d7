# SPDX-License-Identifier: Apache-2.0
"""Accuracy with quantize.static against the same model in float, both run by ONNX Runtime on the whole test set.

    quant_accuracy.py [NAME...] [key=value...]       exit status 1 when a figure is missed

Per model and form (one scale per channel, which is the default, and one per tensor): top-1 in float and int8, agreement of the top classes,
and the agreement of ONNX Runtime's own static quantizer (min-max, the same form, the same calibration samples): as its file runs here;
with its exact 8-bit products (session.x64quantprecision, for CPUs without VNNI, where its full 8-bit weights saturate: what it is worth on
a CPU with VNNI); and as published, measured with VNNI. Limits:
  drop       top-1 falls by at most 0.5 point
  8 bits     at least 95 % of the weights of Conv, ConvTranspose, Gemm and MatMul are stored in 8 bits
  agreement  per channel: not below the largest published figure of the model in either form, nor below ONNX Runtime's file as it runs here.
             Per tensor: not below its file as it runs here. (By default our weights never saturate, which with one scale for a whole
             tensor costs up to one bit; against exact arithmetic that form may agree less. The column shows by how much.)
"""
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import methods

# published agreement of ONNX Runtime's quantizer: per channel, per tensor; None: it fails, or no figure
PUBLISHED = {
    "mnist-8": (None, 0.9995),
    "mlperftiny_resnet8_cifar10": (0.9608, 0.9423),
    "winml-cifar10-ImageClassifier": (0.9877, 0.9858),
    "ours/lenet5-mnist": (0.9998, None),
    "ours/resnet20-cifar": (0.9902, 0.9889),
    "digits-cnn": (None, None),
}


@dataclass
class Figures:
    """Of one model in one form."""
    name: str
    per_channel: bool
    before: float     # top-1 in float
    after: float      # top-1 in int8
    agreement: float
    share: float      # of weights in 8 bits
    bytes: tuple
    measured: object  # agreement of ONNX Runtime's quantizer here; a sentence if it fails
    exact: object     # the same file with exact products
    published: object # the larger figure for the default form, this form's otherwise

    def missed(self):
        """Names of the limits that are not met."""
        found = []
        if self.before - self.after > 0.005 + 1e-9:
            found.append("drop")
        floors = [v for v in (self.measured, self.published if self.per_channel else None) if isinstance(v, float)]
        if floors and round(self.agreement, 4) < round(max(floors), 4):
            found.append("agreement")
        if self.share < 0.95:
            found.append("8 bits")
        return found

    def line(self):
        def percent(v):
            return f"{v:8.2%}" if isinstance(v, float) else f"{'fails' if v else '-':>8}"
        return (f"{self.name:30} {'channel' if self.per_channel else 'tensor':8} {self.before:7.2%} {self.after:7.2%} {100 * (self.before - self.after):6.2f} "
                f"{percent(self.agreement)} {percent(self.measured)} {percent(self.exact)} {percent(self.published)} {self.share:7.1%} {self.bytes[0]:9} -> {self.bytes[1]:7} "
                f"{'MISSED: ' + ', '.join(self.missed()) if self.missed() else 'ok'}")


HEADER = f"{'model':30} {'scales':8} {'float':>7} {'int8':>7} {'drop':>6} {'agree':>8} {'ORT here':>8} {'exact':>8} {'publ.':>8} {'8 bit':>7} {'bytes':>20}"


def paths(name):
    """Model, calibration set, test set."""
    if name == "digits-cnn":
        return methods.DIGITS / "digits-cnn.onnx", methods.DIGITS / "train.npz", methods.DIGITS / "test.npz"
    base = methods.SHARED / "models" / name
    return tuple(Path(f"{base}{end}") for end in (".onnx", ".calib.json", ".test.json"))


def classes(model, x, exact=False):
    feeds = methods.feeds_of(model, x)
    spec = methods.session(model).get_inputs()[0]
    if not isinstance(spec.shape[0], int):
        whole = feeds[0][spec.name]
        feeds = [{spec.name: whole[i:i + 100]} for i in range(0, len(whole), 100)]
    return methods.outputs(model, feeds, exact)[1][0].reshape(len(x), -1).argmax(1)


def measure(name, per_channel, limit=None, **params):
    """limit: samples of the test set; None: all."""
    model, calibration, test = paths(name)
    x, y = (a[:limit] for a in methods.load_dataset(test))
    want = classes(model, x)
    with tempfile.TemporaryDirectory() as folder:
        out, other = f"{folder}/pared.onnx", f"{folder}/ort.onnx"
        methods.apply("quantize.static", model, out, data=calibration, per_channel=str(per_channel).lower(), **params)
        got = classes(out, x)
        try:
            methods.ort_static(model, other, methods.spread(methods.load_dataset(calibration)[0], params.get("samples", 128)), per_channel)
            measured, exact = (float((classes(other, x, e) == want).mean()) for e in (False, True))
        except Exception as error:  # whatever its quantizer or loader raises is the finding
            measured = exact = f"{type(error).__name__}: {error}"
        published = [p for p in (PUBLISHED[name] if per_channel else PUBLISHED[name][1:]) if p is not None]
        return Figures(name, per_channel, float((want == y).mean()), float((got == y).mean()), float((got == want).mean()),
                       methods.eight_bit_share(out), (model.stat().st_size, Path(out).stat().st_size), measured, exact, max(published, default=None))


def main():
    params = dict(w.split("=") for w in sys.argv[1:] if "=" in w)
    names = [w for w in sys.argv[1:] if "=" not in w] or [n for n in PUBLISHED if methods.SHARED or n == "digits-cnn"]
    if not methods.SHARED:
        print("skipped: no shared data (only digits-cnn)")
    missed, notes = 0, []
    print(HEADER)
    for name in names:
        for per_channel in (True, False):
            f = measure(name, per_channel, **params)
            missed += bool(f.missed())
            print(f.line(), flush=True)
            if isinstance(f.measured, str):
                notes.append(f"  {name}, per {'channel' if per_channel else 'tensor'}: ONNX Runtime's quantizer fails: {f.measured[:110]}")
    print("\n".join(notes))
    print(f"{missed} of {2 * len(names)} rows miss a figure" if missed else "every figure is met")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
