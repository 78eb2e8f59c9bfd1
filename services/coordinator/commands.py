"""Commands to KMEs, on their way out of a batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import islice

from qkdrelay.broker.names import COORD_EXCHANGE, control_queue
from qkdrelay.messages.control import COMMANDS_MAX, Command, Commands
from qkdrelay.service.batch_events import BatchEvents
from qkdrelay.service.journal import Journal
from qkdrelay.service.signed_channel import SignedChannel

COMMANDS_WAITING_MAX = 500
"""Messages to one KME that the broker has not taken over."""


class CommandQueue:
    """The commands of a batch, each once, however often something in it asks for it."""

    def __init__(self, journal: Journal, channels: Mapping[str, SignedChannel], events: BatchEvents) -> None:
        """``channels`` has that to each KME."""
        self._outbox, self._channels, self._events = journal.outbox, channels, events
        self._commands: defaultdict[str, dict[Command, None]] = journal.batch.scratch(defaultdict(dict))

    def put(self, kme: str, command: Command) -> None:
        """Tell a KME something, with the rest of this batch.

        Not one that does not take in what it was told; what is left out follows from the relay's state, and is told
        once it says hello.
        """
        if kme not in self._channels:
            self._events.note("command.no_such_kme", "error", kme=kme, text="it is not in the network any more")
        elif self._outbox.backlog.of(control_queue(kme))[0] >= COMMANDS_WAITING_MAX:
            text = "it has not taken in what it was told before"
            self._events.note("command.withheld", "warning", kme=kme, text=text)
        else:
            self._commands[kme][command] = None

    def withdraw(self, kme: str, command: Command) -> None:
        """Leave out what has been overtaken within the batch."""
        self._commands[kme].pop(command, None)

    def send(self) -> None:
        """Put everything into as few messages as fit."""
        for kme, commands in self._commands.items():
            for start in range(0, len(commands), COMMANDS_MAX):
                body = Commands(items=tuple(islice(commands, start, start + COMMANDS_MAX)))
                for signed in self._channels[kme].sign(body):
                    self._outbox.put(COORD_EXCHANGE, control_queue(kme), signed)
        self._commands.clear()
