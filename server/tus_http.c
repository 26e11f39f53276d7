/* SPDX-License-Identifier: Apache-2.0 */
#include "server/tus_http.h"

#include <string.h>

#include "server/digest.h"

void tus_http_finish(const struct req *req, struct res *res, int64_t max_bytes)
{
    size_t len = strlen(TUS_PATH);
    if (strncmp(req->path, TUS_PATH, len) != 0 || (req->path[len] && req->path[len] != '/'))
        return;
    bool options = strcmp(req->method, "OPTIONS") == 0;
    res_header(res, "Tus-Resumable", TUS_VERSION);
    if (options || res->status == 412)
        res_header(res, "Tus-Version", TUS_VERSION);
    if (!options)
        return;
    res_header(res, "Tus-Extension", "creation,expiration,checksum,termination");
    res_header(res, "Tus-Checksum-Algorithm", DIGEST_TUS_ALGORITHMS);
    res_header(res, "Tus-Max-Size", "%lld", (long long)max_bytes);
}
