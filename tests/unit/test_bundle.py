"""What is handed over together travels together, in order and whole; what only claims to be a bundle is one message."""

from hypothesis import given
from hypothesis import strategies as st

from qkdrelay.broker.port import Publication
from qkdrelay.broker.rabbitmq.bundle import BUNDLE_BYTES_MAX, CONTENT_TYPE, Parcel, parcels, unpacked
from qkdrelay.messages import codec
from qkdrelay.messages.link import BUNDLE_MAX, Bundle
from support.slow_msgpack import packed

BODIES = st.binary(max_size=20) | st.integers(0, BUNDLE_BYTES_MAX + 1).map(bytes)
PUBLICATIONS = st.lists(
    st.builds(Publication, st.none() | st.integers(0, 9), st.just("x"), st.sampled_from(["a", "b"]), BODIES),
    max_size=40,
)


@given(PUBLICATIONS, st.integers(1, 5))
def test_every_message_arrives_once_in_the_order_of_its_queue(publications, most):
    made = parcels(publications, most)
    for key in ("a", "b"):
        arrived = [
            body
            for parcel in made
            if parcel.publications[0].routing_key == key and parcel.kept
            for body in unpacked(parcel.body(), parcel.content_type)
        ]
        assert arrived == [p.body for p in publications if p.routing_key == key and p.id is not None]
    assert sum(len(parcel.publications) for parcel in made) == len(publications)


@given(PUBLICATIONS, st.integers(1, 5))
def test_a_parcel_is_bounded_and_of_one_kind(publications, most):
    for parcel in parcels(publications, most):
        assert len(parcel.publications) <= most
        assert len(parcel.publications) == 1 or parcel.size <= BUNDLE_BYTES_MAX
        assert parcel.size == sum(len(p.body) for p in parcel.publications)
        assert len({(p.exchange, p.routing_key) for p in parcel.publications}) == 1
        assert len(parcel.publications) == 1 or all(p.id is not None for p in parcel.publications)


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=BUNDLE_MAX))
def test_a_bundle_is_the_message_of_the_protocol(bodies):
    whole = codec.encode(Bundle(bodies=tuple(bodies)))
    parcel = Parcel([Publication(i, "x", "a", body) for i, body in enumerate(bodies)])
    assert parcel.body() == (whole if len(bodies) > 1 else bodies[0])
    assert unpacked(whole, CONTENT_TYPE) == tuple(bodies) == codec.decode(whole, Bundle).bodies


def test_a_message_of_another_version_or_too_long_is_no_bundle():
    whole = codec.encode(Bundle(bodies=(b"a",)))
    for other in (
        whole.replace(b"\xa1v\x03", b"\xa1v\x01"),
        b"\x81" + whole[4:],
        packed({"v": 3, "bodies": [bytes(codec.MESSAGE_BYTES_MAX)]}),
    ):
        assert unpacked(other, CONTENT_TYPE) == (other,)


def test_the_fullest_bundle_is_a_message_that_everybody_takes():
    for count in (2, BUNDLE_MAX):
        publications = [Publication(i, "x", "a", bytes(BUNDLE_BYTES_MAX // count)) for i in range(count)]
        (parcel,) = parcels(publications, BUNDLE_MAX)
        assert codec.MESSAGE_BYTES_MAX - 1024 < len(parcel.body()) <= codec.MESSAGE_BYTES_MAX
        assert unpacked(parcel.body(), parcel.content_type) == tuple(p.body for p in publications)


def test_what_does_not_fit_together_travels_apart():
    half = BUNDLE_BYTES_MAX // 2
    publications = [Publication(i, "x", "a", bytes(half + i)) for i in range(2)]
    assert [len(parcel.publications) for parcel in parcels(publications, BUNDLE_MAX)] == [1, 1]


def test_a_message_that_is_alone_is_not_wrapped():
    (parcel,) = parcels([Publication(1, "x", "a", b"alone")], BUNDLE_MAX)
    assert (parcel.body(), parcel.content_type) == (b"alone", None)
    assert unpacked(b"alone", None) == (b"alone",)


def test_what_is_no_bundle_is_one_message_to_be_refused():
    whole = codec.encode(Bundle(bodies=(b"a", b"b")))
    too_many = b"\x82\xa1v\x03\xa6bodies\xdc" + (BUNDLE_MAX + 1).to_bytes(2) + b"\xc4\x00" * (BUNDLE_MAX + 1)
    for body in (b"", b"\xc1", whole[:-1], whole + b"\x00", codec.encode(Bundle(bodies=(b"a",)))[:-2], too_many):
        assert unpacked(body, CONTENT_TYPE) == (body,)
    assert unpacked(whole, CONTENT_TYPE) == (b"a", b"b")
    assert unpacked(whole, "text/plain") == (whole,)
