"""The page itself, in Chromium, before a server whose robot only notes what it is told."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from aiohttp import web
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from molmoact_ros.benchmarks.browser import Browser, is_there
from molmoact_ros.panel.server import PanelServer

from .test_server import VIEWS, Writer

PATIENCE = 30.0
STOP_IS_ON_TOP = """
const box = document.getElementById("stop").getBoundingClientRect();
const places = [[0.1, 0.2], [0.5, 0.5], [0.9, 0.8]];
const at = ([x, y]) => document.elementFromPoint(box.left + x * box.width, box.top + y * box.height);
return box.width > 60 && box.height > 40 && places.every((place) => at(place)?.closest("#stop"));
"""
CLICK_AS_SOON_AS_THE_PLAN_CHANGES = """
new MutationObserver((_, watch) => {
  watch.disconnect();
  document.getElementById("approve").click();
}).observe(document.getElementById("gate-plan"), { childList: true, characterData: true, subtree: true });
"""


class Server(PanelServer):
    """One whose socket for words can be shut."""

    shut = False

    async def _control(self, request: web.Request) -> web.StreamResponse:
        if self.shut:
            raise web.HTTPServiceUnavailable
        return await super()._control(request)


class Seen:
    """A page and what is behind it."""

    def __init__(self, server: Server, robot: Writer, browser: Browser) -> None:
        self.server, self.robot, self.browser = server, robot, browser

    def show(self, safety: dict[str, Any] | None, **engine: Any) -> None:
        """Tell the page a state."""
        whole = {
            "state": "running", "message": "", "instruction": "wave", "checkpoint": "", "plan": 1, "step": None,
            "age": None, "mode": "", "stages": [], "tokens": 0, "passes": 0, "camera_age": None, "pending": 0,
            "left": None, "points_left": 0, "trace_message": "",
        }  # fmt: skip
        said = safety and {
            "reason": "", "plan": 0, "progress": 0.0, "latency": None, "limits": {}, "warnings": [], **safety,
        }  # fmt: skip
        collect, engine = engine.pop("collect", None), whole | engine
        self.server.show_state(
            {"safety": said, "engine": engine, "trace": None, "chunk": None, "ended": {}, "collect": collect}
        )  # fmt: skip

    def until(self, happened: Any) -> bool:
        return self.browser.until(happened, PATIENCE)


@pytest.fixture(scope="module")
def opened() -> Iterator[Seen]:
    if not is_there():
        pytest.skip("there is no Chromium here (scripts/system-packages installs Debian's)")
    robot = Writer()
    server = Server(robot, VIEWS, {"arms": [""], "suggestions": []}, "")
    try:
        with Browser(f"http://127.0.0.1:{server.start('127.0.0.1', 0)}") as browser:
            yield Seen(server, robot, browser)
    finally:
        server.close()


@pytest.fixture
def seen(opened: Seen) -> Seen:
    assert opened.until(opened.server.watched)
    opened.robot.told.clear()
    return opened


@pytest.mark.parametrize("size", [(1280, 900), (820, 1180), (390, 800)])
@pytest.mark.parametrize(
    "state", [None, {"state": "unknown (99)", "reason": "why " * 120, "warnings": ["w " * 200] * 9}]
)
def test_h7_stop_is_never_hidden(seen: Seen, size: tuple[int, int], state: dict[str, Any] | None) -> None:
    seen.browser._look_like(*size)
    seen.show(state)
    words = "no controller" if state is None else "unknown (99)"
    assert seen.until(lambda: seen.browser.text("state") == words)
    assert seen.browser.driver.execute_script(STOP_IS_ON_TOP)
    seen.browser.press("stop")
    assert seen.until(lambda: ("press", "stop") in seen.robot.told)
    seen.browser._look_like(1280, 900)


def test_an_unknown_state_can_be_held(seen: Seen) -> None:
    seen.show({"state": "unknown (99)"})
    assert seen.until(lambda: seen.browser.find("hold").is_enabled())
    seen.browser.press("hold")
    assert seen.until(lambda: ("press", "hold") in seen.robot.told)


def test_stop_is_pressed_while_the_socket_is_opened_again(seen: Seen) -> None:
    seen.server.shut = True
    try:
        for watcher in list(seen.server._watchers):
            seen.server._loop.call_soon_threadsafe(watcher.socket._writer.transport.abort)  # type: ignore[union-attr]
        assert seen.until(lambda: seen.browser.text("state") == "not connected")
        seen.browser.press("stop")
        assert seen.until(lambda: ("press", "stop") in seen.robot.told)
    finally:
        seen.server.shut = False
    assert seen.until(seen.server.watched)


def test_after_a_stop_the_button_resets_and_then_resumes(seen: Seen) -> None:
    page = seen.browser
    seen.show({"state": "stopped"})
    assert seen.until(lambda: page.text("resume") == "Reset")
    page.press("resume")
    assert seen.until(lambda: seen.robot.told == [("press", "reset")])
    seen.show({"state": "hold"})
    assert seen.until(lambda: page.text("resume") == "Resume")
    assert not page.find("resume").is_enabled(), "a second click of a double click means nothing"
    time.sleep(1.1)
    seen.show({"state": "hold"})
    assert seen.until(lambda: page.find("resume").is_enabled())
    page.press("resume")
    assert seen.until(lambda: seen.robot.told[-1] == ("press", "resume"))


def test_m4_the_plan_that_was_looked_at_is_approved(seen: Seen) -> None:
    page = seen.browser
    seen.show({"state": "policy"}, pending=3)
    assert seen.until(lambda: page.find("gate").is_displayed())
    page.press("approve")
    assert seen.until(lambda: seen.robot.told == [("approve", 3)])
    time.sleep(0.6)
    page.driver.execute_script(CLICK_AS_SOON_AS_THE_PLAN_CHANGES)
    seen.show({"state": "policy"}, pending=4)
    assert seen.until(lambda: len(seen.robot.told) == 2)
    assert "Plan 4" in page.text("gate-plan")
    assert seen.robot.told[-1] == ("approve", 3), "the finger was on its way before plan 4 was there"
    time.sleep(0.6)
    page.press("approve")
    assert seen.until(lambda: seen.robot.told[-1] == ("approve", 4))


def test_an_episode_is_begun_and_judged_and_a_double_click_begins_none(seen: Seen) -> None:
    page = seen.browser
    waiting = {
        "state": "waiting", "message": "begin", "task": "wave", "number": 0, "left": 0.0, "elapsed": 0.0, "kept": 0,
        "failed": 0, "discarded": 0, "wanted": 2, "interventions": 0, "problems": [], "scene": "",
        "rubric": [], "done": [],
    }  # fmt: skip
    review = waiting | {"state": "review", "problems": ["the arm did not move"]}
    seen.show({"state": "hold"})
    assert seen.until(lambda: not page.find("collect").is_displayed()), "nothing is collected"
    seen.show({"state": "hold"}, collect=review)
    assert seen.until(lambda: page.find("collect").is_displayed() and page.text("c-next") == "Keep")
    assert page.text("c-problems") == "the arm did not move" and not page.find("c-home").is_displayed()
    page.find("c-notes").send_keys("slipped")
    page.press("c-fail")
    assert seen.until(lambda: seen.robot.told == [("collect", "fail", "slipped", "", [])])
    seen.show({"state": "hold"}, collect=waiting)
    assert seen.until(lambda: page.text("c-next") == "Begin")
    assert not page.find("c-next").is_enabled(), "the second click of a double click begins nothing"
    time.sleep(1.1)
    seen.show({"state": "hold"}, collect=waiting)
    assert seen.until(lambda: page.find("c-next").is_enabled())
    page.press("c-next")
    assert seen.until(lambda: seen.robot.told[-1] == ("collect", "begin", "", "wave", []))
    seen.show({"state": "hold"})


def test_a_trial_is_scored_by_its_rubric(seen: Seen) -> None:
    page = seen.browser
    trial = {
        "state": "recording", "message": "end", "task": "wave", "number": 3, "left": 0.0, "elapsed": 4.0, "kept": 2,
        "failed": 0, "discarded": 1, "wanted": 20, "interventions": 0, "problems": [], "scene": "waving: Nobody near.",
        "rubric": ["up (1)", "down (3)"], "done": [False, True],
    }  # fmt: skip
    seen.show({"state": "policy"}, collect=trial)
    assert seen.until(lambda: page.text("c-title") == "Trial 3" and page.text("c-rubric") == "up (1)down (3)")
    assert page.text("c-scene") == "waving: Nobody near." and page.find("c-task").get_attribute("value") == "wave"
    up, down = page.find("c-rubric").find_elements(By.TAG_NAME, "input")
    assert down.is_selected(), "as it was marked in the terminal"
    up.click()
    assert seen.until(lambda: seen.robot.told == [("collect", "", "", "", [True, True])])
    seen.show({"state": "hold"}, collect=trial | {"state": "review", "done": [True, True]})
    assert seen.until(lambda: page.text("c-next") == "Store score")
    assert not page.find("c-fail").is_displayed() and page.find("c-discard").is_displayed()
    page.find("c-notes").send_keys("slowly")
    time.sleep(1.1)
    seen.show({"state": "hold"}, collect=trial | {"state": "review", "done": [True, True]})
    assert seen.until(lambda: page.find("c-next").is_enabled())
    page.press("c-next")
    assert seen.until(lambda: seen.robot.told[-1] == ("collect", "score", "slowly", "", [True, True]))
    seen.show({"state": "hold"}, collect=trial | {"state": "waiting", "kept": 3, "done": [False, False]})
    assert seen.until(lambda: page.text("c-title") == "Trial 4" and not up.is_enabled() and not up.is_selected())
    seen.show({"state": "hold"})


@pytest.mark.parametrize(("button", "word"), [("up", "jog"), ("home", "home")])
def test_jogging_from_the_page_arrives_in_time(seen: Seen, button: str, word: str) -> None:
    found = seen.browser.driver.find_element(By.CSS_SELECTOR, f"#jog .{button}")
    ActionChains(seen.browser.driver).click_and_hold(found).perform()
    assert seen.until(lambda: len([told for told in seen.robot.told if told[0] == word]) > 3)
    ActionChains(seen.browser.driver).release().perform()
    assert seen.until(lambda: seen.robot.told[-1] == ("let_go", 0))


def test_m5_an_operator_is_there_while_the_page_is_visible(seen: Seen) -> None:
    driver = seen.browser.driver
    assert seen.until(seen.server.has_operator)
    first = driver.current_window_handle
    driver.switch_to.new_window("tab")
    try:
        assert seen.until(lambda: not seen.server.has_operator()), "another tab is in front"
        time.sleep(1.0)
        assert not seen.server.has_operator() and seen.server.watched(), "connected, and not looked at"
    finally:
        driver.close()
        driver.switch_to.window(first)
    assert seen.until(seen.server.has_operator)
    assert not [error for error in seen.browser.errors() if "/control" not in error and "/stop" not in error]
