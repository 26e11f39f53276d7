/* SPDX-License-Identifier: Apache-2.0
 * routes.h - the route table, made from routes.def. */
#ifndef PARED_API_ROUTES_H
#define PARED_API_ROUTES_H

#include "server/router.h"

/* Ends with a row whose method is NULL. */
const struct route *api_routes(void);

#endif
