/* SPDX-License-Identifier: Apache-2.0
 * recipe_words.c - a step as words of a command line: 'prune.weights sparsity=0.9'. A value is JSON or, failing that, a
 * string, so that nested steps are JSON too: steps=[{"method": "prune.weights", "sparsity": 0.9}]. */
#include <stdlib.h>
#include <string.h>

#include "core/recipe/recipe.h"

/* The next word at *at into out (NUL-terminated, quotes removed outside of JSON brackets); false at the end. Spaces
 * part words, but not inside quotes or brackets: include=["a", "b"] is one word. Single quotes are taken away, double
 * quotes stay where they are JSON. */
static bool next_word(const char **at, char *out)
{
    const char *p = *at;
    char quote = 0;
    int depth = 0;
    while (*p == ' ' || *p == '\t' || *p == '\n')
        p++;
    if (!*p)
        return false;
    for (; *p && (quote || depth > 0 || (*p != ' ' && *p != '\t' && *p != '\n')); p++) {
        if (quote) {
            if (*p == quote)
                quote = 0;
        } else if (*p == '"' || (*p == '\'' && depth == 0)) {
            quote = *p;
        } else {
            depth += (*p == '[' || *p == '{') - (*p == ']' || *p == '}');
        }
        if (*p != '\'' || depth > 0 || quote == '"')
            *out++ = *p;
    }
    *out = 0;
    *at = p;
    return true;
}

json_t *recipe_step_from_words(const char *text, struct err *err)
{
    char *word = malloc(strlen(text) + 1);
    json_t *step = json_object();
    const char *at = text;
    bool ok = false;
    if (!word || !step) {
        err_set(err, ERR_NOMEM, "no memory for the recipe");
        goto out;
    }
    if (!next_word(&at, word) || strchr(word, '=')) {
        err_set(err, ERR_USAGE, "a step starts with its method, as in 'prune.weights sparsity=0.9'; found '%.100s'",
                text);
        goto out;
    }
    json_object_set_new(step, "method", json_string(word));
    while (next_word(&at, word)) {
        char *eq = strchr(word, '=');
        if (!eq || eq == word) {
            err_set(err, ERR_USAGE, "step '%.100s': '%.100s' is not of the form key=value", text, word);
            goto out;
        }
        *eq = 0;
        json_t *value = json_loads(eq + 1, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, NULL);
        if (!value)
            value = json_string(eq + 1);
        if (!value || json_object_get(step, word) || json_object_set(step, word, value)) {
            err_set(err, ERR_USAGE, "step '%.100s': '%.100s' %s", text, word,
                    value ? "is given twice" : "is not UTF-8");
            json_decref(value);
            goto out;
        }
        json_decref(value);
    }
    ok = true;
out:
    free(word);
    if (ok)
        return step;
    json_decref(step);
    return NULL;
}
