"""The certificates of a deployment: who is vouched for, what is kept, what is renewed, who can read the keys."""

import ssl
import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from qkdrelay.broker.rabbitmq.tls import client_context
from qkdrelay.errors import SettingsError
from qkdrelay_deployment.certificates import AUTHORITY_KEY, RENEW_BEFORE, Authority, valid_until
from qkdrelay_deployment.provision import provision_certificates, write_deployment
from support.network import DIAMOND

SERVICES = {"rabbitmq", "coordinator", "cli", "page", *DIAMOND.kmes}


@pytest.fixture
def folder(tmp_path):
    provision_certificates(DIAMOND, tmp_path)
    return tmp_path / "deploy" / "tls"


def certificate(folder, name):
    return x509.load_pem_x509_certificate((folder / name / "cert.pem").read_bytes())


def contents(folder):
    return {path.relative_to(folder): path.read_text() for path in folder.rglob("*.pem")}


def renewed(folder):
    """Provision again and name the services that got another certificate."""
    before = contents(folder)
    provision_certificates(DIAMOND, folder.parents[1])
    after = contents(folder)
    return {path.parts[0] for path in after if before.get(path) != after[path]}


def test_everyone_gets_a_key_and_a_certificate_of_the_one_authority(folder):
    authority = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
    numbers = set()
    for name in SERVICES:
        issued = certificate(folder, name)
        issued.verify_directly_issued_by(authority)
        numbers.add(issued.public_key().public_numbers())
        key = load_pem_private_key((folder / name / "key.pem").read_bytes(), None)
        assert key.public_key() == issued.public_key()
        client_context(folder / name)
    assert len(numbers) == len(SERVICES)
    assert {path.name for path in folder.iterdir() if path.is_dir()} == SERVICES


def test_a_client_cannot_pass_for_the_broker_which_is_known_by_each_of_its_names(folder):
    purposes = {
        name: list(certificate(folder, name).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        for name in SERVICES
    }
    assert [purpose._name for purpose in purposes.pop("rabbitmq")] == ["serverAuth"]
    assert {purpose._name for each in purposes.values() for purpose in each} == {"clientAuth"}
    names = certificate(folder, "rabbitmq").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["rabbitmq", "rabbitmq-2", "rabbitmq-3", "localhost"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_keys_are_behind_a_folder_for_their_owner_alone_and_that_of_the_authority_is_mounted_nowhere(folder):
    def mode(path):
        return stat.S_IMODE(path.stat().st_mode)

    assert mode(folder) == 0o700
    assert mode(folder / AUTHORITY_KEY) == 0o600
    # A service runs as a user of its own, and must be able to read what is mounted into it.
    assert {mode(folder / name / "key.pem") for name in SERVICES} == {0o644}
    write_deployment(DIAMOND, folder.parents[1], tls=True, environment={})
    overlay = (folder.parent / "tls.yml").read_text()
    assert AUTHORITY_KEY not in overlay
    assert {name for name in SERVICES if f'"./deploy/tls/{name}:/etc/qkdrelay/tls:ro"' in overlay} == SERVICES - {"cli"}


def test_certificates_that_last_are_kept(folder):
    assert renewed(folder) == set()


def test_what_is_missing_ending_damaged_or_foreign_is_issued_anew(folder):
    def write(name, pair):
        (folder / name / "cert.pem").write_text(pair[0])
        (folder / name / "key.pem").write_text(pair[1])

    key = load_pem_private_key((folder / AUTHORITY_KEY).read_bytes(), None)
    authority = Authority(x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes()), key)
    write("kme-1", authority.issue("kme-1", valid=RENEW_BEFORE - timedelta(minutes=1)))
    write("kme-2", authority.issue("kme-2", valid=RENEW_BEFORE + timedelta(minutes=5)))
    write("kme-3", Authority.new("another").issue("kme-3"))
    write("rabbitmq", authority.issue("rabbitmq", ["rabbitmq"]))
    (folder / "cli" / "key.pem").unlink()
    (folder / "coordinator" / "cert.pem").write_text("not this")
    assert renewed(folder) == {"kme-1", "kme-3", "rabbitmq", "cli", "coordinator"}
    assert valid_until((folder / "kme-1" / "cert.pem").read_text()) > datetime.now(UTC) + timedelta(days=365)


def test_the_authoritys_key_may_be_kept_elsewhere_until_something_is_to_be_issued(folder):
    (folder / AUTHORITY_KEY).unlink()
    assert renewed(folder) == set()
    (folder / "kme-1" / "cert.pem").unlink()
    with pytest.raises(SettingsError, match=r"ca-key\.pem is not there, and kme-1 needs") as refused:
        provision_certificates(DIAMOND, folder.parents[1])
    assert "put it back" in refused.value.hint


@pytest.mark.parametrize("damaged", ["ca.pem", AUTHORITY_KEY])
@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None])
def test_a_damaged_authority_is_refused_and_nothing_is_overwritten(folder, damaged, text):
    other = Authority.new("another")
    path = folder / damaged
    path.write_text(text if text is not None else other.pem if damaged == "ca.pem" else other.issue("x")[1])
    before = contents(folder)
    with pytest.raises(SettingsError, match="not the certificate and the key of one authority"):
        provision_certificates(DIAMOND, folder.parents[1])
    assert contents(folder) == before


# --- what a client makes of such a directory -------------------------------------------------------


def test_a_client_speaks_tls_1_2_or_later_and_checks_whom_it_speaks_to(folder):
    context = client_context(folder / "kme-1")
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert len(context.get_ca_certs()) == 1


ENCRYPTED = (
    Authority.new("any")
    .key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"a password"))
    .decode()
)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("ca.pem", None, r"ca\.pem: cannot be read: No such file"),
        ("ca.pem", "", r"ca\.pem: no certificate in PEM format"),
        ("ca.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n", r"ca\.pem: no certificate in PEM format"),
        ("cert.pem", None, r"cert\.pem: cannot be read"),
        ("key.pem", None, r"key\.pem: cannot be read"),
        ("cert.pem", "nothing", r"cert\.pem and .*key\.pem: not a certificate and its unencrypted key"),
        ("key.pem", ENCRYPTED, r"cert\.pem and .*key\.pem: not a certificate and its unencrypted key"),
        ("key.pem", Authority.new("another").issue("x")[1], r"key\.pem: not the key of .*cert\.pem"),
    ],
)
def test_a_directory_that_cannot_be_used_is_named_with_the_file_that_is_wrong(folder, file, text, said):
    path = folder / "kme-1" / file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(SettingsError, match=said) as refused:
        client_context(folder / "kme-1")
    assert "make certs" in refused.value.hint
    assert "\n" not in str(refused.value)


def test_a_client_without_a_certificate_of_its_own_is_possible(folder):
    for file in ("cert.pem", "key.pem"):
        (folder / "cli" / file).unlink()
    client_context(folder / "cli")
