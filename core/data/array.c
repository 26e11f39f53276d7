/* SPDX-License-Identifier: Apache-2.0 */
#include "core/data/array.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"

static const unsigned char npy_magic[6] = {0x93, 'N', 'U', 'M', 'P', 'Y'};

bool array_looks_npy(const unsigned char *data, size_t size)
{
    return size >= 10 && memcmp(data, npy_magic, 6) == 0;
}

bool array_looks_idx(const unsigned char *data, size_t size)
{
    return size >= 8 && data[0] == 0 && data[1] == 0 && data[2] == 8 && data[3] >= 1 && data[3] <= 4;
}

bool array_looks_cifar10(const unsigned char *data, size_t size)
{
    if (size < CIFAR_RECORD || size % CIFAR_RECORD)
        return false;
    for (size_t i = 0; i < size; i += CIFAR_RECORD)
        if (data[i] > 9)
            return false;
    return true;
}

static int set_array(struct array *out, const char *name, enum dtype dtype, const struct shape *shape, const unsigned char *data,
                     size_t size, struct err *err)
{
    size_t bytes;
    int64_t n = shape_count(shape);
    char text[SHAPE_TEXT];
    if (n < 0 || !dtype_bytes(dtype, n, &bytes) || bytes != size)
        return err_set(err, ERR_DATASET, "array '%s' of %s%s does not match its %zu bytes of data", name, dtype_name(dtype),
                       shape_text(shape, text), size);
    out->name = strdup(name);
    if (!out->name)
        return err_set(err, ERR_NOMEM, "out of memory");
    tensor_view(&out->t, dtype, shape, (void *)(uintptr_t)data, NULL);
    return 0;
}

/* Value of 'key' in the header's Python dictionary: text after the colon; NULL if absent. */
static const char *header_value(const char *header, const char *key)
{
    const char *p = strstr(header, key);
    p = p ? strchr(p, ':') : NULL;
    return p ? p + 1 + strspn(p + 1, " ") : NULL;
}

static enum dtype dtype_of_descr(const char *descr)
{
    static const struct {
        const char *descr;
        enum dtype dtype;
    } map[] = {{"|b1", DTYPE_BOOL},  {"|u1", DTYPE_UINT8},  {"|i1", DTYPE_INT8},   {"<u2", DTYPE_UINT16},
               {"<i2", DTYPE_INT16}, {"<u4", DTYPE_UINT32}, {"<i4", DTYPE_INT32},  {"<u8", DTYPE_UINT64},
               {"<i8", DTYPE_INT64}, {"<f2", DTYPE_FLOAT16}, {"<f4", DTYPE_FLOAT}, {"<f8", DTYPE_DOUBLE}};
    for (size_t i = 0; descr && i < sizeof map / sizeof *map; i++)
        if ((*descr == '\'' || *descr == '"') && strncmp(descr + 1, map[i].descr, 3) == 0)
            return map[i].dtype;
    return DTYPE_NONE;
}

/* Bytes of a quoted type for a sentence: to its closing quote, at most 16. */
static int descr_length(const char *descr)
{
    const char *end = descr && *descr ? strchr(descr + 1, *descr) : NULL;
    return !descr ? 0 : end && end - descr < 16 ? (int)(end - descr) + 1 : (int)strnlen(descr, 16);
}

static int parse_shape(struct shape *shape, const char *text)
{
    shape->rank = 0;
    if (!text || *text != '(')
        return -1;
    for (text++; *text != ')';) {
        char *end;
        long long v = strtoll(text, &end, 10);
        if (end == text || v < 0 || shape->rank >= SHAPE_MAX_RANK)
            return -1;
        shape->dim[shape->rank++] = v;
        text = end + strspn(end, ", L");
    }
    return 0;
}

int array_parse_npy(struct array *out, const char *name, const unsigned char *data, size_t size, struct err *err)
{
    *out = (struct array){0};
    if (!array_looks_npy(data, size))
        return err_set(err, ERR_DATASET, "array '%s' is not a .npy file (its first bytes are not \\x93NUMPY)", name);
    size_t start = data[6] >= 2 ? 12 : 10, len = data[8] | (size_t)data[9] << 8;
    if (data[6] >= 2 && size >= 12)
        len |= (size_t)data[10] << 16 | (size_t)data[11] << 24;
    if (size < start || len > size - start || len > 65536)
        return err_set(err, ERR_DATASET, "array '%s': header of %zu bytes does not fit the file of %zu", name, len, size);
    char *header = strndup((const char *)data + start, len);
    if (!header)
        return err_set(err, ERR_NOMEM, "out of memory");
    const char *descr = header_value(header, "descr"), *order = header_value(header, "fortran_order");
    enum dtype dtype = dtype_of_descr(descr);
    struct shape shape;
    int rc;
    if (dtype == DTYPE_NONE)
        rc = err_set(err, ERR_DATASET, "array '%s' has element type %.*s; use bool, integers or float16/32/64, little-endian", name,
                     descr_length(descr), descr ? descr : "");
    else if (!order || strncmp(order, "False", 5))
        rc = err_set(err, ERR_DATASET, "array '%s' is in Fortran order; save it with numpy.ascontiguousarray", name);
    else if (parse_shape(&shape, header_value(header, "shape")))
        rc = err_set(err, ERR_DATASET, "array '%s' has no readable shape in its header", name);
    else
        rc = set_array(out, name, dtype, &shape, data + start + len, size - start - len, err);
    free(header);
    return rc;
}

int array_parse_idx(struct array *out, const char *name, const unsigned char *data, size_t size, struct err *err)
{
    *out = (struct array){0};
    if (!array_looks_idx(data, size))
        return err_set(err, ERR_DATASET, "array '%s' is not an IDX file of unsigned bytes (it should begin with 00 00 08 and its rank)", name);
    struct shape shape = {.rank = data[3]};
    size_t start = 4 + 4 * (size_t)shape.rank;
    if (size < start)
        return err_set(err, ERR_DATASET, "array '%s': the IDX header is cut short", name);
    for (int i = 0; i < shape.rank; i++) {
        const unsigned char *p = data + 4 + 4 * i;
        shape.dim[i] = (int64_t)p[0] << 24 | (int64_t)p[1] << 16 | (int64_t)p[2] << 8 | p[3];
    }
    return set_array(out, name, DTYPE_UINT8, &shape, data + start, size - start, err);
}

void array_fini(struct array *a)
{
    free(a->name);
    tensor_fini(&a->t);
    *a = (struct array){0};
}
