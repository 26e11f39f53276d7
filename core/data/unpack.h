/* SPDX-License-Identifier: Apache-2.0
 * unpack.h - archives and compressed files, unpacked once into one mapped file with an index.
 * Hostile    Names in an archive are never used as paths. The unpacked size is limited, both declared and real; so is the ratio of
 *            unpacked to packed bytes (a zip bomb), the number of members and the length of their names. */
#ifndef PARED_DATA_UNPACK_H
#define PARED_DATA_UNPACK_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/file.h"

struct member {
    char *name;
    const unsigned char *data; /* into the mapping */
    size_t size;
};

struct members {
    struct member *at; /* sorted by name, bytewise */
    int64_t count;
    struct file_map map; /* the unpacked bytes */
};

struct unpack_limits {
    size_t max_bytes; /* in all */
};

/* Unpack every regular file of a tar, tar.gz (any filter libarchive reads) or zip whose name `want` accepts (NULL: all) into
 * cache_dir/`cache_name`. ERR_DATASET with the member's name. */
int unpack_archive(struct members *out, const char *path, const char *cache_dir, const char *cache_name,
                   const struct unpack_limits *limits, bool (*want)(const char *name), struct err *err);
/* The same for every regular file below a folder; names are paths relative to it, links are not followed. */
int unpack_folder(struct members *out, const char *path, const char *cache_dir, const char *cache_name,
                  const struct unpack_limits *limits, bool (*want)(const char *name), struct err *err);
/* One gzip file to cache_dir/cache_name, mapped. */
int unpack_gzip(struct file_map *out, const char *path, const char *cache_dir, const char *cache_name,
                const struct unpack_limits *limits, struct err *err);
void members_fini(struct members *members);

#endif
