"""The panel's web server, in a thread of its own: pages, a websocket for requests and state, and one for images."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final

import numpy as np
from aiohttp import WSMsgType, web
from pydantic import ValidationError

from molmoact_ros.panel.auth import GUESS_DELAY, Access
from molmoact_ros.panel.freshness import Freshness
from molmoact_ros.panel.image_stream import Picture, View, Viewer
from molmoact_ros.panel.protocol import (
    WORD,
    ApproveRequest,
    CollectRequest,
    Draw,
    GoHome,
    Grip,
    Here,
    Instruct,
    Jog,
    LetGo,
    PanelReply,
    Press,
    Robot,
    Word,
)
from molmoact_ros.panel.serving import Serving

STATIC: Final = Path(__file__).parent / "static"
JOG_SILENCE: Final = 0.15
"""s without a jog request after which the motion stops; a request that is as late moves nothing."""
HELD_BACK: Final = 0.5
"""s of excess latency after which the button has to be pressed anew; below, the next request in time continues."""
PRESENT: Final = 0.6
"""s for which an operator counts as present after the last request `here`; the page sends one every 0.25 s."""
BEHIND: Final = 1.0
"""s of excess latency after which a connection is closed, so that the page opens a new one without the backlog."""
PATIENCE: Final = 10.0
"""s within which the robot's side must answer."""
HEARTBEAT: Final = 2.0
"""s between pings; a browser that does not answer is disconnected, and loses its control of the arm."""
LARGEST_WORD: Final = 64 * 1024
"""Bytes of a request at most; a stroke of a thousand points has half of that."""
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Content Security Policy: nothing is loaded from elsewhere, and no site can embed the STOP button in a frame."""


class PanelServer:
    """Serves the panel to browsers. `show_state` and `show_picture` are thread-safe.

    A server for one camera:

        view = View("front", "Front camera", "/front/color/image_raw", "color", drawable=True)
        server = PanelServer(robot, [view], about={}, token="")
        port = server.start("127.0.0.1", 0)
        server.show_state({"state": "idle"})
    """

    def __init__(self, robot: Robot, views: Sequence[View], about: dict[str, Any], token: str) -> None:
        """Set up the server; `start` opens its port.

        Args:
            robot: executes the browsers' requests.
            views: image topics that can be shown.
            about: facts that each browser receives first, JSON-serializable.
            token: required of browsers; empty: none required.
        """
        self._robot, self._views, self._access = robot, list(views), Access(token)
        self._about = json.dumps({"about": about | {"views": [_described(view) for view in views]}})
        self._watchers: set[_Watcher] = set()
        self._viewers: set[Viewer] = set()
        self._jogger: _Jogger | None = None
        self._serving = Serving("panel")
        self._loop = self._serving.loop

    # From the robot's side

    def start(self, host: str, port: int) -> int:
        """Start serving; returns the port, chosen by the system if `port` is 0. Raises OSError if it is in use."""
        return self._serving.start(self._application(), host, port)

    def close(self) -> None:
        """Release the arm and close all connections."""
        self._serving.close(self._close())

    def looked_at(self) -> set[View]:
        """The views that are open in any browser."""
        return {viewer.view for viewer in list(self._viewers) if viewer.view is not None}

    def waited_for(self, view: View) -> bool:
        """Whether any browser has shown the last image of `view` and is ready for the next one."""
        return any(viewer.view == view and viewer.waits for viewer in list(self._viewers))

    def watched(self) -> bool:
        """Whether any browser is connected."""
        return bool(self._watchers)

    def has_operator(self) -> bool:
        """Whether an operator is present: an authorized, visible page has sent `here` within the last PRESENT s."""
        now = time.monotonic()
        return any(now - watcher.here < PRESENT for watcher in list(self._watchers))

    def show_state(self, state: dict[str, Any]) -> None:
        """Send a state to all browsers; for a slow one, only the newest state is queued."""
        self._loop.call_soon_threadsafe(self._tell, json.dumps({"state": state}, allow_nan=False))

    def show_picture(self, view: View, picture: Picture | str) -> None:
        """Send an image, or a message why there is none, to the browsers that wait for one."""
        self._loop.call_soon_threadsafe(self._show, view, picture)

    # In the server's thread

    def _tell(self, text: str) -> None:
        for watcher in self._watchers:
            watcher.tell(text)

    def _show(self, view: View, picture: Picture | str) -> None:
        for viewer in self._viewers:
            if viewer.view == view and viewer.waits:
                viewer.show(self._views.index(view), picture)

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard])
        app.add_routes(
            [
                web.get("/", self._page), web.post("/login", self._login), web.post("/stop", self._stop),
                web.get("/control", self._control), web.get("/pictures", self._pictures),
                web.static("/static", STATIC),
            ]
        )  # fmt: skip
        return app

    async def _close(self) -> None:
        if self._jogger is not None:
            self._jogger.let_go()
        sockets = [watcher.socket for watcher in self._watchers] + [viewer.socket for viewer in self._viewers]
        for socket in sockets:
            await socket.close()

    # Pages

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        self._access.check_site(request)
        if request.path in ("/control", "/pictures", "/stop") and not self._access.is_known(request):
            raise web.HTTPUnauthorized(text="open the panel and give the token first\n")
        response = await handler(request)
        if not response.prepared:
            response.headers["Content-Security-Policy"] = POLICY
            response.headers["X-Content-Type-Options"] = "nosniff"
            response.headers["Referrer-Policy"] = "no-referrer"
            response.headers["Cache-Control"] = "no-cache"
        return response

    async def _page(self, request: web.Request) -> web.StreamResponse:
        if "token" in request.query:
            return await self._check(request.query["token"])
        if not self._access.is_known(request):
            return web.Response(text=(STATIC / "login.html").read_text(), content_type="text/html", status=401)
        return web.Response(text=(STATIC / "index.html").read_text(), content_type="text/html")

    async def _login(self, request: web.Request) -> web.StreamResponse:
        return await self._check(str((await request.post()).get("token", "")))

    async def _check(self, offered: str) -> web.StreamResponse:
        """Check a token; redirects to the page without the token in its URL."""
        known = self._access.is_token(offered)
        if not known:
            await asyncio.sleep(GUESS_DELAY)
        response = web.Response(status=303, headers={"Location": "/"})
        if known:
            self._access.let_in(response)
        return response

    async def _stop(self, _: web.Request) -> web.StreamResponse:
        """STOP without a websocket: the page's fallback if its own is not open."""
        answer = await _answered(self._robot.press("stop"))
        return web.json_response(answer.model_dump())

    # Requests and state

    async def _control(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT, max_msg_size=LARGEST_WORD)
        await socket.prepare(request)
        await socket.send_str(self._about)
        watcher = _Watcher(socket)
        self._watchers.add(watcher)
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    self._on_text(watcher, message.data)
        finally:
            self._watchers.discard(watcher)
            watcher.close()
            self._release_jog_of(watcher)
        return socket

    def _on_text(self, watcher: _Watcher, text: str) -> None:
        try:
            word = WORD.validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            refusal = f"not understood: {'.'.join(map(str, first['loc']))}: {first['msg']}"
            watcher.answer(0, PanelReply(ok=False, message=refusal))
            return
        if isinstance(word, (Here, Jog, GoHome)):
            self._on_timed_request(watcher, word)
        elif isinstance(word, LetGo):
            self._release_jog_of(watcher)
            watcher.must_let_go = False
            watcher.answer(word.id, PanelReply(ok=True))
        elif isinstance(word, Grip):
            watcher.answer(word.id, self._robot.grip(word.arm, word.open))
        else:
            watcher.later(word.id, self._forward_request(word))

    def _on_timed_request(self, watcher: _Watcher, word: Here | Jog | GoHome) -> None:
        now = time.monotonic()
        late = watcher.freshness.lateness(word.number, word.sent, now)
        if late > JOG_SILENCE:
            self._release_jog_of(watcher)
            if not isinstance(word, Here) and late > HELD_BACK:
                self._refuse_jog(watcher)
            if BEHIND < late < math.inf:
                watcher.close_soon(self._loop)
        elif isinstance(word, Here):
            watcher.here = now
        elif not watcher.must_let_go:
            self._jog(watcher, word)

    def _refuse_jog(self, watcher: _Watcher) -> None:
        """Refuse jogging until the button is released: its user has not seen what the arm did meanwhile."""
        if not watcher.must_let_go:
            watcher.must_let_go = True
            refusal = "the network held your commands back, so the arm stands; let go, and press again"
            watcher.answer(0, PanelReply(ok=False, message=refusal))

    def _release_jog_of(self, watcher: _Watcher) -> None:
        if self._jogger is not None and self._jogger.watcher is watcher:
            self._jogger.let_go()

    def _forward_request(self, word: Word) -> Future[PanelReply]:
        if isinstance(word, Press):
            return self._robot.press(word.do)
        if isinstance(word, ApproveRequest):
            return self._robot.approve(word.plan)
        if isinstance(word, CollectRequest):
            return self._robot.collect(word.command, word.notes, word.task, word.done)
        if isinstance(word, Instruct):
            return self._robot.instruct(word.text, word.stroke, word.move)
        assert isinstance(word, Draw)
        return self._robot.draw(word.stroke)

    def _jog(self, watcher: _Watcher, word: Jog | GoHome) -> None:
        jogger = self._jogger
        if jogger is not None and (jogger.watcher is not watcher or jogger.arm != word.arm):
            watcher.answer(word.id, PanelReply(ok=False, message="somebody else moves the arm; wait until they let go"))
            return
        if jogger is None:
            jogger = self._jogger = _Jogger(watcher, word.arm, self._release_jog)
        if isinstance(word, GoHome):
            self._robot.home(word.arm)
        else:
            self._robot.jog(word.arm, np.array(word.twist))
        jogger.heard(self._loop)

    def _release_jog(self, arm: int) -> None:
        self._jogger = None
        self._robot.let_go(arm)

    # Images

    async def _pictures(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(heartbeat=HEARTBEAT, max_msg_size=1024, compress=False)
        await socket.prepare(request)
        viewer = Viewer(socket, None)
        self._viewers.add(viewer)
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    self._look(viewer, message.data)
        finally:
            self._viewers.discard(viewer)
        return socket

    def _look(self, viewer: Viewer, text: str) -> None:
        """`shown`: the last image is on the screen. Otherwise the name of a view to open; an unknown name: none."""
        if text != "shown":
            viewer.view = next((view for view in self._views if view.name == text), None)
        viewer.waits = True


class _Watcher:
    """A browser's request socket: replies are sent in order; of the states only the newest is sent."""

    def __init__(self, socket: web.WebSocketResponse) -> None:
        self.socket, self.freshness = socket, Freshness()
        self.must_let_go = False
        self.here = -math.inf  # last presence of an operator at this page, monotonic, s
        self._closing: asyncio.Task[bool] | None = None
        self._answers: list[str] = []
        self._state: str | None = None
        self._news = asyncio.Event()
        self._task = asyncio.ensure_future(self._send())
        self._asked: set[asyncio.Task[None]] = set()

    def tell(self, text: str) -> None:
        self._state = text
        self._news.set()

    def answer(self, number: int, answer: PanelReply) -> None:
        self._answers.append(json.dumps({"answer": number, **answer.model_dump()}))
        self._news.set()

    def later(self, number: int, future: Future[PanelReply]) -> None:
        """Reply when the robot's side has answered."""

        async def wait() -> None:
            self.answer(number, await _answered(future))

        task = asyncio.ensure_future(wait())
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def _send(self) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await self._news.wait()
                self._news.clear()
                answers, state = self._answers, self._state
                self._answers, self._state = [], None
                for text in answers if state is None else [*answers, state]:
                    await self.socket.send_str(text)

    def close_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close the socket after another second of reading: a stop may be among the requests on the way."""
        if self._closing is None:
            self._closing = loop.create_task(self._close_later())

    async def _close_later(self) -> bool:
        await asyncio.sleep(BEHIND)
        return await self.socket.close()

    def close(self) -> None:
        self._task.cancel()


class _Jogger:
    """The browser that jogs an arm, until it stops sending."""

    def __init__(self, watcher: _Watcher, arm: int, let_go: Callable[[int], None]) -> None:
        self.watcher, self.arm, self._release_jog = watcher, arm, let_go
        self._silence: asyncio.TimerHandle | None = None

    def heard(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._silence is not None:
            self._silence.cancel()
        self._silence = loop.call_later(JOG_SILENCE, self.let_go)

    def let_go(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
        self._release_jog(self.arm)


async def _answered(future: Future[PanelReply]) -> PanelReply:
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), PATIENCE)
    except TimeoutError:
        return PanelReply(ok=False, message=f"no answer in {PATIENCE:g} s; look at the state, and at the nodes' logs")


def _described(view: View) -> dict[str, Any]:
    return {"name": view.name, "label": view.label, "drawable": view.drawable}
