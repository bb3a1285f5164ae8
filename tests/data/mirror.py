"""A mirror on the loopback interface that serves bytes, with the faults that real ones have."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer


@dataclass
class Mirror:
    """What the server does; a test changes it before it asks.

    Attributes:
        content: the bytes of whatever file is asked for.
        ranges: whether Range is honoured.
        cut_bytes: for each coming request, after how many bytes of the body the connection breaks; an
            exhausted list breaks none.
        stated_range: what Content-Range says, None for the truth.
        status: what to answer instead of the file, 0 for the file.
        location: where to redirect to, "" for nowhere.
        asked: the Range header of each request so far, "" for none.
    """

    content: bytes
    ranges: bool = True
    cut_bytes: list[int] = field(default_factory=list)
    stated_range: str | None = None
    status: int = 0
    location: str = ""
    asked: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve(mirror: Mirror) -> Iterator[Mirror]:
    """Runs the mirror while the block lasts; its `url` is a folder's."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, mirror)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        mirror.url = f"http://127.0.0.1:{server.server_address[1]}/"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield mirror
        finally:
            server.shutdown()
            thread.join()


def _answer(request: BaseHTTPRequestHandler, mirror: Mirror) -> None:
    asked = request.headers.get("Range", "")
    mirror.asked.append(asked)
    if mirror.status or mirror.location:
        request.send_response(mirror.status or 302)
        request.send_header("Location", mirror.location)
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and mirror.ranges else 0
    body = mirror.content[start:]
    request.send_response(206 if start else 200)
    if start:
        truth = f"bytes {start}-{len(mirror.content) - 1}/{len(mirror.content)}"
        request.send_header("Content-Range", truth if mirror.stated_range is None else mirror.stated_range)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body[: mirror.cut_bytes.pop(0)] if mirror.cut_bytes else body)
