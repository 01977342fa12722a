"""Peers in files of their own: a folder (`[node] peers_directory`) of configuration files that hold [[peer]] sections alone.

So the sections of one peer are put there and taken away as a whole, by programs, too. Not responsible for what the sections say.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from holloway.actors.config.documents import EXTENSIONS, Document, read_document
from holloway.actors.config.problems import ConfigProblems, KeyPath, Problem

SECTION = "peer"


def with_peer_files(document: Document, folder: Path) -> Document:
    """The document with the peers of the files in `folder` behind its own, in the order of the files' names. Without such a folder
    there are none."""
    try:
        files = sorted(each for each in folder.iterdir() if each.suffix.lower() in EXTENSIONS)
    except FileNotFoundError:
        return document
    except OSError as error:
        document.problems.append(_problem(folder, None, f"cannot be read: {error.strerror}", f"ls -ld {folder}"))
        return document
    own = document.tree.get(SECTION, [])
    if not isinstance(own, list):
        return document  # which is told elsewhere
    peers, lines, origins = list(own), dict(document.lines), dict(document.origins)
    for file in files:
        try:
            found = read_document(file)
        except ConfigProblems as error:
            document.problems.extend(error.problems)
            continue
        document.problems.extend(found.problems)
        for name in found.tree:
            if name != SECTION:
                what = f"[{name}] does not belong here"
                line = found.lines.get((name,))
                document.problems.append(_problem(file, line, what, f"only [[{SECTION}]] sections do"))
        sections = found.tree.get(SECTION, [])
        if not isinstance(sections, list):
            document.problems.append(_problem(file, None, "there may be several", f"write it as [[{SECTION}]]"))
            continue
        begin = len(peers)
        peers += sections
        origins |= dict.fromkeys(range(begin, len(peers)), file)
        lines |= {_moved(key, begin): line for key, line in found.lines.items() if _is_of_a_peer(key)}
    return replace(document, tree=document.tree | {SECTION: peers}, lines=lines, origins=origins)


def _is_of_a_peer(key: KeyPath) -> bool:
    return len(key) > 1 and key[0] == SECTION and isinstance(key[1], int)


def _moved(key: KeyPath, by: int) -> KeyPath:
    position = key[1]
    assert isinstance(position, int)
    return (SECTION, position + by, *key[2:])


def _problem(path: Path, line: int | None, what: str, fix: str) -> Problem:
    return Problem(path, line, "", what, fix)
