# SPDX-License-Identifier: Apache-2.0
"""pared_reader.py FILE.pared FOLDER: the files of a .pared container, read by docs/format.md with NumPy and the standard library alone."""
import hashlib
import sys
import zlib
from pathlib import Path

import numpy as np

SQUASH = np.rint(65536 / (1 + np.exp(-np.arange(-24, 25) / 2))).astype(int).tolist()

def squash(d):
    d = max(-3072, min(3071, d)) + 3072
    return (SQUASH[d >> 7] * (128 - (d & 127)) + SQUASH[(d >> 7) + 1] * (d & 127) + 64) >> 7

STRETCH = (np.searchsorted([squash(d) for d in range(-3072, 3071)], np.arange(4096) * 16 + 8) - 3072).tolist()

class Bytes:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if n > len(self.data) - self.at:
            raise ValueError("the container is damaged: it ends too early")
        self.at += n
        return self.data[self.at - n:self.at]

    def byte(self):
        return self.take(1)[0]

    def varint(self):
        b = self.byte()
        return b if b < 128 else b & 127 | self.varint() << 7

class Mix:  # the adaptive binary arithmetic decoder with mixed contexts
    def __init__(self, data):
        self.data, self.at = data + bytes(4), 4
        self.low, self.high, self.code = 0, 0xffffffff, int.from_bytes(self.data[:4], "big")
        self.weights = [[22000] * 8 + [0] for _ in range(64)]
        self.counters = {}

    def bit(self, keys, which):
        if len(self.counters) >= 1 << 21:
            self.counters = {}
        w, cells = self.weights[which], [self.counters.setdefault(k, [1 << 21, 0]) for k in keys]
        x = [STRETCH[c[0] >> 10] * (512 * c[1] // (2 * c[1] + 3)) >> 8 for c in cells]
        p = max(16, min(65520, squash(sum(a * b for a, b in zip(w, x)) + 256 * w[8] >> 16)))
        middle = self.low + ((self.high - self.low) * p >> 16)
        bit = int(self.code <= middle)
        self.low, self.high = (self.low, middle) if bit else (middle + 1, self.high)
        while (self.low ^ self.high) < 1 << 24:
            self.low, self.high = self.low << 8 & 0xffffffff, self.high << 8 & 0xffffffff | 255
            self.code = self.code << 8 & 0xffffffff | (self.data[self.at] if self.at < len(self.data) else 0)
            self.at += 1
        for i, v in [*enumerate(x), (8, 256)]:
            w[i] = max(-1 << 20, min(1 << 20, w[i] + (v * ((bit << 16) - p) >> 15)))
        for c in cells:
            c[0] += ((bit << 22) - c[0]) * (131072 // (2 * c[1] + 3)) >> 16
            c[1] = min(c[1] + 1, 255)
        return bit

    def symbol(self, contexts, bits, which):
        node = 1
        for b in range(bits - 1, -1, -1):
            node = node << 1 | self.bit([(*c, node) for c in contexts], which + b)
        return node - (1 << bits)

    def text(self, n):
        self.counters, past, out = {}, 0, bytearray()
        for _ in range(n):
            out.append(self.symbol([(1,)] + [(k, past & (1 << 8 * o) - 1) for k, o in ((2, 1), (3, 2), (4, 3), (5, 4), (6, 6))], 8, 24))
            past = past << 8 & (1 << 64) - 1 | out[-1]
        return bytes(out)

    def plane(self, n, before, cols):
        self.counters, out = {}, bytearray(n)
        for i in range(n):
            above, over = out[i - cols] if i >= cols else 0, 0 if before is None else int(before[i])
            out[i] = self.symbol([(1,), (2, i and out[i - 1]), (3, above), (4, over)], 8, 16)
        return np.frombuffer(out, np.uint8)

    @staticmethod
    def density(count, seen):
        return 64 + (count * 256 // (seen + 1)).bit_length() if count else seen.bit_length()

    def matrix(self, n, cols, k):
        self.counters, index = {}, bytearray(n)
        column, last, in_row, past, before = [0] * (cols + 2), [0] * cols, 0, 0, 0
        for i in range(n):
            r, c = divmod(i, cols)
            in_row = in_row if c else 0
            up, up_up = int(r > 0 and index[i - cols] > 0), int(r > 1 and index[i - 2 * cols] > 0)
            corner = int(r > 0 and c > 0 and index[i - cols - 1] > 0) << 1 | int(r > 0 and c + 1 < cols and index[i - cols + 1] > 0) << 2
            own, beside = self.density(column[c + 1], r), self.density(column[c] + column[c + 2], 2 * r)
            keys = [(1,), (2, c), (3, past & 255), (4, r), (5, up | corner | up_up << 3 | (past & 3) << 4), (6, own, self.density(in_row, c)), (7, own, beside)]
            flag = self.bit(keys, (past & 1) + up)
            past, in_row, column[c + 1] = past << 1 & 255 | flag, in_row + flag, column[c + 1] + flag
            if flag:
                value = self.symbol([(8,), (9, before), (10, c), (11, r), (12, last[c])], (k - 1).bit_length(), 4)
                before = last[c] = index[i] = min(value + 1, k)
        return np.frombuffer(index, np.uint8)

def huffman(b, n):
    largest, table, code = b.byte(), {}, 0
    packed, stream = b.take(largest // 2 + 1), "".join(f"{v:08b}" for v in b.take(len(b.data) - b.at))
    for bits in range(1, 13):
        for s in (s for s in range(largest + 1) if packed[s // 2] >> s % 2 * 4 & 15 == bits):
            table[f"{code:0{bits}b}"] = s
            code += 1
        code <<= 1
    out, at = bytearray(n), 0
    for i in range(n):
        bits = next(k for k in range(1, 13) if stream[at:at + k] in table)
        out[i], at = table[stream[at:at + bits]], at + bits
    return np.frombuffer(out, np.uint8)

def rans(b, n):
    lanes = 32 if n >= 1 << 15 else 2
    frequency, s, last = np.zeros(256, np.int64), 0, b.byte()
    while s <= last:
        frequency[s] = b.varint()
        s += 1 if frequency[s] else 1 + b.varint()
    symbol = np.repeat(np.arange(256, dtype=np.uint8), frequency)
    offset = np.arange(4096) - (np.cumsum(frequency) - frequency)[symbol]
    states = np.frombuffer(b.take(4 * lanes), "<u4").astype(np.int64)
    words, out, at = np.frombuffer(b.take(len(b.data) - b.at), "<u2").astype(np.int64), np.zeros(n, np.uint8), 0
    for i in range(0, n, lanes):
        x = states[:n - i]
        out[i:i + lanes] = symbol[x & 4095]
        x[:] = frequency[symbol[x & 4095]] * (x >> 12) + offset[x & 4095]
        due = np.flatnonzero(x < 65536)
        x[due] = x[due] << 16 | words[at:at + len(due)]
        at += len(due)
    return out

def symbols(b, mix, n, before=None, cols=1):
    mode = b.byte()
    if mode in (2, 3):
        return (huffman if mode == 2 else rans)(Bytes(b.take(b.varint())), n)
    return mix.plane(n, before, cols) if mode == 4 else np.frombuffer(b.take(1) * n if mode else b.take(n), np.uint8)

def array(b, mix):
    """Elements as unsigned integers."""
    n, head = b.varint(), b.byte()
    kind, width, dtype = head & 15, 1 << (head >> 4 & 3), np.dtype(f"<u{1 << (head >> 4 & 3)}")
    if kind == 0:
        return np.frombuffer(b.take(n * width), dtype)
    if kind == 1:
        cols, plane, v = b.varint(), None, np.zeros(n, dtype)
        for _ in range(width):
            plane = symbols(b, mix, n, plane, cols)
            v = plane if width == 1 else v << dtype.type(8) | plane
        return v >> dtype.type(1) | v << dtype.type(8 * width - 1) if head >> 7 else v
    if kind == 2:
        return array(b, mix)[symbols(b, mix, n)]
    if kind == 3:
        v, gap = np.zeros(n, dtype), symbols(b, mix, b.varint()).astype(np.int64)
        v[(np.cumsum(gap + (gap < 255)) - 1)[gap < 255]] = array(b, mix)
        return v
    cols, table = b.varint(), np.append(np.zeros(1, dtype), array(b, mix))
    return table[mix.matrix(n, cols, len(table) - 1)]

def block(body):
    b = Bytes(body)
    mix, n = Mix(b.take(b.varint())), b.varint()
    mode = b.byte() if n else 0
    text = Bytes(mix.text(n) if mode == 4 else zlib.decompress(b.take(b.varint())) if mode == 5 else b.take(n))
    out = b""
    while b.at < len(body):
        out += text.take(b.varint()) + array(b, mix).tobytes()
    return out + text.take(n - text.at)

def part(b, start):
    """A length, so many bytes, and the CRC-32 of all from `start` on."""
    data = b.take(b.varint())
    if int.from_bytes(b.take(4), "little") != zlib.crc32(b.data[start:b.at - 4]):
        raise ValueError("the container is damaged: a checksum is wrong")
    return data

def read(data):
    """The files of a container: {name: bytes}, the model first."""
    b = Bytes(data)
    if b.take(6) != b"PARED\1":
        raise ValueError("this is no .pared container of version 1")
    header, blocks = Bytes(part(b, 0)), []
    files = [(header.take(header.varint()).decode(), header.varint(), header.take(32)) for _ in range(header.varint())]
    while sum(map(len, blocks)) < sum(size for _, size, _ in files):
        blocks.append(block(part(b, b.at)))
    whole, found = Bytes(b"".join(blocks)), {}
    for name, size, digest in files:
        found[name] = whole.take(size)
        if "/" in name or hashlib.sha256(found[name]).digest() != digest:
            raise ValueError(f"the container is damaged: {name} is not the file that was packed")
    return found

if __name__ == "__main__":
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    for name, data in read(Path(sys.argv[1]).read_bytes()).items():
        Path(sys.argv[2], name).write_bytes(data)
