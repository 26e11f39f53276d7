/* SPDX-License-Identifier: Apache-2.0
 * methods.c - /v1/methods: the method table as JSON. */
#include "api/api.h"
#include "api/handlers.h"
#include "core/recipe/catalogue.h"

int methods_list(struct req *req, struct res *res, struct err *err)
{
    json_t *all = method_json(NULL);
    if (json_is_array(all)) /* every list of the API has the same frame */
        all = api_page_json(all, false, NULL);
    return api_json(req, res, all, API_FIXED, err);
}

int methods_get(struct req *req, struct res *res, struct err *err)
{
    const struct method *method = method_find(req->param[0]);
    if (!method)
        return err_set(err, ERR_NOT_FOUND, "There is no method '%.60s'; GET /v1/methods lists them.", req->param[0]);
    return api_json(req, res, method_json(method), API_FIXED, err);
}
