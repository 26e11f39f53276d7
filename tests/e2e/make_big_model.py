#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write an ONNX model with large external data, quickly: the data file is sparse (all zeros, no disk space).

usage: make_big_model.py DIR [GIB, default 3]      writes DIR/big.onnx and DIR/big.data

The model is a chain of MatMul with float32 weights [4096, 4096] of 64 MiB each. Needs no library.
"""
import os
import struct
import sys

from tiny import field

SIDE = 4096
WEIGHT = SIDE * SIDE * 4


def entry(key, value):
    return field(13, field(1, key) + field(2, str(value)))


def value_info(number, name):
    dims = field(1, field(2, "N")) + field(1, field(1, SIDE))
    return field(number, field(1, name) + field(2, field(1, field(1, 1) + field(2, dims))))


def main():
    folder = sys.argv[1]
    count = int(float(sys.argv[2] if len(sys.argv) > 2 else 3) * 2**30 / WEIGHT)
    os.makedirs(folder, exist_ok=True)
    graph = b""
    for i in range(count):
        graph += field(1, field(1, f"x{i}") + field(1, f"w{i}") + field(2, f"x{i + 1}") + field(4, "MatMul"))
    graph += field(2, "big")
    for i in range(count):
        place = entry("location", "big.data") + entry("offset", i * WEIGHT) + entry("length", WEIGHT)
        graph += field(5, field(1, SIDE) * 2 + field(2, 1) + field(8, f"w{i}") + place + field(14, 1))
    graph += value_info(11, "x0") + value_info(12, f"x{count}")
    model = field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13))
    with open(os.path.join(folder, "big.onnx"), "wb") as f:
        f.write(model)
    with open(os.path.join(folder, "big.data"), "wb") as f:
        f.truncate(count * WEIGHT)
        for i in range(count):  # one number that is not zero in each weight
            f.seek(i * WEIGHT)
            f.write(struct.pack("<f", 1.0))
    print(f"{count} weights, {count * WEIGHT / 2**30:.2f} GiB of external data")


main()
