"""Collects demonstrations: an operator begins and ends episodes, and each becomes a bag with a record beside it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from typing import Any, Final

from diagnostic_msgs.msg import DiagnosticArray
from pydantic import BaseModel, Field
from sensor_msgs.msg import Joy

from molmoact_ros.bags.recording import TopicNames
from molmoact_ros.bringup.episode_recorder import EpisodeRecorder
from molmoact_ros.bringup.policy_goal import PolicyGoal
from molmoact_ros.bringup.stream_monitor import StreamMonitor
from molmoact_ros.control.teleop_devices import AGAIN, Debounce
from molmoact_ros.datasets.collection import DUE, NEXT, VERDICTS, Collection, CollectionEvent, CollectionState, Outcome
from molmoact_ros.datasets.episode_record import SessionFolder
from molmoact_ros.datasets.episode_review import EpisodeReview, why_not_written
from molmoact_ros.datasets.interventions import Interventions
from molmoact_ros.msg import Episode, SafetyStatus
from molmoact_ros.nodes.teleop.client import TeleopClient, TeleopClientConfig, is_fresh
from molmoact_ros.nodes.teleop.home import PERIOD, HomeSequence
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.clocks import STEADY
from molmoact_ros.ros.image_transport import ImageTransport, colour_topic
from molmoact_ros.srv import CollectCommand
from molmoact_ros.utils.errors import one_line

STATUS_PERIOD: Final = 0.2
"""s between two messages on ~/episode; each change is published besides."""
HOMING_PATIENCE: Final = 120.0
"""s for the way to the start position."""
STARTING: Final = 30.0
"""s after the countdown in which the recorder must have begun."""
S, E = CollectionState, CollectionEvent
COMMANDS: Final = {
    event.value: event for event in (E.BEGIN, E.END, E.CANCEL, E.KEEP, E.FAIL, E.DISCARD, E.REDO, E.HOME)
}
"""The operator's events, as CollectCommand.srv names them."""
STATES: Final = {
    S.WAITING: Episode.WAITING, S.HOMING: Episode.HOMING, S.PREPARING: Episode.HOMING,
    S.COUNTDOWN: Episode.COUNTDOWN, S.RECORDING: Episode.RECORDING, S.CHECKING: Episode.CHECKING,
    S.REVIEW: Episode.REVIEW,
}  # fmt: skip
"""Numbers of the states in Episode.msg."""


class CollectorConfig(BaseModel):
    """How episodes are collected, beside the session's folder, task and number.

    countdown: s. home: the arm moves to its start position before each episode. policy: node name of the policy that is
    corrected; empty: none. joy: topic of a joystick, whose buttons `next`, `fail` and `discard` have these numbers.
    """

    teleop: TeleopClientConfig = TeleopClientConfig()
    countdown: float = Field(3.0, ge=0, le=60)
    home: bool = True
    cameras: list[str] = Field(["front", "wrist"], min_length=1)
    image_transport: ImageTransport = "raw"
    joint_states: str = "joint_states"
    policy: str = ""
    joy: str = "joy"
    joy_buttons: dict[str, int] = {"next": 6, "fail": 9, "discard": 10}

    @property
    def streams(self) -> list[str]:
        """Topics of the cameras' colour images and of the joint states: without them there is no episode."""
        images = [f"/{colour_topic(camera, self.image_transport)[1]}" for camera in self.cameras]
        return [*images, self.names.joint_states]

    @property
    def names(self) -> TopicNames:
        """The topics of the bags."""
        return TopicNames(
            cameras=tuple(self.cameras), policy=f"/{self.policy or 'policy'}", controller=f"/{self.teleop.controller}",
            joint_states=f"/{self.joint_states.lstrip('/')}",
        )  # fmt: skip


class CollectorNode(TeleopClient):
    """Runs a session: commands come by `command`, by ~/command and by a joystick; `tell` receives lines for people."""

    def __init__(
        self, config: CollectorConfig, session: SessionFolder, recorder: EpisodeRecorder, tell: Callable[[str], None]
    ) -> None:
        super().__init__("collector")
        self.config, self._session, self._recorder, self._tell = config, session, recorder, tell
        self.collection = Collection(session.wanted, session.outcomes(), session.discarded)
        self._home = HomeSequence(self, config.teleop.controller)
        self._steps: Generator[None, None, str] | None = None
        self._review = EpisodeReview(session, config.names)
        self._line, self._fault = "", ""  # what is said instead of what is due; what ended the episode
        self._due = 0.0  # when the countdown is over, steady s
        self._interventions, self._began = Interventions(), 0.0  # of the episode, when it began, steady s
        self._buttons: list[int] = []
        self._presses = Debounce()
        self._connect()
        if self.collection.state is S.CHECKING:
            self._say("an episode of before is not reviewed yet: it is checked first")
            self._review.start_check(self.collection.number, self._recorder.stop)

    def _connect(self) -> None:
        config = self.config
        self.connect(config.teleop)
        self.connect_home()
        self._monitor = StreamMonitor(self, config.cameras, config.image_transport, config.joint_states)
        self._episode = self.create_publisher(Episode, "~/episode", qos.STATE)
        self.create_service(CollectCommand, "~/command", self._on_command)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._recorder.observe_diagnostics, qos.RELIABLE)
        self.create_subscription(Joy, config.joy, self._on_joy, qos.RELIABLE)
        self._policy = PolicyGoal(self, config.policy, self._say)
        self.create_timer(PERIOD, self._tick, clock=STEADY)
        self.create_timer(STATUS_PERIOD, self._show, clock=STEADY)

    def close(self) -> None:
        """Let go of the arm, finish the bag, and destroy the node; an unreviewed episode is reviewed next time."""
        self._home.let_go()
        self._policy.end_goal()
        self._recorder.stop()
        self._review.close()
        self.destroy_node()

    # The operator

    def command(self, name: str, notes: str = "", task: str = "", done: Sequence[bool] = ()) -> str:
        """Do what the operator asks for (CollectCommand.srv). Returns why it is not done, in one line; empty: it is."""
        if done:
            return "a demonstration has no rubric; keep it, or mark it as failed"
        refusal = self._change_texts(notes, task)
        if refusal or not name:
            return refusal
        if name == "policy":
            allowed = self.collection.state is S.RECORDING
            return self._policy.begin_goal(self._session.task) if allowed else DUE[self.collection.state]
        if name == "next":
            return self._on_next()
        if name not in COMMANDS:
            return f"there is no command {name!r}; there are {', '.join(COMMANDS)}, next and policy"
        return self._on_operator(COMMANDS[name])

    def _on_next(self) -> str:
        """A single button was pressed; a held or a bouncing one must not lead from a verdict to motion."""
        if not self._presses.press(time.monotonic()):
            return f"pressed again within {AGAIN:g} s; wait a moment, and press once"
        event = NEXT.get(self.collection.state)
        return DUE[self.collection.state] if event is None else self._on_operator(event)

    def _change_texts(self, notes: str, task: str) -> str:
        state = self.collection.state
        if task and task != self._session.task:
            if state is not S.WAITING:
                return f"the task changes between episodes only: {DUE[state]}"
            self._session.task = task
            if refusal := why_not_written(self._session.write):
                return refusal
        return self._review.note(notes, state in (S.WAITING, S.REVIEW)) if notes else ""

    def _on_operator(self, event: CollectionEvent) -> str:
        if refusal := self.collection.why_not(event):
            return refusal
        if event in (E.BEGIN, E.REDO) and (refusal := self._why_not_ready()):
            return refusal
        if self.collection.state is S.REVIEW and (refusal := self._review.judge(VERDICTS[event])):
            return refusal
        self._apply(event)
        return ""

    def _why_not_ready(self) -> str:
        if not self._session.task:
            return "nobody has said what the task is; give --task, or type it on the panel"
        if self.config.policy and (refusal := self._policy.why_not_ready()):
            return refusal
        return self._session.why_no_room() or self._monitor.missing

    def _on_command(self, request: CollectCommand.Request, response: CollectCommand.Response) -> Any:
        response.message = self.command(request.command, request.notes, request.task, request.done)
        response.success = not response.message
        return response

    def _on_joy(self, message: Joy) -> None:
        before, self._buttons = self._buttons, list(message.buttons)
        if not is_fresh(self, message.header.stamp):
            return
        for name, button in self.config.joy_buttons.items():
            pressed = button < len(self._buttons) and self._buttons[button]
            was = button < len(before) and before[button]
            if pressed and not was and before and (refusal := self.command(name)):
                self._say(refusal)

    # The machine

    def _apply(self, event: CollectionEvent) -> None:
        """Change the state, and do what belongs to entering the new one."""
        before = self.collection.state
        if not self.collection.on(event):
            return
        after = self.collection.state
        self._line = "" if event in COMMANDS.values() else self._line
        self._leave(before, after)
        enter: dict[CollectionState, Callable[[], None]] = {
            S.HOMING: self._enter_homing, S.PREPARING: self._enter_homing, S.COUNTDOWN: self._enter_countdown,
            S.RECORDING: self._enter_recording,
        }  # fmt: skip
        enter.get(after, lambda: None)()
        self._show()

    def _leave(self, before: CollectionState, after: CollectionState) -> None:
        if before in (S.HOMING, S.PREPARING):
            self._steps = None
            self._home.let_go()
        elif before is S.COUNTDOWN and after is S.WAITING:
            self._recorder.drop()
        elif before is S.RECORDING:
            self._policy.end_goal()
            self._review.end_episode(self._now(), self._fault)
            self._review.start_check(self.collection.number, self._recorder.stop)

    def _tick(self) -> None:
        self._monitor.poll()
        step: dict[CollectionState, Callable[[], None]] = {
            S.HOMING: self._go_home, S.PREPARING: self._go_home, S.COUNTDOWN: self._count_down,
            S.RECORDING: self._watch_recording, S.CHECKING: self._await_check,
        }  # fmt: skip
        step.get(self.collection.state, lambda: None)()

    def _enter_homing(self) -> None:
        if self.config.home or self.collection.state is S.HOMING:
            self._steps = self._home.steps(HOMING_PATIENCE, lambda line: None)

    def _go_home(self) -> None:
        try:
            if self._steps is not None:
                next(self._steps)
                return
        except StopIteration:
            pass
        except RuntimeError as error:
            self._say(one_line(error))
            self._apply(E.NOT_HOME)
            return
        self._apply(E.HOMED)

    def _enter_countdown(self) -> None:
        self._due = time.monotonic() + self.config.countdown
        try:
            self._recorder.start(self._session.bag(self.collection.number))
        except OSError as error:
            self._break(f"the recorder cannot be started: {one_line(error)}")

    def _count_down(self) -> None:
        late = time.monotonic() - self._due
        if ended := self._recorder.has_ended:
            self._break(f"the recorder has ended: {ended}")
        elif missing := self._monitor.missing:
            self._break(missing)
        elif late > STARTING:
            self._break(self._why_not_begun())
        elif late >= 0 and self._recorder.is_recording:
            self._apply(E.COUNTED)

    def _why_not_begun(self) -> str:
        awaited = self._recorder.awaited
        nothing = f" and has received nothing on {awaited.replace(' ', ', ')}" if awaited else ""
        return f"the recorder has not begun within {STARTING:g} s{nothing}; its log is in {self._session.folder}/logs"

    def _enter_recording(self) -> None:
        begin, self._began, self._fault = self._now(), time.monotonic(), ""
        self._review.begin_episode(self.collection.number, begin)
        self._interventions = Interventions()
        self._interventions.observe_state(begin, self.safety.state)
        if self.config.policy and (refusal := self._policy.begin_goal(self._session.task)):
            self._say(refusal)

    def _watch_recording(self) -> None:
        ended, stopped = self._recorder.has_ended, self.safety.state == SafetyStatus.STOPPED
        reasons = (
            f"the recorder has ended: {ended}" if ended else "", self._recorder.loss, self._monitor.missing,
            f"the arm was stopped: {self.safety.reason}" if stopped else "",
        )  # fmt: skip
        if why := next(filter(None, reasons), ""):
            self._break(f"{why}; the episode ended there, and what was recorded until then is whole")

    def _break(self, why: str) -> None:
        self._say(why)
        self._fault = why
        self._apply(E.BROKEN)

    def _await_check(self) -> None:
        problems = self._review.finish_check()
        if problems is not None:
            for line in problems:
                self._say(f"episode {self.collection.number}: {line}")
            self._apply(E.CHECKED)

    # What is said

    def _on_safety(self, message: SafetyStatus) -> None:
        super()._on_safety(message)
        self._home.observe_status(message)
        if self.collection.state is S.RECORDING:
            self._interventions.observe_state(conversions.seconds(message.header.stamp), message.state)

    def _say(self, line: str) -> None:
        self._line = line
        self._tell(line)

    def _now(self) -> float:
        return float(self.get_clock().now().nanoseconds * 1e-9)

    @property
    def line(self) -> str:
        """What is due, or what went wrong, for people."""
        return self._line or DUE[self.collection.state]

    @property
    def left(self) -> float:
        """Time until the episode begins, s, in COUNTDOWN; else 0."""
        counts = self.collection.state is S.COUNTDOWN
        return max(0.0, self._due - time.monotonic()) if counts else 0.0

    @property
    def elapsed(self) -> float:
        """Time since the episode began, s, in RECORDING; else 0."""
        return time.monotonic() - self._began if self.collection.state is S.RECORDING else 0.0

    def _show(self) -> None:
        """Publish where the collection stands."""
        self._episode.publish(self._status())

    def _status(self) -> Episode:
        collection, record = self.collection, self._review.record
        state, count = collection.state, collection.count
        message = Episode(
            state=Episode.DONE if state is S.WAITING and collection.is_complete else STATES[state],
            message=self.line, session=str(self._session.folder), task=self._session.task,
            number=collection.number, wanted=collection.wanted, kept=count(Outcome.KEPT), failed=count(Outcome.FAILED),
            discarded=count(Outcome.DISCARDED), left=self.left, elapsed=self.elapsed,
        )  # fmt: skip
        message.header.stamp = self.get_clock().now().to_msg()
        if record is not None and state in (S.RECORDING, S.CHECKING, S.REVIEW):
            intervals = self._interventions.until(self._now()) if state is S.RECORDING else record.interventions
            message.notes, message.problems = record.notes, record.problems
            message.begin, message.end = conversions.time_message(record.begin), conversions.time_message(record.end)
            message.intervention_begins = [conversions.time_message(begin) for begin, _ in intervals]
            message.intervention_ends = [conversions.time_message(end) for _, end in intervals]
        return message
