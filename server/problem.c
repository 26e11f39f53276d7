/* SPDX-License-Identifier: Apache-2.0 */
#include "server/problem.h"

#include <stdio.h>
#include <string.h>

#include "core/base/utf8.h"

static json_t *errors_json(const struct faults *faults)
{
    json_t *list = json_array();
    for (int i = 0; i < faults->count; i++) {
        const char *place = faults->at[i].pointer;
        json_t *fault = json_object();
        json_object_set_new(fault, place[0] == '?' ? "parameter" : "pointer", utf8_json(place + (place[0] == '?')));
        json_object_set_new(fault, "detail", utf8_json(faults->at[i].detail));
        json_array_append_new(list, fault);
    }
    return list;
}

/* What a client may read of an error: nothing about the inside of the server. */
static const char *detail_of(const struct err *err)
{
    switch (err->code) {
    case ERR_NONE:
    case ERR_INTERNAL:
        return "Something went wrong inside the server. Its log has the details under the request id.";
    case ERR_IO:
        return "The server could not read or write its storage. Its log has the details under the request id.";
    case ERR_STORE:
        return "The catalogue does not answer at the moment. Try again; the log has the details under the request id.";
    default:
        return err->msg[0] ? err->msg : err_title(err->code);
    }
}

json_t *problem_json(const struct err *err, const struct faults *faults, const char *instance, const char *request_id)
{
    enum err_code code = err->code == ERR_NONE ? ERR_INTERNAL : err->code;
    char type[80];
    snprintf(type, sizeof type, "urn:pared:problem:%s", err_slug(code));
    json_t *problem = json_object();
    json_object_set_new(problem, "type", json_string(type));
    json_object_set_new(problem, "title", json_string(err_title(code)));
    json_object_set_new(problem, "status", json_integer(err_status(code)));
    json_object_set_new(problem, "code", json_string(err_slug(code)));
    json_object_set_new(problem, "detail", utf8_json(detail_of(err)));
    if (instance)
        json_object_set_new(problem, "instance", utf8_json(instance));
    if (request_id)
        json_object_set_new(problem, "request_id", utf8_json(request_id));
    if (faults && faults->count)
        json_object_set_new(problem, "errors", errors_json(faults));
    return problem;
}
