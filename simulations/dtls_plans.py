"""What a plan whose nodes speak DTLS cannot have, or one whose nodes do not.

Not responsible for plans otherwise (`plan`), nor for anything that runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from holloway.protocols.network_settings import Backend
from holloway.protocols.suites import AES_GCM
from holloway.simulations.faults import KINDS
from holloway.simulations.milestones import SOMETIMES

BACKENDS: Mapping[str, str] = {
    Backend.SESSION.value: "the session protocol",
    Backend.DTLS.value: "DTLS 1.2, with certificates",
}
OF_SESSIONS = ("handshake_flood", "false_reports", "bombs", "forge_pieces", "records_grow", "paths_are_wide")
"""Faults and promises that are about sessions, and would say nothing about DTLS."""


def dtls_problem(
    backend: str,
    *,
    suite: str,
    has_terms: bool,
    has_registry: bool,
    has_control: bool,
    kinds: Iterable[str],
    eventually: Iterable[str],
    sometimes: Iterable[str],
) -> str | None:
    """Why these do not go together, or None. `has_terms`: some nodes ask for plain text, or compress."""
    kinds, sometimes = list(kinds), list(sometimes)
    if backend == Backend.SESSION.value:
        wrong = [
            *(kind for kind in kinds if kind in KINDS and KINDS[kind].needs_dtls),
            *(name for name in sometimes if name in SOMETIMES and SOMETIMES[name].needs_dtls),
        ]
        return f'{", ".join(dict.fromkeys(wrong))}: only with backend = "dtls"' if wrong else None
    wrong = [word for word in (*kinds, *eventually) if word in OF_SESSIONS]
    if wrong:
        return f"{', '.join(dict.fromkeys(wrong))}: only sessions have that"
    if suite != AES_GCM.name or has_terms:
        return "over DTLS there is no other suite, no plain text, and nothing is compressed"
    if has_control:
        return "a control plane does not go over DTLS"
    if has_registry:
        return (
            "nodes that speak DTLS know each other by configuration here"  # an authority's signatures differ in length
        )
    return None
