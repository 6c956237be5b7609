"""The policies of several robots in one process, over one engine: `/left/policy` and `/right/policy`, for example.

Each is in its robot's namespace, and so are its cameras, joints and controller, whose names are relative.
"""

from __future__ import annotations

import rclpy
from pydantic import Field
from rclpy.node import Node
from rclpy.parameter import Parameter

from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.nodes.planning.config import PolicyConfig, load_engine
from molmoact_ros.nodes.policy import PolicyNode
from molmoact_ros.ros.parameters import declare
from molmoact_ros.ros.spin import run


class PoliciesConfig(PolicyConfig):
    """Parameters that all policies share, and the robots' namespaces."""

    robots: list[str] = Field(["left", "right"], min_length=1, description="namespace of each robot")


def make_policies() -> list[Node]:
    """A node for each robot. Raises ValueError for parameters that do not fit, and what opening an engine raises."""
    asked = rclpy.create_node("policies")
    config = declare(asked, PoliciesConfig)
    shared = [Parameter(name, value=value) for name, value in config.model_dump(exclude={"robots"}).items()]
    shared.append(asked.get_parameter("use_sim_time"))
    asked.destroy_node()
    engine = load_engine(config)
    if not isinstance(engine, TorchEngine):
        raise ValueError(f"the back end {config.backend} gathers by itself; start a policy for each robot instead")
    engines = engine.together(len(config.robots))
    return [_policy(robot, shared, engine) for robot, engine in zip(config.robots, engines, strict=True)]


def _policy(robot: str, shared: list[Parameter], engine: TorchEngine) -> PolicyNode:
    return PolicyNode(lambda _: engine, namespace=robot, use_global_arguments=False, parameter_overrides=shared)


def main() -> None:
    """Start the nodes."""
    run(make_policies)


if __name__ == "__main__":
    main()
