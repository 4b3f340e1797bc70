"""An HTTP server on one event loop, standalone: `python tally.py --port P MILLISECONDS`.

/quick      answers at once
/thorough   counts for MILLISECONDS before it answers, in the loop
/patient    answers after as long, and leaves the loop to others meanwhile
"""

from __future__ import annotations

import argparse
import asyncio
import time


def thorough(seconds: float) -> str:
    """Count without a pause."""
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        count += 1
    return f"{count} counted"


async def answered(path: str, seconds: float) -> str:
    """The text for a path."""
    if path == "/thorough":
        return thorough(seconds)
    if path == "/patient":
        await asyncio.sleep(seconds)
    return "up"


async def main() -> None:
    """Serve until stopped."""
    arguments = argparse.ArgumentParser(description="an HTTP server on one event loop")
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("milliseconds", type=int)
    given = arguments.parse_args()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                body = await answered(head.split()[1].decode(), given.milliseconds / 1000)
                writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", given.port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
