"""The topics on which the parts of a plan are published, each as soon as it is complete."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import Image

from molmoact_ros.engine.base import ReasoningMode
from molmoact_ros.engine.torch_engine import Engine
from molmoact_ros.msg import ActionChunk, AnswerTokens, DepthTokens, Trace
from molmoact_ros.nodes.planning.action_path import ActionPath
from molmoact_ros.nodes.planning.inference_thread import ReasonedPlan
from molmoact_ros.reasoning.trace import draw_training_overlay
from molmoact_ros.ros import conversions, qos


class PlanPublisher:
    """Publishes the parts of plans. `show` runs on the executor's thread, everything else on the inference thread."""

    def __init__(self, node: Node, engine: Engine, camera: str, arms: Sequence[str]) -> None:
        """camera: name of the front one. arms: prefix of each arm's names, left first."""
        self._engine, self._frame = engine, conversions.optical_frame(camera)
        self._depth_tokens = node.create_publisher(DepthTokens, "~/depth_tokens", qos.RELIABLE)
        self._depth_image = node.create_publisher(Image, "~/depth_image", qos.RELIABLE)
        self._trace = node.create_publisher(Trace, "~/trace", qos.RELIABLE)
        self._model_overlay = node.create_publisher(Image, "~/model_overlay", qos.RELIABLE)
        self._answer_tokens = node.create_publisher(AnswerTokens, "~/answer_tokens", qos.RELIABLE)
        traces = ReasoningMode.STEERED in engine.modes
        self._path = None if traces else ActionPath(node, camera, arms)
        self._published: dict[str, int] = {}  # number of the last plan of which each part was published
        self._to_show: ReasonedPlan | None = None

    def reasoning(self, plan: ReasonedPlan) -> None:
        """Publish depth tokens and the model's trace, each once a plan."""
        said, head = plan.reasoning, self._head(plan)
        if said.depth_codes is not None and self._is_new(plan, "depth"):
            codes = conversions.depth_tokens_message(said.depth_codes, self._engine.codebook, plan.plan_id, head)
            self._depth_tokens.publish(codes)
        if said.trace is not None and self._is_new(plan, "trace"):
            self._trace.publish(conversions.trace_message(said.trace, Trace.MODEL, plan.plan_id, head))

    @property
    def note(self) -> str:
        """What of the last plan cannot be shown, and why, in one line; empty: nothing."""
        return "" if self._path is None else self._path.reason

    def complete(self, plan: ReasonedPlan, chunk: ActionChunk) -> None:
        """Publish the rest of a complete plan, whose actions are `chunk`; its images are published by `show`."""
        mode, seen = plan.timings.mode.value, plan.observation
        head = self._head(plan)
        self._answer_tokens.publish(
            conversions.tokens_message(
                plan.tokens, self._engine.digest, mode, seen, plan.frames, plan.plan_id, head, self._engine.unnorm_key,
                self._engine.seed, self._engine.flow_steps,
            )
        )  # fmt: skip
        if seen.trace is not None:
            self._trace.publish(conversions.trace_message(seen.trace, Trace.HUMAN, plan.plan_id, head))
        if self._path is not None:
            self._publish_path(self._path.trace(chunk), plan.plan_id, head)
        self._to_show = plan

    def _publish_path(self, trace: np.ndarray | None, plan_id: int, head: conversions.Header) -> None:
        """Publish where the actions take the hand; one without points, lest viewers show the plan before."""
        unknown = Trace(header=head, plan_id=plan_id, source=Trace.ACTIONS)
        self._trace.publish(
            unknown if trace is None else conversions.trace_message(trace, Trace.ACTIONS, plan_id, head)
        )

    def _head(self, plan: ReasonedPlan) -> conversions.Header:
        return conversions.header(plan.observation.stamp, plan.camera_frame or self._frame)

    def _is_new(self, plan: ReasonedPlan, part: str) -> bool:
        """Whether this part of this plan was not published before; from now on it counts as published."""
        if self._published.get(part) == plan.plan_id:
            return False
        self._published[part] = plan.plan_id
        return True

    def show(self) -> None:
        """Publish images of the last plan, for viewers; never before actions."""
        plan, self._to_show = self._to_show, None
        if plan is None:
            return
        said, seen = plan.reasoning, plan.observation
        head, trace = self._head(plan), said.trace if seen.trace is None else seen.trace
        if trace is not None and self._model_overlay.get_subscription_count():
            overlay = draw_training_overlay(self._engine.frame(seen.images[0]), trace)
            self._model_overlay.publish(conversions.image_message(overlay, "rgb8", head))
        decoder = self._engine.depth_vq
        if said.depth_codes is not None and decoder is not None and self._depth_image.get_subscription_count():
            self._depth_image.publish(conversions.image_message(decoder.picture(said.depth_codes), "32FC1", head))
