/* SPDX-License-Identifier: Apache-2.0
 * methods.c - /v1/methods: what a recipe may say, the tables of methods and of targets as JSON. A form for recipes can
 * be made from it alone. */
#include "api/api.h"
#include "api/handlers.h"
#include "core/recipe/catalogue.h"
#include "core/recipe/target.h"

int methods_list(struct req *req, struct res *res, struct err *err)
{
    json_t *page = api_page_json(method_json(NULL), false, NULL); /* every list of the API has the same frame */
    json_object_set_new(page, "targets", target_catalogue());
    return api_json(req, res, page, API_FIXED, err);
}

int methods_get(struct req *req, struct res *res, struct err *err)
{
    const struct method *method = method_find(req->param[0]);
    if (!method)
        return err_set(err, ERR_NOT_FOUND, "There is no method '%.60s'; GET /v1/methods lists them.", req->param[0]);
    return api_json(req, res, method_json(method), API_FIXED, err);
}
