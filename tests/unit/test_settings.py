"""What is wrong with settings or a network file is said in one line that names it, with what would be right."""

import json

import pytest

from coordinator.settings import CoordinatorSettings
from kme.settings import DeviceLinkSettings, KmeSettings, SimulatedLinkSettings, StoreSettings
from qkdrelay.errors import SettingsError, TopologyError
from qkdrelay.network.topology_file import load_topology, parse_topology
from qkdrelay.service.settings import JSON_MAX, load
from qkdrelay_cli.settings import CliSettings

KEY = "0f" * 32
KME = {
    "QKDRELAY_KME": "kme-1",
    "QKDRELAY_BROKER": "broker:5672",
    "QKDRELAY_BROKER_PASSWORD": "a-password",
    "QKDRELAY_STORE": "/var/lib/kme.sqlite",
    "QKDRELAY_CONTROL_KEY": KEY,
    "QKDRELAY_LINKS": json.dumps({"kme-2": {"secret": KEY}, "kme-3": {"secret": KEY, "suite": "aes-256-gcm"}}),
}


@pytest.fixture
def environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in KME.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def refused(kind, **given):
    with pytest.raises(SettingsError) as error:
        load(kind, **given)
    assert "\n" not in str(error.value)
    assert KEY not in str(error.value)
    return str(error.value)


def test_a_kme_with_the_least_settings_is_honest_and_asks_for_protection(environment):
    settings = load(KmeSettings)
    assert (settings.lab, settings.withstand_compromised, settings.log_format) == (False, 1, "auto")
    assert settings.links["kme-2"].suite == "otp"
    assert settings.links["kme-3"].suite == "aes-256-gcm"


@pytest.mark.parametrize(
    ("value", "address"), [("0.0.0.0:9464", ("0.0.0.0", 9464)), ("[::1]:80", ("::1", 80)), ("a-b.c:1", ("a-b.c", 1))]
)
def test_health_and_metrics_are_served_where_it_says_or_nowhere(environment, value, address):
    assert load(KmeSettings).http is None
    environment.setenv("QKDRELAY_HTTP", value)
    assert load(KmeSettings).http == address


def test_a_kme_has_keys_for_applications_only_if_it_is_told_of_them(environment):
    settings = load(KmeSettings)
    assert (settings.saes, settings.etsi014, settings.etsi014_tls, settings.sae_id_from) == (None, None, None, "cn")
    environment.setenv("QKDRELAY_SAES", "")
    assert load(KmeSettings).saes is None
    environment.setenv("QKDRELAY_SAES", "/etc/saes.toml")
    environment.setenv("QKDRELAY_ETSI014", "0.0.0.0:8443")
    environment.setenv("QKDRELAY_ETSI014_TLS", "/etc/saes")
    settings = load(KmeSettings)
    assert (str(settings.saes), settings.etsi014, str(settings.etsi014_tls)) == (
        "/etc/saes.toml",
        ("0.0.0.0", 8443),
        "/etc/saes",
    )
    assert (settings.wait_s, settings.usable_s, settings.fetch_again_s) == (5.0, 7 * 86_400.0, 0.0)


@pytest.mark.parametrize("variable", KME)
def test_a_setting_that_is_missing_is_named(environment, variable):
    environment.delenv(variable)
    assert refused(KmeSettings) == f"{variable}: must be set"


def test_everything_that_is_missing_is_named_at_once(environment):
    environment.delenv("QKDRELAY_STORE")
    environment.delenv("QKDRELAY_CONTROL_KEY")
    assert set(refused(KmeSettings).split("; ")) == {
        "QKDRELAY_STORE: must be set",
        "QKDRELAY_CONTROL_KEY: must be set",
    }


def links(**changed):
    return json.dumps({"kme-2": {"secret": KEY, **changed}})


def doubled(*names):
    """An object whose members may have one name: each a link, or a secret where its name says so."""
    member = ('"' + name + '": ' + (f'"{KEY}"' if name == "secret" else f'{{"secret": "{KEY}"}}') for name in names)
    return "{" + ", ".join(member) + "}"


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("QKDRELAY_KME", "KME-1", "QKDRELAY_KME: "),
        ("QKDRELAY_KME", "", "QKDRELAY_KME: "),
        ("QKDRELAY_KME", "k" * 33, "QKDRELAY_KME: "),
        ("QKDRELAY_KME", "kme-1\n", "QKDRELAY_KME: "),
        ("QKDRELAY_CONTROL_KEY", "0f", "QKDRELAY_CONTROL_KEY: must be 64 hexadecimal digits (32 bytes)"),
        ("QKDRELAY_CONTROL_KEY", "xx" * 32, "QKDRELAY_CONTROL_KEY: must be 64 hexadecimal digits (32 bytes)"),
        ("QKDRELAY_CONTROL_KEY", KEY + "\n", "QKDRELAY_CONTROL_KEY: must be 64 hexadecimal digits (32 bytes)"),
        ("QKDRELAY_BROKER", "broker:port", "QKDRELAY_BROKER: "),
        ("QKDRELAY_BROKER", "", "QKDRELAY_BROKER: "),
        ("QKDRELAY_BROKER", "a:1,b:99999", "QKDRELAY_BROKER: "),
        ("QKDRELAY_LAB", "maybe", "QKDRELAY_LAB: "),
        ("QKDRELAY_HTTP", "", "QKDRELAY_HTTP: must be host:port, such as 0.0.0.0:9464"),
        ("QKDRELAY_HTTP", "9464", "QKDRELAY_HTTP: must be host:port, such as 0.0.0.0:9464"),
        ("QKDRELAY_HTTP", "localhost:65536", "QKDRELAY_HTTP: must be host:port, such as 0.0.0.0:9464"),
        ("QKDRELAY_LOG_LEVEL", "loud", "QKDRELAY_LOG_LEVEL: "),
        ("QKDRELAY_LOG_FORMAT", "xml", "QKDRELAY_LOG_FORMAT: "),
        ("QKDRELAY_PREFETCH", "0", "QKDRELAY_PREFETCH: "),
        ("QKDRELAY_WITHSTAND_COMPROMISED", "4", "QKDRELAY_WITHSTAND_COMPROMISED: "),
        ("QKDRELAY_WITHSTAND_COMPROMISED", "-1", "QKDRELAY_WITHSTAND_COMPROMISED: "),
        ("QKDRELAY_ETSI014", "0.0.0.0:8443", "QKDRELAY_ETSI014 needs QKDRELAY_SAES and QKDRELAY_ETSI014_TLS"),
        ("QKDRELAY_ETSI014", "8443", "QKDRELAY_ETSI014: must be host:port"),
        ("QKDRELAY_SAE_ID_FROM", "header", "QKDRELAY_SAE_ID_FROM: "),
        ("QKDRELAY_WAIT_S", "31", "QKDRELAY_WAIT_S: "),
        ("QKDRELAY_USABLE_S", "1", "QKDRELAY_USABLE_S: "),
        ("QKDRELAY_FETCH_AGAIN_S", "-1", "QKDRELAY_FETCH_AGAIN_S: "),
        ("QKDRELAY_REQUESTS_PER_S", "0", "QKDRELAY_REQUESTS_PER_S: "),
        ("QKDRELAY_LINKS", "{}", "QKDRELAY_LINKS: "),
        ("QKDRELAY_LINKS", "{", "QKDRELAY_LINKS: must be a JSON object"),
        ("QKDRELAY_LINKS", "kme-2", "QKDRELAY_LINKS: must be a JSON object"),
        ("QKDRELAY_LINKS", "[]", "QKDRELAY_LINKS: "),
        ("QKDRELAY_LINKS", '{"kme-2": {}}', "QKDRELAY_LINKS[kme-2][secret]: must be set"),
        ("QKDRELAY_LINKS", links(secret="0f"), "QKDRELAY_LINKS[kme-2][secret]: must be 64 hexadecimal digits"),
        ("QKDRELAY_LINKS", links(suite="rot13"), "QKDRELAY_LINKS[kme-2][suite]: "),
        ("QKDRELAY_LINKS", links(rate_bps=0), "QKDRELAY_LINKS[kme-2][rate_bps]: "),
        ("QKDRELAY_LINKS", links(buffer_bytes=1), "QKDRELAY_LINKS[kme-2][buffer_bytes]: "),
        ("QKDRELAY_LINKS", links(rate=1), "QKDRELAY_LINKS[kme-2][rate]: "),
        (
            "QKDRELAY_LINKS",
            '{"KME 2": {"secret": "' + KEY + '"}}',
            "QKDRELAY_LINKS: entry 1 has a name that no KME can",
        ),
        ("QKDRELAY_LINKS", doubled("kme-2", "kme-3", "kme-2"), "QKDRELAY_LINKS: the name kme-2 stands twice"),
        ("QKDRELAY_LINKS", doubled("kme-2", r"kme\u002d2"), "QKDRELAY_LINKS: the name kme-2 stands twice"),
        ("QKDRELAY_LINKS", doubled("kme-2", "KME-2"), "QKDRELAY_LINKS: entry 2 has a name that no KME can have"),
        ("QKDRELAY_LINKS", doubled("kme-2", "kme-2 "), "QKDRELAY_LINKS: entry 2 has a name that no KME can have"),
        ("QKDRELAY_LINKS", '{"kme-2": ' + doubled("secret", "secret") + "}", "the name secret stands twice"),
        ("QKDRELAY_LINKS", '{"kme-2": {"rate_bps": 1, "rate_bps": 2}}', "QKDRELAY_LINKS: a name stands twice"),
        ("QKDRELAY_LINKS", doubled("secret" + KEY, "secret" + KEY), "QKDRELAY_LINKS: a name stands twice"),
        ("QKDRELAY_LINKS", links(rate_bps=float("inf")), "QKDRELAY_LINKS: must be a JSON object"),
        ("QKDRELAY_LINKS", "[" * 100_000, "QKDRELAY_LINKS: must be a JSON object"),
        ("QKDRELAY_LINKS", '{"kme-2": ' * 10_000, "QKDRELAY_LINKS: must be a JSON object"),
        ("QKDRELAY_LINKS", links(rate_bps=1)[:-2] + "1" * 5_000 + "}}", "QKDRELAY_LINKS: must be a JSON object"),
        ("QKDRELAY_BROKER", "amqp://kme-1:a-password@broker", "QKDRELAY_BROKER: address 1 of the broker is none"),
        ("QKDRELAY_BROKER", "broker:" + "1" * 5_000, "QKDRELAY_BROKER: address 1 of the broker is none (host:port"),
        ("QKDRELAY_LINKS", '{"kme-1": {"secret": "' + KEY + '"}}', "QKDRELAY_LINKS has a link from kme-1 to itself"),
    ],
)
def test_a_setting_that_is_wrong_is_named_with_what_would_be_right(environment, variable, value, named):
    environment.setenv(variable, value)
    assert named in refused(KmeSettings)


DEVICE = {"source": "etsi014", "url": "https://qkd-a:8443/kme", "peer_sae": "Site B/1", "tls": "/etc/qkd-a"}


def devices(**changed):
    said = {name: value for name, value in {**DEVICE, **changed}.items() if value is not None}
    return json.dumps({"kme-2": {"secret": KEY}, "kme-3": said})


def test_a_link_is_simulated_unless_it_says_that_its_key_comes_from_a_device(environment):
    environment.setenv("QKDRELAY_LINKS", devices())
    first, second = load(KmeSettings).links.values()
    assert isinstance(first, SimulatedLinkSettings)
    assert (first.source, first.rate_bps, first.buffer_bytes) == ("simulated", 1_000_000, 4 << 20)
    assert isinstance(second, DeviceLinkSettings)
    assert (second.source, second.suite, second.url, second.peer_sae) == ("etsi014", "otp", *list(DEVICE.values())[1:3])
    assert (str(second.tls), second.server_name, second.serialise) == ("/etc/qkd-a", None, False)
    assert not second.keeps_uncollected
    assert second.ahead_bytes == 64 << 10
    more = {"suite": "aes-256-gcm", "server_name": "qkd-a.example", "serialise": True, "ahead_bytes": 4 << 20}
    more["keeps_uncollected"] = True
    environment.setenv("QKDRELAY_LINKS", devices(**more))
    assert {name: getattr(load(KmeSettings).links["kme-3"], name) for name in more} == more
    environment.setenv("QKDRELAY_LINKS", links(source="simulated"))
    assert load(KmeSettings).links["kme-2"] == first
    again = KmeSettings(links={"kme-2": first, "kme-3": second})
    assert list(again.links.values()) == [first, second]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"source": "etsi041"}, "[kme-3]: source must be one of simulated, etsi014"),
        ({"source": ["etsi014"]}, "[kme-3]: source must be one of simulated, etsi014"),
        ({"source": True}, "[kme-3]: source must be one of simulated, etsi014"),
        ({"source": None}, "[kme-3][secret]: must be set"),
        ({"url": None}, "[kme-3][url]: must be set"),
        ({"url": "http://qkd-a"}, "[kme-3][url]: must be https://HOST[:PORT][/PATH], without /api/v1/keys"),
        (
            {"url": "https://qkd-a/api/v1/keys"},
            "[kme-3][url]: must be https://HOST[:PORT][/PATH], without /api/v1/keys",
        ),
        ({"url": f"https://me:{KEY}@qkd-a"}, "[kme-3][url]: must be https://HOST[:PORT][/PATH]"),
        ({"url": 5}, "[kme-3][url]: "),
        ({"peer_sae": None}, "[kme-3][peer_sae]: must be set"),
        ({"peer_sae": ""}, "[kme-3][peer_sae]: must be 1 to 128 printable characters of ASCII"),
        ({"tls": None}, "[kme-3][tls]: must be set"),
        ({"tls": 5}, "[kme-3][tls]: "),
        ({"server_name": "*.example"}, "[kme-3][server_name]: must be the name of a host, or an address"),
        ({"serialise": "perhaps"}, "[kme-3][serialise]: "),
        ({"keeps_uncollected": "perhaps"}, "[kme-3][keeps_uncollected]: "),
        ({"suite": "rot13"}, "[kme-3][suite]: "),
        ({"ahead_bytes": 4095}, "[kme-3][ahead_bytes]: "),
        ({"ahead_bytes": (4 << 20) + 1}, "[kme-3][ahead_bytes]: "),
        ({"verify": False}, "[kme-3][verify]: unknown entry with source=etsi014"),
        ({"secret": KEY}, "[kme-3][secret]: unknown entry with source=etsi014"),
        ({"buffer_bytes": 1024}, "[kme-3][buffer_bytes]: unknown entry with source=etsi014"),
        ({"source": "simulated", "secret": KEY}, "[kme-3][url]: unknown entry with source=simulated"),
        ({KEY: 1}, "[kme-3]: unknown entry with source=etsi014"),
    ],
)
def test_what_is_wrong_with_a_link_of_a_device_is_told_of_that_link_and_entry(environment, changed, named):
    environment.setenv("QKDRELAY_LINKS", devices(**changed))
    assert f"QKDRELAY_LINKS{named}" in refused(KmeSettings)


def test_json_of_any_length_is_refused_before_it_is_read(environment):
    said = refused(KmeSettings, links="[" * (JSON_MAX + 1))
    assert said == f"QKDRELAY_LINKS: must be a JSON object of at most {JSON_MAX} characters"


def test_a_setting_in_capital_and_in_small_letters_is_refused(environment):
    environment.setenv("qkdrelay_Links", KME["QKDRELAY_LINKS"])
    assert refused(KmeSettings) == "QKDRELAY_LINKS is set twice, in capital and in small letters"


def test_looking_into_a_store_needs_its_name_and_place_only(environment):
    for variable in set(KME) - {"QKDRELAY_KME", "QKDRELAY_STORE"}:
        environment.delenv(variable)
    assert load(StoreSettings).kme == "kme-1"


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ("{", "QKDRELAY_CONTROL_KEYS: must be a JSON object"),
        ('{"kme-1": "0f"}', "QKDRELAY_CONTROL_KEYS[kme-1]: must be 64"),
        (f'{{"kme-1": "{KEY}", "kme-1": "{KEY}"}}', "QKDRELAY_CONTROL_KEYS: the name kme-1 stands twice"),
        (f'{{"{KEY}": "kme-1"}}', "QKDRELAY_CONTROL_KEYS: entry 1 has a name that no KME can have"),
        ('{"kme-1": "' + 130_000 * "0" + '0f"}', "QKDRELAY_CONTROL_KEYS[kme-1]: must be 64"),
    ],
)
def test_the_coordinators_control_keys_are_checked(environment, keys, named):
    environment.setenv("QKDRELAY_TOPOLOGY", "/etc/topology.toml")
    environment.setenv("QKDRELAY_CONTROL_KEYS", keys)
    assert named in refused(CoordinatorSettings)


@pytest.mark.parametrize("key", ["", "0f", "g" * 64, "0f" * 33])
@pytest.mark.parametrize("kind", [CoordinatorSettings, CliSettings])
def test_the_key_of_the_command_line_is_checked_on_both_sides(environment, kind, key):
    environment.setenv("QKDRELAY_CLI_KEY", key)
    said = refused(kind)
    assert "QKDRELAY_CLI_KEY: must be 64 hexadecimal digits (32 bytes)" in said


@pytest.mark.parametrize("number", ["-1", "4", "1.5", "one", ""])
def test_how_many_compromised_kmes_a_kme_demands_to_be_withstood_is_checked(environment, number):
    environment.setenv("QKDRELAY_WITHSTAND_COMPROMISED", number)
    assert "QKDRELAY_WITHSTAND_COMPROMISED: " in refused(KmeSettings)


@pytest.mark.parametrize("number", range(4))
def test_how_many_compromised_kmes_a_kme_demands_to_be_withstood_is_its_own_setting(environment, number):
    assert load(KmeSettings).withstand_compromised == 1
    environment.setenv("QKDRELAY_WITHSTAND_COMPROMISED", str(number))
    assert load(KmeSettings).withstand_compromised == number


def test_the_command_line_reads_its_secrets_from_the_environment_or_the_file_make_up_writes(environment, tmp_path):
    environment.delenv("QKDRELAY_BROKER")
    assert refused(CliSettings) == "QKDRELAY_CLI_PASSWORD: must be set; QKDRELAY_CLI_KEY: must be set"
    (tmp_path / ".env").write_text(f"QKDRELAY_CLI_PASSWORD=from-a-file\nQKDRELAY_CLI_KEY={'0f' * 32}\nOTHER=1\n")
    settings = load(CliSettings)
    assert settings.cli_password.get_secret_value() == "from-a-file"
    assert settings.cli_key.get_secret_value() == "0f" * 32
    assert settings.broker == "127.0.0.1:5672"


# --- network files ---------------------------------------------------------------------------------

HEAD = 'name = "n"\nkmes = ["kme-1", "kme-2", "kme-3"]\n'


@pytest.mark.parametrize(
    ("text", "named", "hint"),
    [
        ("name = ", "not valid TOML", None),
        ("name = " + "[" * 5000, "not valid TOML", None),
        ("name = " + "1" * 5000, "not valid TOML", None),
        ('kmes = ["a", "b"]\nlinks = []', "'name'", "my-network"),
        ('name = "n"\nlinks = []', "'kmes'", None),
        ('name = "n"\nkmes = ["a"]\nlinks = []', "'kmes' must be a list of 2 to", None),
        ('name = "n"\nkmes = ["a", "b"]', "'links'", None),
        (HEAD + 'link = [["kme-1", "kme-2"]]', "unknown entry 'link'", "did you mean 'links'?"),
        (HEAD + 'links = [["kme-1", "kme-4"]]', "link 1 ends in 'kme-4'", "did you mean 'kme-"),
        (HEAD + 'links = [["kme-1", "kme-2"], ["paris", "kme-2"]]', "link 2 ends in 'paris'", "known: kme-1, kme-2"),
        (HEAD + 'links = [["kme-1", "kme-2"], ["kme-2", "kme-1"]]', "named twice", None),
        (HEAD + 'links = [["kme-2", "kme-2"]]', "link 1 joins 'kme-2' to itself", None),
        (HEAD + 'links = [["kme-1"]]', "link 1", None),
        (HEAD + 'links = [["kme-1", "kme-2", { suite = "otp", suite = "otp" }]]', "not valid TOML", None),
        (HEAD + "links = []\nlinks = []", "not valid TOML", None),
        (HEAD + 'links = []\n[trust]\nkme-1 = "never"\n"kme-1" = "trusted"', "not valid TOML", None),
        (HEAD + 'links = [["kme-1", 2]]', "link 1", None),
        (HEAD + 'links = ["kme-1"]', "link 1", None),
        ('name = "n"\nkmes = ["kme-1", "kme-1"]\nlinks = []', "'kme-1' is named twice", None),
        ('name = "n"\nkmes = ["KME-1", "b"]\nlinks = []', "'KME-1' is no KME name", "a-z, 0-9 and '-'"),
        ('name = "n"\nkmes = ["a b", "b"]\nlinks = []', "'a b' is no KME name", "a-z, 0-9 and '-'"),
        ('name = "n"\nkmes = ["coordinator", "b"]\nlinks = []', "'coordinator' is reserved", "another name"),
        ('name = "n"\nkmes = ["a", 5]\nlinks = []', "5 is no KME name", None),
    ],
)
def test_what_is_wrong_with_a_network_file_is_named_with_file_and_entry(text, named, hint):
    with pytest.raises(TopologyError) as error:
        parse_topology(text, "my.toml")
    said = str(error.value)
    assert said.startswith("my.toml")
    assert named in said
    assert "\n" not in said
    if hint:
        assert hint in error.value.hint


def test_a_network_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(TopologyError, match=r"none\.toml"):
        load_topology(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(TopologyError, match=r"binary\.toml.*UTF-8"):
        load_topology(tmp_path / "binary.toml")
    (tmp_path / "large.toml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(TopologyError, match=r"large\.toml.*larger"):
        load_topology(tmp_path / "large.toml")
