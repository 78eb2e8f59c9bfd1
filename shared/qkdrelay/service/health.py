"""Health and metrics of a service, and the web application that shows them: ``/healthz``, ``/readyz``, ``/metrics``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

from qkdrelay.escaping import escaped

ALIVE_S: Final = 30.0
"""A loop that has not turned for longer is stuck; its longest batches take a few seconds."""


class Health:
    """State of a service's loop, which writes it; read by whoever asks, from other threads."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` returns seconds and never steps back."""
        self._clock = clock
        self._last = (clock(), "not connected to the broker", "")

    def turned(self, *, problem: str, remark: str = "") -> None:
        """Note that the loop has turned.

        ``problem`` says why the service is not ready, ``remark`` what else does not work; both empty for nothing.
        """
        self._last = (self._clock(), problem, remark)

    def liveness_problem(self) -> str:
        """Return why the service is not alive, or nothing."""
        since = self._clock() - self._last[0]
        return f"the loop has not turned for {since:.0f} s" if since > ALIVE_S else ""

    def readiness_problem(self) -> str:
        """Return why the service is not ready, or nothing."""
        return self.liveness_problem() or self._last[1]

    def remark(self) -> str:
        """Return what does not work although the service is ready, or nothing."""
        return self._last[2]


def monitoring(registry: CollectorRegistry, health: Health, *, remark: Callable[[], str] = str) -> WSGIApplication:
    """Return the application, with metrics of the process added to ``registry``.

    ``remark`` says what does not work in the service although it is ready, beside what ``health`` knows.
    """
    ProcessCollector(registry=registry)
    metrics = make_wsgi_app(registry)

    def healthz() -> tuple[str, str]:
        return health.liveness_problem(), "ok"

    def readyz() -> tuple[str, str]:
        remarks = "; ".join(filter(None, (health.remark(), remark())))
        return health.readiness_problem(), f"ok, but {remarks}" if remarks else "ok"

    checks = {"/healthz": healthz, "/readyz": readyz}

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            page: Iterable[bytes] = metrics(environ, start_response)
            return page
        if check := checks.get(path):
            problem, fine = check()
            status, text = "503 Service Unavailable" if problem else "200 OK", problem or fine
        else:
            status, text = "404 Not Found", "there are /healthz, /readyz and /metrics"
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{escaped(text)}\n".encode()]

    return application
