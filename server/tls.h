/* SPDX-License-Identifier: Apache-2.0
 * tls.h - the server's certificate and key (settings tls_certificate and tls_key, PEM files).
 * Renewal    tls_reload reads the files again; connections made afterwards get the new certificate, those that exist
 *            keep theirs. Old ones stay in memory until tls_unload: a handshake may still use one.
 * One        a process has one identity: libmicrohttpd hands its certificate callback no pointer of ours. */
#ifndef PARED_SERVER_TLS_H
#define PARED_SERVER_TLS_H

#include <gnutls/abstract.h>

#include "core/base/err.h"

/* TLS 1.2 and 1.3 with forward secrecy, 128 bits or more. */
#define TLS_PRIORITIES                                                                                                 \
    "SECURE128:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2:-RSA:-DHE-RSA:-CIPHER-ALL:+AES-256-GCM:+CHACHA20-POLY1305:"         \
    "+AES-128-GCM"

/* ERR_USAGE: a file is missing, is no PEM, or key and certificate are no pair. */
int tls_load(const char *certificate, const char *key, struct err *err);
/* The same files again; nothing when TLS is off. -1: the old ones stay. */
int tls_reload(struct err *err);
void tls_unload(void);
/* For MHD_OPTION_HTTPS_CERT_CALLBACK2. */
int tls_retrieve(gnutls_session_t session, const struct gnutls_cert_retr_st *info, gnutls_pcert_st **chain,
                 unsigned *chain_length, gnutls_ocsp_data_st **ocsp, unsigned *ocsp_length, gnutls_privkey_t *key,
                 unsigned *flags);

#endif
