"""What the owner of a network decides: `release`, `network` and `authority`, as scripts use them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from node_world import validate

from holloway.actors.authority_files import AuthorityFiles
from holloway.actors.state_directory import StateDirectory

Holloway = Callable[..., Any]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def owner(holloway: Holloway, state: Path) -> tuple[str, str]:
    """A network with an authority; the words that name its state."""
    words = ("--state", str(state))
    assert holloway("init", "home", "--name", "a", *words).code == 0
    return words


@pytest.fixture
def site(holloway: Holloway, tmp_path: Path) -> Callable[[str], tuple[str, str]]:
    """Nodes of a network whose store is believed; the words that name the state of each."""

    def node(name: str) -> tuple[str, str]:
        words = ("--state", str(tmp_path / name))
        registry = f"sqlite://{tmp_path / 'net.db'}"
        assert holloway("init", "home", "--trust", "store", "--registry", registry, "--name", name, *words).code == 0
        return words

    return node


# Letting go.


def test_a_node_or_an_address_is_let_go_by_the_authority_that_gave_it(
    holloway: Holloway, owner: tuple[str, str], state: Path, tmp_path: Path, let_in: Callable[..., None]
) -> None:
    for name in ("b", "c"):
        let_in(owner, name)
    assert "node b is let go" in holloway("release", "b", *owner).err
    assert "node c is let go" in holloway("release", "10.99.4.3", *owner).err
    assert list(AuthorityFiles(StateDirectory(state), "home", bytes).standing().nodes) == ["a"]
    assert holloway("release", "b", *owner).error[0] == "no node b is in network home"
    assert holloway("release", "10.99.4.9", *owner).error[1] == "nobody has it"
    assert holloway("release", "a", *owner).error[1] == "it is this node"
    assert holloway("release", "10.99.4.1", *owner).error[1] == "it is this node's"
    assert holloway("release", "b", "--state", str(tmp_path / "c")).error[0].endswith("holds no authority")


def test_where_the_store_is_believed_any_node_lets_go_of_one_that_is_not_up(
    holloway: Holloway, site: Callable[[str], tuple[str, str]]
) -> None:
    a, _, _ = site("a"), site("b"), site("c")
    assert "10.99.4.2 of node b is let go, and rests for 3600 s" in holloway("release", "b", *a).err
    assert "10.99.4.3 of node c is let go" in holloway("release", "10.99.4.3", *a).err
    assert holloway("release", "b", *a).error[1] == "no machine holds it"
    assert holloway("revoke", "b", *a).error[2] == "holloway release NODE"
    token = holloway("invite", *a).out.strip()
    assert "10.99.4.4" in holloway("join", token, "--name", "b", *(a[0], a[1] + "x")).err, (
        "the name is free, the address rests"
    )


# Settings.


def test_settings_are_shown_and_changed_where_they_may_be(
    holloway: Holloway, owner: tuple[str, str], site: Callable[[str], tuple[str, str]], tmp_path: Path
) -> None:
    a = site("x")
    for words in (owner, a):
        document = holloway("network", "--json", *words).document
        validate("network", document)
        assert (document["settings"]["lease_s"], document["settings"]["number"]) == (172_800, 1)
        outcome = holloway("network", "--rest", "2d", "--static-range", "none", *words)
        assert outcome.code == 0
        assert [
            line.split() for line in outcome.out.splitlines() if line.startswith(("rest_s", "static", "number"))
        ] == [
            ["number", "2"],
            ["static_range", "none"],
            ["rest_s", "172800"],
        ]
        assert holloway("network", "--json", *words).document["settings"]["rest_s"] == 172_800
    assert holloway("network", "--lease", "3d", "--json", *a).document["settings"]["lease_s"] == 3 * 86_400
    assert holloway("network", "--lease", "3d", *owner).error[0] == "--lease would change nothing"
    assert (
        holloway("network", "--floating-range", "10.7.0.0/24", *owner).error[0].startswith("floating_range 10.7.0.0/24")
    )
    assert holloway("network", "--floating-range", "10.7.0.0", "--rest", "never", *owner).code == 2
    holloway("init", "p", "--trust", "pinned", "--address", "10.99.0.1", "--state", str(tmp_path / "p"))
    assert holloway("network", "--state", str(tmp_path / "p")).error[0] == "this node has no registry"


# Another authority.


def test_an_authority_is_followed_by_another_once_everybody_has_come_along(
    holloway: Holloway, owner: tuple[str, str], state: Path, tmp_path: Path, let_in: Callable[..., None]
) -> None:
    let_in(owner, "b")
    before = holloway("authority", "list", "--json", *owner).document
    validate("authority-list", before)
    assert [each["nodes"] for each in before["authorities"]] == [["a", "b"]]
    assert holloway("authority", "rollover", "--finish", *owner).error[0] == "no authority follows another"
    assert holloway("authority", "rollover", "--leave-behind", *owner).code == 2
    outcome = holloway("authority", "rollover", *owner)
    assert outcome.code == 0
    assert f"holloway authority rollover --finish --state {state}" in outcome.err
    overlap = holloway("authority", "list", "--json", *owner).document
    assert [each["issues"] for each in overlap["authorities"]] == [False, True]
    assert "is followed" in holloway("authority", "list", *owner).out
    for words in ((), ("--leave-behind",)):
        refused = holloway("authority", "rollover", "--finish", *words, *owner)
        assert refused.error[0] == "it is too early to trust the new authority alone"
        assert refused.error[1].endswith("a, b")
        assert "start this node, a" in refused.error[2]
    assert holloway("authority", "rollover", *owner).error[0] == "another authority follows this one already"
    let_in(owner, "c")
    now = holloway("authority", "list", "--json", *owner).document["authorities"]
    assert [each["nodes"] for each in now] == [["a", "b"], ["c"]]
    assert holloway("authority", "list", "--state", str(tmp_path / "c")).code == 1


def test_a_network_without_an_authority_says_so(
    holloway: Holloway, site: Callable[[str], tuple[str, str]], tmp_path: Path
) -> None:
    assert holloway("authority", "list", *site("a")).error[0] == "this network has no authority"
    assert holloway("authority", "collect", *site("b")).error[0] == "this network has no authority"
    out = ("--out", str(tmp_path / "out"))
    assert holloway("network", "--rest", "2h", *out, *site("c")).error[0] == "nothing can be published by file"
    assert not (tmp_path / "out").exists()
