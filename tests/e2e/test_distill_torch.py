# SPDX-License-Identifier: Apache-2.0
"""Losses between features against PyTorch's autograd in double precision, written there as the papers' authors write them."""
import subprocess

import numpy as np
import pytest
from conftest import ROOT

SCRIPT = r"""
import sys, numpy as np, torch, torch.nn.functional as F
def distances(e):
    p = e.pow(2).sum(1)
    d = (p[:, None] + p[None, :] - 2 * e @ e.t()).clamp(min=1e-12).sqrt().clone()
    d[range(len(e)), range(len(e))] = 0
    return d
def angles(e):
    d = e.unsqueeze(0) - e.unsqueeze(1)
    n = F.normalize(d, p=2, dim=2)
    return torch.bmm(n, n.transpose(1, 2))
for folder in sys.argv[1:]:
    kind = open(f"{folder}/kind").read()
    load = lambda n: torch.tensor(np.load(f"{folder}/{n}.npy").astype(np.float64))
    x, t, out = load("x").requires_grad_(), load("t"), {}
    if kind == "hint":
        try:
            w, b = load("w").requires_grad_(), load("b").requires_grad_()
            y = F.conv2d(x, w[:, :, None, None], b)
        except FileNotFoundError:
            w, y = None, x
        loss = 0.5 * F.mse_loss(y, t)
    elif kind == "attention":
        q = F.normalize(x.pow(2).sum(1).flatten(1))
        loss = 0.5 * (q - t.flatten(1)).pow(2).mean()
    elif kind == "relation":
        ds, dt = distances(x), distances(t)
        ds, dt = ds / ds[ds > 0].mean(), dt / dt[dt > 0].mean()
        loss = F.smooth_l1_loss(ds, dt) + 2 * F.smooth_l1_loss(angles(x), angles(t))
    else:
        loss = 16 * F.kl_div(F.log_softmax(x / 4, 1), F.softmax(t / 4, 1), reduction="batchmean")
    loss.backward()
    out["value"], out["dx"] = loss.detach().numpy(), x.grad.numpy()
    if kind == "hint" and w is not None:
        out["dweight"], out["dbias"] = w.grad.numpy(), b.grad.numpy()
    np.savez(f"{folder}/torch.npz", **out)
"""


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def cases(rng):
    maps = np.abs(normal(rng, 6, 4, 3))
    return {"hint": ("hint", normal(rng, 6, 5, 4, 3), normal(rng, 6, 8, 4, 3), normal(rng, 8, 5), normal(rng, 8)),
            "hint-equal-widths": ("hint", normal(rng, 6, 5, 4, 3), normal(rng, 6, 5, 4, 3)),
            "attention": ("attention", normal(rng, 6, 5, 4, 3), maps / np.sqrt((maps ** 2).sum((1, 2), keepdims=True))),
            "relation": ("relation", normal(rng, 17, 6), normal(rng, 17, 9)),
            "relation-far": ("relation", normal(rng, 9, 4) * 5 + 100, normal(rng, 9, 3) ** 3),
            "kl": ("kl4", normal(rng, 7, 10) * 6, normal(rng, 7, 10) * 6)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory, torch):
    """A folder a case, with the arrays and what PyTorch makes of them (one process: it starts slowly)."""
    subprocess.run(["make", "-s", "build/tools/hint_losses"], cwd=ROOT, check=True)
    made = {}
    for name, (kind, *arrays) in cases(np.random.default_rng(3)).items():
        made[name] = tmp_path_factory.mktemp(name)
        (made[name] / "kind").write_text(kind)
        for letter, array in zip("xtwb", arrays):
            np.save(made[name] / f"{letter}.npy", array)
    subprocess.run([torch, "-c", SCRIPT, *made.values()], check=True)
    return made


@pytest.mark.parametrize("name", list(cases(np.random.default_rng(3))))
def test_against_autograd(folders, name):
    folder = folders[name]
    files = [folder / f"{k}.npy" for k in "xtwb" if (folder / f"{k}.npy").exists()]
    subprocess.run([ROOT / "build/tools/hint_losses", (folder / "kind").read_text(), folder / "out.npz", *files], check=True)
    got, want = np.load(folder / "out.npz"), np.load(folder / "torch.npz")
    assert got["value"][0] == pytest.approx(float(want["value"]), rel=1e-5)
    for key in set(want.files) - {"value"}:
        assert np.abs(got[key] - want[key]).max() <= 2e-5 * np.abs(want[key]).max(), key
