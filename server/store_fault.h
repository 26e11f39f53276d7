/* SPDX-License-Identifier: Apache-2.0
 * store_fault.h - where tests make the catalogue fail. A server never sets the hook: nothing of the environment or the
 * settings reaches it, only another program linked with the library (tests/tools/faulty.c).
 * Moments    BEFORE: nothing was done yet. AFTER: the commit is on disk, and the caller does not know it yet; a failure
 *            here is the one that a network or a full disk makes: done, but reported as an error.
 * Threads    called from any thread, with no lock of the store held. */
#ifndef PARED_SERVER_STORE_FAULT_H
#define PARED_SERVER_STORE_FAULT_H

#include "core/base/err.h"

enum store_moment { STORE_BEFORE, STORE_AFTER };
/* `call` is the name of the store's function. 0 to go on, -1 with *err to fail the call; it may also not return. */
typedef int store_fault_fn(const char *call, enum store_moment moment, struct err *err);
extern store_fault_fn *_Atomic store_fault;

#endif
