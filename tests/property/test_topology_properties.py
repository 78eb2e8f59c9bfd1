"""What a topology file says of its links: written and read again, and as the KMEs at both ends read it."""

import json
import re

from hypothesis import given
from pydantic import TypeAdapter

from kme.settings import DeviceLinkSettings, LinkSettings
from qkdrelay.network.topology_file import format_topology, parse_topology
from qkdrelay_deployment.compose import compose_file
from support.fuzzing import fuzzed
from support.topologies import networks

LINK = TypeAdapter(LinkSettings)


@fuzzed(300)
@given(networks())
def test_a_network_that_is_written_is_read_as_the_same(network):
    text = format_topology(network)
    assert parse_topology(text, "here.toml") == network
    assert format_topology(parse_topology(text, "here.toml")) == text


@fuzzed(200)
@given(networks())
def test_each_end_of_a_link_reads_from_the_compose_file_what_the_file_says_of_it(network):
    text = compose_file(network)
    links = [
        json.loads(re.sub(r"\$\{LINK_SECRET[^}]*\}", "ab" * 32, folded).replace("$$", "$"))
        for folded in re.findall(r"QKDRELAY_LINKS: >-\n((?:        .*\n)+)", text)
    ]
    for kme, told in zip(network.kmes, links, strict=True):
        assert list(told) == list(network.neighbours[kme])
        for peer, said in told.items():
            link, note = LINK.validate_python(said), network.note(kme, peer)
            assert (link.source, link.suite) == (note.source, note.suite or "otp")
            if isinstance(link, DeviceLinkSettings):
                here, there = note.devices[kme], note.devices[peer]
                assert (link.url, link.server_name, link.peer_sae) == (here.url, here.server_name, there.sae)
                assert link.keeps_uncollected == bool(note.keeps_uncollected)
                assert (link.serialise, link.ahead_bytes) == (note.serialise or False, note.ahead_bytes or 64 << 10)
                assert f"./deploy/devices/{kme}/{peer}:{link.tls}:ro" in text
            else:
                assert link.rate_bps == note.rate_bps or note.rate_bps is None
                assert link.buffer_bytes == note.buffer_bytes or note.buffer_bytes is None
