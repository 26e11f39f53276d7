/* SPDX-License-Identifier: Apache-2.0
 * augment.c - see augment.h. An image is seen as [C, H, W] through strides, so that both layouts share the code. What
 * moves pixels reads one buffer and writes the other; `struct view` keeps which of the two is current. */
#include "core/data/augment.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/base/size.h"
#include "core/data/dataset_internal.h"

/* ---- the JSON form: one row a key ---- */

enum form { FORM_BOOL, FORM_WHOLE, FORM_NUMBER, FORM_SHARES, FORM_FACTORS };

struct row {
    const char *name;
    enum form form;
    size_t offset; /* of a bool, an int, or one or several doubles */
    double max;    /* numbers are from 0 */
};

static const struct row factor_rows[] = {
    {"brightness", FORM_NUMBER, offsetof(struct augment, brightness), 1},
    {"contrast", FORM_NUMBER, offsetof(struct augment, contrast), 1},
    {"saturation", FORM_NUMBER, offsetof(struct augment, saturation), 1},
    {NULL, FORM_BOOL, 0, 0},
};

static const struct row rows[] = {
    {"flip", FORM_BOOL, offsetof(struct augment, flip), 0},
    {"crop_pad", FORM_WHOLE, offsetof(struct augment, crop_pad), AUGMENT_PIXELS},
    {"resized_crop", FORM_SHARES, offsetof(struct augment, crop_least), 1},
    {"jitter", FORM_FACTORS, 0, 1},
    {"rotate", FORM_NUMBER, offsetof(struct augment, rotate), 180},
    {"cutout", FORM_WHOLE, offsetof(struct augment, cutout), AUGMENT_PIXELS},
    {"mixup", FORM_NUMBER, offsetof(struct augment, mixup), 100},
    {NULL, FORM_BOOL, 0, 0},
};

static void parse_rows(struct augment *a, const struct row *table, const json_t *json, const char *pointer,
                       struct faults *faults);

static void parse_value(struct augment *a, const struct row *r, const json_t *v, const char *pointer,
                        struct faults *faults)
{
    char *at = (char *)a + r->offset;
    const double number = json_number_value(v), first = json_number_value(json_array_get(v, 0)),
                 second = json_number_value(json_array_get(v, 1));
    const bool within = json_is_number(v) && number >= 0 && number <= r->max;
    switch (r->form) {
    case FORM_BOOL:
        if (json_is_boolean(v))
            *(bool *)at = json_is_true(v);
        else
            faults_add(faults, pointer, "must be true or false");
        break;
    case FORM_WHOLE:
        if (json_is_integer(v) && within)
            *(int *)(void *)at = (int)json_integer_value(v);
        else
            faults_add(faults, pointer, "must be a whole number from 0 to %.0f", r->max);
        break;
    case FORM_NUMBER:
        if (within)
            *(double *)(void *)at = number;
        else
            faults_add(faults, pointer, "must be a number from 0 to %.0f", r->max);
        break;
    case FORM_SHARES:
        if (json_array_size(v) == 2 && json_is_number(json_array_get(v, 0)) && json_is_number(json_array_get(v, 1)) &&
            first > 0 && first <= second && second <= 1) {
            a->crop_least = first;
            a->crop_most = second;
        } else {
            faults_add(faults, pointer, "must be [least, most], shares of the area with 0 < least <= most <= 1");
        }
        break;
    case FORM_FACTORS:
        parse_rows(a, factor_rows, v, pointer, faults);
        break;
    }
}

static void parse_rows(struct augment *a, const struct row *table, const json_t *json, const char *pointer,
                       struct faults *faults)
{
    const char *key;
    json_t *value;
    if (!json_is_object(json)) {
        faults_add(faults, pointer, "must be an object");
        return;
    }
    json_object_foreach((json_t *)(uintptr_t)json, key, value)
    {
        char place[400], list[160] = "";
        int i = 0;
        snprintf(place, sizeof place, "%s/%.64s", pointer, key);
        while (table[i].name && strcmp(table[i].name, key))
            i++;
        if (table[i].name) {
            parse_value(a, &table[i], value, place, faults);
            continue;
        }
        for (i = 0; table[i].name; i++)
            snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i ? ", " : "", table[i].name);
        faults_add(faults, place, "unknown key; known are %s", list);
    }
}

void augment_parse(struct augment *a, const json_t *json, const char *pointer, struct faults *faults)
{
    *a = (struct augment){0};
    if (!json)
        return;
    parse_rows(a, rows, json, pointer, faults);
    a->any = a->flip || a->crop_pad || a->cutout || a->crop_most > 0 || a->brightness > 0 || a->contrast > 0 ||
             a->saturation > 0 || a->rotate > 0 || a->mixup > 0;
}

int augment_of_dataset(struct augment *a, const struct dataset *ds, struct err *err)
{
    struct faults faults = {0};
    augment_parse(a, json_object_get(ds->desc.json, "augment"), "/augment", &faults);
    const int rc =
        faults.count ? err_set(err, ERR_DATASET, "data.json %s: %s", faults.at[0].pointer, faults.at[0].detail) : 0;
    faults_fini(&faults);
    return rc;
}

/* ---- how a sample lies ---- */

/* Pixels are [C, H, W] or [H, W, C] as preprocess says. Other arrays lie as the model wants them; of their axes the
 * channels are the first that may be some, as most exporters write it. */
static bool image_shape(struct augment_image *im, const struct shape *s, bool nhwc, bool known)
{
    if (s->rank != 3 || s->dim[0] < 1 || s->dim[1] < 1 || s->dim[2] < 1)
        return false;
    if (!known)
        nhwc = s->dim[0] > AUGMENT_CHANNELS;
    im->nhwc = nhwc;
    im->channels = s->dim[nhwc ? 2 : 0];
    im->height = s->dim[nhwc ? 0 : 1];
    im->width = s->dim[nhwc ? 1 : 2];
    return im->channels <= AUGMENT_CHANNELS && im->height > 1 && im->width > 1 && im->height <= INT32_MAX &&
           im->width <= INT32_MAX;
}

/* The values of pixels, (pixel scale - mean) / std. */
static void image_range(struct augment_image *im, const struct preprocess *p, bool bytes)
{
    const double scale = p->has_scale ? p->scale : bytes ? 1.0 / 255 : 1, white = bytes ? 255 * scale : 1;
    im->pixels = true;
    im->bgr = p->channels == CHANNELS_BGR;
    for (int64_t c = 0; c < im->channels; c++) {
        const double mean = p->n_mean ? p->mean[p->n_mean == 1 ? 0 : c] : 0;
        const double std = p->n_std ? p->std[p->n_std == 1 ? 0 : c] : 1;
        im->black[c] = (float)(-mean / std);
        im->scale[c] = (float)(white / std);
    }
}

int augment_image_of(struct augment_image *im, const struct dataset *ds, const struct model *m, struct err *err)
{
    const struct preprocess *p = &ds->desc.preprocess;
    (void)m; /* its inputs are in the bindings already */
    *im = (struct augment_image){.input = -1};
    for (int i = 0; i < ds->n_bindings && !ds->single_feed; i++) {
        const struct binding *b = &ds->bindings[i];
        struct augment_image found = {.input = i};
        struct shape s;
        if (b->dtype != DTYPE_FLOAT)
            continue;
        if (dataset_sample_shape(ds, i, &s, err))
            return -1;
        for (int c = 0; c < AUGMENT_CHANNELS; c++)
            found.scale[c] = 1;
        if (!image_shape(&found, &s, p->nhwc, b->pixels))
            continue;
        if (b->pixels)
            image_range(&found, p, !b->array || b->array->t.dtype == DTYPE_UINT8);
        if (im->input >= 0)
            return err_set(err, ERR_DATASET,
                           "augment: the inputs '%s' and '%s' are both images; only one of them would be changed",
                           ds->bindings[im->input].name, b->name);
        *im = found;
    }
    return im->input >= 0 ? 0
                          : err_set(err, ERR_DATASET,
                                    "augment: a sample is no image; it changes float32 images of 1 to %d channels, "
                                    "[C, H, W] or [H, W, C]",
                                    AUGMENT_CHANNELS);
}

int augment_fits(const struct augment *a, const struct augment_image *im, struct err *err)
{
    const int64_t least = i64_min(im->height, im->width);
    if (a->crop_pad >= least || a->cutout > least)
        return err_set(err, ERR_DATASET, "augment: %s of %d is too large for images of %lld x %lld",
                       a->crop_pad >= least ? "crop_pad" : "cutout", a->crop_pad >= least ? a->crop_pad : a->cutout,
                       (long long)im->height, (long long)im->width);
    if (!im->pixels && (a->brightness > 0 || a->contrast > 0 || a->saturation > 0))
        return err_set(err, ERR_DATASET,
                       "augment: jitter needs to know which values are black and white; the samples are numbers "
                       "as the model takes them. Give bytes, or `preprocess`");
    return 0;
}

/* ---- the changes ---- */

struct view {
    const struct augment_image *im;
    float *x, *other; /* the sample is in x */
    int64_t y_stride, x_stride, c_stride;
};

static float *pixel(const struct view *v, float *in, int64_t c, int64_t y, int64_t x)
{
    return in + c * v->c_stride + y * v->y_stride + x * v->x_stride;
}

static void swap(struct view *v)
{
    float *x = v->x;
    v->x = v->other;
    v->other = x;
}

/* Random whole number in [0, n]. */
static int64_t up_to(struct rng *rng, int64_t n)
{
    return (int64_t)rng_below(rng, (uint64_t)n + 1);
}

static double between(struct rng *rng, double from, double to)
{
    return from + (to - from) * rng_uniform(rng);
}

/* Value at a place between pixels; beyond the edges is `outside`, or with NAN the nearest pixel. */
static float bilinear(const struct view *v, int64_t c, double y, double x, float outside)
{
    const int64_t h = v->im->height, w = v->im->width;
    const double top = floor(y), left = floor(x), dy = y - top, dx = x - left;
    double sum = 0;
    for (int corner = 0; corner < 4; corner++) {
        const double share = (corner & 2 ? dy : 1 - dy) * (corner & 1 ? dx : 1 - dx);
        int64_t py = (int64_t)top + (corner >> 1), px = (int64_t)left + (corner & 1);
        const bool out = py < 0 || py >= h || px < 0 || px >= w;
        if (out && isnan(outside)) {
            py = i64_max(0, i64_min(h - 1, py));
            px = i64_max(0, i64_min(w - 1, px));
        }
        sum += share * (double)(out && !isnan(outside) ? outside : *pixel(v, v->x, c, py, px));
    }
    return (float)sum;
}

/* A rectangle of a random area and aspect, as torchvision's RandomResizedCrop draws it; then bilinear, with pixels'
 * centres at half numbers and places clamped into the rectangle. */
static void resized_crop(const struct augment *a, struct view *v, struct rng *rng)
{
    const int64_t h = v->im->height, w = v->im->width;
    const double least = log(3.0 / 4), most = log(4.0 / 3);
    int64_t ch = h, cw = w, top = 0, left = 0;
    for (int attempt = 0; attempt < 10; attempt++) {
        const double area = between(rng, a->crop_least, a->crop_most) * (double)h * (double)w;
        const double ratio = exp(between(rng, least, most));
        const int64_t tw = (int64_t)rint(sqrt(area * ratio)), th = (int64_t)rint(sqrt(area / ratio));
        if (tw < 1 || tw > w || th < 1 || th > h)
            continue;
        ch = th;
        cw = tw;
        top = up_to(rng, h - th);
        left = up_to(rng, w - tw);
        break;
    }
    const double sy = (double)ch / (double)h, sx = (double)cw / (double)w;
    for (int64_t y = 0; y < h; y++) {
        const double fy = fmin(fmax(((double)y + 0.5) * sy - 0.5, 0), (double)(ch - 1)) + (double)top;
        for (int64_t x = 0; x < w; x++) {
            const double fx = fmin(fmax(((double)x + 0.5) * sx - 0.5, 0), (double)(cw - 1)) + (double)left;
            for (int64_t c = 0; c < v->im->channels; c++)
                *pixel(v, v->other, c, y, x) = bilinear(v, c, fy, fx, NAN);
        }
    }
    swap(v);
}

static void rotate(const struct augment *a, struct view *v, struct rng *rng)
{
    const double angle = between(rng, -a->rotate, a->rotate) * 3.14159265358979323846 / 180;
    const double cosine = cos(angle), sine = sin(angle);
    const double cy = (double)(v->im->height - 1) / 2, cx = (double)(v->im->width - 1) / 2;
    for (int64_t y = 0; y < v->im->height; y++)
        for (int64_t x = 0; x < v->im->width; x++) {
            const double dy = (double)y - cy, dx = (double)x - cx;
            const double fy = cy + sine * dx + cosine * dy, fx = cx + cosine * dx - sine * dy;
            for (int64_t c = 0; c < v->im->channels; c++)
                *pixel(v, v->other, c, y, x) = bilinear(v, c, fy, fx, v->im->black[c]);
        }
    swap(v);
}

static void crop_pad(const struct augment *a, struct view *v, struct rng *rng)
{
    const int64_t h = v->im->height, w = v->im->width;
    const int64_t up = up_to(rng, 2 * (int64_t)a->crop_pad) - a->crop_pad;
    const int64_t aside = up_to(rng, 2 * (int64_t)a->crop_pad) - a->crop_pad;
    for (int64_t c = 0; c < v->im->channels; c++)
        for (int64_t y = 0; y < h; y++)
            for (int64_t x = 0; x < w; x++) {
                const int64_t fy = y + up, fx = x + aside;
                const bool inside = fy >= 0 && fy < h && fx >= 0 && fx < w;
                *pixel(v, v->other, c, y, x) = inside ? *pixel(v, v->x, c, fy, fx) : v->im->black[c];
            }
    swap(v);
}

static void flip(const struct augment *a, struct view *v, struct rng *rng)
{
    const int64_t w = v->im->width;
    (void)a;
    if (rng_below(rng, 2) == 0)
        return;
    for (int64_t c = 0; c < v->im->channels; c++)
        for (int64_t y = 0; y < v->im->height; y++)
            for (int64_t x = 0; x < w / 2; x++) {
                float *left = pixel(v, v->x, c, y, x), *right = pixel(v, v->x, c, y, w - 1 - x), t = *left;
                *left = *right;
                *right = t;
            }
}

/* Brightness of a pixel whose channels are 0..1: ITU-R 601's weights for three channels, else the mean. */
static float gray(const struct view *v, const float *at)
{
    const int64_t n = v->im->channels, s = v->c_stride;
    float sum = 0;
    if (n == 3)
        return 0.2989f * at[v->im->bgr ? 2 * s : 0] + 0.587f * at[s] + 0.114f * at[v->im->bgr ? 0 : 2 * s];
    for (int64_t c = 0; c < n; c++)
        sum += at[c * s];
    return sum / (float)n;
}

/* Each pixel becomes f of itself and 1 - f of what it is blended with, cut off to 0..1. */
static void blend(const struct view *v, float f, bool with_own, float with)
{
    for (int64_t y = 0; y < v->im->height; y++)
        for (int64_t x = 0; x < v->im->width; x++) {
            float *at = pixel(v, v->x, 0, y, x);
            const float other = with_own ? gray(v, at) : with;
            for (int64_t c = 0; c < v->im->channels; c++)
                at[c * v->c_stride] = fminf(fmaxf(f * at[c * v->c_stride] + (1 - f) * other, 0), 1);
        }
}

static float mean_gray(const struct view *v)
{
    double sum = 0;
    for (int64_t y = 0; y < v->im->height; y++)
        for (int64_t x = 0; x < v->im->width; x++)
            sum += (double)gray(v, pixel(v, v->x, 0, y, x));
    return (float)(sum / (double)(v->im->height * v->im->width));
}

/* To pixels of 0..1, or back. */
static void rescale(const struct view *v, bool to_pixels)
{
    for (int64_t c = 0; c < v->im->channels; c++)
        for (int64_t y = 0; y < v->im->height; y++)
            for (int64_t x = 0; x < v->im->width; x++) {
                float *at = pixel(v, v->x, c, y, x);
                *at = to_pixels ? (*at - v->im->black[c]) / v->im->scale[c] : *at * v->im->scale[c] + v->im->black[c];
            }
}

static void jitter(const struct augment *a, struct view *v, struct rng *rng)
{
    const double wide[3] = {a->brightness, a->contrast, a->saturation};
    float factor[3];
    int order[3] = {0, 1, 2};
    for (int i = 0; i < 3; i++)
        factor[i] = (float)between(rng, 1 - wide[i], 1 + wide[i]);
    for (int i = 2; i > 0; i--) {
        const int j = (int)rng_below(rng, (uint64_t)i + 1), t = order[j];
        order[j] = order[i];
        order[i] = t;
    }
    rescale(v, true);
    for (int i = 0; i < 3; i++) {
        const int what = order[i];
        if (wide[what] <= 0 || (what == 2 && v->im->channels == 1))
            continue;
        blend(v, factor[what], what == 2, what == 1 ? mean_gray(v) : 0);
    }
    rescale(v, false);
}

/* The centre is any pixel; the square is cut off at the edges (DeVries & Taylor 2017). */
static void cutout(const struct augment *a, struct view *v, struct rng *rng)
{
    const int64_t top = up_to(rng, v->im->height - 1) - a->cutout / 2,
                  left = up_to(rng, v->im->width - 1) - a->cutout / 2;
    for (int64_t c = 0; c < v->im->channels; c++)
        for (int64_t y = i64_max(top, 0); y < i64_min(top + a->cutout, v->im->height); y++)
            for (int64_t x = i64_max(left, 0); x < i64_min(left + a->cutout, v->im->width); x++)
                *pixel(v, v->x, c, y, x) = 0;
}

void augment_rng(struct rng *rng, uint64_t seed, int64_t epoch, int64_t sample, uint64_t stream)
{
    struct rng of_seed, of_epoch;
    rng_init(&of_seed, seed, stream);
    rng_init(&of_epoch, rng_u64(&of_seed), (uint64_t)epoch);
    rng_init(rng, rng_u64(&of_epoch), (uint64_t)sample);
}

void augment_apply(const struct augment *a, const struct augment_image *im, uint64_t seed, int64_t epoch,
                   int64_t sample, float *x, float *scratch)
{
    const struct {
        bool wanted;
        void (*change)(const struct augment *a, struct view *v, struct rng *rng);
    } changes[] = {
        {a->crop_most > 0, resized_crop},
        {a->rotate > 0, rotate},
        {a->crop_pad > 0, crop_pad},
        {a->flip, flip},
        {a->brightness > 0 || a->contrast > 0 || a->saturation > 0, jitter},
        {a->cutout > 0, cutout},
    };
    const int64_t c = im->channels, w = im->width, plane = im->height * im->width;
    struct view v = {im, x, scratch, im->nhwc ? w * c : w, im->nhwc ? c : 1, im->nhwc ? 1 : plane};
    for (uint64_t i = 0; i < sizeof changes / sizeof *changes; i++) {
        struct rng rng;
        if (!changes[i].wanted)
            continue;
        augment_rng(&rng, seed, epoch, sample, i + 1); /* each has numbers of its own */
        changes[i].change(a, &v, &rng);
    }
    if (v.x != x)
        memcpy(x, v.x, (size_t)(c * plane) * sizeof *x);
}
