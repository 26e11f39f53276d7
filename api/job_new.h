/* SPDX-License-Identifier: Apache-2.0
 * job_new.h - what a new job keeps of its request: shared by a job that is posted and one that is done again. */
#ifndef PARED_API_JOB_NEW_H
#define PARED_API_JOB_NEW_H

#include "api/api.h"

enum { JOB_LABELS_MAX = 64, JOB_LABEL_KEY_MAX = 63, JOB_LABEL_VALUE_MAX = 1000 };

/* A label's key: 1 to 63 bytes of UTF-8 without control characters, `=` and `,`, which lists use. */
bool job_label_key(const char *key);
/* Faults for what is no object of labels. */
void job_labels_check(json_t *labels, struct req *req);
/* The header Idempotency-Key, if there is one, with a hash of `len` bytes of the request. `sha256` must outlive `job`.
 * ERR_BAD_REQUEST for a bad key. */
int job_new_key(struct req *req, const char *bytes, size_t len, char sha256[65], struct store_job_new *job,
                struct err *err);
/* Fills in request, labels, methods and plan from the normalised recipe (borrowed), its name and labels (may be NULL).
 * Texts are the arena's; labels borrow from `labels`. */
int job_new_fill(struct arena *arena, json_t *recipe, const char *recipe_name, json_t *labels,
                 struct store_job_new *job, struct err *err);
/* 202 with the new job, or 200 with the old one whose result is reused. */
int job_new_answer(struct res *res, const struct store_job *job, bool replayed, struct err *err);

#endif
