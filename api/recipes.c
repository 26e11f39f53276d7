/* SPDX-License-Identifier: Apache-2.0
 * recipes.c - /v1/recipes: presets that ship with the binary, then the owner's named recipes. A name means one recipe
 * for ever: jobs refer to it by name, so another recipe under the same name is refused (409) until the old one is
 * deleted. */
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "api/handlers.h"
#include "core/recipe/recipe.h"

enum { RECIPE_NAME_MAX = 64 };

static bool good_name(const char *name)
{
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    return len > 0 && len <= RECIPE_NAME_MAX && name[len] == 0 && name[0] != '.';
}

static json_t *preset_row(const struct preset *preset)
{
    json_t *row = preset_json(preset);
    json_object_set_new(row, "preset", json_true());
    return row;
}

static json_t *own_row(const struct store_recipe *recipe)
{
    json_t *row = json_object();
    api_set_text(row, "name", recipe->name);
    json_object_set_new(row, "preset", json_false());
    json_object_set_new(row, "recipe", api_stored(recipe->body));
    api_set_time(row, "created_at", recipe->created_at);
    return row;
}

int recipes_list(struct req *req, struct res *res, struct err *err)
{
    struct store_page page;
    int count = 0;
    bool more = false;
    if (api_page(req, "rcp", &page, err) != 0)
        return -1;
    struct store_recipe *rows = arena_calloc(req->arena, (size_t)page.limit, sizeof *rows);
    if (!rows)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    if (store_recipe_list(api_server(req)->store, &page, req->arena, rows, &count, &more, err) != 0)
        return -1;
    json_t *list = json_array();
    for (const struct preset *const *p = preset_all(); *p && !page.after; p++) /* the first page */
        json_array_append_new(list, preset_row(*p));
    for (int i = 0; i < count; i++)
        json_array_append_new(list, own_row(&rows[i]));
    return api_json(req, res, api_page_json(list, more, count ? rows[count - 1].id : NULL), API_LIVE, err);
}

int recipes_get(struct req *req, struct res *res, struct err *err)
{
    const struct preset *preset = preset_find(req->param[0]);
    if (preset)
        return api_json(req, res, preset_row(preset), API_FIXED, err);
    struct store_recipe row;
    if (store_recipe_get(api_server(req)->store, req->owner, req->param[0], req->arena, &row, err) != 0)
        return -1;
    return api_json(req, res, own_row(&row), API_FIXED, err);
}

/* The recipe with all defaults as JSON text in the arena, or NULL with faults. */
static const char *checked(struct req *req, const json_t *json, struct err *err)
{
    struct recipe *recipe = recipe_parse(json, "/recipe", &req->faults, err);
    if (!recipe)
        return NULL;
    json_t *whole = recipe_json(recipe);
    char *text = whole ? json_dumps(whole, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    const char *body = text ? arena_strdup(req->arena, text) : NULL;
    if (!body)
        err_set(err, ERR_NOMEM, "Out of memory.");
    free(text);
    json_decref(whole);
    recipe_free(recipe);
    return body;
}

int recipes_create(struct req *req, struct res *res, struct err *err)
{
    static const char *const keys[] = {"name", "recipe", NULL};
    struct store_recipe row;
    struct err fault = {0};
    bool existed = false;
    if (!json_is_object(req->json))
        return err_set(err, ERR_INVALID,
                       "The body must be an object like {\"name\": \"...\", \"recipe\": {\"steps\": [...]}}.");
    api_known_keys(req->json, "", keys, &req->faults);
    const char *name = api_get_text(req->json, "name", &req->faults);
    const json_t *recipe = json_object_get(req->json, "recipe");
    if (!json_object_get(req->json, "name"))
        faults_add(&req->faults, "/name", "is missing: letters, digits, `.`, `_` and `-`, at most %d", RECIPE_NAME_MAX);
    else if (name && !good_name(name))
        faults_add(&req->faults, "/name", "must be letters, digits, `.`, `_` and `-`, at most %d", RECIPE_NAME_MAX);
    if (!recipe)
        faults_add(&req->faults, "/recipe", "is missing");
    const char *body = recipe ? checked(req, recipe, &fault) : NULL;
    if (req->faults.count || (recipe && !body))
        return fault.code ? err_set(err, fault.code, "%s", fault.msg) : api_faults(req, err);
    if (preset_find(name))
        return err_set(err, ERR_WRONG_STATE, "The name '%s' is that of a preset; take another.", name);
    if (store_recipe_insert(api_server(req)->store, req->owner, name, body, req->arena, &row, &existed, err) != 0)
        return -1;
    res_header(res, "Location", "/v1/recipes/%s", name);
    return res_json(res, existed ? 200 : 201, own_row(&row), err);
}

int recipes_delete(struct req *req, struct res *res, struct err *err)
{
    if (preset_find(req->param[0]))
        return err_set(err, ERR_FORBIDDEN, "The preset '%s' ships with the server and cannot be deleted.",
                       req->param[0]);
    struct store_recipe row;
    if (store_recipe_get(api_server(req)->store, req->owner, req->param[0], req->arena, &row, err) != 0 ||
        api_json_if_match(req, own_row(&row), err) != 0 ||
        store_recipe_delete(api_server(req)->store, req->owner, req->param[0], err) != 0)
        return -1;
    return res_empty(res, 204);
}
