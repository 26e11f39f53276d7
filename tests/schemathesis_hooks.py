# SPDX-License-Identifier: Apache-2.0
"""How schemathesis sends the media types that it does not know itself: bytes as they are."""
import schemathesis


@schemathesis.serializer("application/offset+octet-stream")
def send_bytes(context, value):
    return value if isinstance(value, bytes) else str(value).encode()
