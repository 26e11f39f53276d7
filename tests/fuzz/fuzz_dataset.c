/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a dataset: recognised or refused, then checked, bound to several models and read.
 * Bytes that begin with "files\n" are a folder: each part is a name, a line end and the file's content, up to the next
 * "\n--next--\n". So a data.json meets its files, pictures their labels.csv, and input_0.pb its outputs. */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/data/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MODELS = 8, INPUTS = 2, PARTS = 8 };

static const char lead[] = "files\n", next[] = "\n--next--\n";
static char dir[40], cache[48], input[48];
static struct model *models[MODELS];

static void must(bool holds)
{
    if (!holds)
        abort();
}

struct form {
    const char *name;
    enum dtype dtype;
    struct shape shape;
};

/* Ends at a form without a name. */
static struct model *model_of(const struct form *forms)
{
    struct model *m = model_new();
    struct graph *g = model_main(m);
    g->inputs = model_alloc(m, INPUTS, sizeof *g->inputs);
    for (int i = 0; i < INPUTS && forms[i].name; i++) {
        struct value_info *in = &g->inputs[g->n_inputs++];
        in->value = model_add_value(m, 0, forms[i].name, false);
        in->has_type = true;
        in->type = (struct type){.kind = TYPE_TENSOR,
                                 .dtype = forms[i].dtype,
                                 .has_dtype = true,
                                 .has_shape = forms[i].shape.rank >= 0,
                                 .shape = forms[i].shape};
    }
    return m;
}

static void remove_dir(void)
{
    file_remove_tree(dir, &(struct err){0});
    for (int i = 0; i < MODELS; i++)
        model_free(models[i]);
}

static void start(void)
{
    const struct form forms[MODELS][INPUTS] = {
        {{"x", DTYPE_FLOAT, SHAPE(DIM_UNKNOWN, DIM_UNKNOWN, DIM_UNKNOWN, DIM_UNKNOWN)}},
        {{"x", DTYPE_UINT8, SHAPE_UNKNOWN}},
        {{"picture", DTYPE_FLOAT, SHAPE(DIM_UNKNOWN, 3, 4, 4)}},
        {{"x", DTYPE_DOUBLE, SHAPE_UNKNOWN}, {"z", DTYPE_INT64, SHAPE(DIM_UNKNOWN, 2)}},
        {{"x", DTYPE_FLOAT16, SHAPE(DIM_UNKNOWN, 12)}},
        {{"x", DTYPE_FLOAT, {.rank = 0}}},
        {{"x", DTYPE_STRING, SHAPE_UNKNOWN}},
        {{NULL}},
    };
    snprintf(dir, sizeof dir, "/dev/shm/pared-fuzz-XXXXXX"); /* a fuzzer should not wait for a disk */
    must(mkdtemp(dir) != NULL);
    snprintf(cache, sizeof cache, "%s/cache", dir);
    snprintf(input, sizeof input, "%s/in", dir);
    must(mkdir(cache, 0700) == 0);
    for (int i = 0; i < MODELS; i++)
        models[i] = model_of(forms[i]);
    atexit(remove_dir);
}

static void write_file(const char *path, const void *bytes, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    must(fd >= 0 && write(fd, bytes, len) == (ssize_t)len);
    close(fd);
}

/* A part whose name is plain, or "folder/plain"; others are left out. */
static void write_part(const char *part, size_t len)
{
    char path[120], name[40];
    const char *end = memchr(part, '\n', len);
    size_t n = end ? (size_t)(end - part) : 0, slash = 0;
    if (n == 0 || n >= sizeof name)
        return;
    for (size_t i = 0; i < n; i++) {
        if (!memchr("abcdefghijklmnopqrstuvwxyz0123456789_./", part[i], 39) || (part[i] == '/' && (slash || i == 0)))
            return;
        slash = part[i] == '/' ? i : slash;
    }
    memcpy(name, part, n);
    name[n] = 0;
    if (name[0] == '.' || strstr(name, "/.") || name[n - 1] == '/')
        return;
    snprintf(path, sizeof path, "%s/%.*s", input, (int)slash, name);
    struct stat st;
    if (slash && mkdir(path, 0700) != 0 && (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)))
        return;
    snprintf(path, sizeof path, "%s/%s", input, name);
    if (stat(path, &st) != 0)
        write_file(path, end + 1, len - n - 1);
}

static void write_folder(const char *text, size_t len)
{
    must(mkdir(input, 0700) == 0);
    for (int i = 0; i < PARTS; i++) {
        const char *stop = memmem(text, len, next, sizeof next - 1);
        size_t n = stop ? (size_t)(stop - text) : len;
        write_part(text, n);
        if (!stop)
            return;
        text = stop + sizeof next - 1;
        len -= n + sizeof next - 1;
    }
}

static void read_as(struct dataset *ds, const struct model *model)
{
    struct err err = {0};
    struct tensor in[INPUTS], labels;
    if (dataset_bind(ds, model, &err) != 0) {
        must(err.code != ERR_NONE); /* a refusal has a sentence */
        return;
    }
    int64_t count = dataset_count(ds);
    if (dataset_read_range(ds, 0, count < 3 ? (int)count : 3, in, &labels, &err) != 0) {
        must(err.code != ERR_NONE);
        return;
    }
    for (int i = 0; i < model_main(model)->n_inputs; i++)
        tensor_fini(&in[i]);
    tensor_fini(&labels);
}

static void examine(struct dataset *ds)
{
    struct err err = {0};
    json_t *facts = dataset_facts(ds);
    must(json_is_object(facts) && dataset_count(ds) > 0);
    json_decref(facts);
    if (dataset_labels_are_classes(ds)) {
        must(dataset_class(ds, 0) >= 0 && dataset_class(ds, 0) <= dataset_max_label(ds));
        must((dataset_check_labels(ds, 2, &err) == 0) == (dataset_max_label(ds) < 2));
    }
    err = (struct err){0};
    must((dataset_check_values(ds, &err) == 0) == (err.code == ERR_NONE));
    for (int i = 0; i < MODELS; i++)
        read_as(ds, models[i]);
    int64_t *spread = NULL, n = dataset_spread(ds, 3, &spread, &err);
    must(n > 0 && n <= 3 && spread[n - 1] < dataset_count(ds));
    free(spread);
    for (int i = 0; i < dataset_n_expected(ds); i++)
        must(dataset_single_feed(ds) && tensor_count(dataset_expected(ds, i)) >= 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!models[0])
        start();
    const bool folder = size >= sizeof lead - 1 && memcmp(data, lead, sizeof lead - 1) == 0;
    if (folder)
        write_folder((const char *)data + sizeof lead - 1, size - (sizeof lead - 1));
    else
        write_file(input, data, size);
    struct err err = {0};
    struct dataset *ds = dataset_open(
        input, &(struct dataset_opts){.cache_dir = cache, .max_unpacked_bytes = 4 << 20, .confined = true}, &err);
    must((ds == NULL) == (err.code != ERR_NONE));
    if (ds)
        examine(ds);
    dataset_close(ds);
    if (folder)
        file_remove_tree(input, &(struct err){0});
    else
        unlink(input);
    return 0;
}
