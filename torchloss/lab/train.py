"""(a, b) Train one model side by side with each library's loss, from the same weights on the same batches.

The graph is cut at the model's output: the loss runs forward and backward on its own, and its gradient is then handed
to the model. That is the chain rule written out, changes no number, and lets the loss be timed apart from the model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter
from types import ModuleType

import torch
from torch import Tensor, nn

from torchloss.lab import data

TORCH, OURS, NUDGED = "torch.nn", "torchloss", "torch.nn from weights one rounding step away"
Track = Callable[[Sequence, str], Iterable]
Batch = tuple[Tensor, Tensor]


@dataclass
class Run:
    """One training: the loss of every step, where the time of every step went (seconds), the score on unseen data."""

    losses: list[float] = field(default_factory=list)
    step: list[float] = field(default_factory=list)
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    score: float = math.nan

    def loss_seconds(self) -> float:
        """Median time of the loss in a step, forward and backward."""
        return median(f + b for f, b in zip(self.forward, self.backward, strict=True))

    def loss_share(self) -> float:
        """Median share of the loss in the time of a step."""
        return median((f + b) / s for f, b, s in zip(self.forward, self.backward, self.step, strict=True))

    def final_loss(self) -> float:
        """Mean of the last tenth of the steps."""
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(tail) / len(tail)

    def largest_difference(self, other: Run) -> float:
        """The largest distance between the two loss curves."""
        return max(abs(a - b) for a, b in zip(self.losses, other.losses, strict=True))


@dataclass
class Contender:
    """A model of its own, the loss that trains it, and what became of it."""

    model: nn.Module
    loss: nn.Module
    optimiser: torch.optim.Optimizer
    run: Run = field(default_factory=Run)


def contenders(
    libraries: dict[str, ModuleType], make: Callable[[], nn.Module], adam: float, seed: int
) -> dict[str, Contender]:
    """One contender per library from the same weights, and a control that differs from torch.nn by rounding only."""
    result = {}
    for name in (TORCH, OURS, NUDGED):
        torch.manual_seed(seed)
        model = make()
        if name == NUDGED:
            nudge(model)
        loss = libraries.get(name, libraries[TORCH]).CrossEntropyLoss()
        result[name] = Contender(model, loss, torch.optim.Adam(model.parameters(), adam))
    return result


@torch.no_grad()
def nudge(model: nn.Module) -> None:
    """Move every weight to the next larger floating point number."""
    for weights in model.parameters():
        weights.copy_(torch.nextafter(weights, torch.full_like(weights, torch.inf)))


def train(fighters: dict[str, Contender], batches: Iterable[Batch]) -> None:
    """Give every contender every batch; who goes first changes from step to step, so that none has the warmer cache."""
    order = list(fighters.values())
    for inputs, targets in batches:
        for fighter in order:
            step(fighter, inputs, targets)
        order.append(order.pop(0))


def step(fighter: Contender, inputs: Tensor, targets: Tensor) -> None:
    """One update of the weights, timed."""
    start = perf_counter()
    fighter.optimiser.zero_grad()
    output = fighter.model(inputs)
    logits = output.detach().requires_grad_()
    before = perf_counter()
    loss = fighter.loss(logits, targets)
    between = perf_counter()
    loss.backward()
    after = perf_counter()
    output.backward(logits.grad)
    fighter.optimiser.step()
    run = fighter.run
    run.step.append(perf_counter() - start)
    run.forward.append(between - before)
    run.backward.append(after - between)
    run.losses.append(loss.item())


def classifier() -> nn.Module:
    """A two-layer network for 8 x 8 pixels and ten digits."""
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def digits(libraries: dict[str, ModuleType], steps: int, seed: int, track: Track) -> dict[str, Run]:
    """(a) The classifier on digits; the score is the share of unseen digits it reads rightly."""
    rows = data.digits(seed)
    draw = torch.Generator().manual_seed(seed)
    fighters = contenders(libraries, classifier, 3e-3, seed)

    def batches() -> Iterable[Batch]:
        for _ in track(range(steps), "(a) digits"):
            pick = torch.randint(len(rows.inputs), (64,), generator=draw)
            yield rows.inputs[pick], rows.targets[pick]

    train(fighters, batches())
    for fighter in fighters.values():
        with torch.no_grad():
            right = fighter.model(rows.test_inputs).argmax(1) == rows.test_targets
        fighter.run.score = right.float().mean().item()
    return {name: fighter.run for name, fighter in fighters.items()}


CONTEXT, LENGTH = 12, 64


class ByteModel(nn.Module):
    """A language model over bytes (Bengio et al. 2003): the last 12 embedded, a hidden layer, logits for the next."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, 24)
        self.hidden = nn.Linear(24 * CONTEXT, 192)
        self.head = nn.Linear(192, 256)

    def forward(self, text: Tensor) -> Tensor:
        """(rows, CONTEXT - 1 + length) bytes to (rows * length, 256) logits."""
        contexts = self.embed(text).unfold(1, CONTEXT, 1).flatten(2)
        return self.head(torch.tanh(self.hidden(contexts))).flatten(0, 1)


def windows(text: Tensor, starts: Tensor) -> Batch:
    """Pieces of the text with the context before them, and the byte after each position, which is to be predicted."""
    pieces = torch.stack([text[start : start + CONTEXT + LENGTH] for start in starts.tolist()])
    return pieces[:, :-1], pieces[:, CONTEXT:].flatten()


def text(libraries: dict[str, ModuleType], steps: int, seed: int, track: Track) -> tuple[dict[str, Run], str]:
    """(b) The byte model on English; the score is bits per unseen byte. Also what the torchloss model writes."""
    train_text, test_text = data.topics()
    draw = torch.Generator().manual_seed(seed)
    fighters = contenders(libraries, ByteModel, 3e-3, seed)

    def batches() -> Iterable[Batch]:
        for _ in track(range(steps), "(b) text"):
            yield windows(train_text, torch.randint(len(train_text) - CONTEXT - LENGTH, (16,), generator=draw))

    train(fighters, batches())
    unseen = windows(test_text, torch.arange(0, len(test_text) - CONTEXT - LENGTH, LENGTH)[:512])
    for fighter in fighters.values():
        with torch.no_grad():
            fighter.run.score = fighter.loss(fighter.model(unseen[0]), unseen[1]).item() / math.log(2)
    return {name: fighter.run for name, fighter in fighters.items()}, write(fighters[OURS].model, seed)


@torch.no_grad()
def write(model: ByteModel, seed: int, start: bytes = b"The statement", length: int = 300) -> str:
    """Let the model continue a text, drawing each byte from the softmax of its logits at temperature 0.5."""
    draw = torch.Generator().manual_seed(seed)
    written = list(start)
    for _ in range(length):
        logits = model(torch.tensor([written[-CONTEXT:]]))[0]
        written.append(torch.multinomial(torch.softmax(logits / 0.5, 0), 1, generator=draw).item())
    return " ".join(bytes(written).decode(errors="replace").split())
