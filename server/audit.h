/* SPDX-License-Identifier: Apache-2.0
 * audit.h - who changed what, and who was refused: one JSON object a line, appended to the file of the setting
 * `audit_log`. Written for every call that may change something (all but GET, HEAD and OPTIONS) and for every refusal
 * (401, 403, 429), after its answer.
 *
 *   {"time":"2026-11-23T00:54:36.380Z","request_id":"req_..","trace_id":"..","client":"10.0.0.9","owner":"ci",
 *    "key":"key_..","method":"POST","path":"/v1/jobs","route":"/v1/jobs","status":202,"outcome":"done",
 *    "resource":"/v1/jobs/job_.."}
 *
 * outcome    done (below 400), refused (401, 403, 429) or failed; the last two have `code`. Keys are named by their id.
 * Threads    audit_write from any: a line is one write(2) to a file opened for appending, so lines do not mix (unless
 *            the disk takes only a part of one).
 *            audit_reopen while others write: for log rotation. A line that cannot be written is told to the log. */
#ifndef PARED_SERVER_AUDIT_H
#define PARED_SERVER_AUDIT_H

#include "core/base/err.h"

struct audit;
struct http_record;

/* `path` "": nothing is written, and *out is NULL, which all calls take. */
int audit_open(struct audit **out, const char *path, struct err *err);
void audit_close(struct audit *audit);
/* The file of this name anew: it was moved away. -1: the old one is written on. */
int audit_reopen(struct audit *audit, struct err *err);
void audit_write(struct audit *audit, const struct http_record *record);

#endif
