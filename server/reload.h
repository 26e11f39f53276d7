/* SPDX-License-Identifier: Apache-2.0
 * reload.h - settings read again while the server runs (SIGHUP).
 * How        The sources are read into a fresh struct config, which takes the place of server->config in one atomic
 *            store. Old ones are kept until the server ends, since any thread may still hold one: a few hundred bytes
 *            a reload.
 * Threads    only from the loop's thread. */
#ifndef PARED_SERVER_RELOAD_H
#define PARED_SERVER_RELOAD_H

struct server;
struct reloads; /* configs of former reloads; opaque */

/* Read again, take over what is live, tell the log what changed and what waits for a restart. A fault in the sources
 * is logged, and nothing changes. */
void server_reload(struct server *server);
/* At the end of the server: nobody reads server->config any more. */
void server_reload_fini(struct server *server);

#endif
