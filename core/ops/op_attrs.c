/* SPDX-License-Identifier: Apache-2.0
 * A node's attributes into the operator's own struct, driven by the row's attribute table: kinds, list lengths, choices
 * and required ones are checked here once, so that no operator checks them again. Lists and strings are borrowed from
 * the model. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/ops/op.h"

/* What each kind of field takes from the file, and how a person calls it. */
static const struct {
    enum attr_type type;
    const char *name;
} kinds[] = {
    [OP_INT] = {ATTR_INT, "an integer"},
    [OP_FLOAT] = {ATTR_FLOAT, "a float"},
    [OP_STRING] = {ATTR_STRING, "a string"},
    [OP_INTS] = {ATTR_INTS, "a list of integers"},
    [OP_FLOATS] = {ATTR_FLOATS, "a list of floats"},
    [OP_STRINGS] = {ATTR_STRINGS, "a list of strings"},
    [OP_TENSOR] = {ATTR_TENSOR, "a tensor"},
    [OP_GRAPH] = {ATTR_GRAPH, "a graph"},
    [OP_BOOL] = {ATTR_INT, "an integer"},
    [OP_ENUM] = {ATTR_STRING, "a string"},
    [OP_TYPE] = {ATTR_TYPE_PROTO, "a type"},
};

static const char *type_name(enum attr_type type)
{
    static const char *const names[] = {
        [ATTR_UNDEFINED] = "of no type",
        [ATTR_FLOAT] = "a float",
        [ATTR_INT] = "an integer",
        [ATTR_STRING] = "a string",
        [ATTR_TENSOR] = "a tensor",
        [ATTR_GRAPH] = "a graph",
        [ATTR_FLOATS] = "a list of floats",
        [ATTR_INTS] = "a list of integers",
        [ATTR_STRINGS] = "a list of strings",
        [ATTR_TENSORS] = "a list of tensors",
        [ATTR_GRAPHS] = "a list of graphs",
        [ATTR_SPARSE_TENSOR] = "a sparse tensor",
        [ATTR_SPARSE_TENSORS] = "a list of sparse tensors",
        [ATTR_TYPE_PROTO] = "a type",
        [ATTR_TYPE_PROTOS] = "a list of types",
    };
    return (unsigned)type < sizeof names / sizeof names[0] ? names[type] : "of an unknown type";
}

static bool is_list(enum op_attr_kind kind)
{
    return kind == OP_INTS || kind == OP_FLOATS || kind == OP_STRINGS;
}

/* `consumed_inputs` was a hint for in-place work before opset 6; a leading underscore marks exporters' private notes.
 */
static bool is_ignorable(const char *name)
{
    return name[0] == '_' || strcmp(name, "consumed_inputs") == 0;
}

static const struct op_attr *find_row(const struct op_attr *table, const char *name)
{
    for (const struct op_attr *row = table; row && row->name; row++)
        if (strcmp(row->name, name) == 0)
            return row;
    return NULL;
}

static void set_default(const struct op_attr *row, void *field)
{
    switch (row->kind) {
    case OP_INT:
        *(int64_t *)field = row->def;
        break;
    case OP_BOOL:
        *(bool *)field = row->def != 0;
        break;
    case OP_ENUM:
        *(int *)field = (int)row->def;
        break;
    case OP_FLOAT:
        *(float *)field = row->def_f;
        break;
    case OP_STRING:
        *(const char **)field = row->def_s;
        break;
    case OP_GRAPH:
        *(uint32_t *)field = GRAPH_NONE;
        break;
    default: /* lists are empty and tensors absent in zeroed memory */
        break;
    }
}

static int set_bool(const struct attr *a, bool *field, struct err *err)
{
    if (a->ints[0] != 0 && a->ints[0] != 1)
        return err_set(err, ERR_MODEL, "attribute '%s' is %" PRId64 "; it must be 0 or 1", a->name, a->ints[0]);
    *field = a->ints[0] == 1;
    return 0;
}

static int set_string(const struct attr *a, const char **field, struct err *err)
{
    if (strlen(a->strings[0].data) != a->strings[0].len)
        return err_set(err, ERR_MODEL, "attribute '%s' holds a NUL byte; it must be plain text", a->name);
    *field = a->strings[0].data;
    return 0;
}

static int set_enum(const struct op_attr *row, const struct attr *a, int *field, struct err *err)
{
    const char *text = NULL;
    if (set_string(a, &text, err) < 0)
        return -1;
    char list[200] = "";
    size_t used = 0;
    for (int i = 0; row->choices[i]; i++) {
        if (strcmp(row->choices[i], text) == 0) {
            *field = i;
            return 0;
        }
        int n = snprintf(list + used, sizeof list - used, "%s'%s'", i ? ", " : "", row->choices[i]);
        used = n < 0 || (size_t)n >= sizeof list - used ? sizeof list - 1 : used + (size_t)n;
    }
    return err_set(err, ERR_MODEL, "attribute '%s' is '%.40s'; it must be one of %s", a->name, text, list);
}

static int set_list(const struct op_attr *row, const struct attr *a, void *field, struct err *err)
{
    int limit = row->max_count ? row->max_count : SHAPE_MAX_RANK * 2;
    if (a->count > limit)
        return err_set(err, ERR_MODEL, "attribute '%s' has %d elements; at most %d are allowed", a->name, a->count,
                       limit);
    if (row->kind == OP_INTS)
        *(struct op_ints *)field = (struct op_ints){a->ints, a->count};
    else if (row->kind == OP_FLOATS)
        *(struct op_floats *)field = (struct op_floats){a->floats, a->count};
    else
        *(struct op_strings *)field = (struct op_strings){a->strings, a->count};
    return 0;
}

static int set_single(const struct op_attr *row, const struct attr *a, void *field, struct err *err)
{
    if (a->count < 1)
        return err_set(err, ERR_MODEL, "attribute '%s' has no value; it must be %s", a->name, kinds[row->kind].name);
    switch (row->kind) {
    case OP_INT:
        *(int64_t *)field = a->ints[0];
        return 0;
    case OP_BOOL:
        return set_bool(a, field, err);
    case OP_FLOAT:
        *(float *)field = a->floats[0];
        return 0;
    case OP_STRING:
        return set_string(a, field, err);
    case OP_ENUM:
        return set_enum(row, a, field, err);
    case OP_TENSOR:
        *(const struct tensor **)field = &a->tensors[0]->tensor;
        return 0;
    case OP_GRAPH:
        *(uint32_t *)field = a->graphs[0];
        return 0;
    case OP_TYPE:
        *(const struct type **)field = &a->types[0];
        return 0;
    default:
        return err_set(err, ERR_INTERNAL, "attribute '%s' has a row of an unknown kind", a->name);
    }
}

static int set_attr(const struct op_attr *row, const struct attr *a, void *attrs, struct err *err)
{
    void *field = (char *)attrs + row->offset;
    if (a->ref_name)
        return err_set(err, ERR_MODEL,
                       "attribute '%s' refers to the function attribute '%s', which the call does not give", a->name,
                       a->ref_name);
    /* A list of nothing has no payload to tell its type from. */
    if (is_list(row->kind) && a->type == ATTR_UNDEFINED && a->count == 0)
        return 0;
    if (a->type != kinds[row->kind].type)
        return err_set(err, ERR_MODEL, "attribute '%s' is %s; it must be %s", a->name, type_name(a->type),
                       kinds[row->kind].name);
    return is_list(row->kind) ? set_list(row, a, field, err) : set_single(row, a, field, err);
}

static int refuse_unknown(const struct op_class *op, const char *name, struct err *err)
{
    char list[400] = "no attributes at all";
    size_t used = 0;
    for (const struct op_attr *row = op->attrs; row && row->name; row++) {
        int n = snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", row->name);
        used = n < 0 || (size_t)n >= sizeof list - used ? sizeof list - 1 : used + (size_t)n;
    }
    return err_set(err, ERR_MODEL, "attribute '%.60s' is unknown; %s since opset %d takes %s", name, op->type,
                   op->since, list);
}

int op_parse_attrs(const struct op_class *op, const struct model *m, const struct node *node, void *attrs,
                   struct arena *arena, struct err *err)
{
    (void)m;
    (void)arena; /* lists are borrowed from the model, which outlives every plan */
    if (op->attrs_size)
        memset(attrs, 0, op->attrs_size);
    for (const struct op_attr *row = op->attrs; row && row->name; row++)
        set_default(row, (char *)attrs + row->offset);
    for (int i = 0; i < node->n_attr; i++) {
        const struct attr *a = &node->attr[i];
        if (!a->name)
            return err_set(err, ERR_MODEL, "attribute #%d has no name", i);
        const struct op_attr *row = find_row(op->attrs, a->name);
        if (!row && is_ignorable(a->name))
            continue;
        if (!row)
            return refuse_unknown(op, a->name, err);
        if (set_attr(row, a, attrs, err) < 0)
            return -1;
    }
    for (const struct op_attr *row = op->attrs; row && row->name; row++) {
        bool found = !row->required;
        for (int i = 0; i < node->n_attr && !found; i++)
            found = strcmp(node->attr[i].name, row->name) == 0;
        if (!found)
            return err_set(err, ERR_MODEL, "attribute '%s' is missing; it must be %s", row->name,
                           kinds[row->kind].name);
    }
    return 0;
}
