/* SPDX-License-Identifier: Apache-2.0
 * op_doc: prints docs/OPS.md. */
#include "core/ops/op_doc.h"

#include <stdio.h>

int main(void)
{
    struct buf out = {0};
    ops_markdown(&out);
    bool failed = out.failed || fwrite(out.data, 1, out.len, stdout) != out.len || fflush(stdout) != 0;
    buf_fini(&out);
    return failed;
}
