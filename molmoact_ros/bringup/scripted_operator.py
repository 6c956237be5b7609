"""The scripted expert of the simulated workcell as an operator: it teleoperates the arm and begins and ends episodes.

It uses the topics and the service that a person's devices use, so that a recipe and a test need no person.
"""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
from rclpy.client import Client
from rclpy.task import Future

from molmoact_ros.msg import Episode
from molmoact_ros.nodes.teleop.client import TeleopClient, TeleopClientConfig
from molmoact_ros.ros import qos
from molmoact_ros.ros.clocks import STEADY
from molmoact_ros.sim.scene import GRASP_WIDTH, OBJECTS, TARGETS, Placed, Scene, Task
from molmoact_ros.srv import CollectCommand, ResetScene, SceneTruth
from molmoact_ros.training.expert import OPEN, STEP, Expert, ExpertPhase

BEAT: Final = 0.05
"""s between two commands; the controller takes 0.2 s of silence for letting go."""
DONE_FOR: Final = 1.0
"""s for which the task has to stay done before the episode is ended."""
LONGEST: Final = 40.0
"""s after which an episode that is not done is ended and marked as failed."""
SETTLE: Final = 1.0
"""s after a scene was set anew in which images of the old one are still on their way."""
HELD: Final = 0.045
"""m between object and tool centre point within which closed fingers hold it."""
ANSWER: Final = 5.0
"""s after which a call that was not answered is made again."""


class ScriptedOperator(TeleopClient):
    """Collects episodes of one task in the workcell with one arm, a new scene for each, until `finished`.

    Args:
        seed: of the first scene; the others follow.
        distractors: objects beside the task's; -1: drawn from the seed.
    """

    def __init__(self, config: TeleopClientConfig, seed: int, distractors: int = -1) -> None:
        super().__init__("scripted_operator")
        self._seed, self._distractors = seed, distractors
        self.connect(config)
        self._reset = self.create_client(ResetScene, "sim/reset_scene")
        self._truth = self.create_client(SceneTruth, "sim/scene_truth")
        self._command = self.create_client(CollectCommand, "collector/command")
        self._calls: dict[Client, tuple[float, Future]] = {}
        self.episode, self.refusal = Episode(), ""
        self._ready_at = float("inf")  # when the new scene may be recorded; inf: it is not set yet
        self._seen: SceneTruth.Response | None = None
        self._done_since: float | None = None
        self._twist, self._opening = np.zeros(6), OPEN
        self.create_subscription(Episode, "collector/episode", self._on_episode, qos.STATE)
        self.create_timer(BEAT, self._beat, clock=STEADY)

    @property
    def finished(self) -> bool:
        """Whether the session is complete, or `refusal` says in one line why it cannot go on."""
        return self.episode.state == Episode.DONE or bool(self.refusal)

    def _on_episode(self, message: Episode) -> None:
        self.episode = message

    def _beat(self) -> None:
        act = {Episode.WAITING: self._prepare, Episode.RECORDING: self._demonstrate, Episode.REVIEW: self._review}
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
        self._seed += 1
        self._ready_at = time.monotonic() + SETTLE
        self._seen, self._done_since, self._opening = None, None, OPEN

    def _review(self) -> None:
        sound, done = not self.episode.problems, self._done_since is not None
        verdict = "discard" if not sound else "keep" if done else "fail"
        self._call(self._command, CollectCommand.Request(command=verdict), self._on_reviewed)

    def _on_reviewed(self, reply: CollectCommand.Response) -> None:
        self._ready_at = float("inf") if reply.success else self._ready_at

    # In an episode

    def _demonstrate(self) -> None:
        self._call(self._truth, SceneTruth.Request(), self._on_truth)
        done = self._done_since is not None and time.monotonic() - self._done_since > DONE_FOR
        if done or self.episode.elapsed > LONGEST:
            self.let_go(0)
            self._call(self._command, CollectCommand.Request(command="end"), lambda reply: None)
        elif self._seen is not None:
            self.say_twist(0, self._twist)
            self.say_gripper(0, self._opening)

    def _on_truth(self, reply: SceneTruth.Response) -> None:
        self._seen = reply
        now = time.monotonic()
        self._done_since = (self._done_since or now) if reply.done else None
        scene, phase = observe(reply)
        action = Expert(scene).plan(phase).chunk()[0]
        self._twist = action[:6] / STEP
        self._opening = OPEN if action[6] > 0.5 else 0.0

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
    task = Task.parse(truth.instruction)
    places = {
        name: np.array([pose.position.x, pose.position.y, pose.position.z])
        for name, pose in zip(truth.names, truth.poses, strict=True)
    }
    at = {name: Placed(name, float(place[0]), float(place[1])) for name, place in places.items()}
    scene = Scene(
        tuple(at[name] for name in OBJECTS if name in at), tuple(at[name] for name in TARGETS if name in at), task
    )  # fmt: skip
    tcp, thing, opening = truth.grippers[0].position, places[task.object], float(truth.openings[0])
    hand = np.array([tcp.x, tcp.y, tcp.z])
    closed = opening < GRASP_WIDTH[task.object.split()[1]] + 0.012
    held = closed and float(np.linalg.norm(thing - hand)) < HELD
    return scene, ExpertPhase(hand, opening, thing, held, delivered=bool(truth.done) and task.target is not None)
