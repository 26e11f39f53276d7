#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# compress.sh URL MODEL OUT [DATASET]: one CI step. Uploads, runs the recipe RECIPE (int8), waits, downloads the model and its report, and
# fails when the job fails or a target is missed. Key in PARED_API_KEY. Needs curl 7.76 or newer, and jq.
set -eu
url=$1 model=$2 out=$3 dataset=${4:-}

api() { # method, path, further arguments of curl
    method=$1 path=$2
    shift 2
    curl -sS --fail-with-body --retry 3 --retry-connrefused -X "$method" ${PARED_API_KEY:+-H "Authorization: Bearer $PARED_API_KEY"} "$@" "$url$path"
}
body=$(jq -n --arg model "$(api PUT "/v1/models?name=$(basename "$model")" -T "$model" | jq -r .id)" --arg recipe "${RECIPE:-int8}" '$ARGS.named')
if [ -n "$dataset" ]; then
    id=$(api PUT "/v1/datasets?name=$(basename "$dataset")" -T "$dataset" | jq -r .id)
    body=$(printf %s "$body" | jq --arg id "$id" '. + {dataset: $id}')
fi
# the commit and the file make the key: a pipeline that is run again finds the job of the first time
job=$(api POST /v1/jobs --json "$body" -H "Idempotency-Key: ${CI_COMMIT_SHA:-${GITHUB_SHA:-local-$$}}-$(basename "$model")-${RECIPE:-int8}" | jq -r .id)
echo "job $job"
state=queued
while [ "$state" = queued ] || [ "$state" = running ]; do
    answer=$(api GET "/v1/jobs/$job?wait=25")
    state=$(printf %s "$answer" | jq -r .state)
done
[ "$state" = succeeded ] || { printf %s "$answer" | jq -r '"job \(.id): \(.state): \(.error.detail // "")"' >&2; exit 1; }
mkdir -p "$(dirname "$out")"
api GET "/v1/jobs/$job/artifacts/model.onnx" -o "$out"
api GET "/v1/jobs/$job/report" -o "${out%.onnx}.report.json"
jq -r '"\(.before.bytes) -> \(.after.bytes) bytes (\(.ratio.bytes * 100 | round)%)"' "${out%.onnx}.report.json"
[ "$(printf %s "$answer" | jq -r .targets_met)" != false ] || { echo "a target of the recipe was missed" >&2; exit 3; }
