"""Whatever stands in a topology, in the environment or in a store: it is read, or refused by one of our errors."""

from __future__ import annotations

import contextlib
import json
import os
import traceback
from itertools import product
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from coordinator.settings import CoordinatorSettings
from kme.keys import listed
from kme.model import EndpointRelay
from kme.settings import KmeSettings, StoreSettings
from kme.store import open_kme_store
from qkdrelay.errors import QkdRelayError, SettingsError, StoreError, TopologyError
from qkdrelay.link.confirmation import Payload
from qkdrelay.network.topology_file import load_topology, parse_topology, reference_topology
from qkdrelay.service.settings import load
from qkdrelay_cli.settings import CliSettings
from qkdrelay_demo.network import EmbeddedNetwork
from support.fuzzing import fuzzed
from support.kme import DEMAND, RELAY
from support.plans import TOPOLOGIES, eight

FILES = [path.read_text() for path in sorted(TOPOLOGIES.glob("*.toml"))]
SIGNS = """name = "x"|kmes = ["a", "b"]|links = [["a", "b"]]|[trust]|a = "never"|kmes|links|name|[[|]]|[|]|{|}|"|,|=|#|
|1e999|0x|nan|1979-05-27|'''|""\"|rate_bps = 0|suite = "otp"|{ buffer_bytes = -1 }"""
PIECES = st.sampled_from(SIGNS.split("|"))


@st.composite
def altered(draw, texts):
    """A text with a few places changed, left out, doubled or with something put in."""
    text = draw(st.sampled_from(texts))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        end = min(len(text), at + draw(st.integers(0, 40)))
        text = text[:at] + draw(st.sampled_from([text[at:end] * 2, ""]) | PIECES | st.text(max_size=5)) + text[end:]
    return text


def tried(ours, read):
    """What was read, or what our error says; any other error is a failure."""
    try:
        return read(), ""
    except ours as error:
        return None, str(error)


@fuzzed(600)
@given(altered(FILES) | st.lists(PIECES | st.text(max_size=6)).map(" ".join))
@example('name = "x"\nkmes = ' + "[" * 5000)
@example("kmes = 1" + "0" * 5000)
def test_any_text_is_a_topology_or_an_error_that_says_where(text):
    topology, error = tried(TopologyError, lambda: parse_topology(text, "here.toml"))
    if topology is None:
        assert error.startswith("here.toml")
        return
    assert {end for link in topology.links for end in link} <= set(topology.kmes)


@fuzzed(200)
@given(st.binary(max_size=200))
def test_any_file_is_a_topology_or_an_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(data)
    topology, error = tried(TopologyError, lambda: load_topology(path))
    assert topology is not None or str(path) in error


# --- settings --------------------------------------------------------------------------------------

SETTINGS = {
    "QKDRELAY_KME": "kme-1",
    "QKDRELAY_BROKER": "broker:5672",
    "QKDRELAY_BROKER_PASSWORD": "p",
    "QKDRELAY_STORE": "/nowhere/kme.sqlite",
    "QKDRELAY_CONTROL_KEY": "ab" * 32,
    "QKDRELAY_CONTROL_KEYS": json.dumps({"kme-1": "ab" * 32}),
    "QKDRELAY_LINKS": json.dumps({"kme-2": {"secret": "ab" * 32}}),
    "QKDRELAY_TOPOLOGY": "eight-kmes",
    "QKDRELAY_CLI_PASSWORD": "p",
    "QKDRELAY_CLI_KEY": "ab" * 32,
}
DEVICE = {"source": "etsi014", "url": "https://qkd-a", "peer_sae": "b", "tls": "/etc", "server_name": "a"}
OTHERS = [
    *SETTINGS,
    *(f"QKDRELAY_{name}" for name in ("LAB", "LOG_FORMAT", "LOG_LEVEL", "WITHSTAND_COMPROMISED", "HTTP", "PREFETCH")),
    *(f"QKDRELAY_{name}" for name in ("BROKER_VHOST", "BROKER_USER", "BROKER_TLS")),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("ab" * 32),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6) | st.just("secret"), inner, max_size=3)
    ),
    max_leaves=6,
)
VALUES = (
    st.sampled_from(
        ["", "0", "1", "-1", "true", "json", "debug", "a:b", ":", "[::1]:5", "host:99999", "a,b:1", "{", "[]"]
    )
    | JSON.map(json.dumps)
    | st.dictionaries(st.sampled_from(["kme-2", "kme-1", "K", ""]), JSON, max_size=2).map(json.dumps)
    | altered([SETTINGS["QKDRELAY_LINKS"], json.dumps({"kme-2": DEVICE}), "kme-1", "broker:5672,other:5673"])
).filter(lambda text: "\x00" not in text and text.encode("utf-8", "ignore").decode() == text)


@fuzzed(400)
@given(st.sampled_from([KmeSettings, CoordinatorSettings, CliSettings, StoreSettings]), st.data())
def test_any_environment_is_a_set_of_settings_or_an_error_that_names_the_variable(kind, data):
    environment = {**SETTINGS, **data.draw(st.dictionaries(st.sampled_from(OTHERS), VALUES, max_size=3))}
    for name in data.draw(st.lists(st.sampled_from(sorted(SETTINGS)), max_size=1)):
        environment.pop(name)
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        loaded, error = tried(SettingsError, lambda: load(kind))
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert loaded is not None or "QKDRELAY_" in error


SECRETS = ("c0ffee" * 10 + "beef", "c0ffee" * 3, "S3cr3t-C0ffee!", "Zm9v/C0ffee+aHJhc3M=")
PLACES = """@
x@
@\x20
amqp://user:@@broker:5672
@:5672
broker:@
a,@
"@"
["@"]
{"@"
[["@"]
{"@": 1}
{"@": {}}
{"@": "@"}
{"@": {"@": 1}}
{"@": 1, "@": 2}
{"@": {"secret": "@", "@": "@"}}
{"kme-1": {"secret": "@"}}
{"kme-2": "@"}
{"kme-2": ["@"]}
{"kme-2": {"secret": "@"}}
{"kme-2": {"secret": "@"}, "kme-2": 1}
{"kme-2": {"secret": "@", "secret": "@"}}
{"kme-2": {"@": 1}}
{"kme-2": {"@": 1, "@": 2}}
{"kme-2": {"suite": "@"}}
{"kme-2": {"rate_bps": "@", "secret": ["@"]}}
{"kme-2": {"source": "@"}}
{"kme-2": {"source": "etsi014", "url": "https://me:@@qkd", "peer_sae": "b", "tls": "/etc"}}
{"kme-2": {"source": "etsi014", "url": "@", "peer_sae": ["@"], "tls": ["@"], "server_name": "@@", "serialise": "@"}}
{"kme-2": {"source": "etsi014", "url": "https://a", "peer_sae": "b", "tls": "/etc", "keeps_uncollected": "@"}}
{"kme-2": {"source": "etsi014", "url": "https://a", "peer_sae": "b", "tls": "/etc", "secret": "@", "@": "@"}}
{"kme-2": {"secret": {"@": "@"}}}""".splitlines()


@pytest.mark.parametrize("kind", [KmeSettings, CoordinatorSettings, CliSettings, StoreSettings])
def test_a_secret_in_any_place_of_any_setting_is_not_repeated_by_the_error(kind):
    tried_names = {f"QKDRELAY_{field.upper()}" for field in kind.model_fields}
    refusals = 0
    for name, place, secret in product(sorted(tried_names), PLACES, SECRETS):
        with patch.dict(os.environ, {**SETTINGS, name: place.replace("@", secret)}):
            try:
                load(kind)
            except SettingsError as error:
                said = "".join(traceback.format_exception(error)) + str(error.hint)
                assert secret[:12] not in said, (name, place)
                refusals += 1
    assert refusals > len(PLACES)


# --- stores ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """The file of a KME that has keys, as it is left when the KME is stopped."""
    folder = tmp_path_factory.mktemp("stores")
    network = EmbeddedNetwork(reference_topology(), folder=folder)
    for _ in range(3):
        network.relay("kme-1", "kme-8")
    for loop in network.loops.values():
        loop.close()
    return folder / "kme-8" / "kme.sqlite"


@fuzzed(300)
@given(st.data())
def test_any_damage_to_a_store_is_an_error_or_not_seen(store, tmp_path_factory, data):
    content = bytearray(store.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + 4] = data.draw(st.binary(min_size=1, max_size=4))
    cut = data.draw(st.none() | st.integers(0, len(content)))
    damaged = tmp_path_factory.getbasetemp() / "damaged.sqlite"
    damaged.write_bytes(bytes(content[:cut]))
    try:
        opened = open_kme_store(damaged, "kme-8", access="read")
    except StoreError:
        return
    try:
        listed(opened, reveal=True, limit=100)
    except QkdRelayError:
        pass
    finally:
        opened.journal.close()


COLUMNS = (
    "relay_id",
    "role",
    "state",
    "plan",
    "key_count",
    "deadline",
    "keys",
    "findings",
    "equivocating",
    "supply",
)


@fuzzed(200)
@given(st.sampled_from(COLUMNS), st.none() | st.binary(max_size=40) | st.text(max_size=8) | st.integers(-9, 2**62))
def test_a_row_of_any_content_is_an_error_or_a_relay(column, value):
    store = open_kme_store(None, "kme-8")
    try:
        with store.journal.transaction():
            store.keep_relay(
                EndpointRelay(RELAY, "target", "delivered", eight(), 1, 64, DEMAND, 1, 1.0, Payload(bytes(8), b"", b""))
            )
        with contextlib.suppress(Exception), store.journal.transaction():  # what SQLite itself does not take
            store.journal.connection.execute(f"UPDATE relays SET {column} = ?", (value,))
        with contextlib.suppress(QkdRelayError):
            listed(store, reveal=True, limit=100)
    finally:
        store.journal.close()
