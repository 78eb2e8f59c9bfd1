"""Networks whose links have their key from anywhere, drawn."""

from __future__ import annotations

from string import ascii_lowercase, digits

from hypothesis import strategies as st

from qkdrelay.network.topology import DeviceNote, LinkNote, Topology
from support.hostile import TEXT

KMES = ("kme-1", "2", "no", "a--b")
HOSTS = st.sampled_from(["qkd-a", "a.example.net", "192.0.2.1", "[2001:db8::1]", "x" * 63])
PATHS = st.text(ascii_lowercase + digits + "/.~%$&'()*+,;=-", max_size=20).map(lambda path: f"/{path}")
URLS = st.builds(
    lambda host, port, path: f"https://{host}{port}{path}",
    HOSTS,
    st.just("") | st.integers(1, 65535).map(lambda port: f":{port}"),
    st.just("") | PATHS,
)
SAES = st.from_regex(r"[!-~]([ -~]{0,126}[!-~])?", fullmatch=True)
SERVER_NAMES = st.sampled_from(["qkd-a.example.net", "alice", "2001:db8::1", "under_score"])
SUITES = st.sampled_from([None, "otp", "aes-256-gcm"])
RATES = st.none() | st.integers(1, 10**12)
SIMULATED = st.builds(LinkNote, SUITES, RATES, st.none() | st.integers(1024, 1 << 34))


@st.composite
def device_notes(draw, link):
    """A note on a link with devices."""
    saes = draw(st.lists(SAES, min_size=2, max_size=2, unique=True))
    devices = {
        kme: DeviceNote(draw(URLS), sae, draw(st.none() | SERVER_NAMES)) for kme, sae in zip(link, saes, strict=True)
    }
    serialise, ahead = draw(st.sampled_from([None, True, False])), draw(st.none() | st.integers(4 << 10, 4 << 20))
    keeps = draw(st.sampled_from([None, True, False]))
    return LinkNote(draw(SUITES), draw(RATES), None, "etsi014", serialise, ahead, devices, keeps)


@st.composite
def networks(draw):
    """A network of a few KMEs, with what a file may say of its links."""
    pairs = [(a, b) if draw(st.booleans()) else (b, a) for n, a in enumerate(KMES) for b in KMES[n + 1 :]]
    links = tuple(draw(st.lists(st.sampled_from(pairs), unique=True)))
    noted = {link: draw(SIMULATED | device_notes(link)) for link in links}
    said = {link: note for link, note in noted.items() if note != LinkNote()}
    return Topology(draw(TEXT.filter(bool)), KMES, links, said)
