/* SPDX-License-Identifier: Apache-2.0
 * picture.h - JPEG and PNG into 8-bit pixels [H, W, C], resizing and cropping.
 * Source     Resizing is Pillow's antialiased bilinear filter (triangle of support max(1, scale), 22-bit fixed-point weights, one
 *            pass an axis with 8-bit results between); gray is ITU-R 601 luma as Pillow's "L".
 * Hostile    Sizes are limited to 16,384 a side and 64 million pixels before anything is allocated. */
#ifndef PARED_DATA_PICTURE_H
#define PARED_DATA_PICTURE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

struct picture {
    int width, height, channels; /* 1 gray, 3 RGB */
    unsigned char *pixels;       /* [height, width, channels], owned */
};

/* Decode a JPEG or PNG (told by its first bytes) to 1 or 3 channels. Alpha is dropped. ERR_DATASET says why not. */
int picture_decode(struct picture *out, const unsigned char *data, size_t size, int channels, struct err *err);
/* Shorter side becomes `shorter`, the other round(side * shorter / shorter side). */
int picture_resize_shorter(struct picture *p, int shorter, struct err *err);
int picture_resize(struct picture *p, int width, int height, struct err *err);
/* The middle crop x crop; offsets rounded down. ERR_DATASET if the picture is smaller. */
int picture_center_crop(struct picture *p, int crop, struct err *err);
void picture_fini(struct picture *p);

#endif
