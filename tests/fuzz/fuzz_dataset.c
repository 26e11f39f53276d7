/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a dataset file: recognised or refused, then checked and read for a model of one picture input. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "core/data/dataset.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct model *picture_model(void)
{
    struct model *m = model_new();
    uint32_t v = model_add_value(m, 0, "x", false);
    struct graph *g = model_main(m);
    g->inputs = model_alloc(m, 1, sizeof *g->inputs);
    g->n_inputs = 1;
    g->inputs[0].value = v;
    g->inputs[0].has_type = true;
    g->inputs[0].type = (struct type){.kind = TYPE_TENSOR, .dtype = DTYPE_FLOAT, .has_dtype = true, .has_shape = true,
                                      .shape = SHAPE(DIM_UNKNOWN, DIM_UNKNOWN, DIM_UNKNOWN, DIM_UNKNOWN)};
    return m;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct model *model;
    static char dir[] = "/tmp/pared-fuzz-XXXXXX", path[64];
    if (!model) {
        model = picture_model();
        if (!mkdtemp(dir))
            abort();
        snprintf(path, sizeof path, "%s/input", dir);
    }
    struct err err = {0};
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size)
        abort();
    close(fd);
    struct dataset *ds = dataset_open(path, &(struct dataset_opts){.cache_dir = dir, .max_unpacked_bytes = 4 << 20, .confined = true}, &err);
    if (!ds && err.code == ERR_NONE)
        abort(); /* a refusal has a sentence */
    if (!ds)
        return 0;
    json_decref(dataset_facts(ds));
    struct tensor in, labels;
    if (dataset_check_values(ds, &err) == 0 && dataset_bind(ds, model, &err) == 0 &&
        dataset_read_range(ds, 0, 1, &in, &labels, &err) == 0) {
        tensor_fini(&in);
        tensor_fini(&labels);
    }
    dataset_close(ds);
    return 0;
}
