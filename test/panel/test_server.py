"""The panel's web server, spoken to as browsers do; what reaches the robot is written down."""

from __future__ import annotations

import asyncio
import json
import math
import stat
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from molmoact_ros.panel.auth import token
from molmoact_ros.panel.freshness import Freshness
from molmoact_ros.panel.image_stream import Picture, View
from molmoact_ros.panel.protocol import WORD, DrawnStroke, Jog, PanelReply
from molmoact_ros.panel.server import HELD_BACK, JOG_SILENCE, PanelServer
from molmoact_ros.utils.secret import is_loopback

SECRET = "a token of the test's own"
VIEWS = [View("front", "Camera", "/front", "color", True), View("depth", "Depth", "/depth", "depth", True)]
PATIENCE = 10.0


class Writer:
    """A robot that does all it is told, and keeps what that was."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def press(self, name: str) -> Future[PanelReply]:
        return self._note("press", name)

    def approve(self, plan: int) -> Future[PanelReply]:
        return self._note("approve", plan)

    def instruct(self, text: str, stroke: DrawnStroke | None, move: bool) -> Future[PanelReply]:
        return self._note("instruct", text, stroke, move)

    def draw(self, stroke: DrawnStroke | None) -> Future[PanelReply]:
        return self._note("draw", stroke)

    def collect(self, command: str, notes: str, task: str, done: Sequence[bool]) -> Future[PanelReply]:
        return self._note("collect", command, notes, task, list(done))

    def jog(self, arm: int, twist: np.ndarray) -> None:
        self._note("jog", arm, tuple(twist))

    def home(self, arm: int) -> None:
        self._note("home", arm)

    def let_go(self, arm: int) -> None:
        self._note("let_go", arm)

    def grip(self, arm: int, wide: bool) -> PanelReply:
        return self._note("grip", arm, wide).result()

    def _note(self, *what: Any) -> Future[PanelReply]:
        self.told.append(what)
        answer: Future[PanelReply] = Future()
        answer.set_result(PanelReply(ok=True))
        return answer


class Served:
    """A server, its robot and its address."""

    def __init__(self, secret: str = "") -> None:
        self.robot = Writer()
        self.server = PanelServer(self.robot, VIEWS, {"suggestions": ["wave"]}, secret)
        self.address = f"http://127.0.0.1:{self.server.start('127.0.0.1', 0)}"

    def use(self, what: Callable[[aiohttp.ClientSession], Awaitable[Any]], **session: Any) -> Any:
        """What a browser does, with a cookie jar of its own."""

        async def run() -> Any:
            jar = aiohttp.CookieJar(unsafe=True)  # takes cookies from an address without a name
            async with aiohttp.ClientSession(self.address, cookie_jar=jar, **session) as client:
                return await what(client)

        return asyncio.run(run())


@pytest.fixture
def open_panel() -> Iterator[Served]:
    served = Served()
    yield served
    served.server.close()


@pytest.fixture
def closed_panel() -> Iterator[Served]:
    served = Served(SECRET)
    yield served
    served.server.close()


async def until(happened: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not happened():
            await asyncio.sleep(0.01)


async def heard(socket: aiohttp.ClientWebSocketResponse, key: str) -> dict[str, Any]:
    """The next message with `key`."""
    async with asyncio.timeout(PATIENCE):
        while True:
            message = json.loads(await socket.receive_str())
            if key in message:
                return dict(message)


# Who may


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("192.168.1.5", False),
        ("lab", False),
    ],
)
def test_only_this_machine_needs_no_token(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone


def test_a_token_is_made_where_one_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert token("127.0.0.1", "") == ("", None)
    made, file = token("0.0.0.0", "")
    assert len(made) >= 32 and file is not None and stat.S_IMODE(file.stat().st_mode) == 0o600
    assert token("0.0.0.0", "") == (made, file), "and stays"
    assert token("127.0.0.1", str(file)) == (made, file), "one may be asked for here, too"


def test_a_token_that_others_know_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("long-enough-for-a-token")
    file.chmod(0o644)
    with pytest.raises(ValueError, match="chmod 600"):
        token("0.0.0.0", str(file))
    file.chmod(0o600)
    file.write_text("short")
    with pytest.raises(ValueError, match="at least 16"):
        token("0.0.0.0", str(file))


@pytest.mark.parametrize("path", ["/control", "/pictures", "/stop"])
def test_without_the_token_nothing_is_done(closed_panel: Served, path: str) -> None:
    async def visit(client: aiohttp.ClientSession) -> int:
        async with client.request("POST" if path == "/stop" else "GET", path) as reply:
            return reply.status

    assert closed_panel.use(visit) == 401
    assert not closed_panel.robot.told


def test_the_token_is_given_once(closed_panel: Served) -> None:
    async def visit(client: aiohttp.ClientSession) -> None:
        async with client.get("/") as reply:
            assert reply.status == 401 and 'name="token"' in await reply.text()
        async with client.post("/login", data={"token": SECRET + "x"}) as reply:
            assert reply.status == 401, "a wrong one"
        async with client.get("/", params={"token": SECRET}, allow_redirects=False) as reply:
            assert reply.status == 303 and reply.headers["Location"] == "/"
            cookie = reply.headers["Set-Cookie"]
            assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and SECRET not in cookie
        async with client.get("/") as reply:
            assert reply.status == 200 and 'id="stop"' in await reply.text()
        async with client.post("/stop") as reply:
            assert (await reply.json())["ok"]

    closed_panel.use(visit)
    assert closed_panel.robot.told == [("press", "stop")]


def test_the_login_page_lets_in(closed_panel: Served) -> None:
    async def visit(client: aiohttp.ClientSession) -> None:
        async with client.post("/login", data={"token": SECRET}) as reply:
            assert reply.status == 200 and 'id="stop"' in await reply.text()

    closed_panel.use(visit)


@pytest.mark.parametrize("headers", [{"Origin": "http://evil.example"}, {"Host": "evil.example"}])
def test_another_sites_page_is_sent_away(open_panel: Served, headers: dict[str, str]) -> None:
    async def visit(client: aiohttp.ClientSession) -> None:
        for path in ("/", "/control", "/pictures"):
            async with client.get(path, headers=headers) as reply:
                assert reply.status == 403
        async with client.post("/stop", headers=headers) as reply:
            assert reply.status == 403

    open_panel.use(visit)
    assert not open_panel.robot.told


def test_pages_load_nothing_from_elsewhere(open_panel: Served) -> None:
    async def visit(client: aiohttp.ClientSession) -> None:
        async with client.get("/") as reply:
            assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
            assert "frame-ancestors 'none'" in reply.headers["Content-Security-Policy"]
            page = await reply.text()
        assert "http:" not in page and "https:" not in page

    open_panel.use(visit)


def test_nothing_beside_the_pages_is_served(open_panel: Served) -> None:
    async def visit(client: aiohttp.ClientSession) -> None:
        for path in ("/static/../server.py", "/static/%2e%2e/server.py", "/static/"):
            async with client.get(path) as reply:
                assert reply.status in (403, 404)

    open_panel.use(visit)


# Words


def test_words_reach_the_robot_and_are_answered(open_panel: Served) -> None:
    stroke = {"points": [[0.5, 0.5], [2.0, 0.5]], "sec": 3, "nanosec": 4}

    async def visit(client: aiohttp.ClientSession) -> None:
        async with client.ws_connect("/control") as socket:
            about = (await heard(socket, "about"))["about"]
            assert about["suggestions"] == ["wave"] and [v["name"] for v in about["views"]] == ["front", "depth"]
            words: list[dict[str, Any]] = [
                {"do": "approve", "plan": 7}, {"do": "reset"}, {"do": "resume"},
                {"do": "instruct", "text": "wave", "move": True}, {"do": "draw", "stroke": stroke},
                {"do": "draw", "stroke": None}, {"do": "veto"}, {"do": "grip", "arm": 0, "open": True},
                {"do": "collect", "command": "fail", "notes": "slipped"},
                {"do": "collect", "command": "score", "done": [True, False]},
            ]  # fmt: skip
            for number, word in enumerate(words):
                await socket.send_json(word | {"id": number})
                assert await heard(socket, "answer") == {"answer": number, "ok": True, "message": ""}

    open_panel.use(visit)
    drawn = DrawnStroke(points=[(0.5, 0.5), (2.0, 0.5)], sec=3, nanosec=4)
    assert open_panel.robot.told == [
        ("approve", 7), ("press", "reset"), ("press", "resume"),
        ("instruct", "wave", None, True), ("draw", drawn), ("draw", None), ("press", "veto"), ("grip", 0, True),
        ("collect", "fail", "slipped", "", []), ("collect", "score", "", "", [True, False]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "word",
    [
        "stop", "{}", '{"do": "fly"}', '{"do": "stop", "now": 1}', '{"do": "jog", "twist": [0, 0, 0, 0, 0]}',
        '{"do": "jog", "number": 1, "sent": 1, "twist": [NaN, 0, 0, 0, 0, 0]}',
        '{"do": "jog", "number": 1, "sent": 1, "twist": [1.5, 0, 0, 0, 0, 0]}',
        '{"do": "jog", "twist": [1, 0, 0, 0, 0, 0]}', '{"do": "jog", "number": 1, "twist": [1, 0, 0, 0, 0, 0]}',
        '{"do": "jog", "number": 1, "sent": NaN, "twist": [1, 0, 0, 0, 0, 0]}', '{"do": "here", "number": 1}',
        '{"do": "collect", "command": "explode"}', '{"do": "collect", "command": "score", "done": [2]}',
        '{"do": "approve"}', '{"do": "approve", "plan": 0}',
        '{"do": "draw", "stroke": {"points": [], "sec": 0, "nanosec": 0}}',
        '{"do": "draw", "stroke": {"points": [[1e999, 0]], "sec": 0, "nanosec": 0}}',
    ],
)  # fmt: skip
def test_nonsense_is_refused_in_one_line(open_panel: Served, word: str) -> None:
    async def visit(client: aiohttp.ClientSession) -> None:
        async with client.ws_connect("/control") as socket:
            await socket.send_str(word)
            answer = await heard(socket, "answer")
            assert not answer["ok"] and answer["message"].startswith("not understood") and "\n" not in answer["message"]
            await socket.send_json({"do": "stop", "id": 1})
            assert (await heard(socket, "answer"))["ok"], "and the connection lives"

    open_panel.use(visit)
    assert open_panel.robot.told == [("press", "stop")]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.sampled_from(["do", "arm", "twist", "id"]), inner),
)


@given(
    st.fixed_dictionaries(
        {
            "do": st.just("jog"),
            "number": st.integers(),
            "sent": st.floats(),
            "twist": st.lists(st.floats(), min_size=6, max_size=6),
        }
    )
    | JSON
)
def test_a_twist_is_six_shares_of_full_speed_or_nothing(word: Any) -> None:
    try:
        read = WORD.validate_json(json.dumps(word))
    except ValidationError:
        return
    if isinstance(read, Jog):
        assert len(read.twist) == 6 and np.abs(read.twist).max() <= 1.0


# Jog


def jog(number: int = 1, sent: float | None = None, arm: int = 0) -> dict[str, Any]:
    """A word as the page says it, up at full speed; sent: the page's time, s, which is this machine's in tests."""
    sent = time.monotonic() if sent is None else sent
    return {"do": "jog", "number": number, "sent": sent, "arm": arm, "twist": [0, 0, 1, 0, 0, 0]}


def home(number: int = 1) -> dict[str, Any]:
    """The way home, as the page asks for it while its button is held."""
    return {"do": "home", "number": number, "sent": time.monotonic(), "arm": 0}


def here(number: int) -> dict[str, Any]:
    return {"do": "here", "number": number, "sent": time.monotonic()}


def moves(robot: Writer) -> list[tuple[Any, ...]]:
    return [what for what in robot.told if what[0] in ("jog", "home", "let_go")]


@pytest.mark.parametrize(("word", "told"), [(jog, ("jog", 0, (0, 0, 1, 0, 0, 0))), (home, ("home", 0))])
def test_silence_lets_go(open_panel: Served, word: Callable[[], dict[str, Any]], told: tuple[Any, ...]) -> None:
    async def visit(client: aiohttp.ClientSession) -> None:
        async with client.ws_connect("/control") as socket:
            await socket.send_json(word())
            await until(lambda: len(moves(open_panel.robot)) == 2)

    open_panel.use(visit)
    assert moves(open_panel.robot) == [told, ("let_go", 0)]


def test_a_connection_that_drops_lets_go(open_panel: Served) -> None:
    async def visit(client: aiohttp.ClientSession) -> None:
        socket = await client.ws_connect("/control")
        await socket.send_json(jog(arm=1))
        await until(lambda: moves(open_panel.robot))
        socket._response.connection.transport.abort()  # type: ignore[union-attr]
        await until(lambda: len(moves(open_panel.robot)) == 2)

    open_panel.use(visit)
    assert moves(open_panel.robot)[-1] == ("let_go", 1)


def test_one_person_moves_the_arm_at_a_time(open_panel: Served) -> None:
    async def visit(client: aiohttp.ClientSession) -> None:
        async with client.ws_connect("/control") as first, client.ws_connect("/control") as second:
            await first.send_json(jog())
            await until(lambda: moves(open_panel.robot))
            await second.send_json(jog())
            await second.send_json({"do": "let_go"})
            assert "somebody else" in (await heard(second, "answer"))["message"]
            await first.send_json({"do": "let_go"})
            await until(lambda: moves(open_panel.robot)[-1][0] == "let_go")
            await second.send_json(jog(2))
            await until(lambda: moves(open_panel.robot)[-1][0] == "jog")

    open_panel.use(visit)


def test_closing_the_panel_lets_go() -> None:
    served = Served()

    async def visit(client: aiohttp.ClientSession) -> None:
        socket = await client.ws_connect("/control")
        await socket.send_json(jog())
        await until(lambda: moves(served.robot))
        await asyncio.get_running_loop().run_in_executor(None, served.server.close)

    served.use(visit)
    assert moves(served.robot)[-1] == ("let_go", 0)


# C5: words that the network held back


async def burst(client: aiohttp.ClientSession, robot: Writer, words: list[dict[str, Any]]) -> str:
    """Measure the way, say all words at once, and what is answered to the first that is refused."""
    async with client.ws_connect("/control") as socket:
        await socket.send_json(here(0))
        for word in words:
            await socket.send_json(word)
        await socket.send_json({"do": "veto", "id": 99})
        refusal = ""
        while (answer := await heard(socket, "answer"))["answer"] != 99:
            refusal = refusal or answer["message"]
        return refusal


def test_c5_what_was_queued_for_two_seconds_moves_nothing(open_panel: Served) -> None:
    now = time.monotonic()
    queued = [jog(k + 1, now - 2.0 + 0.05 * k) for k in range(41)]  # up to this very moment
    refusal = open_panel.use(lambda client: burst(client, open_panel.robot, queued))
    assert "held your commands back" in refusal
    assert not moves(open_panel.robot)


def test_c5_a_backlog_in_mid_motion_lets_go_until_the_button_is_pressed_anew(open_panel: Served) -> None:
    robot = open_panel.robot

    async def visit(client: aiohttp.ClientSession) -> None:
        async with client.ws_connect("/control") as socket:
            await socket.send_json(jog(1))
            await until(lambda: moves(robot))
            await socket.send_json(jog(2, time.monotonic() - HELD_BACK - 0.1))
            await until(lambda: moves(robot)[-1][0] == "let_go")
            count = len(moves(robot))
            for number in range(3, 8):
                await socket.send_json(jog(number))
            await socket.send_json({"do": "let_go", "id": 5})
            while (await heard(socket, "answer"))["answer"] != 5:
                pass
            assert len(moves(robot)) == count, "still held: nothing"
            await socket.send_json(jog(8))
            await until(lambda: moves(robot)[-1][0] == "jog")

    open_panel.use(visit)


def test_c5_a_late_word_lets_go_and_the_next_in_time_goes_on(open_panel: Served) -> None:
    robot = open_panel.robot

    async def visit(client: aiohttp.ClientSession) -> None:
        async with client.ws_connect("/control") as socket:
            await socket.send_json(jog(1))
            await until(lambda: moves(robot))
            await socket.send_json(jog(2, time.monotonic() - JOG_SILENCE - 0.1))
            await until(lambda: moves(robot)[-1][0] == "let_go")
            assert len(moves(robot)) == 2
            await socket.send_json(jog(3))
            await until(lambda: moves(robot)[-1][0] == "jog")

    open_panel.use(visit)


@pytest.mark.parametrize("number", [0, 1])
def test_c5_a_word_that_is_repeated_or_overtaken_lets_go(open_panel: Served, number: int) -> None:
    robot = open_panel.robot

    async def visit(client: aiohttp.ClientSession) -> None:
        async with client.ws_connect("/control") as socket:
            await socket.send_json(jog(1))
            await until(lambda: moves(robot))
            await socket.send_json(jog(number))
            await until(lambda: moves(robot)[-1][0] == "let_go")
            assert len(moves(robot)) == 2

    open_panel.use(visit)


def test_c5_a_connection_that_stays_behind_is_closed_but_a_stop_in_it_counts(open_panel: Served) -> None:
    async def visit(client: aiohttp.ClientSession) -> None:
        async with client.ws_connect("/control") as socket:
            await socket.send_json(jog(1))
            await socket.send_json(jog(2, time.monotonic() - 5.0))
            await socket.send_json({"do": "stop"})
            async with asyncio.timeout(PATIENCE):
                while (await socket.receive()).type is aiohttp.WSMsgType.TEXT:
                    pass
            assert socket.closed

    open_panel.use(visit)
    assert ("press", "stop") in open_panel.robot.told


@given(
    st.floats(-1e6, 1e6),
    st.floats(-5e-4, 5e-4),
    st.lists(st.tuples(st.floats(0.01, 2.0), st.floats(0, 3.0)), min_size=1, max_size=40),
)
def test_c5_lateness_is_never_less_than_the_delay_beyond_the_least_so_far(
    apart: float, drift: float, words: list[tuple[float, float]]
) -> None:
    """The browser's clock reads anything and drifts; words are delayed as they may."""
    freshness, now, least, newest = Freshness(), 1000.0, math.inf, 0.0
    for number, (pause, delay) in enumerate(words):
        now += pause
        arrival = max(newest, now + delay)  # a stream keeps its order
        newest, least = arrival, min(least, arrival - now)
        late = freshness.lateness(number, now * (1 + drift) + apart + 2e6, arrival)
        elapsed = arrival - 1000.0
        assert late >= arrival - now - least - 2e-3 * elapsed - 1e-6
        assert late <= arrival - now - least + 1e-3 * elapsed + 1e-6


# M5: who is there


def test_m5_an_operator_is_there_while_a_page_says_so(open_panel: Served) -> None:
    server = open_panel.server

    async def visit(client: aiohttp.ClientSession) -> None:
        async with client.ws_connect("/control") as socket:
            await until(server.watched)
            assert not server.has_operator(), "connected, and no word yet that anybody looks"
            await socket.send_json(here(1))
            await until(server.has_operator)
            began = time.monotonic()
            await until(lambda: not server.has_operator())
            assert time.monotonic() - began < 1.0 + 1.0, "gone soon after the last word"
            await socket.send_json(here(2) | {"sent": time.monotonic() - 0.9})
            await socket.send_json({"do": "veto", "id": 3})
            await heard(socket, "answer")
            assert not server.has_operator(), "what was held back says nothing of now"
            await socket.send_json(here(3))
            await until(server.has_operator)
        await until(lambda: not server.has_operator())

    open_panel.use(visit)


# Pictures and state


def test_pictures_wait_for_the_browser_and_the_newest_wins(open_panel: Served) -> None:
    server = open_panel.server

    def offer(number: int, view: View = VIEWS[0]) -> None:
        if server.waited_for(view):
            server.show_picture(view, Picture(b"jpeg", number, 5))

    async def visit(client: aiohttp.ClientSession) -> None:
        async with client.ws_connect("/pictures") as socket:
            assert not server.looked_at()
            await socket.send_str("front")
            await until(lambda: server.looked_at() == {VIEWS[0]})
            offer(1)
            async with asyncio.timeout(PATIENCE):
                assert await socket.receive_bytes() == bytes([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5]) + b"jpeg"
            assert not server.waited_for(VIEWS[0])
            offer(2)  # nobody is ready for it
            await socket.send_str("shown")
            await until(lambda: server.waited_for(VIEWS[0]))
            offer(3, VIEWS[1])  # nobody looks at that
            offer(4)
            async with asyncio.timeout(PATIENCE):
                assert (await socket.receive_bytes())[7] == 4
            await socket.send_str("-")
            await until(lambda: not server.looked_at())

    open_panel.use(visit)


def test_a_slow_browser_misses_states_and_never_the_newest(open_panel: Served) -> None:
    async def visit(client: aiohttp.ClientSession) -> int:
        async with client.ws_connect("/control", max_msg_size=0) as socket:
            await until(open_panel.server.watched)
            long = "x" * 100_000
            for number in range(300):  # far more than the socket's buffers hold, and nobody reads yet
                open_panel.server.show_state({"number": number, "long": long})
            count, last = 0, -1
            while last < 299:
                last = (await heard(socket, "state"))["state"]["number"]
                count += 1
            return count

    assert open_panel.use(visit) < 300
