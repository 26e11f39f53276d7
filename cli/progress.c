/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/progress.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/clock.h"

static volatile sig_atomic_t asked_to_stop;

static void on_signal(int sig)
{
    (void)sig;
    asked_to_stop = 1;
}

void progress_init(struct progress *p, bool quiet)
{
    *p = (struct progress){.quiet = quiet, .terminal = isatty(STDERR_FILENO) == 1, .step = -1};
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND};
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
}

static void where(char *out, size_t size, const struct pipeline_progress *at)
{
    if (at->method)
        snprintf(out, size, "step %d/%d %s%s%s", at->step, at->steps, at->method,
                 strcmp(at->stage, at->method) ? ": " : "", strcmp(at->stage, at->method) ? at->stage : "");
    else
        snprintf(out, size, "%s", at->stage);
}

static void draw_bar(struct progress *p, const struct pipeline_progress *at)
{
    enum { WIDTH = 24 };
    char place[100], bar[WIDTH + 1];
    double part = at->total > 0 ? (double)at->done / (double)at->total : 0;
    int full = part >= 1 ? WIDTH : (int)(part * WIDTH);
    memset(bar, '.', WIDTH);
    memset(bar, '#', full > 0 ? (size_t)full : 0);
    bar[WIDTH] = 0;
    where(place, sizeof place, at);
    fprintf(stderr, "\r\033[K[%s] %s", bar, place);
    if (at->total > 0)
        fprintf(stderr, " %lld/%lld", (long long)at->done, (long long)at->total);
    if (isfinite(at->eta_s) && at->eta_s >= 1)
        fprintf(stderr, ", %.0f s left", at->eta_s);
    fflush(stderr);
    p->bar = true;
}

/* True the first time a stage of a step comes; always once the list is full. */
static bool is_new(struct progress *p, const struct pipeline_progress *at)
{
    if (p->step != at->step)
        p->n_said = 0;
    for (int i = 0; i < p->n_said; i++)
        if (!strcmp(p->said[i], at->stage))
            return false;
    if (p->n_said < (int)(sizeof p->said / sizeof p->said[0]))
        p->said[p->n_said++] = at->stage;
    return true;
}

int progress_show(void *arg, const struct pipeline_progress *at)
{
    struct progress *p = arg;
    bool changed = p->step != at->step || !p->stage || strcmp(p->stage, at->stage);
    bool fresh = !p->terminal && changed && is_new(p, at);
    double now = clock_seconds();
    p->step = at->step;
    p->stage = at->stage;
    if (!p->quiet && p->terminal && (changed || now - p->drawn > 0.1)) {
        draw_bar(p, at);
        p->drawn = now;
    } else if (!p->quiet && fresh) {
        char place[100];
        where(place, sizeof place, at);
        fprintf(stderr, "pared: %s\n", place);
    }
    return asked_to_stop ? -1 : 0;
}

void progress_done(struct progress *p)
{
    if (p->bar)
        fputs("\r\033[K", stderr);
    p->bar = false;
}

static void print_plain(const char *text)
{
    for (; *text; text++) /* names are a stranger's: none may drive the terminal */
        fputc((unsigned char)*text < 32 || *text == 127 ? '?' : *text, stderr);
}

void progress_log(void *arg, const char *level, const char *message)
{
    struct progress *p = arg;
    if (p->quiet || strcmp(level, "warn"))
        return; /* the summary says the rest */
    progress_done(p);
    fputs("pared: warning: ", stderr);
    print_plain(message);
    fputc('\n', stderr);
}

void progress_metric(void *arg, const json_t *object)
{
    struct progress *p = arg;
    const char *key, *method = json_string_value(json_object_get(object, "method"));
    json_t *v;
    int n = 0;
    if (p->quiet)
        return;
    progress_done(p);
    fprintf(stderr, "pared: %s:", method ? method : "");
    json_object_foreach ((json_t *)object, key, v) {
        if (!strcmp(key, "method") || !strcmp(key, "step") || (!json_is_number(v) && !json_is_string(v)))
            continue;
        fputs(n++ ? ", " : " ", stderr);
        print_plain(key);
        fputc(' ', stderr);
        if (json_is_string(v))
            print_plain(json_string_value(v));
        else
            fprintf(stderr, json_is_integer(v) ? "%.0f" : "%.5g", json_number_value(v));
    }
    fputc('\n', stderr);
}
