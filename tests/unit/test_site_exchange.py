"""What two sites share is made by one of them and opened by the other, and the bundles come out as of one piece."""

from __future__ import annotations

import json
import re
import shutil
import stat
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from kme.settings import KmeSettings
from qkdrelay.broker.rabbitmq.tls import client_context
from qkdrelay.errors import QkdRelayError, RequestRefusedError, SettingsError
from qkdrelay.network.topology_file import load_topology, reference_topology
from qkdrelay.service import dotenv_file
from qkdrelay.service.settings import load
from qkdrelay_deployment import site_exchange, site_papers
from qkdrelay_deployment.own_site import write_site
from qkdrelay_deployment.site_answers import accept_signed
from qkdrelay_deployment.site_exchange import offer_secrets, shared_between, standing, take_offer
from qkdrelay_deployment.site_papers import Offer, paper_text, signed_by
from qkdrelay_deployment.site_requests import begin_site, sign_site
from qkdrelay_deployment.sites import write_sites
from support.fuzzing import fuzzed
from support.operators import CITIES, SHARED, SITES, Operators


@pytest.fixture
def operators(tmp_path):
    return Operators(tmp_path).certified()


@pytest.fixture(scope="module")
def offered(tmp_path_factory):
    """An offer of Berlin's to Munich that nobody has taken yet."""
    operators = Operators(tmp_path_factory.mktemp("offered")).certified()
    operators.offer("berlin", "munich")
    return operators


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def dotenv(operators, site):
    return dotenv_file.read(operators.bundle(site) / ".env")


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def exchange(operators):
    for one, other in SHARED:
        operators.offer(one, other)
        operators.take(one, other)


def exactly_refused(call, why, operators, *secret_of):
    """The refusal of a call, which has told no secret and written nothing."""
    before = tree(operators.root)
    with pytest.raises(QkdRelayError, match=why) as error:
        call()
    assert tree(operators.root) == before
    said = f"{error.value} {error.value.hint}"
    for site in secret_of:
        assert not any(value in said for value in dotenv(operators, site).values() if len(value) == 64)
    return error.value


def test_two_sites_share_the_links_between_them_and_control_keys_with_the_coordinators():
    for pair, names in SHARED.items():
        assert shared_between(CITIES, *pair) == shared_between(CITIES, *reversed(pair))
        assert sorted(shared_between(CITIES, *pair)) == sorted(names)
    assert shared_between(CITIES, "berlin", "vienna") == ()


# --- the whole walk --------------------------------------------------------------------------------------


def settings_of(bundle, kme, monkeypatch):
    """A KME's settings as compose would give them to its container."""
    text, values = (bundle / "docker-compose.yml").read_text(), dotenv_file.read(bundle / ".env")
    own = text.partition(f"QKDRELAY_KME: {kme}\n")[2].partition("\n\n")[0]
    shared = text.partition("\nservices:")[0]
    said = {"QKDRELAY_KME": kme}
    for part in (shared, own):
        for name, first, more in re.findall(
            r"^ +(QKDRELAY_\w+): (.*)\n((?: {8,}[^-\s].*\n)*)", part + "\n", re.MULTILINE
        ):
            said[name] = " ".join(more.split()) if first == ">-" else first.strip('"')
    for name, value in said.items():
        monkeypatch.setenv(
            name, re.sub(r"\$\{(\w+)(?::[-?]([^}]*))?\}", lambda found: values.get(found[1], found[2] or ""), value)
        )
    return load(KmeSettings)


def test_three_operators_come_to_bundles_that_fit_together(operators, monkeypatch):
    exchange(operators)
    for site in SITES:
        seen = load_topology(operators.bundle(site) / "deploy" / "topology.toml")
        write_site(seen, site, operators.root / site, environment={})
    settings = {}
    for site in SITES:
        bundle = operators.bundle(site)
        assert mode(bundle / ".env") == 0o600
        assert mode(bundle / "deploy" / "tls") == 0o700
        users = {user["name"] for user in json.loads((bundle / "deploy" / "definitions.json").read_text())["users"]}
        near = {other for pair in SHARED if site in pair for other in pair} - {site}
        assert {f"site.{other}" for other in near} <= users
        for folder in ("site", "rabbitmq"):
            client_context(bundle / "deploy" / "tls" / folder)
        for kme in CITIES.sites[site].kmes:
            with monkeypatch.context() as patched:
                settings[kme] = settings_of(bundle, kme, patched)
    for a, b in CITIES.links_of("simulated"):
        assert settings[a].links[b].secret == settings[b].links[a].secret
    assert settings["kme-1"].links["kme-4"].peer_sae == "kme-4"
    assert settings["kme-4"].links["kme-1"].url == "https://bob.example"
    coordinator = dotenv(operators, "munich")
    for kme, each in settings.items():
        assert each.control_key.get_secret_value() == coordinator[f"CONTROL_KEY_{kme.upper().replace('-', '_')}"]
        assert each.site == CITIES.site_of[kme]


def test_a_site_has_what_it_shares_and_nothing_else_of_others(operators):
    exchange(operators)
    for site in SITES:
        operators.provision(site)
    values = {site: dotenv(operators, site) for site in SITES}
    secrets = {
        site: {value for value in of.values() if re.fullmatch("[0-9a-f]{64}", value)} for site, of in values.items()
    }
    for pair, names in SHARED.items():
        one, other = pair
        assert secrets[one] & secrets[other] == {values[one][name] for name in names}
    assert not secrets["berlin"] & secrets["vienna"]


def test_a_bundle_is_the_one_that_provisioning_all_sites_would_keep(operators):
    exchange(operators)
    for site in SITES:
        operators.provision(site)
        shutil.copytree(operators.bundle(site), operators.root / "all" / site)
    shutil.copytree(operators.root / "hq" / "authority", operators.root / "all" / "authority")
    before = tree(operators.root / "all")
    write_sites(CITIES, operators.root / "all", environment={})
    changed = {str(path) for path, content in tree(operators.root / "all").items() if before.get(path) != content}
    # Passwords are salted anew each time.
    assert changed == {f"{site}/deploy/definitions.json" for site in SITES}


def test_doing_it_again_changes_nothing(operators):
    exchange(operators)
    for site in SITES:
        operators.provision(site)
    before = {site: tree(operators.bundle(site)) for site in SITES}
    for site in SITES:
        operators.request(site)
        operators.signed(site)
        operators.accept(site)
    exchange(operators)
    for site in SITES:
        operators.provision(site)
        changed = {
            path.name for path, content in tree(operators.bundle(site)).items() if before[site].get(path) != content
        }
        assert changed <= {"definitions.json", "accepted.signed"}


def test_what_a_bundle_lacks_is_listed_with_the_commands_and_nothing_is_written(tmp_path):
    operators = Operators(tmp_path)
    (tmp_path / "munich").mkdir()
    said = str(exactly_refused(lambda: operators.provision("munich"), "is not complete", operators))
    for part in (
        "the private keys: `coordinator site init munich`",
        "the certificates: `coordinator site accept munich.signed`",
        "the control key of kme-1, the key of berlin's command line, the secret of the link kme-1 to kme-2: "
        "ask site berlin for an offer, then `coordinator site take berlin-to-munich.offer`",
        "the control key of kme-4, the key of vienna's command line, the secret of the link kme-3 to kme-4: "
        "`coordinator site offer vienna`",
    ):
        assert part in said
    operators.certified()
    exchange(operators)
    operators.provision("munich")


def test_a_bundle_is_not_made_for_another_network_than_was_accepted(operators):
    exchange(operators)
    with pytest.raises(RequestRefusedError, match="not the one that the authority has given"):
        write_site(replace(CITIES, name="other"), "berlin", operators.root / "berlin", environment={})


def test_where_the_topology_names_no_sites_each_kme_is_one_and_has_its_saes(tmp_path):
    network = reference_topology()
    assert network.saes
    assert not network.sites
    for kme in network.kmes:
        begin_site(network, kme, tmp_path / kme)
    for kme in (*network.kmes, "kme-1"):
        sign_site(network, tmp_path / kme / f"{kme}.request", tmp_path)
    accept_signed(tmp_path / "kme-1.signed", tmp_path / "kme-1")
    for other in network.kmes[1:]:
        offer_secrets(tmp_path / "kme-1", other)
    written = write_site(network, "kme-1", tmp_path / "kme-1", environment={})
    assert tmp_path / "kme-1" / "kme-1" / "deploy" / "saes.json" in written.files


# --- offers ----------------------------------------------------------------------------------------------


def test_of_two_sites_one_makes_what_they_share(operators):
    said = exactly_refused(lambda: operators.offer("munich", "berlin"), "berlin makes what", operators)
    assert "site offer munich" in said.hint
    exactly_refused(lambda: operators.offer("berlin", "vienna"), "share no secret", operators)
    exactly_refused(lambda: operators.offer("berlin", "berlin"), "is this site", operators)
    exactly_refused(lambda: operators.offer("berlin", "paris"), "no site 'paris'", operators)


def test_an_offer_tells_no_secret_and_is_kept_as_one(offered):
    path = offered.root / "berlin" / "berlin-to-munich.offer"
    content = path.read_bytes()
    assert mode(path) == mode(offered.bundle("berlin") / ".env") == 0o600
    found = [value for name, value in dotenv(offered, "berlin").items() if name in SHARED["berlin", "munich"]]
    assert len(found) == len(SHARED["berlin", "munich"])
    for value in found:
        assert value.encode() not in content
        assert bytes.fromhex(value) not in msgspec.json.decode(content, type=Offer).sealed


def test_secrets_are_made_once(operators):
    operators.offer("berlin", "munich")
    first = dotenv(operators, "berlin")
    operators.offer("berlin", "munich")
    assert dotenv(operators, "berlin") == first


def test_the_same_offer_again_is_done_already(operators, monkeypatch):
    operators.offer("berlin", "munich")
    assert not operators.take("berlin", "munich").known_already
    before = tree(operators.bundle("munich"))
    assert operators.take("berlin", "munich").known_already
    late(monkeypatch, days=40)
    assert operators.take("berlin", "munich").known_already
    assert tree(operators.bundle("munich")) == before


def late(monkeypatch, **passed):
    for module in (site_papers, site_exchange):
        monkeypatch.setattr(module, "now", lambda: datetime.now(UTC) + timedelta(**passed))


def test_old_and_future_offers_are_refused(operators, monkeypatch):
    operators.offer("berlin", "munich")
    late(monkeypatch, days=31)
    said = exactly_refused(lambda: operators.take("berlin", "munich"), "older than 30 days", operators, "berlin")
    assert "--replace" in said.hint
    assert not operators.take("berlin", "munich", replace=True).known_already
    late(monkeypatch, minutes=-59)
    operators.take("berlin", "munich")
    late(monkeypatch, hours=0)
    offer = read(operators)
    rewrite(operators, made=offer.made + 7200)
    exactly_refused(lambda: operators.take("berlin", "munich"), "is from the future", operators, "berlin")


def test_another_secret_than_is_there_is_kept_unless_that_is_meant(operators):
    operators.offer("berlin", "munich")
    operators.take("berlin", "munich")
    (operators.bundle("berlin") / ".env").unlink()
    operators.offer("berlin", "munich")
    said = exactly_refused(
        lambda: operators.take("berlin", "munich"), "in .env is not what", operators, "berlin", "munich"
    )
    assert all(name in str(said) for name in SHARED["berlin", "munich"])
    operators.take("berlin", "munich", replace=True)
    names = SHARED["berlin", "munich"]
    assert [dotenv(operators, "munich")[name] for name in names] == [
        dotenv(operators, "berlin")[name] for name in names
    ]


def read(operators, one="berlin", other="munich"):
    path = operators.root / one / f"{one}-to-{other}.offer"
    return msgspec.json.decode(path.read_bytes(), type=Offer)


def rewrite(operators, by="berlin", /, **changes):
    """Berlin's offer to Munich with something else in it, signed by ``by`` all the same."""
    offer = msgspec.structs.replace(read(operators), **changes)
    signed = signed_by(standing(operators.root / by, by).key, offer)
    (operators.root / "berlin" / "berlin-to-munich.offer").write_text(paper_text(signed))


def test_an_offer_that_was_touched_is_refused(offered):
    content = (offered.root / "berlin" / "berlin-to-munich.offer").read_bytes()
    before = tree(offered.bundle("munich"))
    path = offered.root / "touched.offer"

    @fuzzed(200)
    @given(st.integers(0), st.integers(0, 7), st.sampled_from(["flip", "cut", "more"]))
    def check(at, bit, how):
        at %= len(content)
        touched = content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]
        path.write_bytes({"flip": touched, "cut": content[:at], "more": content + content[at:]}[how])
        with pytest.raises(QkdRelayError):
            take_offer(path, offered.root / "munich", replace=True)

    check()
    assert tree(offered.bundle("munich")) == before


FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "sender": st.sampled_from(SITES),
        "recipient": st.sampled_from(("berlin", "vienna")),
        "made": st.integers(0, 2**40),
        "sender_fingerprint": st.text("0123456789abcdef", min_size=64, max_size=64),
        "recipient_fingerprint": st.text("0123456789abcdef", min_size=64, max_size=64),
        "ephemeral": st.binary(max_size=70),
        "nonce": st.binary(max_size=20),
        "sealed": st.binary(max_size=300),
    },
)


def test_whoever_signs_it_an_offer_opens_only_as_it_was_sealed(offered):
    """Even the sender's own signature does not make an offer of what was put together from another."""
    whole = read(offered)
    munich = tree(offered.bundle("munich"))
    path = offered.root / "berlin" / "berlin-to-munich.offer"

    @fuzzed(100)
    @given(FIELDS, st.sampled_from(SITES))
    def check(changes, by):
        changed = any(getattr(whole, name) != value for name, value in changes.items())
        if not changed and by == "berlin":
            return
        rewrite(offered, by, **changes)
        try:
            for site in SITES:
                with pytest.raises(QkdRelayError):
                    take_offer(path, offered.root / site, replace=True)
        finally:
            path.write_text(paper_text(whole))

    check()
    assert tree(offered.bundle("munich")) == munich


def test_each_wrong_offer_is_told_by_name(operators):
    operators.offer("berlin", "munich")
    operators.offer("munich", "vienna")
    whole = paper_text(read(operators))
    others = {site: standing(operators.root / site, site).answer.site_certificate for site in SITES}
    for by, changes, why in (
        ("vienna", {}, r"not signed by site\.berlin"),
        ("vienna", {"sender_certificate": others["vienna"]}, r"is for 'site\.vienna', not for site\.berlin"),
        ("berlin", {"sender_certificate": "x"}, "is no certificate"),
        ("berlin", {"sender_fingerprint": "0" * 64}, "not the one that it names"),
        ("berlin", {"recipient_fingerprint": "0" * 64}, "for another certificate of munich"),
        ("vienna", {"sender": "vienna", "sender_certificate": others["vienna"]}, "not the one that it names"),
        ("berlin", {"sender": "paris"}, "no site 'paris'"),
        ("berlin", {"sender": "../x"}, "which is no site"),
        ("berlin", {"recipient": "../munich"}, "which is no site"),
        ("berlin", {"recipient": "vienna"}, "for site vienna, which is not in"),
        ("berlin", {"sender": "munich"}, "is this site"),
        ("berlin", {"v": 2}, "of version 2"),
        ("berlin", {"sealed": read(operators, "munich", "vienna").sealed}, "cannot be opened"),
    ):
        (operators.root / "berlin" / "berlin-to-munich.offer").write_text(whole)
        rewrite(operators, by, **changes)
        exactly_refused(lambda: operators.take("berlin", "munich"), why, operators, "berlin")
    for content in (b"", b"{}", b"[" * 100_000, (operators.root / "hq" / "berlin.signed").read_bytes()):
        path = operators.root / "berlin" / "berlin-to-munich.offer"
        path.write_bytes(content)
        exactly_refused(lambda: operators.take("berlin", "munich"), "is not another site's offer", operators)
    (operators.root / "berlin" / "berlin-to-munich.offer").write_text(whole)
    operators.take("berlin", "munich")


@pytest.mark.parametrize("held", [{}, {"CONTROL_KEY_KME_1": "0" * 64}, {"more": "0" * 64}, {"short": "0"}])
def test_an_offer_holds_just_what_two_sites_share(operators, held, monkeypatch):
    operators.offer("berlin", "munich")
    here = standing(operators.root / "berlin", "berlin")
    to = x509.load_pem_x509_certificate(here.answer.others["munich"].encode())
    names = SHARED["berlin", "munich"]
    if "more" in held:
        held = {**dict.fromkeys(names, "0" * 64), "PASSWORD_KME_2": "0" * 64}
    why = "does not hold just what"
    if "short" in held:
        held, why = dict.fromkeys(names, "0" * 63), "not 64 hexadecimal digits"
    path = operators.root / "berlin" / "berlin-to-munich.offer"
    path.write_text(paper_text(site_exchange._sealed(here, "munich", to, held)))
    exactly_refused(lambda: operators.take("berlin", "munich"), why, operators)


def test_an_offer_of_another_network_is_refused(operators, tmp_path):
    foreign = Operators(tmp_path / "foreign").certified()
    shutil.copy(foreign.offer("berlin", "munich"), operators.root / "berlin")
    exactly_refused(lambda: operators.take("berlin", "munich"), "not of this network's authority", operators)


def test_whose_key_was_replaced_can_offer_no_more(operators):
    operators.offer("berlin", "munich")
    shutil.copytree(operators.root / "berlin", operators.root / "stolen")
    time.sleep(1.1)  # certificates tell when they begin by the second
    shutil.rmtree(operators.root / "berlin")
    operators.request("berlin")
    operators.signed("berlin", replace=True)
    operators.signed("munich")
    operators.accept("munich")
    with pytest.raises(RequestRefusedError, match="of a key that was replaced"):
        take_offer(operators.root / "stolen" / "berlin-to-munich.offer", operators.root / "munich")


# --- whose certificate -----------------------------------------------------------------------------------


def test_without_the_others_certificate_nothing_is_offered_unless_it_is_given(tmp_path):
    operators = Operators(tmp_path)
    for site in ("berlin", "munich"):
        operators.request(site)
        operators.signed(site)
        operators.accept(site)
    exactly_refused(lambda: operators.offer("berlin", "munich"), r"certificate of site\.munich is not known", operators)
    tls = operators.bundle("munich") / "deploy" / "tls"
    for file, why in (
        (tls / "rabbitmq" / "cert.pem", r"is for 'broker\.munich', not for site\.munich"),
        (tls / "site" / "key.pem", "is no certificate"),
        (tls / "none.pem", "No such file"),
        (operators.bundle("berlin") / "deploy" / "tls" / "site" / "cert.pem", r"is for 'site\.berlin'"),
    ):
        exactly_refused(lambda file=file: operators.offer("berlin", "munich", certificate=file), why, operators)
    operators.offer("berlin", "munich", certificate=tls / "site" / "cert.pem")
    operators.take("berlin", "munich")


def test_before_it_has_certificates_a_site_offers_and_takes_nothing(tmp_path):
    operators = Operators(tmp_path)
    operators.request("berlin")
    exactly_refused(lambda: operators.offer("berlin", "munich"), "no site in .* has certificates yet", operators)
    exactly_refused(
        lambda: offer_secrets(tmp_path / "berlin", "munich", site="berlin"), "has no certificates yet", operators
    )


def test_where_several_sites_are_the_one_that_offers_is_named(tmp_path):
    operators = Operators(tmp_path).certified()
    for site in ("berlin", "munich"):
        shutil.copytree(operators.bundle(site), tmp_path / "both" / site)
    with pytest.raises(SettingsError, match=r"several sites are in .*berlin, munich") as error:
        offer_secrets(tmp_path / "both", "vienna")
    assert "--site" in error.value.hint
    offer_secrets(tmp_path / "both", "vienna", site="munich")


def test_expired_certificates_are_told(operators, monkeypatch):
    operators.offer("berlin", "munich")
    late(monkeypatch, days=398)
    exactly_refused(lambda: operators.take("berlin", "munich"), "has expired", operators)
    exactly_refused(lambda: operators.offer("berlin", "munich"), "has expired", operators)
