# SPDX-License-Identifier: Apache-2.0
"""Training step (forward, cross entropy, backward, SGD with momentum) against PyTorch on this CPU: alternating runs, the fastest of
each, and the least CPU time (on a busy machine that is the fairer figure). Usage: train_step.py [threads [rounds]]. Needs build/tools/train_step, the shared models, and torch with onnx in this interpreter."""
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TOOL = os.environ.get("PARED_TRAIN_STEP", ROOT / "build/tools/train_step")  # another build of it, to compare
CASES = [("resnet20-cifar", 128, (3, 32, 32)), ("lenet5-mnist", 128, (1, 28, 28)), ("mobilenetv3ish-fashion", 128, (1, 28, 28))]
# channels in, expanded, out; kernel, stride, squeezed (0: none), activation, of the blocks of mobilenetv3ish-fashion.onnx
MOBILE = [(8, 8, 8, 3, 2, 8, "ReLU"), (8, 36, 12, 3, 1, 0, "ReLU"), (12, 44, 12, 3, 1, 0, "ReLU"), (12, 48, 20, 5, 2, 16, "Hardswish"),
          (20, 80, 20, 5, 1, 24, "Hardswish"), (20, 80, 24, 5, 1, 24, "Hardswish"), (24, 72, 24, 5, 1, 24, "Hardswish"),
          (24, 96, 48, 5, 2, 24, "Hardswish"), (48, 144, 48, 5, 1, 40, "Hardswish")]


def torch_nets():
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, c_in, c_out, stride):
            super().__init__()
            self.conv1 = nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False)
            self.bn1 = nn.BatchNorm2d(c_out)
            self.conv2 = nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(c_out)
            self.shortcut = nn.Sequential()
            if stride != 1 or c_in != c_out:
                self.shortcut = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride, bias=False), nn.BatchNorm2d(c_out))

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + self.shortcut(x))

    def resnet20():
        layers = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
        for c_in, c_out, stride in [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2:
            layers.append(Block(c_in, c_out, stride))
        return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))

    def lenet5():
        return nn.Sequential(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten(),
                             nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10))

    class Squeeze(nn.Module):
        def __init__(self, c, mid):
            super().__init__()
            self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(c, mid, 1), nn.ReLU(), nn.Conv2d(mid, c, 1), nn.Hardsigmoid())

        def forward(self, x):
            return x * self.gate(x)

    def normed(c_in, c_out, k, stride, groups, act):
        layers = [nn.Conv2d(c_in, c_out, k, stride, k // 2, groups=groups, bias=False), nn.BatchNorm2d(c_out)]
        return layers + ([getattr(nn, act)()] if act else [])

    class Mobile(nn.Module):
        def __init__(self, c_in, wide, c_out, k, stride, mid, act):
            super().__init__()
            self.same = stride == 1 and c_in == c_out
            self.body = nn.Sequential(*(normed(c_in, wide, 1, 1, 1, act) if wide != c_in else []), *normed(wide, wide, k, stride, wide, act),
                                      *([Squeeze(wide, mid)] if mid else []), *normed(wide, c_out, 1, 1, 1, None))

        def forward(self, x):
            return x + self.body(x) if self.same else self.body(x)

    def mobile():
        return nn.Sequential(*normed(1, 8, 3, 1, 1, "Hardswish"), *[Mobile(*row) for row in MOBILE], *normed(48, 144, 1, 1, 1, "Hardswish"),
                             nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(144, 128), nn.Hardswish(), nn.Linear(128, 10))

    return {"resnet20-cifar": resnet20, "lenet5-mnist": lenet5, "mobilenetv3ish-fashion": mobile}


def least(a, b):
    return [min(x, y) for x, y in zip(a, b)]


class Torch:
    def __init__(self, name, batch, shape, threads):
        import torch
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        self.torch = torch
        self.net = torch_nets()[name]().train()
        self.x = torch.randn(batch, *shape)
        self.y = torch.randint(0, 10, (batch,))
        self.sgd = torch.optim.SGD(self.net.parameters(), lr=0.01, momentum=0.9)

    def best(self, n):
        import time
        best = [1e9, 1e9]
        for _ in range(n):
            start = time.perf_counter(), time.process_time()
            self.sgd.zero_grad()
            self.torch.nn.functional.cross_entropy(self.net(self.x), self.y).backward()
            self.sgd.step()
            best = least(best, [time.perf_counter() - start[0], time.process_time() - start[1]])
        return best


class Pared:
    def __init__(self, name, batch, threads, shared):
        self.process = subprocess.Popen([TOOL, shared / f"models/ours/{name}.onnx", str(batch), str(threads)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def best(self, n):
        self.process.stdin.write(f"{n}\n")
        self.process.stdin.flush()
        return [float(v) for v in self.process.stdout.readline().split()]

    def memory(self):
        """Bytes that training took at most, beyond what the process had before the model was opened."""
        self.process.stdin.write("memory\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def close(self):
        self.process.communicate("stop\n")


def status_bytes(key):
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith(key))


def torch_memory(name, batch, shape, threads):
    """The same of PyTorch, in a process of its own: its highest resident size less that before network and batch were made."""
    code = ("import sys, torch; sys.path.insert(0, sys.argv[1]); import train_step as t; nets = t.torch_nets(); base = t.status_bytes('VmRSS'); "
            "t.Torch(sys.argv[2], int(sys.argv[3]), eval(sys.argv[4]), int(sys.argv[5])).best(5); print(t.status_bytes('VmHWM') - base)")
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), name, str(batch), repr(shape), str(threads)],
                          capture_output=True, text=True, check=True)
    return int(done.stdout)


def measure(threads, shared, rounds=8, steps=3, say=lambda row: None):
    """[{"model", "batch", "threads", "pared_ms", "torch_ms", "ratio", and the same with "cpu_"}]; None where PyTorch is missing."""
    rows = []
    for name, batch, shape in CASES:
        ours, peer = Pared(name, batch, threads, shared), None
        try:
            peer = Torch(name, batch, shape, threads)
        except ImportError:
            pass
        best = {"pared": [1e9, 1e9], "torch": [1e9, 1e9]}
        for _ in range(rounds):
            best["pared"] = least(best["pared"], ours.best(steps))
            if peer:
                best["torch"] = least(best["torch"], peer.best(steps))
        row = {"model": name, "batch": batch, "threads": threads, "pared_mb": ours.memory() / 1e6,
               "torch_mb": torch_memory(name, batch, shape, threads) / 1e6 if peer else None}
        ours.close()
        for i, kind in enumerate(("ms", "cpu_ms")):
            row[f"pared_{kind}"] = best["pared"][i] * 1e3
            row[f"torch_{kind}"] = best["torch"][i] * 1e3 if peer else None
        row["ratio"] = best["pared"][0] / best["torch"][0] if peer else None
        row["cpu_ratio"] = best["pared"][1] / best["torch"][1] if peer else None
        say(row)
        rows.append(row)
    return rows


if __name__ == "__main__":
    shared = Path(os.environ.get("PARED_SHARED", ROOT.parent / "shared"))
    numbers = [int(a) for a in sys.argv[1:]] + [2, 8][len(sys.argv) - 1:]
    measure(numbers[0], shared, numbers[1], say=lambda row: print(json.dumps(row), flush=True))
