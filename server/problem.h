/* SPDX-License-Identifier: Apache-2.0
 * problem.h - the one place where an error becomes application/problem+json (RFC 9457).
 * Document   {type, title, status, code, detail, instance, request_id, errors: [{pointer | parameter, detail}]}.
 *            What went wrong inside the server (ERR_INTERNAL, ERR_IO, ERR_STORE) is for its log: the client gets a
 *            general sentence. */
#ifndef PARED_SERVER_PROBLEM_H
#define PARED_SERVER_PROBLEM_H

#include <jansson.h>

#include "core/base/err.h"

/* New reference; NULL when memory is out. instance and request_id may be NULL. A fault whose pointer starts with '?' is
 * about the query parameter of that name. */
json_t *problem_json(const struct err *err, const struct faults *faults, const char *instance, const char *request_id);

#endif
