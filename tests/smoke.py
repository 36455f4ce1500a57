"""A minute's check that a built torchloss works in the PyTorch at hand; needs nothing but torch.

    python tests/smoke.py

Three losses, forward and backward, in float64, against torch.nn.functional. Prints OK, or raises.
"""

import importlib.metadata

import torch

import torchloss
import torchloss.functional


def compare(name: str, inputs: torch.Tensor, target: torch.Tensor, **options) -> None:
    """Value and gradients of one loss against PyTorch's, for every reduction and a random upstream gradient."""
    for reduction in ("none", "mean", "sum"):
        results = []
        for functional in (torch.nn.functional, torchloss.functional):
            leaves = [x.clone().requires_grad_(x.is_floating_point()) for x in (inputs, target)]
            loss = getattr(functional, name)(*leaves, reduction=reduction, **options)
            torch.manual_seed(1)
            loss.backward(torch.randn_like(loss))
            results.append([loss.detach(), *(x.grad for x in leaves if x.requires_grad)])
        for theirs, ours in zip(*results, strict=True):
            error = (ours - theirs).abs().max().item()
            assert error < 1e-12, f"{name}, reduction={reduction!r}, {options}: differs by {error}"


def main() -> None:
    torch.manual_seed(0)
    x, t = torch.randn(2, 7, 33, dtype=torch.float64)
    classes = torch.randint(33, (7,))
    classes[2] = -100  # ignored
    compare("mse_loss", x, t)
    compare("huber_loss", x, t, delta=0.7)
    compare("cross_entropy", x, classes)
    compare("cross_entropy", x, classes, weight=torch.rand(33, dtype=torch.float64), label_smoothing=0.1)
    compare("cross_entropy", x, t.softmax(1))
    for metadata in importlib.metadata.distributions(name="torchloss"):  # none where it is used without being installed
        assert metadata.version == torchloss.__version__, f"installed as version {metadata.version}"
    print(f"OK: torchloss {torchloss.__version__} in torch {torch.__version__}, from {torchloss.__file__}")


if __name__ == "__main__":
    main()
