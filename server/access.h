/* SPDX-License-Identifier: Apache-2.0
 * access.h - what is kept of each request: one line in the log (setting access_level) and its metrics.
 * The line has method, path, status, duration, bytes, the problem's code, and by its scope request id, trace id and
 * owner. It has no query, no header and no signed link: those may hold secrets. */
#ifndef PARED_SERVER_ACCESS_H
#define PARED_SERVER_ACCESS_H

struct server;
struct http_record;

/* After each answer, from an event thread; never blocks but on stderr. */
void access_record(struct server *server, const struct http_record *record);

#endif
