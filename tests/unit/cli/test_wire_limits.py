"""What the command line takes is what the messages take."""

import msgspec
import pytest

from qkdrelay.messages import codec
from qkdrelay.messages.limits import LETTERS_SHOWN_MAX, NUMBER_MAX, RELAYS_SHOWN_MAX, REQUEUED_MAX
from qkdrelay.messages.requests import DeadLettersRequest, DropRequest, RelaysRequest, RequeueRequest


def taken(body):
    try:
        return codec.decode(codec.encode(body), type(body)) == body
    except (codec.MalformedMessageError, msgspec.ValidationError):
        return False


@pytest.mark.parametrize(
    ("most", "request_of"),
    [
        (RELAYS_SHOWN_MAX, lambda number: RelaysRequest(limit=number, supply=False)),
        (LETTERS_SHOWN_MAX, lambda number: DeadLettersRequest(limit=number)),
        (LETTERS_SHOWN_MAX, lambda number: DropRequest(letters=(1,) * number)),
        (REQUEUED_MAX, lambda number: RequeueRequest(letters=(1,) * number)),
        (NUMBER_MAX, lambda number: RequeueRequest(letters=(number,))),
    ],
)
def test_the_largest_number_is_the_largest_that_can_be_sent(most, request_of):
    assert taken(request_of(most))
    assert not taken(request_of(most + 1))
