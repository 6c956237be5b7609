"""Images that belong together: against a search over everything, with any stamps, in any order, at any clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from molmoact_ros.cameras.synchronizer import Synchronizer

SLOP, MAX_AGE = 0.05, 0.5
NAMES = ["front", "wrist", "side"]
Event = tuple[int, float, float, bool]


def histories(cameras: int) -> st.SearchStrategy[list[Event]]:
    """Camera, age of the image when it came, time since the event before, and whether a set is then used."""
    event = st.tuples(st.integers(0, cameras - 1), st.floats(-0.2, 0.8), st.floats(0.0, 0.1), st.booleans())
    return st.lists(event, max_size=25)


def brute_force(pictures: list[list[float]], now: float) -> tuple[float, ...] | None:
    """Newest first image with, from each other camera, the nearest of those within the tolerance."""
    current = [[s for s in stamps if -SLOP <= now - s <= MAX_AGE] for stamps in pictures]
    for leader in sorted(current[0], reverse=True):
        near = [[s for s in others if abs(s - leader) <= SLOP] for others in current[1:]]
        if all(near):
            return leader, *(min(others, key=lambda s: abs(s - leader)) for others in near)
    return None


@given(st.integers(1, 3).flatmap(lambda n: st.tuples(st.just(n), histories(n))))
def test_the_freshest_set_is_found_and_no_picture_is_unaccounted_for(drawn: tuple[int, list[Event]]) -> None:
    cameras, events = drawn
    names = NAMES[:cameras]
    matcher: Synchronizer[float] = Synchronizer(names, SLOP, MAX_AGE)
    came: list[list[float]] = [[] for _ in names]
    now, used = 100.0, 0
    for camera, age, pause, use in events:
        now += pause
        stamp = now - age
        matcher.add_frame(names[camera], stamp, stamp, now)
        if -SLOP <= now - stamp <= MAX_AGE:
            came[camera].append(stamp)
        expected = brute_force(came, now)
        found = matcher.newest(now)
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            assert found[0].item == expected[0]
            offsets = [abs(kept.item - expected[0]) for kept in found]
            assert offsets == [abs(stamp - expected[0]) for stamp in expected]
            if use:
                used += not found[0].used
                for kept in found:
                    kept.used = True
        for name in names:
            counts = matcher.counts[name]
            fates = sum(counts[fate] for fate in ("used", "skipped", "unmatched", "late"))
            assert counts["received"] == fates + matcher.held(name)
    matcher.newest(now + 10.0)
    assert all(matcher.held(name) == 0 for name in names)
    assert matcher.counts["front"]["used"] == used
    if cameras == 1:
        assert matcher.counts["front"]["unmatched"] == 0


@given(histories(2), st.floats(-5.0, 5.0))
def test_a_clock_that_is_set_leaves_nothing_that_is_not_current(events: list[Event], jump: float) -> None:
    matcher: Synchronizer[float] = Synchronizer(NAMES[:2], SLOP, MAX_AGE)
    now = 100.0
    for camera, age, pause, _ in events:
        now += pause
        matcher.add_frame(NAMES[camera], now - age, now - age, now)
    found = matcher.newest(now + jump)
    assert found is None or all(-SLOP <= now + jump - kept.stamp <= MAX_AGE for kept in found)


def test_what_became_of_pictures_is_told_apart() -> None:
    matcher: Synchronizer[str] = Synchronizer(["front", "wrist"], SLOP, MAX_AGE)
    for camera, stamp, item in (
        ("front", 10.00, "skipped"), ("wrist", 10.02, "skipped"),
        ("front", 10.10, "used"), ("wrist", 10.12, "used"), ("wrist", 10.20, "alone"),
        ("front", 9.0, "late"), ("wrist", 12.0, "of the future"),
    ):  # fmt: skip
        matcher.add_frame(camera, stamp, item, 10.2)
    found = matcher.newest(10.2)
    assert found is not None and [kept.item for kept in found] == ["used", "used"]
    for kept in found:
        kept.used = True
    assert matcher.newest(20.0) is None
    assert matcher.counts["front"] == {"received": 3, "used": 1, "skipped": 1, "unmatched": 0, "late": 1}
    assert matcher.counts["wrist"] == {"received": 4, "used": 1, "skipped": 1, "unmatched": 1, "late": 1}
