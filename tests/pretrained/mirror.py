"""A real web server on this machine, which serves a folder and can be told to go wrong."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PIECE = 1 << 13


@dataclass
class Mirror:
    """What a server does.

    folder: with its files. cut: per request, after how many bytes it hangs up (None: never); the
    last one counts for all further ones. states: answered first, in turn, instead of the file.
    pause: seconds before each piece of 8 KB. ranges: whether it can begin in the middle.
    redirect: the address that files are found under. length: whether it says how long they are.
    asked: (path, Range header) of each request.
    """

    folder: Path
    address: str = ""
    cut: list[int | None] = field(default_factory=lambda: [None])
    states: list[int] = field(default_factory=list)
    pause: float = 0.0
    ranges: bool = True
    redirect: str | None = None
    length: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)


@contextmanager
def serving(mirror: Mirror) -> Iterator[Mirror]:
    """Runs the server; `mirror.address` is its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.close_connection = True
            with suppress(BrokenPipeError, ConnectionResetError):  # the client hung up
                answer(self, mirror)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    mirror.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield mirror
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(request: BaseHTTPRequestHandler, mirror: Mirror) -> None:
    asked = request.headers.get("Range")
    mirror.asked.append((request.path, asked))
    if mirror.redirect is not None:
        return say(request, 302, {"Location": f"{mirror.redirect}{request.path}"})
    if mirror.states:
        return say(request, mirror.states.pop(0))
    path = mirror.folder / request.path.lstrip("/")
    if not path.is_file():
        return say(request, 404)
    content, start = path.read_bytes(), 0
    if asked and mirror.ranges:
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
        if start >= len(content):
            return say(request, 416)
    headers = {"Content-Length": str(len(content) - start)} if mirror.length else {}
    if start:
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
    cut = mirror.cut.pop(0) if len(mirror.cut) > 1 else mirror.cut[0]
    say(request, 206 if start else 200, headers, length=None)
    for at in range(start, len(content) if cut is None else min(len(content), start + cut), PIECE):
        time.sleep(mirror.pause)
        end = at + PIECE if cut is None else min(at + PIECE, start + cut)
        request.wfile.write(content[at:end])
    if cut is not None:
        request.connection.shutdown(socket.SHUT_RDWR)
    return None


def say(
    request: BaseHTTPRequestHandler,
    state: int,
    headers: dict[str, str] | None = None,
    length: str | None = "0",
) -> None:
    request.send_response(state)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    if length is not None:
        request.send_header("Content-Length", length)
    request.send_header("Connection", "close")
    request.end_headers()


def free_address() -> str:
    """Where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"
