"""Commands by name. Only the module of the selected one is imported, so that help is instant."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module


@dataclass(frozen=True)
class Command:
    """A command. about: one line of help. parts: its subcommands, such as those of `bench`.

    module: has `add_arguments(parser)`, and `run(args)`, which returns the exit status.
    """

    about: str
    module: str = ""
    parts: Mapping[str, Command] = field(default_factory=dict)


def add_commands(
    parser: argparse.ArgumentParser, commands: Mapping[str, Command], dest: str, argv: Sequence[str] | None
) -> None:
    """Add the commands to `parser`: all of them by name, and arguments to the one with which `argv` begins.

    argv: None adds every command's arguments, which imports all modules. The selected command sets `run`.
    """
    added = parser.add_subparsers(dest=dest, required=True, metavar=dest.upper())
    asked = None if argv is None else next((word for word in argv if not word.startswith("-")), "")
    for name, command in commands.items():
        sub = added.add_parser(name, help=command.about, description=command.about)
        if asked not in (None, name):
            continue
        if command.parts:
            rest = None if argv is None else argv[list(argv).index(name) + 1 :]
            add_commands(sub, command.parts, "part", rest)
        else:
            module = import_module(command.module)
            module.add_arguments(sub)
            sub.set_defaults(run=module.run)
