# SPDX-License-Identifier: Apache-2.0
"""prune.layers and analyse.sensitivity with ONNX Runtime as the judge.

prune.layers         the file without branches gives what the original gives in which those sums are replaced by their kept side;
                     accuracy after 1 and 3 blocks, with and without repair
analyse.sensitivity  a point of a curve is what ONNX Runtime measures of the file that prune.channels makes with that ratio; the
                     recommended ratios beat one ratio for all at the same MACs
"""
import functools
import json
import re

import numpy as np
import onnx
import pytest

import methods
from methods import DIGITS, SHARED, apply, layers, outputs

OURS = SHARED / "models/ours" if SHARED else None
needs_shared = pytest.mark.skipif(not SHARED, reason="skipped: no shared data")


def top1(path, x, y):
    scores = np.concatenate([outputs(path, [f])[1][0] for f in methods.feeds_of(path, x)])
    return float((scores.argmax(1) == y).mean())


@functools.lru_cache
def held(name):
    """1000 samples of the test set."""
    x, y = methods.load_dataset(OURS / f"{name}.test.json")
    return methods.spread(x, 1000), methods.spread(y, 1000)


def part_of(name, folder, limit):
    """The first samples of the training set, as a dataset description of its own."""
    source = OURS / f"{name}.train.json"
    spec = json.loads(source.read_text())
    spec["files"] = {k: str((source.parent / f).resolve()) for k, f in spec["files"].items()}
    path = folder / "data.json"
    path.write_text(json.dumps(spec | {"limit": limit}))
    return path


def without(model, out, joins):
    """The original in which the sums of these names give their kept side: the input that does not depend on the other."""
    m = onnx.load(str(model))
    made = {o: n for n in m.graph.node for o in n.output}

    def depends(value, on, seen):
        if value == on:
            return True
        if value in seen or value not in made:
            return False
        seen.add(value)
        return any(depends(i, on, seen) for i in made[value].input)

    for n in m.graph.node:
        if n.name in joins:
            a, b = n.input
            kept = a if depends(b, a, set()) else b
            del n.input[:]
            n.input.append(kept)
            n.op_type = "Identity"
    onnx.save(m, str(out))


def removed(report):
    return [r["node"] for r in layers(report) if r.get("after", {}).get("decision") == "removed"]


@needs_shared
@pytest.mark.parametrize("name,floor", [("resnet20-cifar", {2: 0.74}), ("vit-fashion", {3: 0.84})])
def test_blocks_go(tmp_path, name, floor):
    model = OURS / f"{name}.onnx"
    x, y = held(name)
    for count, least in floor.items():
        out, want = tmp_path / "out.onnx", tmp_path / "want.onnx"
        report = apply("prune.layers", model, out, OURS / f"{name}.calib.json", count=count, samples=64, recover="none")
        gone = removed(report)
        assert len(gone) == count
        without(model, want, gone)
        feeds = methods.feeds_of(model, x[:64])
        assert methods.worst(outputs(want, feeds)[1], outputs(out, feeds)[1]) < 1e-4
        got = top1(out, x, y)
        print(f"{name}: {count} of its branches out: top-1 {top1(model, x, y):.4f} -> {got:.4f}, MACs x{report['ratio']['macs']:.3f}")
        assert got >= least
        assert report["ratio"]["params"] < 1 and report["ratio"]["macs"] < 1
        # the cheapest alone went first
        rows = [r for r in layers(report) if "after" in r]
        first = [r for r in rows if r["after"].get("order") == 1][0]
        assert first["after"]["contribution"]["kl"] == min(r["after"]["contribution"]["kl"] for r in rows)


@needs_shared
def test_repair_helps(tmp_path):
    name = "resnet20-cifar"
    x, y = held(name)
    got = {}
    for recover in ("none", "bn_stats"):
        apply("prune.layers", OURS / f"{name}.onnx", tmp_path / "out.onnx", OURS / f"{name}.calib.json", count=3, remeasure="false", samples=64, recover=recover)
        got[recover] = top1(tmp_path / "out.onnx", x, y)
    print(got)
    assert got["bn_stats"] >= got["none"] + 0.05


@needs_shared
def test_max_drop_is_kept_on_other_samples(tmp_path):
    name = "vit-fashion"
    report = apply("prune.layers", OURS / f"{name}.onnx", tmp_path / "out.onnx", part_of(name, tmp_path, 3000), max_drop=0.03, recover="none", samples=64)
    assert 1 <= len(removed(report)) < 8
    x, y = held(name)
    assert top1(tmp_path / "out.onnx", x, y) >= top1(OURS / f"{name}.onnx", x, y) - 0.04
    assert all(r["after"]["drop"] <= 0.03 for r in layers(report) if "order" in r.get("after", {}))


def test_a_point_is_what_pruning_gives(tmp_path):
    """digits-cnn: one group at one ratio, measured by ONNX Runtime on the same samples."""
    model, data = DIGITS / "digits-cnn.onnx", DIGITS / "train.npz"
    report = apply("analyse.sensitivity", model, tmp_path / "same.onnx", data, samples=128, ratios="[0.25,0.5]")
    x, y = methods.load_dataset(data)
    x, y = methods.spread(x, 128), methods.spread(y, 128)
    feeds = methods.feeds_of(model, x)
    before = np.concatenate([outputs(model, [f])[1][0] for f in feeds]).astype(np.float64)
    assert methods.worst(outputs(model, feeds)[1], outputs(tmp_path / "same.onnx", feeds)[1]) < 1e-6
    curves = {r["node"]: r["after"]["curve"] for r in layers(report) if "curve" in r.get("after", {})}
    assert len(curves) == 3
    for node, curve in curves.items():
        for point in curve:
            apply("prune.channels", model, tmp_path / "cut.onnx", data, ratios=json.dumps({node: point["ratio"]}, separators=(",", ":")), recover="none")
            after = np.concatenate([outputs(tmp_path / "cut.onnx", [f])[1][0] for f in feeds]).astype(np.float64)
            p, q = (z - np.log(np.exp(z).sum(1, keepdims=True)) for z in (before, after))
            kl = float((np.exp(p) * (p - q)).sum(1).mean())
            assert point["kl"] == pytest.approx(kl, rel=1e-3, abs=1e-6), node
            assert point["top1"] == pytest.approx(float((after.argmax(1) == y).mean()), abs=1e-9)
            assert point["noise"] == pytest.approx(((before - after) ** 2).sum() / (before ** 2).sum(), rel=1e-3)


@needs_shared
def test_recommended_ratios_beat_one_ratio(tmp_path):
    name = "resnet20-cifar"
    model, data = OURS / f"{name}.onnx", OURS / f"{name}.calib.json"
    report = apply("analyse.sensitivity", model, tmp_path / "same.onnx", data, target="macs:0.6", samples=64, ratios="[0.3,0.6,0.9]")
    plan = [r for r in layers(report) if r["node"] == "all groups"][0]["after"]
    assert plan["met"] and plan["left"] <= 0.6
    x, y = held(name)
    by_plan = apply("prune.channels", model, tmp_path / "plan.onnx", ratios=json.dumps(plan["ratios"], separators=(",", ":")))
    even = apply("prune.channels", model, tmp_path / "even.onnx", target="macs:0.6")
    assert by_plan["ratio"]["macs"] == pytest.approx(plan["left"], abs=1e-9)
    assert not any(re.search("matches no group", w) for w in by_plan["warnings"])
    got, one = top1(tmp_path / "plan.onnx", x, y), top1(tmp_path / "even.onnx", x, y)
    print(f"resnet20 at {by_plan['ratio']['macs']:.3f} of the MACs, no repair: {got:.4f}; one ratio for all {even['ratio']['macs']:.3f}: {one:.4f}")
    assert got > one
