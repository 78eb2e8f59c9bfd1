"""A site's private keys never leave it: what it asks the authority for, what that certifies, what the site accepts."""

from __future__ import annotations

import base64
import shutil
import stat
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from qkdrelay.broker.rabbitmq.tls import client_context
from qkdrelay.errors import QkdRelayError, RequestRefusedError, SettingsError, TopologyError
from qkdrelay.network.sites import Site
from qkdrelay.network.topology_file import load_topology
from qkdrelay_deployment import site_papers
from qkdrelay_deployment.certificates import Authority, alternatives
from qkdrelay_deployment.site_answers import accept_signed
from qkdrelay_deployment.site_certificates import broker_hosts, common_name
from qkdrelay_deployment.site_papers import Signed, keys_fingerprint, paper_text, signed_by
from qkdrelay_deployment.site_requests import begin_site, sign_site
from support.fuzzing import fuzzed
from support.operators import CITIES, SITES, Operators

HOSTS = broker_hosts(CITIES, "berlin")


@pytest.fixture
def operators(tmp_path):
    return Operators(tmp_path)


@pytest.fixture
def later(monkeypatch):
    """Let time pass."""

    def later(**passed):
        monkeypatch.setattr(site_papers, "now", lambda: datetime.now(UTC) + timedelta(**passed))

    return later


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def tree(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def csr(name, hosts=(), key=None, **names):
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    subject += [x509.NameAttribute(getattr(NameOID, kind), value) for kind, value in names.items()]
    builder = x509.CertificateSigningRequestBuilder(x509.Name(subject))
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(alternatives(hosts)), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def test_keys_are_made_once_behind_a_folder_of_their_owners_and_the_request_tells_no_secret(operators):
    path = operators.request("berlin")
    tls = operators.bundle("berlin") / "deploy" / "tls"
    keys = {file: file.read_bytes() for file in tls.rglob("key.pem")}
    assert sorted(file.parent.name for file in keys) == ["rabbitmq", "site"]
    assert mode(tls) == 0o700
    assert path.read_text().count("BEGIN") == path.read_text().count("BEGIN CERTIFICATE REQUEST") == 2
    before = begin_site(CITIES, "berlin", operators.root / "berlin").fingerprint
    assert begin_site(CITIES, "berlin", operators.root / "berlin").fingerprint == before
    assert {file: file.read_bytes() for file in tls.rglob("key.pem")} == keys


def test_a_site_that_is_not_in_the_topology_is_not_begun(operators):
    with pytest.raises(TopologyError, match="no site 'berlim'"):
        begin_site(CITIES, "berlim", operators.root)
    assert list(operators.root.iterdir()) == []


def test_a_damaged_key_is_named_and_kept(operators):
    operators.request("berlin")
    key = operators.bundle("berlin") / "deploy" / "tls" / "site" / "key.pem"
    for content in (b"nothing", key.read_bytes()[:60]):
        key.write_bytes(content)
        with pytest.raises(SettingsError, match="is no private key") as error:
            operators.request("berlin")
        assert str(key) in str(error.value)
        assert key.read_bytes() == content


def test_the_authority_takes_the_keys_and_nothing_else(operators):
    operators.request("berlin")
    operators.signed("berlin")
    root = operators.accept("berlin")
    for folder, name, hosts in (("site", "site.berlin", None), ("rabbitmq", "broker.berlin", alternatives(HOSTS))):
        files = root / "deploy" / "tls" / folder
        client_context(files)
        found = x509.load_pem_x509_certificate((files / "cert.pem").read_bytes())
        assert common_name((files / "cert.pem").read_text()) == name
        assert len(found.subject.rdns) == 1
        assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        if hosts:
            assert list(found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value) == hosts
    assert not list((operators.root / "hq").rglob("key.pem"))
    assert mode(operators.root / "hq" / "authority") == 0o700
    assert mode(operators.root / "hq" / "authority" / "ca-key.pem") == 0o600


def test_a_site_sees_of_devices_its_own_alone(operators):
    operators.certified()
    seen = (operators.bundle("berlin") / "deploy" / "topology.toml").read_text()
    assert "alice.example" in seen
    assert "bob.example" not in seen
    assert set(load_topology(operators.bundle("berlin") / "deploy" / "topology.toml").sites) == set(SITES)


def test_signing_again_keeps_certificates_and_brings_those_of_others(operators):
    for site in SITES:
        operators.request(site)
    first = msgspec.json.decode(operators.signed("berlin").read_bytes(), type=Signed)
    operators.signed("munich")
    again = msgspec.json.decode(operators.signed("berlin").read_bytes(), type=Signed)
    assert (again.site_certificate, again.broker_certificate) == (first.site_certificate, first.broker_certificate)
    assert (set(first.others), set(again.others)) == (set(), {"munich"})


SITE, BROKER = csr("site.berlin"), csr("broker.berlin", HOSTS)
ONE_KEY = ec.generate_private_key(ec.SECP256R1())
WEAK = (rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256K1()))
REFUSED = {
    "empty": ("", "not a site's request"),
    "no request": ("hello\n", "not a site's request"),
    "one": (SITE, "not a site's request"),
    "doubled": (SITE + BROKER + SITE + BROKER, "not a site's request"),
    "truncated": ((SITE + BROKER)[:-40], "not a site's request"),
    "more": (SITE + BROKER + "and more\n", "not a site's request"),
    "certificates": ((SITE + BROKER).replace("CERTIFICATE REQUEST", "CERTIFICATE"), "not a site's request"),
    "the operator": (csr("operator") + BROKER, "only a site and its broker"),
    "a KME": (csr("kme-1") + csr("kme-1", HOSTS), "only a site and its broker"),
    "the coordinator": (csr("coordinator") + csr("broker.coordinator", HOSTS), "only a site and its broker"),
    "turned round": (BROKER + SITE, "only a site and its broker"),
    "one twice": (SITE + SITE, "only a site and its broker"),
    "of two sites": (SITE + csr("broker.munich", HOSTS), "only a site and its broker"),
    "more than a name": (csr("site.berlin", ORGANIZATION_NAME="x") + BROKER, "only a site and its broker"),
    "two names": (csr("site.berlin", COMMON_NAME="operator") + BROKER, "only a site and its broker"),
    "of no site": (csr("site.paris") + csr("broker.paris", HOSTS), "no site 'paris'"),
    "of a path": (csr("site.../x") + csr("broker.../x", HOSTS), "no site '../x'"),
    "a foreign host": (SITE + csr("broker.berlin", ("evil.example", *HOSTS[1:])), "asks for hosts"),
    "one host more": (SITE + csr("broker.berlin", (*HOSTS, "evil.example")), "asks for hosts"),
    "no hosts": (SITE + csr("broker.berlin"), "asks for hosts"),
    "a site with hosts": (csr("site.berlin", HOSTS) + BROKER, "asks for hosts"),
    "RSA 2048": (csr("site.berlin", key=WEAK[0]) + BROKER, "key of a kind"),
    "secp256k1": (csr("site.berlin", key=WEAK[1]) + BROKER, "key of a kind"),
    "one key": (csr("site.berlin", key=ONE_KEY) + csr("broker.berlin", HOSTS, ONE_KEY), "one key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_the_request_of_a_site_is_refused_and_nothing_written(tmp_path, case):
    text, why = REFUSED[case]
    (tmp_path / "x.request").write_text(text)
    with pytest.raises(QkdRelayError, match=why):
        sign_site(CITIES, tmp_path / "x.request", tmp_path / "hq")
    assert not (tmp_path / "hq" / "authority").exists()


def test_strong_keys_of_other_kinds_are_certified(tmp_path):
    keys = (rsa.generate_private_key(65537, 3072), ec.generate_private_key(ec.SECP384R1()))
    path = tmp_path / "x.request"
    path.write_text(csr("site.berlin", key=keys[0]) + csr("broker.berlin", HOSTS, keys[1]))
    done = sign_site(CITIES, path, tmp_path)
    assert done.fingerprint == keys_fingerprint(*(key.public_key() for key in keys))


def test_a_request_whose_host_the_authority_knows_otherwise_is_refused(operators):
    path = operators.request("berlin")
    moved = replace(CITIES, sites={**CITIES.sites, "berlin": Site(("kme-1",), "other.example")})
    with pytest.raises(RequestRefusedError, match="asks for hosts"):
        sign_site(moved, path, operators.root / "hq")


def test_windows_line_ends_do_no_harm(operators):
    path = operators.request("berlin")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    operators.signed("berlin")
    operators.accept("berlin")


def test_who_has_other_keys_than_before_is_refused_unless_that_is_meant(operators):
    operators.certified()
    shutil.rmtree(operators.root / "berlin")
    operators.request("berlin")
    with pytest.raises(RequestRefusedError, match=r"site\.berlin has been certified with another key") as error:
        operators.signed("berlin")
    assert "--replace" in error.value.hint
    operators.signed("berlin", replace=True)
    operators.accept("berlin")


def test_without_its_key_the_authority_signs_nothing(operators):
    operators.certified()
    (operators.root / "hq" / "authority" / "ca-key.pem").unlink()
    before = tree(operators.root)
    with pytest.raises(SettingsError, match=r"ca-key\.pem is not there"):
        operators.signed("berlin")
    assert tree(operators.root) == before


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """Berlin's request and the answer, not accepted yet; a folder for tries."""
    operators = Operators(tmp_path_factory.mktemp("fresh"))
    operators.request("berlin")
    operators.signed("berlin")
    return operators


def flipped(content, at, bit):
    at %= len(content)
    return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


def test_a_request_that_was_touched_is_refused(fresh):
    content = (fresh.root / "berlin" / "berlin.request").read_bytes()
    true = sign_site(CITIES, fresh.root / "berlin" / "berlin.request", fresh.root / "hq").fingerprint

    @fuzzed(60)
    @given(st.integers(0), st.integers(0, 7), st.integers(0, 1))
    def check(at, bit, cut):
        path = fresh.root / "touched.request"
        path.write_bytes(content[: at % len(content)] if cut else flipped(content, at, bit))
        try:
            done = sign_site(CITIES, path, fresh.root / "hq")
        except QkdRelayError:
            return
        assert done.fingerprint == true  # spare bits of base64 say nothing

    check()


def test_an_answer_that_was_touched_is_refused_and_nothing_written(fresh):
    content = (fresh.root / "hq" / "berlin.signed").read_bytes()
    before = tree(fresh.bundle("berlin"))

    @fuzzed(100)
    @given(st.integers(0), st.integers(0, 7), st.integers(0, 1))
    def check(at, bit, cut):
        path = fresh.root / "touched.signed"
        path.write_bytes(content[: at % len(content)] if cut else flipped(content, at, bit))
        with pytest.raises(QkdRelayError):
            accept_signed(path, fresh.root / "berlin")

    check()
    assert tree(fresh.bundle("berlin")) == before


@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"[]", b"{}", b"[" * 100_000, b"\xff" * 9, b'{"kind":"qkdrelay-signed"}']
)
def test_what_is_no_answer_is_refused_by_name(fresh, content):
    path = fresh.root / "none.signed"
    path.write_bytes(content)
    with pytest.raises(RequestRefusedError, match=r"none\.signed is not the authority's answer"):
        accept_signed(path, fresh.root / "berlin")


def test_an_answer_for_another_site_or_other_keys_is_refused(operators):
    operators.certified()
    with pytest.raises(SettingsError, match="private keys of site munich are not here"):
        accept_signed(operators.root / "hq" / "munich.signed", operators.root / "berlin")
    shutil.rmtree(operators.root / "berlin")
    operators.request("berlin")
    with pytest.raises(RequestRefusedError, match="not for the key that is here"):
        operators.accept("berlin")


def test_another_authority_is_taken_only_if_that_is_meant(operators):
    operators.certified()
    shutil.rmtree(operators.root / "hq")
    operators.signed("berlin")
    before = tree(operators.bundle("berlin"))
    with pytest.raises(RequestRefusedError, match="is of another authority") as error:
        operators.accept("berlin")
    assert "--replace" in error.value.hint
    assert tree(operators.bundle("berlin")) == before
    operators.accept("berlin", replace=True)


def test_another_authority_is_noticed_where_the_keys_were_made_anew(operators):
    operators.certified()
    shutil.rmtree(operators.root / "hq")
    shutil.rmtree(operators.bundle("berlin") / "deploy" / "tls")
    operators.request("berlin")
    operators.signed("berlin")
    with pytest.raises(RequestRefusedError, match="is of another authority"):
        operators.accept("berlin")


def resigned(operators, site, /, **changes):
    """The answer for a site with something else in it, signed by the authority all the same."""
    hq = operators.root / "hq"
    key = site_papers.private_key(hq / "authority" / "ca-key.pem")
    answer = msgspec.json.decode((hq / f"{site}.signed").read_bytes(), type=Signed)
    (hq / f"{site}.signed").write_text(paper_text(signed_by(key, msgspec.structs.replace(answer, **changes))))


def test_late_early_and_old_answers_are_refused(operators, monkeypatch):
    operators.certified()
    made = msgspec.json.decode((operators.root / "hq" / "berlin.signed").read_bytes(), type=Signed).made
    for when, why in ((made - 9, "older than what was accepted"), (made + 9999, "is from the future")):
        resigned(operators, "berlin", made=when)
        with pytest.raises(RequestRefusedError, match=why):
            operators.accept("berlin")
    resigned(operators, "berlin", made=made)
    for passed, why in ((timedelta(days=400), "has expired"), (timedelta(hours=-3), "is not valid before")):
        monkeypatch.setattr(site_papers, "now", lambda passed=passed: datetime.now(UTC) + passed)
        with pytest.raises(RequestRefusedError, match=why):
            operators.accept("berlin")


def test_even_the_authority_certifies_no_other_names_hosts_or_paths(operators):
    operators.certified()
    whole = (operators.root / "hq" / "berlin.signed").read_bytes()
    answer = msgspec.json.decode(whole, type=Signed)
    munich = msgspec.json.decode((operators.root / "hq" / "munich.signed").read_bytes(), type=Signed)
    for changes, why in (
        ({"site_certificate": munich.site_certificate}, r"is for 'site\.munich', not for site\.berlin"),
        ({"broker_certificate": answer.site_certificate}, r"is for 'site\.berlin', not for broker\.berlin"),
        ({"site_certificate": "x"}, "is no certificate"),
        ({"site": "../berlin"}, "which is no site"),
        ({"topology": answer.topology.replace("qkd.berlin", "evil.berlin")}, "for another host"),
        ({"topology": answer.topology.replace("berlin", "paris")}, "no site 'berlin'"),
        ({"v": 2}, "is of version 2"),
        ({"authority": Authority.new("x").pem}, "not signed by"),
        ({"authority": answer.site_certificate}, "not one of an authority"),
    ):
        (operators.root / "hq" / "berlin.signed").write_bytes(whole)
        resigned(operators, "berlin", **changes)
        with pytest.raises(QkdRelayError, match=why):
            operators.accept("berlin")


def test_no_private_key_is_in_anything_that_is_sent(operators):
    operators.certified()
    sent = [*operators.root.rglob("*.request"), *operators.root.rglob("*.signed")]
    assert sent
    for path in operators.root.rglob("*key.pem"):
        key = site_papers.private_key(path)
        secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).split(b"\n")[1:-2]
        number = key.private_numbers().private_value.to_bytes(32)
        for file in sent:
            content = file.read_bytes()
            assert not any(line in content for line in secret if len(line) > 30)
            assert number not in content
            assert number.hex().encode() not in content


def pem(kind, der):
    lines = base64.encodebytes(der).decode().replace("\n", "")
    body = "\n".join(lines[at : at + 64] for at in range(0, len(lines), 64))
    return f"-----BEGIN {kind}-----\n{body}\n-----END {kind}-----\n"


def test_whatever_is_within_a_certificate_or_request_it_is_read_or_refused(fresh):
    """Bits of the DER itself: also versions, extensions and keys that nobody knows."""
    answer = msgspec.json.decode((fresh.root / "hq" / "berlin.signed").read_bytes(), type=Signed)
    certificate = x509.load_pem_x509_certificate(answer.broker_certificate.encode()).public_bytes(Encoding.DER)
    authority = x509.load_pem_x509_certificate(answer.authority.encode())
    asked = x509.load_pem_x509_csr(BROKER.encode()).public_bytes(Encoding.DER)
    path = fresh.root / "touched.request"

    def certified(der):
        found = site_papers.load_certificate(pem("CERTIFICATE", der), "it")
        site_papers.check_certificate(found, "broker.berlin", authority, "it")

    def requested(der):
        path.write_text(SITE + pem("CERTIFICATE REQUEST", der))
        sign_site(CITIES, path, fresh.root / "other")

    certified(certificate)
    with pytest.raises(RequestRefusedError, match="is no certificate"):
        certified(certificate.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x0a", 1))

    @fuzzed(200)
    @given(st.integers(0), st.integers(0, 7), st.sampled_from([(certified, certificate), (requested, asked)]))
    def check(at, bit, what):
        use, der = what
        with pytest.raises(QkdRelayError):
            use(flipped(der, at, bit))

    check()
