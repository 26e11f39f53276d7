/* SPDX-License-Identifier: Apache-2.0
 * groups_json.c - groups for people: GET /v1/models/{id}/groups and `pared inspect --groups`. Names come from files:
 * they may be any bytes. */
#include "core/base/utf8.h"
#include "core/prune/groups_impl.h"

static json_t *member_json(const struct model *m, const struct group_member *member)
{
    static const char *const roles[] = {
        [COUPLE_PASSES] = "passes", [COUPLE_PRODUCES] = "produces", [COUPLE_CONSUMES] = "consumes"};
    const struct node *n = member->node != NODE_NONE ? &m->nodes[member->node] : NULL;
    char label[256];
    json_t *o = json_object();
    json_object_set_new(o, member->constant ? "weight" : "value", utf8_json(m->values[member->value].name));
    if (n && n->op_type) {
        json_object_set_new(o, "node", utf8_json(node_label(m, member->node, label, sizeof label)));
        json_object_set_new(o, "op_type", utf8_json(n->op_type));
    }
    json_object_set_new(o, "axis", json_integer(member->axis));
    json_object_set_new(o, "size", json_integer(member->size));
    if (member->constant)
        json_object_set_new(o, "role", json_string(roles[member->role]));
    return o;
}

static json_t *group_json(const struct model *m, const struct group *g, int id, int max_members)
{
    json_t *o = json_object(), *members = json_array();
    json_object_set_new(o, "id", json_integer(id));
    json_object_set_new(o, "name", utf8_json(g->name));
    json_object_set_new(o, "channels", json_integer(g->n ? g->n : g->n_members ? g->member[0].size : 0));
    json_object_set_new(o, "prunable", json_boolean(g->n > 1));
    if (g->frozen)
        json_object_set_new(o, "frozen", utf8_json(g->frozen));
    else if (g->n == 1)
        json_object_set_new(o, "frozen", json_string("all of its channels can only go together"));
    if (g->approximate)
        json_object_set_new(o, "approximate", utf8_json(g->approximate));
    if (g->through)
        json_object_set_new(o, "heads", json_true());
    for (int i = 0; i < g->n_members && i < max_members; i++)
        json_array_append_new(members, member_json(m, &g->member[i]));
    json_object_set_new(o, "members", members);
    if (g->n_members > max_members)
        json_object_set_new(o, "more", json_integer(g->n_members - max_members));
    if (!g->n)
        return o;
    json_t *each = json_pack("{s:f, s:f}", "params", g->params, "bytes", g->bytes);
    if (g->macs >= 0)
        json_object_set_new(each, "macs", json_real(g->macs));
    json_object_set_new(o, "per_channel", each);
    return o;
}

json_t *groups_json(const struct groups *g, int max_groups, int max_members)
{
    const struct solver *s = g->solver;
    json_t *list = json_array();
    for (int i = 0; list && i < g->n && i < max_groups; i++)
        if (json_array_append_new(list, group_json(s->m, &g->at[i], i, max_members))) {
            json_decref(list);
            return NULL;
        }
    return list;
}
