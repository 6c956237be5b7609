"""Lifecycle nodes that configure and activate themselves, unless a lifecycle manager does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from molmoact_ros.ros.parameters import refuse_misspelt


class ManagedNode(LifecycleNode):
    """A LifecycleNode that can bring itself up.

    Subclasses override `configure`, `activate` and `deactivate`. A clean-up destroys the publishers, subscriptions,
    services, clients and timers that `configure` created, so `configure` may run again.

    Args of `__init__`:
        name: of the node.
        options: of rclpy's nodes, such as `namespace`.

    Raises:
        ValueError, RuntimeError, OSError: the three methods raise these, in one line, when they fail; the transition
            then fails, and `begin` raises RuntimeError with that line.

    Example:
        class Talker(ManagedNode):
            def configure(self):
                self._words = self.create_publisher(String, "~/words", 10)

        node = Talker("talker")
        node.begin()  # unconfigured -> inactive -> active
    """

    config: Any  # has `autostart`

    def __init__(self, name: str, **options: Any) -> None:
        """options: of rclpy's nodes, such as the namespace."""
        super().__init__(name, **options)
        self._kept: set[Any] = set()
        self._failure = ""

    def begin(self) -> None:
        """Configure and activate the node. Raises RuntimeError with the reason when either fails."""
        done = TransitionCallbackReturn.SUCCESS
        if self.trigger_configure() != done or self.trigger_activate() != done:
            raise RuntimeError(self._failure)

    def configure(self) -> None:
        """Load what takes long, and create the topics."""

    def activate(self) -> None:
        """Start working."""

    def deactivate(self) -> None:
        """Stop working; `activate` may follow."""

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition from unconfigured to inactive."""
        self._kept = self._entities()
        return self._try(self._configure_whole)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition from inactive to active."""
        super().on_activate(state)
        return self._try(self.activate)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition from active to inactive."""
        super().on_deactivate(state)
        return self._try(self.deactivate)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition from inactive to unconfigured."""
        return self._try(self.forget)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Transition to finalized, from any state."""
        return self._try(self.deactivate)

    def forget(self) -> None:
        """Destroy what `configure` created."""
        for entity in self._entities() - self._kept:
            for destroy in (
                self.destroy_publisher, self.destroy_subscription, self.destroy_service, self.destroy_client,
                self.destroy_timer,
            ):  # fmt: skip
                if destroy(entity):
                    break

    def _configure_whole(self) -> None:
        self.configure()
        refuse_misspelt(self)  # all parameters are declared now

    def _entities(self) -> set[Any]:
        return {*self.publishers, *self.subscriptions, *self.services, *self.clients, *self.timers}

    def _try(self, work: Callable[[], None]) -> TransitionCallbackReturn:
        try:
            work()
        except (ValueError, RuntimeError, OSError) as error:
            self._failure = str(error)
            return TransitionCallbackReturn.FAILURE
        return TransitionCallbackReturn.SUCCESS
