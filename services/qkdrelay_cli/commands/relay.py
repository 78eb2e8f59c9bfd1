"""`coordinator relay`: ask for keys at two KMEs, and wait for them."""

# ruff: noqa: PLC0415 - imports stand where they are needed, so that `--help` is quick

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from qkdrelay.errors import BrokerUnreachableError
from qkdrelay.terminal import EXIT_FAILED, Screen, console, note, print_json, say
from qkdrelay.terminal.wording import JsonOption
from qkdrelay_cli.arguments import check_name, parsed_demand
from qkdrelay_cli.options import PolicyOption, SourceArgument, TargetArgument, WithstandOption

if TYPE_CHECKING:
    from qkdrelay.client import FollowedRelay
    from qkdrelay.messages.answers import RelayView
    from qkdrelay.messages.requests import RelayRequest

LINGER_S_MAX = 3_600.0


def relay(
    source: SourceArgument,
    target: TargetArgument,
    *,
    keys: Annotated[int, typer.Option(metavar="N", help="How many keys.")] = 1,
    key_size: Annotated[int, typer.Option(metavar="BITS", help="Size of each key, a multiple of 8.")] = 256,
    timeout: Annotated[float, typer.Option(metavar="S", help="Seconds until the relay fails.")] = 30.0,
    policy: PolicyOption = None,
    withstand: WithstandOption = None,
    allow_unprotected: Annotated[
        bool,
        typer.Option(
            "--allow-unprotected",
            help="Even if one compromised KME could learn the keys; both ends' own settings must allow it, too.",
        ),
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Print the relay's id once it is accepted; exit.")] = False,
    linger: Annotated[
        float,
        typer.Option(metavar="S", min=0.0, max=LINGER_S_MAX, help="Seconds to wait for late shares once it is over."),
    ] = 0.5,
    relay_id: Annotated[
        UUID | None, typer.Option("--id", metavar="UUID", help="The relay's id, to ask for the same relay again.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Relay fresh keys from one KME to another.

    Takes the best plan that withstands one compromised KME and, if the network allows it, one failed one as well; or
    what --withstand says. Is refused if there is none. `coordinator plan` lists the plans there are.

    Waits until both ends have confirmed them, or for the timeout, and tells how their shares travelled.

    Exit status: 0 confirmed by both ends, 1 failed, 2 wrong use or refused, 3 broker or coordinator cannot be reached.

    Example: coordinator relay kme-1 kme-8 --keys 10
    """
    from qkdrelay.messages.keys import check_key_amount
    from qkdrelay.messages.relay_ids import new_relay_id
    from qkdrelay.messages.requests import OpenDemand, RelayRequest
    from qkdrelay_cli import session

    check_key_amount(keys, key_size)
    demand = parsed_demand(withstand)
    request = RelayRequest(
        relay_id=relay_id or new_relay_id(),
        source=check_name(source),
        target=check_name(target),
        key_count=keys,
        key_size_bits=key_size,
        timeout_s=timeout,
        policy=policy,
        withstand=OpenDemand(compromised=demand.compromised, failed=demand.failed, tampering=demand.tampering),
        allow_unprotected=allow_unprotected,
        follow=True,
    )
    with session.opened() as coordinator, _afterwards(request.relay_id):
        following = coordinator.follow(request)
        if no_wait:
            view = following.first()
        else:
            with _progress(following) as show:
                view = following.until_decided(show)
                view = _linger(following, view, linger, show)
    if view.state != "failed" and (less := _less(request, view)):
        note(f"the plan withstands less than was asked for, as --allow-unprotected lets it: {less}")
    _tell(view, as_json=as_json, no_wait=no_wait)


def _less(request: RelayRequest, view: RelayView) -> str | None:
    """Return in what the terms demand less of the plan than was asked for, or None."""
    from msgspec import structs

    from qkdrelay.messages.requests import unlike

    amount = {"key_count": view.key_count, "key_size_bits": view.key_size_bits}
    strict = structs.replace(request, allow_unprotected=False)
    return unlike(strict, ends=(view.source, view.target), withstand=view.withstand, **amount)


def _tell(view: RelayView, *, as_json: bool, no_wait: bool) -> None:
    from qkdrelay.as_data.relays import relay_as_data
    from qkdrelay_cli.render.outcome import print_outcome

    if as_json:
        print_json(relay_as_data(view))
    elif no_wait:
        say(view.relay_id)
    else:
        print_outcome(view, console())
    if view.state == "failed":
        raise typer.Exit(EXIT_FAILED)


def _linger(
    following: FollowedRelay, view: RelayView, linger_s: float, show: Callable[[RelayView | None], None]
) -> RelayView:
    """Return the decided relay after a while, or as soon as nothing more is to come: late shares may name a liar."""
    until = monotonic() + linger_s
    # The decision is known: a broker or coordinator lost from here on does not change it.
    with suppress(BrokerUnreachableError):
        while not view.final and (left := until - monotonic()) > 0:
            newer = following.next(left)
            show(newer)
            view = newer or view
    return view


@contextmanager
def _afterwards(relay_id: UUID) -> Iterator[None]:
    """Say in an error how to learn what became of the relay: it may go on without this command."""
    try:
        yield
    except BrokerUnreachableError as error:
        hint = f"{error.hint or 'try again'}; then `coordinator show {relay_id}` tells whether the relay went on"
        raise BrokerUnreachableError(str(error), hint=hint) from None


@contextmanager
def _progress(following: FollowedRelay) -> Iterator[Callable[[RelayView | None], None]]:
    """Yield what shows a view (None: none has come) as it is now: live on a terminal, else only a long silence."""
    warned = False

    def warn() -> None:
        nonlocal warned
        if following.is_silent and not warned:
            warned = True
            note("the coordinator has become silent; waiting for it")
        elif not following.is_silent:
            warned = False

    if not sys.stderr.isatty():
        yield lambda _: warn()
        return

    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from qkdrelay.as_data.flow import Flow

    columns = (
        TextColumn("{task.description:13}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.completed}/{task.total} shares crossed, {task.fields[arrived]}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Screen(stderr=True), transient=True) as progress:
        task = progress.add_task("asking", total=None, arrived="0 arrived", visible=False)

        def show(view: RelayView | None) -> None:
            warn()
            if view is not None:
                flow = Flow(view)
                progress.update(
                    task,
                    description=view.state,
                    completed=flow.share_messages,
                    total=view.planned_share_messages,
                    arrived=f"{len(flow.collected)} arrived",
                    visible=True,
                )

        yield show
