/* SPDX-License-Identifier: Apache-2.0
 * From a path to arrays, pictures or records. A path without data.json is recognised by its first bytes, never by its name: uploads
 * have none. Each format is one row: how it is recognised, how it is loaded. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/data/dataset_internal.h"
#include "core/model/onnx_read.h"

static const size_t DEFAULT_UNPACKED = (size_t)64 << 30;

static struct unpack_limits limits_of(const struct dataset *ds)
{
    return (struct unpack_limits){ds->opts.max_unpacked_bytes ? ds->opts.max_unpacked_bytes : DEFAULT_UNPACKED};
}

static const char *cache_name(struct dataset *ds, char buf[32])
{
    snprintf(buf, 32, "data%d", ds->n_cache_files++);
    return buf;
}

static bool ends_with(const char *name, const char *suffix)
{
    size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcasecmp(name + n - m, suffix) == 0;
}

static bool want_npy(const char *name)
{
    return ends_with(name, ".npy");
}

static bool is_picture(const char *name)
{
    return ends_with(name, ".jpg") || ends_with(name, ".jpeg") || ends_with(name, ".png");
}

static bool want_picture(const char *name)
{
    const char *base = strrchr(name, '/');
    return is_picture(name) || strcmp(base ? base + 1 : name, "labels.csv") == 0;
}

static bool is_zip(const unsigned char *data, size_t size)
{
    return size >= 4 && data[0] == 'P' && data[1] == 'K' && (data[2] == 3 || data[2] == 5);
}

static bool is_gzip(const unsigned char *data, size_t size)
{
    return size >= 2 && data[0] == 0x1f && data[1] == 0x8b;
}

static bool is_tar(const unsigned char *data, size_t size)
{
    return size >= 512 && memcmp(data + 257, "ustar", 5) == 0;
}

/* Map a file, through gzip if it is compressed; the mapping lives as long as the dataset. */
static int map_file(struct dataset *ds, const char *path, struct file_map **out, struct err *err)
{
    if (ds->n_files >= DATASET_MAX_FILES)
        return err_set(err, ERR_DATASET, "more than %d files", DATASET_MAX_FILES);
    struct file_map *map = &ds->files[ds->n_files];
    if (file_map_open(map, path, err))
        return -1;
    if (is_gzip(map->data, map->size)) {
        char name[32];
        struct unpack_limits limits = limits_of(ds);
        file_map_close(map);
        if (unpack_gzip(map, path, ds->cache_dir, cache_name(ds, name), &limits, err))
            return -1;
    }
    ds->n_files++;
    *out = map;
    return 0;
}

static int add_array(struct dataset *ds, struct array *a, struct err *err)
{
    bool labels = strcmp(a->name, "y") == 0;
    if (a->t.shape.rank < 1) {
        err_set(err, ERR_DATASET, "array '%s' is a scalar; its first axis should count the samples", a->name);
    } else if (shape_count(&a->t.shape) == 0) {
        char text[SHAPE_TEXT];
        err_set(err, ERR_DATASET, "array '%s' is %s: it has no elements", a->name, shape_text(&a->t.shape, text));
    } else if (labels && ds->labels.name) {
        err_set(err, ERR_DATASET, "labels 'y' are given twice");
    } else if (labels) {
        ds->labels = *a;
        return 0;
    } else if (ds->n_arrays >= DATASET_MAX_ARRAYS) {
        err_set(err, ERR_DATASET, "more than %d arrays", DATASET_MAX_ARRAYS);
    } else {
        ds->arrays[ds->n_arrays++] = *a;
        return 0;
    }
    array_fini(a);
    return -1;
}

static int load_npz(struct dataset *ds, const char *path, struct err *err)
{
    char name[32];
    struct unpack_limits limits = limits_of(ds);
    if (ds->members.count)
        return err_set(err, ERR_DATASET, "more than one .npz file; put all arrays into one");
    if (unpack_archive(&ds->members, path, ds->cache_dir, cache_name(ds, name), &limits, want_npy, err))
        return -1;
    for (int64_t i = 0; i < ds->members.count; i++) {
        struct member *m = &ds->members.at[i];
        struct array a;
        m->name[strlen(m->name) - 4] = 0; /* ".npy" */
        if (array_parse_npy(&a, m->name, m->data, m->size, err) || add_array(ds, &a, err))
            return -1;
    }
    return ds->members.count ? 0 : err_set(err, ERR_DATASET, "no .npy array in the archive");
}

/* One file of arrays: an .npz, or one .npy or IDX array named `key`. */
static int load_arrays(struct dataset *ds, const char *path, const char *key, struct err *err)
{
    struct file_map *map;
    struct array a;
    if (map_file(ds, path, &map, err))
        return err_wrap(err, "file '%s': ", key);
    if (is_zip(map->data, map->size))
        return load_npz(ds, path, err);
    int rc = array_looks_idx(map->data, map->size) ? array_parse_idx(&a, key, map->data, map->size, err)
                                                   : array_parse_npy(&a, key, map->data, map->size, err);
    return rc ? rc : add_array(ds, &a, err);
}

static int load_cifar10(struct dataset *ds, const char *path, struct err *err)
{
    struct file_map *map;
    if (map_file(ds, path, &map, err))
        return -1;
    if (!array_looks_cifar10(map->data, map->size))
        return err_set(err, ERR_DATASET, "not a CIFAR-10 binary file: %zu bytes should be records of %d whose first byte is a class 0 to 9",
                       map->size, CIFAR_RECORD);
    ds->cifar = map->data;
    ds->total = (int64_t)(map->size / CIFAR_RECORD);
    struct shape shape = SHAPE(ds->total);
    if (tensor_alloc(&ds->labels.t, DTYPE_UINT8, &shape, err))
        return -1;
    ds->labels.name = strdup("y");
    for (int64_t i = 0; i < ds->total; i++)
        ((uint8_t *)ds->labels.t.data)[i] = map->data[i * CIFAR_RECORD];
    return ds->labels.name ? 0 : err_set(err, ERR_NOMEM, "out of memory");
}

/* ---- pictures: class from the folder's name, or from labels.csv ---- */

static const char *base_of(const char *name)
{
    const char *slash = strrchr(name, '/');
    return slash ? slash + 1 : name;
}

/* The folder a picture lies in: the last component before its own name. */
static size_t folder_of(const char *name, const char **start)
{
    const char *slash = strrchr(name, '/');
    if (!slash)
        return 0;
    const char *p = slash;
    while (p > name && p[-1] != '/')
        p--;
    *start = p;
    return (size_t)(slash - p);
}

static int class_by_name(json_t *classes, const char *name)
{
    for (size_t i = 0; i < json_array_size(classes); i++)
        if (strcmp(json_string_value(json_array_get(classes, i)), name) == 0)
            return (int)i;
    return -1;
}

static int compare_strings(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Distinct folder names, sorted bytewise: their rank is the class. */
static json_t *folder_names(const struct members *m)
{
    char **names = calloc((size_t)m->count + 1, sizeof *names);
    json_t *out = json_array();
    int64_t n = 0;
    for (int64_t i = 0; names && i < m->count; i++) {
        const char *start = NULL;
        size_t len = is_picture(m->at[i].name) ? folder_of(m->at[i].name, &start) : 0;
        if (len && (n == 0 || strlen(names[n - 1]) != len || memcmp(names[n - 1], start, len)))
            names[n++] = strndup(start, len);
    }
    if (n)
        qsort(names, (size_t)n, sizeof *names, compare_strings);
    for (int64_t i = 0; i < n; i++)
        if (i == 0 || strcmp(names[i], names[i - 1]))
            json_array_append_new(out, json_string_nocheck(names[i]));
    for (int64_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
    return out;
}

/* One line "file,class" of labels.csv. */
struct csv_label {
    const char *file;
    size_t len;
    int64_t label;
};

static int compare_csv(const void *a, const void *b)
{
    const struct csv_label *x = a, *y = b;
    int c = memcmp(x->file, y->file, x->len < y->len ? x->len : y->len);
    return c ? c : x->len < y->len ? -1 : x->len > y->len;
}

/* Lines "file,class" (a header line without a number is skipped), sorted by file. */
static struct csv_label *parse_csv(const char *text, size_t size, json_t *classes, int64_t *count, struct err *err)
{
    struct csv_label *rows = NULL;
    int64_t n = 0, cap = 0, line = 0;
    for (const char *p = text, *end = text + size; p < end;) {
        const char *eol = memchr(p, '\n', (size_t)(end - p)), *comma = memchr(p, ',', (size_t)((eol ? eol : end) - p));
        const char *stop = eol ? eol : end;
        char word[128];
        line++;
        if (comma) {
            size_t len = (size_t)(stop - comma - 1) < sizeof word - 1 ? (size_t)(stop - comma - 1) : sizeof word - 1;
            memcpy(word, comma + 1, len);
            word[len] = 0;
            word[strcspn(word, "\r, ")] = 0;
            char *rest;
            long long label = strtoll(word, &rest, 10);
            if (rest == word || *rest)
                label = class_by_name(classes, word);
            if (label >= 0) {
                if (n == cap) {
                    cap = cap ? cap * 2 : 1024;
                    struct csv_label *grown = realloc(rows, (size_t)cap * sizeof *rows);
                    if (!grown) {
                        err_set(err, ERR_NOMEM, "out of memory");
                        break;
                    }
                    rows = grown;
                }
                rows[n++] = (struct csv_label){p, (size_t)(comma - p), label};
            } else if (line > 1) {
                err_set(err, ERR_DATASET, "labels.csv line %lld: class '%.64s' is neither a number nor a known class name", (long long)line, word);
                break;
            }
        }
        p = stop + 1;
    }
    if (err->code) {
        free(rows);
        return NULL;
    }
    if (n)
        qsort(rows, (size_t)n, sizeof *rows, compare_csv);
    *count = n;
    return rows;
}

static int64_t csv_find(const struct csv_label *rows, int64_t n, const char *file)
{
    struct csv_label key = {file, strlen(file), 0};
    const struct csv_label *hit = n ? bsearch(&key, rows, (size_t)n, sizeof *rows, compare_csv) : NULL;
    return hit ? hit->label : -1;
}

/* Classes by labels.csv (found in the archive, or named by files.y) if there is one, else by the folders' names. */
static int label_pictures(struct dataset *ds, const char *csv, size_t csv_size, struct err *err)
{
    struct members *m = &ds->members;
    json_t *classes = json_object_get(ds->desc.json, "classes");
    json_t *folders = folder_names(m);
    struct csv_label *rows = NULL;
    int64_t n_rows = 0, *labels;
    int rc = -1;
    bool by_csv = csv != NULL, by_folder = !by_csv && json_array_size(folders) > 0;
    if (!classes && by_folder)
        classes = folders;
    if (by_csv && !(rows = parse_csv(csv, csv_size, classes, &n_rows, err)) && err->code)
        goto out;
    struct shape shape = SHAPE(m->count);
    if ((by_csv || by_folder) && tensor_alloc(&ds->labels.t, DTYPE_INT64, &shape, err))
        goto out;
    labels = ds->labels.t.data;
    for (int64_t i = 0; labels && i < m->count; i++) {
        const char *name = m->at[i].name, *start = "";
        char folder[256];
        size_t len = folder_of(name, &start);
        snprintf(folder, sizeof folder, "%.*s", (int)len, start);
        labels[i] = by_csv ? csv_find(rows, n_rows, base_of(name)) : class_by_name(classes, folder);
        if (labels[i] < 0 && by_csv)
            labels[i] = csv_find(rows, n_rows, name);
        if (labels[i] < 0) {
            err_set(err, ERR_DATASET, by_csv ? "picture '%.200s' has no line in labels.csv" : "picture '%.200s' lies in no folder of `classes`", name);
            goto out;
        }
    }
    if (labels && !(ds->labels.name = strdup("y"))) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    if (by_folder && !json_object_get(ds->desc.json, "classes")) {
        if (!ds->desc.json)
            ds->desc.json = json_object();
        json_object_set(ds->desc.json, "classes", folders);
    }
    rc = 0;
out:
    free(rows);
    json_decref(folders);
    return rc;
}

static int load_pictures(struct dataset *ds, const char *path, const char *csv_path, struct err *err)
{
    char name[32];
    struct stat st;
    struct unpack_limits limits = limits_of(ds);
    struct members *m = &ds->members;
    bool folder = stat(path, &st) == 0 && S_ISDIR(st.st_mode);
    if ((folder ? unpack_folder : unpack_archive)(m, path, ds->cache_dir, cache_name(ds, name), &limits, want_picture, err))
        return -1;
    const char *csv = NULL;
    size_t csv_size = 0;
    int64_t kept = 0;
    for (int64_t i = 0; i < m->count; i++) {
        if (is_picture(m->at[i].name)) {
            m->at[kept++] = m->at[i];
            continue;
        }
        csv = (const char *)m->at[i].data;
        csv_size = m->at[i].size;
        free(m->at[i].name);
    }
    m->count = kept;
    if (!kept)
        return err_set(err, ERR_DATASET, "no .jpg, .jpeg or .png picture in it");
    struct file_map *map;
    if (csv_path) {
        if (map_file(ds, csv_path, &map, err))
            return err_wrap(err, "file 'y': ");
        csv = (const char *)map->data;
        csv_size = map->size;
    }
    ds->pictures = true;
    ds->total = kept;
    return label_pictures(ds, csv, csv_size, err);
}

/* input_K.pb and output_K.pb of a folder, as the ONNX backend tests lay them out. */
static int load_feed(struct dataset *ds, const char *folder, struct err *err)
{
    char path[PATH_MAX], name[96];
    struct stat st;
    ds->single_feed = true;
    ds->total = 1;
    for (int i = 0; i < DATASET_MAX_ARRAYS; i++) {
        struct array *a = &ds->arrays[i];
        snprintf(path, sizeof path, "%s/input_%d.pb", folder, i);
        if (stat(path, &st))
            break;
        if (onnx_read_tensor_file(&a->t, name, sizeof name, path, err))
            return err_wrap(err, "input_%d.pb: ", i);
        ds->n_arrays++;
        if (!(a->name = strdup(name)))
            return err_set(err, ERR_NOMEM, "out of memory");
    }
    for (int i = 0; i < DATASET_MAX_ARRAYS; i++) {
        snprintf(path, sizeof path, "%s/output_%d.pb", folder, i);
        if (stat(path, &st))
            break;
        if (onnx_read_tensor_file(&ds->expected[i], name, sizeof name, path, err))
            return err_wrap(err, "output_%d.pb: ", i);
        ds->n_expected++;
    }
    return 0;
}

/* ---- which format ---- */

/* A file named in data.json: beside it; a stranger's data.json may only name plain files. */
static int join_path(const struct dataset *ds, const char *dir, const char *file, char out[PATH_MAX], struct err *err)
{
    struct stat st;
    if (ds->opts.confined && (strchr(file, '/') || strcmp(file, "..") == 0 || !*file))
        return err_set(err, ERR_DATASET, "data.json /files: '%.100s' must be a plain file name", file);
    int n = *file == '/' ? snprintf(out, PATH_MAX, "%s", file) : snprintf(out, PATH_MAX, "%s/%s", dir, file);
    if (n >= PATH_MAX)
        return err_set(err, ERR_DATASET, "data.json /files: name too long");
    bool follow = !ds->opts.confined || ds->opts.own_links;
    if ((follow ? stat : lstat)(out, &st))
        return err_set(err, ERR_DATASET, "data.json /files: '%.200s' is missing", file);
    if (S_ISLNK(st.st_mode))
        return err_set(err, ERR_DATASET, "data.json /files: '%.200s' is a link; it must be the file itself", file);
    return 0;
}

static int load_described(struct dataset *ds, const char *path, struct err *err)
{
    char dir[PATH_MAX], x[PATH_MAX], y[PATH_MAX];
    size_t len;
    char *text = file_read(path, 1 << 20, &len, err);
    int rc = text ? description_parse(&ds->desc, text, len, err) : -1;
    free(text);
    if (rc)
        return -1;
    const char *slash = strrchr(path, '/'), *fx = description_file(&ds->desc, "x"), *fy = description_file(&ds->desc, "y");
    snprintf(dir, sizeof dir, "%.*s", slash ? (int)(slash - path) : 1, slash ? path : ".");
    if ((fx && join_path(ds, dir, fx, x, err)) || (fy && join_path(ds, dir, fy, y, err)))
        return -1;
    switch (ds->desc.format) {
    case DATA_CIFAR10:
        return load_cifar10(ds, x, err);
    case DATA_IMAGES:
        return load_pictures(ds, x, fy ? y : NULL, err);
    case DATA_ONNX:
        return load_feed(ds, fx ? x : dir, err);
    default:
        break;
    }
    const char *key;
    json_t *file;
    json_object_foreach(json_object_get(ds->desc.json, "files"), key, file)
        if (join_path(ds, dir, json_string_value(file), x, err) || load_arrays(ds, x, key, err))
            return -1;
    return ds->n_arrays ? 0 : err_set(err, ERR_DATASET, "data.json /files: no array of samples");
}

/* A zip is an .npz when its first member ends in .npy. */
static bool zip_is_npz(const unsigned char *data, size_t size)
{
    size_t len = size >= 30 ? data[26] | (size_t)data[27] << 8 : 0;
    return len >= 4 && size >= 30 + len && memcmp(data + 30 + len - 4, ".npy", 4) == 0;
}

static int load_file(struct dataset *ds, const char *path, struct err *err)
{
    struct file_map map;
    if (file_map_open(&map, path, err))
        return -1;
    const unsigned char *d = map.data;
    size_t n = map.size, text = 0;
    while (text < n && strchr(" \t\r\n", d[text]) && d[text])
        text++;
    int rc;
    if (n == 0)
        rc = err_set(err, ERR_DATASET, "the file is empty");
    else if (text < n && d[text] == '{')
        rc = load_described(ds, path, err);
    else if (is_zip(d, n))
        rc = zip_is_npz(d, n) ? load_npz(ds, path, err) : (ds->desc.format = DATA_IMAGES, load_pictures(ds, path, NULL, err));
    else if (array_looks_npy(d, n))
        rc = load_arrays(ds, path, "x", err);
    else if (array_looks_idx(d, n))
        rc = (ds->desc.format = DATA_IDX, load_arrays(ds, path, "x", err));
    else if (is_tar(d, n))
        rc = (ds->desc.format = DATA_IMAGES, load_pictures(ds, path, NULL, err));
    else if (array_looks_cifar10(d, n))
        rc = (ds->desc.format = DATA_CIFAR10, load_cifar10(ds, path, err));
    else if (is_gzip(d, n)) { /* an IDX file, or a tar */
        struct file_map *inner;
        rc = map_file(ds, path, &inner, err);
        if (rc == 0 && is_tar(inner->data, inner->size)) {
            file_map_close(inner);
            ds->n_files--;
            ds->desc.format = DATA_IMAGES;
            rc = load_pictures(ds, path, NULL, err);
        } else if (rc == 0)
            rc = (ds->desc.format = DATA_IDX, load_arrays(ds, path, "x", err));
    } else
        rc = err_set(err, ERR_DATASET,
                     "no known dataset format; use .npz, .npy, IDX, CIFAR-10 .bin, a .tar, .tar.gz or .zip of pictures, or a data.json");
    file_map_close(&map);
    return rc;
}

int dataset_load(struct dataset *ds, const char *path, struct err *err)
{
    char inner[PATH_MAX];
    struct stat st;
    description_init(&ds->desc, DATA_NPZ);
    if (stat(path, &st))
        return err_set_errno(err, ERR_DATASET, "cannot open");
    if (!S_ISDIR(st.st_mode))
        return load_file(ds, path, err);
    snprintf(inner, sizeof inner, "%s/data.json", path);
    if (stat(inner, &st) == 0)
        return load_described(ds, inner, err);
    snprintf(inner, sizeof inner, "%s/input_0.pb", path);
    if (stat(inner, &st) == 0) {
        ds->desc.format = DATA_ONNX;
        return load_feed(ds, path, err);
    }
    snprintf(inner, sizeof inner, "%s/output_0.pb", path); /* a model without inputs */
    if (stat(inner, &st) == 0) {
        ds->desc.format = DATA_ONNX;
        return load_feed(ds, path, err);
    }
    ds->desc.format = DATA_IMAGES;
    return load_pictures(ds, path, NULL, err);
}
