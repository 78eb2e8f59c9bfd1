"""A QKD device asked over ETSI GS QKD 014: keys as it gave them, and of all else a word that says what it did."""

import ipaddress
import socket
import time
from contextlib import contextmanager

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from kme.devices import client
from kme.devices.answers import DeviceError
from kme.devices.client import ANSWER_BYTES_MAX, Device, DeviceSettings
from qkdrelay.errors import SettingsError
from support.device import Pair, serving
from support.saes import Authority


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The device's authority, its certificate, and that of the KME."""
    folder = tmp_path_factory.mktemp("device")
    authority = Authority(folder / "ca", name="vendor")
    authority.server(folder / "server")
    ours = folder / "kme"
    ours.mkdir()
    authority.issue("kme-1", names=["kme-1"], usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    authority.files("kme-1", ours)
    return folder, authority, ours


@pytest.fixture
def pair():
    return Pair()


@pytest.fixture
def device(files, pair, monkeypatch):
    monkeypatch.setattr(client, "WITHIN_S", 1.0)
    folder, authority, ours = files
    with serving(pair, folder / "server", authority.path) as port:
        found = Device(DeviceSettings(f"https://127.0.0.1:{port}", "sae b/1", ours))
        yield found
        found.close()


def test_what_one_end_draws_the_other_fetches(device, pair):
    status = device.status()
    assert (status.stored_keys, status.key_bits, status.keys_per_request) == (1_000, 256, 128)
    drawn = device.draw(3)
    assert [len(key.key) for key in drawn] == [32, 32, 32]
    assert device.fetch([key.key_id for key in reversed(drawn)]) == drawn[::-1]
    assert [len(key.key) for key in device.draw(1, 1024)] == [128]
    assert pair.asked[1:3] == [
        ("POST", "sae b/1", "enc_keys", {"number": 3}),
        ("POST", "sae b/1", "dec_keys", {"key_IDs": [{"key_ID": key.key_id} for key in reversed(drawn)]}),
    ]


def test_ids_in_upper_case_are_kept_as_the_device_wrote_them(device, pair):
    pair.mood = lambda handler, _what, _asked: handler.give([("0A1B", bytes(32))])
    (key,) = device.draw(1)
    assert key.key_id == "0A1B"
    pair.mood = lambda handler, _what, _asked: handler.give([("0a1b", bytes(32))])
    assert device.fetch(["0A1B"])[0].key_id == "0a1b"


def test_no_key_is_shown_by_what_holds_it(device):
    (key,) = device.draw(1)
    assert key.key.hex() not in repr(key)
    assert repr(key.key)[2:-1] not in repr(key)


def answers(found, status=200, **headers):
    return lambda handler, _what, _asked: handler.answer(found, status, **headers)


def gives(*keys):
    return lambda handler, _what, _asked: handler.give(keys)


def entry(**fields):
    return answers({"keys": [{"key_ID": "a", "key": "AAAAAAAAAAAAAAAAAAAAAA==", **fields}]})


@pytest.mark.parametrize(
    ("mood", "said"),
    [
        (answers({"message": "no keys left"}, 400), "enc_keys: it gives none now (400: no keys left)"),
        (answers({"message": "later"}, 503), "enc_keys: it gives none now (503: later)"),
        (answers(b"", 401), "enc_keys: it gives none now (401)"),
        (answers(b"not found\n", 404), "enc_keys: it gives none now (404: not found)"),
        (answers(b"<html><body>oops</body></html>", 500), "enc_keys: it answers 500"),
        (answers({"message": "x"}, 415), "enc_keys: it answers 415: x"),
        (answers(b"", 307, Location="/api/v1/keys/b/enc_keys/"), "it answers 307 and sends us to /api/v1/keys/b/enc_k"),
        (answers({"message": "a\n\x1b[2Jb" + "c" * 500}, 503), "(503: a\\n\\u001b[2Jb" + "c" * 110),
        (answers(b"not JSON"), "the answer is no key container: "),
        (answers(b"[" * 100_000), "the answer is no key container: Expected `object`, got `array`"),
        (answers(b'{"keys": [], "more": ' + b"[" * 100_000), "the answer is no key container: "),
        (answers(b"\xff\xfe"), "the answer is no key container: "),
        (answers(b'{"keys": [{"key_ID": "\xff"}]}'), "the answer is no key container: it is no JSON"),
        (answers([]), "Expected `object`, got `array`"),
        (answers({}), "Object missing required field `keys`"),
        (answers({"keys": "none"}), "Expected `array`, got `str` - at `$.keys`"),
        (answers({"keys": []}), "Expected `array` of length >= 1 - at `$.keys`"),
        (gives(*[(str(n), bytes(32)) for n in range(129)]), "Expected `array` of length <= 128 - at `$.keys`"),
        (entry(key_ID=None), "Expected `str`, got `null` - at `$.keys[0].key_ID`"),
        (entry(key_ID="x" * 200), "Expected `str` of length <= 128 - at `$.keys[0].key_ID`"),
        (entry(key_ID="a\nb"), "a key_ID that cannot be printed"),
        (entry(key=7), "Expected `bytes`, got `int` - at `$.keys[0].key`"),
        (entry(key="*secret" * 2), "Invalid base64 encoded string - at `$.keys[0].key`"),
        (entry(key="AAAA"), "Expected `bytes` of length >= 8 - at `$.keys[0].key`"),
        (gives(("a", bytes(129))), "Expected `bytes` of length <= 128 - at `$.keys[0].key`"),
        (gives(("a", bytes(32)), ("A", b"1" * 32)), "two keys with one key_ID"),
        (gives(("a", bytes(32)), ("b", bytes(32))), "one key twice, under two key_IDs"),
        (gives(("a", bytes(32)), ("b", b"1" * 32), ("c", b"2" * 32)), "3 keys came where 2 were asked for"),
        (answers(b" " * (ANSWER_BYTES_MAX + 1)), "the answer is longer than 256 KiB"),
    ],
)
def test_what_a_device_does_instead_is_said(device, pair, mood, said):
    pair.mood = mood
    with pytest.raises(DeviceError) as raised:
        device.draw(2)
    assert said in str(raised.value)
    assert str(raised.value).startswith("enc_keys: ")
    assert "secret" not in str(raised.value)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 300
    assert raised.value.__cause__ is None
    pair.mood = None
    assert len(device.draw(2)) == 2  # it comes back by itself


def test_fewer_keys_than_asked_for_are_taken_and_of_another_size(device, pair):
    pair.mood = gives(("a", bytes(16)))
    assert [len(key.key) for key in device.draw(8, 256)] == [16]


def test_a_key_that_is_given_twice_is_told(device, pair):
    pair.mood = gives(("a", bytes(32)))
    device.draw(1)
    pair.mood = gives(("A", b"1" * 32))
    with pytest.raises(DeviceError, match="a key came that was given before"):
        device.draw(1)


def test_of_keys_that_were_asked_for_by_id_all_must_come_and_no_others(device, pair):
    pair.mood = gives(("a", bytes(32)), ("c", b"1" * 32))
    with pytest.raises(DeviceError, match="of 2 keys that were asked for 1 are missing, and 1 others came"):
        device.fetch(["a", "b"])
    for ids in ([], ["a"] * 129):
        with pytest.raises(DeviceError, match="1 to 128 can"):
            device.fetch(ids)


@pytest.mark.parametrize("where", ["before the answer", "in the head", "in the body"])
def test_a_device_that_hangs_is_given_up_in_time(device, pair, where):
    def hang(handler, _what, _asked):
        if where == "in the head":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        if where == "in the body":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        end = time.monotonic() + 20.0
        while where != "before the answer" and time.monotonic() < end and not handler.pair.end.is_set():
            try:
                handler.wfile.write(b"x: y\r\n" if where == "in the head" else b" ")
            except OSError:
                return
            handler.pair.end.wait(0.05)
        handler.pair.end.wait(20.0)

    pair.mood = hang
    began = time.monotonic()
    with pytest.raises(DeviceError, match="no whole answer within"):
        device.draw(1)
    assert time.monotonic() - began < 10.0
    pair.mood = None
    assert len(device.draw(1)) == 1


def test_an_answer_that_breaks_off_is_none(device, pair):
    def half(handler, _what, _asked):
        handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{"keys": [')
        handler.connection.close()
        handler.close_connection = True

    pair.mood = half
    with pytest.raises(DeviceError, match=r"broke off|no connection|closed"):
        device.draw(1)


def test_a_device_that_speaks_no_http_is_told(device, pair):
    def other(handler, _what, _asked):
        handler.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n")
        handler.close_connection = True

    pair.mood = other
    with pytest.raises(DeviceError, match="what it answers is no HTTP"):
        device.draw(1)


def test_a_device_that_closes_kept_connections_is_asked_over_a_new_one(device, pair):
    def once(handler, what, asked):
        handler.close_connection = True
        handler.well(what, asked)

    pair.mood = once
    device.draw(1)
    with pytest.raises(DeviceError, match=r"it closed the connection without an answer|no connection"):
        device.draw(1)
    pair.mood = None
    assert len(device.draw(1)) == 1


def test_nobody_there_is_told(files):
    _, _, ours = files
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        device = Device(DeviceSettings(f"https://127.0.0.1:{taken.getsockname()[1]}", "b", ours))
        with pytest.raises(DeviceError, match="status: no connection: Connection refused"):
            device.status()


@contextmanager
def another_server(files, tmp_path, **certificate):
    """A device with another certificate."""
    _, authority, ours = files
    there = tmp_path / "server"
    there.mkdir()
    authority.issue("other", usage=ExtendedKeyUsageOID.SERVER_AUTH, **certificate)
    authority.files("other", there)
    with serving(Pair(), there, authority.path) as port:
        yield DeviceSettings(f"https://127.0.0.1:{port}", "b", ours)


def test_a_name_that_differs_from_the_host_s_is_a_setting(files, tmp_path):
    names = {"names": ["qkd"], "sans": [x509.DNSName("qkd-a.vendor")]}
    with another_server(files, tmp_path, **names) as settings:
        with pytest.raises(DeviceError, match=r"its certificate is not to be trusted: .*mismatch"):
            Device(settings).status()
        for name, is_right in (("qkd-a.vendor", True), ("qkd-b.vendor", False)):
            device = Device(DeviceSettings(settings.url, "b", settings.tls, server_name=name))
            if is_right:
                assert device.status().stored_keys == 1_000
            else:
                with pytest.raises(DeviceError, match="not to be trusted"):
                    device.status()


def test_a_certificate_that_has_expired_or_is_of_another_authority_is_told(files, tmp_path):
    local = {"names": ["qkd"], "sans": [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]}
    with (
        another_server(files, tmp_path, **local, days=-1) as settings,
        pytest.raises(DeviceError, match="not to be trusted: certificate has expired"),
    ):
        Device(settings).status()
    stranger = Authority(tmp_path / "stranger", name="stranger")
    folder, authority, _ = files
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    stranger.issue("kme-1", names=["kme-1"], usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    stranger.files("kme-1", theirs)
    with serving(Pair(), folder / "server", authority.path) as port:
        with pytest.raises(DeviceError, match="not to be trusted"):
            Device(DeviceSettings(f"https://127.0.0.1:{port}", "b", theirs)).status()
        (theirs / "ca.pem").write_bytes(authority.path.read_bytes())
        with pytest.raises(DeviceError, match=r"does not trust our certificate|closed the connection|no connection"):
            Device(DeviceSettings(f"https://127.0.0.1:{port}", "b", theirs)).status()


def test_files_that_are_renewed_are_taken_over_and_broken_ones_told(files, tmp_path, pair):
    folder, authority, _ = files
    ours = tmp_path / "ours"
    ours.mkdir()
    authority.files("kme-1", ours)
    with serving(pair, folder / "server", authority.path) as port:
        device = Device(DeviceSettings(f"https://127.0.0.1:{port}", "b", ours))
        device.status()
        whole = (ours / "cert.pem").read_bytes()
        (ours / "cert.pem").write_bytes(b"nothing")
        with pytest.raises(DeviceError, match=r"cert.pem and key.pem in .* cannot be used"):
            device.status()
        (ours / "cert.pem").write_bytes(whole)
        assert device.status().key_bits == 256


@pytest.mark.parametrize(
    "url",
    [
        "http://qkd",
        "https://",
        "qkd:443",
        "https://qkd/?a=1",
        "https://me:pw@qkd",
        "https://qkd:x",
        "https://qkd:99999",
    ],
)
def test_a_url_that_cannot_be_is_refused_at_once(files, url):
    with pytest.raises(SettingsError) as raised:
        Device(DeviceSettings(url, "b", files[2]))
    assert "https://HOST" in raised.value.hint
    assert "pw" not in str(raised.value)


def test_files_that_are_missing_are_told_at_once(tmp_path):
    with pytest.raises(SettingsError, match=r"the device https://qkd: cert.pem and key.pem in .* cannot be used"):
        Device(DeviceSettings("https://qkd", "b", tmp_path))


def test_connections_are_kept_and_end_when_they_were_idle_for_long(device, pair, monkeypatch):
    seen = []
    pair.mood = lambda handler, what, asked: (seen.append(handler.client_address), handler.well(what, asked))
    device.draw(1)
    device.draw(1)
    monkeypatch.setattr(client, "IDLE_S", -1.0)
    device.draw(1)
    assert seen[0] == seen[1] != seen[2]
