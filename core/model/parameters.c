/* SPDX-License-Identifier: Apache-2.0
 * What counts is decided by the readers of a constant: `role` gathers what they say. Bytes are read without regard to
 * alignment, because a window into a file may start anywhere. */
#include "core/model/parameters.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"

const struct tensor *value_stored(const struct model *m, uint32_t value)
{
    if (value == VALUE_NONE || !m->values[value].name)
        return NULL;
    return m->values[value].weight ? &m->values[value].weight->tensor : value_const(m, value);
}

int64_t stored_elements(const struct tensor *t)
{
    int64_t n = shape_count(&t->shape);
    return n > 0 ? n : 0;
}

int64_t stored_bytes(const struct tensor *t)
{
    size_t bytes = 0;
    return dtype_bytes(t->dtype, stored_elements(t), &bytes) && bytes <= INT64_MAX ? (int64_t)bytes : 0;
}

static void add_saturated(int64_t *sum, int64_t more)
{
    if (!i64_add(*sum, more, sum))
        *sum = INT64_MAX;
}

/* --- which --- */

struct role {
    bool quantizer;   /* only ever a scale or a zero point */
    bool dequantized; /* input 0 of a DequantizeLinear: a weight or bias in integers */
    const struct tensor *zero_point;
};

static struct role role_of(const struct model *m, const struct uses *uses, uint32_t v)
{
    struct role r = {.quantizer = uses_count(uses, v) > 0};
    for (uint32_t i = uses->first[v]; i < uses->first[v + 1]; i++) {
        const struct use *u = &uses->all[i];
        const struct node *n = u->node == NODE_NONE ? NULL : &m->nodes[u->node];
        bool dequantize = n && n->op_type && node_is(n, "DequantizeLinear");
        bool quantize = n && n->op_type && node_is(n, "QuantizeLinear");
        if (u->slot == 0 || (!dequantize && !quantize))
            r.quantizer = false;
        if (dequantize && u->slot == 0) {
            r.dequantized = true;
            if (n->n_input > 2)
                r.zero_point = value_const(m, n->input[2]);
        }
    }
    return r;
}

static bool counts(const struct tensor *t, const struct role *r)
{
    bool integer = dtype_is_integer(t->dtype);
    if (r->quantizer || t->shape.rank == 0 || dtype_bits(t->dtype) == 0 || t->dtype == DTYPE_BOOL)
        return false;
    if (!dtype_is_float(t->dtype) && !integer)
        return false;
    return !integer || dtype_bits(t->dtype) <= 8 || r->dequantized;
}

bool value_is_parameter(const struct model *m, const struct uses *uses, uint32_t value)
{
    const struct tensor *t = value_stored(m, value);
    if (!t)
        return false;
    struct role r = role_of(m, uses, value);
    return counts(t, &r);
}

/* --- how many are not zero --- */

static int64_t count_f32(const unsigned char *p, int64_t n)
{
    int64_t nonzero = 0;
    for (int64_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, p + i * 4, 4);
        nonzero += (bits & 0x7fffffffu) != 0;
    }
    return nonzero;
}

static int64_t count_bytes(const unsigned char *p, int64_t n, unsigned char zero)
{
    int64_t nonzero = 0;
    for (int64_t i = 0; i < n; i++)
        nonzero += p[i] != zero;
    return nonzero;
}

/* Elements of `width` bytes that differ from zero[width]; `mask` takes the sign of floats out of the last byte. */
static int64_t count_wide(const unsigned char *p, int64_t n, size_t width, const unsigned char *zero,
                          unsigned char mask)
{
    int64_t nonzero = 0;
    for (int64_t i = 0; i < n; i++, p += width) {
        unsigned char differs = 0;
        for (size_t k = 0; k + 1 < width; k++)
            differs |= p[k] ^ zero[k];
        differs |= (p[width - 1] ^ zero[width - 1]) & mask;
        nonzero += differs != 0;
    }
    return nonzero;
}

static int64_t count_packed(const struct tensor *t, int64_t n, double zero)
{
    int64_t nonzero = 0;
    for (int64_t i = 0; i < n; i++)
        nonzero += dtype_get(t->dtype, t->data, i) != zero;
    return nonzero;
}

/* A zero point that differs per channel is only ever 0 in practice and taken as 0. */
static int64_t count_nonzero(const struct tensor *t, const struct tensor *zero_point)
{
    unsigned char zero[16] = {0};
    int64_t n = stored_elements(t);
    int bits = dtype_bits(t->dtype);
    bool has_zero =
        zero_point && zero_point->data && zero_point->dtype == t->dtype && stored_elements(zero_point) == 1;
    bool sign = dtype_is_float(t->dtype) && t->dtype != DTYPE_FLOAT8E8M0;
    if (has_zero && stored_bytes(zero_point) <= (int64_t)sizeof zero)
        memcpy(zero, zero_point->data, (size_t)stored_bytes(zero_point));
    if (bits < 8)
        return count_packed(t, n, has_zero ? dtype_get(t->dtype, zero, 0) : 0);
    if (t->dtype == DTYPE_FLOAT)
        return count_f32(t->data, n);
    if (bits == 8 && !sign)
        return count_bytes(t->data, n, zero[0]);
    return count_wide(t->data, n, (size_t)bits / 8, zero, sign ? 0x7f : 0xff);
}

/* --- the model --- */

int64_t model_params(const struct model *m)
{
    struct uses uses = {0};
    int64_t params = 0;
    if (uses_build(&uses, m, NULL))
        return -1;
    for (uint32_t v = 0; v < m->n_values; v++)
        if (value_is_parameter(m, &uses, v))
            add_saturated(&params, stored_elements(value_stored(m, v)));
    uses_fini(&uses);
    return params;
}

int64_t model_nonzero(const struct model *m)
{
    struct uses uses = {0};
    int64_t nonzero = 0;
    if (uses_build(&uses, m, NULL))
        return -1;
    for (uint32_t v = 0; v < m->n_values && nonzero >= 0; v++) {
        const struct tensor *t = value_stored(m, v);
        if (!t || stored_elements(t) == 0)
            continue;
        struct role r = role_of(m, &uses, v);
        if (!counts(t, &r))
            continue;
        if (t->data) {
            add_saturated(&nonzero, count_nonzero(t, r.zero_point));
            tensor_release_pages(t);
        } else
            nonzero = -1; /* external data that was not given */
    }
    uses_fini(&uses);
    return nonzero;
}

int64_t value_nonzero(const struct model *m, const struct uses *uses, uint32_t value)
{
    const struct tensor *t = value_stored(m, value);
    if (!t || stored_elements(t) == 0)
        return 0;
    if (!t->data)
        return -1;
    struct role r = role_of(m, uses, value);
    int64_t nonzero = count_nonzero(t, r.zero_point);
    tensor_release_pages(t);
    return nonzero;
}

int64_t model_weight_bytes(const struct model *m)
{
    int64_t bytes = 0;
    for (uint32_t v = 0; v < m->n_values; v++) {
        const struct tensor *t = value_stored(m, v);
        if (t)
            add_saturated(&bytes, stored_bytes(t));
    }
    return bytes;
}

/* --- external data --- */

struct names {
    const char **at;
    int count, cap;
    bool failed;
};

static void add_name(struct names *list, const struct weight *w)
{
    const char *location = NULL;
    for (int i = 0; w && w->storage == STORAGE_EXTERNAL && i < w->external.count; i++)
        if (w->external.at[i].key && !strcmp(w->external.at[i].key, "location"))
            location = w->external.at[i].value;
    for (int i = 0; location && i < list->count; i++)
        if (!strcmp(list->at[i], location))
            return;
    if (!location)
        return;
    if (list->count == list->cap) {
        int cap = list->cap ? list->cap * 2 : 8;
        const char **grown = realloc(list->at, (size_t)cap * sizeof *grown);
        if (!grown) {
            list->failed = true;
            return;
        }
        list->at = grown;
        list->cap = cap;
    }
    list->at[list->count++] = location;
}

int model_external_files(const struct model *m, const char ***names, int *count, struct err *err)
{
    struct names list = {0};
    for (uint32_t v = 0; v < m->n_values; v++)
        add_name(&list, m->values[v].name ? m->values[v].weight : NULL);
    for (uint32_t n = 0; n < m->n_nodes; n++)
        for (int a = 0; m->nodes[n].op_type && a < m->nodes[n].n_attr; a++) {
            const struct attr *attr = &m->nodes[n].attr[a];
            for (int i = 0; (attr->type == ATTR_TENSOR || attr->type == ATTR_TENSORS) && i < attr->count; i++)
                add_name(&list, attr->tensors[i]);
        }
    if (list.failed) {
        free(list.at);
        return err_set(err, ERR_NOMEM, "no memory for the list of external data files");
    }
    *names = list.at;
    *count = list.count;
    return 0;
}

static int64_t count_nan(const struct tensor *t)
{
    const int64_t n = stored_elements(t);
    const unsigned char *p = t->data;
    int64_t found = 0;
    if (!p || !dtype_is_float(t->dtype) || dtype_bits(t->dtype) < 8)
        return 0;
    if (t->dtype == DTYPE_FLOAT) { /* nearly all weights; they may stand at odd addresses */
        for (int64_t i = 0; i < n; i++) {
            uint32_t bits;
            memcpy(&bits, p + i * 4, 4);
            found += (bits & 0x7fffffffu) > 0x7f800000u;
        }
        return found;
    }
    const size_t width = (size_t)dtype_bits(t->dtype) / 8;
    for (int64_t i = 0; i < n; i++) {
        uint64_t one[2] = {0};
        memcpy(one, p + (size_t)i * width, width < sizeof one ? width : sizeof one);
        found += isnan(dtype_get(t->dtype, one, 0));
    }
    return found;
}

int64_t model_nan_weights(const struct model *m, model_nan_fn *say, void *arg)
{
    int64_t constants = 0;
    for (uint32_t v = 0; v < m->n_values; v++) {
        const struct tensor *t = m->values[v].name ? value_stored(m, v) : NULL;
        const int64_t found = t ? count_nan(t) : 0;
        if (t)
            tensor_release_pages(t);
        if (!found)
            continue;
        say(arg, m->values[v].name, found);
        constants++;
    }
    return constants;
}
