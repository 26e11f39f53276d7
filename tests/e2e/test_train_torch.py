# SPDX-License-Identifier: Apache-2.0
"""Losses, optimizers and schedules against PyTorch itself, where it is installed (PARED_TORCH: a Python that has it). The whole loop
against PyTorch's recorded one is test_grad_torch.py's test_optimizers."""
import json
import subprocess

import numpy as np
import pytest
from conftest import ROOT

# What the peer does with a list of cases on standard input: [{"what", ...}]. Arrays come and go as nested lists of float64.
PEER = r"""
import json, sys
import torch
F = torch.nn.functional
out = []
for case in json.load(sys.stdin):
    if case["what"] == "loss":
        y = torch.tensor(case["y"], dtype=torch.float64, requires_grad=True)
        t = torch.tensor(case["t"], dtype=torch.int64 if case["labels"] else torch.float64)
        scope = {"F": F, "y": y, "t": t, "torch": torch}
        loss = eval(case["torch"], scope)
        loss.backward()
        out.append({"value": loss.item(), "gradient": y.grad.tolist()})
    elif case["what"] == "optimizer":
        p = torch.tensor(case["p"], dtype=getattr(torch, case["dtype"]), requires_grad=True)
        o = getattr(torch.optim, case["torch"])([p], **case["args"])
        values = []
        for g in case["g"]:
            p.grad = torch.tensor(g, dtype=p.dtype)
            o.step()
            values.append(p.detach().tolist())
        out.append({"values": values})
    else:
        p = torch.zeros(1, requires_grad=True)
        o = torch.optim.SGD([p], lr=case["lr"])
        s = eval(case["torch"], {"L": torch.optim.lr_scheduler, "o": o, "lr": case["lr"]})
        rates = []
        for i in range(case["updates"]):
            rates.append(o.param_groups[0]["lr"])
            o.step()
            if (i + 1) % case.get("every", 1) == 0:
                s.step()
        out.append({"rates": rates})
json.dump(out, sys.stdout)
"""


def array(x):
    return np.asarray(x, np.float64)


def loss_cases():
    rng = np.random.default_rng(3)
    y, t = rng.normal(size=(6, 5)) * 3, rng.normal(size=(6, 5)) * 3
    wide, places = rng.normal(size=(3, 4, 2, 3)) * 2, rng.integers(0, 4, size=(3, 2, 3))
    places[0, 0, :2] = -100
    labels, bits = rng.integers(0, 5, size=6), rng.integers(0, 2, size=(6, 5)).astype(float)
    soft = "F.kl_div(F.log_softmax(y / {0}, 1), F.log_softmax(t / {0}, 1), log_target=True, reduction='{1}') * {0}**2"
    table = [("cross_entropy", [], "F.cross_entropy(y, t)", y, labels),
             ("cross_entropy", ["reduction=1"], "F.cross_entropy(y, t, reduction='sum')", y, labels),
             ("cross_entropy", ["smoothing=0.1"], "F.cross_entropy(y, t, label_smoothing=0.1)", y, labels),
             ("cross_entropy", [], "F.cross_entropy(y, t)", wide, places),
             ("cross_entropy", ["smoothing=0.3", "scale=0.5"], "0.5 * F.cross_entropy(y, t, label_smoothing=0.3)", wide, places),
             ("squared", [], "F.mse_loss(y, t)", y, t),
             ("squared", ["reduction=1"], "F.mse_loss(y, t, reduction='sum')", y, t),
             ("absolute", [], "F.l1_loss(y, t)", y, t),
             ("huber", [], "F.huber_loss(y, t)", y, t),
             ("huber", ["delta=0.4"], "F.huber_loss(y, t, delta=0.4)", y, t),
             ("huber", ["delta=3", "reduction=1"], "F.huber_loss(y, t, delta=3.0, reduction='sum')", y, t),
             ("binary", [], "F.binary_cross_entropy_with_logits(y, t)", y, bits),
             ("binary", [], "F.binary_cross_entropy_with_logits(y, t)", y * 30, np.abs(np.sin(t))),
             ("binary", ["reduction=1"], "F.binary_cross_entropy_with_logits(y, F.one_hot(t, 5).double(), reduction='sum')", y, labels),
             ("kl", ["temperature=4", "reduction=2"], soft.format(4, "batchmean"), y, t),
             ("kl", ["temperature=0.5"], soft.format(0.5, "mean"), y, t),
             ("kl", ["reduction=1"], soft.format(1, "sum"), wide, np.sin(wide * 5) * 2)]
    return [{"what": "loss", "kind": k, "args": a, "torch": e, "y": v.tolist(), "t": w.tolist(), "labels": w.dtype.kind == "i"}
            for k, a, e, v, w in table]


def optimizer_cases():
    rng = np.random.default_rng(5)
    p, g = rng.normal(size=(4, 7)).astype(np.float32), rng.normal(size=(10, 4, 7)).astype(np.float32)
    g[3] *= 100  # a spike, and a parameter that hardly moves
    g[:, 0, 0] *= 1e-6
    table = [("sgd", "SGD", {"lr": 0.05}), ("sgd", "SGD", {"lr": 0.05, "weight_decay": 0.01}),
             ("sgd", "SGD", {"lr": 0.05, "momentum": 0.9}),
             ("sgd", "SGD", {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}),
             ("adam", "Adam", {"lr": 1e-3}), ("adam", "Adam", {"lr": 0.02, "weight_decay": 1e-2, "betas": [0.8, 0.99]}),
             ("adamw", "AdamW", {"lr": 1e-3, "weight_decay": 1e-2}),
             ("adamw", "AdamW", {"lr": 0.1, "weight_decay": 0.1, "betas": [0.5, 0.9], "eps": 1e-4})]
    return [{"what": "optimizer", "kind": k, "torch": c, "args": a, "dtype": d, "p": p.tolist(), "g": g.tolist()}
            for k, c, a in table for d in ("float32", "float64")]


def schedule_cases():
    warm = "L.SequentialLR(o, [L.LinearLR(o, 1 / 8, 1, 7), L.{}], [8])"  # the top at update 8, the first of what follows
    table = [("cosine", 6, 10, [], "L.CosineAnnealingLR(o, 60)", 1),
             ("linear", 6, 10, [], "L.LinearLR(o, 1, 0, 60)", 1),
             ("constant", 6, 10, [], "L.ConstantLR(o, 1)", 1),
             ("step", 6, 10, ["step_at=2", "step_by=0.3"], "L.StepLR(o, 2, 0.3)", 10),
             ("one_cycle", 6, 10, [], "L.OneCycleLR(o, lr, 60, cycle_momentum=False)", 1),
             ("one_cycle", 1, 4, [], "L.OneCycleLR(o, lr, 4, cycle_momentum=False)", 1),
             ("one_cycle", 3, 391, [], "L.OneCycleLR(o, lr, 1173, cycle_momentum=False)", 1),
             ("cosine", 6, 10, ["warmup=0.8"], warm.format("CosineAnnealingLR(o, 52)"), 1),
             ("linear", 6, 10, ["warmup=0.8"], warm.format("LinearLR(o, 1, 0, 52)"), 1)]
    return [{"what": "schedule", "kind": k, "lr": 0.4, "updates": e * n, "every": every, "torch": t,
             "args": [f"epochs={e}", f"per_epoch={n}", *a]} for k, e, n, a, t, every in table]


CASES = loss_cases() + optimizer_cases() + schedule_cases()


@pytest.fixture(scope="module")
def torch_says(torch):
    done = subprocess.run([torch, "-W", "ignore", "-c", PEER], input=json.dumps(CASES), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def train_math():
    subprocess.run(["make", "-s", "build/tools/train_math"], cwd=ROOT, check=True)

    def run(*args):
        done = subprocess.run([ROOT / "build/tools/train_math", *args], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return done.stdout
    return run


@pytest.mark.parametrize("i", range(len(CASES)), ids=lambda i: f"{CASES[i]['what']}-{CASES[i]['kind']}-{i}")
def test_same_as_torch(train_math, torch_says, tmp_path, i):
    {"loss": check_loss, "optimizer": check_optimizer, "schedule": check_schedule}[CASES[i]["what"]](train_math, CASES[i], torch_says[i], tmp_path)


def check_loss(train_math, case, want, folder):
    np.save(folder / "y.npy", array(case["y"]))
    np.save(folder / "t.npy", np.asarray(case["t"], np.int64 if case["labels"] else np.float64))
    train_math("loss", case["kind"], folder / "y.npy", folder / "t.npy", folder / "out.npz", *case["args"])
    got = np.load(folder / "out.npz")
    assert got["value"][0] == pytest.approx(want["value"], rel=1e-12)
    assert np.allclose(got["gradient"], want["gradient"], rtol=1e-10, atol=1e-14)


def check_optimizer(train_math, case, want, folder):
    a = dict(case["args"])
    a["beta1"], a["beta2"] = a.pop("betas", (0.9, 0.999))
    a["decay"], a["nesterov"] = a.pop("weight_decay", 0), int(a.get("nesterov", False))
    # torch's AdamW decays by 0.01 and SGD not at all if nothing is said; every case that matters says it
    np.save(folder / "p.npy", np.asarray(case["p"], case["dtype"]))
    np.save(folder / "g.npy", np.asarray(case["g"], case["dtype"]))
    train_math("optimizer", case["kind"], folder / "p.npy", folder / "g.npy", folder / "out.npz", *[f"{k}={v}" for k, v in a.items()])
    got, want = np.load(folder / "out.npz")["values"].astype(np.float64), array(want["values"])
    got = got.reshape(want.shape)
    tolerance = 1e-6 if case["dtype"] == "float32" else 1e-13
    for step in range(10):
        assert np.abs(got[step] - want[step]).max() <= tolerance * max(1, np.abs(want[step]).max()), step


def check_schedule(train_math, case, want, folder):
    got = array([float(line) for line in train_math("schedule", case["kind"], str(case["lr"]), *case["args"]).split()])
    # torch multiplies its way down, so its own last digits differ from its formula's
    assert np.allclose(got, want["rates"], rtol=1e-9, atol=1e-12)
