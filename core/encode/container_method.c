/* SPDX-License-Identifier: Apache-2.0
 * container_method.c - encode.container: asks for a file model.pared to be made of the finished model (container.h). */
#include <math.h>
#include <stdlib.h>

#include "core/encode/container.h"
#include "core/model/onnx_read.h"
#include "core/model/parameters.h"
#include "core/step/method.h"

static const char *const efforts[] = {"auto", "fast", "smallest", NULL};
static const char *const codings[] = {"best", "huffman", "rans", "adaptive", NULL};
/* enum symbols_mode of each */
static const int modes[] = {-1, 2, 3, 4};

struct container_params {
    int effort, coding;
};
#define P(f) PARAM(container_params, f)
static const struct param params[] = {
    {P(effort), .kind = PARAM_ENUM, .choices = efforts, .def = "\"auto\"",
     .doc = "fast: what decodes at hundreds of megabytes of weights a second; smallest: adaptive arithmetic coding "
            "wherever it "
            "takes less, some megabytes a second; auto: smallest for models up to 2 MB, fast for larger ones"},
    {P(coding), .kind = PARAM_ENUM, .choices = codings, .def = "\"best\"",
     .doc = "best: for each tensor what takes least; the others allow one entropy coder only, for comparing"},
    {0},
};

static int make(const struct artifact *a, const char *model_path, const char *to, struct pool *pool, json_t **facts,
                struct err *err)
{
    static const struct container_params by_default;
    const struct container_params *o = a->params ? a->params : &by_default;
    const struct container_opts opts = {
        .effort = (enum container_effort)o->effort, .only = modes[o->coding], .pool = pool};
    const char **external = NULL;
    int n = 0;
    struct model *m = onnx_read_file(model_path, &(struct onnx_read_opts){.keep_unaligned = true}, err);
    int rc = m ? model_external_files(m, &external, &n, err) : -1;
    if (rc == 0)
        rc = container_write(model_path, external, n, to, &opts, facts, err);
    free(external);
    model_free(m);
    return rc ? err_wrap(err, "model.pared: ") : 0;
}

static int run(struct step_ctx *c, struct err *err)
{
    const struct artifact a = {
        .name = "model.pared", .media_type = "application/vnd.pared.container", .make = make, .params = c->params};
    if (!c->add_artifact) {
        warnings_add(c->warnings, "encode.container makes a file of the finished model, and nobody takes files here");
        return 0;
    }
    return c->add_artifact(c, &a, err);
}

METHOD(encode_container) = {
    .name = "encode.container",
    .summary = "a model.pared file beside model.onnx: the same bytes with entropy-coded weights",
    .doc = "Each tensor is coded with what takes least: byte planes, few distinct values, gaps between weights that "
           "are not zero, "
           "with canonical Huffman codes, rANS or adaptive arithmetic coding. `pared decode` gives back model.onnx "
           "byte for byte; "
           "docs/format.md says how to read the file elsewhere.",
    .params = params,
    .params_size = sizeof(struct container_params),
    .needs = NEEDS_NOTHING,
    .run = run,
};
