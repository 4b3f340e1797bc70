"""The near end of a tunnel: `forwarder.py PORT TO-PORT` passes on what it gets, in both directions, and says `ready`.

It must not import culpa: labs copy it out of the package and run it as anybody's program.
"""

from __future__ import annotations

import asyncio
import sys

LOOPBACK = "127.0.0.1"
CHUNK_BYTES = 1 << 16


async def passed_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction, until its end."""
    while chunk := await reader.read(CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()
    writer.close()


async def main() -> None:
    """Serve until stopped."""
    port, beyond = int(sys.argv[1]), int(sys.argv[2])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(LOOPBACK, beyond)
        await asyncio.gather(passed_on(reader, back), passed_on(there, writer), return_exceptions=True)

    server = await asyncio.start_server(serve, LOOPBACK, port)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
