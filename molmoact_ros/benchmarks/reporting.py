"""Tables for the terminal and figures for `--json`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rich.table import Table

from molmoact_ros.utils.provenance import machine
from molmoact_ros.utils.whole_file import write_whole


def new_table(title: str, *headings: str) -> Table:
    """An empty table: text is left-aligned, numbers are right-aligned."""
    made = Table(title=title)
    for heading in headings:
        made.add_column(heading, justify="left" if heading in ("mode", "driven by", "fault", "what") else "right")
    return made


def write_figures(args: argparse.Namespace, figures: Any) -> None:
    """Write `figures`, and the machine that they were measured on, into the file that `--json` names."""
    if args.json:
        about = machine("") | {name: value for name, value in vars(args).items() if name in ("part", "seed")}
        write_whole(args.json, json.dumps(about | {"figures": figures}, indent=1))
