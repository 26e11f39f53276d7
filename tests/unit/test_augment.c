/* SPDX-License-Identifier: Apache-2.0
 * Augmentation: each change against what it must be by definition (a shift is one of the shifts, a plane turned is a
 * plane), in both layouts; what is drawn depends on seed, epoch and sample alone; the JSON form and its faults. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>
#include <string.h>

#include "core/data/augment.h"
#include "tests/unit/images.h"

enum { C = 3, H = 11, W = 8, SIZE = C * H * W, TRIES = 200 };
static const struct augment_image chw = {
    .channels = C, .height = H, .width = W, .black = {-1, -2, -3}, .scale = {2, 3, 4}, .pixels = true};

/* The image as [C, H, W], pixels v(c, y, x) in 0..1 through scale and black; then one sample changed, in both layouts.
 * */
static void changed(const struct augment *a, int64_t sample, const float *in, float *out)
{
    struct augment_image hwc = chw;
    float nhwc[SIZE], scratch[SIZE];
    hwc.nhwc = true;
    memcpy(out, in, SIZE * sizeof *in);
    for (int c = 0; c < C; c++)
        for (int i = 0; i < H * W; i++)
            nhwc[i * C + c] = in[c * H * W + i];
    augment_apply(a, &chw, 5, 2, sample, out, scratch);
    augment_apply(a, &hwc, 5, 2, sample, nhwc, scratch);
    for (int c = 0; c < C; c++)
        for (int i = 0; i < H * W; i++)
            assert_true(nhwc[i * C + c] == out[c * H * W + i]);
}

static void random_image(float *x)
{
    struct rng rng;
    rng_init(&rng, 1, 0);
    for (int i = 0; i < SIZE; i++)
        x[i] = chw.black[i / (H * W)] + chw.scale[i / (H * W)] * (float)rng_uniform(&rng);
}

/* A plane over y and x, another a channel. */
static double plane(int c, double y, double x)
{
    return 0.3 * c + 0.7 * y - 0.4 * x;
}

static void plane_image(float *in)
{
    for (int i = 0; i < SIZE; i++)
        in[i] = (float)plane(i / (H * W), i / W % H, i % W);
}

static void test_flip(void **state)
{
    (void)state;
    float in[SIZE], out[SIZE];
    int turned = 0;
    random_image(in);
    for (int s = 0; s < TRIES; s++) {
        changed(&(struct augment){.flip = true}, s, in, out);
        const bool mirrored = out[0] == in[W - 1];
        for (int i = 0; i < SIZE; i++)
            assert_true(out[i] == in[mirrored ? i / W * W + W - 1 - i % W : i]);
        turned += mirrored;
    }
    assert_in_range(turned, TRIES / 2 - 35, TRIES / 2 + 35); /* five standard deviations */
}

static void test_crop_pad(void **state)
{
    (void)state;
    enum { PAD = 2, SPAN = 2 * PAD + 1 };
    float in[SIZE], out[SIZE];
    int seen[SPAN * SPAN] = {0};
    random_image(in);
    for (int s = 0; s < 4 * TRIES; s++) {
        int found = -1;
        changed(&(struct augment){.crop_pad = PAD}, s, in, out);
        for (int shift = 0; shift < SPAN * SPAN; shift++) {
            bool same = true;
            for (int i = 0; i < SIZE && same; i++) {
                const int y = i / W % H + shift / SPAN - PAD, x = i % W + shift % SPAN - PAD, c = i / (H * W);
                same = out[i] == (y < 0 || y >= H || x < 0 || x >= W ? chw.black[c] : in[(c * H + y) * W + x]);
            }
            found = same ? shift : found;
        }
        assert_true(found >= 0);
        seen[found]++;
    }
    for (int i = 0; i < SPAN * SPAN; i++)
        assert_in_range(seen[i], 4, 4 * TRIES / (SPAN * SPAN) + 28);
}

/* A plane cut out and stretched is a plane again, but at the edges, where pixels' centres lie outside. */
static void test_resized_crop(void **state)
{
    (void)state;
    float in[SIZE], out[SIZE];
    double least = 1, most = 0;
    plane_image(in);
    for (int s = 0; s < TRIES; s++) {
        changed(&(struct augment){.crop_least = 0.4, .crop_most = 0.6}, s, in, out);
        const float *mid = out + 5 * W + 4; /* slopes are the sides of the crop */
        const double slope_y = (double)(mid[W] - mid[0]) / 0.7, slope_x = (double)(mid[1] - mid[0]) / -0.4;
        const double h = slope_y * H, w = slope_x * W, area = h * w / (H * W), aspect = w / h;
        assert_true(fabs(h - rint(h)) < 1e-3 && fabs(w - rint(w)) < 1e-3);
        /* sides are rounded: a pixel of 11 and of 8 */
        assert_true(area > 0.3 && area < 0.72 && aspect > 0.6 && aspect < 1.6);
        for (int i = 0; i < SIZE; i++) {
            const int y = i / W % H, x = i % W, c = i / (H * W);
            const double want = (double)mid[0] + plane(c, slope_y * (y - 5), slope_x * (x - 4));
            if (y > 1 && y < H - 2 && x > 1 && x < W - 2)
                assert_true(fabs((double)out[i] - want) < 1e-4);
            assert_true(out[i] >= in[c * H * W + W - 1] - 1e-5f && out[i] <= in[c * H * W + (H - 1) * W] + 1e-5f);
        }
        least = fmin(least, area);
        most = fmax(most, area);
    }
    assert_true(least < 0.42 && most > 0.56);
}

static void test_rotate(void **state)
{
    (void)state;
    float in[SIZE], out[SIZE];
    double most = 0;
    plane_image(in);
    for (int s = 0; s < TRIES; s++) {
        changed(&(struct augment){.rotate = 30}, s, in, out);
        const float *mid = out + 5 * W + 3;
        const double by_y = (double)(mid[W] - mid[0]), by_x = (double)(mid[1] - mid[0]), steep = hypot(0.7, 0.4);
        assert_true(fabs(hypot(by_y, by_x) - steep) < 1e-4); /* as steep as before, turned by the angle */
        const double angle = atan2(by_y, by_x) - atan2(0.7, -0.4);
        most = fmax(most, fabs(angle));
        assert_true(fabs(angle) < 30.001 * M_PI / 180);
        for (int i = 0; i < SIZE; i++) {
            const double y = i / W % H - (H - 1) / 2.0, x = i % W - (W - 1) / 2.0;
            const double fy = (H - 1) / 2.0 + cos(angle) * y - sin(angle) * x,
                         fx = (W - 1) / 2.0 + sin(angle) * y + cos(angle) * x;
            const int c = i / (H * W);
            if (fy > 0 && fy < H - 1 && fx > 0 && fx < W - 1)
                assert_true(fabs((double)out[i] - plane(c, fy, fx)) < 1e-4);
            else if (fy < -1 || fy > H || fx < -1 || fx > W)
                assert_true(out[i] == chw.black[c]);
        }
    }
    assert_true(most > 28 * M_PI / 180);
}

static double gray_of(const float *x, int i)
{
    double p[C];
    for (int c = 0; c < C; c++)
        p[c] = (double)((x[c * H * W + i] - chw.black[c]) / chw.scale[c]);
    return 0.2989 * p[0] + 0.587 * p[1] + 0.114 * p[2];
}

/* One factor explains every pixel: p' = f p + (1 - f) other, cut off to 0..1; other is 0, the mean gray, or the own
 * gray. */
static void test_jitter(void **state)
{
    (void)state;
    static const struct augment kinds[] = {{.brightness = 0.4}, {.contrast = 0.4}, {.saturation = 0.4}};
    float in[SIZE], out[SIZE];
    random_image(in);
    for (int kind = 0; kind < 3; kind++) {
        double least = 9, most = 0, mean = 0;
        for (int i = 0; i < H * W; i++)
            mean += gray_of(in, i) / (H * W);
        for (int s = 0; s < TRIES; s++) {
            double f = NAN;
            changed(&kinds[kind], s, in, out);
            for (int pass = 0; pass < 2; pass++) /* the factor from a pixel that was not cut off, then all */
                for (int i = 0; i < SIZE; i++) {
                    const int c = i / (H * W);
                    const double p = (double)((in[i] - chw.black[c]) / chw.scale[c]);
                    const double q = (double)((out[i] - chw.black[c]) / chw.scale[c]);
                    const double other = kind == 0 ? 0 : kind == 1 ? mean : gray_of(in, i % (H * W));
                    if (pass == 0 && q > 0.01 && q < 0.99 && fabs(p - other) > 0.3)
                        f = (q - other) / (p - other);
                    else if (pass == 1)
                        assert_true(fabs(q - fmin(fmax(f * p + (1 - f) * other, 0), 1)) < 1e-5);
                }
            assert_true(f > 0.5999 && f < 1.4001);
            least = fmin(least, f);
            most = fmax(most, f);
        }
        assert_true(least < 0.63 && most > 1.37);
    }
}

static void test_cutout(void **state)
{
    (void)state;
    float in[SIZE], out[SIZE];
    bool cut_off = false, whole = false;
    random_image(in);
    for (int s = 0; s < TRIES; s++) {
        int top = H, left = W, bottom = -1, right = -1;
        changed(&(struct augment){.cutout = 4}, s, in, out);
        for (int i = 0; i < H * W; i++)
            if (out[i] == 0) {
                top = i / W < top ? i / W : top;
                bottom = i / W > bottom ? i / W : bottom;
                left = i % W < left ? i % W : left;
                right = i % W > right ? i % W : right;
            }
        const int h = bottom - top + 1, w = right - left + 1;
        assert_true(h >= 2 && h <= 4 && w >= 2 && w <= 4);
        assert_true((h == 4 || top == 0 || bottom == H - 1) && (w == 4 || left == 0 || right == W - 1));
        cut_off = cut_off || h * w < 16;
        whole = whole || h * w == 16;
        for (int i = 0; i < SIZE; i++) {
            const int y = i / W % H, x = i % W;
            const bool inside = y >= top && y <= bottom && x >= left && x <= right;
            assert_true(out[i] == (inside ? 0 : in[i]));
        }
    }
    assert_true(cut_off && whole);
}

static void test_draws(void **state)
{
    (void)state;
    const struct augment a = {.flip = true, .crop_pad = 2, .rotate = 20, .brightness = 0.2, .cutout = 3};
    float in[SIZE], one[SIZE], other[SIZE], scratch[SIZE];
    struct augment_image gray = {.channels = 1, .height = C * H, .width = W, .scale = {1}, .pixels = true};
    random_image(in);
    changed(&a, 7, in, one);
    changed(&a, 7, in, other);
    assert_memory_equal(one, other, sizeof one);
    changed(&a, 8, in, other);
    assert_memory_not_equal(one, other, sizeof one);
    memcpy(other, in, sizeof in);
    augment_apply(&a, &chw, 5, 3, 7, other, scratch); /* the next epoch */
    assert_memory_not_equal(one, other, sizeof one);
    memcpy(other, in, sizeof in);
    augment_apply(&a, &chw, 6, 2, 7, other, scratch); /* another seed */
    assert_memory_not_equal(one, other, sizeof one);
    /* saturation leaves a single channel alone, and a change asked for does not shift what the others draw */
    memcpy(one, in, sizeof in);
    memcpy(other, in, sizeof in);
    augment_apply(&(struct augment){.crop_pad = 2}, &gray, 5, 2, 7, one, scratch);
    augment_apply(&(struct augment){.crop_pad = 2, .saturation = 0}, &gray, 5, 2, 7, other, scratch);
    assert_memory_equal(one, other, sizeof one);
}

static void test_json(void **state)
{
    (void)state;
    static const struct {
        const char *json, *pointer, *words; /* pointer NULL: taken */
    } table[] = {
        {"{}", NULL, NULL},
        {"{\"flip\": true, \"crop_pad\": 4, \"resized_crop\": [0.5, 1], \"jitter\": {\"brightness\": 0.4, "
         "\"contrast\": 1, "
         "\"saturation\": 0}, \"rotate\": 15, \"cutout\": 8, \"mixup\": 0.2}",
         NULL, NULL},
        {"[]", "/a", "must be an object"},
        {"{\"turn\": 1}", "/a/turn",
         "unknown key; known are flip, crop_pad, resized_crop, jitter, rotate, cutout, mixup"},
        {"{\"flip\": 1}", "/a/flip", "true or false"},
        {"{\"crop_pad\": -1}", "/a/crop_pad", "whole number from 0 to 4096"},
        {"{\"crop_pad\": 1.5}", "/a/crop_pad", "whole number"},
        {"{\"crop_pad\": 99999999999}", "/a/crop_pad", "whole number"},
        {"{\"cutout\": \"8\"}", "/a/cutout", "whole number"},
        {"{\"resized_crop\": 0.5}", "/a/resized_crop", "0 < least <= most <= 1"},
        {"{\"resized_crop\": [0, 1]}", "/a/resized_crop", "least"},
        {"{\"resized_crop\": [0.6, 0.5]}", "/a/resized_crop", "least"},
        {"{\"resized_crop\": [0.5, 1.5]}", "/a/resized_crop", "least"},
        {"{\"resized_crop\": [0.5, 0.6, 0.7]}", "/a/resized_crop", "least"},
        {"{\"resized_crop\": [\"a\", 1]}", "/a/resized_crop", "least"},
        {"{\"jitter\": 0.5}", "/a/jitter", "must be an object"},
        {"{\"jitter\": {\"hue\": 0.1}}", "/a/jitter/hue", "unknown key; known are brightness, contrast, saturation"},
        {"{\"jitter\": {\"contrast\": 1.1}}", "/a/jitter/contrast", "from 0 to 1"},
        {"{\"rotate\": 181}", "/a/rotate", "from 0 to 180"},
        {"{\"rotate\": null}", "/a/rotate", "number"},
        {"{\"mixup\": -0.1}", "/a/mixup", "from 0 to 100"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct faults faults = {0};
        struct augment a;
        json_t *json = json_loads(table[i].json, 0, NULL);
        augment_parse(&a, json, "/a", &faults);
        if (faults.count != (table[i].pointer ? 1 : 0))
            fail_msg("%s: %d faults", table[i].json, faults.count);
        if (table[i].pointer) {
            assert_string_equal(faults.at[0].pointer, table[i].pointer);
            if (!strstr(faults.at[0].detail, table[i].words))
                fail_msg("%s: %s", table[i].json, faults.at[0].detail);
        } else {
            assert_int_equal(a.any, i > 0);
        }
        faults_fini(&faults);
        json_decref(json);
    }
    struct augment a;
    augment_parse(&a, NULL, "", &(struct faults){0});
    assert_false(a.any);
}

/* How images lie is found from the description and the model; what is none is refused. */
static void test_image_of(void **state)
{
    (void)state;
    static const struct {
        int h, w, c;
        const char *more;
        struct shape model;
        const char *words; /* NULL: found */
        float black, scale;
        bool nhwc;
    } table[] = {
        {6, 5, 3, "", {4, {-1, 3, 6, 5}}, NULL, 0, 1, false},
        {6, 5, 3, ", \"preprocess\": {\"layout\": \"nhwc\", \"scale\": 1}", {4, {-1, 6, 5, 3}}, NULL, 0, 255, true},
        {6,
         5,
         3,
         ", \"preprocess\": {\"mean\": [0.5, 0.4, 0.3], \"std\": [0.25, 0.2, 0.2], \"channels\": \"bgr\"}",
         {4, {-1, 3, 6, 5}},
         NULL,
         -2,
         4,
         false},
        {6, 5, 1, "", {2, {-1, 30}}, NULL, 0, 1, false}, /* flattened for the model */
        {6, 5, 17, "", {4, {-1, 17, 6, 5}}, "a sample is no image", 0, 0, false},
        {6, 1, 3, "", {4, {-1, 3, 6, 1}}, "a sample is no image", 0, 0, false},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct err err = {0};
        struct augment_image im;
        struct dataset *ds = images_open(4, table[i].h, table[i].w, table[i].c, table[i].more, &err);
        struct model *m = images_model(table[i].model);
        assert_non_null(ds);
        if (dataset_bind(ds, m, &err))
            fail_msg("row %zu: %s", i, err.msg);
        const int rc = augment_image_of(&im, ds, m, &err);
        if (rc != (table[i].words ? -1 : 0) || (rc && !strstr(err.msg, table[i].words)))
            fail_msg("row %zu: %s", i, err.msg);
        if (!rc) {
            assert_true(im.height == table[i].h && im.width == table[i].w && im.channels == table[i].c);
            assert_true(im.pixels && im.nhwc == table[i].nhwc);
            assert_true(fabsf(im.black[0] - table[i].black) < 1e-5f && fabsf(im.scale[0] - table[i].scale) < 1e-3f);
            assert_int_equal(augment_fits(&(struct augment){.crop_pad = 4, .cutout = 5}, &im, &err), 0);
            assert_int_equal(augment_fits(&(struct augment){.crop_pad = 5}, &im, &err), -1);
            assert_non_null(strstr(err.msg, "crop_pad of 5 is too large for images of 6 x 5"));
        }
        dataset_close(ds);
        model_free(m);
    }
}

/* The description's key: wrong ones, and one for samples that are no images. */
static void test_description(void **state)
{
    (void)state;
    struct err err = {0};
    struct augment a;
    struct dataset *ds = images_open(4, 6, 5, 3, ", \"augment\": {\"flip\": true, \"crop_pad\": 1}", &err);
    assert_non_null(ds);
    assert_int_equal(augment_of_dataset(&a, ds, &err), 0);
    assert_true(a.any && a.flip && a.crop_pad == 1);
    dataset_close(ds);
    assert_null(images_open(4, 6, 5, 3, ", \"augment\": {\"flip\": true, \"jitter\": {\"hue\": 1}}", &err));
    assert_int_equal(err.code, ERR_DATASET);
    assert_non_null(strstr(err.msg, "data.json /augment/jitter/hue: unknown key"));
    err = (struct err){0};
    assert_null(images_open(4, 6, 5, 3, ", \"augment\": true", &err));
    assert_non_null(strstr(err.msg, "data.json /augment: must be an object"));
    err = (struct err){0};
    assert_null(images_open(4, 1, 1, 30, ", \"augment\": {\"flip\": true}", &err));
    assert_non_null(strstr(err.msg, "data.json /augment: the samples are no images"));
    ds = images_open(4, 1, 1, 30, ", \"augment\": {}", &err); /* asks for nothing */
    assert_non_null(ds);
    dataset_close(ds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_flip),         cmocka_unit_test(test_crop_pad),
                                       cmocka_unit_test(test_resized_crop), cmocka_unit_test(test_rotate),
                                       cmocka_unit_test(test_jitter),       cmocka_unit_test(test_cutout),
                                       cmocka_unit_test(test_draws),        cmocka_unit_test(test_json),
                                       cmocka_unit_test(test_image_of),     cmocka_unit_test(test_description)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
