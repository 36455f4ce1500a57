"""The benchmark measures what it says, and refuses what it cannot do."""

import json
import subprocess
import sys

import pytest
import torch

from torchloss.testing.losses import DEVICES

pytest.importorskip("rich")
pytest.importorskip("typer")

from torchloss.bench import cases, harness  # noqa: E402


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", [c for c in cases.FULL if torch.Size(c.shape).numel() < 1e5], ids=str)
def test_a_case(case, device):
    timing = harness.measure(case, torch.float32, device, seconds=0.01)
    assert 0 < timing.torchloss_ms[0] <= timing.torchloss_ms[1] <= timing.torchloss_ms[2]
    assert timing.torch_error < 1e-5 and timing.torchloss_error < 1e-6
    assert timing.speedup == pytest.approx(timing.torch_ms[1] / timing.torchloss_ms[1])


def test_steps_take_turns():
    order = []
    steps = {name: lambda name=name: order.append(name) or sum(range(300_000)) for name in "ab"}
    times = harness.interleaved(steps, "cpu", seconds=0.01)
    assert len(times["a"]) == len(times["b"]) >= 7
    assert order == ["a", "b"] * (len(order) // 2)


def test_the_error_is_that_of_the_gradient():
    exact = torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert harness.error(torch.tensor([1.0, -1.5]), exact) == 0.25


def bench(*options):
    command = [sys.executable, "-m", "torchloss", "bench", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("options", [("--dtype", "int8"), ("--device", "tpu"), ("--json", "/nowhere/at/all.json")])
def test_refusals(options):
    result = bench("--quick", *options)
    assert result.returncode == 2 and options[0] in result.stderr and "Traceback" not in result.stderr


@pytest.mark.slow
def test_the_command(tmp_path):
    out = tmp_path / "bench.json"
    result = bench("--quick", "--device", "cpu", "--json", str(out))
    assert result.returncode == 0 and "cross_entropy" in result.stdout
    assert len(json.loads(out.read_text())["timings"]) == len(cases.QUICK)
