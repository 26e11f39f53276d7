#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# demo.sh: serve, upload examples/digits, optimize and quantize it, show before and after. Every curl line it runs is printed.
set -euo pipefail
cd "$(dirname "$0")/.."
data=build/demo
rm -rf "$data"
mkdir -p "$data"
listen=127.0.0.1:${PORT:-0}
build/pared serve --data "$data" --listen "$listen" --address-file "$data/address" >"$data/server.log" 2>&1 &
server=$!
stop() { [ -n "${KEEP:-}" ] || kill "$server" 2>/dev/null || true; }
trap stop EXIT
for i in $(seq 100); do [ -s "$data/address" ] && break; kill -0 "$server" || { cat "$data/server.log"; exit 1; }; sleep 0.1; done
url=$(cat "$data/address")

say() { printf '\033[2m$ %s\033[0m\n' "$*"; }
say "curl -T examples/digits/digits-cnn.onnx $url/v1/models"
model=$(curl -sS --fail-with-body -T examples/digits/digits-cnn.onnx "$url/v1/models?name=digits-cnn.onnx" | jq -r .id)
say "curl -T examples/digits/train.npz $url/v1/datasets"
train=$(curl -sS --fail-with-body -T examples/digits/train.npz "$url/v1/datasets?name=digits-train" | jq -r .id)
say "curl -T examples/digits/test.npz $url/v1/datasets"
test=$(curl -sS --fail-with-body -T examples/digits/test.npz "$url/v1/datasets?name=digits-test" | jq -r .id)
body='{"model":"'$model'","dataset":"'$train'","eval_dataset":"'$test'","recipe":{"steps":[{"method":"graph.optimize"},{"method":"quantize.static"}]}}'
say "curl --json '$body' $url/v1/jobs"
job=$(curl -sS --fail-with-body --json "$body" "$url/v1/jobs" | jq -r .id)
say "curl '$url/v1/jobs/$job?wait=25'"
for i in 1 2 3 4; do
    state=$(curl -sS --fail-with-body "$url/v1/jobs/$job?wait=25" | jq -r .state)
    case $state in queued | running) ;; *) break ;; esac
done
[ "$state" = succeeded ] || { curl -sS "$url/v1/jobs/$job" | jq .; exit 1; }
say "curl -O $url/v1/jobs/$job/artifacts/model.onnx"
curl -sS --fail-with-body -o "$data/digits-small.onnx" "$url/v1/jobs/$job/artifacts/model.onnx"
say "curl $url/v1/jobs/$job/report"
curl -sS --fail-with-body "$url/v1/jobs/$job/report" >"$data/report.json"
jq -r '
  def f(x): if x == null then "-" else (x | tostring) end;
  def r(x): if x == null then "-" else ((x * 1000 | round) / 1000 | tostring) end;
  ["", "before", "after", "after/before"],
  ["bytes", f(.before.bytes), f(.after.bytes), r(.ratio.bytes)],
  ["MACs", f(.before.macs), f(.after.macs), r(.ratio.macs)],
  ["top-1 (500 test digits)", r(.before.metrics.top1), r(.after.metrics.top1), ""],
  ["latency p50, ms", r(.before.latency_ms.p50), r(.after.latency_ms.p50), r(.ratio.latency)],
  ["top-1 agreement", "", r(.fidelity.outputs[0].top1_agreement), ""]
  | @tsv' "$data/report.json" | awk -F'\t' '{printf "  %-26s %12s %12s %14s\n", $1, $2, $3, $4}'
jq -r '.warnings[]? | "  note: " + .' "$data/report.json"
echo "The smaller model: $data/digits-small.onnx, the report: $data/report.json"
if [ -n "${KEEP:-}" ]; then
    echo "Dashboard: $url/ (the server keeps running as process $server; stop it with: kill $server)"
else
    echo "Dashboard: $url/ while the server runs; 'make demo KEEP=1' leaves it running."
fi
