"""A whole network in one process whose links, or some of them, have their key from pairs of devices over TLS."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, contextmanager
from functools import partial

from cryptography.x509.oid import ExtendedKeyUsageOID

from kme import bootstrap
from kme.settings import DeviceLinkSettings
from qkdrelay.messages.requests import NetworkRequest
from support.clock import Clock
from support.device import Pair, serving
from support.network import Network, ask
from support.recorder import Ledger
from support.saes import Authority

LIMIT_S = 20.0
_LOOK_AGAIN_S = 0.01


class RealClock(Clock):
    """Time as it passes, and ahead of it."""

    def __init__(self):
        super().__init__(0.0)

    def __call__(self):
        return time.time() + self.now


class DeviceFiles:
    """The vendor's authority, the devices' certificate, and by which they know each KME."""

    def __init__(self, folder, kmes):
        self.folder, self.authority = folder, Authority(folder / "ca", name="vendor")
        self.server = folder / "server"
        self.authority.server(self.server)
        for kme in kmes:
            self.issue(kme)

    def of(self, kme):
        """The folder of a KME."""
        return self.folder / kme

    def issue(self, kme):
        """Put a KME's files where they belong."""
        self.authority.issue(kme, names=[kme], usage=ExtendedKeyUsageOID.CLIENT_AUTH)
        self.of(kme).mkdir(exist_ok=True)
        self.authority.files(kme, self.of(kme))


class DeviceNetwork(Network):
    """A network that the test moves, by `until`, while threads ask the devices. Time is real; `later` skips some.

    ``ports`` maps links to where their pairs of devices are, at one port or at one for each KME; the links that are
    not in it are simulated.
    """

    def __init__(self, topology, files, ports, *, suite="otp", settings=None, **options):
        """``settings`` are of each link with devices, beside what must be."""
        self._files, self._settings, self._suite = files, settings or {}, suite
        self._ports = {frozenset(link): port for link, port in ports.items()}
        self._lines, self._due, self._moved = {}, {}, threading.Event()
        self.over_links = []
        """All that went over links since the network was made."""
        clock = RealClock()
        super().__init__(topology, suite=suite, clock=clock, **options)
        self.time = clock

    def start(self, name):
        """As of `EmbeddedNetwork`; a process that was killed asks its devices nothing more."""
        if not self._lines:
            self._record()
        self.stop_asking(name)
        lines = self._lines[name] = []
        for peer in self.links.get(name, ()):
            if (port := self._ports.get(frozenset((name, peer)))) is not None:
                url = f"https://127.0.0.1:{port if isinstance(port, int) else port[name]}"
                where = {"url": url, "peer_sae": peer, "tls": self._files.of(name)}
                settings = DeviceLinkSettings(source="etsi014", suite=self._suite, **where, **self._settings)
                self.links[name][peer] = bootstrap._with_device(name, peer, settings, lines)
        super().start(name)
        for line in lines:
            line.start(partial(self._wake, self.loops[name]))

    def _wake(self, loop):
        loop.wake()
        self._moved.set()

    def _record(self):
        publish = self.hub.publish

        def recorded(user, publication):
            if publication.routing_key.startswith("link."):
                self.over_links.append(publication)
            return publish(user, publication)

        self.hub.publish = recorded

    def stop_asking(self, *names):
        """Have KMEs ask their devices nothing more."""
        for name in names:
            for line in self._lines.pop(name, ()):
                line.stop()

    def settle(self):
        """As of `EmbeddedNetwork`; a service has no turn where it would wait for something, as in a process."""
        busy = True
        while busy:
            busy = False
            for name, loop in self.loops.items():
                if name not in self.stopped and self._has_work(name, loop):
                    busy |= loop.step(0.0)
                    self._due[name] = time.monotonic() + loop.service.wait_s(self.clock())

    def _has_work(self, name, loop):
        is_due = time.monotonic() >= self._due.get(name, 0.0) or loop.service.wait_s(self.clock()) <= 0
        broker = loop.broker
        has_come = not loop._started or broker._woken or broker._confirmed or broker._inbox.has_any(())
        return is_due or has_come or loop._more or not loop.mailbox.is_empty

    def until(self, condition, what="", *, within_s=LIMIT_S):
        """Let everything move until a condition holds, and return what it did."""
        deadline = time.monotonic() + within_s
        while True:
            self._moved.clear()
            self.settle()
            if found := condition():
                return found
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {within_s:g} s: {what() if callable(what) else what or condition}")
            self._moved.wait(_LOOK_AGAIN_S)

    def ask_for(self, source, target, **wishes):
        """Ask for a relay, and wait for nothing; return its id."""
        return ask(self, source, target, **{"timeout_s": 600.0, **wishes})

    def confirm(self, *relay_ids):
        """Let everything move until relays are confirmed, and have the same keys at both ends."""
        self.until(lambda: all(self.show(relay_id).final for relay_id in relay_ids), "relays to end")
        for relay_id in relay_ids:
            view = self.show(relay_id)
            assert (view.state, view.reason) == ("confirmed", "")
            assert self.keys(view.source, relay_id) == self.keys(view.target, relay_id) is not None

    def relayed(self, source, target, **wishes):
        """Ask for a relay and have it confirmed."""
        relay_id = self.ask_for(source, target, **wishes)
        self.confirm(relay_id)
        return relay_id

    def said_of(self, kme, peer):
        """What the coordinator tells of a link at one of its ends, once that has said hello anew."""
        self.service(kme)._hello.expire()
        self.settle()
        (view,) = (each for each in self.ask(NetworkRequest()).kmes if each.name == kme)
        (link,) = (each for each in view.links if each.peer == peer)
        return link

    def line(self, kme, peer):
        """What asks the device of a link at one of its ends."""
        return self.source(kme, peer)._line

    def key_use(self):
        """What all that went over links says of the key that was used."""
        ledger = Ledger()
        for publication in self.over_links:
            ledger.add(publication.routing_key, publication.body)
        return ledger.use()


@contextmanager
def running(topology, files, links, *, pair=Pair, **options):
    """Yield a network, and the pairs of its links with devices, which ``pair`` makes: by link."""
    with ExitStack() as stack:
        pairs = {link: pair() for link in links}
        ports = {link: stack.enter_context(serving(pairs[link], files.server, files.authority.path)) for link in links}
        network = DeviceNetwork(topology, files, ports, **options)
        try:
            yield network, pairs
        finally:
            for each in pairs.values():
                each.end.set()
            network.stop_asking(*topology.kmes)
