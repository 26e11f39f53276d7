# SPDX-License-Identifier: Apache-2.0
"""What schemathesis cannot know: how a media type of tus is sent, and the ids of things that are there. PARED_THINGS is a JSON object of
the first letters of an id and the id to use: an id in a JSON body, always a random one, becomes that of a thing of its kind half of the
time, so that requests get beyond "there is no such model". These things are not deleted. And a piece of a JSON text (Range) is no JSON,
which schemathesis takes for a fault."""
import json
import os
import random
import re

import schemathesis

THINGS = json.loads(os.environ.get("PARED_THINGS", "{}"))
ID = re.compile(r"(mdl|dst|art)_[0-9a-z]{26}")


@schemathesis.serializer("application/offset+octet-stream")
def send_bytes(context, value):
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.hook
def before_call(context, case, kwargs):
    if case.operation.label == "GET /v1/jobs/{id}/report" and case.headers:
        case.headers.pop("Range", None)
    if case.method == "DELETE" and case.path_parameters.get("id") in THINGS.values():
        case.path_parameters["id"] = case.path_parameters["id"][:3] + "_" + "0" * 26
    if not isinstance(case.body, dict):
        return
    for key, value in case.body.items():
        match = ID.fullmatch(value) if isinstance(value, str) else None
        if match and match[1] in THINGS and random.Random(json.dumps(case.body, default=str)).random() < 0.5:
            case.body[key] = THINGS[match[1]]
