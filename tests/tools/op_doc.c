/* SPDX-License-Identifier: Apache-2.0
 * op_doc: prints docs/OPS.md from the rows of the registry: one table a domain, one line for each version of an
 * operator. Types are not claimed but tried: every row's samples are run with each dtype in place of the first
 * input's. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/engine/engine.h"
#include "tests/op_case.h"

/* ---- types ---- */
static const struct type_group {
    const char *name, *members[5];
} type_groups[] = {
    {"float", {"f16", "bf16", "f32", "f64"}}, {"int", {"i8", "i16", "i32", "i64"}},
    {"uint", {"u8", "u16", "u32", "u64"}},    {"bool", {"b"}},
    {"int4", {"i4", "u4"}},                   {"float8", {"f8"}},
};
enum { GROUPS = sizeof type_groups / sizeof type_groups[0], TEXT = 2000 };

static const char *long_name(const char *letters)
{
    for (size_t i = 0; i < sizeof op_case_dtypes / sizeof op_case_dtypes[0]; i++)
        if (!strcmp(op_case_dtypes[i].name, letters))
            return dtype_name(op_case_dtypes[i].dtype);
    return letters;
}

/* The sample's inputs with `to` wherever the dtype of the first input that is there stands. */
static bool with_dtype(const char *inputs, const char *to, char out[TEXT])
{
    const char *first = inputs;
    while (!strncmp(first, "none ", 5))
        first += 5;
    first += *first == '!';
    const size_t len = strcspn(first, "[");
    size_t n = 0;
    if (first[len] != '[')
        return false;
    for (const char *at = inputs; *at && n + 16 < TEXT;) {
        const bool start = at == inputs || at[-1] == ' ' || at[-1] == '!';
        if (start && !strncmp(at, first, len) && at[len] == '[') {
            n += (size_t)snprintf(out + n, TEXT - n, "%s", to);
            at += len;
        } else {
            out[n++] = *at++;
        }
    }
    out[n] = 0;
    return true;
}

static bool runs(const struct op_class *op, const struct op_sample *sample)
{
    struct op_case c = {0};
    struct tensor out[OP_CASE_OUTPUTS] = {0};
    struct err err = {0};
    if (op_case_build(&c, op, sample, &err) < 0)
        return false;
    struct plan *plan = plan_new(c.m, NULL, &err);
    bool ok = plan && plan_run(plan, c.fed, out, NULL, &err) == 0;
    for (int i = 0; ok && i < plan_n_outputs(plan); i++)
        tensor_fini(&out[i]);
    plan_free(plan);
    op_case_free(&c);
    return ok;
}

static bool takes(const struct op_class *op, const char *dtype)
{
    char inputs[TEXT];
    for (const struct op_sample *s = op->samples; s && s->inputs; s++) {
        struct op_sample other = *s;
        other.inputs = inputs;
        if (with_dtype(s->inputs, dtype, inputs) && runs(op, &other))
            return true;
    }
    return false;
}

/* "float, int, bool"; members one by one where not the whole group runs. */
static void put_types(struct buf *out, const struct op_class *op)
{
    const char *comma = "";
    for (int g = 0; g < GROUPS; g++) {
        bool has[5] = {false};
        int n = 0, members = 0;
        for (; type_groups[g].members[members]; members++)
            n += has[members] = takes(op, type_groups[g].members[members]);
        if (n == 0)
            continue;
        if (n == members && members > 1) {
            buf_printf(out, "%s%s", comma, type_groups[g].name);
            comma = ", ";
        }
        for (int k = 0; k < members && (n < members || members == 1); k++)
            if (has[k]) {
                buf_printf(out, "%s%s", comma, long_name(type_groups[g].members[k]));
                comma = ", ";
            }
    }
}

/* ---- rows ---- */

static const char *const quant_words[] = {
    [QUANT_KEEP_FLOAT] = "float",        [QUANT_COMPUTE] = "8-bit product",    [QUANT_PASS] = "same scale",
    [QUANT_OUTPUT] = "scale of its own", [QUANT_ABSORB] = "into the producer",
    [QUANT_OPTIONAL] = "when asked for",
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
    buf_puts(out, " | ");
    put_types(out, op);
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
        "- Types: what the first input (and all of its type) may be, found by running: *float* is float16, bfloat16, float32 "
        "and\n  float64; *int* and *uint* are 8 to 64 bits wide. Rows without a sample of tensors alone leave it empty.\n"
        "- Quantization: *8-bit product* (weights and activations become 8-bit), *same scale* (the output reuses the "
        "input's),\n"
        "  *scale of its own*, *into the producer* (its range becomes the producer's), *when asked for* (else float), *float* (stays as it is).\n"
        "- Meaning: ends with what is refused beyond impossible attributes and shapes, which every row refuses.\n"
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

static void ops_markdown(struct buf *out)
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
                       "\n## %s\n\n%s| operator | opset | inputs | outputs | attributes | types | quantization | gradient | "
                       "coupling | meaning |\n"
                       "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
                       domain_of(rows[i]), rows[i]->internal ? internal_intro : "");
        put_row(out, rows[i]);
    }
}

int main(void)
{
    struct buf out = {0};
    ops_markdown(&out);
    bool failed = out.failed || fwrite(out.data, 1, out.len, stdout) != out.len || fflush(stdout) != 0;
    buf_fini(&out);
    return failed;
}
