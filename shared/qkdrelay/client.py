"""A client of the coordinator: asks it, follows a relay, and reads what the KMEs report, over any broker's `Client`.

    with RabbitMqClient(settings) as connection:
        coordinator = CoordinatorClient(connection, key)
        network = coordinator.ask(NetworkRequest(), NetworkView)
        relay = coordinator.follow(relay_request("kme-1", "kme-8")).until_decided()

    with RabbitMqClient(settings, watch=REPORTS) as connection:
        while (message := connection.receive(60.0)) is not None:
            kme, reports = reported(message[1], message[2])

The methods of both classes raise BrokerUnreachableError if the broker, the coordinator or a KME that the answer depends
on cannot be reached, and RequestRefusedError with the coordinator's reason for what it refuses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TypeVar
from uuid import UUID

from qkdrelay.broker.names import parse_results_queue
from qkdrelay.broker.port import Client
from qkdrelay.errors import BrokerUnreachableError, ForgedMessageError, MalformedMessageError, RequestRefusedError
from qkdrelay.messages import codec
from qkdrelay.messages.answers import Late, Refusal, RelayView, ReplyBody
from qkdrelay.messages.control import SignedMessage
from qkdrelay.messages.dialogue import Asker, key_setting
from qkdrelay.messages.relay_ids import new_relay_id
from qkdrelay.messages.reports import Report, Reports
from qkdrelay.messages.requests import OpenDemand, RelayRequest, Request, RequestBody, ShowRequest, unlike
from qkdrelay.messages.states import TERMINAL
from qkdrelay.network.demand import Policy

ANSWER_S: Final = 5.0
"""Seconds the coordinator may be silent; it answers at once when it runs."""
COMMAND_S: Final = 10.0
"""Seconds an answer may take that KMEs have to give (links, lab); the coordinator waits 5 s for them."""
CHECK_S: Final = 2.0
"""Seconds without an answer after which the broker is asked whether it takes anything."""
ASK_AGAIN_S: Final = 2.0
"""Seconds after which a follower asks again: a restarted coordinator has forgotten who waits."""
GRACE_S: Final = 10.0
"""Seconds after its deadline that a relay may still be undecided."""
REPORTS: Final = ("results.#",)
"""Patterns that a connection watches to get the reports of all KMEs; `reported` reads them."""

_LOOK = "look whether the coordinator is running, with this {} (else its log has message.rejected)"

R = TypeVar("R", bound=ReplyBody)


class CoordinatorClient:
    """Requests and answers over one connection, signed with the key that the coordinator has as QKDRELAY_CLI_KEY.

    It belongs to one thread, and waits for one request at a time: answers to earlier ones are passed over.
    """

    def __init__(
        self,
        connection: Client,
        key: bytes,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """``key`` has 32 bytes; ``clock`` returns seconds since the epoch, ``timer`` seconds since any moment."""
        self.connection = connection
        """For its owner to close."""
        self.timer = timer
        self._asker = Asker(key, connection.address, clock)
        self._forged: str | None = None
        """The fault of an answer that is not the coordinator's, if one came."""

    def ask(self, body: RequestBody, kind: type[R], wait_s: float = ANSWER_S) -> R:
        """Return the answer, of this kind, to one request; `COMMAND_S` is long enough for what KMEs must obey.

        With BrokerUnreachableError after ``wait_s`` seconds the coordinator may still carry the request out.
        """
        until = self.timer() + wait_s
        request = self.send(body)
        answer = self.receive(request, min(until, self.timer() + CHECK_S))
        if answer is None:
            self.connection.check()
            answer = self.receive(request, until)
        if answer is None:
            raise self.unanswered(wait_s, "; it may still carry the request out")
        if not isinstance(answer, kind):
            raise _not_understood(f"a {type(answer).__name__} for an answer")
        return answer

    def follow(self, body: RelayRequest | ShowRequest) -> FollowedRelay:
        """Send a request (with its ``follow`` set) whose answer is a relay, again and again as it changes."""
        return FollowedRelay(self, body)

    def send(self, body: RequestBody, request_id: UUID | None = None) -> Request:
        """Send a request, anew or once more under its id."""
        request, signed = self._asker.request(body, request_id)
        self.connection.send(signed)
        return request

    def receive(self, request: Request, until: float) -> ReplyBody | None:
        """Return the next answer to ``request``, or None if there is none by then (by the timer); raise a refusal.

        What the coordinator has not signed is no answer, and is passed over.
        """
        while (message := self.connection.receive(max(0.0, until - self.timer()))) is not None:
            try:
                reply = self._asker.answer(message[2], {request.request_id})
            except ForgedMessageError as error:
                self._forged, reply = str(error), None
            except MalformedMessageError as error:
                raise _not_understood(str(error)) from None
            if reply is not None and not isinstance(reply.body, Late):
                return _accepted(reply.body)
            if reply is not None:
                self.send(request.body, request.request_id)
            if self.timer() >= until:  # however much more there is
                break
        return None

    @property
    def look(self) -> str:
        """Say what to look at when the coordinator is silent."""
        return _LOOK.format(key_setting(self._asker.client))

    def unanswered(self, waited_s: float, besides: str = "") -> BrokerUnreachableError:
        """Return the error for a coordinator that has not answered although the broker is there."""
        if self._forged is not None:
            return BrokerUnreachableError(
                f"an answer came that is not signed by the coordinator ({self._forged}), no other in {waited_s:g} s",
                hint=f"{key_setting(self._asker.client)} must be the coordinator's, and both of the same version; "
                "or the broker forges",
            )
        text = f"the broker took the request, but the coordinator did not answer within {waited_s:g} s"
        return BrokerUnreachableError(text, hint=self.look + besides)


class FollowedRelay:
    """A relay as the coordinator shows it; it is asked again when it has said nothing for a while."""

    def __init__(self, client: CoordinatorClient, body: RelayRequest | ShowRequest) -> None:
        self._client, self._body = client, body
        self._request = client.send(body)
        self._asked = self._heard = client.timer()
        self._view: RelayView | None = None
        self._give_up = self._asked + ANSWER_S

    @property
    def is_silent(self) -> bool:
        """Whether the coordinator has not answered for longer than it takes when it runs."""
        return self._client.timer() - self._heard >= ANSWER_S

    def next(self, wait_s: float) -> RelayView | None:
        """Return the relay when the coordinator next shows it, or None after ``wait_s`` seconds.

        BrokerUnreachableError if the coordinator did not answer at all, is silent until `GRACE_S` after the relay's
        deadline, or shows a relay that was not asked for.
        """
        timer = self._client.timer
        until = timer() + wait_s
        while True:
            answer = self._client.receive(self._request, min(until, self._asked + ASK_AGAIN_S, self._give_up))
            now = timer()
            if isinstance(answer, RelayView):
                self._check(answer)
                self._view, self._heard, self._asked = answer, now, now
                # By the coordinator's clock, not by this one's.
                left = answer.deadline - answer.created_at - answer.elapsed_s
                self._give_up = now + max(0.0, left) + GRACE_S
                return answer
            if now >= self._give_up:
                raise self._gave_up()
            if now >= self._asked + ASK_AGAIN_S:
                self._asked = now
                self._client.send(self._body, self._request.request_id)
            if now >= until:
                return None

    def first(self) -> RelayView:
        """Return the relay as soon as the coordinator shows it: it is accepted and stored then."""
        while (view := self.next(ANSWER_S)) is None:
            pass
        return view

    def until_decided(self, show: Callable[[RelayView | None], object] = lambda _: None) -> RelayView:
        """Return the relay once it is decided; ``show`` gets each view, and None after each second without one."""
        while True:
            view = self.next(1.0)
            show(view)
            if view is not None and view.state in TERMINAL:
                return view

    def _check(self, view: RelayView) -> None:
        """Raise unless it is the relay that was asked for, with terms that demand what was asked."""
        body = self._body
        if isinstance(body, RelayRequest):
            amount = {"key_count": view.key_count, "key_size_bits": view.key_size_bits}
            wrong = unlike(body, ends=(view.source, view.target), withstand=view.withstand, **amount)
            if wrong is None and view.relay_id != body.relay_id:
                wrong = f"relay {view.relay_id}, not {body.relay_id}"
            if wrong is not None:
                raise BrokerUnreachableError(f"the coordinator answers with a relay that was not asked for: {wrong}")

    def _gave_up(self) -> BrokerUnreachableError:
        if self._view is None:
            return self._client.unanswered(ANSWER_S)
        return BrokerUnreachableError(
            f"the coordinator has not said in time how the relay ended; last it was {self._view.state}",
            hint=self._client.look,
        )


def relay_request(
    source: str,
    target: str,
    *,
    relay_id: UUID | None = None,
    key_count: int = 1,
    key_size_bits: int = 256,
    timeout_s: float = 30.0,
    policy: Policy | None = None,
    withstand: OpenDemand | None = None,
    allow_unprotected: bool = False,
    follow: bool = True,
) -> RelayRequest:
    """Return a request for keys at two KMEs; asked again under its id, it is for the same relay.

    It fails ``timeout_s`` seconds after the coordinator has accepted it. See `RelayRequest` for what None stands for.
    """
    return RelayRequest(
        relay_id=relay_id or new_relay_id(),
        source=source,
        target=target,
        key_count=key_count,
        key_size_bits=key_size_bits,
        timeout_s=timeout_s,
        policy=policy,
        withstand=withstand,
        allow_unprotected=allow_unprotected,
        follow=follow,
    )


def reported(routing_key: str, body: bytes) -> tuple[str, tuple[Report, ...]]:
    """Return (KME, its reports) from an event of the broker's; QkdRelayError if it is none.

    The signature is not verified: only the coordinator has the keys to do it, and it decides on no report that it has
    not verified. That each KME writes by its own routing key only is the broker's word here.
    """
    kme = parse_results_queue(routing_key)
    return kme, codec.decode(codec.decode(body, SignedMessage).body, Reports).items


def _not_understood(why: str) -> BrokerUnreachableError:
    return BrokerUnreachableError(
        f"the coordinator's answer cannot be understood: {why}",
        hint="the coordinator and this command must be of the same version",
    )


def _accepted(body: ReplyBody) -> ReplyBody:
    if isinstance(body, Refusal):
        # A KME that is away is no fault of the request.
        kind = BrokerUnreachableError if body.unanswered else RequestRefusedError
        raise kind(body.text, hint=body.hint)
    return body
