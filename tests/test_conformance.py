"""The conformance kit, put to torchloss's own losses."""

import pytest

import torchloss.functional
from torchloss.testing import CHECKS, Problem
from torchloss.testing.losses import DEVICES, FEW, LOSSES

pytestmark = pytest.mark.usefixtures("one_thread")


def cases():
    for device in DEVICES:
        for name, check in CHECKS.items():
            rows = FEW if check.group == "torch.compile" else LOSSES  # it takes long
            for loss in {row.name: row for row in rows}.values() if check.row_each else rows:
                marks = pytest.mark.slow if check.slow else ()
                yield pytest.param(device, name, loss, id=f"{device}-{name}-{loss}", marks=marks)


@pytest.mark.parametrize("device, name, loss", list(cases()))
def test_check(device, name, loss):
    problem = Problem(getattr(torchloss.functional, loss.name), loss.name, (loss,), device)
    for row in CHECKS[name].run(problem):
        assert row.outcome in ("pass", "not applicable"), f"{row.detail} [{row.where}]\n\n{row.reproduction}"
