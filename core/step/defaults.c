/* SPDX-License-Identifier: Apache-2.0
 * defaults.c - the defaults of a table of parameters, for methods that call others. */
#include <string.h>

#include "core/step/method.h"

static int set_default(const struct param *p, void *params, struct err *err)
{
    char *field = (char *)params + p->offset;
    json_t *v = p->def ? json_loads(p->def, JSON_DECODE_ANY, NULL) : NULL;
    int rc = 0;
    if (!p->def)
        return 0;
    if (v && p->kind == PARAM_INT && json_is_integer(v))
        *(int64_t *)(void *)field = json_integer_value(v);
    else if (v && p->kind == PARAM_NUMBER)
        *(double *)(void *)field = json_number_value(v);
    else if (v && p->kind == PARAM_BOOL)
        *(bool *)field = json_is_true(v);
    else if (v && p->choices && json_is_string(v)) {
        rc = -1;
        for (int i = 0; p->choices[i] && rc; i++)
            if (!strcmp(p->choices[i], json_string_value(v))) {
                if (p->kind == PARAM_ENUM)
                    *(int *)(void *)field = i;
                else
                    *(int64_t *)(void *)field = PARAM_NAMED(i);
                rc = 0;
            }
    } else
        rc = v && p->kind != PARAM_STRING ? 0 : -1;
    json_decref(v);
    return rc ? err_set(err, ERR_INTERNAL, "the default of '%s' does not parse", p->name) : 0;
}

int params_default(const struct param *rows, void *params, struct err *err)
{
    for (const struct param *p = rows; p->name; p++)
        if (set_default(p, params, err))
            return -1;
    return 0;
}
