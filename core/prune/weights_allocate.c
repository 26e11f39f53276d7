/* SPDX-License-Identifier: Apache-2.0
 * weights_allocate.c - how many units each layer loses (weight_pruning.h).
 * Schedule   a step goes from the initial sparsity to its share of what is asked for (weights_schedule.c).
 * ERK        the density of a layer is proportional to (sum of its dims) / (product of its dims) (Evci et al. 2020), layers that
 *            would be denser than dense stay dense, and the others take what they leave. */
#include <math.h>
#include <stdlib.h>

#include "core/base/size.h"
#include "core/prune/weight_pruning.h"

static int64_t wanted(const struct prune_run *r, int64_t total)
{
    const struct prune_weights_params *o = r->o;
    int64_t count = o->has_keep ? total - o->keep : o->drop;
    count = count < 0 ? 0 : count > total ? total : count;
    if (r->last && !o->has_sparsity)
        return count;
    const double end = o->has_sparsity ? o->sparsity * (double)total : (double)count;
    const double start = fmin(o->initial * (double)total, end);
    return (int64_t)nearbyint(start + (end - start) * r->share);
}

void erk_densities(int n, const double *size, const double *sum, double density, double *out)
{
    double budget = 0;
    for (int i = 0; i < n; i++) {
        budget += density * size[i];
        out[i] = 0; /* not dense */
    }
    for (bool again = true; again;) {
        double left = budget, weight = 0;
        again = false;
        for (int i = 0; i < n; i++) {
            left -= out[i] == 1 ? size[i] : 0;
            weight += out[i] == 1 ? 0 : sum[i]; /* size * (sum / size) */
        }
        const double scale = weight > 0 && left > 0 ? left / weight : 0;
        for (int i = 0; i < n; i++)
            if (out[i] != 1 && scale * sum[i] / size[i] > 1) {
                out[i] = 1;
                again = true;
            }
        for (int i = 0; i < n && !again; i++)
            if (out[i] != 1)
                out[i] = scale * sum[i] / size[i];
    }
}

static int allocate_erk(struct prune_run *r, struct err *err)
{
    double *v = calloc((size_t)r->n * 3 + 1, sizeof *v);
    if (!v)
        return err_set(err, ERR_NOMEM, "out of memory while sharing sparsity among layers");
    double *size = v, *sum = v + r->n, *density = sum + r->n;
    for (int i = 0; i < r->n; i++) {
        const struct shape *s = &r->item[i].ref.tensor->shape;
        for (int a = 0; a < s->rank; a++)
            sum[i] += (double)s->dim[a];
        sum[i] = s->rank == 0 ? 1 : sum[i];
        size[i] = (double)r->item[i].count;
    }
    /* keep and drop count blocks where there are blocks: take their share of the units */
    int64_t units = 0;
    for (int i = 0; i < r->n; i++)
        units += r->item[i].units;
    const double share = units > 0 ? (double)wanted(r, units) / (double)units : 0;
    erk_densities(r->n, size, sum, 1 - share, density);
    for (int i = 0; i < r->n; i++)
        r->item[i].goes = (int64_t)nearbyint((1 - density[i]) * (double)r->item[i].units);
    free(v);
    return 0;
}

int weights_allocate(struct prune_run *r, struct err *err)
{
    int64_t all = 0;
    if (r->o->has_threshold || r->structure.kind == STRUCTURE_NM || r->n == 0)
        return 0;
    if (r->o->allocation == ALLOCATE_ERK)
        return allocate_erk(r, err);
    for (int i = 0; i < r->n; i++) {
        struct prune_item *it = &r->item[i];
        it->goes = wanted(r, it->units);
        all += it->fallback ? 0 : it->units;
    }
    return r->scope == SCOPE_GLOBAL && all > 0 ? weights_rank_all(r, wanted(r, all), err) : 0;
}
