"""The exit codes of the `holloway` command: a promise to scripts. Not responsible for choosing one."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the shell sees. 124 and 130 are the shell's own conventions (timeout(1), death by SIGINT)."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    CONFIG = 4
    PARTIAL = 5
    OUTPUT = 74
    PERMISSION = 77
    TIMEOUT = 124
    INTERRUPTED = 130
