/* SPDX-License-Identifier: Apache-2.0
 * Decoders are libjpeg-turbo and libpng; libjpeg reports errors by longjmp, so everything it needs lives in one
 * struct. */
#include "core/data/picture.h"

#include <math.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>
#include <png.h>

enum {
    MAX_SIDE = 16384,
#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
    MAX_PIXELS = 64000, /* a fuzzer has no time for large pictures */
#else
    MAX_PIXELS = 64000000,
#endif
    MAX_SCANS = 200, /* encoders write about ten; each costs a pass over all pixels for a few bytes of the file */
    PRECISION = 22
};

static int check_sides(int64_t width, int64_t height, struct err *err)
{
    if (width < 1 || height < 1 || width > MAX_SIDE || height > MAX_SIDE || width * height > MAX_PIXELS)
        return err_set(err, ERR_DATASET, "picture of %lld x %lld pixels; allowed are 1 to %d a side and %d in all",
                       (long long)width, (long long)height, MAX_SIDE, MAX_PIXELS);
    return 0;
}

static int alloc_pixels(struct picture *p, int width, int height, int channels, struct err *err)
{
    *p = (struct picture){width, height, channels, malloc((size_t)width * (size_t)height * (size_t)channels)};
    return p->pixels ? 0 : err_set(err, ERR_NOMEM, "out of memory for a picture");
}

struct jpeg_reader {
    struct jpeg_error_mgr errors;
    struct jpeg_progress_mgr progress;
    jmp_buf escape;
    char why[JMSG_LENGTH_MAX];
};

static void jpeg_failed(j_common_ptr info)
{
    struct jpeg_reader *r = (struct jpeg_reader *)info->err;
    info->err->format_message(info, r->why);
    longjmp(r->escape, 1);
}

static void jpeg_silent(j_common_ptr info, int level)
{
    (void)info, (void)level;
}

static void jpeg_progress(j_common_ptr info)
{
    struct jpeg_reader *r = (struct jpeg_reader *)info->err;
    if (((j_decompress_ptr)info)->input_scan_number <= MAX_SCANS)
        return;
    snprintf(r->why, sizeof r->why, "more than %d scans", MAX_SCANS);
    longjmp(r->escape, 1);
}

static int decode_jpeg(struct picture *out, const unsigned char *data, size_t size, struct err *err)
{
    struct jpeg_decompress_struct info;
    struct jpeg_reader reader;
    info.err = jpeg_std_error(&reader.errors);
    reader.errors.error_exit = jpeg_failed;
    reader.errors.emit_message = jpeg_silent;
    if (setjmp(reader.escape)) {
        jpeg_destroy_decompress(&info);
        picture_fini(out);
        return err_set(err, ERR_DATASET, "damaged JPEG: %s", reader.why);
    }
    jpeg_create_decompress(&info);
    reader.progress.progress_monitor = jpeg_progress;
    info.progress = &reader.progress;
    jpeg_mem_src(&info, data, size);
    jpeg_read_header(&info, TRUE);
    if (check_sides(info.image_width, info.image_height, err)) {
        jpeg_destroy_decompress(&info);
        return -1;
    }
    info.out_color_space = info.num_components == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_start_decompress(&info);
    if (alloc_pixels(out, (int)info.output_width, (int)info.output_height, info.output_components, err)) {
        jpeg_destroy_decompress(&info);
        return -1;
    }
    while (info.output_scanline < info.output_height) {
        JSAMPROW row = out->pixels + (size_t)info.output_scanline * info.output_width * (size_t)out->channels;
        jpeg_read_scanlines(&info, &row, 1);
    }
    jpeg_finish_decompress(&info);
    jpeg_destroy_decompress(&info);
    return 0;
}

static int decode_png(struct picture *out, const unsigned char *data, size_t size, struct err *err)
{
    png_image image = {.version = PNG_IMAGE_VERSION};
    unsigned char *rgba = NULL;
    int rc = -1;
    if (!png_image_begin_read_from_memory(&image, data, size)) {
        err_set(err, ERR_DATASET, "damaged PNG: %s", image.message);
        goto out;
    }
    if (check_sides(image.width, image.height, err))
        goto out;
    bool gray = !(image.format & PNG_FORMAT_FLAG_COLOR);
    int wide = gray ? 2 : 4, channels = gray ? 1 : 3; /* alpha is read, then dropped: not blended */
    image.format = gray ? PNG_FORMAT_GA : PNG_FORMAT_RGBA;
    rgba = malloc((size_t)image.width * image.height * (size_t)wide);
    if (!rgba || alloc_pixels(out, (int)image.width, (int)image.height, channels, err)) {
        err_set(err, ERR_NOMEM, "out of memory for a picture");
        goto out;
    }
    if (!png_image_finish_read(&image, NULL, rgba, 0, NULL)) {
        err_set(err, ERR_DATASET, "damaged PNG: %s", image.message);
        goto out;
    }
    for (size_t i = 0, n = (size_t)image.width * image.height; i < n; i++)
        memcpy(out->pixels + i * (size_t)channels, rgba + i * (size_t)wide, (size_t)channels);
    rc = 0;
out:
    png_image_free(&image);
    free(rgba);
    if (rc)
        picture_fini(out);
    return rc;
}

/* RGB to luma, or gray to three equal channels. */
static int set_channels(struct picture *p, int channels, struct err *err)
{
    if (p->channels == channels)
        return 0;
    struct picture q;
    if (alloc_pixels(&q, p->width, p->height, channels, err))
        return -1;
    for (size_t i = 0, n = (size_t)p->width * (size_t)p->height; i < n; i++) {
        if (channels == 1) {
            const unsigned char *s = p->pixels + 3 * i;
            q.pixels[i] = (unsigned char)((s[0] * 19595u + s[1] * 38470u + s[2] * 7471u + 0x8000u) >> 16);
        } else
            memset(q.pixels + 3 * i, p->pixels[i], 3);
    }
    picture_fini(p);
    *p = q;
    return 0;
}

int picture_decode(struct picture *out, const unsigned char *data, size_t size, int channels, struct err *err)
{
    static const unsigned char png_magic[8] = {0x89, 'P', 'N', 'G', 13, 10, 26, 10};
    *out = (struct picture){0};
    int rc;
    if (size >= 8 && memcmp(data, png_magic, 8) == 0)
        rc = decode_png(out, data, size, err);
    else if (size >= 3 && data[0] == 0xff && data[1] == 0xd8 && data[2] == 0xff)
        rc = decode_jpeg(out, data, size, err);
    else
        rc = err_set(err, ERR_DATASET, "neither JPEG nor PNG (by its first bytes)");
    if (rc == 0 && set_channels(out, channels, err)) {
        picture_fini(out);
        rc = -1;
    }
    return rc;
}

/* Weights of one output position: source pixels [first, first + count). */
struct taps {
    int first, count;
};

/* Triangle filter for in -> out pixels; weight[i * width_of_taps ...]. Returns the number of taps a position may
 * have. */
static int make_taps(int in, int out, struct taps **taps, int32_t **weights)
{
    double scale = (double)in / out, stretch = scale < 1.0 ? 1.0 : scale, support = stretch;
    int most = (int)ceil(support) * 2 + 1;
    *taps = malloc((size_t)out * sizeof **taps);
    *weights = calloc((size_t)out * (size_t)most, sizeof **weights);
    double *w = malloc((size_t)most * sizeof *w);
    for (int i = 0; *taps && *weights && w && i < out; i++) {
        double center = (i + 0.5) * scale, sum = 0;
        int first = (int)(center - support + 0.5), last = (int)(center + support + 0.5);
        first = first < 0 ? 0 : first;
        last = last > in ? in : last;
        for (int k = first; k < last; k++) {
            double d = fabs((k - center + 0.5) / stretch);
            w[k - first] = d < 1.0 ? 1.0 - d : 0.0;
            sum += w[k - first];
        }
        for (int k = 0; k < last - first; k++)
            (*weights)[(size_t)i * (size_t)most + (size_t)k] = (int32_t)(0.5 + w[k] / sum * (1 << PRECISION));
        (*taps)[i] = (struct taps){first, last - first};
    }
    int rc = *taps && *weights && w ? most : -1;
    free(w);
    return rc;
}

static unsigned char clip8(int64_t fixed)
{
    int64_t v = fixed >> PRECISION;
    return (unsigned char)(v < 0 ? 0 : v > 255 ? 255 : v);
}

/* One pass along an axis: every output pixel is the weighted sum of its taps. */
static int resize_axis(struct picture *p, bool horizontal, int n_out, struct err *err)
{
    int n_in = horizontal ? p->width : p->height;
    struct taps *taps = NULL;
    int32_t *weights = NULL;
    struct picture q = {0};
    int most = make_taps(n_in, n_out, &taps, &weights), rc = -1;
    if (most < 0 || alloc_pixels(&q, horizontal ? n_out : p->width, horizontal ? p->height : n_out, p->channels, err)) {
        err_set(err, ERR_NOMEM, "out of memory for a picture");
        goto out;
    }
    size_t c = (size_t)p->channels, row_in = (size_t)p->width * c;
    size_t step = horizontal ? c : row_in; /* between taps, in bytes */
    for (int y = 0; y < q.height; y++)
        for (int x = 0; x < q.width; x++) {
            int i = horizontal ? x : y;
            const int32_t *w = weights + (size_t)i * (size_t)most;
            const unsigned char *s = horizontal ? p->pixels + (size_t)y * row_in + (size_t)taps[i].first * c
                                                : p->pixels + (size_t)taps[i].first * row_in + (size_t)x * c;
            for (size_t k = 0; k < c; k++) {
                int64_t sum = 1 << (PRECISION - 1);
                for (int t = 0; t < taps[i].count; t++)
                    sum += (int64_t)s[(size_t)t * step + k] * w[t];
                q.pixels[((size_t)y * (size_t)q.width + (size_t)x) * c + k] = clip8(sum);
            }
        }
    picture_fini(p);
    *p = q;
    rc = 0;
out:
    free(taps);
    free(weights);
    return rc;
}

int picture_resize(struct picture *p, int width, int height, struct err *err)
{
    if (check_sides(width, height, err))
        return -1;
    if (width != p->width && resize_axis(p, true, width, err))
        return -1;
    return height != p->height ? resize_axis(p, false, height, err) : 0;
}

int picture_resize_shorter(struct picture *p, int shorter, struct err *err)
{
    double k = (double)shorter / (p->width < p->height ? p->width : p->height);
    double width = nearbyint(p->width * k), height = nearbyint(p->height * k); /* half to even, as Python's round */
    if (width > MAX_SIDE || height > MAX_SIDE)
        return err_set(err, ERR_DATASET, "resize_shorter %d makes %.0f x %.0f pixels; at most %d a side", shorter,
                       width, height, MAX_SIDE);
    return picture_resize(p, width < shorter ? shorter : (int)width, height < shorter ? shorter : (int)height, err);
}

int picture_center_crop(struct picture *p, int crop, struct err *err)
{
    if (crop > p->width || crop > p->height)
        return err_set(err, ERR_DATASET, "center_crop %d is larger than the picture of %d x %d", crop, p->width,
                       p->height);
    int left = (p->width - crop) / 2, top = (p->height - crop) / 2;
    size_t c = (size_t)p->channels, row = (size_t)crop * c;
    for (int y = 0; y < crop; y++)
        memmove(p->pixels + (size_t)y * row, p->pixels + ((size_t)(top + y) * (size_t)p->width + (size_t)left) * c,
                row);
    p->width = p->height = crop;
    return 0;
}

void picture_fini(struct picture *p)
{
    free(p->pixels);
    *p = (struct picture){0};
}
