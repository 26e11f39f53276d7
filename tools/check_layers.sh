#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# check_layers.sh: a lower layer never includes a higher one; siblings (one line) never include each other.
set -eu
cd "$(dirname "$0")/.."
order='core/base
core/tensor
core/kernels
core/model
core/ops
core/engine
core/data
core/stats
core/step
core/passes
core/prune core/quant core/train core/factor core/encode
core/report
core/recipe
server
api
cli'
rank() { echo "$order" | awk -v d="$1" '{for (i = 1; i <= NF; i++) if ($i == d) print NR}'; }
bad=0
for f in $(find core server api cli -name '*.[ch]' | sort); do
    from=${f%/*}
    r=$(rank "$from")
    [ -n "$r" ] || { echo "$f: folder is not a known layer"; bad=1; continue; }
    for inc in $(sed -nE 's/^#include "([^"]+)".*/\1/p' "$f"); do
        case $inc in */*) to=${inc%/*} ;; *) continue ;; esac
        [ "$to" = "$from" ] && continue
        t=$(rank "$to")
        if [ -z "$t" ] || [ "$t" -ge "$r" ]; then echo "$f includes $inc: $from may not use $to"; bad=1; fi
    done
    case $f in core/*) if grep -nE '#include <(microhttpd|sqlite3|uv|libpq-fe|curl/)' "$f"; then echo "$f: core/ knows no HTTP, SQL or sockets"; bad=1; fi ;; esac
done
[ $bad = 0 ] && echo "layers: ok"
exit $bad
