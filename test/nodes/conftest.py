"""Real processes over real ROS: each test has a domain of its own, and a small real checkpoint."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter as NodeParameter
from std_msgs.msg import String
from std_srvs.srv import Trigger

from molmoact_ros.action import ExecuteInstruction
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile, environment
from molmoact_ros.engine.model.depth_vq import DepthVq
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.msg import ActionChunk, EngineStatus, SafetyStatus, Trace
from molmoact_ros.reasoning.action_tokens import ACTION_SYMBOLS, N_BINS, NormStats
from molmoact_ros.reasoning.answer_templates import NEXT_VALUE
from molmoact_ros.ros import qos
from molmoact_ros.srv import ResetScene, SceneTruth
from molmoact_ros.training.nano_model import nano_config, save_nano
from molmoact_ros.training.tokenizer import build_tokenizer

INSTRUCTION = "put the red cube in the bowl"
PERIOD = 1.5
PATIENCE = 30.0
"""Seconds after which something that should happen has not; far longer than it takes."""

LINES = 12
"""Of each node's log, told of a test that failed."""


def _domains() -> Iterator[int]:
    """1..100, begun at a place that differs between runs at the same time; each of several workers has its own."""
    workers, worker = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)), os.environ.get("PYTEST_XDIST_WORKER", "gw0")
    begin = os.getppid() if workers > 1 else os.getpid()
    yield from itertools.cycle(1 + (begin + i) % 100 for i in range(int(worker.removeprefix("gw")), 100, workers))


DOMAINS = _domains()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The nano's architecture with seeded random weights: it says well-formed nonsense, with small motions.

    Symbols of negative values get the score 0, so that one of the 128 others wins and the gripper's value is in 0..1.
    """
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    small, turn = 0.004, 0.01
    high = (small, small, small, turn, turn, turn, 1.0)
    low = tuple(-value for value in high[:6]) + (0.0,)
    config = nano_config(tokenizer, NormStats(q01=low, q99=high, mask=(True,) * 7))
    folder, model = tmp_path_factory.mktemp("checkpoint"), MolmoAct(config)
    symbols = [lead + symbol for symbol in ACTION_SYMBOLS[: N_BINS // 2] for lead in ("", NEXT_VALUE)]
    negative = [tokenizer.encode(symbol).ids[-1] for symbol in symbols]
    with torch.no_grad():
        model.lm_head.weight[negative] = 0.0
    save_nano(folder, model, tokenizer, DepthVq(hidden=4, dim=16))
    return folder


@pytest.fixture(scope="module")
def domain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A ROS domain that no other module of tests uses, set for this process and its children."""
    number = next(DOMAINS)
    with pytest.MonkeyPatch.context() as patch:
        home = str(tmp_path_factory.mktemp("ros_home"))  # where a latched stop is kept
        for name, value in environment({"ROS_DOMAIN_ID": str(number), "ROS_HOME": home}).items():
            patch.setenv(name, value)
        yield number


def pytest_itemcollected(item: pytest.Item) -> None:
    """These run by real time: on a machine that is busy, joints and clocks come late and the arm is held, as it should
    be. A test that fails so is tried again, and the report names it.
    """
    item.add_marker(pytest.mark.flaky(reruns=2, reruns_delay=1))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """To a test that failed: what the nodes of its fixtures wrote last."""
    report = yield
    if report.failed:
        values = getattr(item, "funcargs", {}).values()
        found = (value if isinstance(value, Bringup) else getattr(value, "bringup", None) for value in values)
        bringups = {bringup for bringup in found if bringup is not None}
        for log in sorted(log for bringup in bringups for log in bringup.log("any").parent.glob("*.log")):
            lines = log.read_text(errors="replace").splitlines()[-LINES:]
            report.sections.append((log.name, "\n".join(lines)))
    return report


class Peer:
    """A node of the test's own."""

    def __init__(self) -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context)
        self.node = rclpy.create_node("peer", context=self.context)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)

    def close(self) -> None:
        self._executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()

    def until(self, happened: Callable[[], Any], patience: float = PATIENCE) -> bool:
        """Spin until `happened()` is true; False when it never was."""
        deadline = time.monotonic() + patience
        while not happened():
            if time.monotonic() > deadline:
                return False
            self._executor.spin_once(timeout_sec=0.05)
        return True

    def spin(self, seconds: float) -> None:
        """Let messages come in for a while."""
        self.until(lambda: False, seconds)

    def listen(self, kind: type, topic: str, qos: Any) -> list[Any]:
        """A list to which each message of a topic will be added."""
        heard: list[Any] = []
        self.node.create_subscription(kind, topic, heard.append, qos)
        return heard

    def call(self, kind: Any, name: str, **request: Any) -> Any:
        """The answer of a service, which must come."""
        client = self.node.create_client(kind, name)
        assert self.until(client.service_is_ready), f"no service {name}"
        future = client.call_async(kind.Request(**request))
        assert self.until(future.done), f"{name} did not answer"
        self.node.destroy_client(client)
        return future.result()

    def now(self) -> float:
        return float(self.node.get_clock().now().nanoseconds * 1e-9)


@pytest.fixture(scope="module")
def peer(domain: int) -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


class Robot(Peer):
    """Asks for instructions and hears what becomes of them."""

    def __init__(self, bringup: Bringup) -> None:
        super().__init__()
        self.bringup = bringup
        self.client = ActionClient(self.node, ExecuteInstruction, "/policy/execute")
        self.safety = self.listen(SafetyStatus, "/controller/safety_status", qos.STATE)
        self.engine = self.listen(EngineStatus, "/policy/engine_status", qos.STATE)
        self.diagnostics = self.listen(DiagnosticArray, "/diagnostics", qos.RELIABLE)
        self.chunks = self.listen(ActionChunk, "/policy/action_chunk", qos.RELIABLE)
        self.speak = self.node.create_publisher(String, "/policy/instruction", qos.RELIABLE)
        assert self.until(self.client.server_is_ready, 3 * PATIENCE)  # starting takes longest on a busy machine
        assert self.until(lambda: self.engine and self.safety and self.safety[-1].joints_age >= 0)

    def execute(self, instruction: str, timeout: float = 60.0) -> ExecuteInstruction.Result:
        return self.result_of(self.begin(instruction, timeout))

    def begin(self, instruction: str, timeout: float = 60.0, trace: Trace | None = None) -> Any:
        goal = ExecuteInstruction.Goal(instruction=instruction, timeout=timeout, trace=trace or Trace())
        sent = self.client.send_goal_async(goal)
        assert self.until(sent.done)
        return sent.result()

    def result_of(self, goal: Any) -> ExecuteInstruction.Result:
        result = goal.get_result_async()
        assert self.until(result.done), "the goal never ended"
        return result.result().result

    def say(self, instruction: str) -> None:
        assert self.until(self.speak.get_subscription_count)
        self.speak.publish(String(data=instruction))

    def set(self, name: str, value: str | float) -> Any:
        """Change a parameter of the policy; what it says to that."""
        kind = ParameterType.PARAMETER_STRING if isinstance(value, str) else ParameterType.PARAMETER_DOUBLE
        field = "string_value" if isinstance(value, str) else "double_value"
        wanted = [Parameter(name=name, value=ParameterValue(type=kind, **{field: value}))]
        return self.call(SetParameters, "/policy/set_parameters", parameters=wanted).results[0]

    def observation(self) -> dict[str, str]:
        """What the policy said last of the frames it was given."""
        said = [s for d in self.diagnostics for s in d.status if s.name == "policy: observation"]
        return {value.key: value.value for value in said[-1].values} if said else {}

    def state(self) -> int:
        return int(self.safety[-1].state)

    def hand(self) -> np.ndarray:
        p = self.call(SceneTruth, "/sim/scene_truth").grippers[0].position
        return np.array([p.x, p.y, p.z])


@pytest.fixture(scope="module")
def graph(domain: int, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    # Small pictures, slow actions and long deadlines: an untrained model says its whole answer token by token.
    parameters: dict[str, dict[str, Any]] = {
        "sim": {"front_size": [160, 120], "wrist_size": [106, 60], "instruction": INSTRUCTION},
        "controller": {"joints_deadline": 1.0, "camera_deadline": 3.0, "silence_deadline": 4.0},
        "policy": {
            "checkpoint": str(checkpoint),
            "max_age": 2.0,
            "action_dt": 0.8,
            "period": PERIOD,
            "drawing_timeout": 60.0,
        },
    }
    with Bringup(Profile(nodes=parameters), tmp_path_factory.mktemp("logs")) as bringup:
        robot = Robot(bringup)
        yield robot
        robot.close()


@pytest.fixture
def robot(graph: Robot) -> Robot:
    """The graph with nothing to do and the arm at home."""
    graph.say("")
    assert graph.until(lambda: graph.engine[-1].instruction == "")
    graph.call(Trigger, "/controller/hold")
    assert graph.call(ResetScene, "/sim/reset_scene", seed=7, instruction=INSTRUCTION, distractors=-1).success
    graph.spin(0.5)
    graph.chunks.clear()
    return graph


@pytest.fixture
def node(peer: Peer) -> Iterator[Callable[..., Node]]:
    """Makes nodes with parameters, spun with the peer."""
    nodes: list[Node] = []

    def make(namespace: str = "", **parameters: Any) -> Node:
        given = [NodeParameter(name, value=value) for name, value in parameters.items()]
        name = f"controller{len(nodes)}"
        node = rclpy.create_node(name, context=peer.context, namespace=namespace, parameter_overrides=given)
        peer._executor.add_node(node)
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        peer._executor.remove_node(node)
        node.destroy_node()
