"""The promises about files of a control plane. Not responsible for when they are asked (`control_files`)."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from holloway.protocols.control_plane.file_messages import WINDOW
from holloway.protocols.control_plane.file_receiver import Receiver
from holloway.protocols.control_plane.file_service import FileLimits, FileService


@dataclass(frozen=True, slots=True)
class Transfers:
    """What has not ended: of the clients, and at the broker."""

    of_clients: tuple[str, ...]
    at_broker: int


def files_are_written_in_order(there: int, offset: int, name: str) -> str | None:
    """What is written of a file is always its beginning, so that it can go on from there."""
    return f"{name} has {there} bytes and gets some at {offset}" if there != offset else None


def files_are_what_was_offered(is_same: bool, name: str) -> str | None:
    """Whatever gets its name is byte for byte what was offered under it, however often it was cut and resumed."""
    return f"{name} is not what was offered" if not is_same else None


def finished_files_are_safe(is_stored: bool, name: str) -> str | None:
    """Who is told that his file has arrived can forget it: it is on the disk of the broker."""
    return f"{name} is said to have arrived, and never was stored" if not is_stored else None


def nodes_read_what_they_sync(may_read: bool, node: str, name: str) -> str | None:
    """A node begins to read only what a job tells it to sync, that was sent to it and is neither over there nor cancelled."""
    return f"{node} reads {name}, which nothing tells it to sync" if not may_read else None


def nodes_put_nothing(who: str, operators: Collection[str], name: str) -> str | None:
    """Only operators put files."""
    return f"{who} puts {name}" if who not in operators else None


def transfers_are_bounded(service: FileService, limits: FileLimits, receivers: Iterable[Receiver]) -> str | None:
    """There are no more transfers than may be, and none asks for more than a window."""
    if len(service) > limits.max_transfers:
        return f"{len(service)} transfers are under way"
    wide = next((each for each in receivers if len(each._asked) + len(each._early) > WINDOW), None)
    return f"{len(wide._asked)} chunks are asked for at once" if wide is not None else None


def transfers_are_over(transfers: Transfers) -> str | None:
    """Every transfer has ended, on both sides."""
    if transfers.of_clients:
        return f"the transfer of {transfers.of_clients[0]} has not ended"
    return f"{transfers.at_broker} transfers have not ended at the broker" if transfers.at_broker else None


FILES_ALWAYS = (
    files_are_written_in_order,
    files_are_what_was_offered,
    finished_files_are_safe,
    nodes_read_what_they_sync,
    nodes_put_nothing,
    transfers_are_bounded,
)
