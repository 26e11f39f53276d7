/* SPDX-License-Identifier: Apache-2.0 */
#include "server/deprecation.h"

#include <stdio.h>
#include <time.h>

#include "core/base/clock.h"

bool deprecation_of(const struct route_end *end, struct deprecation *out)
{
    static const char *const days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"}; /* whatever the locale */
    static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun",
                                         "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
    int64_t since, until;
    struct tm tm;
    if (!end->deprecated || !clock_parse(end->deprecated, &since) || !end->sunset || !clock_parse(end->sunset, &until))
        return false;
    time_t seconds = (time_t)(until / 1000);
    gmtime_r(&seconds, &tm);
    snprintf(out->deprecation, sizeof out->deprecation, "@%lld", (long long)(since / 1000));
    snprintf(out->sunset, sizeof out->sunset, "%s, %02d %s %d %02d:%02d:%02d GMT", days[tm.tm_wday], tm.tm_mday,
             months[tm.tm_mon], tm.tm_year + 1900, tm.tm_hour, tm.tm_min, tm.tm_sec);
    snprintf(out->link, sizeof out->link, "<%s>; rel=\"successor-version\"", end->successor ? end->successor : "");
    return true;
}

void deprecation_headers(const struct route *route, struct res *res)
{
    struct deprecation text;
    if (!deprecation_of(&route->end, &text))
        return;
    res_header(res, "Deprecation", "%s", text.deprecation);
    res_header(res, "Sunset", "%s", text.sunset);
    if (route->end.successor)
        res_header(res, "Link", "%s", text.link);
}
