/* SPDX-License-Identifier: Apache-2.0
 * job_view.h - a job as JSON. */
#ifndef PARED_API_JOB_VIEW_H
#define PARED_API_JOB_VIEW_H

#include <jansson.h>

#include "server/store.h"

/* New reference. */
json_t *job_json(const struct store_job *job);
/* With wait_s and eta_s, as far as past jobs tell them (server/estimate.h). */
struct req;
json_t *job_json_estimated(const struct req *req, const struct store_job *job);
json_t *job_progress_json(const struct store_progress *progress);

#endif
