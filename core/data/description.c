/* SPDX-License-Identifier: Apache-2.0 */
#include "core/data/description.h"

#include <math.h>
#include <string.h>

#include "core/data/augment.h"

const char *const data_format_names[DATA_FORMAT_COUNT + 1] = {"npz", "idx", "cifar10", "images", "onnx", NULL};

static int fault(struct err *err, const char *pointer, const char *wanted)
{
    return err_set(err, ERR_DATASET, "data.json %s: %s", pointer, wanted);
}

static int index_of(const char *const *names, const json_t *value)
{
    const char *text = json_string_value(value);
    for (int i = 0; text && names[i]; i++)
        if (strcmp(names[i], text) == 0)
            return i;
    return -1;
}

static int parse_whole(const json_t *value, const char *pointer, int64_t min, int64_t max, int64_t *out, struct err *err)
{
    if (!value)
        return 0;
    if (!json_is_integer(value) || json_integer_value(value) < min || json_integer_value(value) > max) {
        char wanted[96];
        snprintf(wanted, sizeof wanted, "must be a whole number from %lld to %lld", (long long)min, (long long)max);
        return fault(err, pointer, wanted);
    }
    *out = json_integer_value(value);
    return 0;
}

static int parse_numbers(const json_t *value, const char *pointer, bool positive, double *out, int *count, struct err *err)
{
    if (!value)
        return 0;
    size_t n = json_array_size(value);
    if (!json_is_array(value) || n < 1 || n > 16)
        return fault(err, pointer, "must be an array of 1 to 16 numbers, one a channel");
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(value, i);
        if (!json_is_number(v) || (positive && json_number_value(v) <= 0))
            return fault(err, pointer, positive ? "must hold numbers above 0" : "must hold numbers");
        out[i] = json_number_value(v);
    }
    *count = (int)n;
    return 0;
}

static int known_keys(const json_t *object, const char *const *names, const char *pointer, struct err *err)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        int i = 0;
        while (names[i] && strcmp(names[i], key))
            i++;
        if (names[i])
            continue;
        char list[400] = "";
        for (i = 0; names[i]; i++)
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", names[i]);
        return err_set(err, ERR_DATASET, "data.json %s/%.64s: unknown key; known are %s", pointer, key, list);
    }
    return 0;
}

static int parse_preprocess(struct preprocess *p, const json_t *json, struct err *err)
{
    static const char *const keys[] = {"resize_shorter", "center_crop", "channels", "layout", "scale", "mean", "std", NULL};
    static const char *const channels[] = {"", "rgb", "bgr", "gray", NULL};
    static const char *const layouts[] = {"nchw", "nhwc", NULL};
    int64_t resize = 0, crop = 0;
    if (!json)
        return 0;
    if (!json_is_object(json))
        return fault(err, "/preprocess", "must be an object");
    p->given = true;
    const json_t *c = json_object_get(json, "channels"), *l = json_object_get(json, "layout"), *s = json_object_get(json, "scale");
    if (known_keys(json, keys, "/preprocess", err) ||
        parse_whole(json_object_get(json, "resize_shorter"), "/preprocess/resize_shorter", 1, 16384, &resize, err) ||
        parse_whole(json_object_get(json, "center_crop"), "/preprocess/center_crop", 1, 16384, &crop, err) ||
        parse_numbers(json_object_get(json, "mean"), "/preprocess/mean", false, p->mean, &p->n_mean, err) ||
        parse_numbers(json_object_get(json, "std"), "/preprocess/std", true, p->std, &p->n_std, err))
        return -1;
    if (c && index_of(channels, c) < 1)
        return fault(err, "/preprocess/channels", "must be \"rgb\", \"bgr\" or \"gray\"");
    if (l && index_of(layouts, l) < 0)
        return fault(err, "/preprocess/layout", "must be \"nchw\" or \"nhwc\"");
    if (s && !(json_is_number(s) && json_number_value(s) != 0))
        return fault(err, "/preprocess/scale", "must be a number other than 0");
    p->resize_shorter = (int)resize;
    p->center_crop = (int)crop;
    p->channels = c ? (enum data_channels)index_of(channels, c) : CHANNELS_UNSET;
    p->nhwc = l && index_of(layouts, l) == 1;
    p->has_scale = s != NULL;
    p->scale = s ? json_number_value(s) : 0;
    return 0;
}

static int check_strings(const json_t *object, const char *pointer, struct err *err)
{
    const char *key;
    json_t *value;
    if (!object)
        return 0;
    if (!json_is_object(object))
        return fault(err, pointer, "must be an object of strings");
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
        if (!json_is_string(value))
            return err_set(err, ERR_DATASET, "data.json %s/%.64s: must be a string", pointer, key);
    return 0;
}

static int check_augment(const json_t *json, struct err *err)
{
    struct augment unused;
    struct faults faults = {0};
    augment_parse(&unused, json, "/augment", &faults);
    const int rc = faults.count ? fault(err, faults.at[0].pointer, faults.at[0].detail) : 0;
    faults_fini(&faults);
    return rc;
}

static int parse_document(struct description *d, struct err *err)
{
    static const char *const keys[] = {"format",  "files",   "inputs", "preprocess", "augment",
                                       "classes", "offset", "limit",  "shuffle",    NULL};
    const json_t *j = d->json, *shuffle = json_object_get(j, "shuffle"), *classes = json_object_get(j, "classes");
    if (!json_is_object(j))
        return fault(err, "", "must be an object");
    int format = index_of(data_format_names, json_object_get(j, "format"));
    if (known_keys(j, keys, "", err))
        return -1;
    if (format < 0)
        return fault(err, "/format", "must be one of npz, idx, cifar10, images, onnx");
    d->format = (enum data_format)format;
    if (check_strings(json_object_get(j, "files"), "/files", err) || check_strings(json_object_get(j, "inputs"), "/inputs", err) ||
        parse_preprocess(&d->preprocess, json_object_get(j, "preprocess"), err) ||
        parse_whole(json_object_get(j, "offset"), "/offset", 0, INT64_MAX, &d->offset, err) ||
        parse_whole(json_object_get(j, "limit"), "/limit", 1, INT64_MAX, &d->limit, err))
        return -1;
    if (!description_file(d, "x") && d->format != DATA_NPZ && d->format != DATA_ONNX)
        return fault(err, "/files/x", "is missing: the file that holds the samples");
    if (shuffle && !json_is_boolean(shuffle))
        return fault(err, "/shuffle", "must be true or false");
    if (check_augment(json_object_get(j, "augment"), err))
        return -1;
    if (classes && !json_is_array(classes))
        return fault(err, "/classes", "must be an array of names");
    for (size_t i = 0; i < json_array_size(classes); i++)
        if (!json_is_string(json_array_get(classes, i)))
            return fault(err, "/classes", "must be an array of names");
    d->shuffle = json_is_true(shuffle);
    return 0;
}

void description_init(struct description *d, enum data_format format)
{
    *d = (struct description){.format = format, .limit = -1};
}

int description_parse(struct description *d, const char *text, size_t len, struct err *err)
{
    json_error_t at;
    description_init(d, DATA_NPZ);
    d->json = json_loadb(text, len, JSON_REJECT_DUPLICATES, &at);
    if (!d->json)
        return err_set(err, ERR_DATASET, "data.json is not JSON: %s at line %d, column %d", at.text, at.line, at.column);
    if (parse_document(d, err) == 0)
        return 0;
    description_fini(d);
    return -1;
}

void description_fini(struct description *d)
{
    json_decref(d->json);
    d->json = NULL;
}

const char *description_file(const struct description *d, const char *key)
{
    return json_string_value(json_object_get(json_object_get(d->json, "files"), key));
}
