"""Makes the pictures of the page that the README shows, over the demo's network: `make screenshots`."""

import time
from pathlib import Path

from qkdrelay.messages.answers import Acknowledged
from qkdrelay.messages.requests import LinkRequest
from qkdrelay_demo.live import LiveNetwork
from support.browser import browsing, driven
from support.page import Shown, shown

DOCS = Path(__file__).parents[2] / "docs"
RELAY, ATTENTION = DOCS / "page-relay.png", DOCS / "page-attention.png"
_TICK_MS = 150
_ARRIVED = 2
_TIMEOUT_S = 1.0


def _fail_one(page: Shown) -> None:
    """Have a relay fail, so that there is something to be attended to."""
    network = page.network

    def turn(*, up: bool) -> None:
        for kme in ("kme-5", "kme-6"):
            network.client.ask(LinkRequest(a=kme, b="kme-8", up=up), Acknowledged)

    network.stopped = frozenset()
    turn(up=False)
    relay = network.relay("kme-1", "kme-8", policy="recursive", timeout_s=_TIMEOUT_S)
    while network.show(relay.relay_id).state != "failed":
        network.settle()
    turn(up=True)


def make() -> None:
    """Write both pictures."""
    with driven(), shown(LiveNetwork) as page:
        with browsing(1280, 780, scale=1.5) as wide:
            wide.open(page.url + "#relay/latest")
            while wide.page.evaluate("+document.querySelector('[data-count=arrived]')?.textContent || 0") < _ARRIVED:
                page.do(page.made.tick)
                wide.page.wait_for_timeout(_TICK_MS)
            wide.page.screenshot(path=RELAY)
        page.do(lambda: _fail_one(page))
        with browsing(390, 780, dark=True, scale=1.5) as narrow:
            narrow.open(page.url + "#attention")
            narrow.wait_for("document.querySelector('[data-kind=\"relay failed\"]')")
            narrow.page.screenshot(path=ATTENTION)


if __name__ == "__main__":
    began = time.monotonic()
    make()
    print(f"{RELAY.name} and {ATTENTION.name} in {time.monotonic() - began:.0f} s")
