/* SPDX-License-Identifier: Apache-2.0
 * assets.h - files embedded by tools/embed.sh: api/dashboard/ and openapi.yaml. Ends with a row whose name is NULL. */
#ifndef PARED_API_ASSETS_H
#define PARED_API_ASSETS_H

struct asset {
    const char *name;
    const unsigned char *start, *end;
};
extern const struct asset asset_table[];

#endif
