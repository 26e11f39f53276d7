#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# compress.sh URL MODEL OUT [DATASET]: one CI step. Uploads, runs the recipe RECIPE (int8), waits, downloads the model and its report, and
# fails when the job fails or a target is missed. Key in PARED_API_KEY. Needs curl 7.84 or newer, and jq.
set -eu
url=$1 model=$2 out=$3 dataset=${4:-}
text=$(mktemp)
trap 'rm -f "$text"' EXIT

api() { # method, path, further arguments of curl; prints the answer, of several tries the last: curl cuts a file, not a pipe
    method=$1 path=$2 status=0
    shift 2
    : >"$text"
    curl -sS --fail-with-body --retry 3 --retry-connrefused -X "$method" ${PARED_API_KEY:+-H "Authorization: Bearer $PARED_API_KEY"} "$@" \
        -o "$text" "$url$path" || status=$?
    cat "$text"
    return $status
}
refused() { # what the server said, in its words
    printf '%s\n' "$1" >&2
    exit 1
}
made=$(api PUT "/v1/models?name=$(basename "$model")" -T "$model") || refused "$made"
body=$(printf %s "$made" | jq --arg recipe "${RECIPE:-int8}" '{model: .id, recipe: $recipe, reuse: true}')
if [ -n "$dataset" ]; then
    made=$(api PUT "/v1/datasets?name=$(basename "$dataset")" -T "$dataset") || refused "$made"
    body=$(printf %s "$made" | jq --argjson body "$body" '$body + {dataset: .id}')
fi
# the run of the pipeline and the file make the key: a request sent twice is one job. A pipeline run again finds what succeeded by `reuse`
run=${CI_JOB_ID:-${GITHUB_RUN_ID:-local-$$}-${GITHUB_RUN_ATTEMPT:-1}}
made=$(api POST /v1/jobs --json "$body" -H "Idempotency-Key: $run-$(basename "$model")-${RECIPE:-int8}") || refused "$made"
job=$(printf %s "$made" | jq -r .id)
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
