/* SPDX-License-Identifier: Apache-2.0
 * docs/OPS.md from the rows: what cannot be read off a row is not in the document. */
#include "core/ops/op_doc.h"

#include <inttypes.h>
#include <string.h>

#include "core/ops/op.h"

static const char *const quant_words[] = {
    [QUANT_KEEP_FLOAT] = "float",        [QUANT_COMPUTE] = "8-bit product",    [QUANT_PASS] = "same scale",
    [QUANT_OUTPUT] = "scale of its own", [QUANT_ABSORB] = "into the producer",
};

static void put_count(struct buf *out, int min, int max)
{
    if (max < 0)
        buf_printf(out, "%d or more", min);
    else if (max == min)
        buf_printf(out, "%d", min);
    else
        buf_printf(out, "%d to %d", min, max);
}

static void put_default(struct buf *out, const struct op_attr *a)
{
    if (a->required)
        return;
    if (a->kind == OP_FLOAT)
        buf_printf(out, "=%g", (double)a->def_f);
    else if (a->kind == OP_ENUM)
        buf_printf(out, "=%s", a->choices[a->def]);
    else if (a->kind == OP_STRING && a->def_s && *a->def_s)
        buf_printf(out, "=%s", a->def_s);
    else if (a->kind == OP_BOOL || (a->kind == OP_INT && a->def > INT32_MIN && a->def < INT32_MAX))
        buf_printf(out, "=%" PRId64, a->def);
}

static void put_row(struct buf *out, const struct op_class *op)
{
    buf_printf(out, "| %s | %d", op->type, op->since);
    if (op->until == 0)
        buf_puts(out, " up");
    else if (op->until != op->since)
        buf_printf(out, " to %d", op->until);
    buf_puts(out, " | ");
    put_count(out, op->in_min, op->in_max);
    buf_puts(out, " | ");
    put_count(out, op->out_min, op->out_max);
    buf_puts(out, " |");
    for (const struct op_attr *a = op->attrs; a && a->name; a++) {
        buf_printf(out, "%s `%s", a == op->attrs ? "" : ",", a->name);
        put_default(out, a);
        buf_puts(out, "`");
    }
    buf_printf(out, " | %s | %s | %s | ", quant_words[op->quant.kind], op->backward ? "yes" : "",
               op->couple ? "yes" : "");
    for (const char *p = op->doc; *p; p++) /* a bar would end the cell */
        buf_printf(out, *p == '|' ? "\\%c" : "%c", *p);
    buf_puts(out, " |\n");
}

static void put_intro(struct buf *out, int operators, int rows)
{
    buf_printf(
        out,
        "<!-- Printed from the operator registry (core/ops); do not edit. -->\n"
        "# Operators\n\n"
        "%d operators in %d versions run in the engine. A model with others is still read, kept byte for byte, and "
        "changed by\n"
        "steps that need only its weights.\n\n"
        "- Opset: the versions of the operator set a row is for. An attribute without `=` is required or empty by "
        "default.\n"
        "- Quantization: *8-bit product* (weights and activations become 8-bit), *same scale* (the output reuses the "
        "input's),\n"
        "  *scale of its own*, *into the producer* (its range becomes the producer's), *float* (stays as it is).\n"
        "- Gradient: can be trained through. Coupling: knows which channels must be pruned together.\n",
        operators, rows);
}

static const char *domain_of(const struct op_class *op)
{
    return op->domain && *op->domain ? op->domain : "ai.onnx";
}

static const char internal_intro[] =
    "Made by the engine's own rewriting when a model is run for speed: fused, packed and blocked forms of the operators "
    "above.\nThey never stand in a file; a model that asks for them is refused.\n\n";

void ops_markdown(struct buf *out)
{
    const struct op_class *const *rows = op_all();
    int operators = 0, public_rows = 0, n = 0;
    for (; rows[n]; n++) {
        operators += !rows[n]->internal && (n == 0 || strcmp(rows[n]->type, rows[n - 1]->type) != 0 ||
                                            strcmp(domain_of(rows[n]), domain_of(rows[n - 1])) != 0);
        public_rows += !rows[n]->internal;
    }
    put_intro(out, operators, public_rows);
    for (int i = 0; i < n; i++) {
        if (i == 0 || strcmp(domain_of(rows[i]), domain_of(rows[i - 1])) != 0)
            buf_printf(out,
                       "\n## %s\n\n%s| operator | opset | inputs | outputs | attributes | quantization | gradient | "
                       "coupling | meaning |\n"
                       "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
                       domain_of(rows[i]), rows[i]->internal ? internal_intro : "");
        put_row(out, rows[i]);
    }
}
