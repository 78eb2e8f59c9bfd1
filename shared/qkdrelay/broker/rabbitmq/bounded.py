"""pika's connection, with bounds on what a broker has it keep: one that another operator runs may send anything."""

from __future__ import annotations

from typing import Any, Final

from pika.adapters.select_connection import SelectConnection
from pika.exceptions import InvalidFrameError
from pika.frame import Header

from qkdrelay.messages.codec import MESSAGE_BYTES_MAX

FRAME_BYTES_MAX: Final = (1 << 20) + 64
"""RabbitMQ itself goes beyond the size agreed on when a header is long."""


class BoundedConnection(SelectConnection):  # type: ignore[misc] # pika has no types that can be relied on
    """Ends with a broker that announces a longer message than there are, or a frame without end."""

    def _on_data_available(self, data_in: bytes) -> None:
        super()._on_data_available(data_in)
        if len(self._frame_buffer) > FRAME_BYTES_MAX:
            raise InvalidFrameError(f"a frame of more than {FRAME_BYTES_MAX} bytes")

    def _process_frame(self, frame_value: Any) -> None:
        if isinstance(frame_value, Header) and frame_value.body_size > MESSAGE_BYTES_MAX:
            raise InvalidFrameError(
                f"a message of {frame_value.body_size} bytes; at most {MESSAGE_BYTES_MAX} are taken"
            )
        super()._process_frame(frame_value)
