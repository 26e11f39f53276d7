/* SPDX-License-Identifier: Apache-2.0
 * op_doc.h - docs/OPS.md, printed from the rows of the registry. */
#ifndef PARED_OPS_OP_DOC_H
#define PARED_OPS_OP_DOC_H

#include "core/base/buf.h"

/* The whole document as Markdown: one table a domain, one row for each version of an operator. */
void ops_markdown(struct buf *out);

#endif
