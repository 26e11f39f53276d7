/* SPDX-License-Identifier: Apache-2.0
 * augment.h - random changes of training samples. One row an augmentation; the JSON form is the same in a dataset's
 * description ("augment") and in a training step's parameter:
 *   "flip": true                    mirrored left to right, every second sample
 *   "crop_pad": 4                   padded by 4 black pixels on each side, then cut at a random place to the size it
 *   had
 *   "resized_crop": [0.5, 1]        a random rectangle of that share of the area and an aspect of 3/4 to 4/3, resized
 *   (bilinear) to the size
 *   "jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4}   factors drawn from [1 - x, 1 + x], in
 *                                   random order, on pixels from 0 to 1 (cut off there), as torchvision's
 *   "rotate": 15                    by a random angle of at most so many degrees, bilinear, black outside
 *   "cutout": 8                     a square of this side at a random place becomes the mean colour (0 after
 *   preprocessing)
 *   "mixup": 0.2                    x = w x_i + (1 - w) x_j and the same of the losses, w from Beta(a, a) (Zhang et al.
 *   2018)
 * Order      resized_crop, rotate, crop_pad, flip, jitter, cutout; then mixup.
 * Samples    float32 as the model takes them, [C, H, W] or [H, W, C]; "black" is 0 before scale, mean and std. Only the
 *            one image input of a model is changed; a description that asks for it where a sample is no image is
 *            refused.
 * Random     everything is drawn from (seed, epoch, sample index): the same whatever the thread, batch or order. */
#ifndef PARED_DATA_AUGMENT_H
#define PARED_DATA_AUGMENT_H

#include <jansson.h>

#include "core/base/rng.h"
#include "core/data/dataset.h"

enum { AUGMENT_CHANNELS = 16, AUGMENT_PIXELS = 4096 /* the largest crop_pad and cutout */ };

struct augment {
    bool flip;
    int crop_pad, cutout;
    double crop_least, crop_most; /* resized_crop; most 0: none */
    double brightness, contrast, saturation, rotate, mixup;
    bool any; /* something is asked for */
};
/* json NULL: nothing. Faults get pointers below `pointer`. */
void augment_parse(struct augment *a, const json_t *json, const char *pointer, struct faults *faults);
/* What a dataset's description asks for; all zero if nothing. ERR_DATASET: its keys are wrong, named. */
int augment_of_dataset(struct augment *a, const struct dataset *ds, struct err *err);

/* How one sample lies in memory, found from a bound dataset. */
struct augment_image {
    int input; /* of the model's fed inputs */
    int64_t channels, height, width;
    bool nhwc;
    float black[AUGMENT_CHANNELS],
        scale
            [AUGMENT_CHANNELS]; /* a channel's value of a black pixel, and of one more unit of the pixel's range 0..1; see jitter */
    bool pixels;                /* these are known: bytes, or floats with preprocess. Else black is 0 */
    bool bgr;                   /* order of three channels */
};
/* ERR_DATASET: no input is an image of 1 to 16 channels and float32. */
int augment_image_of(struct augment_image *im, const struct dataset *ds, const struct model *m, struct err *err);
/* ERR_DATASET: these changes do not suit such images (a crop_pad as large as the image, jitter of numbers that are no
 * pixels). */
int augment_fits(const struct augment *a, const struct augment_image *im, struct err *err);
/* The random numbers of one sample in one epoch; `stream` separates what is drawn for. */
void augment_rng(struct rng *rng, uint64_t seed, int64_t epoch, int64_t sample, uint64_t stream);
/* One sample in place; scratch of the same size. Mixup is the loader's business. */
void augment_apply(const struct augment *a, const struct augment_image *im, uint64_t seed, int64_t epoch,
                   int64_t sample, float *x, float *scratch);

#endif
