/* SPDX-License-Identifier: Apache-2.0
 * Reuse of results, as a build cache does: the same inputs, recipe, seed and version give the same bytes. A job's
 * fingerprint is a hash over the text of its plan (all that is not an input) and the contents of its inputs; contents,
 * not ids, so that a model that was deleted and uploaded again is still known. It is looked up within one owner: that
 * another one has had the same model is nobody's business. */
#include <string.h>

#include "server/sqlstore.h"

static const char *const content_sql[] = {"SELECT content,bytes FROM model WHERE id=$1 AND owner=$2",
                                          "SELECT content,bytes FROM dataset WHERE id=$1 AND owner=$2"};

int sqlstore_fingerprint(struct db *db, const struct store_job_new *in, char sha256[SHA256_HEX], int64_t *bytes,
                         struct err *err)
{
    struct hash hash;
    hash_init(&hash);
    hash_update(&hash, in->plan ? in->plan : "", in->plan ? strlen(in->plan) : 0);
    *bytes = 0;
    for (int role = 0; role < JOB_ROLE_COUNT; role++) {
        const char *name = job_role_name((enum job_role)role);
        struct query q;
        if (!in->inputs[role])
            continue;
        query_start(&q, db, content_sql[job_role_kind((enum job_role)role)], BIND(T(in->inputs[role]), T(in->owner)),
                    err);
        if (query_row(&q)) {
            const char *content = query_raw(&q, 0);
            hash_update(&hash, "\n", 1);
            hash_update(&hash, name, strlen(name));
            hash_update(&hash, "=", 1);
            hash_update(&hash, content, strlen(content));
            *bytes += query_int(&q, 1);
        }
        if (query_end(&q))
            return -1;
    }
    hash_final(&hash, sha256);
    if (!in->plan)
        sha256[0] = 0;
    return 0;
}

int sqlstore_reusable(struct db *db, const char *owner, const char *fingerprint, char id[ID_SIZE], struct err *err)
{
    struct query q;
    if (!fingerprint[0])
        return 0;
    query_start(&q, db,
                "SELECT id FROM job WHERE state='succeeded' AND owner=$1 AND fingerprint=$2"
                " AND EXISTS(SELECT 1 FROM artifact WHERE job_id=job.id) ORDER BY id DESC LIMIT 1",
                BIND(T(owner), T(fingerprint)), err);
    bool found = query_row(&q);
    if (found)
        query_copy(&q, 0, id, ID_SIZE);
    return query_end(&q) ? -1 : found;
}
