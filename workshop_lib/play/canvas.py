"""The part of the player that is drawn in the browser: pictures, keys and buttons (player.js)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget

from workshop_lib.play.host import Answer, Host


class Canvas(anywidget.AnyWidget):
    """The loop runs in the browser, which asks for each frame: no thread here, nothing to stop."""

    _esm = Path(__file__).with_name("player.js")
    _css = Path(__file__).with_name("player.css")

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.host = host
        self.on_msg(self._on_message)

    def refresh(self) -> None:
        """Shows the host's session, which is another one now."""
        self._reply(self.host.show())

    def _on_message(self, _: Any, message: dict[str, Any], buffers: list[memoryview]) -> None:
        self._reply(self.host.answer(message))

    def _reply(self, answer: Answer | None) -> None:
        if answer is not None:
            self.send(*answer)
