"""Real data that needs no download: scikit-learn's bundled tables and the text of Python's own help."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor


class Split(NamedTuple):
    """Rows to train on and rows held back."""

    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor


def split(inputs: Tensor, targets: Tensor, train: int, seed: int) -> Split:
    """The first `train` rows of a random order for training, the rest for testing."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    seen, unseen = order[:train], order[train:]
    return Split(inputs[seen], targets[seen], inputs[unseen], targets[unseen])


@cache
def digits(seed: int) -> Split:
    """1797 handwritten digits of 8 x 8 pixels in [-1/2, 1/2]: 1437 to train on, 360 to test."""
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return split(torch.tensor(pixels, dtype=torch.float32) / 16 - 0.5, torch.tensor(labels), 1437, seed)


def diabetes(seed: int) -> Split:
    """442 patients, 10 measurements and the disease a year later; all columns with mean 0 and deviation 1."""
    from sklearn.datasets import load_diabetes

    table, progress = (torch.tensor(column, dtype=torch.float32) for column in load_diabetes(return_X_y=True))
    return split(standard(table), standard(progress), 332, seed)


def standard(columns: Tensor) -> Tensor:
    """Shifted to mean 0, scaled to standard deviation 1."""
    return (columns - columns.mean(0)) / columns.std(0)


def topics() -> tuple[Tensor, Tensor]:
    """The bytes of Python's help topics, English prose: the first 90 % to train on, the last 10 % to test."""
    from pydoc_data.topics import topics as texts

    text = "\n".join(texts[name] for name in sorted(texts)).encode()
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    cut = len(data) * 9 // 10
    return data[:cut], data[cut:]
