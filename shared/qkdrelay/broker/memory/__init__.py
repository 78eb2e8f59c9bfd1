"""The broker's contract within one process: for the demo, and for tests that drive a network by hand.

Built from the same definitions document as the real one, it routes, refuses, bounds, redelivers and
dead-letters as that does. It works with one thread that steps every service in turn (``timeout_s=0``)
and with a thread for each service.
"""

from qkdrelay.broker.memory.broker import Elsewhere, MemoryBroker
from qkdrelay.broker.memory.client import MemoryClient
from qkdrelay.broker.memory.hub import MemoryHub

__all__ = ["Elsewhere", "MemoryBroker", "MemoryClient", "MemoryHub"]
