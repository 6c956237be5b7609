"""The controller's /diagnostics: its state, inputs, limits and control loop."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticStatus

from molmoact_ros.control.controller import Controller
from molmoact_ros.control.supervisor import State
from molmoact_ros.ros.diagnostics import status

JITTER_WARN = 5.0  # ms at the 99th percentile, half a period at 100 Hz


def report(
    controller: Controller, node: str, now: float, steady: float, jitter_ms: dict[str, float], real_time: bool
) -> list[DiagnosticStatus]:
    """One status each for the state, the inputs against their deadlines, the limits and the control loop.

    now: ROS time, s. steady: time of the steady clock, which nobody can set, s.
    """
    config, supervisor = controller.config, controller.supervisor
    state = {"reason": supervisor.reason}
    out = [status(f"{node}: state", supervisor.state in (State.HOLD, State.STOPPED), supervisor.state.value, state)]
    for arm in controller.arms:
        known = arm.measured is not None
        age = now - arm.measured_at if known else float("nan")
        values = {
            "age_s": age,
            "deadline_s": config.joints_deadline,
            "gap_rad": arm.gap(),
            "gap_max_rad": config.following,
        }
        wrong = arm.joint_state.wrong(now, steady, config.joints_deadline)
        out.append(status(f"{node}: {arm.arm.prefix}joints", bool(wrong), wrong or f"{age:.3f} s old", values))
    playing = supervisor.state is State.POLICY
    player = controller.arms[0].player
    chunks = {
        "remaining_s": player.remaining,
        "deadline_s": config.silence_deadline,
        "latency_s": player.latency.seconds,
    }
    text = controller.last_refusal or "fine"
    out.append(status(f"{node}: chunks", playing and not player.loaded, text, chunks | {"refused": controller.refused}))
    out.append(_engine(controller, node, steady))
    out.append(status(f"{node}: limits", False, "how often each has bitten", controller.counts))
    late = jitter_ms["p99"] > JITTER_WARN
    text = "real-time priority" if real_time else "no real-time priority; grant CAP_SYS_NICE or an rtprio limit"
    loop = {f"jitter_{name}_ms": value for name, value in jitter_ms.items()}
    out.append(status(f"{node}: control loop", late, text, loop | {"rate_hz": config.rate}))
    return out


def _engine(controller: Controller, node: str, steady: float) -> DiagnosticStatus:
    config, heard = controller.config, controller.heard
    if heard is None:
        return status(f"{node}: engine", False, "no heartbeat yet; without one no chunk is played for long", {})
    values = {
        "heartbeat_age_s": steady - heard, "heartbeat_deadline_s": config.engine_deadline,
        "camera_age_s": controller.camera_age, "camera_deadline_s": config.camera_deadline,
    }  # fmt: skip
    late = steady - heard > config.engine_deadline or controller.camera_age > config.camera_deadline
    return status(f"{node}: engine", late or bool(controller.engine_fault), controller.engine_fault or "heard", values)
