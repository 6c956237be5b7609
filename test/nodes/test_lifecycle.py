"""Graphs that are started otherwise: with a clock of their own, or by a life-cycle manager."""

from __future__ import annotations

from pathlib import Path

from lifecycle_msgs.msg import State as LifecycleState
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from std_msgs.msg import String

from molmoact_ros.benchmarks.fault_graph import graph
from molmoact_ros.benchmarks.fault_injection import try_fault
from molmoact_ros.benchmarks.fault_table import clock_suite
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.msg import EngineStatus, SafetyStatus
from molmoact_ros.ros import qos

from .conftest import Peer

SLOW = 3.0
"""As in test_faults."""


def test_h1_a_clock_that_jumps_stands_still_or_repeats_holds_whoever_moves_the_arm(domain: int, tmp_path: Path) -> None:
    with graph(policy=False, clock=True, logs=tmp_path) as running:
        for fault in clock_suite().faults:
            fault.deadline *= SLOW
            try_fault(fault, running)
            assert (fault.held, fault.moved) == (1, 0), f"{fault.name}: {fault.seconds} s, {running.rig.safety}"
            assert "clock" in running.rig.safety.reason


def change(peer: Peer, node: str, transition: int) -> bool:
    return bool(peer.call(ChangeState, f"/{node}/change_state", transition=Transition(id=transition)).success)


def test_a_policy_takes_no_instruction_until_it_is_active(peer: Peer, checkpoint: Path, tmp_path: Path) -> None:
    with Bringup(Profile(nodes={"policy": {"autostart": False, "checkpoint": str(checkpoint)}}), tmp_path):
        status = peer.listen(EngineStatus, "/policy/engine_status", qos.STATE)
        speak = peer.node.create_publisher(String, "/policy/instruction", qos.RELIABLE)
        assert change(peer, "policy", Transition.TRANSITION_CONFIGURE)

        def told(state: int, hint: str) -> bool:
            speak.publish(String(data="put the red cube in the bowl"))
            return bool(status and status[-1].state == state and hint in status[-1].message)

        assert peer.until(lambda: told(EngineStatus.FAULT, "not active"))
        assert change(peer, "policy", Transition.TRANSITION_ACTIVATE)
        assert peer.until(lambda: told(EngineStatus.WAITING, "/front/color/image_raw"))
        assert change(peer, "policy", Transition.TRANSITION_DEACTIVATE)
        assert change(peer, "policy", Transition.TRANSITION_CLEANUP)
        assert change(peer, "policy", Transition.TRANSITION_CONFIGURE)
        status.clear()
        assert peer.until(lambda: status)


def test_a_manager_may_drive_the_controllers_life_cycle(peer: Peer, tmp_path: Path) -> None:
    with Bringup(Profile(nodes={"controller": {"autostart": False}}), tmp_path):
        states = peer.listen(SafetyStatus, "/controller/safety_status", qos.STATE)
        state = peer.call(GetState, "/controller/get_state").current_state.id
        assert state == LifecycleState.PRIMARY_STATE_UNCONFIGURED and not states
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            assert change(peer, "controller", transition)
        assert peer.until(lambda: states)
        for transition in (Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP):
            assert change(peer, "controller", transition)
        states.clear()
        peer.spin(0.5)
        assert not states, "nothing is left of it"
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE):
            assert change(peer, "controller", transition)
        assert peer.until(lambda: states)
