"""The interface for applications: what is asked for, and what is refused without a key lost."""

import base64
import io
import json
from contextlib import suppress
from uuid import UUID, uuid4

import pytest
import structlog
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import ValidationError

from kme.applications import BadRequestError
from kme.etsi014.application import Etsi014
from kme.etsi014.audit import Audit
from kme.etsi014.questions import read_body
from qkdrelay.service.http_connections import CLIENT_CERTIFICATE
from qkdrelay.service.metrics import Metrics
from qkdrelay.service.moderation import LINES_MAX
from support.application_keys import KeysInMemory
from support.etsi014 import validate, validator
from support.saes import Authority

PATH = "/api/v1/keys/sae-8/enc_keys"
KEY = {"key_ID", "key", "key_extension"}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    authority = Authority(tmp_path_factory.mktemp("saes"))
    return {
        name: authority.issue(name, names=[name]).public_bytes(Encoding.DER)
        for name in ("sae-1", "sae-8", "sae-9", "sae-2", "no id")
    }


class Asking:
    """An application's requests, without a server."""

    def __init__(self, certificates, patience_s=5.0):
        self.certificates, self.keys = certificates, KeysInMemory()
        self.metrics = Metrics()
        self.application = Etsi014(self.keys, Audit("kme-1", self.metrics), id_from="cn", patience_s=patience_s)

    def __call__(self, method, path, body=b"", *, sae="sae-1", **environ):
        path, _, query = path.partition("?")
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        told = {}
        answer = self.application(
            {
                "REQUEST_METHOD": method,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "wsgi.input": io.BytesIO(data),
                CLIENT_CERTIFICATE: self.certificates[sae],
                **environ,
            },
            lambda status, headers: told.update(status=int(status[:3]), headers=dict(headers)),
        )
        assert told["headers"]["Content-Type"] == "application/json"
        assert told["headers"]["Cache-Control"] == "no-store"
        self.headers = told["headers"]
        found = json.loads(b"".join(answer))
        validate(path, told["status"], found)
        return told["status"], found


@pytest.fixture
def ask(certificates):
    return Asking(certificates)


def test_a_key_that_one_takes_the_other_fetches(ask):
    status, taken = ask("GET", f"{PATH}?number=2&size=512")
    assert status == 200
    assert [set(key) for key in taken["keys"]] == [KEY, KEY]
    ids = [{"key_ID": key["key_ID"]} for key in taken["keys"]]
    status, fetched = ask("POST", "/api/v1/keys/sae-1/dec_keys", {"key_IDs": ids}, sae="sae-8")
    assert (status, fetched) == (200, taken)
    status, again = ask("POST", "/api/v1/keys/sae-1/dec_keys", {"key_IDs": ids}, sae="sae-8")
    assert (status, again) == (400, {"message": "one or more keys specified are not found on KME"})


def test_a_status_has_all_that_the_standard_asks_for(ask):
    status, found = ask("GET", "/api/v1/keys/sae-8/status")
    assert status == 200
    numbers = {name for name in found if type(found[name]) is int}
    assert numbers == {
        "key_size",
        "stored_key_count",
        "max_key_count",
        "max_key_per_request",
        "max_key_size",
        "min_key_size",
        "max_SAE_ID_count",
    }
    assert all(0 <= found[name] < 2**31 for name in numbers)
    assert found["max_key_count"] >= found["stored_key_count"] == 1_000
    ends = ("source_KME_ID", "target_KME_ID", "master_SAE_ID", "slave_SAE_ID")
    assert [found[name] for name in ends] == ["kme-1", "kme-8", "sae-1", "sae-8"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", PATH, b""),
        ("POST", PATH, b""),
        ("POST", PATH, b" \r\n"),
        ("POST", PATH, {}),
        ("POST", f"{PATH}/", {}),
        ("GET", f"{PATH}/?number=1&size=256", b""),
        ("POST", f"{PATH}?number=1&size=256", b""),
        ("POST", PATH, {"number": 1, "size": 256, "more": [None]}),
        ("POST", PATH, {"number": None, "extension_mandatory": [], "extension_optional": [{"a": 1}]}),
        ("POST", PATH, {"additional_slave_SAE_IDs": None}),
        ("POST", PATH, {"extension_mandatory": [{"qkdrelay_compromised": 2}]}),
        ("GET", f"{PATH}?unknown=1", b""),
    ],
)
def test_what_clients_send_is_taken(ask, method, path, body):
    status, answer = ask(method, path, body, CONTENT_TYPE="text/html")
    assert (status, len(answer["keys"])) == (200, 1), answer
    assert ask.keys.taken == 1


@pytest.mark.parametrize("number", [5, 128])
def test_several_long_keys_are_given_at_once(ask, number):
    status, answer = ask("POST", PATH, {"number": number, "size": 1024})
    assert status == 200
    assert len({key["key"] for key in answer["keys"]}) == number


TOO_DEEP = b'{"number":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
WRONG = [
    ("GET", f"{PATH}?size=0", b"", "size is 0 bits; it must be from 64"),
    ("GET", f"{PATH}?size=-8", b"", "size is -8 bits"),
    ("GET", f"{PATH}?size=257", b"", "size shall be a multiple of 8"),
    ("GET", f"{PATH}?size=abc01", b"", "whole number"),
    ("GET", f"{PATH}?size=32", b"", "size is 32 bits; it must be from 64"),
    ("GET", f"{PATH}?size=65544", b"", "to 65536"),
    ("GET", f"{PATH}?size=%32%35%36%20", b"", "whole number"),
    ("GET", f"{PATH}?size=1e3", b"", "whole number"),
    ("GET", f"{PATH}?size=", b"", "whole number"),
    ("GET", f"{PATH}?size={'9' * 5000}", b"", "whole number"),
    ("GET", f"{PATH}?number=0", b"", "number is 0; it must be from 1 to 128"),
    ("GET", f"{PATH}?number=-1", b"", "number is -1"),
    ("GET", f"{PATH}?number=129", b"", "number is 129"),
    ("GET", f"{PATH}?number=one", b"", "whole number"),
    ("GET", f"{PATH}?number=1&number=2", b"", "a name stands twice in the query"),
    ("GET", f"{PATH}?{'&'.join(f'a{i}=1' for i in range(40))}", b"", "more than 32 fields"),
    ("GET", f"{PATH}?extension_mandatory=x", b"", "in a body only"),
    ("GET", f"{PATH}?additional_slave_SAE_IDs=sae-9", b"", "in a body only"),
    ("GET", PATH, {"number": 2}, "GET takes no body"),
    ("POST", PATH, {"size": 0}, "size is 0"),
    ("POST", PATH, {"size": -8}, "size is -8"),
    ("POST", PATH, {"size": 257}, "multiple of 8"),
    ("POST", PATH, {"size": "256"}, "whole number"),
    ("POST", PATH, {"size": "abc01"}, "whole number"),
    ("POST", PATH, {"size": 256.0}, "whole number"),
    ("POST", PATH, {"size": True}, "whole number"),
    ("POST", PATH, {"size": 10**30}, "size is"),
    ("POST", PATH, {"size": [256]}, "whole number"),
    ("POST", PATH, {"number": 0}, "number is 0"),
    ("POST", PATH, {"number": -1}, "number is -1"),
    ("POST", PATH, {"number": 129}, "number is 129"),
    ("POST", PATH, {"number": "two"}, "whole number"),
    ("POST", PATH, {"number": {}}, "whole number"),
    ("POST", PATH, {"additional_slave_SAE_IDs": []}, "one slave"),
    ("POST", PATH, {"additional_slave_SAE_IDs": ["sae-9", "sae-9"]}, "one slave"),
    ("POST", PATH, {"additional_slave_SAE_IDs": [""]}, "one slave"),
    ("POST", PATH, {"additional_slave_SAE_IDs": ["sae-1"]}, "one slave"),
    ("POST", PATH, {"additional_slave_SAE_IDs": ["sae-8"]}, "one slave"),
    ("POST", PATH, {"extension_mandatory": [{"other": 1}]}, "parameters are supported"),
    (
        "POST",
        PATH,
        {"extension_mandatory": [{"qkdrelay_compromised": 3}]},
        "not all extension_mandatory request options",
    ),
    ("POST", PATH, {"extension_mandatory": [{"qkdrelay_compromised": "2"}]}, "whole number"),
    ("POST", PATH, {"extension_mandatory": {"qkdrelay_compromised": 2}}, "list of objects"),
    ("POST", PATH, {"extension_optional": [1]}, "list of objects"),
    ("POST", f"{PATH}?number=2", {"size": 256}, "stands in the query, and there is a body"),
    ("POST", PATH, [], "must be a JSON object"),
    ("POST", PATH, b"null", "must be a JSON object"),
    ("POST", PATH, b'{"number": 1', "not JSON"),
    ("POST", PATH, b'{"number": NaN}', "none of JSON's"),
    ("POST", PATH, b'{"number": Infinity}', "none of JSON's"),
    ("POST", PATH, b'{"number": 1, "number": 2}', "a name stands twice in the body"),
    ("POST", PATH, b'{"number": ' + b"9" * 5_000 + b"}", "not JSON"),
    ("POST", PATH, b"\xff\xfe{}", "not JSON"),
    ("POST", PATH, b"number=1", "not JSON"),
    ("POST", PATH, TOO_DEEP, "not JSON"),
    ("GET", "/api/v1/keys/sae-7/enc_keys", b"", "no SAE"),
    ("GET", "/api/v1/keys/sae-1/enc_keys", b"", "master and slave are the same SAE"),
    ("GET", "/api/v1/keys//enc_keys", b"", "no SAE ID"),
    ("GET", "/api/v1/keys/%20/enc_keys", b"", "no SAE ID"),
    ("GET", "/api/v1/keys/ /enc_keys", b"", "no SAE ID"),
    ("GET", "/api/v1/keys/../enc_keys", b"", "no SAE ID"),
    ("GET", f"/api/v1/keys/{'a' * 65}/enc_keys", b"", "no SAE ID"),
    ("GET", "/api/v1/keys/SAE-8/enc_keys", b"", "no SAE"),
]


@pytest.mark.parametrize(("method", "path", "body", "message"), WRONG)
def test_what_can_never_be_is_told_and_takes_no_key(ask, method, path, body, message):
    status, answer = ask(method, path, body)
    assert status == 400, answer
    assert message in answer["message"]
    assert set(answer) <= {"message", "details"}
    assert ask.keys.taken == 0


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"key_IDs": []},
        {"key_IDs": {}},
        {"key_IDs": [{}]},
        {"key_IDs": [1]},
        {"key_IDs": ["abc"]},
        {"key_IDs": [{"key_ID": "{" + str(UUID(int=1)) + "}"}]},
        {"key_IDs": [UUID(int=1).hex]},
        {"key_IDs": [str(UUID(int=1))] * 2},
        {"key_IDs": [str(UUID(int=number)) for number in range(129)]},
        {"key_IDs": [str(UUID(int=1))]},
    ],
)
def test_keys_that_are_not_there_are_refused_all_together(ask, body):
    _, taken = ask("GET", PATH)
    mine = taken["keys"][0]["key_ID"]
    if len(listed := body.get("key_IDs", ())) in (1, 2) and isinstance(listed, list):
        body = {"key_IDs": [mine, *listed]}
    status, answer = ask("POST", "/api/v1/keys/sae-1/dec_keys", body, sae="sae-8")
    assert status == 400, answer
    assert ask("GET", f"/api/v1/keys/sae-1/dec_keys?key_ID={mine}", sae="sae-8")[0] == 200


def test_ids_may_be_bare_texts_in_capitals_and_answers_are_small(ask):
    _, taken = ask("GET", PATH)
    mine = taken["keys"][0]["key_ID"]
    listed = {"key_IDs": [{"key_ID": mine.upper(), "master_SAE_ID": "sae-1"}], "key_IDs_extension": None}
    status, answer = ask("POST", "/api/v1/keys/sae-1/dec_keys/", listed, sae="sae-8")
    assert (status, answer) == (200, taken)
    _, more = ask("GET", PATH)
    bare = {"key_IDs": [more["keys"][0]["key_ID"].upper()]}
    assert ask("POST", "/api/v1/keys/sae-1/dec_keys", bare, sae="sae-8") == (200, more)


def test_a_key_of_another_is_not_given(ask):
    _, taken = ask("GET", PATH)
    query = f"?key_ID={taken['keys'][0]['key_ID']}"
    assert ask("GET", f"/api/v1/keys/sae-1/dec_keys{query}", sae="sae-9")[0] == 401
    assert ask("GET", f"/api/v1/keys/sae-9/dec_keys{query}", sae="sae-8")[0] == 400
    assert ask("GET", f"/api/v1/keys/sae-1/dec_keys{query}", sae="sae-8")[0] == 200


@pytest.mark.parametrize("sae", ["sae-2", "no id"])
def test_who_is_not_in_the_directory_gets_nothing_whatever_it_calls_itself(ask, sae):
    named = {"HTTP_X_SAE_ID": "sae-1", "HTTP_X_SSL_CLIENT_S_DN": "CN=sae-1"}
    assert ask("GET", PATH, sae=sae, **named)[0] == 401
    assert ask.keys.taken == 0


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/api/v1/keys/sae-8/status", "GET"),
        ("PUT", PATH, "GET, POST"),
        ("DELETE", "/api/v1/keys/sae-1/dec_keys", "GET, POST"),
        ("HEAD", PATH, "GET, POST"),
    ],
)
def test_another_method_is_told_which_there_are(ask, method, path, allowed):
    assert ask(method, path)[0] == 405
    assert ask.headers["Allow"] == allowed


ELSEWHERE = ["/", "", "/api/v1/keys", "/api/v1/keys/sae-8", f"/x{PATH}", f"{PATH}//", "/api/v2/keys/sae-8/status"]


@pytest.mark.parametrize("path", ELSEWHERE)
def test_another_path_is_none(ask, path):
    status, answer = ask("GET", path)
    assert status == 404
    assert "enc_keys" in answer["message"]


def test_what_cannot_be_now_says_when(ask):
    ask.keys.stock = 0
    status, answer = ask("GET", PATH)
    assert (status, answer) == (503, {"message": "there are no keys now"})
    assert ask.headers["Retry-After"] == "3"


def counted(ask):
    """What was counted of requests, by what was asked and what became of it."""
    (family,) = (f for f in ask.metrics.registry.collect() if f.name == "qkdrelay_application_requests")
    return {
        tuple(sample.labels.values()): sample.value
        for sample in family.samples
        if sample.name.endswith("_total") and sample.value
    }


@pytest.fixture
def lines():
    with structlog.testing.capture_logs() as lines:
        yield lines


def test_each_request_is_one_line_of_the_log_and_counted_once_whatever_became_of_it(ask, lines):
    _, taken = ask("GET", f"{PATH}?number=128")
    ids = [key["key_ID"] for key in taken["keys"]]
    ask("POST", "/api/v1/keys/sae-1/dec_keys", {"key_IDs": ids}, sae="sae-8")
    ask("GET", "/api/v1/keys/sae-8/status")
    ask("GET", f"{PATH}?size=257")
    ask("GET", f"/api/v1/keys/sae-1/dec_keys?key_ID={ids[0]}", sae="sae-9")
    ask("GET", PATH, sae="no id")
    ask("PUT", PATH)
    ask("GET", "/")
    ask.keys.stock = 0
    ask("GET", PATH)
    assert counted(ask) == {
        ("enc_keys", "ok"): 1,
        ("dec_keys", "ok"): 1,
        ("status", "ok"): 1,
        ("enc_keys", "bad_request"): 1,
        ("dec_keys", "bad_request"): 1,
        ("enc_keys", "not_allowed"): 1,
        ("none", "bad_request"): 2,
        ("enc_keys", "try_later"): 1,
    }
    told = [(line["event"], line["request"], line["sae"], line["other"], line.get("outcome")) for line in lines]
    assert told == [
        ("application.request", "enc_keys", "sae-1", "sae-8", None),
        ("application.request", "dec_keys", "sae-8", "sae-1", None),
        ("application.request", "status", "sae-1", "sae-8", None),
        ("application.refused", "enc_keys", "sae-1", "sae-8", "bad_request"),
        ("application.refused", "dec_keys", "sae-9", "sae-1", "bad_request"),
        ("application.refused", "enc_keys", "", "", "not_allowed"),
        ("application.refused", "none", "", "", "bad_request"),
        ("application.refused", "none", "", "", "bad_request"),
        ("application.refused", "enc_keys", "sae-1", "sae-8", "try_later"),
    ]
    assert lines[0]["key_ids"] == lines[1]["key_ids"] == ids
    assert len(lines[0]["fingerprint"]) == 64
    assert all(line["kme"] == "kme-1" for line in lines)
    assert lines[3]["reason"] == "size shall be a multiple of 8"
    said = repr(lines)
    for key in taken["keys"]:
        secret = base64.b64decode(key["key"])
        assert not any(form in said for form in (key["key"], secret.hex(), repr(secret)[2:-1]))


def test_who_is_refused_again_and_again_does_not_fill_the_log(ask, lines):
    for _ in range(300):
        ask("GET", f"{PATH}?size=257")
    ask("GET", f"{PATH}?size=257", sae="sae-9")
    assert counted(ask) == {("enc_keys", "bad_request"): 301}
    assert [line["sae"] for line in lines].count("sae-1") == LINES_MAX
    assert lines[-1]["sae"] == "sae-9"


def test_an_answer_that_does_not_come_is_not_waited_for_long(certificates):
    ask = Asking(certificates, patience_s=0.01)
    ask.keys.never.add("sae-1")
    status, answer = ask("GET", PATH)
    assert (status, answer) == (503, {"message": "the KME does not answer"})


STATUS = {
    **dict.fromkeys(("source_KME_ID", "target_KME_ID", "master_SAE_ID", "slave_SAE_ID"), "a"),
    **dict.fromkeys(("key_size", "stored_key_count", "max_key_count", "max_key_per_request"), 1),
    **dict.fromkeys(("max_key_size", "min_key_size", "max_SAE_ID_count"), 1),
}
ONE_KEY = {"key_ID": str(UUID(int=1)), "key": "AAAA"}


@pytest.mark.parametrize(
    ("path", "status", "answer"),
    [
        ("/status", 200, {name: value for name, value in STATUS.items() if name != "key_size"}),
        ("/status", 200, {**STATUS, "stored_key_count": "1"}),
        ("/status", 200, {**STATUS, "status_extension": None}),
        ("/status", 200, {**STATUS, "qkdrelay_compromised": 1}),
        ("/enc_keys", 200, {"keys": []}),
        ("/enc_keys", 200, {"keys": [{**ONE_KEY, "key": "AAA"}]}),
        ("/enc_keys", 200, {"keys": [{**ONE_KEY, "key_ID": "ABCD"}]}),
        ("/enc_keys", 200, {"keys": [{**ONE_KEY, "age": 1}]}),
        ("/enc_keys", 200, {"message": "no"}),
        ("/dec_keys", 400, {"keys": [ONE_KEY]}),
        ("/dec_keys", 400, {"message": "no", "details": ["text"]}),
    ],
)
def test_an_answer_in_another_format_would_be_noticed(path, status, answer):
    validate("/status", 200, STATUS)
    validate("/enc_keys?number=1", 200, {"keys": [ONE_KEY]})
    validate("/dec_keys", 400, {"message": "no", "details": [{"why": 1}]})
    with pytest.raises(ValidationError):
        validate(path, status, answer)


@given(
    asked=st.fixed_dictionaries(
        {},
        optional={
            "number": st.integers(1, 128),
            "size": st.sampled_from([64, 256, 65_536]),
            "extension_mandatory": st.just([]),
            "extension_optional": st.lists(st.dictionaries(st.text(), st.integers()), max_size=2),
        },
    )
)
def test_whatever_the_standard_lets_a_master_ask_is_answered(certificates, asked):
    validator("key_request").validate(asked)
    ask = Asking(certificates)
    status, answer = ask("POST", PATH, asked)
    assert status == 200, answer
    ids = {"key_IDs": [{"key_ID": key["key_ID"], "key_ID_extension": {}} for key in answer["keys"]]}
    validator("key_ids").validate(ids)
    assert ask("POST", "/api/v1/keys/sae-1/dec_keys", ids, sae="sae-8") == (200, answer)


NAMES = st.sampled_from(["number", "size", "key_IDs", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
)


@given(body=st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_an_object_or_is_refused(body):
    found = None
    with suppress(BadRequestError):
        found = read_body(body)
    assert found is None or isinstance(found, dict)


def test_a_key_that_nobody_has_taken_is_no_key(ask):
    assert ask("GET", f"/api/v1/keys/sae-1/dec_keys?key_ID={uuid4()}", sae="sae-8")[0] == 400
