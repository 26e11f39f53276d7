/* SPDX-License-Identifier: Apache-2.0
 * tus_http.h - what every answer below /v1/uploads carries, whoever made it: the version, and to OPTIONS what is
 * offered. */
#ifndef PARED_SERVER_TUS_HTTP_H
#define PARED_SERVER_TUS_HTTP_H

#include "server/http.h"

#define TUS_VERSION "1.0.0"
#define TUS_PATH "/v1/uploads"
#define TUS_MEDIA_TYPE "application/offset+octet-stream"

/* http_opts.finish: `max_bytes` for Tus-Max-Size. Nothing for other paths. */
void tus_http_finish(const struct req *req, struct res *res, int64_t max_bytes);

#endif
