"""The profile `benchmark`: what a client of vla-eval's protocol gets from the policy that is deployed."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import msgpack
import numpy as np
import pytest

from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.control.osc_pose import UNIT_M
from molmoact_ros.msg import ActionChunk, EngineStatus
from molmoact_ros.reasoning.action_convention import RELEASED
from molmoact_ros.ros import qos
from molmoact_ros.ros.conversions import chunk_actions

from .conftest import PATIENCE, Peer

PORT = 18731


@pytest.fixture(scope="module")
def for_libero(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small checkpoint, whose numbers are LIBERO's."""
    folder = tmp_path_factory.mktemp("libero") / "checkpoint"
    shutil.copytree(checkpoint, folder)
    (key,) = json.loads((folder / "config.json").read_text())["norm_stats"]
    run = json.loads((folder / "run.json").read_text())
    run["conventions"] = {key: RELEASED["libero_10_no_noops_modified"].model_dump()}
    (folder / "run.json").write_text(json.dumps(run))
    return folder


@pytest.fixture(scope="module")
def graph(for_libero: Path, domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bringup]:
    changes: dict[str, dict[str, Any]] = {
        "policy": {"checkpoint": str(for_libero), "priority": 0},
        "benchmark_server": {"port": PORT},
    }
    profile = Profile.read("benchmark").with_parameters(changes)
    with Bringup(profile, tmp_path_factory.mktemp("logs")) as running:
        yield running


def packed(kind: str, payload: Any, seq: int) -> bytes:
    return msgpack.packb({"type": kind, "payload": payload, "seq": seq, "timestamp": 1.0}, use_bin_type=True)


def seen(number: int, *cameras: str) -> dict[str, Any]:
    def image() -> dict[str, Any]:
        pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        return {"__image__": True, "format": "raw", "data": pixels.tobytes(), "dtype": "|u1", "shape": [64, 64, 3]}

    rng = np.random.default_rng(number)
    return {"images": {name: image() for name in cameras}, "task_description": "put the red cube in the bowl"}


Ask = Callable[[str, Any, int], Awaitable[dict[str, Any]]]


async def talk(ask_all: Callable[[Ask, aiohttp.ClientWebSocketResponse], Awaitable[Any]]) -> Any:
    """Connect as vla-eval's client does, and let `ask_all` talk."""
    async with aiohttp.ClientSession() as session, session.ws_connect(f"ws://127.0.0.1:{PORT}/", max_msg_size=0) as ws:

        async def ask(kind: str, payload: Any, seq: int) -> dict[str, Any]:
            await ws.send_bytes(packed(kind, payload, seq))
            return msgpack.unpackb(await ws.receive_bytes(timeout=PATIENCE), raw=False)

        return await ask_all(ask, ws)


def while_spinning(peer: Peer, work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(work)
        assert peer.until(future.done, 4 * PATIENCE)
        return future.result()


def test_a_chunk_of_the_policys_answers_as_many_observations(peer: Peer, graph: Bringup) -> None:
    chunks = peer.listen(ActionChunk, "/policy/action_chunk", qos.RELIABLE)
    states = peer.listen(EngineStatus, "/policy/engine_status", qos.STATE)
    assert peer.until(lambda: states and peer.node.count_subscribers("/front/color/image_raw") > 0, 3 * PATIENCE)
    peer.spin(0.5)

    async def episode(ask: Ask, ws: aiohttp.ClientWebSocketResponse) -> list[dict[str, Any]]:
        greeting = await ask("hello", {"protocol_version": 1}, 1)
        assert greeting["type"] == "hello" and greeting["payload"]["protocol_version"] == 1
        await ws.send_bytes(packed("episode_start", {"task": {"name": "x"}}, 2))
        return [await ask("observation", seen(n, "agentview", "wrist"), 3 + n) for n in range(9)]

    answers = while_spinning(peer, lambda: asyncio.run(talk(episode)))
    assert [a["type"] for a in answers] == ["action"] * 9, answers
    assert [a["seq"] for a in answers] == list(range(3, 12))
    assert peer.until(lambda: len(chunks) == 2) and len(chunks[0].actions) == 8 * 7, "eight observations, one plan"
    found = np.array([a["payload"]["actions"] for a in answers[:8]])
    actions = chunk_actions(chunks[0])
    np.testing.assert_allclose(found[:, :3], actions[:, :3] / UNIT_M, atol=1e-9)
    assert set(np.abs(found[:, 6])) == {1.0}
    np.testing.assert_array_equal(found[:, 6] < 0, actions[:, 6] > 0.5)


def test_an_observation_that_lacks_a_camera_is_an_error_and_the_next_one_is_not(peer: Peer, graph: Bringup) -> None:
    async def episode(ask: Ask, _: aiohttp.ClientWebSocketResponse) -> list[dict[str, Any]]:
        wrong = await ask("observation", seen(1, "agentview"), 1)
        return [wrong, await ask("observation", seen(2, "agentview", "wrist"), 2)]

    wrong, right = while_spinning(peer, lambda: asyncio.run(talk(episode)))
    assert wrong["type"] == "error" and "no image 'wrist'" in wrong["payload"]["error"]
    assert right["type"] == "action" and right["seq"] == 2


def test_a_word_that_the_model_does_not_know_is_an_error_that_says_so(peer: Peer, graph: Bringup) -> None:
    async def episode(ask: Ask, _: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
        return await ask("observation", seen(3, "agentview", "wrist") | {"task_description": "fry the zebra"}, 1)

    answer = while_spinning(peer, lambda: asyncio.run(talk(episode)))
    assert answer["type"] == "error" and "the policy refuses: " in answer["payload"]["error"]


def test_an_observation_that_came_before_the_policy_is_published_again(peer: Peer, graph: Bringup) -> None:
    async def episode(ask: Ask, _: aiohttp.ClientWebSocketResponse) -> dict[str, Any]:
        return await ask("observation", seen(4, "agentview", "wrist"), 1)

    states = peer.listen(EngineStatus, "/policy/engine_status", qos.STATE)
    assert peer.until(lambda: states, 3 * PATIENCE), "both are there"
    graph.kill("policy")
    graph.start("policy")
    answer = while_spinning(peer, lambda: asyncio.run(talk(episode)))
    assert answer["type"] == "action", answer
