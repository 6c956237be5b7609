"""One status of /diagnostics."""

from __future__ import annotations

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue


def status(name: str, warn: bool, message: str, values: dict, hardware: str = "franka") -> DiagnosticStatus:
    """A DiagnosticStatus; `values` are written as text."""
    level = DiagnosticStatus.WARN if warn else DiagnosticStatus.OK
    said = [KeyValue(key=k, value=f"{v:.4g}" if isinstance(v, float) else str(v)) for k, v in values.items()]
    return DiagnosticStatus(level=level, name=name, message=message, hardware_id=hardware, values=said)
