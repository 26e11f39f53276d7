/* SPDX-License-Identifier: Apache-2.0 */
#include "server/rate.h"

#include <math.h>

bool rate_take(struct rate *rate, int64_t per_s, double now, struct rate_view *view)
{
    *view = (struct rate_view){0};
    if (per_s <= 0)
        return true;
    double quota = (double)per_s * RATE_WINDOW_S, back = now > rate->at ? (now - rate->at) * (double)per_s : 0;
    rate->spent = fmin(fmax(rate->spent - back, 0), quota);
    rate->at = now;
    bool there = quota - rate->spent >= 1 - 1e-9;
    if (there)
        rate->spent = fmin(rate->spent + 1, quota);
    view->quota = per_s * RATE_WINDOW_S;
    view->left = (int64_t)floor(quota - rate->spent + 1e-9);
    view->reset_s = (int64_t)ceil(rate->spent / (double)per_s - 1e-9);
    view->retry_s = there ? 0 : (int64_t)fmax(1, ceil((1 - (quota - rate->spent)) / (double)per_s - 1e-9));
    return there;
}
