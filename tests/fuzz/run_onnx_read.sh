#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fuzz the model reader: run_onnx_read.sh [seconds, default 60]. First replays tests/fuzz/regression/onnx_read/.
# The seed corpus is made of the small models of Debian's libonnx-testdata, if that is installed.
set -eu
cd "$(dirname "$0")/../.."
seconds=${1:-60}
out=build/fuzz/onnx_read
mkdir -p "$out/corpus" "$out/found"
make -s build/gen/onnx.pb-c.h
flags="-std=c11 -D_GNU_SOURCE -O1 -g -I. -Ibuild/gen -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=undefined"
${FUZZ_CC:-clang-14} $flags -w -o "$out/fuzz" tests/fuzz/fuzz_onnx_read.c core/model/*.c core/tensor/*.c core/base/*.c \
    build/gen/onnx.pb-c.c $(pkg-config --cflags --libs libprotobuf-c jansson nettle) -lm -pthread
if [ -d /usr/share/libonnx-testdata ] && [ -z "$(ls -A "$out/corpus")" ]; then
    find /usr/share/libonnx-testdata -name model.onnx -size -4k | sort | while read -r f; do
        cp "$f" "$out/corpus/$(echo "$f" | cksum | cut -d' ' -f1).onnx"
    done
fi
for f in tests/fuzz/regression/onnx_read/*; do
    [ -f "$f" ] && "$out/fuzz" -runs=0 "$f"
done
exec "$out/fuzz" -max_total_time="$seconds" -max_len=16384 -rss_limit_mb=2048 -timeout=10 -artifact_prefix="$out/found/" "$out/corpus"
