"""Secrets in files: tokens and keys, readable by their owner only and too long to guess."""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
from pathlib import Path
from typing import Final

SHORTEST: Final = 16
"""Minimum length of a secret, characters."""
KEY_VARIABLE: Final = "MOLMOACT_API_KEY"


def is_loopback(host: str) -> bool:
    """Whether `host` is reachable from this machine only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_secret(file: str | Path, what: str = "token") -> str:
    """Read the secret in a file.

    Raises ValueError for a file that others may read or a secret that can be guessed, OSError for a missing file.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path} with a {what}; write one word into it that nobody can guess")
    if path.stat().st_mode & 0o077:
        raise ValueError(f"others may read the {what} in {path}; run: chmod 600 {path}")
    found = path.read_text().strip()
    if len(found) < SHORTEST or not found.isascii() or not found.isprintable() or " " in found:
        raise ValueError(f"the {what} in {path} is not one word of at least {SHORTEST} ASCII characters; write another")
    return found


def made_secret(path: Path) -> str:
    """Read the secret in a file; create it, readable by its owner only, if it is missing. Raises as `read_secret`."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.write_text(secrets.token_urlsafe(24) + "\n")
    return read_secret(path)


def server_key(file: str) -> str:
    """The key of a model server, from the file or else from the environment's MOLMOACT_API_KEY; empty without both.

    Raises as `read_secret`.
    """
    return read_secret(file, "key") if file else os.environ.get(KEY_VARIABLE, "")


def required_key(host: str, file: str) -> str:
    """The key that a model server at `host` asks of its clients (see `server_key`); empty: none, on this machine alone.

    Raises ValueError, in one line, for an address reachable from other machines without a key.
    """
    key = server_key(file)
    if not key and not is_loopback(host):
        raise ValueError(
            f"at {host} anybody in the network could use this server; write a key into a file that you alone may read "
            "and give it with --api-key-file, here and as the policy's server_key_file"
        )
    return key


def same_secret(one: str, other: str) -> bool:
    """Whether two secrets are equal; in constant time for a given length."""
    return hmac.compare_digest(one.encode(), other.encode())
