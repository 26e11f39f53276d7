/* SPDX-License-Identifier: Apache-2.0 */
#include "server/forwarded.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>

enum { V4_PREFIX_BITS = 96 };

static void from_v4(struct in_addr v4, struct in6_addr *out)
{
    *out = (struct in6_addr){0};
    out->s6_addr[10] = out->s6_addr[11] = 0xff;
    memcpy(&out->s6_addr[12], &v4, sizeof v4);
}

static bool read_address(const char *text, struct in6_addr *out, bool *v4)
{
    struct in_addr short_form;
    *v4 = inet_pton(AF_INET, text, &short_form) == 1;
    if (*v4)
        from_v4(short_form, out);
    return *v4 || inet_pton(AF_INET6, text, out) == 1;
}

static int add_range(struct proxies *proxies, const char *text, struct err *err)
{
    char address[CLIENT_TEXT + 1];
    struct proxy_range range = {.bits = 128};
    size_t len = strcspn(text, "/"), digits = text[len] ? strspn(text + len + 1, "0123456789") : 0;
    bool v4 = false,
         good = len < sizeof address && (!text[len] || (digits > 0 && digits < 4 && !text[len + 1 + digits]));
    if (good) {
        memcpy(address, text, len);
        address[len] = 0;
        good = read_address(address, &range.address, &v4);
    }
    if (good && text[len]) {
        long bits = strtol(text + len + 1, NULL, 10);
        good = bits <= (v4 ? 32 : 128);
        range.bits = (unsigned)bits + (v4 ? V4_PREFIX_BITS : 0);
    }
    if (!good)
        return err_set(err, ERR_USAGE,
                       "trusted_proxies: '%.80s' is no address and no network; write 10.0.0.5, 10.0.0.0/8, ::1 or "
                       "fd00::/8",
                       text);
    struct proxy_range *grown = realloc(proxies->at, ((size_t)proxies->count + 1) * sizeof *grown);
    if (!grown)
        return err_set(err, ERR_NOMEM, "out of memory");
    proxies->at = grown;
    grown[proxies->count++] = range;
    return 0;
}

int proxies_init(struct proxies *proxies, const config_list *list, const char *header, struct err *err)
{
    *proxies = (struct proxies){.rfc7239 = strcasecmp(header, "Forwarded") == 0};
    if (!proxies->rfc7239 && strcasecmp(header, "X-Forwarded-For") != 0)
        return err_set(err, ERR_USAGE, "forwarded_header is '%.80s'; it must be X-Forwarded-For or Forwarded", header);
    for (int i = 0; i < list->count; i++)
        if (add_range(proxies, list->at[i], err)) {
            proxies_fini(proxies);
            return -1;
        }
    return 0;
}

void proxies_fini(struct proxies *proxies)
{
    free(proxies->at);
    *proxies = (struct proxies){0};
}

const char *proxies_header(const struct proxies *proxies)
{
    return proxies->count == 0 ? NULL : proxies->rfc7239 ? "Forwarded" : "X-Forwarded-For";
}

static bool trusted(const struct proxies *proxies, const struct in6_addr *address)
{
    for (int i = 0; i < proxies->count; i++) {
        const struct proxy_range *range = &proxies->at[i];
        unsigned whole = range->bits / 8, rest = range->bits % 8;
        unsigned char mask = (unsigned char)(0xff00u >> rest);
        if (memcmp(address->s6_addr, range->address.s6_addr, whole) == 0 &&
            (!rest || ((address->s6_addr[whole] ^ range->address.s6_addr[whole]) & mask) == 0))
            return true;
    }
    return false;
}

/* Start of the last element of text[0..len), behind the last comma that is not in quotes. */
static size_t last_element(const char *text, size_t len)
{
    size_t start = 0;
    bool quoted = false;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '"')
            quoted = !quoted;
        if (text[i] == ',' && !quoted)
            start = i + 1;
    }
    return start;
}

static bool blank(char c)
{
    return c == ' ' || c == '\t';
}

/* The value of for= in one element of Forwarded, without its quotes. */
static bool find_for(const char **text, size_t *len)
{
    const char *at = *text, *end = at + *len;
    while (at < end) {
        while (at < end && (blank(*at) || *at == ';'))
            at++;
        const char *stop = at;
        for (bool quoted = false; stop < end && (quoted || *stop != ';'); stop++)
            quoted = quoted != (*stop == '"');
        if (stop - at > 4 && strncasecmp(at, "for=", 4) == 0) {
            *text = at + 4;
            *len = (size_t)(stop - at) - 4;
            if (*len >= 2 && **text == '"') {
                ++*text;
                *len -= 2;
            }
            return true;
        }
        at = stop;
    }
    return false;
}

/* "1.2.3.4", "1.2.3.4:5", "::1", "[::1]", "[::1]:5" */
static bool read_node(const char *text, size_t len, struct in6_addr *out)
{
    char address[CLIENT_TEXT + 1];
    while (len && blank(*text)) {
        text++;
        len--;
    }
    while (len && blank(text[len - 1]))
        len--;
    const char *colon = memchr(text, ':', len), *dot = memchr(text, '.', len);
    if (len && *text == '[') {
        const char *close = memchr(text, ']', len);
        if (!close)
            return false;
        len = (size_t)(close - text) - 1;
        text++;
    } else if (colon && dot && dot < colon) {
        len = (size_t)(colon - text);
    }
    if (len == 0 || len >= sizeof address)
        return false;
    memcpy(address, text, len);
    address[len] = 0;
    bool v4;
    return read_address(address, out, &v4);
}

void proxies_client(const struct proxies *proxies, const struct sockaddr *peer, const char *value,
                    char out[CLIENT_TEXT])
{
    struct in6_addr address;
    out[0] = 0;
    if (peer && peer->sa_family == AF_INET)
        from_v4(((const struct sockaddr_in *)(const void *)peer)->sin_addr, &address);
    else if (peer && peer->sa_family == AF_INET6)
        address = ((const struct sockaddr_in6 *)(const void *)peer)->sin6_addr;
    else
        return;
    size_t left = value ? strlen(value) : 0;
    while (left && trusted(proxies, &address)) {
        size_t start = last_element(value, left), len = left - start;
        const char *text = value + start;
        struct in6_addr before;
        if ((proxies->rfc7239 && !find_for(&text, &len)) || !read_node(text, len, &before))
            break; /* "unknown", or nonsense: what is known for sure is who said it */
        address = before;
        left = start ? start - 1 : 0;
    }
    if (IN6_IS_ADDR_V4MAPPED(&address))
        inet_ntop(AF_INET, &address.s6_addr[12], out, CLIENT_TEXT);
    else
        inet_ntop(AF_INET6, &address, out, CLIENT_TEXT);
}
