"""Graphs that are started otherwise: with a clock of their own, or by a life-cycle manager."""

from __future__ import annotations

from pathlib import Path

from lifecycle_msgs.msg import State as LifecycleState
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState

from molmoact_ros.msg import SafetyStatus
from molmoact_ros.nodes import qos
from molmoact_ros.nodes.bench_faults import _try, clock_faults, graph
from molmoact_ros.nodes.bringup import Bringup, Profile

from .conftest import Peer

SLOW = 3.0
"""As in test_faults."""


def test_a_clock_that_jumps_holds(domain: int, tmp_path: Path) -> None:
    (fault,) = clock_faults()
    fault.deadline *= SLOW
    with graph(policy=False, clock=True, logs=tmp_path) as running:
        _try(fault, running)
        assert (fault.held, fault.moved) == (1, 0), f"{fault.seconds} s, {running.rig.safety}"
        assert "clock" in running.rig.safety.reason


def test_a_manager_may_drive_the_life_cycle(peer: Peer, tmp_path: Path) -> None:
    def change(transition: int) -> bool:
        request = Transition(id=transition)
        return bool(peer.call(ChangeState, "/controller/change_state", transition=request).success)

    with Bringup(Profile(nodes={"controller": {"autostart": False}}), tmp_path):
        states = peer.listen(SafetyStatus, "/controller/safety_status", qos.STATE)
        state = peer.call(GetState, "/controller/get_state").current_state.id
        assert state == LifecycleState.PRIMARY_STATE_UNCONFIGURED and not states
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            assert change(transition)
        assert peer.until(lambda: states)
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
            assert change(transition)
        states.clear()
        peer.spin(0.5)
        assert not states, "nothing is left of it"
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            assert change(transition)
        assert peer.until(lambda: states)
