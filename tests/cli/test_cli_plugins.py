"""Verbs that packages bring, against a broker and agents that have the same packages: the sample, and those that are broken."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from control_thread import Plane
from plugin_packages import TOLD, install_odd_ones, install_sample

from holloway.actors.control_plane.installed_plugins import load_plugins
from holloway.cli.verbs import VERBS


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packages")
    install_sample(folder)
    install_odd_ones(folder)
    return folder


@pytest.fixture(scope="module")
def plane(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(packages)
        plane = Plane(tmp_path_factory.mktemp("plane"), plugins=load_plugins(VERBS))
        plane.start()
        yield plane
        plane.stop()


@pytest.fixture
def ask(
    plane: Plane, packages: Path, holloway: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    """Runs a verb with an admin's key; what the sample runs is a stand-in."""
    monkeypatch.setenv("HOLLOWAY_COOKBOOK_PROGRAM", str(packages / "chef-solo"))
    plane.settle()
    return holloway


def test_those_that_are_broken_are_told_and_the_others_work(ask: Callable[..., Any], plane: Plane) -> None:
    problems = plane.world.plugins.problems
    assert len(problems) == len(TOLD)
    for told in TOLD:
        assert [each for each in problems if each.startswith(told)], told
    assert sorted(plane.world.plugins.found) == ["cookbook", "good"]
    assert ask("good", "run", "-t", "web1").out == "run by a plugin\n"
    assert "'caller': 'client-" in ask("good", "ask", "rows").out
    broken = ask("broken")
    assert (broken.code, broken.error[0]) == (1, "the plugin broken cannot be loaded")
    comma = ask("comma")
    assert (comma.code, comma.error[0]) == (1, "the plugin comma is not what it says")
    shown = ask("--help").out
    assert re.search(r"^  \(damaged\) +the entry points of damaged 1\.0 cannot be read", shown, re.MULTILINE)
    assert re.search(r"^  good +of good 1\.0$", shown, re.MULTILINE)
    assert re.search(r"^  twice +of one 1\.0, two 1\.0: two of one name", shown, re.MULTILINE)


def test_the_sample_uploads_lists_syncs_and_runs_a_bundle(ask: Callable[..., Any]) -> None:
    bundle = Path("nginx")
    bundle.mkdir()
    (bundle / "recipe").write_text("listen 80\n")
    assert ask("cookbook", "upload", "nginx").code == 0
    assert ask("cookbook", "list").out == "nginx: 1 files\n"
    ran = ask("cookbook", "run", "nginx")
    assert ran.code == 0, ran.out + ran.err
    lines = ["web1 web2: ok", "  cookbooks/nginx: 1 brought, 0 removed, 0 as they were", "  chef-solo -c -j"]
    assert ran.out.splitlines() == [*lines, "  recipe[nginx]", "  listen 80"]
    # One job of two steps has one answer, and the second step waits for the first to be ok.
    (bundle / "recipe").write_text("listen 81\n")
    assert ask("cookbook", "upload", "nginx").code == 0
    [result] = ask("cookbook", "run", "-t", "web1", "--json", "nginx").document["results"]
    assert (result["state"], result["rc"]) == ("ok", 0)
    assert result["stdout"].endswith("listen 81\n")
    missing = ask("cookbook", "run", "-t", "web1", "--json", "apache")
    [result] = missing.document["results"]
    assert (missing.code, result["state"], result["stdout"]) == (1, "failed", "")
    assert "no folder cookbooks/apache" in result["error"]
