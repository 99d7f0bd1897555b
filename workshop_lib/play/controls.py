"""The player's controls, of ipywidgets: which world, where to begin, its options, saving."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets

from workshop_lib.errors import WorkshopError
from workshop_lib.play.choices import HERE, LEVEL, Choices, place_in
from workshop_lib.play.files import load_session, save_session
from workshop_lib.play.film import still
from workshop_lib.play.host import LOCK, Host
from workshop_lib.play.session import PlaySession


class Player(widgets.VBox):
    """Screen and controls. Where no widget can be shown, a GIF stands in its place."""

    def __init__(self, choices: Choices, host: Host, screen: Any) -> None:
        self.choices, self.host = choices, host
        wide = {"style": {"description_width": "84px"}, "layout": {"width": "236px"}}
        slim = {**wide, "layout": {"width": "172px"}}
        self.world = widgets.Dropdown(options=list(choices.worlds), description="world", **wide)
        kinds = [*choices.prompts, HERE]
        self.kind = widgets.Dropdown(options=kinds, description="begin at", **wide)
        self.number = widgets.BoundedIntText(0, 0, 2**31 - 2, description="episode", **slim)
        self.frame = widgets.BoundedIntText(0, 0, 10**6, description="frame", **slim)
        self.options = {
            "steps": widgets.IntSlider(4, 1, 16, description="steps", **wide),
            "temperature": widgets.FloatSlider(1, min=0, max=2, description="temperature", **wide),
            "ends": widgets.Checkbox(
                choices.ends, description="levels end", indent=False, layout=slim["layout"]
            ),
            "seed": widgets.BoundedIntText(0, 0, 2**31 - 1, description="dice", **slim),
        }
        self.file = widgets.Text("dream.mp4", description="file", **wide)
        self.said = widgets.HTML()
        self._update()
        if choices.prompts:
            self.kind.value = choices.first_kind(host.session.name)
        self._change_kind()
        begin, save, load = map(self._button, ("begin", "save", "load"))
        *turned, dice = self.options.values()
        where = [self.kind, self.number, self.frame, begin]
        rows = [[self.world, *turned], where, [self.file, dice, save, load], [self.said]]
        wrap = {"flex_flow": "row wrap"}
        super().__init__([screen, *(widgets.HBox(row, layout=wrap) for row in rows)])
        self.world.observe(lambda _: self._try(self._change_world), "value")
        self.kind.observe(lambda _: self._change_kind(), "value")
        for name, slider in self.options.items():
            slider.observe(partial(self._turn, name), "value")
        host.on_change += [screen.refresh, self._update]

    @property
    def session(self) -> PlaySession:
        """What is being played."""
        return self.host.session

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        with LOCK:
            return {**(bundle or {}), "text/html": still(self.session)._repr_html_()}

    def _button(self, name: str) -> widgets.Button:
        button = widgets.Button(description=name, layout={"width": "72px"})
        button.on_click(lambda _: self._try(getattr(self, f"_{name}")))
        return button

    def _try(self, act: Callable[[], str | None]) -> None:
        try:
            said = act() or ""
        except WorkshopError as error:
            said = str(error)
            self._update()
        self.said.value = escape(said)

    def _begin(self) -> None:
        where = self.kind.value, self.number.value, self.frame.value
        prompt = self.session.here() if where[0] == HERE else self.choices.prompt(*where)
        self.host.play(lambda: self.choices.session(self.world.value, prompt))

    def _change_world(self) -> None:
        name, session = self.world.value, self.session
        prompt = session.here() if self.kind.value == HERE else session.prompt
        if name != session.name:
            self.host.play(lambda: self.choices.session(name, prompt))

    def _change_kind(self) -> None:
        level, here = self.kind.value.startswith(LEVEL), self.kind.value == HERE
        self.number.description = "level" if level else "episode"
        self.number.value, self.frame.value = place_in(self.kind.value)
        self.number.layout.display = "none" if here else ""
        self.frame.layout.display = "none" if level or here else ""

    def _turn(self, name: str, change: dict[str, Any]) -> None:
        with LOCK:
            if name in self.session.options:
                self.session.set(**{name: change["new"]})
                if name == "ends":
                    self.choices.ends = change["new"]

    def _update(self) -> None:
        """The controls as the session stands."""
        self.world.value = self.session.name
        for name, slider in self.options.items():
            value = self.session.options.get(name)
            slider.layout.display = "none" if value is None else ""
            slider.value = slider.value if value is None else value

    def _save(self) -> str:
        path = Path(self.file.value)
        with LOCK:
            write = save_session if path.suffix == ".npz" else PlaySession.record
            write(self.session, path)
        return f"{path.resolve()}: {len(self.session.actions)} steps"

    def _load(self) -> str:
        path, session = Path(self.file.value), self.session
        ends = self.choices.termination(session.world)
        self.host.play(lambda: load_session(path, session.world, session.name, termination=ends))
        return f"{path}: {len(self.session.actions)} steps"
