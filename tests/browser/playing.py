"""A player in a real page: what it shows, and what the keys bring about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from playwright.sync_api import Locator, Page

from workshop_lib.evaluation.shift import scroll

# Notes every frame that arrives, with the pixels that are drawn for it.
WATCH = """root => {
    const seen = root.seen = [];
    root.addEventListener("player-frame", event => {
        const canvas = root.querySelector(".wp-main canvas");
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        seen.push({ ...event.detail, pixels: Array.from(data) });
    });
}"""
PATIENCE = 60_000  # milliseconds; the machine may be busy


@dataclass(frozen=True)
class Player:
    """root: the element that player.js was mounted on."""

    page: Page
    root: Locator

    @classmethod
    def on(cls, page: Page, root: Locator) -> Player:
        root.wait_for(timeout=PATIENCE)
        root.scroll_into_view_if_needed()
        root.evaluate(WATCH)
        return cls(page, root)

    def count(self) -> int:
        return self.root.evaluate("root => root.seen.length")

    def wait_for(self, more: int) -> None:
        """Until so many frames more have arrived."""
        wanted = self.count() + more
        self.page.wait_for_function(
            "([root, wanted]) => root.seen.length >= wanted",
            arg=[self.root.element_handle(), wanted],
            timeout=PATIENCE,
        )

    def wait_until_still(self) -> None:
        before = -1
        while before != (before := self.count()):
            self.page.wait_for_timeout(1500)

    def details(self) -> list[dict[str, Any]]:
        """All answers so far, without their pixels."""
        return self.root.evaluate("root => root.seen.map(({ pixels, ...rest }) => rest)")

    def picture(self, number: int = -1) -> np.ndarray:
        """What was drawn for an answer: uint8 (64, 64, 3)."""
        pixels = self.root.evaluate("(root, number) => root.seen.at(number).pixels", number)
        return np.array(pixels, dtype=np.uint8).reshape(64, 64, 4)[..., :3]

    def hold(self, *keys: str, frames: int) -> None:
        """Keys held until so many frames have arrived."""
        for key in keys:
            self.page.keyboard.down(key)
        self.wait_for(frames)
        for key in keys:
            self.page.keyboard.up(key)
        self.wait_until_still()

    def press(self, key: str) -> None:
        """A key, and the answer to it."""
        wanted = self.count()
        self.page.keyboard.press(key)
        self.page.wait_for_function(
            "([root, wanted]) => root.seen.length > wanted",
            arg=[self.root.element_handle(), wanted],
            timeout=PATIENCE,
        )

    def button(self, name: str) -> Locator:
        return self.root.locator(f"button[data-do='{name}'], button[data-key='{name}']")

    def says(self) -> str:
        return self.root.locator("small").inner_text()


def moved(before: np.ndarray, after: np.ndarray) -> int:
    """Pixels by which the picture scrolled to the right."""
    return int(scroll(torch.tensor(before)[None], torch.tensor(after)[None])[0, 0])
