"""Calls a library of the CPU's loops under another name, and compares it with the one that is installed.

    python tests/loop_battery.py LIBRARY FAMILY     exit code 1, and FAILED, at the first number that differs

Lengths and layouts are those that a loop treats apart: a tail, several chunks, a row per lane, rows too long for the
cached exponentials, gradients over their inputs.
"""

import sys
import traceback

import test_emulated_cuda as ops_of
import torch

import torchloss

NAME = "torchloss_mutant"  # the namespace of its ops
SHAPES = ((1, 1), (6, 3), (70, 10), (41, 130), (5, 33), (2, 1021), (3, 2048))


def rows(library):
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES:
            torch.manual_seed(0)
            x = (torch.randn(shape) * 4).to(dtype)
            for y in (x - 20, *ops_of.layouts(x)):  # whose exponentials are larger than the logits, first
                calls(library, y, dtype)
    calls(library, torch.randn(1, 300_000), torch.float32, few=True)
    x = torch.linspace(0, -1, 1 << 20).view(1, -1)
    values = {"input": x, "target": torch.tensor([7]), "dim": 1, "ignore_index": -100, "reduction": ops_of.SUM}
    loss = ops_of.call(library, "cross_entropy", values)[0].double()
    exact = torch.nn.functional.cross_entropy(x.double(), values["target"])
    assert abs(loss / exact - 1) < 3e-7, "a long sum drifts"


def calls(library, x, dtype, few=False):
    for name, values in ops_of.row_calls(x, dtype):
        if name in ("cross_entropy", "kl_div_with_logits") and not (few and values.get("label_smoothing")):
            ops_of.check_row_loss(library, name, values, dtype, (ops_of.NONE, ops_of.MEAN))
            if not few or name == "cross_entropy":
                weights = ops_of.weights_of_rows(x.shape[0], dtype)
                for row_weight in (None, weights):
                    ops_of.check_gradient_in_forward(library, name, values | {"row_weight": row_weight}, dtype)


def points(library):
    for dtype in (torch.float32, torch.bfloat16):
        for shape in ((1, 1), (3, 5), (70, 10), (130, 257)):
            torch.manual_seed(0)
            for x in ops_of.layouts(torch.randn(shape).to(dtype)):
                t, wide = torch.randn(shape).to(dtype), torch.promote_types(dtype, torch.float32)
                for w in (None, torch.rand(shape).to(dtype), torch.rand(shape[1]).to(dtype).expand(shape)):
                    values = {"input": x, "target": t, "weight": w, "delta": 0.7}
                    for reduction in (ops_of.NONE, ops_of.MEAN, ops_of.SUM):
                        ops_of.check(library, "huber_loss", values | {"reduction": reduction}, dtype)
                    for grad in (torch.tensor(0.7, dtype=wide), torch.randn(shape).to(dtype)):
                        for more in ({}, {"target_grad": True}, {"count": 7.0}):
                            values["grad"] = grad
                            ops_of.check(library, "huber_loss_backward", values | more, dtype)


if __name__ == "__main__":
    assert torchloss  # has loaded its library
    torch.set_num_threads(1)
    torch.ops.load_library(sys.argv[1])
    try:
        {"rows": rows, "points": points}[sys.argv[2]](getattr(torch.ops, NAME))
    except AssertionError:
        traceback.print_exc(limit=-2)
        print("FAILED")
        sys.exit(1)
