# SPDX-License-Identifier: Apache-2.0
# Completion of pared for bash. Made by tools/cli_doc.py; do not edit. Source it, or put it into
# /usr/share/bash-completion/completions/pared.
_pared() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} words
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        COMPREPLY=($(compgen -W "backup bench decode diff eval healthcheck inspect keys methods run serve --help --version" -- "$cur"))
        return
    fi
    case ${COMP_WORDS[1]}:$prev in
        bench:--threads) return ;;
        bench:--batch) return ;;
        bench:--runs) return ;;
        bench:--max-memory) return ;;
        decode:-o|decode:--output) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        decode:--out) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        decode:--max-bytes) return ;;
        diff:--data) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        diff:--limit) return ;;
        diff:--tolerance) return ;;
        diff:--threads) return ;;
        diff:--max-memory) return ;;
        diff:--seed) return ;;
        eval:--data) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        eval:--outputs) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        eval:--limit) return ;;
        eval:--batch) return ;;
        eval:--threads) return ;;
        eval:--max-memory) return ;;
        eval:--max-seconds) return ;;
        inspect:--external-dir) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        keys:--data) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        keys:--owner) return ;;
        keys:--name) return ;;
        keys:--scopes) return ;;
        keys:--expires) return ;;
        keys:--requests-per-s) return ;;
        keys:--active-jobs) return ;;
        keys:--stored-bytes) return ;;
        run:--recipe) COMPREPLY=($(compgen -W "deep-compression fp16 int4-weights int8 int8-accurate int8-dynamic optimize prune-channels prune-distill prune-weights" -- "$cur")); compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        run:--step) COMPREPLY=($(compgen -W "analyse.sensitivity encode.cluster encode.container factor.cp factor.depthwise_separable factor.spatial_svd factor.svd factor.tucker graph.optimize iterate prune.channels prune.heads prune.layers prune.weights quantize.adaround quantize.auto quantize.bf16 quantize.dequantize quantize.dynamic quantize.equalize quantize.fp16 quantize.smooth quantize.static quantize.weights recover.bias_correction recover.bn_stats recover.least_squares train.distill train.finetune train.qat" -- "$cur")); return ;;
        run:--data) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        run:--val-data) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        run:--eval-data) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        run:--teacher) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        run:--target) return ;;
        run:--out) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        run:--checkpoint) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        run:--seed) return ;;
        run:--threads) return ;;
        run:--max-memory) return ;;
        run:--external-dir) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        run:--sandbox) return ;;
        serve:--listen) return ;;
        serve:--data) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        serve:--address_file) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        serve:--log_level) COMPREPLY=($(compgen -W "error warn info debug" -- "$cur")); return ;;
        serve:--log_format) COMPREPLY=($(compgen -W "text json" -- "$cur")); return ;;
        serve:--access_level) COMPREPLY=($(compgen -W "error warn info debug" -- "$cur")); return ;;
        serve:--api_key_file) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        serve:--key_requests_per_s) return ;;
        serve:--key_active_jobs) return ;;
        serve:--key_stored_bytes) return ;;
        serve:--allowed_hosts) return ;;
        serve:--allowed_origins) return ;;
        serve:--cors_max_age_s) return ;;
        serve:--trusted_proxies) return ;;
        serve:--forwarded_header) return ;;
        serve:--tls_certificate) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        serve:--tls_key) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        serve:--audit_log) return ;;
        serve:--link_ttl_s) return ;;
        serve:--http_threads) return ;;
        serve:--http_connections) return ;;
        serve:--http_idle_timeout_s) return ;;
        serve:--http_header_timeout_s) return ;;
        serve:--http_min_rate_bytes) return ;;
        serve:--http_rate_window_s) return ;;
        serve:--events_ping_s) return ;;
        serve:--max_upload_bytes) return ;;
        serve:--max_json_bytes) return ;;
        serve:--max_queued_jobs) return ;;
        serve:--min_free_disk_bytes) return ;;
        serve:--min_free_memory_bytes) return ;;
        serve:--workers) return ;;
        serve:--threads) return ;;
        serve:--job_timeout_s) return ;;
        serve:--job_memory_bytes) return ;;
        serve:--job_file_bytes) return ;;
        serve:--job_disk_bytes) return ;;
        serve:--sandbox) COMPREPLY=($(compgen -W "strict best-effort off" -- "$cur")); return ;;
        serve:--inspect_timeout_s) return ;;
        serve:--inspect_memory_bytes) return ;;
        serve:--lease_ms) return ;;
        serve:--reap_ms) return ;;
        serve:--drain_s) return ;;
        serve:--drain_delay_s) return ;;
        serve:--upload_ttl_s) return ;;
        serve:--job_ttl_s) return ;;
        serve:--artifact_ttl_s) return ;;
        serve:--sweep_interval_s) return ;;
        serve:--storage_check_s) return ;;
        serve:--idempotency_ttl_s) return ;;
        serve:--config) compopt -o filenames; COMPREPLY+=($(compgen -f -- "$cur")); return ;;
        serve:--config|healthcheck:--config) compopt -o filenames; COMPREPLY=($(compgen -f -- "$cur")); return ;;
    esac
    case ${COMP_WORDS[1]} in
        backup) words="--json --help" ;;
        bench) words="--threads --batch --runs --against --profile --plain --max-memory --json --help" ;;
        decode) words="-o --output --out --max-bytes --help" ;;
        diff) words="--data --limit --tolerance --threads --max-memory --seed --json --help" ;;
        eval) words="--data --outputs --limit --batch --threads --max-memory --max-seconds --json --help" ;;
        healthcheck) words="--help --config --listen --data --address_file --log_level --log_format --access_level --api_key_file --key_requests_per_s --key_active_jobs --key_stored_bytes --allowed_hosts --allowed_origins --cors_max_age_s --trusted_proxies --forwarded_header --tls_certificate --tls_key --audit_log --link_ttl_s --http_threads --http_connections --http_idle_timeout_s --http_header_timeout_s --http_min_rate_bytes --http_rate_window_s --events_ping_s --max_upload_bytes --max_json_bytes --max_queued_jobs --min_free_disk_bytes --min_free_memory_bytes --workers --threads --job_timeout_s --job_memory_bytes --job_file_bytes --job_disk_bytes --sandbox --inspect_timeout_s --inspect_memory_bytes --lease_ms --reap_ms --drain_s --drain_delay_s --upload_ttl_s --job_ttl_s --artifact_ttl_s --sweep_interval_s --storage_check_s --idempotency_ttl_s" ;;
        inspect) words="--layers --groups --json --external-dir --help" ;;
        keys) words="--data --json --owner --name --scopes --expires --requests-per-s --active-jobs --stored-bytes --help add list revoke" ;;
        methods) words="--json --help analyse.sensitivity encode.cluster encode.container factor.cp factor.depthwise_separable factor.spatial_svd factor.svd factor.tucker graph.optimize iterate prune.channels prune.heads prune.layers prune.weights quantize.adaround quantize.auto quantize.bf16 quantize.dequantize quantize.dynamic quantize.equalize quantize.fp16 quantize.smooth quantize.static quantize.weights recover.bias_correction recover.bn_stats recover.least_squares train.distill train.finetune train.qat" ;;
        run) words="--recipe --step --data --val-data --eval-data --teacher --target --out --checkpoint --seed --threads --max-memory --external-dir --no-latency --sandbox --json --quiet --help" ;;
        serve) words="--listen --data --address_file --log_level --log_format --access_level --api_key_file --key_requests_per_s --key_active_jobs --key_stored_bytes --allowed_hosts --allowed_origins --cors_max_age_s --trusted_proxies --forwarded_header --tls_certificate --tls_key --audit_log --link_ttl_s --http_threads --http_connections --http_idle_timeout_s --http_header_timeout_s --http_min_rate_bytes --http_rate_window_s --events_ping_s --max_upload_bytes --max_json_bytes --max_queued_jobs --min_free_disk_bytes --min_free_memory_bytes --workers --threads --job_timeout_s --job_memory_bytes --job_file_bytes --job_disk_bytes --sandbox --inspect_timeout_s --inspect_memory_bytes --lease_ms --reap_ms --drain_s --drain_delay_s --upload_ttl_s --job_ttl_s --artifact_ttl_s --sweep_interval_s --storage_check_s --idempotency_ttl_s --config --help" ;;
        *) return ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$cur"))
    [ -n "$cur" ] && [ "${cur#-}" != "$cur" ] && return
    compopt -o filenames
    COMPREPLY+=($(compgen -f -- "$cur"))
}
complete -F _pared pared
