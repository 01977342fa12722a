"""What every test has: the Hypothesis profiles and the skips for what a machine may lack.

Not responsible for namespaces themselves, which `namespaces` makes.
"""

from __future__ import annotations

import shutil

import pytest
from hypothesis import settings
from namespaces import why_not

# `ci` makes a run repeatable and is the default; `--hypothesis-profile=random` looks for new examples.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
settings.register_profile("random", deadline=None, print_blob=True)
settings.load_profile("ci")


def pytest_configure(config: pytest.Config) -> None:
    """Name the markers, of which `--strict-markers` accepts no others."""
    config.addinivalue_line("markers", "needs_namespaces: makes network namespaces and TUN devices (root)")
    config.addinivalue_line("markers", "needs_program(name, package): runs an installed program")


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whoever needs the kernel or a program is an integration test; those run one after the other, in one worker."""
    for item in items:
        if item.get_closest_marker("needs_namespaces") or item.get_closest_marker("needs_program"):
            item.add_marker("integration")
            item.add_marker(pytest.mark.xdist_group("integration"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip with a reason that says how to get what is missing."""
    if item.get_closest_marker("needs_namespaces") and (reason := why_not()):
        pytest.skip(reason)
    for marker in item.iter_markers("needs_program"):
        if shutil.which(marker.args[0]) is None:
            pytest.skip(f"{marker.args[0]} is not installed: sudo apt-get install {marker.kwargs['package']}")
