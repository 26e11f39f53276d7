/* SPDX-License-Identifier: Apache-2.0
 * config.h - the settings of the server, from one table (config.def).
 * Sources    defaults < configuration file (--config FILE or PARED_CONFIG) < environment PARED_NAME < flag --name VALUE
 * Errors     ERR_USAGE: a sentence that names the setting and its source, what was found and what is allowed.
 * Life cycle config_load -> fields are read-only, from any thread -> config_fini */
#ifndef PARED_SERVER_CONFIG_H
#define PARED_SERVER_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "core/base/buf.h"
#include "core/base/err.h"

typedef char *config_text; /* owned, never NULL */
typedef struct config_list {
    char **at; /* owned, blanks around items removed, no empty items */
    int count;
} config_list;

struct config {
#define CONFIG_TEXT config_text
#define CONFIG_LIST config_list
#define CONFIG_INT int64_t
#define CONFIG_BYTES int64_t
#define CONFIG_LEVEL int  /* enum log_level */
#define CONFIG_FORMAT int /* enum log_format */
#define CONFIG_SANDBOX int /* enum sandbox_mode */
#define SETTING(name, type, preset, min, max, doc) CONFIG_##type name;
#include "server/config.def"
#undef SETTING
#undef SETTING_LIVE
    bool help; /* --help was given: print config_help() and end */
    struct config_source {
        int argc;
        char *const *args, *const *environment;
    } source; /* what config_load was given; borrowed, for config_reload */
};

/* `args` are the words behind `pared serve`. `environment` is a NULL-terminated list of "NAME=value". */
int config_load(struct config *config, int argc, char *const *args, char *const *environment, struct err *err);
void config_fini(struct config *config);
/* Read the sources of `now` again into `fresh`. What has changed and is live (config.def) is new in *fresh and named in
 * `changed`; what has changed but needs a restart stays as it is and is named in `refused`. Names are separated by
 * commas; values are not given, they may be nobody's business. On error *fresh is empty and `now` goes on. */
int config_reload(struct config *fresh, const struct config *now, struct buf *changed, struct buf *refused,
                  struct err *err);
/* Set one setting from text, as a flag does; `source` starts the error sentence ("--listen", "line 3 of the file"). */
int config_set(struct config *config, const char *name, const char *value, const char *source, struct err *err);
/* --help and docs/CONFIG.md. */
void config_help(struct buf *out);
void config_markdown(struct buf *out);
/* Current values, one `name = value` a line, for the log at start. */
void config_print(const struct config *config, struct buf *out);
/* "HOST:PORT" or "[V6]:PORT" apart. ERR_USAGE when it is neither. */
struct config_address {
    char host[256];
    uint16_t port;
    bool loopback; /* 127.0.0.0/8, ::1 or localhost */
};
int config_address(const char *text, struct config_address *address, struct err *err);

#endif
