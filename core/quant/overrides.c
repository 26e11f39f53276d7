/* SPDX-License-Identifier: Apache-2.0
 * overrides.c - one row an option: how its value is read and for which keys it makes sense (overrides.h). The same
 * reader checks a recipe, with faults, and reads it for the run, without. */
#include "core/quant/overrides.h"

#include <fnmatch.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"

const enum dtype override_activations[] = {DTYPE_UINT8, DTYPE_INT8, DTYPE_UINT16, DTYPE_INT16, DTYPE_NONE};
const enum dtype override_weights[] = {DTYPE_INT8, DTYPE_UINT8, DTYPE_INT4, DTYPE_UINT4, DTYPE_INT16, DTYPE_NONE};

enum { POINTER_MAX = 1024 };

/* One value on its way: where it stands, and where faults go (NULL: nowhere). */
struct reading {
    const char *key;
    char pointer[POINTER_MAX];
    struct faults *faults;
};
typedef bool reader(struct reading *r, const json_t *v, struct override *o);

static bool fault(struct reading *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static bool fault(struct reading *r, const char *fmt, ...)
{
    char text[400];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    if (r->faults)
        faults_add(r->faults, r->pointer, "%s", text);
    return false;
}

/* Appends "/key" with the escapes of RFC 6901; long keys are cut. */
static void pointer_add(char pointer[POINTER_MAX], const char *key)
{
    size_t n = strlen(pointer);
    if (n + 3 >= POINTER_MAX)
        return;
    pointer[n++] = '/';
    for (int cut = 0; *key && n + 3 < POINTER_MAX && cut < 120; key++, cut++) {
        if (*key == '~' || *key == '/')
            pointer[n++] = '~';
        pointer[n++] = *key == '~' ? '0' : *key == '/' ? '1' : *key;
    }
    pointer[n] = '\0';
}

/* ---- values ---- */
static bool read_flag(struct reading *r, const json_t *v, int *out)
{
    if (!json_is_boolean(v))
        return fault(r, "'%s' must be true or false", r->key);
    *out = json_is_true(v);
    return true;
}

static bool read_float(struct reading *r, const json_t *v, struct override *o)
{
    return read_flag(r, v, &o->keep_float);
}

static bool read_per_channel(struct reading *r, const json_t *v, struct override *o)
{
    return read_flag(r, v, &o->per_channel);
}

static bool read_symmetric(struct reading *r, const json_t *v, struct override *o)
{
    return read_flag(r, v, &o->symmetric);
}

static bool read_dtype(struct reading *r, const json_t *v, const enum dtype *allowed, enum dtype *out)
{
    char names[120];
    size_t n = 0;
    for (int i = 0; allowed[i] != DTYPE_NONE; i++) {
        if (json_is_string(v) && strcmp(json_string_value(v), dtype_name(allowed[i])) == 0) {
            *out = allowed[i];
            return true;
        }
        n += (size_t)snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", dtype_name(allowed[i]));
    }
    return fault(r, "'%s' must be one of %s", r->key, names);
}

static bool read_activations(struct reading *r, const json_t *v, struct override *o)
{
    return read_dtype(r, v, override_activations, &o->activations);
}

static bool read_weights(struct reading *r, const json_t *v, struct override *o)
{
    return read_dtype(r, v, override_weights, &o->weights);
}

static bool read_range(struct reading *r, const json_t *v, struct override *o)
{
    const json_t *lo = json_array_get(v, 0), *hi = json_array_get(v, 1);
    if (!json_is_array(v) || json_array_size(v) != 2 || !json_is_number(lo) || !json_is_number(hi))
        return fault(r, "'range' must be an array of two numbers, the lowest and the highest");
    o->lo = json_number_value(lo);
    o->hi = json_number_value(hi);
    if (!isfinite(o->lo) || !isfinite(o->hi) || !(o->lo < o->hi) || fabs(o->lo) > 3e38 || fabs(o->hi) > 3e38)
        return fault(r, "'range' must hold two finite float32 numbers, the lower one first");
    o->has_range = true;
    return true;
}

static const struct {
    const char *name;
    reader *read;
    bool node, tensor; /* kinds of keys it is for; "op:" counts as node */
} options[] = {
    {"float", read_float, true, true},
    {"activations", read_activations, true, true},
    {"weights", read_weights, true, false},
    {"per_channel", read_per_channel, true, false},
    {"symmetric", read_symmetric, true, true},
    {"range", read_range, false, true},
};
enum { OPTIONS = sizeof options / sizeof options[0] };

static void read_option(struct reading *r, const json_t *v, struct override *o)
{
    const bool tensor = o->kind == OVERRIDE_TENSOR;
    struct buf list = {0};
    for (int i = 0; i < OPTIONS; i++) {
        if (!(tensor ? options[i].tensor : options[i].node))
            continue;
        if (strcmp(options[i].name, r->key) == 0) {
            options[i].read(r, v, o);
            buf_fini(&list);
            return;
        }
        buf_printf(&list, "%s%s", list.len ? ", " : "", options[i].name);
    }
    fault(r, "there is no option '%.60s' for %s; it takes %s", r->key, tensor ? "a tensor" : "nodes",
          list.data ? list.data : "");
    buf_fini(&list);
}

static struct override read_override(const char *key, const json_t *v, struct reading *r)
{
    struct override o = {.kind = OVERRIDE_NODE, .pattern = key, .keep_float = -1, .per_channel = -1, .symmetric = -1};
    char whole[POINTER_MAX];
    const char *name;
    const json_t *option;
    if (strncmp(key, "op:", 3) == 0) {
        o.kind = OVERRIDE_OP;
        o.pattern = key + 3;
    } else if (strncmp(key, "tensor:", 7) == 0) {
        o.kind = OVERRIDE_TENSOR;
        o.pattern = key + 7;
    }
    if (!*o.pattern)
        fault(r, "the key '%s' names nothing: a glob over node names, op:TYPE or tensor:GLOB is expected", key);
    if (!json_is_object(v)) {
        fault(r, "what is said of '%.60s' must be an object, like {\"float\": true}", key);
        return o;
    }
    memcpy(whole, r->pointer, sizeof whole);
    json_object_foreach ((json_t *)(uintptr_t)v, name, option) {
        memcpy(r->pointer, whole, sizeof whole);
        pointer_add(r->pointer, name);
        r->key = name;
        read_option(r, option, &o);
    }
    memcpy(r->pointer, whole, sizeof whole);
    return o;
}

/* ---- the list ---- */
void overrides_check(const json_t *json, const char *pointer, struct faults *faults)
{
    const char *key;
    const json_t *v;
    if (!json)
        return;
    json_object_foreach ((json_t *)(uintptr_t)json, key, v) {
        struct reading r = {.faults = faults};
        snprintf(r.pointer, sizeof r.pointer, "%.600s/overrides", pointer);
        pointer_add(r.pointer, key);
        read_override(key, v, &r);
    }
}

int overrides_parse(const json_t *json, struct overrides *out, struct err *err)
{
    const size_t n = json ? json_object_size(json) : 0;
    const char *key;
    const json_t *v;
    *out = (struct overrides){.at = calloc(n + 1, sizeof *out->at)};
    if (!out->at)
        return err_set(err, ERR_NOMEM, "out of memory for the overrides");
    for (int kind = 0; kind < OVERRIDE_KINDS && json; kind++)
        json_object_foreach ((json_t *)(uintptr_t)json, key, v) {
            struct reading r = {0};
            const struct override o = read_override(key, v, &r);
            if (o.kind == (enum override_kind)kind && (size_t)out->count < n)
                out->at[out->count++] = o;
        }
    return 0;
}

void overrides_fini(struct overrides *o)
{
    free(o->at);
    *o = (struct overrides){0};
}

bool override_matches(const struct override *o, const char *node, const char *op_type, const char *value)
{
    const char *name = o->kind == OVERRIDE_OP ? op_type : o->kind == OVERRIDE_NODE ? node : value;
    if (!name)
        return false;
    return o->kind == OVERRIDE_OP ? strcmp(o->pattern, name) == 0 : fnmatch(o->pattern, name, 0) == 0;
}
