/* SPDX-License-Identifier: Apache-2.0
 * forwarded.h - the address of the client behind proxies.
 * Why        behind a proxy every connection comes from the proxy; it tells the client's address in X-Forwarded-For or
 *            Forwarded (RFC 7239). Anybody can send these headers, so they are believed only from the addresses in the
 *            setting `trusted_proxies`, from the last entry back to the first one that is no trusted proxy, and only
 *            the one header is read that the proxy is known to write (`forwarded_header`).
 * Threads    read-only after proxies_init; any thread. */
#ifndef PARED_SERVER_FORWARDED_H
#define PARED_SERVER_FORWARDED_H

#include <netinet/in.h>
#include <stdbool.h>

#include "core/base/err.h"
#include "server/config.h"

/* IPv4 as ::ffff:a.b.c.d, so that both are one kind. */
struct proxies {
    struct proxy_range {
        struct in6_addr address;
        unsigned bits; /* that must be equal */
    } *at;
    int count;
    bool rfc7239; /* Forwarded, else X-Forwarded-For */
};
enum { CLIENT_TEXT = INET6_ADDRSTRLEN };

/* "10.0.0.0/8", "::1", "fd00::/8"; `header` is "X-Forwarded-For" or "Forwarded". ERR_USAGE names what is neither. */
int proxies_init(struct proxies *proxies, const config_list *list, const char *header, struct err *err);
void proxies_fini(struct proxies *proxies);
/* The header to be read; NULL when nobody is trusted. */
const char *proxies_header(const struct proxies *proxies);
/* Whom the request came from. `peer` is the connection's other end (NULL: not known, out is ""), `value` the header's
 * value, several lines joined by commas, or NULL. */
void proxies_client(const struct proxies *proxies, const struct sockaddr *peer, const char *value,
                    char out[CLIENT_TEXT]);

#endif
