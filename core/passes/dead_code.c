/* SPDX-License-Identifier: Apache-2.0
 * dead_code.c - nodes whose outputs nobody reads, last first, so that a chain goes in one sweep. Weights and value_info
 * that become useless are swept by edit_finish. Nodes of operators nobody knows go too: ONNX operators have no side
 * effects. */
#include "core/passes/pass.h"

int pass_dead_code(struct pass_ctx *c, struct err *err)
{
    struct model *m = c->edit.m;
    (void)err;
    for (int again = 1; again;) {
        again = 0;
        for (uint32_t id = m->n_nodes; id-- > 0;) {
            struct node *n = &m->nodes[id];
            if (!edit_node_is_live(&c->edit, id))
                continue;
            bool used = false;
            for (int i = 0; i < n->n_output && !used; i++)
                used = n->output[i] != VALUE_NONE && edit_count(&c->edit, n->output[i]) > 0;
            if (used)
                continue;
            edit_remove_node(&c->edit, id);
            c->changes++;
            again = 1;
        }
    }
    return 0;
}
