"""The command line's talk with the coordinator: requests out, answers in, and what silence means."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from qkdrelay.broker.port import Client
from qkdrelay.errors import (
    BrokerUnreachableError,
    ForgedMessageError,
    MalformedMessageError,
    RequestRefusedError,
    SettingsError,
)
from qkdrelay.messages.answers import Late, Refusal, RelayView, ReplyBody
from qkdrelay.messages.dialogue import Asker
from qkdrelay.messages.fields import TERMINAL
from qkdrelay.messages.requests import RelayRequest, Request, RequestBody, ShowRequest, unlike

if TYPE_CHECKING:
    from qkdrelay_cli.settings import CliSettings

ANSWER_S = 5.0
"""How long the coordinator may be silent; it answers at once when it runs."""
COMMAND_S = 10.0
"""How long an answer may take that KMEs have to give; the coordinator waits 5 s for them."""
CHECK_S = 2.0
"""How long nobody answers before the broker is asked whether it takes anything."""
ASK_AGAIN_S = 2.0
"""A restarted coordinator has forgotten who waits, so whoever waits asks again."""
GRACE_S = 10.0
"""How long after its deadline a relay may still be undecided."""
NAME_LENGTH_MAX = 100
MISSING_KEY = "QKDRELAY_CLI_KEY: must be set"
LOOK = "look whether the coordinator is running, with this QKDRELAY_CLI_KEY (else its log has message.rejected)"

R = TypeVar("R", bound=ReplyBody)


def connected_client(watch: Sequence[str] = ()) -> Client:
    """Return a client of the broker that the environment or ``.env`` names; SettingsError, BrokerUnreachableError."""
    return _connected(_settings(), watch)


def _settings() -> CliSettings:
    from qkdrelay.service.settings import load
    from qkdrelay_cli.settings import CliSettings

    _check_dotenv(Path(".env"))
    try:
        return load(CliSettings)
    except SettingsError as error:
        hint = error.hint or "run this where the deployment's .env is, or set the variable"
        if str(error) == MISSING_KEY:
            hint = f"an .env from before there was such a key gets one by `make up`; else {hint}"
        raise SettingsError(str(error), hint=hint) from None


def _connected(settings: CliSettings, watch: Sequence[str] = ()) -> Client:
    from qkdrelay.broker.rabbitmq.client import RabbitMqClient
    from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings

    return RabbitMqClient(
        RabbitMqSettings(
            addresses=settings.broker,
            user=settings.cli_user,
            password=settings.cli_password.get_secret_value(),
            vhost=settings.broker_vhost,
            tls=settings.broker_tls,
        ),
        watch=watch,
    )


def _check_dotenv(path: Path) -> None:
    """Raise SettingsError for what compose might read differently: the coordinator has its password from compose."""
    from qkdrelay.service import dotenv_file

    try:
        dotenv_file.read(path)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}", hint="only its owner may read it") from None


@contextmanager
def opened() -> Iterator[Session]:
    """Open a session for the time of a ``with``."""
    from qkdrelay.service.settings import key_bytes

    settings = _settings()
    with _connected(settings) as client:
        yield Session(client, key_bytes(settings.cli_key))


def ask(body: RequestBody, kind: type[R], wait_s: float = ANSWER_S) -> R:
    """Return the coordinator's answer to one request.

    Raises RequestRefusedError with its reason, or BrokerUnreachableError if there is none within ``wait_s``.
    """
    with opened() as talk:
        until = monotonic() + wait_s
        request = talk.send(body)
        answer = talk.receive(request, min(until, monotonic() + CHECK_S))
        if answer is None:
            talk.check()
            answer = talk.receive(request, until)
        if answer is None:
            raise talk.silence(wait_s, f"{LOOK}; it may still carry the request out")
    if not isinstance(answer, kind):
        raise _not_understood(f"a {type(answer).__name__} for an answer")
    return answer


def check_name(name: str) -> str:
    """Return what was given as a KME's name or a relay's id if it can be sent; whether it exists, the coordinator says.

    Raises RequestRefusedError.
    """
    if not name or len(name) > NAME_LENGTH_MAX or not name.isprintable():
        shown = repr(name if len(name) <= NAME_LENGTH_MAX else name[:20] + "...").encode("ascii", "backslashreplace")
        raise RequestRefusedError(
            f"{shown.decode()} is no name", hint="KMEs have names such as kme-1, relays ids of hexadecimal digits"
        )
    return name


class Session:
    """Requests and answers over one connection, signed with ``key``."""

    def __init__(self, client: Client, key: bytes, clock: Callable[[], float] = time) -> None:
        """``clock`` returns seconds since the epoch."""
        self._client, self._asker = client, Asker(key, client.address, clock)
        self._forged: str | None = None
        """What is wrong with an answer that is not the coordinator's, if one came."""

    def follow(self, body: RelayRequest | ShowRequest) -> Following:
        """Send a request whose answer is a relay, again and again as it changes."""
        return Following(self, body)

    def send(self, body: RequestBody, request_id: UUID | None = None) -> Request:
        """Send a request, anew or once more."""
        request, signed = self._asker.request(body, request_id)
        self._client.send(signed)
        return request

    def check(self) -> None:
        """Raise BrokerUnreachableError if it is the broker that takes nothing at this moment."""
        self._client.check()

    def receive(self, request: Request, until: float) -> ReplyBody | None:
        """Return the next answer to ``request``, or None if there is none by then; raise what it refuses.

        What the coordinator has not signed is no answer, and is passed over.
        """
        while (message := self._client.receive(max(0.0, until - monotonic()))) is not None:
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
            if monotonic() >= until:  # however much more there is
                break
        return None

    def silence(self, waited_s: float, hint: str) -> BrokerUnreachableError:
        """Return the error for a coordinator that does not answer although the broker is there."""
        if self._forged is not None:
            return BrokerUnreachableError(
                f"an answer came that is not signed by the coordinator ({self._forged}), no other in {waited_s:g} s",
                hint="QKDRELAY_CLI_KEY must be the coordinator's, and both of the same version; or the broker forges",
            )
        text = f"the broker took the request, but the coordinator did not answer within {waited_s:g} s"
        return BrokerUnreachableError(text, hint=hint)


class Following:
    """A relay that is watched; the coordinator is asked again when it has said nothing for a while."""

    def __init__(self, talk: Session, body: RelayRequest | ShowRequest) -> None:
        self._talk, self._body = talk, body
        self._request = talk.send(body)
        self._asked = self._started = self._heard = monotonic()
        self._view: RelayView | None = None
        self._give_up = self._started + ANSWER_S

    @property
    def is_silent(self) -> bool:
        """Whether the coordinator has not answered for longer than it takes when it runs."""
        return monotonic() - self._heard >= ANSWER_S

    def next(self, wait_s: float) -> RelayView | None:
        """Return the relay when the coordinator next shows it, or None after ``wait_s``.

        Raises RequestRefusedError, and BrokerUnreachableError if the coordinator did not answer at all or is silent
        until well after the relay's deadline.
        """
        until = monotonic() + wait_s
        while True:
            answer = self._talk.receive(self._request, min(until, self._asked + ASK_AGAIN_S, self._give_up))
            now = monotonic()
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
                self._talk.send(self._body, self._request.request_id)
            if now >= until:
                return None

    def first(self) -> RelayView:
        """Return the relay as soon as the coordinator shows it: it is accepted and stored then."""
        while (view := self.next(ANSWER_S)) is None:
            pass
        return view

    def until_ended(self, show: Callable[[RelayView | None], None]) -> RelayView:
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
            return self._talk.silence(ANSWER_S, LOOK)
        return BrokerUnreachableError(
            f"the coordinator has not said in time how the relay ended; last it was {self._view.state}",
            hint=LOOK,
        )


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
