"""An operator at the panel, in Chromium, before the live simulator, controller and policy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.serialization import serialize_message
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from molmoact_ros.benchmarks.browser import Browser, is_there
from molmoact_ros.benchmarks.panel_latency import address
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.msg import EngineStatus, SafetyStatus, Trace
from molmoact_ros.nodes.visualization import panel_images
from molmoact_ros.panel.image_stream import NICE, Encoder, Picture, View
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.ros import conversions, qos
from molmoact_ros.srv import ResetScene, SceneTruth

from .conftest import Peer

INSTRUCTION = "put the red cube in the bowl"
STANDING = 0.01
"""rad/s under which a joint counts as standing."""


class Person(Peer):
    """Sits at the browser, and sees what becomes of it on the robot's side."""

    def __init__(self, bringup: Bringup, browser: Browser) -> None:
        super().__init__()
        self.bringup, self.browser = bringup, browser
        self.safety = self.listen(SafetyStatus, "/controller/safety_status", qos.STATE)
        self.engine = self.listen(EngineStatus, "/policy/engine_status", qos.STATE)
        self.traces = self.listen(Trace, "/policy/trace", qos.RELIABLE)
        self.joints = self.listen(JointState, "/joint_states", qos.SENSOR)
        assert self.until(lambda: self.engine and self.safety and self.safety[-1].joints_age >= 0)

    def hand(self) -> np.ndarray:
        p = self.call(SceneTruth, "/sim/scene_truth").grippers[0].position
        return np.array([p.x, p.y, p.z])

    def state(self) -> int:
        self.spin(0.15)
        return int(self.safety[-1].state)

    def is_in(self, state: int) -> bool:
        return self.until(lambda: self.safety[-1].state == state)

    def sees(self, name: str, words: str) -> bool:
        """The page says so."""
        return self.browser.until(lambda: words in self.browser.text(name), 30.0)

    def standing(self) -> bool:
        return bool(np.abs(self.joints[-1].velocity[:7]).max() < STANDING)


@pytest.fixture(scope="module")
def graph(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Person]:
    if not is_there():
        pytest.skip("there is no Chromium here (scripts/system-packages installs Debian's)")
    nodes: dict[str, dict[str, Any]] = {
        "sim": {"front_size": [320, 240], "wrist_size": [212, 120]},
        "controller": {
            "joints_deadline": 2.0,
            "camera_deadline": 5.0,
            "silence_deadline": 10.0,
            "engine_deadline": 5.0,
            "following": 1.0,  # rad: beside a browser the simulator may be behind, too
        },
        "policy": {"max_age": 2.0, "period": 0.75, "drawing_max_age": 4.0},
        "panel": {"port": 0},
    }
    logs = tmp_path_factory.mktemp("logs")
    with Bringup(Profile(nodes=nodes), logs) as bringup, Browser(address(bringup)) as browser:
        person = Person(bringup, browser)
        yield person
        person.close()


@pytest.fixture
def person(graph: Person) -> Person:
    """Nothing to do, the arm at home, the page shows the camera."""
    graph.spin(0.15)
    if graph.engine[-1].instruction:
        assert graph.browser.until(lambda: graph.browser.find("end").is_enabled(), 30.0), "the page knows a bit later"
        graph.browser.press("end")
    assert graph.until(lambda: graph.engine[-1].instruction == "")
    if graph.state() == SafetyStatus.STOPPED:
        assert graph.until(lambda: graph.call(Trigger, "/controller/resume").success)
    graph.call(Trigger, "/controller/hold")
    assert graph.call(ResetScene, "/sim/reset_scene", seed=7, instruction=INSTRUCTION, distractors=-1).success
    assert graph.browser.until(lambda: graph.browser.state() in ("hold", "idle"), 30.0)
    assert graph.browser.until(lambda: graph.browser.text("engine-state") != "no policy", 30.0)
    graph.traces.clear()
    return graph


def test_a_person_looks_instructs_draws_and_stops(person: Person) -> None:
    page = person.browser
    assert page.until(lambda: page.frames() > 3, 30.0), "images arrive"

    page.instruct(INSTRUCTION)
    assert person.is_in(SafetyStatus.POLICY), page.text("answer")
    assert person.sees("doing", INSTRUCTION), page.text("answer")
    assert person.sees("state", "policy"), page.text("reason")
    assert person.until(lambda: person.traces and person.traces[-1].source == Trace.MODEL)

    stroke = [(0.55, 0.3), (0.35, 0.45), (0.4, 0.7)]
    before = person.hand()
    page.draw(stroke)
    assert person.until(lambda: any(trace.source == Trace.HUMAN for trace in person.traces)), page.text("trace-line")
    drawn = next(trace for trace in person.traces if trace.source == Trace.HUMAN)
    assert len(drawn.x) <= 5 and drawn.header.stamp.sec > 0
    assert np.hypot(drawn.x[-1] - stroke[-1][0], drawn.y[-1] - stroke[-1][1]) < 0.02, "it ends where the stroke does"
    assert person.sees("trace-line", "operator’s trace"), (
        page.text("trace-line"),
        page.text("state"),
        page.text("answer"),
    )
    assert person.until(lambda: np.linalg.norm(person.hand() - before) > 0.01), "the arm moves"

    page.key(" ")
    assert person.is_in(SafetyStatus.STOPPED)
    assert person.until(person.standing)
    still = person.hand()
    person.spin(0.5)
    assert np.linalg.norm(person.hand() - still) < 2e-3, "the arm stands"
    assert person.sees("state", "stopped")
    assert page.find("banner").is_displayed() is False

    lines = (By.CSS_SELECTOR, "#lines .line")
    assert page.until(lambda: not page.driver.find_elements(*lines), 30.0), "the task has ended, and its trace with it"

    page.press("resume")
    assert person.until(lambda: person.safety[-1].state != SafetyStatus.STOPPED)


def test_the_stop_button_and_escape_while_typing(person: Person) -> None:
    page = person.browser
    page.press("stop")
    assert person.is_in(SafetyStatus.STOPPED) and person.sees("state", "stopped")
    page.press("resume")
    assert person.until(lambda: person.safety[-1].state != SafetyStatus.STOPPED)
    field = page.find("text")
    field.clear()
    field.send_keys("pick up")
    assert field.get_attribute("value") == "pick up", "a space is typed"
    person.spin(0.3)
    assert person.state() != SafetyStatus.STOPPED
    field.send_keys(Keys.ESCAPE)
    assert person.is_in(SafetyStatus.STOPPED)


def test_a_busy_machine_does_not_keep_a_stop_waiting(person: Person) -> None:
    page = person.browser
    assert person.call(Trigger, "/controller/resume").success
    burn = [sys.executable, "-c", "while True: pass"]
    others = [subprocess.Popen(burn, start_new_session=True) for _ in range(2 * (os.cpu_count() or 1))]
    try:
        person.spin(1.0)
        page.press("stop")
        assert person.is_in(SafetyStatus.STOPPED) and person.sees("state", "stopped")
        person.spin(1.5)
        assert "not confirmed" not in page.text("banner")
    finally:
        for other in others:
            other.kill()
            other.wait()


def test_what_is_refused_is_said(person: Person) -> None:
    person.browser.instruct("juggle the flaming torches")
    assert person.sees("answer", "does not know")
    person.browser.press("stop")
    assert person.sees("state", "stopped")
    person.browser.instruct(INSTRUCTION)
    assert person.sees("answer", "/controller/resume")
    assert person.state() == SafetyStatus.STOPPED


def test_a_plan_is_seen_before_the_arm_moves(person: Person) -> None:
    before = person.hand()
    field = person.browser.find("text")
    field.clear()
    field.send_keys(INSTRUCTION)
    person.browser.press("plan")
    assert person.until(lambda: person.traces)
    assert person.browser.until(
        lambda: person.browser.driver.find_elements(By.CSS_SELECTOR, "#lines .line.model polyline"), 30.0
    )
    assert person.state() in (SafetyStatus.HOLD, SafetyStatus.IDLE)
    assert np.linalg.norm(person.hand() - before) < 1e-3
    person.browser.press("end")
    assert person.until(lambda: person.engine[-1].instruction == "")


def test_suggestions_narrow_and_history_is_kept(person: Person) -> None:
    page = person.browser
    field = page.find("text")
    field.clear()
    field.send_keys("pick yellow ball")
    offers = [button.text for button in page.find("offers").find_elements(By.TAG_NAME, "button")]
    assert offers == ["pick up the yellow ball"]
    field.send_keys(Keys.ARROW_DOWN, Keys.NULL)
    page.key(Keys.ENTER)
    assert field.get_attribute("value") == "pick up the yellow ball"
    page.press("plan")
    assert person.sees("answer", "Planning only")
    field.clear()
    field.send_keys("yellow")
    assert page.find("offers").find_element(By.CSS_SELECTOR, "button").text == "pick up the yellow ball"


def test_a_hand_moves_while_a_button_is_held(person: Person) -> None:
    page = person.browser
    up = page.driver.find_element(By.CSS_SELECTOR, "#jog .up")
    before = person.hand()
    ActionChains(page.driver).click_and_hold(up).perform()
    assert person.is_in(SafetyStatus.TELEOP) and person.sees("state", "teleop")
    assert person.until(lambda: person.hand()[2] - before[2] > 0.01)
    ActionChains(page.driver).release().perform()
    assert person.is_in(SafetyStatus.HOLD) and person.until(person.standing)


def test_a_hand_stands_when_the_browser_is_gone(person: Person) -> None:
    with Browser(person.browser._address) as other:
        assert other.until(lambda: other.state() in ("hold", "idle"), 30.0)
        ActionChains(other.driver).click_and_hold(other.driver.find_element(By.CSS_SELECTOR, "#jog .up")).perform()
        assert person.is_in(SafetyStatus.TELEOP)
        other.driver.get("about:blank")
    assert person.is_in(SafetyStatus.HOLD) and person.until(person.standing)


def test_depth_and_the_other_camera_are_shown(person: Person) -> None:
    page = person.browser
    for label in ("Depth", "Wrist", "Camera"):
        seen = page.frames()
        page.driver.find_element(By.XPATH, f'//div[@id="views"]/button[text()="{label}"]').click()
        assert page.until(lambda seen=seen: page.frames() > seen + 1, 30.0), label  # type: ignore[misc]
        on_another = label == "Wrist"
        assert page.until(lambda on=on_another: ("front camera" in page.text("trace-line")) == on, 30.0)  # type: ignore[misc]


def test_a_trace_is_edited_by_keyboard(person: Person) -> None:
    page = person.browser
    page.press("edit")
    places = page.driver.execute_script("return [...document.querySelectorAll('.line.mine .first')].length")
    assert places == 1
    page.key(Keys.ARROW_RIGHT)
    page.key(Keys.INSERT)
    points = page.driver.find_elements(By.CSS_SELECTOR, "#lines .point")
    assert len(points) == 3
    assert "Point 2 of 3" in str(page.driver.switch_to.active_element.get_attribute("aria-label"))
    page.key(Keys.DELETE)
    assert len(page.driver.find_elements(By.CSS_SELECTOR, "#lines .point")) == 2
    assert person.sees("trace-line", "goes with the next instruction")
    page.press("clear")
    assert not page.driver.find_elements(By.CSS_SELECTOR, "#lines .line.mine")


def test_a_finger_draws_and_a_tap_does_not(person: Person) -> None:
    page = person.browser
    mine = (By.CSS_SELECTOR, "#lines .line.mine polyline.core")
    page.draw([(0.5, 0.5), (0.501, 0.501)], touch=True)
    assert not page.driver.find_elements(*mine)
    page.draw([(0.2, 0.3), (0.6, 0.3), (0.6, 0.8)], touch=True)

    def points() -> np.ndarray:
        (line,) = page.driver.find_elements(*mine)
        return np.array([p.split(",") for p in str(line.get_attribute("points")).split()], float) / (640, 480)

    # A busy browser leaves places of a finger out, so that the corner may be cut.
    drawn = points()
    assert len(drawn) <= 5 and np.abs(drawn[[0, -1]] - [(0.2, 0.3), (0.6, 0.8)]).max() < 0.02
    assert np.abs(drawn - (0.6, 0.3)).max(axis=1).min() < 0.1
    x, y = drawn[-1]
    page.draw([(float(x), float(y)), (0.7, 0.9)], touch=True)  # its end is dragged
    assert np.abs(points()[-1] - (0.7, 0.9)).max() < 0.02 and np.allclose(points()[:-1], drawn[:-1])
    page.press("clear")


def test_a_plan_waits_for_approval_and_a_veto_ends_it(person: Person) -> None:
    page = person.browser

    def gate(how: str) -> None:
        value = ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=how)
        wanted = [Parameter(name="approve", value=value)]
        assert person.call(SetParameters, "/policy/set_parameters", parameters=wanted).results[0].successful

    gate("required")
    try:
        page.instruct(INSTRUCTION)
        assert page.until(lambda: page.find("gate").is_displayed(), 30.0)
        person.spin(0.6)
        before = person.hand()
        person.spin(0.6)
        assert np.linalg.norm(person.hand() - before) < 1e-3
        page.press("approve")
        assert person.until(lambda: np.linalg.norm(person.hand() - before) > 0.005)
        assert page.until(lambda: not page.find("gate").is_displayed(), 30.0), "it is answered"
        assert page.until(lambda: page.find("gate").is_displayed(), 30.0), "the next one"
        page.press("veto")
        assert person.sees("answer", "vetoed by an operator")
        assert person.is_in(SafetyStatus.HOLD)
        page.draw([(0.5, 0.3), (0.6, 0.6)])
        assert person.sees("trace-line", "goes with the next instruction")
        page.instruct(INSTRUCTION)
        assert person.until(lambda: any(trace.source == Trace.HUMAN for trace in person.traces)), "and it does"
    finally:
        gate("")


def test_strokes_are_simplified_by_the_stated_rule(person: Person) -> None:
    def simplified(stroke: np.ndarray) -> np.ndarray:
        code = (
            "const done = arguments[arguments.length - 1];"
            "import('/static/trace.js').then((m) => done(m.simplified(arguments[0], 4 / 3)))"
        )
        return np.array(person.browser.driver.execute_async_script(code, stroke.tolist()))

    rng = np.random.default_rng(3)
    straight = np.linspace([0.1, 0.2], [0.8, 0.6], 50)
    assert np.allclose(simplified(straight), straight[[0, -1]])
    few = rng.uniform(0, 1, (5, 2))
    assert np.allclose(simplified(few), few), "up to five stay as they are"
    corner = np.vstack([np.linspace([0.1, 0.1], [0.5, 0.1], 20), np.linspace([0.5, 0.1], [0.5, 0.9], 20)])
    assert np.allclose(simplified(corner), [[0.1, 0.1], [0.5, 0.1], [0.5, 0.9]])
    for _ in range(20):
        wild = np.cumsum(rng.normal(0, 0.03, (80, 2)), axis=0) + 0.5
        made, inside = simplified(wild), np.clip(wild, 0, 1)
        assert 2 <= len(made) <= 5 and made.min() >= 0 and made.max() <= 1
        assert np.allclose(made[[0, -1]], inside[[0, -1]])
        assert all(np.abs(inside - point).max(axis=1).min() < 1e-9 for point in made)


def test_a_drawing_on_an_old_picture_is_refused_and_the_page_says_why(person: Person) -> None:
    page = person.browser
    field = page.find("text")
    field.clear()
    field.send_keys(INSTRUCTION)
    page.press("plan")
    assert person.until(lambda: person.traces) and person.sees("doing", INSTRUCTION)
    os.kill(person.bringup.pid("sim"), signal.SIGSTOP)
    person.spin(4.5)
    page.draw([(0.5, 0.3), (0.6, 0.6)])
    assert person.sees("trace-line", "Not used: the drawing's image is")
    page.press("clear")
    page.press("end")
    seen = page.frames()
    os.kill(person.bringup.pid("sim"), signal.SIGCONT)
    assert page.until(lambda: page.frames() > seen + 2, 60.0), "and images come again"


def test_pictures_are_made_behind_everything_else_by_a_process_that_ends(person: Person) -> None:
    def children() -> dict[int, tuple[int, int]]:
        """Nice value and session of the panel's processes."""
        found = {}
        for folder in Path("/proc").iterdir():
            try:
                fields = (folder / "stat").read_text().rsplit(")", 1)[1].split() if folder.name.isdigit() else []
            except OSError:
                continue
            if fields and int(fields[1]) == person.bringup.pid("panel"):
                found[int(folder.name)] = int(fields[16]), int(fields[3])
        return found

    assert not person.browser.errors(), "all this while"
    own = os.getpriority(os.PRIO_PROCESS, person.bringup.pid("panel"))
    before = children()
    encoder = next(pid for pid, (nice, _) in before.items() if nice == min(own + NICE, 19))
    assert before[encoder][1] == encoder, "a session of its own"
    group = Path(f"/proc/{encoder}/autogroup")
    assert not group.exists() or group.read_text().split()[-1] == str(NICE)
    person.bringup.kill("panel")
    assert person.until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))
    person.browser.until(lambda: "not connected" in person.browser.text("state"), 30.0)
    assert "not connected" in person.browser.text("state")


# Without a browser


def image(pixels: np.ndarray, encoding: str) -> bytes:
    head = conversions.header(12.5, "front")
    return bytes(serialize_message(conversions.image_message(pixels, encoding, head)))


def test_pictures_of_every_kind() -> None:
    rng = np.random.default_rng(0)
    colour = panel_images.encode("color", image(rng.integers(0, 256, (48, 64, 3), np.uint8), "rgb8"))
    assert colour.jpeg[:2] == b"\xff\xd8" and (colour.sec, colour.nanosec) == (12, 500_000_000)
    for depth in (np.zeros((48, 64), np.uint16), rng.integers(0, 2000, (48, 64)).astype(np.uint16)):
        assert panel_images.encode("depth", image(depth, "16UC1")).jpeg[:2] == b"\xff\xd8"
    said = rng.uniform(0, 1, (32, 32)).astype(np.float32)
    assert panel_images.encode("said", image(said, "32FC1")).jpeg[:2] == b"\xff\xd8"
    with pytest.raises(RefusedStep, match="colour image is needed"):
        panel_images.encode("color", image(said, "32FC1"))


def test_of_pictures_that_come_too_fast_some_are_left_out() -> None:
    view = View("front", "Camera", "/front", "color", True)
    encoder, made = Encoder(panel_images.encode, panel_images.begin), list[Picture | str]()
    data = image(np.zeros((480, 640, 3), np.uint8), "rgb8")
    taken = [encoder.offer(view, data, lambda _, picture: made.append(picture)) for _ in range(20)]
    assert taken == [True] + [False] * 19, "one at a time"
    deadline = time.monotonic() + 60.0
    while not made and time.monotonic() < deadline:
        time.sleep(0.01)
    assert isinstance(made[0], Picture)
    assert encoder.offer(view, image(np.zeros((4, 4), np.float32), "32FC1"), lambda _, picture: made.append(picture))
    while len(made) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "colour image is needed" in str(made[1])
    encoder.close()


def test_h7_an_encoder_that_was_killed_is_started_again() -> None:
    view = View("front", "Camera", "/front", "color", True)
    encoder, made = Encoder(panel_images.encode, panel_images.begin), list[Picture | str]()
    data = image(np.zeros((48, 64, 3), np.uint8), "rgb8")
    deadline = time.monotonic() + 60.0

    def picture() -> Picture | str:
        assert encoder.offer(view, data, lambda _, picture: made.append(picture))
        while not made and time.monotonic() < deadline:
            time.sleep(0.01)
        return made.pop()

    assert isinstance(picture(), Picture)
    assert encoder._pool is not None
    (process,) = encoder._pool._processes.values()
    process.kill()  # while it has nothing to do
    process.join()
    time.sleep(0.5)
    assert "tried again" in str(picture())
    assert isinstance(picture(), Picture)
    encoder.close()
