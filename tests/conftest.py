"""Fixtures, and in pytest's report what a test shows, where and for which losses: see tools/what_works_where.py."""

import pytest
import torch

from torchloss.testing import CHECKS

SHOWN = pytest.StashKey[set]()  # every capability that a collected test names


GROUPS = ("determinism", "autograd", "torch.func", "torch.compile")  # of the conformance kit: they are capabilities


def capability(item):
    """The name of what the test shows, or None: from its marker, or that of its conformance check."""
    marker = item.get_closest_marker("capability")
    if marker:
        return marker.args[0]
    if item.path.stem == "test_conformance":
        name = item.callspec.params["name"]
        return name.replace("_", " ") if CHECKS[name].group in GROUPS else None
    return None


def losses(item):
    """The rows of the table of losses that the test runs: its marker's, or its parameters."""
    marker = item.get_closest_marker("capability")
    if marker and "losses" in marker.kwargs:
        return marker.kwargs["losses"]
    return [p for p in item.callspec.params.values() if is_loss(p)] if hasattr(item, "callspec") else []


def is_loss(parameter):
    return hasattr(parameter, "family") and hasattr(parameter, "op")


def device(item):
    named = item.callspec.id.split("-") if hasattr(item, "callspec") else []
    return "cuda" if "cuda" in named or item.get_closest_marker("cuda") else "cpu"


@pytest.hookimpl(tryfirst=True)  # before `-m capability` chooses
def pytest_collection_modifyitems(config, items):
    # First, so that one worker gets them all: torch's samples take ten seconds to make.
    items.sort(key=lambda item: item.path.name != "test_torch_infos.py")
    shown = config.stash.setdefault(SHOWN, set())
    for item in items:
        name = capability(item)
        if name:
            shown.add(name)
            if not item.get_closest_marker("capability"):
                item.add_marker(pytest.mark.capability(name))
            item.user_properties += [("capability", name), ("device", device(item))]
            item.user_properties += [("loss", str(loss)) for loss in losses(item)]


@pytest.fixture
def shown_capabilities(pytestconfig):
    return pytestconfig.stash[SHOWN]


@pytest.fixture
def one_thread():
    """The processes of the tests share the cores; checks about threads set their own number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
