"""The screen where anywidget cannot run: a picture and buttons, of ipywidgets alone."""

from __future__ import annotations

import io
from html import escape
from typing import Any

import ipywidgets as widgets
import numpy as np
from PIL import Image

from workshop_lib.data.actions import JUMP, LEFT, LEFT_JUMP, NOTHING, RIGHT, RIGHT_JUMP
from workshop_lib.media.overlay import draw_keys, side_by_side
from workshop_lib.play.host import Host
from workshop_lib.play.session import PlaySession

ROWS = (
    (("↖", LEFT_JUMP), ("↑", JUMP), ("↗", RIGHT_JUMP)),
    (("←", LEFT), ("wait", NOTHING), ("→", RIGHT)),
)
SCALE = 5


class Buttons(widgets.VBox):
    """Every press goes on by as many steps as the slider says; the last of them is shown."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.image = widgets.Image(format="png", layout={"align_self": "flex-start"})
        self.line = widgets.HTML()
        self.steps = widgets.IntSlider(4, 1, 16, description="per press")
        self.pad = widgets.VBox()
        order = [self._button(name, {"do": name}) for name in ("undo", "reset")]
        super().__init__([self.image, self.line, self.pad, widgets.HBox([*order, self.steps])])
        self.refresh()

    def refresh(self) -> None:
        """Shows the host's session, which is another one now."""
        session = self.host.session
        codes = [(str(code), code) for code in range(session.world.num_actions)]
        rows = ROWS if session.takes_keys else [codes[i : i + 4] for i in range(0, len(codes), 4)]
        self.pad.children = [
            widgets.HBox([self._button(n, {"do": "step", "action": a}) for n, a in row])
            for row in rows
        ]
        self._ask({"do": "show"}, 1)

    def _button(self, name: str, message: dict[str, Any]) -> widgets.Button:
        button = widgets.Button(description=name, layout={"width": "64px"})
        count = (lambda: self.steps.value) if message["do"] == "step" else (lambda: 1)
        button.on_click(lambda _: self._ask(message, count()))
        return button

    def _ask(self, message: dict[str, Any], count: int) -> None:
        error = ""
        for _ in range(count):
            answer = self.host.answer(message)
            error = "" if answer is None else answer[0]["error"]
        session = self.host.session
        now = session.now
        self.image.value = _png(session)
        near = "" if now.psnr is None else f", {now.psnr:.1f} dB from the real game"
        told = f"frame {len(session.actions)} {session.caption(now)}{near} "
        self.line.value = escape(told + (error or now.note))


def _png(session: PlaySession) -> bytes:
    """The moment on the screen, the real game on its left, the keys that led to it lit."""
    now = session.now
    pictures = [picture for picture in (now.real, now.frame) if picture is not None]
    names = ["the real game", session.name][-len(pictures) :]
    keyed = session.takes_keys and now.action is not None
    pressed = np.array([now.action if keyed else NOTHING])
    shown = side_by_side([draw_keys(p[None], pressed, SCALE) for p in pictures], names)
    buffer = io.BytesIO()
    Image.fromarray(shown[0]).save(buffer, "PNG")
    return buffer.getvalue()
