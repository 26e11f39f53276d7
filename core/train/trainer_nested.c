/* SPDX-License-Identifier: Apache-2.0
 * trainer_nested.c - steps between updates: the model is written back, they change it, and training goes on with what
 * they left.
 *
 * A step may cut channels, so the plan is made anew each time; that takes milliseconds. What the optimizer knows of a
 * weight goes on with it: as it is where the shape is the same, cut as the weight was where the notes "kept.<axis>" say
 * which slices are left. The moving average is cut the same way. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/train/trainer_impl.h"

enum { CALLS_LEAST = 4, CALLS_MOST = 64, UPDATES_A_CALL = 50 };
#define KEPT_BYTES ((size_t)512 << 20) /* of the weights that checkpoints hold for all calls */

/* ---- when ---- */
int trainer_plan_nested(struct trainer *t, struct err *err)
{
    const int64_t ramp = t->p->epochs * t->per_epoch / 2;
    size_t bytes = 1;
    if (t->c->n_steps == 0)
        return 0;
    for (int i = 0; i < t->params.n; i++)
        bytes += grad_param_value(t->grad, i)->bytes;
    int64_t n = i64_min(i64_max(ramp / UPDATES_A_CALL, CALLS_LEAST), CALLS_MOST);
    n = i64_min(n, i64_max(CALLS_LEAST, (int64_t)(KEPT_BYTES / bytes)));
    n = i64_max(1, i64_min(n, ramp));
    t->nested = calloc((size_t)n, sizeof *t->nested);
    if (!t->nested)
        return err_set(err, ERR_NOMEM, "out of memory");
    t->n_nested = (int)n;
    for (int64_t i = 0; i < n; i++)
        t->nested[i].at = n > 1 ? ramp * i / (n - 1) : 0;
    return 0;
}

double trainer_ramp(const struct trainer *t)
{
    return t->n_nested ? (double)t->nested_done / (double)t->n_nested : 1;
}

bool trainer_nested_due(const struct trainer *t)
{
    return t->nested_done < t->n_nested && t->updates >= t->nested[t->nested_done].at;
}

void trainer_close_nested(struct trainer *t)
{
    for (int k = 0; k < t->n_nested; k++) {
        for (int i = 0; i < t->nested[k].n; i++)
            tensor_fini(&t->nested[k].value[i]);
        free(t->nested[k].value);
        free(t->nested[k].id);
    }
    free(t->nested);
    t->nested = NULL;
}

/* ---- what goes on ---- */
/* One trained value before the steps ran. */
struct before {
    uint32_t value;
    struct shape shape, moved; /* moved: of what the optimizer moves */
    struct tensor first, average, kept[SHAPE_MAX_RANK];
    bool reached, learned;
    int slot;
};
struct carry {
    struct before *at;
    int n, n_learned, n_objective;
    struct optimizer *optimizer; /* the old one */
};

static void carry_fini(struct carry *k)
{
    for (int i = 0; i < k->n; i++) {
        tensor_fini(&k->at[i].first);
        tensor_fini(&k->at[i].average);
        for (int a = 0; a < SHAPE_MAX_RANK; a++)
            tensor_fini(&k->at[i].kept[a]);
    }
    free(k->at);
}

static const struct note *kept_note(const struct model *m, uint32_t value, int axis)
{
    char key[32];
    snprintf(key, sizeof key, "kept.%d", axis);
    const struct note *note = value_note(m, value, key);
    return note && note->tensor.dtype == DTYPE_INT64 && note->tensor.shape.rank == 1 ? note : NULL;
}

static int carry_take(struct trainer *t, struct carry *k, struct err *err)
{
    k->n_learned = t->params.n_learned;
    k->n_objective = t->o->n_params;
    k->at = calloc((size_t)t->params.n + 1, sizeof *k->at);
    if (!k->at)
        return err_set(err, ERR_NOMEM, "out of memory");
    k->n = t->params.n;
    for (int i = 0; i < k->n; i++) {
        struct before *b = &k->at[i];
        b->value = t->params.at[i].value;
        b->shape = grad_param_value(t->grad, i)->shape;
        b->learned = i < k->n_learned;
        b->moved = b->learned ? constraints_moved(t->constraints, i)->shape : b->shape;
        b->slot = i;
        b->reached = t->own[i].reached;
        tensor_ref(&b->first, &t->own[i].first);
        if (t->own[i].average.buf)
            tensor_ref(&b->average, &t->own[i].average);
        for (int a = 0; a < b->shape.rank; a++) {
            const struct note *note = kept_note(t->c->model, b->value, a);
            if (note)
                tensor_ref(&b->kept[a], &note->tensor);
        }
    }
    return 0;
}

/* Where along `axis` each slice of the new weight was in the old one; NULL: unknown, or no memory. */
static int64_t *slices_of(const struct model *m, const struct before *b, int axis, int64_t now)
{
    const struct note *note = kept_note(m, b->value, axis);
    if (!note || tensor_count(&note->tensor) != now)
        return NULL;
    int64_t *at = calloc((size_t)now + 1, sizeof *at);
    const int64_t *kept = tensor_i64(&note->tensor), old = b->shape.dim[axis];
    const int64_t *was = b->kept[axis].buf && tensor_count(&b->kept[axis]) == old ? tensor_i64(&b->kept[axis]) : NULL;
    int64_t from = 0;
    for (int64_t i = 0; at && i < now; i++) {
        if (was)
            while (from < old && was[from] != kept[i])
                from++;
        else
            from = kept[i];
        if (from < 0 || from >= old) {
            free(at);
            return NULL;
        }
        at[i] = from;
    }
    return at;
}

/* The slices of t along an axis. */
static int gather(struct tensor *t, int axis, const int64_t *kept, int64_t n, struct err *err)
{
    struct shape shape = t->shape;
    struct tensor out = {0};
    const int64_t old = shape.dim[axis], outer = shape_product(&shape, 0, axis);
    const size_t inner = (size_t)shape_product(&shape, axis + 1, shape.rank) * (t->dtype == DTYPE_FLOAT ? 4u : 8u);
    shape.dim[axis] = n;
    if (tensor_alloc_raw(&out, t->dtype, &shape, err))
        return -1;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < n; i++)
            memcpy((char *)out.data + (size_t)(o * n + i) * inner,
                   (const char *)t->data + (size_t)(o * old + kept[i]) * inner, inner);
    tensor_fini(t);
    *t = out;
    return 0;
}

/* State of the optimizer and the average of one value, cut as the value was. Where that is not known they start anew.
 * */
static int cut(struct trainer *t, struct carry *k, struct before *b, const struct shape *now, struct err *err)
{
    bool known = now->rank == b->shape.rank;
    for (int a = 0; known && a < now->rank; a++) {
        if (now->dim[a] == b->shape.dim[a])
            continue;
        int64_t *slices = slices_of(t->c->model, b, a, now->dim[a]);
        known = slices != NULL;
        int rc = 0;
        if (known && b->learned && shape_equal(&b->moved, &b->shape))
            rc = optimizer_gather(k->optimizer, b->slot, a, slices, now->dim[a], err);
        if (known && !rc && b->average.buf)
            rc = gather(&b->average, a, slices, now->dim[a], err);
        free(slices);
        if (rc)
            return -1;
    }
    if (!known) {
        if (b->learned)
            optimizer_reset(k->optimizer, b->slot);
        tensor_fini(&b->average);
    }
    return 0;
}

/* State of slot `from` of the old optimizer becomes that of slot `to`. */
static void hand_over(struct trainer *t, struct carry *k, int from, int to, const struct shape *moved)
{
    const struct optimizer_state a = optimizer_state(k->optimizer, from), b = optimizer_state(t->optimizer, to);
    if (a.first->buf && !shape_equal(&a.first->shape, moved))
        return;
    tensor_fini(b.first);
    tensor_fini(b.second);
    tensor_ref(b.first, a.first);
    tensor_ref(b.second, a.second);
    *b.steps = *a.steps;
    optimizer_reset(k->optimizer, from); /* the bytes have one owner */
}

static int carry_one(struct trainer *t, struct carry *k, struct before *b, int i, struct err *err)
{
    const struct shape *now = &grad_param_value(t->grad, i)->shape;
    struct trainer_own *own = &t->own[i];
    if (!shape_equal(now, &b->shape) && cut(t, k, b, now, err))
        return -1;
    own->reached = b->reached;
    tensor_fini(&own->first);
    tensor_ref(&own->first, &b->first);
    if (b->average.buf && shape_equal(&b->average.shape, now)) {
        tensor_fini(&own->average);
        tensor_ref(&own->average, &b->average);
        tensor_fini(&b->average);
    }
    if (b->learned && i < t->params.n_learned)
        hand_over(t, k, b->slot, i, &constraints_moved(t->constraints, i)->shape);
    return 0;
}

static int carry_give(struct trainer *t, struct carry *k, struct err *err)
{
    for (int i = 0; i < t->params.n; i++)
        for (int j = 0; j < k->n; j++)
            if (k->at[j].value == t->params.at[i].value && carry_one(t, k, &k->at[j], i, err))
                return -1;
    for (int i = 0; i < t->o->n_params && i < k->n_objective; i++)
        hand_over(t, k, k->n_learned + i, t->params.n_learned + i, &t->o->param[i].shape);
    return 0;
}

/* ---- running them ---- */
/* What the steps are given, for a trainer that goes on after a crash: it replays them. */
static int remember(struct trainer *t, struct trainer_nested *k, struct err *err)
{
    if (!t->c->checkpoint)
        return 0;
    k->value = calloc((size_t)t->params.n + 1, sizeof *k->value);
    k->id = calloc((size_t)t->params.n + 1, sizeof *k->id);
    if (!k->value || !k->id)
        return err_set(err, ERR_NOMEM, "out of memory");
    k->n = t->params.n;
    for (int i = 0; i < t->params.n; i++) {
        k->id[i] = t->params.at[i].value;
        tensor_ref(&k->value[i], &t->c->model->values[k->id[i]].weight->tensor);
    }
    return 0;
}

int trainer_call_nested(struct trainer *t, struct err *err)
{
    const double ramp = (double)(t->nested_done + 1) / (double)t->n_nested;
    if (!t->c->run_step)
        return err_set(err, ERR_INTERNAL, "steps are nested here, but nothing runs them");
    for (int i = 0; i < t->c->n_steps; i++)
        if (t->c->run_step(t->c, i, ramp, err))
            return -1;
    t->nested_done++;
    return 0;
}

int trainer_run_nested(struct trainer *t, struct err *err)
{
    struct carry k = {0};
    int rc = -1;
    if (trainer_store(t, true, err) || remember(t, &t->nested[t->nested_done], err) || carry_take(t, &k, err))
        goto out;
    k.optimizer = t->optimizer;
    t->optimizer = NULL;
    if (trainer_call_nested(t, err))
        goto out;
    trainer_close_graph(t);
    rc = trainer_open_graph(t, err) || trainer_open_optimizer(t, err) || carry_give(t, &k, err) ? -1 : 0;
out:
    optimizer_free(k.optimizer);
    carry_fini(&k);
    return rc;
}
