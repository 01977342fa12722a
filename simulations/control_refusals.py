"""What refusals of a simulated control plane are milestones, and what is counted without being one.

Not responsible for refusing (`holloway.protocols.control_plane`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from holloway.protocols.control_plane.broker import (
    FOREIGN_JOB,
    NO_KEY,
    NOT_POSSIBLE,
    NOT_REGISTERED,
    OTHER_NAME,
    TOO_MANY,
    WRONG_SENDER,
)
from holloway.protocols.control_plane.file_service import BUSY as FILE_BUSY
from holloway.protocols.control_plane.file_service import TOO_MANY as TOO_MANY_FILES

NO_REFUSALS: Final = ("control_forgotten_job", NOT_REGISTERED, "control_bad_record", "file_no_transfer")
"""What is counted without being refused."""
PLACES: Final[Mapping[str, str]] = {
    NO_KEY: "node_refused",
    WRONG_SENDER: "node_refused",
    FOREIGN_JOB: "node_refused",
    OTHER_NAME: "stolen_key_refused",
    TOO_MANY: "flood_refused",
    NOT_POSSIBLE: "nobody_meant",
    FILE_BUSY: "file_refused",
    TOO_MANY_FILES: "file_refused",
}
"""The milestone of a refusal, by its reason; of all others it is that of rubbish."""
