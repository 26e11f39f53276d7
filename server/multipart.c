/* SPDX-License-Identifier: Apache-2.0
 * multipart.c - a state machine over bytes.
 *
 *   PREAMBLE --delimiter--> AFTER --CRLF--> HEADERS --empty line--> BODY --delimiter--> AFTER --"--"--> EPILOGUE
 *
 * The delimiter is CRLF "--" boundary. A CR occurs in it only as its first byte, so when a match breaks off, no shorter
 * match can hide in what was matched: the matched bytes are data, and the byte that broke it is looked at again. The
 * line end before a body's first byte counts as matched but not as data, so that an empty part and the first delimiter
 * need no case of their own. */
#include "server/multipart.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum state { PREAMBLE, AFTER, HEADERS, BODY, EPILOGUE };
enum { BOUNDARY_MAX = 70, DELIMITER_MAX = BOUNDARY_MAX + 4 };

struct multipart {
    struct multipart_sink sink;
    enum state state;
    char delimiter[DELIMITER_MAX + 1];
    size_t delimiter_len;
    size_t matched; /* bytes of the delimiter seen last */
    size_t unsent;  /* of these, the ones that are no data: the line end before the body's first byte */
    char after[2];  /* what follows a delimiter: CRLF or "--" */
    size_t after_len;
    char header[MULTIPART_HEADER_BYTES + 1];
    size_t header_len;
    int parts;
};

/* ---- parameters of Content-Type and Content-Disposition */

/* Value of parameter `name` ("; name=value" or quoted) into out. 1: found, 0: absent, -1: malformed or too long. */
static int parameter(const char *text, const char *name, char *out, size_t cap)
{
    while ((text = strchr(text, ';'))) {
        text += 1 + strspn(text + 1, " \t");
        size_t len = strcspn(text, "=; \t");
        bool wanted = len == strlen(name) && strncasecmp(text, name, len) == 0 && text[len] == '=';
        if (text[len] != '=')
            continue;
        text += len + 1;
        bool quoted = *text == '"';
        text += quoted;
        size_t n = 0;
        for (; *text && (quoted ? *text != '"' : !strchr("; \t", *text)); text++) {
            if (quoted && *text == '\\' && (text[1] == '"' || text[1] == '\\'))
                text++;
            if (wanted && n + 1 >= cap)
                return -1;
            if (wanted)
                out[n++] = *text;
        }
        if (quoted && *text++ != '"')
            return -1;
        if (wanted) {
            out[n] = 0;
            return 1;
        }
    }
    return 0;
}

/* Browsers write a quote, CR and LF of a name as %22, %0D and %0A (WHATWG HTML, multipart/form-data encoding). */
static void unescape(char *text)
{
    char *to = text;
    for (; *text; text++) {
        if (strncmp(text, "%22", 3) == 0) {
            *to++ = '"';
            text += 2;
        } else {
            *to++ = *text;
        }
    }
    *to = 0;
}

struct multipart *multipart_new(const char *content_type, const struct multipart_sink *sink, struct err *err)
{
    char boundary[BOUNDARY_MAX + 1];
    if (parameter(content_type, "boundary", boundary, sizeof boundary) != 1 || !boundary[0]) {
        err_set(err, ERR_BAD_REQUEST, "Content-Type multipart/form-data needs a boundary of 1 to %d characters.",
                BOUNDARY_MAX);
        return NULL;
    }
    for (const char *c = boundary; *c; c++) {
        if ((unsigned char)*c < 32 || (unsigned char)*c > 126) {
            err_set(err, ERR_BAD_REQUEST, "The multipart boundary has characters that no boundary may have.");
            return NULL;
        }
    }
    struct multipart *m = calloc(1, sizeof *m);
    if (!m) {
        err_set(err, ERR_NOMEM, "Out of memory.");
        return NULL;
    }
    m->sink = *sink;
    memcpy(m->delimiter, "\r\n--", 4);
    memcpy(m->delimiter + 4, boundary, strlen(boundary) + 1);
    m->delimiter_len = 4 + strlen(boundary);
    m->matched = m->unsent = 2; /* as if a CRLF came before the body */
    return m;
}

void multipart_free(struct multipart *multipart)
{
    free(multipart);
}

/* ---- states */

static int emit(struct multipart *m, const char *bytes, size_t len, struct err *err)
{
    return len == 0 || m->state == PREAMBLE ? 0 : m->sink.data(m->sink.arg, bytes, len, err);
}

/* Data up to the next delimiter. *used bytes were consumed. */
static int scan(struct multipart *m, const char *bytes, size_t len, size_t *used, struct err *err)
{
    size_t i = 0, start = 0; /* bytes[start, i) is data not yet passed on, but for the matched bytes at its end */
    while (i < len) {
        if (m->matched == 0) {
            const char *cr = memchr(bytes + i, '\r', len - i);
            i = cr ? (size_t)(cr - bytes) : len;
            if (!cr)
                break;
        }
        if (bytes[i] != m->delimiter[m->matched]) { /* not a delimiter after all */
            size_t real = m->matched - m->unsent,
                   before = real > i - start ? real - (i - start) : 0; /* held back from former pieces */
            if (emit(m, m->delimiter + m->unsent, before, err) != 0)
                return -1;
            m->matched = m->unsent = 0;
            continue;
        }
        i++;
        if (++m->matched == m->delimiter_len)
            break;
    }
    size_t held = m->matched < i - start ? m->matched : i - start;
    if (emit(m, bytes + start, i - start - held, err) != 0)
        return -1;
    *used = i;
    if (m->matched < m->delimiter_len)
        return 0;
    m->matched = m->unsent = m->after_len = 0;
    bool in_body = m->state == BODY;
    m->state = AFTER;
    return in_body ? m->sink.end(m->sink.arg, err) : 0;
}

static int after(struct multipart *m, char c, struct err *err)
{
    if (m->after_len == 0 && (c == ' ' || c == '\t')) /* padding that RFC 2046 allows */
        return 0;
    m->after[m->after_len++] = c;
    if (m->after_len < 2)
        return 0;
    if (memcmp(m->after, "--", 2) == 0) {
        m->state = EPILOGUE;
        return 0;
    }
    if (memcmp(m->after, "\r\n", 2) != 0)
        return err_set(err, ERR_BAD_REQUEST, "Multipart body: a boundary is followed by neither a new line nor `--`.");
    if (++m->parts > MULTIPART_PARTS)
        return err_set(err, ERR_BAD_REQUEST, "Multipart body: more than %d parts.", MULTIPART_PARTS);
    m->state = HEADERS;
    m->header_len = 0;
    return 0;
}

/* The header block m->header is complete, its lines end in CRLF. */
static int begin(struct multipart *m, struct err *err)
{
    char name[MULTIPART_NAME], filename[MULTIPART_NAME] = "";
    int found = 0;
    for (char *line = m->header, *end; *line && (end = strstr(line, "\r\n")); line = end + 2) {
        *end = 0;
        if (strncasecmp(line, "Content-Disposition:", 20) == 0) {
            char *value = line + 20 + strspn(line + 20, " \t");
            if (strncasecmp(value, "form-data", 9) == 0)
                found = parameter(value, "name", name, sizeof name);
            if (found == 1 && parameter(value, "filename", filename, sizeof filename) < 0)
                found = -1;
        } else if (strncasecmp(line, "Content-Transfer-Encoding:", 26) == 0 &&
                   strcasecmp(line + 26 + strspn(line + 26, " \t"), "binary") != 0) {
            return err_set(err, ERR_BAD_REQUEST,
                           "Multipart body: part %d has a Content-Transfer-Encoding; send the bytes as they are.",
                           m->parts);
        }
    }
    if (found != 1)
        return err_set(err, ERR_BAD_REQUEST,
                       "Multipart body: part %d needs a `Content-Disposition: form-data; name=\"...\"` with a name and "
                       "a file name of less than %d bytes.",
                       m->parts, MULTIPART_NAME);
    unescape(name);
    unescape(filename);
    m->state = BODY;
    m->matched = m->unsent = 2; /* the CRLF that ended the header block may begin the delimiter: an empty part */
    return m->sink.begin(m->sink.arg, name, filename, err);
}

static int header(struct multipart *m, char c, struct err *err)
{
    if (m->header_len == MULTIPART_HEADER_BYTES)
        return err_set(err, ERR_BAD_REQUEST, "Multipart body: the headers of part %d are longer than %d bytes.",
                       m->parts, MULTIPART_HEADER_BYTES);
    if (c == 0)
        return err_set(err, ERR_BAD_REQUEST, "Multipart body: the headers of part %d have a NUL in them.", m->parts);
    m->header[m->header_len++] = c;
    m->header[m->header_len] = 0;
    size_t n = m->header_len;
    bool empty = n == 2 && memcmp(m->header, "\r\n", 2) == 0;
    bool done = n >= 4 && memcmp(m->header + n - 4, "\r\n\r\n", 4) == 0;
    return empty || done ? begin(m, err) : 0;
}

int multipart_feed(struct multipart *multipart, const char *bytes, size_t len, struct err *err)
{
    for (size_t i = 0; i < len;) {
        size_t used = 1;
        int rc = 0;
        switch (multipart->state) {
        case PREAMBLE:
        case BODY:
            rc = scan(multipart, bytes + i, len - i, &used, err);
            break;
        case AFTER:
            rc = after(multipart, bytes[i], err);
            break;
        case HEADERS:
            rc = header(multipart, bytes[i], err);
            break;
        case EPILOGUE: /* nobody reads it */
            return 0;
        }
        if (rc != 0)
            return -1;
        i += used;
    }
    return 0;
}

int multipart_end(struct multipart *multipart, struct err *err)
{
    if (multipart->state == EPILOGUE)
        return 0;
    return err_set(err, ERR_BAD_REQUEST, "Multipart body: it ends before its closing boundary.");
}
