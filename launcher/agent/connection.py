"""A TCP connection that carries messages, used by the agents and by the supervisor."""

import asyncio
import socket
from contextlib import suppress

from launcher.agent.messages import (
    MAX_LINE_BYTES,
    Message,
    MessageError,
    decode_message,
    encode_message,
)

LOST_SECONDS = 30
"""After this time without an answer of the other machine's kernel, the connection is lost."""
MAX_UNSENT_BYTES = 16 << 20
"""A connection with more unsent bytes is closed, because its peer does not read."""


class Connection:
    """Reads and writes messages."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        link = writer.get_extra_info("socket")
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, LOST_SECONDS // 2)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, LOST_SECONDS // 6)
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, LOST_SECONDS * 1000)

    @property
    def peer_address(self) -> str:
        """The address of the other machine, as this one sees it."""
        return str(self._writer.get_extra_info("peername")[0])

    @property
    def own_address(self) -> str:
        """The address of this machine, as the other one sees it."""
        return str(self._writer.get_extra_info("sockname")[0])

    def send(self, message: Message) -> None:
        """Sends a message; does nothing if the connection is lost, which `receive` reports."""
        transport = self._writer.transport
        if transport.is_closing():
            return
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            transport.abort()
            return
        self._writer.write(encode_message(message))

    async def receive(self) -> Message | None:
        """Waits for the next message.

        Returns:
            None if the connection is closed or lost.

        Raises:
            MessageError: The other side sent a line that is not a message.
        """
        try:
            line = await self._reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            raise MessageError(f"a line of more than {MAX_LINE_BYTES} bytes") from None
        except (asyncio.IncompleteReadError, OSError):
            return None
        return decode_message(line)

    def abort(self) -> None:
        """Closes the connection at once; what is not sent yet is dropped."""
        self._writer.transport.abort()

    async def close(self) -> None:
        """Sends what is waiting, for at most two seconds, and closes the connection."""
        self._writer.close()
        with suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), 2)


async def connect(host: str, port: int, *, timeout_seconds: float) -> Connection:
    """Connects to a supervisor.

    Raises:
        OSError: Nothing answers there; `TimeoutError` if it takes too long.
    """
    opening = asyncio.open_connection(host, port, limit=MAX_LINE_BYTES)
    return Connection(*await asyncio.wait_for(opening, timeout_seconds))
