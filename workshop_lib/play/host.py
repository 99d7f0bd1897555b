"""Answers a player, whether it is a widget in a notebook, a page in a browser, or buttons."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from workshop_lib.errors import WorkshopError
from workshop_lib.play.session import PlaySession

# One at a time, whichever player or thread asks: while a cell runs, messages are handled by another
# thread, and two players may share a world.
LOCK = threading.RLock()
TRACE = 400  # values of the trace that a player is sent when it opens

Message = dict[str, Any]
Answer = tuple[Message, list[bytes]]


class Host:
    """Holds the session that is played.

    A player asks for one thing at a time, and for the next when it has been answered. Where it
    asks again nevertheless, because it gave up waiting, what it asked before is dropped.
    """

    def __init__(self, session: PlaySession) -> None:
        self.session = session
        self.on_change: list[Callable[[], None]] = []  # called when another session begins
        self._newest: dict[str, int] = {}

    def play(self, make: Callable[[], PlaySession]) -> None:
        """Goes over to another session. If it cannot be made, the old one stays."""
        with LOCK:
            self.session = make()
        for changed in self.on_change:
            changed()

    def answer(self, message: Message) -> Answer | None:
        """What a message asks for, and the pictures that belong to it; None if it is outdated.

        message: `do` is "show", "step" (with `action`), "undo" or "reset"; `view` says who asks,
            and `id` counts what it asks for.

        The answer's pictures are the frame and, where there is one, the real game's, both as
        H x W x 3 bytes. It never raises: what went wrong is in the answer's "error".
        """
        view, number = str(message.get("view", "")), int(message.get("id", 0))
        self._newest[view] = max(number, self._newest.get(view, 0))
        with LOCK:
            if number < self._newest[view]:
                return None
            error = ""
            try:
                self._do(message)
            except KeyboardInterrupt:  # the kernel was interrupted: play stops, too
                error = "interrupted"
            except WorkshopError as problem:
                error = str(problem)
            except Exception as problem:  # a world of the learner's own may fail in any way
                error = f"{type(problem).__name__}: {problem}"
            told, pictures = self.show(whole=message.get("do") != "step")
        return {**told, "view": view, "id": number, "error": error}, pictures

    def show(self, whole: bool = True) -> Answer:
        """The moment on the screen. whole: with what a player that has just opened must know."""
        session, now = self.session, self.session.now
        told: Message = {
            "size": now.frame.shape[:2],
            "count": len(session.actions),
            "action": now.action,
            "caption": session.caption(now),
            "ms": 1000 * now.seconds,
            "psnr": now.psnr,
            "note": now.note,
            "begun": now.begun,
        }
        if whole:
            told |= {
                "world": session.name,
                "prompt": session.prompt.name,
                "codes": 0 if session.takes_keys else session.world.num_actions,
                "trace": [step.psnr for step in list(session.steps)[1:]][-TRACE:],
            }
        pictures = [now.frame.tobytes()]
        return told, pictures if now.real is None else [*pictures, now.real.tobytes()]

    def _do(self, message: Message) -> None:
        what = message.get("do")
        if what == "step":
            self.session.step(int(message["action"]))
        elif what == "undo":
            self.session.undo()
        elif what == "reset":
            self.session.reset()
        elif what != "show":
            raise WorkshopError(f"a player cannot ask for {what!r}")
