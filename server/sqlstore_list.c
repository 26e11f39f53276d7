/* SPDX-License-Identifier: Apache-2.0
 * Lists of jobs, newest first, by filters and page by page. A page is found in two steps: ids from the index of the
 * most telling condition, sifted by the others; then the rows of those ids. Which condition tells most is counted, up
 * to some hundreds of rows: a rare label is found at once, whatever else is asked. The cursor is the last id seen and
 * every index ends with the id, so that a page costs the same wherever it begins, and rows that come or go between two
 * pages shift nothing. Several states are one walk each, merged.
 *
 * Times are conditions on created_at, which is the database's clock; bounds on the id keep the walk short. An id holds
 * the time of its making by the server's clock, which may differ, and never goes back within a process: the bounds have
 * an hour of slack. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/sqlstore.h"

enum { SLACK_MS = 3600 * 1000, PRIORITY_ANY = 1 << 30 };

struct id_span sqlstore_span(const struct store_page *page, const char *prefix)
{
    struct id_span span = {"", "~"};
    if (page->created_from)
        id_bound(span.low, prefix, page->created_from - SLACK_MS);
    if (page->created_before)
        id_bound(span.high, prefix, page->created_before + SLACK_MS);
    if (page->after && strcmp(page->after, span.high) < 0)
        snprintf(span.high, sizeof span.high, "%s", page->after);
    return span;
}

int sqlstore_labels(struct db *db, const struct store_job_new *in, const char *id, struct err *err)
{
    for (int i = 0; i < in->label_count; i++)
        if (db_run(db, "INSERT INTO job_label(owner,key,value,job_id) VALUES($1,$2,$3,$4)",
                   BIND(T(in->owner), T(in->labels[i].key), T(in->labels[i].value), T(id)), err) < 0)
            return -1;
    return 0;
}

/* ---- the walks ----------------------------------------------------------------------------------------------------
 * $1 owner, $2 and $3 bounds of the id, $4 and $5 of created_at, $6 states, $7 model, $8 name, $9 $10 priority, $11 ..
 * $18 labels, $19 retry_of, $20 limit; $21 the one state of that walk. A range of priorities is no use to an index that
 * goes on with the id: the plus keeps it from one. */

#define HAS_LABEL(key, value)                                                                                          \
    " AND (" key "='' OR EXISTS(SELECT 1 FROM job_label l WHERE l.owner=$1 AND l.key=" key " AND l.value=" value       \
    " AND l.job_id=job.id))"
#define SIFT                                                                                                           \
    " AND job.owner=$1 AND job.id<$2 AND job.id>=$3 AND job.created_at>=$4 AND job.created_at<$5"                      \
    " AND ($6='' OR $6 LIKE '%,'||job.state||',%')"                                                                    \
    " AND ($7='' OR EXISTS(SELECT 1 FROM job_input i WHERE i.job_id=job.id AND i.role='model' AND i.resource_id=$7))"  \
    " AND ($8='' OR job.name=$8) AND +job.priority>=$9 AND +job.priority<=$10" HAS_LABEL("$11", "$12")                 \
        HAS_LABEL("$13", "$14") HAS_LABEL("$15", "$16") HAS_LABEL("$17", "$18") " AND ($19='' OR job.retry_of=$19)"

enum walk { WALK_MODEL, WALK_LABEL, WALK_RETRY, WALK_NAME, WALK_PRIORITY, WALK_STATE, WALK_ALL };
static const char *const walk_sql[] = {
    [WALK_MODEL] = "SELECT job.id FROM job_input d JOIN job ON job.id=d.job_id WHERE d.resource_id=$7 AND"
                   " d.role='model' AND d.job_id<$2 AND d.job_id>=$3" SIFT " ORDER BY d.job_id DESC LIMIT $20",
    [WALK_LABEL] = "SELECT job.id FROM job_label d JOIN job ON job.id=d.job_id WHERE d.owner=$1 AND d.key=$11 AND"
                   " d.value=$12 AND d.job_id<$2 AND d.job_id>=$3" SIFT " ORDER BY d.job_id DESC LIMIT $20",
    [WALK_RETRY] = "SELECT job.id FROM job WHERE job.retry_of=$19" SIFT " ORDER BY job.id DESC LIMIT $20",
    [WALK_NAME] = "SELECT job.id FROM job WHERE job.name=$8" SIFT " ORDER BY job.id DESC LIMIT $20",
    [WALK_PRIORITY] =
        "SELECT job.id FROM job WHERE job.priority<>0 AND job.priority=$9" SIFT " ORDER BY job.id DESC LIMIT $20",
    [WALK_STATE] = "SELECT job.id FROM job WHERE job.state=$21" SIFT " ORDER BY job.id DESC LIMIT $20",
    [WALK_ALL] = "SELECT job.id FROM job WHERE 1=1" SIFT " ORDER BY job.id DESC LIMIT $20",
};

/* How many rows a walk has, counted up to 500: $1 what it is by, $2 and $3 bounds of the id, $4 owner, $5 a label's
 * value. */
#define FEW(from) "SELECT count(*) FROM (SELECT 1 FROM " from " LIMIT 500) few"
static const char *const count_sql[] = {
    [WALK_MODEL] = FEW("job_input WHERE resource_id=$1 AND job_id<$2 AND job_id>=$3"),
    [WALK_LABEL] = FEW("job_label WHERE owner=$4 AND key=$1 AND value=$5 AND job_id<$2 AND job_id>=$3"),
    [WALK_RETRY] = FEW("job WHERE owner=$4 AND retry_of=$1 AND id<$2 AND id>=$3"),
    [WALK_NAME] = FEW("job WHERE owner=$4 AND name=$1 AND id<$2 AND id>=$3"),
    [WALK_PRIORITY] = FEW("job WHERE owner=$4 AND priority<>0 AND priority=$1 AND id<$2 AND id>=$3"),
    [WALK_STATE] = FEW("job WHERE owner=$4 AND state=$1 AND id<$2 AND id>=$3"),
};

/* A condition that has an index. */
struct condition {
    enum walk walk;
    struct sql_value by;
    const char *value; /* of a label */
    int label;
};
enum { CONDITIONS = 5 + JOB_FILTER_LABELS + JOB_STATE_COUNT };

static int conditions_of(const struct store_page *page, const struct store_job_filter *filter, struct condition *out)
{
    int n = 0;
    if (filter->model)
        out[n++] = (struct condition){WALK_MODEL, .by = T(filter->model)};
    for (int i = 0; i < filter->label_count && i < JOB_FILTER_LABELS; i++)
        out[n++] = (struct condition){WALK_LABEL, T(filter->labels[i].key), filter->labels[i].value, i};
    if (filter->retry_of)
        out[n++] = (struct condition){WALK_RETRY, .by = T(filter->retry_of)};
    if (page->name)
        out[n++] = (struct condition){WALK_NAME, .by = T(page->name)};
    if (filter->priority && *filter->priority) /* most jobs have 0 */
        out[n++] = (struct condition){WALK_PRIORITY, .by = I(*filter->priority)};
    if (filter->states)
        out[n++] = (struct condition){.walk = WALK_STATE};
    return n;
}

static int count_one(struct db *db, const struct store_page *page, const struct condition *c, int64_t *count,
                     struct err *err)
{
    const struct id_span span = sqlstore_span(page, "job");
    const struct sql_value values[] = {c->by, T(span.high), T(span.low), T(page->owner), T(c->value)};
    return db_int(db, count_sql[c->walk], values,
                  c->walk == WALK_MODEL   ? 3
                  : c->walk == WALK_LABEL ? 5
                                          : 4,
                  0, count, err);
}

static int count_condition(struct db *db, const struct store_page *page, const struct store_job_filter *filter,
                           const struct condition *c, int64_t *count, struct err *err)
{
    if (c->walk != WALK_STATE)
        return count_one(db, page, c, count, err);
    *count = 0;
    for (int s = 0; s < JOB_STATE_COUNT; s++) {
        const struct condition state = {WALK_STATE, .by = T(job_state_name((enum job_state)s))};
        int64_t some;
        if (!(filter->states & 1u << s))
            continue;
        if (count_one(db, page, &state, &some, err))
            return -1;
        *count += some;
    }
    return 0;
}

/* The condition that the fewest jobs hold; among those of many jobs the first. */
static int choose(struct db *db, const struct store_page *page, const struct store_job_filter *filter,
                  struct condition *best, struct err *err)
{
    struct condition all[CONDITIONS];
    int n = conditions_of(page, filter, all);
    int64_t fewest = INT64_MAX, count;
    *best = n ? all[0] : (struct condition){.walk = WALK_ALL};
    for (int i = 0; i < n && n > 1; i++) {
        if (count_condition(db, page, filter, &all[i], &count, err))
            return -1;
        if (count < fewest) {
            fewest = count;
            *best = all[i];
        }
    }
    return 0;
}

/* ",queued,running,"; "" for all. */
static void states_text(unsigned states, char *out, size_t size)
{
    size_t n = 0;
    out[0] = 0;
    for (int s = 0; s < JOB_STATE_COUNT; s++)
        if (states & 1u << s)
            n += (size_t)snprintf(out + n, size - n, "%s%s,", n ? "" : ",", job_state_name((enum job_state)s));
}

struct ids {
    char (*at)[ID_SIZE];
    int count, room;
};

static int walk(struct db *db, const struct condition *by, const struct store_page *page,
                const struct store_job_filter *filter, const char *state, struct ids *ids, struct err *err)
{
    char states[80];
    struct id_span span = sqlstore_span(page, "job");
    states_text(filter->states, states, sizeof states);
    struct sql_value values[] = {
        T(page->owner),
        T(span.high),
        T(span.low),
        I(page->created_from),
        I(page->created_before ? page->created_before : INT64_MAX),
        T(states),
        T(filter->model ? filter->model : ""),
        T(page->name ? page->name : ""),
        I(filter->priority ? *filter->priority : -PRIORITY_ANY),
        I(filter->priority ? *filter->priority : PRIORITY_ANY),
        T(""),
        T(""),
        T(""),
        T(""),
        T(""),
        T(""),
        T(""),
        T(""),
        T(filter->retry_of ? filter->retry_of : ""),
        I(page->limit + 1),
        T(state),
    };
    for (int i = 0; i < filter->label_count && i < JOB_FILTER_LABELS; i++) {
        const struct store_label *label = &filter->labels[(i + by->label) % filter->label_count]; /* the walk's first */
        values[10 + 2 * i] = T(label->key);
        values[11 + 2 * i] = T(label->value);
    }
    struct query q;
    query_start(&q, db, walk_sql[by->walk], values, by->walk == WALK_STATE ? 21 : 20, err);
    while (ids->count < ids->room && query_row(&q))
        query_copy(&q, 0, ids->at[ids->count++], ID_SIZE);
    return query_end(&q);
}

static int newest_first(const void *a, const void *b)
{
    return strcmp(b, a);
}

/* The ids of a page and one more, newest first. */
static int find(struct db *db, const struct store_page *page, const struct store_job_filter *filter,
                struct arena *arena, struct ids *ids, struct err *err)
{
    struct condition by;
    if (choose(db, page, filter, &by, err))
        return -1;
    ids->at = arena_calloc(arena, (size_t)(page->limit + 1) * JOB_STATE_COUNT, sizeof *ids->at);
    if (!ids->at)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (by.walk != WALK_STATE) {
        ids->room = page->limit + 1;
        return walk(db, &by, page, filter, "", ids, err);
    }
    for (int s = 0; s < JOB_STATE_COUNT; s++) {
        ids->room = ids->count + page->limit + 1;
        if (filter->states & 1u << s && walk(db, &by, page, filter, job_state_name((enum job_state)s), ids, err))
            return -1;
    }
    qsort(ids->at, (size_t)ids->count, sizeof *ids->at, newest_first);
    return 0;
}

int store_job_search(struct store *store, const struct store_page *page, const struct store_job_filter *filter,
                     struct arena *arena, struct store_job *rows, int *count, bool *more, struct err *err)
{
    struct db *db = db_read(store, err);
    struct ids ids = {0};
    *count = 0;
    *more = false;
    if (!db)
        return -1;
    int rc = find(db, page, filter, arena, &ids, err);
    for (int i = 0; i < ids.count && i < page->limit && rc == 0; i++)
        rc = sqlstore_job_row(db, page->owner, ids.at[i], arena, &rows[(*count)++], err);
    *more = ids.count > page->limit;
    db_end(db);
    return rc;
}

int store_job_list(struct store *store, const struct store_page *page, int state, struct arena *arena,
                   struct store_job *rows, int *count, bool *more, struct err *err)
{
    const struct store_job_filter filter = {.states = state < 0 ? 0 : 1u << state};
    return store_job_search(store, page, &filter, arena, rows, count, more, err);
}
