"""`workshop play` as it is typed, asked as its page asks it (tests/browser has the page itself)."""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import urllib.request

import numpy as np
import pytest

from tests.conftest import REPOSITORY
from tests.play.conftest import TINY
from workshop_lib.data.actions import RIGHT
from workshop_lib.errors import WorkshopError
from workshop_lib.play.host import Host
from workshop_lib.play.page import Server, make_server, serve
from workshop_lib.play.session import PlaySession
from workshop_lib.worlds.copy_world import CopyWorld


def ask(address, message):
    """An answer and its pictures, each uint8 (64, 64, 3)."""
    with urllib.request.urlopen(address + "ask", json.dumps(message).encode(), timeout=60) as reply:
        data = reply.read()
    end = 4 + int.from_bytes(data[:4], "big")
    pictures = np.frombuffer(data[end:], np.uint8).reshape(-1, 64, 64, 3)
    return json.loads(data[4:end]), pictures


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl+C reaches another process differently")
def test_the_verb_serves_a_world_until_it_is_interrupted():
    verb = [sys.executable, "-m", "workshop_lib.cli", "play", "--no-browser", "--world", str(TINY)]
    options = ["--steps", "2", "--episode", "2", "--start", "10"]
    prompt = ["--prompt", "data/sample/easy"]
    process = subprocess.Popen(
        [*verb, *options, *prompt],
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
        # A test run in the background was told to ignore Ctrl+C, and would pass that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        line = process.stdout.readline()
        address = re.search(r"http://127\.0\.0\.1:\d+/\S+/", line)[0]
        page = urllib.request.urlopen(address, timeout=60).read().decode()
        for name in re.findall(r'(?:href|from)[= ]"(?:\./)?(player\.\w+)"', page):
            assert urllib.request.urlopen(address + name, timeout=60).status == 200
        told, _ = ask(address, {"do": "show", "view": "a", "id": 1})
        assert told["world"] == "dynamics-tiny" and "episode 2, frame 17" in told["prompt"]
        _, before = ask(address, {"do": "show", "view": "a", "id": 2})
        told, after = ask(address, {"do": "step", "action": RIGHT, "view": "a", "id": 3})
        assert told["count"] == 1 and not np.array_equal(before[0], after[0])
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()


def test_a_port_that_is_taken_is_said(prompt):
    host = Host(PlaySession(CopyWorld(), prompt))
    with (
        make_server(host) as server,
        pytest.raises(WorkshopError, match=f"--port {server.server_port}: .*0 takes a free one"),
    ):
        make_server(host, server.server_port)


def test_a_page_that_is_closed_while_it_waits_makes_no_noise(prompt, capsys):
    """Each asks for the page and is gone before it comes; what else goes wrong is still said."""
    gone, handled = struct.pack("ii", 1, 0), threading.Event()  # close at once, with a reset

    class Heard(Server):
        def handle_error(self, request, client_address):
            super().handle_error(request, client_address)
            handled.set()

    with make_server(Host(PlaySession(CopyWorld(), prompt))) as server:
        server.__class__ = Heard
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", server.server_port)) as visitor:
                visitor.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, gone)
                visitor.sendall(f"GET /{server.secret}/ HTTP/1.1\r\n\r\n".encode())
            if handled.wait(0.05):
                break
        assert handled.is_set() and capsys.readouterr().err == ""
        server.shutdown()
        try:
            raise ValueError("a fault of ours")
        except ValueError:
            server.handle_error(None, ("127.0.0.1", 1))
        assert "a fault of ours" in capsys.readouterr().err


def test_a_prompt_that_is_none_is_said():
    with pytest.raises(WorkshopError, match="give the level's number"):
        serve(data=str(REPOSITORY / "data"), prompt="level:high", browser=False)


def test_an_option_that_the_world_does_not_have_is_said():
    with pytest.raises(WorkshopError, match="dynamics-tiny has no option 'sampler'; it has steps"):
        serve("dynamics-tiny", str(REPOSITORY / "data"), sampler="dpm", browser=False)
