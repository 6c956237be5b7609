"""The engine whose model runs on a server that speaks MolmoAct2's own protocol: POST /act, json_numpy."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Final, NoReturn

import httpx
import numpy as np

from molmoact_ros.engine.act_backend.json_numpy import WireError, parse_object, short
from molmoact_ros.engine.act_backend.protocol import (
    LARGEST_ANSWER,
    LARGEST_REQUEST,
    ActRequest,
    error_of,
    fields_of,
    parse_answer,
    request_body,
)
from molmoact_ros.engine.act_backend.robots import ServedRobot
from molmoact_ros.engine.base import EngineTimings, ReasoningMode, Wanted
from molmoact_ros.engine.model.depth_vq import DepthVq
from molmoact_ros.engine.remote import CONNECT, AnswerStreamReader, BackOff, header_key, refusal
from molmoact_ros.reasoning.answer import Reasoning, RefusedStep
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.utils.progress import Progress, ignore

SILENT: Final = (404, 405, 501)
"""HTTP status of a server that answers POST /act alone, and says nothing about itself."""


class ActStream:
    """Asks a server, one request at a time; a server that fails is left alone for a while (BackOff)."""

    def __init__(self, url: str, tag: str, shape: tuple[int, int], key: str = "") -> None:
        """url: such as http://gpu:8000. tag: its norm_tag. shape: most actions of an answer, and values of one. key:
        empty: none.

        Raises ValueError for a key that an HTTP header cannot carry.
        """
        self.url, self.tag, self._shape = url.rstrip("/"), tag, shape
        # No connection outlives its request, so that a late answer is never read as the next one's. Compressed answers
        # are not asked for: a small one could unpack to any size.
        self._client = httpx.AsyncClient(
            base_url=self.url, timeout=httpx.Timeout(None, connect=CONNECT),
            headers={"Accept-Encoding": "identity", "Connection": "close", **header_key(key)},
        )  # fmt: skip
        self._known = False  # whether this server has the right tag
        self._failures = BackOff()

    async def answer(self, body: bytes) -> AsyncIterator[np.ndarray]:
        """Yield the answer's actions, float64 [N, D]. Raises RefusedStep, in one line, for every failure."""
        self._failures.check()
        try:
            if not self._known:
                await self._check()
            status, content = await self._request("POST", body)
            if status != httpx.codes.OK:
                raise RefusedStep(self._refusal(status, content))
            actions = parse_answer(content, self._shape)
        except httpx.HTTPError as error:
            self._fail(f"the server {self.url} does not answer ({type(error).__name__}); the step is dropped")
        except WireError as error:
            self._fail(f"the server {self.url} says what is not understood: {error}; the step is dropped")
        except RefusedStep as refused:
            self._fail(str(refused))
        self._failures.succeed()
        yield actions

    async def _request(self, method: str, body: bytes = b"") -> tuple[int, bytes]:
        """Status and content. Raises WireError for a content that is too large, and what httpx raises."""
        headers, content = {"Content-Type": "application/json"} if body else {}, bytearray()
        async with self._client.stream(method, "/act", content=body, headers=headers) as response:
            async for piece in response.aiter_raw():
                content += piece
                if len(content) > LARGEST_ANSWER:
                    raise WireError(f"more than {LARGEST_ANSWER} bytes")
        return response.status_code, bytes(content)

    async def _check(self) -> None:
        """Compare what the server says about itself, before it sees an image. Raises RefusedStep for another tag."""
        status, content = await self._request("GET")
        if status not in (httpx.codes.OK, *SILENT):
            raise RefusedStep(self._refusal(status, content))
        if status == httpx.codes.OK:
            tag = parse_object(content).get("norm_tag", self.tag)
            if tag != self.tag:
                raise RefusedStep(
                    f"the server {self.url} answers with the norm_tag {short(tag)}, not {self.tag}; set unnorm_key to "
                    "the server's, or ask another server"
                )
        self._known = True

    def _fail(self, reason: str) -> NoReturn:
        """Start a back-off. The next request looks at the server's tag again: it may be another server."""
        self._known = False
        self._failures.fail(reason)

    def _refusal(self, status: int, content: bytes) -> str:
        return refusal(f"the server {self.url}", status, error_of(content), "`molmoact-ros serve --api-key-file`")


class ActEngine:
    """Asks a server for whole chunks. It implements `Engine`.

    An answer that is not whole after `timeout` s, breaks off, or does not fit the robot is dropped entirely.

        engine = ActEngine("http://gpu:8000", served_robot("franka_droid"), timeout=2.0)
        (answer,) = engine.reason(observation)
    """

    modes = frozenset({ReasoningMode.FULL, ReasoningMode.DIRECT})
    codebook = ""

    def __init__(self, url: str, robot: ServedRobot, timeout: float, key: str = "", flow_steps: int = 0) -> None:
        """timeout: for a whole answer, s. key: of the server; empty: none. flow_steps: Euler steps to ask for; 0: the
        server's own.

        Raises ValueError for a number of cameras that /act has no fields for, and for a key that HTTP cannot carry.
        """
        self.robot, self.unnorm_key, self.convention = robot, robot.tag, robot.convention
        self.state_dimensions, self.action_shape = robot.state_dimensions, robot.action_shape
        self.flow_steps, self._fields = flow_steps, fields_of(robot.cameras)
        self._stream, self._reader = ActStream(url, robot.tag, robot.action_shape, key), AnswerStreamReader(timeout)
        self.digest, self.timings = f"{robot.tag} at {self._stream.url}", EngineTimings()
        self.tokens: list[int] = []  # a server says neither these nor its seed
        self.seed: int | None = None
        self.depth_vq: DepthVq | None = None

    def frame(self, image: np.ndarray) -> np.ndarray:
        """The image itself, uint8 [H, W, 3]: the server scales it."""
        return image

    def warm_up(self, progress: Progress = ignore) -> None:
        """Ask for one step on blank images; a refusal is ignored, since a server may start later."""
        blank = np.zeros((180, 320, 3), np.uint8)
        with suppress(RefusedStep):
            self._ask((blank,) * len(self._fields), "put", np.zeros(self.state_dimensions), lambda: True)

    def forget(self) -> None:
        """Nothing to forget: each request stands alone."""

    def close(self) -> None:
        """Nothing to release: connections end with their requests."""

    def reason(
        self, observation: Observation, mode: ReasoningMode = ReasoningMode.FULL, wanted: Wanted = lambda: True
    ) -> Iterator[Reasoning]:
        """Yield one answer, complete: the actions alone; see `InferenceEngine.reason`."""
        state = self._check(observation, mode)
        self.timings = EngineTimings(mode=mode)
        actions = self._ask(observation.images, observation.instruction, state, wanted)
        yield Reasoning(depth_codes=None, trace=None, actions=actions, complete=True)

    def _ask(self, images: tuple[np.ndarray, ...], instruction: str, state: np.ndarray, wanted: Wanted) -> np.ndarray:
        began = time.perf_counter()
        body = request_body(ActRequest(images, instruction, state, self.flow_steps or None), self._fields)
        if len(body) > LARGEST_REQUEST:
            raise RefusedStep(f"the images make a request of {len(body)} bytes, and {LARGEST_REQUEST} are the most; "
                              "choose a smaller resolution of the cameras")  # fmt: skip
        self.timings.stages["preprocess"] = time.perf_counter() - began
        (actions,) = self._reader.parts(self._stream.answer(body), wanted)
        self.timings.stages["server"] = time.perf_counter() - began - self.timings.stages["preprocess"]
        return actions

    def _check(self, observation: Observation, mode: ReasoningMode) -> np.ndarray:
        """The state that goes to the server, float64 [D]. Raises RefusedStep for what does not fit."""
        if observation.trace is not None or mode not in self.modes:
            raise RefusedStep("a MolmoAct2 server plans no trace and follows none; choose the mode full")
        count, names = len(observation.images), self._fields
        if count != len(names):
            raise RefusedStep(f"{self.unnorm_key} needs {len(names)} images ({', '.join(names)}), not {count}")
        for image in observation.images:
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
                raise RefusedStep(f"images must be RGB uint8 [H, W, 3]; got {image.dtype} {list(image.shape)}")
        if observation.state is None:
            raise RefusedStep(f"{self.unnorm_key} needs the robot's state; check the parameter joint_states")
        values = np.asarray(observation.state.values, np.float64)
        if values.shape != (self.state_dimensions,) or not np.isfinite(values).all():
            raise RefusedStep(
                f"{self.unnorm_key} needs a state of {self.state_dimensions} finite values, not {list(values.shape)}"
            )
        return values
