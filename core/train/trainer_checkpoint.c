/* SPDX-License-Identifier: Apache-2.0
 * trainer_checkpoint.c - the state after an epoch in a file, and taking it up again.
 *
 * What nested steps did to the model's graph is in no file: they are run again, each on the weights it was given then,
 * which the file holds. After that the model has the shapes it had, and the trained numbers are put over it. Everything
 * else a trainer knows follows from the step's parameters. The file's key is a digest of those, of the weights as they
 * came and of the samples' number: another step's state is never taken up. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/hash.h"
#include "core/base/snapshot.h"
#include "core/train/trainer_impl.h"

enum { VERSION = 1 };

/* The numbers of a trainer. */
struct state {
    int64_t version, epoch, updates, averaged, best_epoch, since_best, nested_done, n_params, n_learned, n_objective;
    struct trainer_figures came, best;
    double lr;
};

/* ---- key ---- */
static void hash_number(struct hash *h, double v)
{
    hash_update(h, &v, sizeof v);
}

static void hash_text(struct hash *h, const char *text)
{
    hash_update(h, text, strlen(text) + 1);
}

static void hash_globs(struct hash *h, const struct globs *g)
{
    for (int i = 0; i < g->count; i++)
        hash_text(h, g->at[i]);
    hash_text(h, "");
}

static void hash_params(struct hash *h, const struct train_params *p)
{
    const double all[] = {(double)p->epochs,
                          (double)p->batch,
                          (double)p->samples,
                          p->optimizer,
                          p->lr,
                          p->momentum,
                          p->weight_decay,
                          p->beta1,
                          p->beta2,
                          p->nesterov,
                          p->lr_given,
                          p->schedule,
                          p->warmup,
                          p->step_at,
                          p->step_by,
                          p->loss,
                          p->label_smoothing,
                          p->huber_delta,
                          p->l1,
                          p->l2,
                          p->group_lasso,
                          p->bn_sparsity,
                          p->clip,
                          p->batch_norm,
                          p->keep,
                          p->decay,
                          p->ema,
                          (double)p->patience};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        hash_number(h, all[i]);
    hash_globs(h, &p->include);
    hash_globs(h, &p->exclude);
    char *augment = p->augment ? json_dumps(p->augment, JSON_SORT_KEYS | JSON_COMPACT) : NULL;
    hash_text(h, augment ? augment : "");
    free(augment);
}

static void make_key(const struct trainer *t, char key[SHA256_HEX])
{
    struct hash h;
    hash_init(&h);
    hash_params(&h, t->p);
    hash_number(&h, (double)t->c->seed);
    hash_number(&h, (double)t->n_train);
    hash_number(&h, (double)t->n_val);
    hash_number(&h, t->c->n_steps);
    for (int i = 0; i < t->params.n; i++) {
        const struct tensor *w = &t->own[i].first;
        char shape[SHAPE_TEXT];
        hash_text(&h, t->c->model->values[t->params.at[i].value].name);
        hash_text(&h, shape_text(&w->shape, shape));
        hash_update(&h, w->data, w->bytes);
    }
    hash_final(&h, key);
}

/* ---- saving ---- */
static int put(struct snapshot_writer *w, const char *what, int i, const struct tensor *t, struct err *err)
{
    char name[64];
    snprintf(name, sizeof name, "%s.%d", what, i);
    return t->buf ? snapshot_put(w, name, t->data, t->bytes, err) : 0;
}

static int put_parameters(struct trainer *t, struct snapshot_writer *w, struct err *err)
{
    for (int i = 0; i < t->params.n; i++) {
        const bool learned = i < t->params.n_learned;
        const struct trainer_own *own = &t->own[i];
        const char reached = own->reached;
        char name[64];
        snprintf(name, sizeof name, "reached.%d", i);
        if (put(w, "value", i, learned ? constraints_moved(t->constraints, i) : grad_param_value(t->grad, i), err) ||
            put(w, "average", i, &own->average, err) || put(w, "best", i, &own->best, err) ||
            snapshot_put(w, name, &reached, 1, err))
            return -1;
    }
    for (int i = 0; i < t->o->n_params; i++)
        if (put(w, "objective", i, &t->o->param[i], err))
            return -1;
    for (int i = 0; i < t->params.n_learned + t->o->n_params; i++) {
        const struct optimizer_state s = optimizer_state(t->optimizer, i);
        char name[64];
        snprintf(name, sizeof name, "steps.%d", i);
        if (put(w, "first", i, s.first, err) || put(w, "second", i, s.second, err) ||
            snapshot_put(w, name, s.steps, sizeof *s.steps, err))
            return -1;
    }
    return 0;
}

static int put_nested(struct trainer *t, struct snapshot_writer *w, struct err *err)
{
    for (int k = 0; k < t->nested_done; k++) {
        const struct trainer_nested *n = &t->nested[k];
        char name[64];
        for (int i = 0; i < n->n; i++) {
            snprintf(name, sizeof name, "nested.%d.%" PRIu32, k, n->id[i]);
            if (snapshot_put(w, name, n->value[i].data, n->value[i].bytes, err))
                return -1;
        }
        snprintf(name, sizeof name, "nested.%d", k);
        if (snapshot_put(w, name, n->id, (size_t)n->n * sizeof *n->id, err))
            return -1;
    }
    return 0;
}

int trainer_save(struct trainer *t, struct err *err)
{
    char *rows = NULL;
    struct snapshot_writer *w = NULL;
    int rc = -1;
    if (!t->c->checkpoint)
        return 0;
    struct state s;
    memset(&s, 0, sizeof s);
    s.version = VERSION;
    s.epoch = t->epoch;
    s.updates = t->updates;
    s.averaged = t->averaged;
    s.best_epoch = t->best_epoch;
    s.since_best = t->since_best;
    s.nested_done = t->nested_done;
    s.n_params = t->params.n;
    s.n_learned = t->params.n_learned;
    s.n_objective = t->o->n_params;
    s.came = t->came;
    s.best = t->best;
    s.lr = t->lr;
    if (!(rows = json_dumps(t->epochs, JSON_COMPACT)))
        return err_set(err, ERR_NOMEM, "out of memory");
    w = snapshot_begin(t->c->checkpoint, t->key, err);
    if (!w)
        goto out;
    if (snapshot_put(w, "state", &s, sizeof s, err) || snapshot_put(w, "epochs", rows, strlen(rows), err) ||
        snapshot_put(w, "stopped", t->stopped ? t->stopped : "", t->stopped ? strlen(t->stopped) : 0, err) ||
        snapshot_put(w, "stop_text", t->stop_text, strlen(t->stop_text), err) || put_nested(t, w, err) ||
        put_parameters(t, w, err)) {
        snapshot_abandon(w);
        goto out;
    }
    rc = snapshot_commit(w, err);
out:
    free(rows);
    return rc;
}

/* ---- taking it up ---- */
static int broken(struct err *err)
{
    return err_set(err, ERR_INTERNAL, "the checkpoint of this step does not fit the step");
}

static int get(const struct snapshot *s, const char *what, int i, struct tensor *t, struct err *err)
{
    char name[64];
    size_t bytes;
    snprintf(name, sizeof name, "%s.%d", what, i);
    const void *data = snapshot_get(s, name, &bytes);
    if (!data || bytes != t->bytes)
        return broken(err);
    memcpy(t->data, data, bytes);
    return 0;
}

/* A tensor like `like`, if the file has it. */
static int get_new(const struct snapshot *s, const char *what, int i, const struct tensor *like, struct tensor *t,
                   struct err *err)
{
    char name[64];
    size_t bytes;
    snprintf(name, sizeof name, "%s.%d", what, i);
    tensor_fini(t);
    if (!snapshot_get(s, name, &bytes))
        return 0;
    return tensor_alloc_raw(t, like->dtype, &like->shape, err) || get(s, what, i, t, err) ? -1 : 0;
}

static int get_parameters(struct trainer *t, const struct snapshot *s, struct err *err)
{
    for (int i = 0; i < t->params.n; i++) {
        const bool learned = i < t->params.n_learned;
        struct trainer_own *own = &t->own[i];
        struct tensor *value = grad_param_value(t->grad, i);
        char name[64];
        size_t bytes;
        snprintf(name, sizeof name, "reached.%d", i);
        const char *reached = snapshot_get(s, name, &bytes);
        if (!reached || bytes != 1 || get(s, "value", i, learned ? constraints_moved(t->constraints, i) : value, err) ||
            get_new(s, "average", i, value, &own->average, err) || get_new(s, "best", i, value, &own->best, err))
            return broken(err);
        own->reached = *reached != 0;
        if (learned)
            constraints_project(t->constraints, i);
    }
    for (int i = 0; i < t->o->n_params; i++)
        if (get(s, "objective", i, &t->o->param[i], err))
            return -1;
    for (int i = 0; i < t->params.n_learned + t->o->n_params; i++) {
        const struct optimizer_state o = optimizer_state(t->optimizer, i);
        const struct tensor *like =
            i < t->params.n_learned ? constraints_moved(t->constraints, i) : &t->o->param[i - t->params.n_learned];
        char name[64];
        size_t bytes;
        snprintf(name, sizeof name, "steps.%d", i);
        const int64_t *steps = snapshot_get(s, name, &bytes);
        if (!steps || bytes != sizeof *steps || get_new(s, "first", i, like, o.first, err) ||
            get_new(s, "second", i, like, o.second, err))
            return broken(err);
        *o.steps = *steps;
    }
    return 0;
}

/* The steps that ran so far run again, on the weights they were given. */
static int replay(struct trainer *t, const struct snapshot *s, int calls, struct err *err)
{
    for (int k = 0; k < calls; k++) {
        char name[64];
        size_t bytes;
        struct trainer_nested *n = &t->nested[k];
        snprintf(name, sizeof name, "nested.%d", k);
        const uint32_t *id = snapshot_get(s, name, &bytes);
        if (!id || bytes % sizeof *id)
            return broken(err);
        const int count = (int)(bytes / sizeof *id);
        n->value = calloc((size_t)count + 1, sizeof *n->value);
        n->id = calloc((size_t)count + 1, sizeof *n->id);
        if (!n->value || !n->id)
            return err_set(err, ERR_NOMEM, "out of memory");
        for (int i = 0; i < count; i++) {
            if (id[i] >= t->c->model->n_values || !t->c->model->values[id[i]].weight)
                return broken(err);
            const struct tensor *now = &t->c->model->values[id[i]].weight->tensor;
            snprintf(name, sizeof name, "nested.%d.%" PRIu32, k, id[i]);
            const void *data = snapshot_get(s, name, &bytes);
            if (!data || bytes != now->bytes)
                return broken(err);
            n->id[n->n] = id[i];
            if (tensor_alloc_raw(&n->value[n->n], now->dtype, &now->shape, err))
                return -1;
            memcpy(n->value[n->n].data, data, bytes);
            if (value_set_weight(t->c->model, id[i], &n->value[n->n++]))
                return err_set(err, ERR_NOMEM, "out of memory");
        }
        if (trainer_call_nested(t, err))
            return -1;
    }
    return 0;
}

/* After the replay the graph is made anew; the weights as they came in stay those of the first one, where they fit. */
static int renew_graph(struct trainer *t, struct err *err)
{
    const int n = t->params.n;
    struct tensor *first = calloc((size_t)n + 1, sizeof *first);
    uint32_t *id = calloc((size_t)n + 1, sizeof *id);
    int rc = -1;
    if (!first || !id) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    for (int i = 0; i < n; i++) {
        id[i] = t->params.at[i].value;
        tensor_ref(&first[i], &t->own[i].first);
    }
    trainer_close_graph(t);
    optimizer_free(t->optimizer);
    t->optimizer = NULL;
    if (trainer_open_graph(t, err) || trainer_open_optimizer(t, err))
        goto out;
    for (int i = 0; i < t->params.n; i++)
        for (int k = 0; k < n; k++)
            if (id[k] == t->params.at[i].value) {
                tensor_fini(&t->own[i].first);
                tensor_ref(&t->own[i].first, &first[k]);
            }
    rc = 0;
out:
    for (int i = 0; first && i < n; i++)
        tensor_fini(&first[i]);
    free(first);
    free(id);
    return rc;
}

static const char *get_text(const struct snapshot *s, const char *name, char *text, size_t size)
{
    size_t bytes = 0;
    const char *data = snapshot_get(s, name, &bytes);
    snprintf(text, size, "%.*s", data ? (int)(bytes < size ? bytes : size - 1) : 0, data ? data : "");
    return text;
}

static int take_up(struct trainer *t, const struct snapshot *s, const struct state *k, struct err *err)
{
    if (k->nested_done > t->n_nested ||
        (k->nested_done > 0 && (replay(t, s, (int)k->nested_done, err) || renew_graph(t, err))))
        return broken(err);
    if (k->n_params != t->params.n || k->n_learned != t->params.n_learned || k->n_objective != t->o->n_params)
        return broken(err);
    if (get_parameters(t, s, err))
        return -1;
    size_t bytes = 0;
    const char *rows = snapshot_get(s, "epochs", &bytes);
    json_t *epochs = rows ? json_loadb(rows, bytes, 0, NULL) : NULL;
    if (!json_is_array(epochs)) {
        json_decref(epochs);
        return broken(err);
    }
    json_decref(t->epochs);
    t->epochs = epochs;
    get_text(s, "stop_text", t->stop_text, sizeof t->stop_text);
    get_text(s, "stopped", t->stopped_text, sizeof t->stopped_text);
    t->stopped = t->stopped_text[0] ? t->stopped_text : NULL;
    t->epoch = k->epoch;
    t->updates = k->updates;
    t->averaged = k->averaged;
    t->best_epoch = k->best_epoch;
    t->since_best = k->since_best;
    t->came = k->came;
    t->best = k->best;
    t->lr = k->lr;
    return 0;
}

int trainer_resume(struct trainer *t, struct err *err)
{
    const char *why = NULL;
    size_t bytes = 0;
    if (!t->c->checkpoint)
        return 0;
    make_key(t, t->key);
    struct snapshot *s = snapshot_open(t->c->checkpoint, t->key, &why);
    if (!s)
        return 0;
    const struct state *k = snapshot_get(s, "state", &bytes);
    int rc = 0;
    if (k && bytes == sizeof *k && k->version == VERSION && k->epoch > 0)
        rc = take_up(t, s, k, err) ? -1 : 1;
    snapshot_close(s);
    return rc;
}
