/* SPDX-License-Identifier: Apache-2.0
 * dataset_dump MODEL DATA OUT: every sample as the model gets it, raw bytes of the first input one after the other into OUT, labels (int64) into
 * OUT.labels; prints "count dtype [shape of one batch]". Used by test_dataset.py to compare with NumPy and Pillow. */
#include <stdio.h>
#include <stdlib.h>

#include "core/data/dataset.h"
#include "core/model/onnx_read.h"

static int dump(struct dataset *ds, const char *path, struct err *err)
{
    enum { BATCH = 100 };
    char labels_path[4096], text[SHAPE_TEXT];
    snprintf(labels_path, sizeof labels_path, "%s.labels", path);
    FILE *out = fopen(path, "wb"), *out_labels = fopen(labels_path, "wb");
    int rc = out && out_labels ? 0 : err_set_errno(err, ERR_IO, "cannot open the output");
    for (int64_t i = 0; rc == 0 && i < dataset_count(ds); i += BATCH) {
        int n = (int)(dataset_count(ds) - i < BATCH ? dataset_count(ds) - i : BATCH);
        struct tensor in, labels;
        rc = dataset_read_range(ds, i, n, &in, &labels, err);
        if (rc)
            break;
        if (i == 0)
            printf("%lld %s %s\n", (long long)dataset_count(ds), dtype_name(in.dtype), shape_text(&in.shape, text));
        if (fwrite(in.data, 1, in.bytes, out) != in.bytes || fwrite(labels.data, 1, labels.bytes, out_labels) != labels.bytes)
            rc = err_set_errno(err, ERR_IO, "cannot write");
        tensor_fini(&in);
        tensor_fini(&labels);
    }
    if (out)
        fclose(out);
    if (out_labels)
        fclose(out_labels);
    return rc;
}

int main(int argc, char **argv)
{
    struct err err = {0};
    if (argc != 4) {
        fprintf(stderr, "usage: dataset_dump MODEL DATA OUT\n");
        return 2;
    }
    struct pool *pool = pool_new(0);
    struct model *m = onnx_read_file(argv[1], NULL, &err);
    struct dataset *ds = m ? dataset_open(argv[2], &(struct dataset_opts){.pool = pool}, &err) : NULL;
    if (ds && dataset_bind(ds, m, &err) == 0)
        dump(ds, argv[3], &err);
    dataset_close(ds);
    model_free(m);
    pool_free(pool);
    if (err.code)
        fprintf(stderr, "%s\n", err.msg);
    return err.code != ERR_NONE;
}
