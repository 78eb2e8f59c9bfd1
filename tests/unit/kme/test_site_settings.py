"""A KME at one of several sites: which other brokers it reads at, and what is wrong with what it is told of them."""

import json
from pathlib import Path

import pytest

from kme.settings import KmeSettings
from qkdrelay.errors import SettingsError
from qkdrelay.service.settings import load

KEY, PASSWORD = "0f" * 32, "a-password-of-the-broker"
KME = {
    "QKDRELAY_KME": "kme-1",
    "QKDRELAY_BROKER": "broker:5672",
    "QKDRELAY_BROKER_PASSWORD": PASSWORD,
    "QKDRELAY_STORE": "/var/lib/kme.sqlite",
    "QKDRELAY_CONTROL_KEY": KEY,
    "QKDRELAY_LINKS": json.dumps({kme: {"secret": KEY} for kme in ("kme-2", "kme-3", "kme-4", "kme-5")}),
}
PARIS = {"broker": "qkd.paris.example:5671", "kmes": ["kme-4", "kme-2"]}
ROME = {"broker": "[2001:db8::7]:5671,rome-2:5671", "coordinator": True}
AT_A_SITE = {
    "QKDRELAY_SITE": "berlin",
    "QKDRELAY_SITE_TLS": "/etc/site",
    "QKDRELAY_SITES": json.dumps({"paris": PARIS, "rome": ROME}),
}


@pytest.fixture
def environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name, value in {**KME, **AT_A_SITE}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def refused():
    with pytest.raises(SettingsError) as error:
        load(KmeSettings)
    said = f"{error.value} {error.value.hint}"
    assert "\n" not in said
    assert KEY not in said
    assert PASSWORD not in said
    return str(error.value)


def test_a_kme_that_is_told_of_no_sites_reads_all_at_its_own_broker(environment):
    for name in AT_A_SITE:
        environment.delenv(name)
    settings = load(KmeSettings)
    assert (settings.site, settings.site_tls, settings.sites) == ("", None, {})
    links = ("link.kme-2.kme-1", "link.kme-3.kme-1", "link.kme-4.kme-1", "link.kme-5.kme-1")
    assert settings.reads() == {"": ("kme.kme-1.control", *links)}


def test_what_is_not_set_may_be_empty(environment):
    for name, value in {**AT_A_SITE, "QKDRELAY_SITES": "{}"}.items():
        environment.setenv(name, value if value == "{}" else "")
    settings = load(KmeSettings)
    assert (settings.site, settings.site_tls, settings.sites) == ("", None, {})


def test_a_kme_reads_each_queue_where_its_writer_is(environment):
    settings = load(KmeSettings)
    assert (settings.site, settings.site_tls) == ("berlin", Path("/etc/site"))
    assert settings.reads() == {
        "": ("link.kme-3.kme-1", "link.kme-5.kme-1"),
        "paris": ("link.kme-2.kme-1", "link.kme-4.kme-1"),
        "rome": ("kme.kme-1.control",),
    }


def test_the_coordinator_may_be_where_a_neighbour_is(environment):
    environment.setenv("QKDRELAY_SITES", json.dumps({"paris": {**PARIS, "coordinator": True}}))
    assert load(KmeSettings).reads() == {
        "": ("link.kme-3.kme-1", "link.kme-5.kme-1"),
        "paris": ("kme.kme-1.control", "link.kme-2.kme-1", "link.kme-4.kme-1"),
    }


def test_all_that_is_read_may_be_elsewhere(environment):
    everything = {"broker": "a", "kmes": ["kme-2", "kme-3", "kme-4", "kme-5"], "coordinator": True}
    environment.setenv("QKDRELAY_SITES", json.dumps({"1": everything}))
    reads = load(KmeSettings).reads()
    assert reads[""] == ()
    assert len(reads["1"]) == 5


def test_a_site_is_known_elsewhere_by_its_certificate_and_its_name(environment):
    environment.setattr("qkdrelay.broker.rabbitmq.settings.client_context", lambda _folder: None)
    settings = load(KmeSettings)
    there = settings.elsewhere("kme-1", "paris", settings.sites["paris"].broker, settings.reads()["paris"])
    assert (there.user, there.password, there.tls) == ("site.berlin", None, Path("/etc/site"))
    assert (there.site, there.service, there.queues) == (
        "paris",
        "kme-1",
        ("link.kme-2.kme-1", "link.kme-4.kme-1"),
    )
    assert PASSWORD not in repr(there)


def sites(**changed):
    return json.dumps({"paris": {**PARIS, **changed}})


def named(name):
    return json.dumps({name: PARIS})


NEEDS = "QKDRELAY_SITES needs QKDRELAY_SITE and QKDRELAY_SITE_TLS"
DOUBLED = f'{{"paris": {json.dumps(PARIS)}, "paris": {json.dumps(ROME)}}}'


@pytest.mark.parametrize(
    ("variable", "value", "named"),
    [
        ("QKDRELAY_SITE", "", NEEDS),
        ("QKDRELAY_SITE_TLS", "", NEEDS),
        ("QKDRELAY_SITE", "paris", "QKDRELAY_SITES has paris, the site this is at; it must have the others"),
        ("QKDRELAY_SITE", "rome", "QKDRELAY_SITES has rome, the site this is at; it must have the others"),
        ("QKDRELAY_SITE", "Berlin", "QKDRELAY_SITE: "),
        ("QKDRELAY_SITE", "a.b", "QKDRELAY_SITE: "),
        ("QKDRELAY_SITE", "berlin\n", "QKDRELAY_SITE: "),
        ("QKDRELAY_SITE", "b" * 33, "QKDRELAY_SITE: "),
        (
            "QKDRELAY_SITES",
            json.dumps({"paris": PARIS, "rome": {**ROME, "kmes": ["kme-4"]}}),
            "QKDRELAY_SITES has kme-4 at 2 sites",
        ),
        ("QKDRELAY_SITES", sites(kmes=["kme-2", "kme-2"]), "QKDRELAY_SITES has kme-2 twice at paris"),
        (
            "QKDRELAY_SITES",
            json.dumps({"paris": {**PARIS, "coordinator": True}, "rome": ROME}),
            "QKDRELAY_SITES has coordinator at 2 sites",
        ),
        (
            "QKDRELAY_SITES",
            sites(kmes=["kme-9"]),
            "QKDRELAY_SITES has kme-9, and QKDRELAY_LINKS has no link with it",
        ),
        ("QKDRELAY_SITES", sites(kmes=["kme-1"]), "QKDRELAY_SITES has kme-1, and QKDRELAY_LINKS has no link with it"),
        ("QKDRELAY_SITES", sites(kmes=["coordinator"]), "coordinator, and QKDRELAY_LINKS has no link with it"),
        ("QKDRELAY_SITES", sites(kmes=["KME-2"]), "QKDRELAY_SITES[paris][kmes][0]: "),
        ("QKDRELAY_SITES", sites(kmes="kme-2"), "QKDRELAY_SITES[paris][kmes]: "),
        ("QKDRELAY_SITES", sites(kmes=[2]), "QKDRELAY_SITES[paris][kmes][0]: "),
        ("QKDRELAY_SITES", sites(kmes=[KEY]), "QKDRELAY_SITES[paris][kmes][0]: "),
        ("QKDRELAY_SITES", sites(kmes=None), "QKDRELAY_SITES[paris][kmes]: "),
        ("QKDRELAY_SITES", sites(kmes=[], coordinator=False), "QKDRELAY_SITES has paris, and nobody there"),
        ("QKDRELAY_SITES", sites(coordinator="who knows"), "QKDRELAY_SITES[paris][coordinator]: "),
        ("QKDRELAY_SITES", sites(broker="broker:port"), "QKDRELAY_SITES[paris][broker]: "),
        ("QKDRELAY_SITES", sites(broker=""), "QKDRELAY_SITES[paris][broker]: "),
        ("QKDRELAY_SITES", sites(broker="a:1,b:99999"), "QKDRELAY_SITES[paris][broker]: "),
        ("QKDRELAY_SITES", sites(broker=5671), "QKDRELAY_SITES[paris][broker]: "),
        ("QKDRELAY_SITES", sites(broker=f"amqps://me:{PASSWORD}@a"), "QKDRELAY_SITES[paris][broker]: "),
        ("QKDRELAY_SITES", '{"paris": {"kmes": ["kme-2"]}}', "QKDRELAY_SITES[paris][broker]: must be set"),
        ("QKDRELAY_SITES", sites(host="a"), "QKDRELAY_SITES[paris][host]: unknown entry"),
        ("QKDRELAY_SITES", sites(**{KEY: 1}), "QKDRELAY_SITES[paris]: unknown entry"),
        ("QKDRELAY_SITES", sites(password=PASSWORD), "QKDRELAY_SITES[paris][password]: unknown entry"),
        ("QKDRELAY_SITES", json.dumps({"paris": "qkd.paris.example:5671"}), "QKDRELAY_SITES[paris]: "),
        ("QKDRELAY_SITES", json.dumps({"paris": None}), "QKDRELAY_SITES[paris]: "),
        ("QKDRELAY_SITES", named("Paris"), "QKDRELAY_SITES: entry 1 has a name that no site can have"),
        ("QKDRELAY_SITES", named(""), "QKDRELAY_SITES: entry 1 has a name that no site can have"),
        ("QKDRELAY_SITES", named("par.is"), "QKDRELAY_SITES: entry 1 has a name that no site can have"),
        ("QKDRELAY_SITES", named(KEY), "QKDRELAY_SITES: entry 1 has a name that no site can have"),
        ("QKDRELAY_SITES", DOUBLED, "QKDRELAY_SITES: the name paris stands twice"),
        ("QKDRELAY_SITES", '{"paris": {"broker": "a", "broker": "b"}}', "QKDRELAY_SITES: the name broker stands twice"),
        ("QKDRELAY_SITES", "", "QKDRELAY_SITES: must be a JSON object, such as"),
        ("QKDRELAY_SITES", "{", "QKDRELAY_SITES: must be a JSON object, such as"),
        ("QKDRELAY_SITES", KEY, "QKDRELAY_SITES: must be a JSON object, such as"),
        ("QKDRELAY_SITES", "[]", "QKDRELAY_SITES: "),
        ("QKDRELAY_SITES", json.dumps([PARIS]), "QKDRELAY_SITES: "),
    ],
)
def test_what_is_wrong_with_a_site_is_named(environment, variable, value, named):
    environment.setenv(variable, value)
    assert named in refused()


@pytest.mark.parametrize("variable", ["QKDRELAY_SITE", "QKDRELAY_SITE_TLS"])
def test_who_reads_elsewhere_must_know_who_it_is_there(environment, variable):
    environment.delenv(variable)
    assert refused() == NEEDS
