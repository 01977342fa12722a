"""Configurations of applications: a YAML file each, below the broker's files, which nodes may be told to sync.

A text is known by its revision, the SHA-256 of it: who replaces one says which he has read, and is refused when another one is there.
Every function blocks for as long as the disk does. Not responsible for who may.
"""

from __future__ import annotations

import os
from pathlib import Path

from holloway.actors.control_plane.file_store import measure, replace_small
from holloway.actors.control_plane.yaml_check import require_yaml
from holloway.protocols.control_plane.fields import NAME
from holloway.protocols.control_plane.wire import MAX_BODY_BYTES
from holloway.protocols.errors import LocalError, PortError

NO_REVISION = "none"
"""Of an application that has no configuration."""


def parts_of(application: str) -> tuple[str, ...]:
    """Where the configuration is, below the broker's files. Raises LocalError for what is no name."""
    if not NAME.match(application):
        raise LocalError(
            f"{application[:63]!r} is no application", "a name has letters, digits, dots, hyphens and underscores"
        )
    return ("applications", application, "config.yml")


def read_configuration(files: Path, application: str) -> tuple[bytes, str]:
    """The text and its revision; an application that has none has an empty one. Raises LocalError, PortError."""
    try:
        found = measure(files, parts_of(application))
    except FileNotFoundError:
        return b"", NO_REVISION
    except OSError as error:
        raise _refused(application, error) from error
    try:
        if found.size > MAX_BODY_BYTES:
            raise LocalError(f"the configuration of {application} is too large", f"it has {found.size} bytes")
        return os.pread(found.descriptor, MAX_BODY_BYTES, 0), found.sha256
    finally:
        os.close(found.descriptor)


def write_configuration(files: Path, application: str, text: bytes, revision: str) -> str:
    """Replace the text of that revision; the new revision. Raises LocalError for what is no YAML, and when another text is there."""
    require_yaml(text)
    _, now = read_configuration(files, application)
    if now != revision:
        raise LocalError(
            f"the configuration of {application} is another one now",
            "somebody has changed it since it was read",
            "what you wrote is not lost: edit again, and bring both together",
        )
    try:
        replace_small(files, parts_of(application), text)
    except OSError as error:
        raise _refused(application, error) from error
    return read_configuration(files, application)[1]


def _refused(application: str, error: OSError) -> PortError:
    why = error.strerror or str(error)
    return PortError(f"the configuration of {application} cannot be used", why, "see the folder applications there")
