/* SPDX-License-Identifier: Apache-2.0 */
#include "server/tls.h"

#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"

enum { CHAIN_MAX = 16, PEM_BYTES = 1 << 20 };

struct identity {
    struct identity *before;
    gnutls_pcert_st chain[CHAIN_MAX];
    unsigned length;
    gnutls_privkey_t key;
};

static struct {
    struct identity *_Atomic now;
    char *certificate, *key;
} tls;

static int refuse(const char *setting, const char *path, int code, struct err *err)
{
    return err_set(err, ERR_USAGE, "%s '%.300s': %s", setting, path, gnutls_strerror(code));
}

static int read_pem(const char *setting, const char *path, gnutls_datum_t *out, struct err *err)
{
    size_t len;
    char *text = file_read(path, PEM_BYTES, &len, err);
    if (!text) {
        err_wrap(err, "%s '%.300s': ", setting, path);
        err->code = ERR_USAGE;
        return -1;
    }
    *out = (gnutls_datum_t){(unsigned char *)text, (unsigned)len};
    return 0;
}

static void free_pem(gnutls_datum_t *pem)
{
    if (pem->data)
        explicit_bzero(pem->data, pem->size);
    free(pem->data);
}

static void free_identity(struct identity *identity)
{
    for (unsigned i = 0; i < identity->length; i++)
        gnutls_pcert_deinit(&identity->chain[i]);
    if (identity->key)
        gnutls_privkey_deinit(identity->key);
    free(identity);
}

/* Is this the key of that certificate? */
static int check_pair(const struct identity *identity, const char *path, struct err *err)
{
    gnutls_pubkey_t of_key = NULL;
    unsigned char a[64], b[64];
    size_t a_len = sizeof a, b_len = sizeof b;
    int rc = gnutls_pubkey_init(&of_key);
    if (rc == 0)
        rc = gnutls_pubkey_import_privkey(of_key, identity->key, 0, 0);
    if (rc == 0)
        rc = gnutls_pubkey_get_key_id(of_key, GNUTLS_KEYID_USE_SHA256, a, &a_len);
    if (rc == 0)
        rc = gnutls_pubkey_get_key_id(identity->chain[0].pubkey, GNUTLS_KEYID_USE_SHA256, b, &b_len);
    if (of_key)
        gnutls_pubkey_deinit(of_key);
    if (rc)
        return refuse("tls_key", path, rc, err);
    return a_len == b_len && memcmp(a, b, a_len) == 0
               ? 0
               : err_set(err, ERR_USAGE, "tls_key '%.300s' is not the key of the certificate in tls_certificate", path);
}

static int load(struct identity *identity, const char *certificate, const char *key, struct err *err)
{
    gnutls_datum_t chain = {0}, secret = {0};
    int rc = -1;
    if (read_pem("tls_certificate", certificate, &chain, err) || read_pem("tls_key", key, &secret, err))
        goto out;
    unsigned length = CHAIN_MAX;
    int code = gnutls_pcert_list_import_x509_raw(identity->chain, &length, &chain, GNUTLS_X509_FMT_PEM,
                                                 GNUTLS_X509_CRT_LIST_FAIL_IF_UNSORTED);
    if (code) {
        refuse("tls_certificate", certificate, code, err);
        goto out;
    }
    identity->length = length;
    code = gnutls_privkey_init(&identity->key);
    if (code == 0)
        code = gnutls_privkey_import_x509_raw(identity->key, &secret, GNUTLS_X509_FMT_PEM, NULL, 0);
    rc = code ? refuse("tls_key", key, code, err) : check_pair(identity, key, err);
out:
    free_pem(&chain);
    free_pem(&secret);
    return rc;
}

static int take(const char *certificate, const char *key, struct err *err)
{
    struct identity *identity = calloc(1, sizeof *identity);
    if (!identity)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (load(identity, certificate, key, err)) {
        free_identity(identity);
        return -1;
    }
    identity->before = atomic_load(&tls.now);
    atomic_store(&tls.now, identity);
    return 0;
}

int tls_load(const char *certificate, const char *key, struct err *err)
{
    tls.certificate = strdup(certificate);
    tls.key = strdup(key);
    if (!tls.certificate || !tls.key)
        return err_set(err, ERR_NOMEM, "out of memory");
    return take(certificate, key, err);
}

int tls_reload(struct err *err)
{
    return tls.certificate ? take(tls.certificate, tls.key, err) : 0;
}

void tls_unload(void)
{
    struct identity *identity = atomic_exchange(&tls.now, NULL);
    while (identity) {
        struct identity *before = identity->before;
        free_identity(identity);
        identity = before;
    }
    free(tls.certificate);
    free(tls.key);
    tls.certificate = tls.key = NULL;
}

int tls_retrieve(gnutls_session_t session, const struct gnutls_cert_retr_st *info, gnutls_pcert_st **chain,
                 unsigned *chain_length, gnutls_ocsp_data_st **ocsp, unsigned *ocsp_length, gnutls_privkey_t *key,
                 unsigned *flags)
{
    struct identity *identity = atomic_load(&tls.now);
    (void)session;
    (void)info;
    if (!identity)
        return -1;
    *chain = identity->chain;
    *chain_length = identity->length;
    *ocsp = NULL;
    *ocsp_length = 0;
    *key = identity->key;
    *flags = 0; /* they stay ours */
    return 0;
}
