#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Write an ONNX model with large external data, quickly: the data file is sparse (all zeros, no disk space).

usage: make_big_model.py DIR [GIB, default 3]      writes DIR/big.onnx and DIR/big.data

The model is a chain of MatMul with float32 weights [4096, 4096] of 64 MiB each. Needs no library.
"""
import os
import struct
import sys

SIDE = 4096
WEIGHT = SIDE * SIDE * 4


def varint(v):
    out = b""
    while v >= 0x80:
        out += bytes([v & 0x7F | 0x80])
        v >>= 7
    return out + bytes([v])


def number(field, v):
    return varint(field << 3) + varint(v)


def data(field, payload):
    payload = payload.encode() if isinstance(payload, str) else payload
    return varint(field << 3 | 2) + varint(len(payload)) + payload


def entry(key, value):
    return data(13, data(1, key) + data(2, str(value)))


def value_info(field, name):
    dims = data(1, data(2, "N")) + data(1, number(1, SIDE))
    return data(field, data(1, name) + data(2, data(1, number(1, 1) + data(2, dims))))


def main():
    folder = sys.argv[1]
    count = int(float(sys.argv[2] if len(sys.argv) > 2 else 3) * 2**30 / WEIGHT)
    os.makedirs(folder, exist_ok=True)
    graph = b""
    for i in range(count):
        graph += data(1, data(1, f"x{i}") + data(1, f"w{i}") + data(2, f"x{i + 1}") + data(4, "MatMul"))
    graph += data(2, "big")
    for i in range(count):
        place = entry("location", "big.data") + entry("offset", i * WEIGHT) + entry("length", WEIGHT)
        graph += data(5, number(1, SIDE) * 2 + number(2, 1) + data(8, f"w{i}") + place + number(14, 1))
    graph += value_info(11, "x0") + value_info(12, f"x{count}")
    model = number(1, 8) + data(7, graph) + data(8, data(1, "") + number(2, 13))
    with open(os.path.join(folder, "big.onnx"), "wb") as f:
        f.write(model)
    with open(os.path.join(folder, "big.data"), "wb") as f:
        f.truncate(count * WEIGHT)
        for i in range(count):  # one number that is not zero in each weight
            f.seek(i * WEIGHT)
            f.write(struct.pack("<f", 1.0))
    print(f"{count} weights, {count * WEIGHT / 2**30:.2f} GiB of external data")


main()
