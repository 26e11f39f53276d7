#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# walk.sh MODEL TRAIN TEST [RECIPE...]: every recipe of this folder on one network, one line each: accuracy, size and work before and after.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
pared=${PARED:-$here/../../build/pared}
[ $# -ge 3 ] || { echo "usage: walk.sh MODEL TRAIN TEST [RECIPE...]" >&2; exit 2; }
model=$1 train=$2 test=$3
shift 3
[ $# -gt 0 ] || set -- "$here"/recipes/*.json
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
printf '%-22s %8s %8s %8s %9s %6s %8s\n' recipe top-1 after bytes non-zero MACs seconds
for recipe; do
    start=$SECONDS
    "$pared" run "$model" --recipe "$recipe" --data "$train" --eval-data "$test" --out "$out/result" --no-latency --quiet > "$out/summary"
    jq -r --arg name "$(basename "$recipe" .json)" --arg seconds $((SECONDS - start)) '
        def percent: . * 10000 | round / 100 | tostring + "%";
        def left: . * 1000 | round / 1000 | tostring;
        [$name, (.before.metrics.top1 | percent), (.after.metrics.top1 | percent), (.ratio.bytes | left), (.ratio.nonzero | left),
         (.ratio.macs | left), $seconds] | @tsv' "$out/result/report.json" |
        awk -F'\t' '{printf "%-22s %8s %8s %8s %9s %6s %8s\n", $1, $2, $3, $4, $5, $6, $7}'
    rm -rf "$out/result"
done
