"""The certificates of SAEs: whom a KME lets in by them, who is revoked, what is kept, who can read the keys."""

import json
import shutil
import ssl
import stat
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from qkdrelay.errors import SettingsError
from qkdrelay_deployment.certificates import AUTHORITY_KEY, RENEW_BEFORE, Authority
from qkdrelay_deployment.provision import provision_certificates, write_deployment
from qkdrelay_deployment.sae_changes import add_sae, provision_sae_certificates, remove_sae, renew_sae
from qkdrelay_deployment.variables import APPLICATIONS_ADDRESS
from support.network import DIAMOND_WITH_SAES


@pytest.fixture
def folder(root):
    return root / "deploy"


def pair_of(folder, name):
    return (folder / name / "cert.pem").read_text(), (folder / name / "key.pem").read_text()


def certificate(folder):
    return x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())


def contents(folder):
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*.pem")}


def let_in(folder, kme, client, host="127.0.0.1"):
    """The common name under which ``kme`` lets a client in that shows what is in its folder; None if it does not."""
    own = folder / "kmes" / kme / "saes"
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(own / "cert.pem", own / "key.pem")
    server.load_verify_locations(own / "ca.pem")
    server.load_verify_locations(own / "crl.pem")
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    asking = ssl.create_default_context(cafile=folder / "saes" / "sae-1" / "ca.pem")
    asking.load_cert_chain(client / "cert.pem", client / "key.pem")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        server.wrap_bio(to_server, to_client, server_side=True),
        asking.wrap_bio(to_client, to_server, server_hostname=host),
    ]
    waiting = list(ends)
    while waiting:
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return None if end is ends[0] else pytest.fail(str(error))
    (name,) = (value for ((key, value),) in ends[0].getpeercert()["subject"] if key == "commonName")
    return name


def test_a_kme_lets_in_whoever_has_a_certificate_of_this_authority_for_a_client(folder, tmp_path):
    assert let_in(folder, "kme-1", folder / "saes" / "sae-1") == "sae-1"
    assert let_in(folder, "kme-4", folder / "saes" / "sae-4", host="localhost") == "sae-4"
    assert let_in(folder, "kme-1", folder / "kmes" / "kme-4" / "saes") is None, "it is one for servers"
    provision_certificates(DIAMOND_WITH_SAES, tmp_path)
    assert let_in(folder, "kme-1", folder / "tls" / "kme-1") is None, "it is of the broker's authority"


def test_a_certificate_says_who_it_is_for_and_for_what(folder):
    for sae in DIAMOND_WITH_SAES.saes:
        issued = certificate(folder / "saes" / sae)
        assert [name.value for name in issued.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == [sae]
        usage = issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    for kme in DIAMOND_WITH_SAES.kmes:
        issued = certificate(folder / "kmes" / kme / "saes")
        usage = issued.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
        names = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert names.get_values_for_type(x509.DNSName) == [kme, "localhost"]
        assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_a_kmes_is_also_for_the_address_that_it_is_published_at(folder, root):
    write_deployment(DIAMOND_WITH_SAES, root, environment={APPLICATIONS_ADDRESS: "192.0.2.7"})
    for host in ("192.0.2.7", "kme-1", "127.0.0.1"):
        assert let_in(folder, "kme-1", folder / "saes" / "sae-1", host=host) == "sae-1"


def test_its_authority_is_not_the_brokers(folder, tmp_path):
    provision_certificates(DIAMOND_WITH_SAES, tmp_path)
    own, brokers = (x509.load_pem_x509_certificate((folder / name / "ca.pem").read_bytes()) for name in AUTHORITIES)
    assert own.public_key() != brokers.public_key()
    assert own.subject != brokers.subject


AUTHORITIES = ("sae-authority", "tls")


def test_keys_are_for_their_owner_alone_but_that_a_kmes_container_reads_its_own(folder):
    def mode(*path):
        return stat.S_IMODE(folder.joinpath(*path).stat().st_mode)

    assert mode("sae-authority") == mode("saes") == mode("kmes") == 0o700
    assert mode("sae-authority", AUTHORITY_KEY) == mode("saes", "sae-1", "key.pem") == 0o600
    for kme in DIAMOND_WITH_SAES.kmes:
        assert mode("kmes", kme, "saes") == 0o755
        assert {mode("kmes", kme, "saes", path.name) for path in (folder / "kmes" / kme / "saes").iterdir()} == {0o644}
    mounted = (folder.parent / "docker-compose.yml").read_text()
    assert "sae-authority" not in mounted
    assert "deploy/saes" not in mounted


def test_what_lasts_is_kept_and_what_ends_renewed_without_revoking_it_at_once(folder, tmp_path):
    before = contents(folder)
    provision_sae_certificates(DIAMOND_WITH_SAES, tmp_path)
    assert contents(folder) == before
    key = load_pem_private_key((folder / "sae-authority" / AUTHORITY_KEY).read_bytes(), None)
    authority = Authority(x509.load_pem_x509_certificate((folder / "sae-authority" / "ca.pem").read_bytes()), key)
    for path in (folder / "saes" / "sae-1", tmp_path / "old"):
        path.mkdir(exist_ok=True)
    ending = authority.issue("sae-1", valid=RENEW_BEFORE - timedelta(minutes=1))
    for path in (folder / "saes" / "sae-1", tmp_path / "old"):
        for name, text in zip(("cert.pem", "key.pem"), ending, strict=True):
            (path / name).write_text(text)
    provision_sae_certificates(DIAMOND_WITH_SAES, tmp_path)
    after = contents(folder)
    changed = {path for path in after if path not in before or after[path] != before[path]}
    assert changed == {"saes/sae-1/cert.pem", "saes/sae-1/key.pem"}
    assert certificate(folder / "saes" / "sae-1").not_valid_after_utc > datetime.now(UTC) + timedelta(days=365)
    assert let_in(folder, "kme-1", tmp_path / "old") == "sae-1"


def test_who_is_struck_off_is_revoked_and_stays_so_when_the_id_comes_back(folder, tmp_path):
    shutil.copytree(folder / "saes" / "sae-4", tmp_path / "stolen")
    remove_sae(tmp_path, "sae-4")
    assert not (folder / "saes" / "sae-4").exists()
    add_sae(tmp_path, "sae-4", "kme-4")
    for kme in DIAMOND_WITH_SAES.kmes:
        assert let_in(folder, kme, tmp_path / "stolen") is None
        assert let_in(folder, kme, folder / "saes" / "sae-4") == "sae-4"
        assert let_in(folder, kme, folder / "saes" / "sae-1") == "sae-1"


def test_a_certificate_that_was_deleted_here_is_revoked_too(folder, tmp_path):
    shutil.copytree(folder / "saes" / "sae-4", tmp_path / "copied")
    shutil.rmtree(folder / "saes" / "sae-4")
    remove_sae(tmp_path, "sae-4")
    assert let_in(folder, "kme-4", tmp_path / "copied") is None


def test_whoever_is_renewed_has_another_and_the_one_before_is_revoked(folder, tmp_path):
    shutil.copytree(folder / "saes" / "sae-4", tmp_path / "stolen")
    (folder / "sae-authority" / "issued.json").unlink()  # lost: the one that is here is still known
    renew_sae(tmp_path, "sae-4")
    assert let_in(folder, "kme-4", tmp_path / "stolen") is None
    assert let_in(folder, "kme-4", folder / "saes" / "sae-4") == "sae-4"


def test_with_the_authoritys_key_elsewhere_saes_are_struck_off_and_revoked_once_it_is_back(folder, tmp_path):
    shutil.copytree(folder / "saes" / "sae-4", tmp_path / "stolen")
    key = (folder / "sae-authority" / AUTHORITY_KEY).rename(tmp_path / "elsewhere")
    assert remove_sae(tmp_path, "sae-4").not_revoked == ("sae-4",)
    assert "sae-4" not in (folder / "kmes" / "kme-4" / "saes" / "saes.toml").read_text()
    with pytest.raises(SettingsError, match=r"ca-key\.pem is not there, and sae-4 needs a new certificate"):
        add_sae(tmp_path, "sae-4", "kme-4")
    assert provision_sae_certificates(DIAMOND_WITH_SAES, tmp_path).not_revoked == ("sae-4",)
    key.rename(folder / "sae-authority" / AUTHORITY_KEY)
    assert provision_sae_certificates(DIAMOND_WITH_SAES, tmp_path).not_revoked == ()
    assert let_in(folder, "kme-4", tmp_path / "stolen") is None


def test_the_list_of_the_revoked_outlasts_every_certificate_and_keeps_nothing_for_ever(folder, tmp_path):
    def revoked():
        listed = x509.load_pem_x509_crl((folder / "sae-authority" / "crl.pem").read_bytes())
        assert listed.next_update_utc > datetime.now(UTC) + timedelta(days=3600)
        return len(listed)

    assert revoked() == 0
    for number in range(3):
        renew_sae(tmp_path, "sae-4")
        assert revoked() == number + 1
    issued = folder / "sae-authority" / "issued.json"
    ended = {
        serial: {**entry, "until": "2020-01-01T00:00:00Z"} for serial, entry in json.loads(issued.read_text()).items()
    }
    issued.write_text(json.dumps(ended))
    provision_sae_certificates(DIAMOND_WITH_SAES, tmp_path)
    assert len(json.loads(issued.read_text())) == 2


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"zz": {"sae": "sae-1", "until": "2030-01-01T00:00:00Z"}}', '{"1": {}}']
)
def test_a_damaged_list_of_what_was_issued_is_refused_and_nothing_overwritten(folder, tmp_path, text):
    (folder / "sae-authority" / "issued.json").write_text(text)
    before = contents(folder)
    with pytest.raises(SettingsError, match="is not the list of certificates issued to SAEs"):
        remove_sae(tmp_path, "sae-4")
    assert contents(folder) == before
    assert "sae-4" in (folder / "kmes" / "kme-4" / "saes" / "saes.toml").read_text()


def test_with_another_authority_all_is_issued_anew(folder, tmp_path):
    shutil.copytree(folder / "saes" / "sae-4", tmp_path / "before")
    shutil.rmtree(folder / "sae-authority")
    provision_sae_certificates(DIAMOND_WITH_SAES, tmp_path)
    assert let_in(folder, "kme-4", folder / "saes" / "sae-4") == "sae-4"
    assert let_in(folder, "kme-4", tmp_path / "before") is None
