#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# embed.sh FILE...: assembler source that carries each file's bytes, and a table of {name, start, end} (api/assets.h reads it).
set -eu
echo '.section .note.GNU-stack,"",@progbits'
echo '.section .rodata'
i=0
for f in "$@"; do
    printf 'asset_%d:\n.incbin "%s"\nasset_%d_end:\nasset_%d_name:\n.asciz "%s"\n' $i "$f" $i $i "${f##*/}"
    i=$((i + 1))
done
printf '.section .data.rel.ro,"aw"\n.balign 8\n.global asset_table\nasset_table:\n'
n=0
while [ $n -lt $i ]; do
    printf '.quad asset_%d_name, asset_%d, asset_%d_end\n' $n $n $n
    n=$((n + 1))
done
printf '.quad 0, 0, 0\n'
