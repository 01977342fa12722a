"""What `status` and `routes` tell of a gateway that is not what was asked for. Not responsible for asking the daemon."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from holloway.cli.plain_text import one_line

if TYPE_CHECKING:
    from holloway.cli.answers import GatewayStatus

_HOW = {"absent": "is not there", "unwilling": "offers no default route", "down": "is down"}


def warn_of_gateway(gateway: GatewayStatus | None) -> None:
    """What keeps the gateway from being what was asked for is told on stderr."""
    if gateway is None:
        return
    if gateway.problem is not None:
        print(f"warning: {one_line(gateway.problem)}", file=sys.stderr)
    how = _HOW.get(gateway.state or "")
    if how is not None and gateway.through is not None:
        lost = "what is for no nearer network is dropped, and does not leave in another way"
        print(f"warning: the gateway {one_line(gateway.through)} {how}: {lost}", file=sys.stderr)
