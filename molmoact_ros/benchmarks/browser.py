"""The panel in a headless Chromium, operated by mouse and keyboard: for tests and benchmarks."""

from __future__ import annotations

import itertools
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

QUIET: Final = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--no-first-run", "--disable-dev-shm-usage", "--mute-audio", "--hide-scrollbars",
)  # fmt: skip
"""Only the page itself: Chromium's own network requests would hang without a network."""
STEPS: Final = 12
"""Mouse positions along each segment of a stroke."""


def is_there() -> bool:
    """Whether Chromium and its driver are installed."""
    return shutil.which("chromium") is not None and shutil.which("chromedriver") is not None


class Browser:
    """A browser window on the panel, as a `with` block. Times are in s."""

    def __init__(self, address: str, size: tuple[int, int] = (1280, 900), dark: bool = False) -> None:
        """size: of the page, pixels; dark: prefer the dark colour scheme. Raises RuntimeError without a Chromium."""
        self._address, self._size, self._dark = address, size, dark

    def __enter__(self) -> Self:
        if not is_there():
            raise RuntimeError("there is no Chromium; install chromium and chromium-driver")
        self._folder = tempfile.mkdtemp(prefix="molmoact-chromium-")
        options = webdriver.ChromeOptions()
        for flag in (*QUIET, f"--user-data-dir={self._folder}"):
            options.add_argument(flag)
        options.binary_location = str(shutil.which("chromium"))
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        service = webdriver.ChromeService(executable_path=str(shutil.which("chromedriver")))
        try:
            self.driver = webdriver.Chrome(options=options, service=service)
            self.driver.set_page_load_timeout(60)
            self._look_like(*self._size)
            self.driver.get(self._address)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if hasattr(self, "driver"):
            self.driver.quit()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _look_like(self, width: int, height: int) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self._dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    # State of the page

    def find(self, name: str) -> WebElement:
        """The element with this id."""
        return self.driver.find_element(By.ID, name)

    def text(self, name: str) -> str:
        """The text of the element with this id."""
        return str(self.driver.execute_script("return document.getElementById(arguments[0]).textContent", name))

    def frames(self) -> int:
        """Frames displayed so far."""
        return int(self.find("stage").get_attribute("data-frames") or 0)

    def state(self) -> str:
        """The controller's state that the page displays."""
        return str(self.find("state").text).lower()

    def errors(self) -> list[str]:
        """Errors of the page's own code."""
        return [str(entry["message"]) for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]

    def until(self, happened: Callable[[], Any], patience: float) -> bool:
        """Poll until `happened()`; False when it did not within `patience` s."""
        deadline = time.monotonic() + patience
        while not happened():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    # Input

    def instruct(self, text: str) -> None:
        """Type an instruction, and press Enter."""
        field = self.find("text")
        field.clear()
        field.send_keys(text, Keys.ENTER)

    def draw(self, points: Sequence[tuple[float, float]], touch: bool = False) -> None:
        """Drag the mouse, or a finger, along a line through points (right, down) in fractions of the image."""
        picture = self.find("picture")
        width, height = picture.size["width"], picture.size["height"]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'nearest'})", picture)
        places = [(round((x - 0.5) * width), round((y - 0.5) * height)) for x, y in along(points)]
        kind = "touch" if touch else "mouse"
        pointer = webdriver.common.actions.pointer_input.PointerInput(kind, kind)
        actions = ActionBuilder(self.driver, mouse=pointer, duration=8)
        hand = actions.pointer_action
        hand.move_to(picture, *places[0]).pointer_down()
        for place in places[1:]:
            hand.move_to(picture, *place)
        hand.pointer_up()
        actions.perform()

    def press(self, name: str) -> None:
        """Click the button with this id."""
        self.find(name).click()

    def key(self, key: str) -> None:
        """Press a key, wherever the focus is."""
        ActionChains(self.driver).send_keys(key).perform()

    def screenshot(self, file: Path) -> None:
        """Save the window as PNG."""
        file.write_bytes(self.driver.get_screenshot_as_png())


def along(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points along a line through `points`, STEPS on each segment, ends included."""
    places = [points[0]]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        places += [(x0 + (x1 - x0) * k / STEPS, y0 + (y1 - y0) * k / STEPS) for k in range(1, STEPS + 1)]
    return places
