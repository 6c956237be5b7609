"""SROS2: a keystore with an enclave for each node, by the committed policies (docs/security.md)."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Final
from xml.etree import ElementTree

from molmoact_ros.utils.paths import share

XINCLUDE: Final = "{http://www.w3.org/2001/XInclude}include"
INSTALL: Final = "SROS2 is not installed here; apt install ros-jazzy-sros2, source /opt/ros/jazzy/setup.bash, try again"


def policy_folder() -> Path:
    """The folder of the committed policies: a file for each node, and what nodes have in common."""
    return share() / "config" / "security" / "policies"


def enclave(name: str, namespace: str = "/") -> str:
    """The path of a node's enclave, for `--enclave`: the node's fully qualified name."""
    return f"{namespace.rstrip('/')}/{name}"


def enclave_arguments(name: str) -> list[str]:
    """ROS arguments that select a node's enclave; empty where security is off."""
    secure = os.environ.get("ROS_SECURITY_ENABLE", "").lower() == "true"
    return ["--enclave", enclave(name, os.environ.get("ROS_NAMESPACE", "/"))] if secure else []


def rules(profile: ElementTree.Element, folder: Path) -> Iterable[ElementTree.Element]:
    """The topics, services and actions of a policy's profile, including those of the files that it includes."""
    for element in profile:
        if element.tag == XINCLUDE:
            yield from ElementTree.parse(folder / element.attrib["href"]).getroot()
        else:
            yield element


def in_namespace(file: Path, namespace: str) -> None:
    """Move a policy to another namespace: its relative names and its enclave follow."""
    tree = ElementTree.parse(file)
    for element in tree.iter("enclave"):
        element.set("path", enclave(element.attrib["path"].lstrip("/"), namespace))
    for element in tree.iter("profile"):
        element.set("ns", namespace)
    ElementTree.register_namespace("xi", "http://www.w3.org/2001/XInclude")
    tree.write(file, "utf-8", xml_declaration=True)


def make_keys(keystore: Path, namespace: str = "/") -> list[str]:
    """Create or extend a keystore with keys and signed permissions of each node; returns the enclaves' paths.

    The permissions are for the domain that ROS_DOMAIN_ID names. Raises RuntimeError where SROS2 is not installed or
    fails, and ValueError for an invalid namespace, in one line.
    """
    if not namespace.startswith("/") or not all(part.isidentifier() for part in namespace.split("/")[1:] if part):
        raise ValueError(f"{namespace!r} is no namespace; write it as in /left")
    if shutil.which("ros2") is None or find_spec("sros2") is None:
        raise RuntimeError(INSTALL)
    with tempfile.TemporaryDirectory(prefix="molmoact-policies-") as folder:
        policies = Path(shutil.copytree(policy_folder(), Path(folder) / "policies"))
        files = sorted(policies.glob("*.xml"))
        for file in files:
            in_namespace(file, namespace)
        made = subprocess.run(
            ["ros2", "security", "generate_artifacts", "-k", keystore, "-p", *files],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if made.returncode:
            last = (made.stderr.strip() or made.stdout.strip() or "it wrote nothing").splitlines()[-1]
            raise RuntimeError(f"ros2 security generate_artifacts failed: {last}")
    keystore.chmod(0o700)  # the certificate authority's private key is in it
    return [enclave(file.stem, namespace) for file in files]
