"""The scripted expert of the simulated workcell as an operator: it teleoperates the arm and begins and ends episodes.

It demonstrates the task, or corrects a policy that does it. It uses the topics and the service that a person's devices
use, so that a recipe and a test need no person.
"""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
from geometry_msgs.msg import Pose
from rclpy.client import Client
from rclpy.task import Future

from molmoact_ros.bringup.delay_compensation import DelayCompensator
from molmoact_ros.bringup.takeover import STILL_FOR, TakeoverRule, TaskMoment
from molmoact_ros.msg import Episode, SafetyStatus
from molmoact_ros.nodes.teleop.client import TeleopClient, TeleopClientConfig
from molmoact_ros.ros import qos
from molmoact_ros.ros.clocks import STEADY
from molmoact_ros.sim.scene import EVERY_OBJECT, GRASP_WIDTH, LONG_SHAPES, TARGETS, Placed, Scene, Task
from molmoact_ros.srv import CollectCommand, ResetScene, SceneTruth
from molmoact_ros.training.expert import OPEN, Expert, ExpertPhase

BEAT: Final = 0.05
"""s between two commands; the controller takes 0.2 s of silence for letting go."""
DONE_FOR: Final = 0.4
"""s for which the task has to stay done before the episode is ended. What comes after teaches a policy to stand."""
LONGEST: Final = 40.0
"""s after which an episode that is not done is ended and marked as failed."""
SETTLE: Final = 1.0
"""s after a scene was set anew in which images of the old one are still on their way."""
HELD: Final = 0.045
"""m between object and tool centre point within which closed fingers hold it."""
ANSWER: Final = 5.0
"""s after which a call that was not answered is made again."""
PASSIVE: Final = (SafetyStatus.IDLE, SafetyStatus.HOLD)
"""States of a controller that nobody moves."""
DELAY: Final = 0.25
"""s by which the arm follows a twist late: the state's way here, the command's way there, and what the limiter lags
behind the target that the twist moves."""
HAND_BACK: Final = 1.0
"""s after which an arm that the operator let go of, and nobody moves, is given back to the policy by command."""


class ScriptedOperator(TeleopClient):
    """Collects episodes of one task in the workcell with one arm, a new scene for each, until `finished`.

    Args:
        seed: of the first scene; the others follow.
        distractors: objects beside the task's; -1: drawn from the seed.
        corrects: a policy does the task, and the operator takes over now and then (`TakeoverRule`).
    """

    def __init__(self, config: TeleopClientConfig, seed: int, distractors: int = -1, corrects: bool = False) -> None:
        super().__init__("scripted_operator")
        self._seed, self._distractors, self._corrects = seed, distractors, corrects
        self.connect(config)
        self._reset = self.create_client(ResetScene, "sim/reset_scene")
        self._truth = self.create_client(SceneTruth, "sim/scene_truth")
        self._command = self.create_client(CollectCommand, "collector/command")
        self._calls: dict[Client, tuple[float, Future]] = {}
        self.episode, self.refusal = Episode(), ""
        self._ready_at = float("inf")  # when the new scene may be recorded; inf: it is not set yet
        self._done_since: float | None = None
        self._twist, self._opening = np.zeros(6), OPEN
        self._compensator = DelayCompensator(DELAY, BEAT)
        self._takeover = TakeoverRule(seed)
        self._moment: TaskMoment | None = None
        self._asks_at = 0.0  # s since the episode began, from which on the policy is asked to go on
        self.create_subscription(Episode, "collector/episode", self._on_episode, qos.STATE)
        self.create_timer(BEAT, self._beat, clock=STEADY)

    @property
    def finished(self) -> bool:
        """Whether the session is complete, or `refusal` says in one line why it cannot go on."""
        return self.episode.state == Episode.DONE or bool(self.refusal)

    def _on_episode(self, message: Episode) -> None:
        self.episode = message

    def _beat(self) -> None:
        act = {Episode.WAITING: self._prepare, Episode.RECORDING: self._attend, Episode.REVIEW: self._review}
        act.get(self.episode.state, lambda: None)()

    # Between episodes

    def _prepare(self) -> None:
        """Set the scene anew, then begin."""
        if self._ready_at == float("inf"):
            request = ResetScene.Request(
                seed=self._seed, instruction=self.episode.task, distractors=self._distractors
            )  # fmt: skip
            self._call(self._reset, request, self._on_reset)
        elif time.monotonic() >= self._ready_at:
            self._call(self._command, CollectCommand.Request(command="begin"), lambda reply: None)

    def _on_reset(self, reply: ResetScene.Response) -> None:
        if not reply.success:
            self.refusal = str(reply.message)
            return
        self._takeover, self._moment, self._asks_at = TakeoverRule(self._seed), None, STILL_FOR
        self._seed += 1
        self._ready_at = time.monotonic() + SETTLE
        self._done_since, self._opening = None, OPEN
        self._compensator.reset()

    def _review(self) -> None:
        sound, done = not self.episode.problems, self._done_since is not None
        verdict = "discard" if not sound else "keep" if done else "fail"
        self._call(self._command, CollectCommand.Request(command=verdict), self._on_reviewed)

    def _on_reviewed(self, reply: CollectCommand.Response) -> None:
        self._ready_at = float("inf") if reply.success else self._ready_at

    # In an episode

    def _attend(self) -> None:
        self._call(self._truth, SceneTruth.Request(), self._on_truth)
        done = self._done_since is not None and time.monotonic() - self._done_since > DONE_FOR
        if done or self.episode.elapsed > LONGEST:
            self.let_go_if_held(0)
            self._call(self._command, CollectCommand.Request(command="end"), lambda reply: None)
        elif self._moment is None:
            return
        elif not self._corrects or self._takeover.corrects(self.episode.elapsed, self._moment):
            self._asks_at = self.episode.elapsed + HAND_BACK
            self._compensator.command(self._twist)
            self.say_twist(0, self._twist)
            self.say_gripper(0, self._opening)
        else:
            self._give_back()

    def _give_back(self) -> None:
        """Let go, and let the policy go on; a controller with `teleop_hand_back` does that by itself."""
        self._compensator.reset()
        self.let_go_if_held(0)
        if self.safety.state in PASSIVE and self.episode.elapsed > self._asks_at:
            self._asks_at = self.episode.elapsed + ANSWER
            self._call(self._command, CollectCommand.Request(command="policy"), lambda reply: None)

    def _on_truth(self, reply: SceneTruth.Response) -> None:
        now = time.monotonic()
        self._done_since = (self._done_since or now) if reply.done else None
        scene, phase = observe(reply)
        self._twist, opens = self._compensator.next_command(Expert(scene), phase)
        self._opening = OPEN if opens else 0.0
        others = set(held_objects(reply)) - {scene.task.object}
        self._moment = TaskMoment(phase.tcp, phase.held, bool(others) and not phase.held, bool(reply.done))

    def _call(self, client: Client, request: Any, then: Any) -> None:
        """Call a service, unless its last call is still open."""
        began, future = self._calls.get(client, (0.0, None))
        if future is not None and not future.done() and time.monotonic() - began < ANSWER:
            return
        if not client.service_is_ready():
            return
        if future is not None:
            client.remove_pending_request(future)
        self._calls[client] = time.monotonic(), (future := client.call_async(request))
        self.when_done(future, lambda done: then(done.result()))


def observe(truth: SceneTruth.Response) -> tuple[Scene, ExpertPhase]:
    """The scene as it is now, and the expert's state in it, from the simulator's ground truth."""
    task, places = Task.parse(truth.instruction), _places(truth)
    yaws = {name: _yaw(pose) for name, pose in zip(truth.names, truth.poses, strict=True)}
    at = {name: Placed(name, float(place[0]), float(place[1]), yaws[name]) for name, place in places.items()}
    scene = Scene(
        tuple(at[name] for name in EVERY_OBJECT if name in at), tuple(at[name] for name in TARGETS if name in at), task
    )  # fmt: skip
    hand, opening = _point(truth.grippers[0]), float(truth.openings[0])
    delivered = bool(truth.done) and task.target is not None
    held, long = task.object in held_objects(truth), task.object.split()[1] in LONG_SHAPES
    yaw, grasp_yaw = (_yaw(truth.grippers[0]), at[task.object].grasp_yaw) if long else (0.0, 0.0)
    return scene, ExpertPhase(hand, opening, places[task.object], held, delivered, yaw, grasp_yaw)


def held_objects(truth: SceneTruth.Response) -> list[str]:
    """The objects between closed fingers."""
    hand, opening = _point(truth.grippers[0]), float(truth.openings[0])
    near = [name for name, at in _places(truth).items() if name in EVERY_OBJECT and np.linalg.norm(at - hand) < HELD]
    return [name for name in near if opening < GRASP_WIDTH[name.split()[1]] + 0.012]


def _places(truth: SceneTruth.Response) -> dict[str, np.ndarray]:
    return {name: _point(pose) for name, pose in zip(truth.names, truth.poses, strict=True)}


def _yaw(pose: Pose) -> float:
    """Yaw, rad, of the x axis; of a hand that points down it is 0 at home."""
    q = pose.orientation
    return float(np.arctan2(2 * (q.x * q.y + q.w * q.z), 1 - 2 * (q.y**2 + q.z**2)))


def _point(pose: Pose) -> np.ndarray:
    return np.array([pose.position.x, pose.position.y, pose.position.z])
