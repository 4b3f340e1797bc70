"""A small HTTP server around one function, as standalone as any program: `python serve.py --port P FILE [ARGUMENT...]`.

FILE defines `application(arguments)`, which returns a function from the path of a GET to a text, or to None where there
is no such thing. It must not import culpa: labs copy both files out of the package and run them as anybody's program.
"""

from __future__ import annotations

import argparse
import runpy
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import cast

Answer = Callable[[str], str | None]
"""From a path without its query and outer slashes to the text of the answer."""


class Handler(BaseHTTPRequestHandler):
    """One connection, kept open between requests; a thread each."""

    protocol_version = "HTTP/1.1"
    timeout = 60
    wbufsize = 1 << 20  # head and body of an answer leave in one write, which no delayed acknowledgement can hold up
    disable_nagle_algorithm = True
    answer: Answer

    def do_GET(self) -> None:
        """Answer one request; the empty path says that the program is up."""
        path = self.path.split("?", 1)[0].strip("/")
        text = type(self).answer(path) if path else "up"
        body = f"{text or 'not found'}\n".encode()
        self.send_response(404 if text is None else 200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serve until stopped."""
    arguments = argparse.ArgumentParser(description="an HTTP server around one function")
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("file", help="defines application(arguments)")
    arguments.add_argument("rest", nargs=argparse.REMAINDER)
    given = arguments.parse_args()
    application = cast(Callable[[list[str]], Answer], runpy.run_path(given.file)["application"])
    Handler.answer = staticmethod(application(given.rest))
    with ThreadingHTTPServer(("127.0.0.1", given.port), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
