"""The command line of a site other than the coordinator's: asks at home, and reads the answers at the coordinator's."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from qkdrelay.broker.names import answer_queues
from qkdrelay.broker.port import Client
from qkdrelay.broker.rabbitmq.client import RabbitMqClient
from qkdrelay.broker.rabbitmq.settings import RabbitMqSettings
from qkdrelay.errors import BrokerUnreachableError

_TAKEN: Final = "in exclusive use"
"""What RabbitMQ says of a queue that somebody else reads."""


class SiteClient(Client):
    """Implements `qkdrelay.broker.port.Client` with two connections: to the site's broker and to the coordinator's."""

    def __init__(self, home: RabbitMqSettings, coordinator: RabbitMqSettings, site: str) -> None:
        """``home`` is the way to this site's broker, as the command line; ``coordinator`` to that one, as the ``site``.

        Raises BrokerUnreachableError, also while as many command lines of the site are at work as may be.
        """
        self._answers = _first_free(coordinator, answer_queues(site))
        try:
            self._home = RabbitMqClient(home, reads="")
        except BaseException:
            self._answers.close()
            raise

    @property
    def address(self) -> str:
        """See `Client.address`."""
        return self._answers.address

    def send(self, body: bytes) -> None:
        """See `Client.send`."""
        self._home.send(body)

    def check(self) -> None:
        """See `Client.check`."""
        self._home.check()

    def receive(self, timeout_s: float) -> tuple[str, str, bytes] | None:
        """See `Client.receive`."""
        return self._answers.receive(timeout_s)

    def close(self) -> None:
        """See `Client.close`; answers that are still to come are thrown away after a while."""
        self._home.close()
        self._answers.close()


def _first_free(settings: RabbitMqSettings, queues: Sequence[str]) -> RabbitMqClient:
    """Return who reads one of these queues, which nobody else does."""
    for queue in random.sample(queues, len(queues)):  # not all for the same first
        try:
            return RabbitMqClient(settings, reads=queue)
        except BrokerUnreachableError as error:
            if _TAKEN not in str(error):
                raise
    raise BrokerUnreachableError(
        f"{len(queues)} command lines of this site are at work, which is as many as may be", hint="once one is done"
    )
