"""One tree of errors; each can say what was wrong and what would be right."""


class QkdRelayError(Exception):
    """Anything that qkdrelay refuses or cannot do.

    ``hint`` is one line for the person at the terminal: what would be right. No error of
    this tree ever carries key, share, pad or confirmation-key bytes.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class SharingError(QkdRelayError):
    """Sharing was misused: a threshold, an index or a length that cannot be."""


class AmdError(SharingError):
    """The bytes are not a code word of the AMD code: something was altered."""


class MalformedMessageError(QkdRelayError):
    """The bytes are not a message of this protocol version; ``message`` says where."""


class ForgedMessageError(QkdRelayError):
    """A seal or a signature does not verify, or a number is out of its window."""


class NumberReusedError(ForgedMessageError):
    """A number that was finished before came again with another tag: somebody has used one-time key twice."""


class OvertakenError(QkdRelayError):
    """A signed message is of an epoch before the latest, whose sender has another say now, or is not who it was."""


class InvalidPlanError(QkdRelayError):
    """The graph is not a plan a relay may use."""


class TopologyError(QkdRelayError):
    """A network file or a name in it is wrong."""


class SettingsError(QkdRelayError):
    """A setting is missing or wrong."""


class StoreError(QkdRelayError):
    """The durable store cannot be used."""


class StoreInUseError(StoreError):
    """Another process owns the store."""


class RequestRefusedError(QkdRelayError):
    """What was asked for cannot be done, and why."""


class UnreachableError(QkdRelayError):
    """Whoever is asked cannot be reached, or does not do it."""


class BrokerUnreachableError(UnreachableError):
    """The message broker, or the service behind it, cannot be reached."""
