/* SPDX-License-Identifier: Apache-2.0
 * Binding and reading. A sample goes source bytes -> pixels [H, W, C] (or the array's row as it is) -> float32 -> the
 * model's dtype and layout; samples of a batch are made in parallel, each writing its own slice. */
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/base/size.h"
#include "core/data/augment.h"
#include "core/data/dataset_internal.h"
#include "core/data/picture.h"

enum { RNG_STREAM_SHUFFLE = 0x64617461 };

/* ---- opening ---- */

static int make_cache(struct dataset *ds, struct err *err)
{
    if (ds->opts.cache_dir) {
        ds->cache_dir = strdup(ds->opts.cache_dir);
        return ds->cache_dir ? file_make_dirs(ds->cache_dir, err) : err_set(err, ERR_NOMEM, "out of memory");
    }
    ds->cache_dir = file_temp_dir("data", err);
    ds->own_cache = ds->cache_dir != NULL;
    return ds->cache_dir ? 0 : -1;
}

static int count_samples(struct dataset *ds, struct err *err)
{
    for (int i = 0; i < ds->n_arrays && !ds->single_feed; i++) {
        int64_t n = ds->arrays[i].t.shape.dim[0];
        if (i && n != ds->total)
            return err_set(err, ERR_DATASET, "array '%s' has %" PRId64 " samples, '%s' has %" PRId64, ds->arrays[i].name, n,
                           ds->arrays[0].name, ds->total);
        ds->total = n;
    }
    if (ds->labels.name && ds->n_arrays == 0 && ds->total == 0)
        return err_set(err, ERR_DATASET,
                       "labels 'y' are the only array; add the samples, named like the model's input or 'x'");
    if (ds->labels.name && ds->labels.t.shape.dim[0] != ds->total)
        return err_set(err, ERR_DATASET, "labels 'y' have %" PRId64 " entries for %" PRId64 " samples", ds->labels.t.shape.dim[0], ds->total);
    ds->first = i64_min(ds->desc.offset, ds->total);
    ds->count = ds->total - ds->first;
    if (ds->desc.limit >= 0 && ds->desc.limit < ds->count)
        ds->count = ds->desc.limit;
    if (ds->count == 0)
        return err_set(err, ERR_DATASET, "no samples: %" PRId64 " in the files, offset %" PRId64, ds->total, ds->desc.offset);
    return 0;
}

static int shuffle_order(struct dataset *ds, struct err *err)
{
    if (!ds->desc.shuffle)
        return 0;
    ds->order = malloc((size_t)ds->total * sizeof *ds->order);
    if (!ds->order)
        return err_set(err, ERR_NOMEM, "out of memory");
    struct rng rng;
    rng_init(&rng, ds->opts.seed, RNG_STREAM_SHUFFLE);
    for (int64_t i = 0; i < ds->total; i++) {
        int64_t j = (int64_t)rng_below(&rng, (uint64_t)i + 1);
        ds->order[i] = ds->order[j];
        ds->order[j] = i;
    }
    return 0;
}

static int64_t sample_of(const struct dataset *ds, int64_t i)
{
    return ds->order ? ds->order[ds->first + i] : ds->first + i;
}

static int scan_labels(struct dataset *ds, struct err *err)
{
    const struct tensor *y = &ds->labels.t;
    ds->max_label = -1;
    if (!ds->labels.name)
        return 0;
    ds->labels_are_classes = dtype_is_integer(y->dtype) && tensor_count(y) == ds->total;
    for (int64_t i = 0; ds->labels_are_classes && i < ds->count; i++) {
        int64_t label = dtype_get_i64(y->dtype, y->data, sample_of(ds, i));
        if (label < 0)
            return err_set(err, ERR_DATASET, "label %" PRId64 " of sample %" PRId64 " is negative; classes count from 0", label, i);
        ds->max_label = i64_max(ds->max_label, label);
    }
    return 0;
}

/* A description that asks for changes of images needs images. How they lie is known only with a model (augment_image_of). */
static int check_augment(const struct dataset *ds, struct err *err)
{
    struct augment a;
    bool image = ds->pictures || ds->cifar;
    if (augment_of_dataset(&a, ds, err))
        return -1;
    for (int i = 0; i < ds->n_arrays && !ds->single_feed && !image; i++) {
        const struct shape *s = &ds->arrays[i].t.shape;
        image = (s->rank == 3 || s->rank == 4) && s->dim[1] > 1 && s->dim[2] > 0;
        image = image || (s->rank == 4 && s->dim[2] > 1 && s->dim[3] > 1);
    }
    return a.any && !image ? err_set(err, ERR_DATASET, "data.json /augment: the samples are no images, [H, W], [H, W, C] or [C, H, W]")
                           : 0;
}

struct dataset *dataset_open(const char *path, const struct dataset_opts *opts, struct err *err)
{
    struct err local = {0};
    struct dataset *ds = calloc(1, sizeof *ds);
    if (!ds) {
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    if (opts)
        ds->opts = *opts;
    if (make_cache(ds, &local) == 0 && dataset_load(ds, path, &local) == 0 && count_samples(ds, &local) == 0 &&
        check_augment(ds, &local) == 0 && shuffle_order(ds, &local) == 0 && scan_labels(ds, &local) == 0)
        return ds;
    if (local.code == ERR_IO)
        local.code = ERR_DATASET;
    err_set(err, local.code, "dataset: %s", local.msg);
    dataset_close(ds);
    return NULL;
}

void dataset_close(struct dataset *ds)
{
    if (!ds)
        return;
    for (int i = 0; i < ds->n_arrays; i++)
        array_fini(&ds->arrays[i]);
    for (int i = 0; i < ds->n_expected; i++)
        tensor_fini(&ds->expected[i]);
    array_fini(&ds->labels);
    members_fini(&ds->members);
    for (int i = 0; i < ds->n_files; i++)
        file_map_close(&ds->files[i]);
    description_fini(&ds->desc);
    if (ds->own_cache && ds->cache_dir)
        file_remove_tree(ds->cache_dir, NULL);
    free(ds->cache_dir);
    free(ds->order);
    free(ds->bindings);
    free(ds);
}

/* ---- facts ---- */

int64_t dataset_count(const struct dataset *ds)
{
    return ds->count;
}

bool dataset_has_labels(const struct dataset *ds)
{
    return ds->labels.name != NULL;
}

bool dataset_labels_are_classes(const struct dataset *ds)
{
    return ds->labels_are_classes;
}

int64_t dataset_class(const struct dataset *ds, int64_t i)
{
    if (!ds->labels_are_classes || i < 0 || i >= ds->count)
        return -1;
    return dtype_get_i64(ds->labels.t.dtype, ds->labels.t.data, sample_of(ds, i));
}

int64_t dataset_max_label(const struct dataset *ds)
{
    return ds->max_label;
}

bool dataset_single_feed(const struct dataset *ds)
{
    return ds->single_feed;
}

int dataset_n_expected(const struct dataset *ds)
{
    return ds->n_expected;
}

const struct tensor *dataset_expected(const struct dataset *ds, int i)
{
    return &ds->expected[i];
}

static json_t *array_facts(const struct array *a)
{
    json_t *shape = json_array();
    for (int i = 0; i < a->t.shape.rank; i++)
        json_array_append_new(shape, json_integer(a->t.shape.dim[i]));
    json_t *name = json_string(a->name); /* NULL for invalid UTF-8 */
    return json_pack("{s:o, s:s, s:o}", "name", name ? name : json_string("?"), "dtype", dtype_name(a->t.dtype), "shape", shape);
}

json_t *dataset_facts(const struct dataset *ds)
{
    json_t *arrays = json_array(), *classes = json_object_get(ds->desc.json, "classes");
    for (int i = 0; i < ds->n_arrays; i++)
        json_array_append_new(arrays, array_facts(&ds->arrays[i]));
    json_t *labels = !dataset_has_labels(ds) ? json_null() : json_string(ds->labels_are_classes ? "classes" : "targets");
    json_t *out = json_pack("{s:s, s:I, s:o, s:o}", "format", data_format_names[ds->desc.format], "samples", (json_int_t)ds->count,
                            "labels", labels, "arrays", arrays);
    if (classes)
        json_object_set(out, "classes", classes);
    if (ds->labels_are_classes)
        json_object_set_new(out, "max_label", json_integer(ds->max_label));
    return out;
}

/* ---- binding ---- */

static int n_fed(const struct model *m)
{
    int n = 0;
    for (int i = 0; i < model_main(m)->n_inputs; i++)
        n += !m->values[model_main(m)->inputs[i].value].weight;
    return n;
}

/* The array meant for a model input: by `inputs` of data.json, by name, by place (feeds), or the only one. */
static const struct array *find_array(const struct dataset *ds, const char *input, int place, int inputs)
{
    json_t *map = json_object_get(ds->desc.json, "inputs");
    for (int i = 0; i < ds->n_arrays; i++) {
        const char *to = json_string_value(json_object_get(map, ds->arrays[i].name));
        if (to && strcmp(to, input) == 0)
            return &ds->arrays[i];
    }
    for (int i = 0; i < ds->n_arrays; i++)
        if (strcmp(ds->arrays[i].name, input) == 0)
            return &ds->arrays[i];
    if (ds->single_feed)
        return place < ds->n_arrays ? &ds->arrays[place] : NULL;
    if (inputs != 1)
        return NULL;
    for (int i = 0; i < ds->n_arrays; i++)
        if (strcmp(ds->arrays[i].name, "x") == 0)
            return &ds->arrays[i];
    return ds->n_arrays == 1 ? &ds->arrays[0] : NULL;
}

static int missing_array(const struct dataset *ds, const char *input, struct err *err)
{
    char list[400] = "";
    for (int i = 0; i < ds->n_arrays; i++) {
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s'%s'", i ? ", " : "", ds->arrays[i].name);
    }
    return err_set(err, ERR_DATASET, "no array for the model's input '%s'; the dataset has %s. Name the array like the input, or map it in data.json /inputs",
                   input, *list ? list : "pictures for one input only");
}

static bool wants_pixels(const struct dataset *ds, const struct array *a, enum dtype model_dtype)
{
    if (!a)
        return true;
    if (ds->single_feed || a->t.shape.rank > 4)
        return false;
    if (ds->desc.preprocess.given)
        return a->t.dtype == DTYPE_UINT8 || dtype_is_float(a->t.dtype);
    return a->t.dtype == DTYPE_UINT8 && dtype_is_float(model_dtype);
}

static int bind_input(struct dataset *ds, const struct model *m, const struct value_info *in, int place, int inputs, struct err *err)
{
    struct binding *b = &ds->bindings[place];
    const char *name = m->values[in->value].name;
    const struct type *type = &in->type;
    snprintf(b->name, sizeof b->name, "%s", name);
    b->array = ds->pictures || ds->cifar ? NULL : find_array(ds, name, place, inputs);
    if (!b->array && (inputs != 1 || !(ds->pictures || ds->cifar)))
        return missing_array(ds, name, err);
    if (type->kind != TYPE_TENSOR || !dtype_valid((int)type->dtype))
        return err_set(err, ERR_DATASET, "the model's input '%s' is no tensor", name);
    b->dtype = type->dtype;
    b->pixels = wants_pixels(ds, b->array, b->dtype);
    b->sample = type->has_shape ? type->shape : SHAPE_UNKNOWN;
    if (ds->single_feed)
        return b->array->t.dtype == b->dtype ? 0
                                             : err_set(err, ERR_DATASET, "input_%d.pb is %s, the model's input '%s' wants %s", place,
                                                       dtype_name(b->array->t.dtype), name, dtype_name(b->dtype));
    if (dtype_kind(b->dtype) == 's' || dtype_kind(b->dtype) == 'c')
        return err_set(err, ERR_DATASET, "the model's input '%s' wants %s; datasets hold numbers", name, dtype_name(b->dtype));
    if (!b->pixels && b->array && dtype_is_float(b->array->t.dtype) && !dtype_is_float(b->dtype))
        return err_set(err, ERR_DATASET, "array '%s' is %s, the model's input '%s' wants %s; save the array in that type",
                       b->array->name, dtype_name(b->array->t.dtype), name, dtype_name(b->dtype));
    if (b->sample.rank == 0)
        return err_set(err, ERR_DATASET, "the model's input '%s' is a scalar: it has no batch axis", name);
    if (b->sample.rank > 0) {
        memmove(b->sample.dim, b->sample.dim + 1, (size_t)(b->sample.rank - 1) * sizeof b->sample.dim[0]);
        b->sample.rank--;
    }
    return 0;
}

/* Give a sample of `have` the shape the model wants: equal dims, or the same number of elements. */
static int fit_sample(const struct binding *b, const struct shape *have, struct shape *out, struct err *err)
{
    bool same = b->sample.rank < 0 || b->sample.rank == have->rank;
    for (int i = 0; same && i < b->sample.rank; i++)
        same = b->sample.dim[i] < 0 || b->sample.dim[i] == have->dim[i];
    if (same) {
        *out = *have;
        return 0;
    }
    if (shape_known(&b->sample) && shape_count(&b->sample) == shape_count(have)) {
        *out = b->sample;
        return 0;
    }
    char x[SHAPE_TEXT], y[SHAPE_TEXT];
    return err_set(err, ERR_DATASET, "a sample is %s, the model's input '%s' wants %s%s", shape_text(have, x), b->name,
                   shape_text(&b->sample, y), b->pixels && !b->array ? "; resize_shorter and center_crop in `preprocess` set the size" : "");
}

static void array_sample_shape(const struct array *a, struct shape *out)
{
    out->rank = a->t.shape.rank - 1;
    memcpy(out->dim, a->t.shape.dim + 1, (size_t)out->rank * sizeof out->dim[0]);
}

static int pixel_shape(const struct dataset *ds, const struct binding *b, int64_t sample, struct shape *out, struct err *err);

int dataset_bind(struct dataset *ds, const struct model *m, struct err *err)
{
    int inputs = n_fed(m), place = 0;
    if (inputs == 0 && !ds->single_feed)
        return err_set(err, ERR_DATASET, "the model has no inputs to feed; leave the dataset out");
    free(ds->bindings);
    ds->n_bindings = inputs;
    ds->bindings = calloc((size_t)inputs + 1, sizeof *ds->bindings);
    if (!ds->bindings)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < model_main(m)->n_inputs; i++) {
        const struct value_info *in = &model_main(m)->inputs[i];
        struct shape have, fitted;
        if (m->values[in->value].weight)
            continue;
        if (bind_input(ds, m, in, place, inputs, err))
            return -1;
        struct binding *b = &ds->bindings[place++];
        if (ds->single_feed)
            continue;
        if (b->pixels && pixel_shape(ds, b, sample_of(ds, 0), &have, err))
            return -1;
        if (!b->pixels)
            array_sample_shape(b->array, &have);
        if (fit_sample(b, &have, &fitted, err))
            return -1;
    }
    return 0;
}

int dataset_check_labels(const struct dataset *ds, int64_t classes, struct err *err)
{
    if (!ds->labels_are_classes || ds->max_label < classes)
        return 0;
    int64_t i = 0;
    while (dtype_get_i64(ds->labels.t.dtype, ds->labels.t.data, sample_of(ds, i)) < classes)
        i++;
    return err_set(err, ERR_DATASET, "label %" PRId64 " of sample %" PRId64 " is out of range: the model has %" PRId64 " classes, 0 to %" PRId64,
                   dtype_get_i64(ds->labels.t.dtype, ds->labels.t.data, sample_of(ds, i)), i, classes, classes - 1);
}

/* ---- reading ---- */

static int wanted_channels(const struct preprocess *p)
{
    return p->channels == CHANNELS_GRAY ? 1 : 3;
}

/* The picture of a sample, resized and cropped. */
static int load_picture(const struct dataset *ds, int64_t sample, struct picture *p, struct err *err)
{
    const struct member *m = &ds->members.at[sample];
    const struct preprocess *pre = &ds->desc.preprocess;
    if (picture_decode(p, m->data, m->size, wanted_channels(pre), err) ||
        (pre->resize_shorter && picture_resize_shorter(p, pre->resize_shorter, err)) ||
        (pre->center_crop && picture_center_crop(p, pre->center_crop, err))) {
        picture_fini(p);
        return err_wrap(err, "picture '%.200s': ", m->name);
    }
    return 0;
}

/* Pixels of one sample, [height, width, channels]: bytes or floats with strides, wherever they lie. */
struct pixels {
    int64_t height, width, channels;
    const void *data;
    enum dtype dtype;
    int64_t stride_y, stride_x, stride_c; /* in elements */
    struct picture owned;
};

static void array_pixels(const struct array *a, int64_t sample, struct pixels *px)
{
    struct shape s;
    array_sample_shape(a, &s);
    px->height = s.rank >= 2 ? s.dim[0] : 1;
    px->width = s.rank >= 2 ? s.dim[1] : s.rank == 1 ? s.dim[0] : 1;
    px->channels = s.rank == 3 ? s.dim[2] : 1;
    px->dtype = a->t.dtype;
    px->stride_c = 1;
    px->stride_x = px->channels;
    px->stride_y = px->width * px->channels;
    px->data = (const unsigned char *)a->t.data + (size_t)(sample * shape_count(&s)) * ((size_t)dtype_bits(a->t.dtype) / 8);
}

/* A copy as a picture, for resizing arrays of bytes. */
static int resize_pixels(struct pixels *px, const struct preprocess *pre, struct err *err)
{
    if (!pre->resize_shorter && !pre->center_crop)
        return 0;
    if (px->dtype != DTYPE_UINT8 || (px->channels != 1 && px->channels != 3) || px->height > 16384 || px->width > 16384)
        return err_set(err, ERR_DATASET, "resize_shorter and center_crop work on 8-bit pictures of 1 or 3 channels");
    struct picture *p = &px->owned;
    *p = (struct picture){(int)px->width, (int)px->height, (int)px->channels, malloc((size_t)(px->height * px->width * px->channels) + 1)};
    if (!p->pixels)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int64_t y = 0, i = 0; y < px->height; y++)
        for (int64_t x = 0; x < px->width; x++)
            for (int64_t c = 0; c < px->channels; c++)
                p->pixels[i++] = ((const unsigned char *)px->data)[y * px->stride_y + x * px->stride_x + c * px->stride_c];
    return (pre->resize_shorter && picture_resize_shorter(p, pre->resize_shorter, err)) ||
                   (pre->center_crop && picture_center_crop(p, pre->center_crop, err))
               ? -1
               : 0;
}

static int load_pixels(const struct dataset *ds, const struct binding *b, int64_t sample, struct pixels *px, struct err *err)
{
    *px = (struct pixels){0};
    if (ds->pictures) {
        if (load_picture(ds, sample, &px->owned, err))
            return -1;
    } else if (ds->cifar) {
        *px = (struct pixels){32, 32, 3, ds->cifar + sample * CIFAR_RECORD + 1, DTYPE_UINT8, 32, 1, 1024, {0}};
        if (resize_pixels(px, &ds->desc.preprocess, err))
            return -1;
    } else {
        array_pixels(b->array, sample, px);
        if (resize_pixels(px, &ds->desc.preprocess, err))
            return -1;
    }
    if (px->owned.pixels) {
        px->height = px->owned.height;
        px->width = px->owned.width;
        px->channels = px->owned.channels;
        px->dtype = DTYPE_UINT8;
        px->data = px->owned.pixels;
        px->stride_c = 1;
        px->stride_x = px->channels;
        px->stride_y = px->width * px->channels;
    }
    return 0;
}

static int pixel_shape(const struct dataset *ds, const struct binding *b, int64_t sample, struct shape *out, struct err *err)
{
    struct pixels px = {0};
    const struct preprocess *pre = &ds->desc.preprocess;
    int rc = 0;
    if (ds->pictures && pre->center_crop) { /* known without decoding */
        px.height = px.width = pre->center_crop;
        px.channels = wanted_channels(pre);
    } else {
        rc = load_pixels(ds, b, sample, &px, err);
    }
    *out = pre->nhwc ? SHAPE(px.height, px.width, px.channels) : SHAPE(px.channels, px.height, px.width);
    if (rc == 0 && ((pre->n_mean > 1 && pre->n_mean != px.channels) || (pre->n_std > 1 && pre->n_std != px.channels)))
        rc = err_set(err, ERR_DATASET, "`mean` and `std` of `preprocess` need 1 or %" PRId64 " numbers", px.channels);
    picture_fini(&px.owned);
    return rc;
}

int dataset_sample_shape(const struct dataset *ds, int binding, struct shape *out, struct err *err)
{
    const struct binding *b = &ds->bindings[binding];
    struct shape have;
    if (b->pixels)
        return pixel_shape(ds, b, sample_of(ds, 0), out, err);
    array_sample_shape(b->array, &have);
    return fit_sample(b, &have, out, err);
}

/* (pixel * scale - mean) / std in float32, in the model's layout. */
static void normalise(const struct preprocess *pre, const struct pixels *px, float *out)
{
    float scale = (float)(pre->has_scale ? pre->scale : px->dtype == DTYPE_UINT8 ? 1.0 / 255.0 : 1.0);
    for (int64_t c = 0; c < px->channels; c++) {
        int64_t from = pre->channels == CHANNELS_BGR ? px->channels - 1 - c : c;
        float mean = (float)(pre->n_mean == 0 ? 0.0 : pre->mean[pre->n_mean == 1 ? 0 : c]);
        float std = (float)(pre->n_std == 0 ? 1.0 : pre->std[pre->n_std == 1 ? 0 : c]);
        for (int64_t y = 0; y < px->height; y++)
            for (int64_t x = 0; x < px->width; x++) {
                int64_t i = y * px->stride_y + x * px->stride_x + from * px->stride_c;
                float v = px->dtype == DTYPE_UINT8 ? (float)((const uint8_t *)px->data)[i]
                          : px->dtype == DTYPE_FLOAT ? ((const float *)px->data)[i]
                                                     : (float)dtype_get(px->dtype, px->data, i);
                int64_t o = pre->nhwc ? (y * px->width + x) * px->channels + c : (c * px->height + y) * px->width + x;
                out[o] = (v * scale - mean) / std;
            }
    }
}

static int check_finite(enum dtype dtype, const void *data, int64_t n, struct err *err)
{
    for (int64_t i = 0; dtype_is_float(dtype) && i < n; i++) {
        double v = dtype == DTYPE_FLOAT ? (double)((const float *)data)[i] : dtype_get(dtype, data, i);
        if (!isfinite(v))
            return err_set(err, ERR_DATASET, "value %" PRId64 " is %s; remove or repair the sample", i, isnan(v) ? "NaN" : "infinite");
    }
    return 0;
}

/* One sample of one input into out, `count` elements of the binding's dtype. */
static int read_sample(const struct dataset *ds, const struct binding *b, int64_t sample, void *out, const struct shape *shape, struct err *err)
{
    int64_t n = shape_count(shape);
    if (!b->pixels) {
        const struct array *a = b->array;
        size_t bytes;
        dtype_bytes(a->t.dtype, n, &bytes);
        const void *row = (const unsigned char *)a->t.data + (size_t)sample * bytes;
        if (check_finite(a->t.dtype, row, n, err))
            return -1;
        return dtype_convert(b->dtype, out, a->t.dtype, row, n) ? 0 : err_set(err, ERR_DATASET, "no conversion to %s", dtype_name(b->dtype));
    }
    struct pixels px;
    struct shape have, fitted;
    int rc = load_pixels(ds, b, sample, &px, err);
    if (rc == 0) {
        have = ds->desc.preprocess.nhwc ? SHAPE(px.height, px.width, px.channels) : SHAPE(px.channels, px.height, px.width);
        rc = fit_sample(b, &have, &fitted, err);
    }
    if (rc == 0 && !shape_equal(&fitted, shape))
        rc = err_set(err, ERR_DATASET, "its size differs from other samples of the batch; set resize_shorter and center_crop");
    float *tmp = rc || b->dtype == DTYPE_FLOAT ? NULL : malloc((size_t)n * sizeof *tmp + 1);
    if (rc == 0 && b->dtype != DTYPE_FLOAT && !tmp)
        rc = err_set(err, ERR_NOMEM, "out of memory");
    if (rc == 0) {
        float *dst = tmp ? tmp : out;
        struct preprocess raw = ds->desc.preprocess;
        if (!dtype_is_float(b->dtype) && !raw.has_scale) { /* an integer input takes pixels as they are */
            raw.has_scale = true;
            raw.scale = 1.0;
        }
        normalise(&raw, &px, dst);
        rc = check_finite(DTYPE_FLOAT, dst, n, err);
        if (tmp && rc == 0)
            dtype_convert(b->dtype, out, DTYPE_FLOAT, tmp, n);
    }
    free(tmp);
    picture_fini(&px.owned);
    return rc;
}

struct read_job {
    struct dataset *ds;
    const int64_t *index;
    const struct binding *binding;
    struct tensor *out;
    struct shape sample;
    pthread_mutex_t lock;
    int64_t failed; /* lowest place in the batch that failed, so that the sentence does not depend on the threads */
    struct err err;
};

static void read_task(void *arg, int64_t i, int lane)
{
    struct read_job *job = arg;
    struct err err = {0};
    (void)lane;
    size_t bytes;
    dtype_bytes(job->out->dtype, shape_count(&job->sample), &bytes);
    if (read_sample(job->ds, job->binding, sample_of(job->ds, job->index[i]), (char *)job->out->data + (size_t)i * bytes, &job->sample, &err) == 0)
        return;
    pthread_mutex_lock(&job->lock);
    if (job->failed < 0 || i < job->failed) {
        job->failed = i;
        job->err = err;
    }
    pthread_mutex_unlock(&job->lock);
}

static int read_input(struct dataset *ds, const struct binding *b, const int64_t *index, int n, struct tensor *out, struct err *err)
{
    struct read_job job = {.ds = ds, .index = index, .binding = b, .out = out, .failed = -1};
    struct shape have, batch;
    if (b->pixels ? pixel_shape(ds, b, sample_of(ds, index[0]), &have, err) : (array_sample_shape(b->array, &have), 0))
        return err_wrap(err, "sample %" PRId64 ": ", index[0]);
    if (fit_sample(b, &have, &job.sample, err))
        return err_wrap(err, "sample %" PRId64 ": ", index[0]);
    batch.rank = job.sample.rank + 1;
    batch.dim[0] = n;
    memcpy(batch.dim + 1, job.sample.dim, (size_t)job.sample.rank * sizeof batch.dim[0]);
    if (tensor_alloc(out, b->dtype, &batch, err))
        return -1;
    pthread_mutex_init(&job.lock, NULL);
    pool_run(ds->opts.pool, n, read_task, &job);
    pthread_mutex_destroy(&job.lock);
    if (job.failed < 0)
        return 0;
    tensor_fini(out);
    err_set(err, job.err.code, "%s", job.err.msg);
    return err_wrap(err, "dataset: sample %" PRId64 "%s%s%s: ", index[job.failed], b->array ? " of array '" : "", b->array ? b->array->name : "",
                    b->array ? "'" : "");
}

static int read_labels(const struct dataset *ds, const int64_t *index, int n, struct tensor *out, struct err *err)
{
    const struct tensor *y = &ds->labels.t;
    *out = (struct tensor){0};
    if (!ds->labels.name)
        return 0;
    struct shape shape = y->shape;
    enum dtype to = ds->labels_are_classes ? DTYPE_INT64 : DTYPE_FLOAT;
    if (ds->labels_are_classes)
        shape.rank = 1;
    shape.dim[0] = n;
    if (tensor_alloc(out, to, &shape, err))
        return -1;
    int64_t row = shape_product(&shape, 1, shape.rank);
    size_t in_bytes, out_bytes;
    dtype_bytes(y->dtype, row, &in_bytes);
    dtype_bytes(to, row, &out_bytes);
    for (int i = 0; i < n; i++) {
        const char *src = (const char *)y->data + (size_t)sample_of(ds, index[i]) * in_bytes;
        if (!dtype_convert(to, (char *)out->data + (size_t)i * out_bytes, y->dtype, src, row)) {
            tensor_fini(out);
            return err_set(err, ERR_DATASET, "labels of %s are no numbers", dtype_name(y->dtype));
        }
    }
    return 0;
}

/* What has been read stays in the mapped files' pages, and counts as ours: it is given back from time to time, or a pass
 * over a large set would end with all of it resident. */
static void forget_pages(struct dataset *ds, const struct tensor *in)
{
    enum { OFTEN = 8 << 20 };
    for (int i = 0; i < ds->n_bindings; i++)
        ds->read_bytes += in[i].bytes;
    if (ds->read_bytes < OFTEN || ds->single_feed)
        return;
    ds->read_bytes = 0;
    file_map_forget(&ds->members.map);
    for (int i = 0; i < ds->n_files; i++)
        file_map_forget(&ds->files[i]);
}

int dataset_read(struct dataset *ds, const int64_t *index, int n, struct tensor *in, struct tensor *labels, struct err *err)
{
    int done = 0;
    for (int i = 0; i < ds->n_bindings; i++)
        in[i] = (struct tensor){0};
    for (int i = 0; i < n; i++)
        if (index[i] < 0 || index[i] >= ds->count)
            return err_set(err, ERR_INTERNAL, "sample %" PRId64 " of %" PRId64, index[i], ds->count);
    for (; done < ds->n_bindings; done++) {
        const struct binding *b = &ds->bindings[done];
        if (ds->single_feed)
            tensor_ref(&in[done], &b->array->t);
        else if (read_input(ds, b, index, n, &in[done], err))
            goto fail;
    }
    if (!labels || read_labels(ds, index, n, labels, err) == 0) {
        forget_pages(ds, in);
        return 0;
    }
fail:
    for (int i = 0; i < done; i++)
        tensor_fini(&in[i]);
    return -1;
}

int dataset_read_range(struct dataset *ds, int64_t first, int n, struct tensor *in, struct tensor *labels, struct err *err)
{
    int64_t *index = malloc((size_t)(n > 0 ? n : 1) * sizeof *index);
    if (!index)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < n; i++)
        index[i] = first + i;
    int rc = dataset_read(ds, index, n, in, labels, err);
    free(index);
    return rc;
}

int64_t dataset_spread(const struct dataset *ds, int64_t samples, int64_t **index, struct err *err)
{
    int64_t n = samples <= 0 || samples > ds->count ? ds->count : samples;
    *index = malloc((size_t)n * sizeof **index);
    if (!*index)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int64_t i = 0; i < n; i++)
        (*index)[i] = (int64_t)((double)i * (double)ds->count / (double)n);
    return n;
}

int dataset_check_values(struct dataset *ds, struct err *err)
{
    enum { PICTURES_CHECKED = 256 };
    for (int i = 0; i < ds->n_arrays && !ds->single_feed; i++) {
        const struct array *a = &ds->arrays[i];
        struct shape s;
        size_t bytes;
        array_sample_shape(a, &s);
        int64_t n = shape_count(&s);
        dtype_bytes(a->t.dtype, n, &bytes);
        for (int64_t k = 0; k < ds->total; k++)
            if (check_finite(a->t.dtype, (const char *)a->t.data + (size_t)k * bytes, n, err))
                return err_wrap(err, "dataset: sample %" PRId64 " of array '%s': ", k, a->name);
    }
    const struct tensor *y = &ds->labels.t;
    if (ds->labels.name && check_finite(y->dtype, y->data, tensor_count(y), err))
        return err_wrap(err, "dataset: labels 'y': ");
    for (int64_t k = 0; ds->pictures && k < ds->count && k < PICTURES_CHECKED; k++) {
        struct picture p;
        int64_t sample = ds->count <= PICTURES_CHECKED ? k : (int64_t)((double)k * (double)ds->count / PICTURES_CHECKED);
        if (load_picture(ds, sample_of(ds, sample), &p, err))
            return err_wrap(err, "dataset: ");
        picture_fini(&p);
    }
    return 0;
}
