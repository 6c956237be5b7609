"""When an image was taken: never before it was, never after it came, whatever the clocks do."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from molmoact_ros.cameras.clock_sync import APART, MAX_DRIFT, SETTLE, CameraClock, HostTime, stamped

ROUNDING = 1e-6  # s: stamps of 1.8e9 s in double precision are 2e-7 s apart


@dataclass(frozen=True)
class Shot:
    """An image: seconds since the one before, seconds until it arrived, and what happened to the clocks meanwhile."""

    gap: float
    delay: float
    camera_restarts: bool = False
    system_jump: float = 0.0
    ros_jump: float = 0.0


def shots(jumps: bool = True, longest: float = 5.0) -> st.SearchStrategy[list[Shot]]:
    jump = st.one_of(st.just(0.0), st.floats(-1e5, 1e5)) if jumps else st.just(0.0)
    restarts = st.booleans() if jumps else st.just(False)
    return st.lists(
        st.builds(Shot, st.floats(0.005, 2.0), st.floats(0.0, longest), restarts, jump, jump), min_size=1, max_size=30
    )


def run(shots: list[Shot], drift: float, is_global: bool = False) -> list[tuple[float, float, float]]:
    """For each image: when it was taken, the stamp, and when it arrived, all by ROS' clock of its arrival, s."""
    known, out = CameraClock(), []
    true = arrived = 1000.0
    camera_zero, system_lead, ros_lead = 900.0, 1.7e9, 1.7e9
    for shot in shots:
        true = max(true + shot.gap, arrived - shot.delay + 1e-3)  # they arrive in the order in which they were taken
        arrived = true + shot.delay
        system_lead += shot.system_jump
        ros_lead += shot.ros_jump
        if shot.camera_restarts:
            camera_zero += 4294.967296  # 2^32 us: the D400's counter goes round
        camera = true + system_lead if is_global else (true - camera_zero) * (1.0 + drift)
        moment = HostTime(arrived, arrived + system_lead, arrived + ros_lead)
        known, stamp = stamped(known, camera, is_global, moment)
        out.append((true + ros_lead, stamp, arrived + ros_lead))
    return out


@given(shots(), st.floats(-MAX_DRIFT / 2, MAX_DRIFT / 2))
def test_a_stamp_lies_between_exposure_and_arrival_whatever_the_clocks_do(shots: list[Shot], drift: float) -> None:
    for true, stamp, arrived in run(shots, drift):
        assert true - ROUNDING <= stamp <= arrived + ROUNDING


@given(shots(jumps=False, longest=0.9), st.floats(-MAX_DRIFT / 2, MAX_DRIFT / 2))
def test_late_pictures_are_stamped_as_well_as_the_promptest_one_was(shots: list[Shot], drift: float) -> None:
    prompt = Shot(0.03, 0.01)
    rows = run([prompt, *shots], drift)
    for true, stamp, _ in rows:
        assert stamp - true <= prompt.delay + 2 * MAX_DRIFT * (true - rows[0][0]) + len(rows) * APART + ROUNDING


@given(shots(longest=0.9), st.floats(-MAX_DRIFT / 2, MAX_DRIFT / 2))
def test_a_jump_of_the_hosts_clocks_moves_stamps_with_it_and_nothing_else(shots: list[Shot], drift: float) -> None:
    still = [Shot(s.gap, s.delay, s.camera_restarts) for s in shots]
    for (true, stamp, _), (true_still, stamp_still, _) in zip(run(shots, drift), run(still, drift), strict=True):
        assert abs((stamp - true) - (stamp_still - true_still)) <= 1e-5


@given(shots(jumps=False))
def test_stamps_grow(shots: list[Shot]) -> None:
    stamps = [stamp for _, stamp, _ in run(shots, 0.0)]
    assert all(later > earlier for earlier, later in pairwise(stamps))


@given(st.lists(st.floats(0.0, 0.5), min_size=1))
def test_global_time_is_believed_while_it_can_be_true(delays: list[float]) -> None:
    for true, stamp, _ in run([Shot(0.6, delay) for delay in delays], 0.0, is_global=True):
        assert abs(stamp - true) <= ROUNDING


def test_global_time_that_lags_behind_a_set_clock_is_not_believed_until_it_has_settled() -> None:
    known, jump, delay, errors = CameraClock(), 0.3, 0.02, []
    for k in range(int(3 * SETTLE * 10)):
        steady = 1000.0 + k / 10
        # The system's clock is set at 5 s; librealsense's follows 2 s later.
        system = steady + 1.7e9 + (jump if k >= 50 else 0.0)
        camera = steady + 1.7e9 + (jump if k >= 70 else 0.0)
        known, stamp = stamped(known, camera, True, HostTime(steady + delay, system + delay, steady + delay))
        errors.append(stamp - steady)
    assert max(abs(e) for e in errors[:50]) < ROUNDING, "exact before"
    # Behind the jump the camera's clock goes on: its stamps are late by the transport, and 0.3 s at no time.
    assert max(abs(e) for e in errors) < 0.1
    assert max(abs(e) for e in errors[-50:]) < ROUNDING, "and exact again"


def test_a_recording_of_long_ago_is_stamped_as_it_comes() -> None:
    known = CameraClock()
    for k in range(10):
        known, stamp = stamped(known, 1.5e9 + k / 30, True, HostTime(50.0 + k / 30, 1.7e9 + k / 30, 7.0 + k / 30))
        assert abs(stamp - (7.0 + k / 30)) < 1e-4


def test_clocks_are_read_together_though_the_thread_is_kept_waiting() -> None:
    """ROS' clock is slow to be read, now and then: the reading that took no time counts."""
    delays = iter([0.02, 0.01, 0.0])

    def slow() -> float:
        seen = time.monotonic()
        time.sleep(next(delays, 0.0))
        return seen

    moment = HostTime.now(slow)
    assert abs(moment.steady - moment.ros) < 0.004
