/* SPDX-License-Identifier: Apache-2.0
 * pared healthcheck: does the server answer? For containers, which have no curl. Takes the settings of `pared serve`
 * and asks GET /healthz at its `listen` address (on all addresses: at the loopback one). */
#include <gnutls/gnutls.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "cli/commands.h"
#include "server/config.h"

enum { TIMEOUT_S = 2 };

static int open_socket(const struct config_address *at, struct err *err)
{
    char port[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV}, *found = NULL;
    const char *host = !strcmp(at->host, "0.0.0.0") ? "127.0.0.1" : !strcmp(at->host, "::") ? "::1" : at->host;
    snprintf(port, sizeof port, "%u", at->port);
    if (getaddrinfo(host, port, &hints, &found))
        return err_set(err, ERR_UNAVAILABLE, "'%s' is no address", host);
    int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = TIMEOUT_S};
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    }
    if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen)) {
        err_set_errno(err, ERR_UNAVAILABLE, "the server at %s:%s does not answer", host, port);
        if (fd >= 0)
            close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd;
}

static const char request[] = "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

/* Whether the server answers is asked, not who it is: it is this machine's own, so its certificate is not looked at. */
static ssize_t talk_tls(int fd, char *answer, size_t size)
{
    gnutls_session_t session;
    gnutls_certificate_credentials_t credentials = NULL;
    ssize_t n = -1;
    if (gnutls_init(&session, GNUTLS_CLIENT))
        return -1;
    if (gnutls_certificate_allocate_credentials(&credentials) || gnutls_set_default_priority(session) ||
        gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, credentials))
        goto out;
    gnutls_transport_set_int(session, fd);
    gnutls_handshake_set_timeout(session, TIMEOUT_S * 1000);
    int rc;
    do
        rc = gnutls_handshake(session);
    while (rc < 0 && !gnutls_error_is_fatal(rc));
    if (rc == 0 && gnutls_record_send(session, request, sizeof request - 1) > 0)
        n = gnutls_record_recv(session, answer, size);
out:
    gnutls_deinit(session);
    if (credentials)
        gnutls_certificate_free_credentials(credentials);
    return n;
}

static ssize_t talk(int fd, char *answer, size_t size)
{
    return send(fd, request, sizeof request - 1, MSG_NOSIGNAL) < 0 ? -1 : recv(fd, answer, size, MSG_WAITALL);
}

static int ask(const struct config_address *at, bool tls, struct err *err)
{
    char answer[64] = "";
    int fd = open_socket(at, err);
    if (fd < 0)
        return -1;
    ssize_t n = tls ? talk_tls(fd, answer, sizeof answer - 1) : talk(fd, answer, sizeof answer - 1);
    close(fd);
    if (n > 0 && !strncmp(answer, "HTTP/1.1 200 ", 13))
        return 0;
    answer[strcspn(answer, "\r\n")] = 0;
    return err_set(err, ERR_UNAVAILABLE, "the server answered '%s' instead of 200", answer);
}

int cmd_healthcheck(int argc, char **argv)
{
    struct config config;
    struct config_address at;
    struct err err = {0};
    if (config_load(&config, argc - 1, argv + 1, environ, &err))
        return cli_fail(&err);
    int rc = config.help ? cli_help("Usage: pared healthcheck [OPTION]...\n\nAsks the server for GET /healthz; "
                                    "exit status 0 if it answers 200. Takes the settings of `pared serve`.\n")
             : config_address(config.listen, &at, &err) || ask(&at, config.tls_certificate[0] != 0, &err)
                 ? cli_fail(&err)
                 : CLI_OK;
    config_fini(&config);
    return rc;
}
