/* SPDX-License-Identifier: Apache-2.0
 * inspect_groups.c - what can be pruned together: the dependency groups of core/prune/groups.h, of a copy of the model in which
 * constants are initializers, as prune.channels makes it. */
#include "cli/inspect.h"
#include "core/base/utf8.h"
#include "core/prune/groups.h"

json_t *inspect_groups_json(const struct model *m, struct err *err)
{
    struct warnings *warnings = warnings_new();
    struct err why = {0};
    struct groups *groups = NULL;
    json_t *all = NULL;
    struct model *copy = warnings ? model_clone(m, &why) : NULL;
    if (copy && groups_prepare(copy, warnings, &why) == 0)
        groups = groups_find(copy, GROUPS_INNER, &why);
    if (groups) {
        json_t *list = groups_json(groups, INSPECT_MAX_GROUPS, INSPECT_MAX_MEMBERS);
        all = list ? json_pack("{s:o}", "data", list) : NULL;
        if (all && groups->n > INSPECT_MAX_GROUPS)
            json_object_set_new(all, "more", json_integer(groups->n - INSPECT_MAX_GROUPS));
    } else if (warnings && why.code != ERR_NOMEM) { /* a model that cannot be pruned is a model all the same */
        all = json_pack("{s:[], s:o}", "data", "why", utf8_json(why.msg));
    }
    groups_free(groups);
    model_free(copy);
    warnings_free(warnings);
    if (!all)
        err_set(err, ERR_NOMEM, "no memory for the model's groups");
    return all;
}
