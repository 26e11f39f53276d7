/* SPDX-License-Identifier: Apache-2.0
 * Open addressing with linear probing over (hash, value id). The hash is seeded with a constant: collisions made on
 * purpose only slow down the one job that brought them, whose time is limited anyway; 64-bit FNV-1a keeps accidents
 * away. */
#include "core/model/model_names.h"

#include <stdlib.h>
#include <string.h>

struct slot {
    uint32_t hash; /* upper half; 0 with value NONE: free */
    uint32_t value;
};

struct name_index {
    struct slot *slots;
    uint32_t mask, used;
};

static uint32_t hash_name(const char *name)
{
    uint64_t h = 14695981039346656037u;
    for (const unsigned char *p = (const unsigned char *)name; *p; p++)
        h = (h ^ *p) * 1099511628211u;
    h ^= h >> 29;
    h *= 0x9E3779B97F4A7C15u;
    return (uint32_t)(h >> 32);
}

static struct slot *new_slots(uint32_t count)
{
    struct slot *slots = malloc(count * sizeof *slots);
    if (slots)
        memset(slots, 0xff, count * sizeof *slots); /* value = VALUE_NONE: free */
    return slots;
}

struct name_index *name_index_new(void)
{
    struct name_index *index = calloc(1, sizeof *index);
    if (!index)
        return NULL;
    index->mask = 63;
    index->slots = new_slots(index->mask + 1);
    if (!index->slots) {
        free(index);
        return NULL;
    }
    return index;
}

void name_index_free(struct name_index *index)
{
    if (!index)
        return;
    free(index->slots);
    free(index);
}

static void insert(struct slot *slots, uint32_t mask, struct slot slot)
{
    uint32_t i = slot.hash & mask;
    while (slots[i].value != VALUE_NONE)
        i = (i + 1) & mask;
    slots[i] = slot;
}

int name_index_add(struct name_index *index, const char *name, uint32_t value)
{
    if (index->used >= index->mask / 2) {
        if (index->mask > UINT32_MAX / 4)
            return -1;
        uint32_t mask = index->mask * 2 + 1;
        struct slot *slots = new_slots(mask + 1);
        if (!slots)
            return -1;
        for (uint32_t i = 0; i <= index->mask; i++)
            if (index->slots[i].value != VALUE_NONE)
                insert(slots, mask, index->slots[i]);
        free(index->slots);
        index->slots = slots;
        index->mask = mask;
    }
    insert(index->slots, index->mask, (struct slot){hash_name(name), value});
    index->used++;
    return 0;
}

struct name_index *name_index_clone(const struct name_index *index)
{
    struct name_index *copy = calloc(1, sizeof *copy);
    if (!copy)
        return NULL;
    *copy = *index;
    copy->slots = new_slots(index->mask + 1);
    if (!copy->slots) {
        free(copy);
        return NULL;
    }
    memcpy(copy->slots, index->slots, ((size_t)index->mask + 1) * sizeof *copy->slots);
    return copy;
}

uint32_t name_index_find(const struct name_index *index, const struct model *m, uint32_t graph, const char *name)
{
    uint32_t hash = hash_name(name), found = VALUE_NONE;
    for (uint32_t i = hash & index->mask; index->slots[i].value != VALUE_NONE; i = (i + 1) & index->mask) {
        uint32_t v = index->slots[i].value;
        if (index->slots[i].hash != hash || v >= m->n_values || v >= found)
            continue;
        const struct value *value = &m->values[v];
        if (value->name && (graph == GRAPH_NONE || value->graph == graph) && !strcmp(value->name, name))
            found = v;
    }
    return found;
}
