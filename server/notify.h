/* SPDX-License-Identifier: Apache-2.0
 * notify.h - tell the service manager that the server is ready or stops (sd_notify(3), the protocol alone: one datagram
 * to the socket named by NOTIFY_SOCKET). Without a manager nothing happens. */
#ifndef PARED_SERVER_NOTIFY_H
#define PARED_SERVER_NOTIFY_H

/* "READY=1", "STOPPING=1"; other lines of the protocol may follow after newlines. */
void notify_manager(const char *state);

#endif
