"""What a service says over HTTP, asked without a proxy."""

from __future__ import annotations

import urllib.error
import urllib.request

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def get(port: int, path: str, host: str = "127.0.0.1") -> tuple[int, str]:
    """Return status and text of the answer."""
    try:
        with _OPENER.open(f"http://{host}:{port}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
