"""The player as a page of its own: `workshop play`."""

from __future__ import annotations

import json
import secrets
import sys
import webbrowser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from workshop_lib.data.game import Backend, Look
from workshop_lib.errors import WorkshopError
from workshop_lib.models.diffusion_math import SamplerName
from workshop_lib.play.choices import EPISODE, FRAME, Choices, look_of
from workshop_lib.play.host import Host
from workshop_lib.play.prompts import Prompt, level_prompt, recorded_prompt

FILES = {
    "": ("page.html", "text/html; charset=utf-8"),
    "player.js": ("player.js", "text/javascript"),
    "player.css": ("player.css", "text/css"),
}
LEVEL = "level:"  # a prompt from the real game
LONGEST = 10_000  # bytes of a request


def serve(
    world: str | None = None,
    data: str = "data",
    prompt: str | None = None,
    episode: int | None = None,
    start: int | None = None,
    look: Look | None = None,
    simulator: Backend = "auto",
    steps: int | None = None,
    temperature: float | None = None,
    sampler: SamplerName | None = None,
    guidance: float | None = None,
    seed: int | None = None,
    device: str = "auto",
    ends: bool = True,
    port: int = 0,
    browser: bool = True,
) -> None:
    """Opens the player in the browser, without a notebook. Ctrl+C ends it.

    Args:
        world: the name of a model in data/pretrained, a model's file, or "the real game"; by
            default the first there is.
        data: the folder that holds pretrained and sample.
        prompt: a split folder, or level:NUMBER for that level of the real game; by default
            recorded CoinRun of data/sample, of the look that the world is for.
        episode: which test episode of the split folder.
        start: frame of the episode at which the prompt begins.
        look: of the level: mono, easy or hard; by default what the world is for. (A split folder
            has its own.)
        simulator: of the real game: procgen, envpool, or auto for the first that is installed.
        steps: of making a frame, in worlds that take several; by default the world's own.
        temperature: of the world's draws, in worlds of tokens; by default the world's own.
        sampler: of the noise, in worlds of diffusion; by default the world's own.
        guidance: there, how much more the action counts; 1 is no more, at half the price.
        seed: of the world's draws, in worlds that draw; by default the world's own.
        device: where it dreams: cpu, cuda, or auto for the GPU if there is one.
        ends: whether a dreamed level ends, and begins anew, where the model of endings says so;
            false lets the dream go on behind the coin.
        port: of the page on this machine; 0 takes a free one.
        browser: open the page in the browser, too; its address is printed either way.
    """
    choices = Choices(data, device, simulator)
    choices.ends = ends
    name = choices.name_of(world)
    if prompt is None:
        begun = choices.first_prompt(name, look, episode, start)
    else:
        number, frame = EPISODE if episode is None else episode, FRAME if start is None else start
        begun = _prompt(choices, prompt, number, frame, look or look_of(name) or "easy")
    session = choices.session(name, begun)
    given: dict[str, float | str | None] = {"steps": steps, "temperature": temperature}
    given |= {"sampler": sampler, "guidance": guidance, "seed": seed}
    session.set(**{name: value for name, value in given.items() if value is not None})
    server = make_server(Host(session), port)
    print(f"{session.name}: {server.address}   (Ctrl+C ends it)", flush=True)
    if browser:
        webbrowser.open(server.address)
    with server:
        server.serve_forever()


class Server(ThreadingHTTPServer):
    """Serves one player to this machine; the secret in its address keeps other pages out."""

    daemon_threads = True
    host: Host
    secret: str

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of a page that was closed while it waited for a frame."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/{self.secret}/"


def make_server(host: Host, port: int = 0) -> Server:
    """A server for `serve_forever`.

    Raises WorkshopError if the port is taken.
    """
    try:
        server = Server(("127.0.0.1", port), _Handler)
    except OSError as error:
        raise WorkshopError(f"--port {port}: {error.strerror}; 0 takes a free one") from error
    server.host, server.secret = host, secrets.token_urlsafe(8)
    return server


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"  # the connection stays open from frame to frame

    def do_GET(self) -> None:
        """The page and what belongs to it."""
        name = self._name()
        if name not in FILES:
            self.send_error(404)
            return
        file, kind = FILES[name]
        self._send((Path(__file__).parent / file).read_bytes(), kind)

    def do_POST(self) -> None:
        """What the player asks for."""
        length = int(self.headers.get("Content-Length", 0))
        if self._name() != "ask" or length > LONGEST:
            self.send_error(404)
            return
        answer = self.server.host.answer(json.loads(self.rfile.read(length)))
        if answer is None:
            self.send_response(204)
            self.end_headers()
            return
        told, pictures = answer
        text = json.dumps(told).encode()
        body = len(text).to_bytes(4, "big") + text + b"".join(pictures)
        self._send(body, "application/octet-stream")

    def _name(self) -> str | None:
        """What is asked for within the secret folder; None outside it."""
        head, _, name = self.path.lstrip("/").partition("/")
        return name if secrets.compare_digest(head.encode(), self.server.secret.encode()) else None

    def _send(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing of every frame."""


def _prompt(choices: Choices, prompt: str, episode: int, start: int, look: Look) -> Prompt:
    if not prompt.startswith(LEVEL):
        return recorded_prompt(prompt, "test", episode, start, simulator=choices.simulator)
    if not prompt.removeprefix(LEVEL).isdigit():
        raise WorkshopError(f"--prompt {prompt}: give the level's number, such as level:110003")
    return level_prompt(int(prompt.removeprefix(LEVEL)), look, simulator=choices.simulator)
