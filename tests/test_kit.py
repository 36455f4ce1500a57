"""The conformance kit itself: what it reports of losses that are wrong, and of wrong use."""

import functools
import json
import os
import re
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

import torchloss.functional as T
from torchloss import cli
from torchloss.testing import CHECKS, DTYPES, LOSSES, Problem, Unsupported, check_loss, inputs
from torchloss.testing.script import literal

FAST = ["values", "edges"]


def doubled_gradient(input, target, **options):
    """The value is right, the gradient twice as large."""
    y = F.mse_loss(input, target, **options)
    return 2 * y - y.detach()


def test_a_right_loss_passes():
    report = check_loss(F.mse_loss, "mse_loss", only=FAST)
    assert report and report.count("pass") >= 8 and not report.failures


def test_a_wrong_gradient_is_found_and_shown():
    report = check_loss(doubled_gradient, "mse_loss", only=["values"])
    assert not report
    assert {row.name for row in report.failures} >= {"gradient", "every_width"}
    row = next(row for row in report.rows if row.name == "gradient")
    assert row.outcome == "wrong" and "expected" in row.detail
    assert next(row for row in report.rows if row.name == "value").outcome == "pass"
    assert row.reproduction in str(report) and report.summary in str(report)


def run_script(code, tmp_path):
    (tmp_path / "wrong.py").write_text(code)
    command, env = [sys.executable, "wrong.py"], {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    return done.stdout + done.stderr


NUMBER = r"-?\d+\.\d*"
WRONG = """
import torch, torch.nn.functional as F

def wrong_value(input, target, **options):
    return F.cross_entropy(input, target, **options) + 1

def no_double_backward(input, target, **options):
    class Loss(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            with torch.enable_grad():
                y = F.cross_entropy(x_ := x.detach().requires_grad_(), target, **options)
            ctx.g, = torch.autograd.grad(y.sum(), x_)
            return y.detach()
        @staticmethod
        def backward(ctx, g):
            return ctx.g * g.sum()
    return Loss.apply(input)
"""


@pytest.mark.parametrize(
    "name, check",
    [
        ("wrong_value", "value"),
        ("no_double_backward", "second"),
        ("no_double_backward", "jvp"),
        ("wrong_value", "any_layout"),
        ("wrong_value", "masked_classes"),
    ],
)
def test_a_reproduction_runs_and_shows_the_failure(name, check, tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text(WRONG)
    monkeypatch.syspath_prepend(tmp_path)
    import my_losses

    (row,) = check_loss(getattr(my_losses, name), "cross_entropy", only=[check]).rows
    assert row.outcome in ("wrong", "raises")
    assert f"from my_losses import {name}" in row.reproduction
    printed = run_script(row.reproduction, tmp_path)
    shown = re.search(r"# is: +(raises )?(.*)", row.reproduction)
    if shown[1]:
        assert shown[2].split(":")[0] in printed, printed
    else:
        number = float(re.search(NUMBER, shown[2])[0])
        assert any(abs(float(n) - number) < 1e-3 for n in re.findall(NUMBER, printed)), (number, printed)


def test_every_large_reproduction_makes_the_same_inputs(tmp_path):
    (row,) = check_loss(doubled_gradient, "mse_loss", only=["the_same_bits_every_run"]).rows
    assert row.outcome == "pass"
    loss = next(loss for loss in LOSSES if loss.name == "mse_loss")
    a, b = (inputs(loss, (3, 50), torch.float32, "cpu", seed=3) for _ in range(2))
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_what_is_not_offered_does_not_apply():
    def no_options(input, target, reduction="mean"):
        if input.dim() != 2:
            raise Unsupported("two dimensions only")
        return F.cross_entropy(input, target, reduction=reduction)

    report = check_loss(no_options, "cross_entropy", only=["values", "torch.func"])
    row = next(row for row in report.rows if row.name == "value")
    assert row.outcome == "pass" and "two dimensions only" in row.detail and "label_smoothing" in row.detail
    assert next(row for row in report.rows if row.name == "gradient_of_the_target").outcome == "pass"


def test_stops_at_the_first_failure():
    report = check_loss(doubled_gradient, "mse_loss", stop_at_first_failure=True)
    assert len(report.failures) == 1 and report.rows[-1] is report.failures[0]


def test_only_some_dtypes():
    seen = set()

    def loss(input, target, **options):
        seen.add(input.dtype)
        return F.mse_loss(input, target, **options)

    report = check_loss(loss, "mse_loss", dtypes=[torch.float32], only=["values", "precision", "derivatives"])
    assert seen == {torch.float32} and report
    assert next(row for row in report.rows if row.name == "first").outcome == "not applicable"


@pytest.mark.parametrize("options", [{"like": "mse"}, {"like": "mse_loss", "only": ["valuess"]}])
def test_unknown_names(options):
    with pytest.raises(ValueError, match="is called 'mse'|is called 'valuess'"):
        check_loss(F.mse_loss, **options)


def test_torch_s_own_fail_what_they_are_known_to_fail():
    """torch's cross entropy rounds to 0 beyond a margin of 17; its chunked linear one has a silent tangent of 0."""
    rows = {row.name: row.outcome for row in check_loss(F.cross_entropy, "cross_entropy", only=["precision"]).rows}
    assert rows["exact_at_any_margin"] == "wrong" and rows["float32"] == "pass"
    if hasattr(F, "linear_cross_entropy"):
        from torchloss.testing.rivals import linear_cross_entropy

        only = ["value", "jvp", "second_backward", "second", "bfloat16"]
        report = check_loss(linear_cross_entropy, "cross_entropy", only=only)
        rows = {row.name: row.outcome for row in report.rows}
        assert rows["value"] == "pass" and rows["jvp"] == "wrong" and rows["bfloat16"] == "wrong"
        assert rows["second"] == "raises"


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["torchloss", "check", *arguments])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return stopped.value.code, *capsys.readouterr()


def test_the_command(tmp_path, monkeypatch, capsys):
    run, out = functools.partial(command, monkeypatch, capsys), tmp_path / "rows.json"
    code, printed, _ = run("torch.nn:MSELoss", "--like", "mse_loss", "--only", "value,float32", "--json", str(out))
    assert code == 0 and "2 passed, 0 failed" in printed
    assert [row["outcome"] for row in json.loads(out.read_text())["rows"]] == ["pass", "pass"]
    code, printed, _ = run("torch.nn.functional:cross_entropy", "--like=cross_entropy", "--only=exact_at_any_margin")
    assert code == 1 and "from torch.nn.functional import cross_entropy" in printed and "# should be:" in printed


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["mse_loss", "--like", "mse_loss"], "module:function"),
        (["nowhere:mse_loss", "--like", "mse_loss"], "no module is called 'nowhere'"),
        (["torch.nn:MSE", "--like", "mse_loss"], "has no attribute 'MSE'"),
        (["torch:pi", "--like", "mse_loss"], "not a function but a float"),
        (["torch.nn:MSELoss", "--like", "mse"], "no loss is called 'mse'"),
        (["torch.nn:MSELoss", "--like", "mse_loss", "--only", "x"], "no check or group"),
        (["torch.nn:MSELoss", "--like", "mse_loss", "--device", "tpu"], "--device"),
        (["torch.nn:MSELoss", "--like", "mse_loss", "--dtype", "int8"], "--dtype"),
        (["torch.nn:MSELoss", "--like", "mse_loss", "--json", "/nowhere/at/all.json"], "there is no folder"),
    ],
)
def test_refusals(arguments, says, monkeypatch, capsys):
    code, printed, error = command(monkeypatch, capsys, *arguments)
    assert code == 2 and says in error and not printed


def test_every_check_says_what_it_promises():
    for check in CHECKS.values():
        assert check.promise.endswith((".", ")")) and len(check.promise) < 110, check.name
    assert Problem(F.mse_loss, "mse_loss", ()).main == torch.float64
    assert T.__all__


@pytest.mark.parametrize(
    "view", [lambda x: x, lambda x: x.t(), lambda x: x[:1].expand(3, 4), lambda x: x[:, 1:3], lambda x: x[:0]]
)
@pytest.mark.parametrize("dtype", [*DTYPES, torch.int64], ids=str)
def test_a_tensor_as_code(view, dtype):
    """The same numbers in the same places."""
    x = view((torch.randn(3, 4, dtype=torch.float64) * 9).to(dtype)).requires_grad_(dtype.is_floating_point)
    same = eval(literal(x), {"torch": torch})
    assert torch.equal(x, same) and x.stride() == same.stride() and x.requires_grad == same.requires_grad
    assert x.dtype == same.dtype
