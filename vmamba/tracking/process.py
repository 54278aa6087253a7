"""Processes that a ``status.json`` names: one that is gone may have left its number to any other program."""

import os
from pathlib import Path

BOOT = Path("/proc/sys/kernel/random/boot_id")
START = 19  # of the fields behind the name in /proc/PID/stat: field 22, clock ticks since boot


def born(pid: int) -> str | None:
    """The boot and the time in it that a process of this machine started at; None where the system does not say."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # a name may hold blanks and brackets
        return f"{BOOT.read_text().strip()} {fields[START]}"
    except (OSError, IndexError):
        return None


def alive(status: dict) -> bool:
    """Whether the process that wrote ``status`` is there, on this machine.

    Without its start noted, or none to be had, any process of its number is taken for it.
    """
    pid, noted = status.get("pid"), status.get("born")
    if not pid or (noted and born(pid) not in (noted, None)):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
