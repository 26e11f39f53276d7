/* SPDX-License-Identifier: Apache-2.0 */
#include "core/recipe/nearest.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { LONGEST = 48 };

static int min3(int a, int b, int c)
{
    int m = a < b ? a : b;
    return m < c ? m : c;
}

/* Three rows of the alignment table suffice: this one, the last and, for swaps, the one before. */
static int distance(const char *a, size_t n, const char *b, size_t m)
{
    int row[3][LONGEST + 1];
    for (size_t j = 0; j <= m; j++)
        row[0][j] = (int)j;
    for (size_t i = 1; i <= n; i++) {
        int *now = row[i % 3], *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];
        now[0] = (int)i;
        for (size_t j = 1; j <= m; j++) {
            int differs = a[i - 1] != b[j - 1];
            now[j] = min3(last[j] + 1, now[j - 1] + 1, last[j - 1] + differs);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && before[j - 2] + 1 < now[j])
                now[j] = before[j - 2] + 1;
        }
    }
    return row[n % 3][m];
}

void nearest_offer(struct nearest *n, const char *candidate)
{
    size_t a = strlen(n->word), b = strlen(candidate), longer = a > b ? a : b;
    if (a == 0 || longer > LONGEST)
        return;
    int d = distance(n->word, a, candidate, b);
    bool holds = a >= 3 && (strstr(candidate, n->word) || strstr(n->word, candidate));
    if (((size_t)d * 3 <= longer || holds) && (!n->best || d < n->distance)) {
        n->best = candidate;
        n->distance = d;
    }
}

const char *nearest_hint(const struct nearest *n, char *out, size_t size)
{
    if (n->best)
        snprintf(out, size, "; did you mean '%s'?", n->best);
    else if (size)
        out[0] = 0;
    return out;
}
