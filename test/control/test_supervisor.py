"""The states, and the table of docs/safety.md."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

from molmoact_ros.control.supervisor import TRANSITIONS, Event, State, Supervisor


def test_every_state_answers_every_event_as_the_table_says() -> None:
    for state, event in product(State, Event):
        supervisor = Supervisor()
        supervisor.state = state
        supervisor.on(event)
        assert supervisor.state is TRANSITIONS.get((state, event), state)
    assert all(TRANSITIONS[(state, Event.STOP)] is State.STOPPED for state in State)
    lifts = {event for (state, event), after in TRANSITIONS.items() if state is State.STOPPED and after is not state}
    assert lifts == {Event.RESUME}


def test_the_documents_table_is_the_codes() -> None:
    text = (Path(__file__).parents[2] / "docs" / "safety.md").read_text()
    text = text.split("## Transitions")[1].split("## Deadlines")[0]
    rows = re.findall(r"^\| ([A-Z_]+) \|(.+)\|$", text, re.MULTILINE)
    header = next(cells for name, cells in re.findall(r"^\| (event) \|(.+)\|$", text, re.MULTILINE))
    states = [State[cell.strip()] for cell in header.split("|")]
    assert set(states) == set(State)
    told = {}
    for name, cells in rows:
        for state, cell in zip(states, cells.split("|"), strict=False):
            if cell.strip() not in ("", "-"):
                told[state, Event[name]] = State[cell.strip()]
    assert told == TRANSITIONS
    assert {name for name, _ in rows} == {event.name for event in Event}
