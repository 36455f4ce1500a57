"""Sentences that report a result. Every one of them is computed from the data, the judgement included."""

from __future__ import annotations

import math

import torch

from torchloss.lab import rates
from torchloss.lab.notes import Saturation
from torchloss.lab.robust import FRACTIONS, LOSSES, Robust
from torchloss.lab.summary import Results, Row, gap, ratio, seconds, size_of
from torchloss.lab.train import NUDGED, OURS, TORCH, Run


def flow(text: str) -> str:
    """One paragraph of a text that is broken into lines here for the reader of the source."""
    return " ".join(text.split())


def lead(results: Results, rows: list[Row]) -> list[str]:
    """The report in a few sentences."""
    busy = results.setting.busy()
    rows = [row for row in rows if not (busy and row.timed)]
    same = [agreement("digits", results.digits), agreement("text", results.text)]
    return [*[busy] * bool(busy), *same, needs(rows, "more"), needs(rows, "less"), *learning_rates(results.grid)[:1]]


def needs(rows: list[Row], what: str) -> str:
    """Where torchloss takes more, or less, than torch.nn."""
    found = [f"{row.part}, {row.quantity} ({row.relation})" for row in rows if row.relation.endswith(what)]
    return f"Where torchloss needs {what} time or memory than torch.nn: {'; '.join(found) or 'nowhere in the table'}."


def agreement(part: str, runs: dict[str, Run]) -> str:
    """Do the two curves differ by more than rounding does?"""
    apart, noise = runs[TORCH].largest_difference(runs[OURS]), runs[TORCH].largest_difference(runs[NUDGED])
    first = abs(runs[TORCH].losses[0] - runs[OURS].losses[0])
    least = 8 * torch.finfo(torch.float32).eps * runs[TORCH].losses[0]
    if apart <= max(10 * noise, least):
        verdict = "so the two libraries differ no more than rounding explains"
    else:
        verdict = "so rounding alone does NOT explain the difference"
    return flow(f"""On {part} the two loss curves lie at most {gap(apart)} apart over {len(runs[TORCH].losses)} steps
        ({gap(first)} at the first); torch.nn against itself, from weights one rounding step away, drifts {gap(noise)}
        apart, {verdict}.""")


def score(name: str, runs: dict[str, Run], form: str) -> str:
    """The result on unseen data."""
    return f"{name}: {runs[TORCH].score:{form}} with torch.nn, {runs[OURS].score:{form}} with torchloss."


def share(part: str, runs: dict[str, Run]) -> str:
    """What the loss takes of a step."""
    one, two = runs[TORCH], runs[OURS]
    times = one.loss_seconds(), two.loss_seconds()
    return flow(f"""On {part} the loss takes {seconds(times[0])} of a step with torch.nn ({one.loss_share():.1%}) and
        {seconds(times[1])} with torchloss ({two.loss_share():.1%}): {ratio(*times)}.""")


def costs(results: Results) -> list[str]:
    """Time and memory of the loss alone."""
    found = []
    for size, pair in results.costs.items():
        one, two = pair[TORCH], pair[OURS]
        a, b = one.both, two.both
        found.append(
            flow(f"""{size}: {seconds(a.median)} (middle half {seconds(a.low)} to {seconds(a.high)}) with torch.nn,
            {seconds(b.median)} ({seconds(b.low)} to {seconds(b.high)}) with torchloss; at most
            {size_of(one.peak_bytes)} against {size_of(two.peak_bytes)} in use; {size_of(one.saved_bytes)} against
            {size_of(two.saved_bytes)} kept for backward.""")
        )
    holding = " and ".join(name for name, cost in pair.items() if cost.holds_logits) or "neither"
    return [
        *found,
        flow(f"""The logits themselves are held until backward by: {holding}. What is kept is counted beyond them, so
        who drops the logits right after the loss saves less with a library that holds them."""),
    ]


def robust(result: Robust) -> list[str]:
    """What outliers did to each loss."""
    worst = len(FRACTIONS) - 1
    found = []
    for loss in LOSSES:
        clean, dirty = (result.mean_error(OURS, loss, k) for k in (0, worst))
        found.append(
            f"{loss}: error {clean:.3f} without outliers, {dirty:.3f} with {FRACTIONS[worst]:.0%} of them, "
            f"{dirty / clean:.2f} times as much."
        )
    best = [min(LOSSES, key=lambda loss, k=k: result.mean_error(OURS, loss, k)) for k in range(len(FRACTIONS))]
    ranking = ", ".join(f"{loss} at {fraction:.0%}" for loss, fraction in zip(best, FRACTIONS, strict=True))
    found.append(f"Lowest mean error: {ranking}.")
    found.append(f"The largest difference to torch.nn over all fits is {gap(result.largest_difference(TORCH, OURS))}.")
    return found


def learning_rates(grid: rates.Grid) -> list[str]:
    """What the two panels say."""
    usable = {name: grid.usable(name) for name in rates.REDUCTIONS}
    best = {name: grid.best(name) for name in rates.REDUCTIONS}
    if any(map(math.isnan, usable["mean"] + usable["sum"])):
        return ["For some batch size no learning rate of the grid reached a usable loss: too little to conclude from."]
    span = grid.batches[-1] / grid.batches[0]
    coupled = rates.move(usable["sum"]) >= 4 * rates.move(usable["mean"])
    clear = "that is the coupling that the mean removes" if coupled else "that is no clear difference between the two"
    free = "." if rates.move(best["mean"]) <= 2 else ": the mean alone does not free it from the batch size."
    pairs = grid.twins()
    apart = max((abs(x - y) for x, y in pairs), default=math.nan)
    return [
        f"From batches of {grid.batches[0]} to {grid.batches[-1]} ({span:g} times as large) the largest usable "
        f"learning rate moves by {both(usable)}: {clear}.",
        f"The best learning rate moves by {both(best)}{free}",
        flow(f"""The panels are one picture, slid: {len(pairs)} trained runs under sum have a twin under mean with B
        times the rate, and their final losses differ by at most {gap(apart)}."""),
        *censored(grid, best, usable),
    ]


def both(values: dict[str, list[float]]) -> str:
    """How far learning rates move under either reduction; smallest batch first."""
    listed = {name: ", ".join(f"{rate:.2g}" for rate in row) for name, row in values.items()}
    return " and ".join(f"{rates.move(row):g} under {name} ({listed[name]})" for name, row in values.items())


def censored(grid: rates.Grid, best: dict[str, list[float]], usable: dict[str, list[float]]) -> list[str]:
    """A warning where the grid is too small."""
    edge = {grid.rates[0], grid.rates[-1]}
    hit = [name for name in rates.REDUCTIONS if edge & {*best[name], *usable[name]}]
    return [f"Under {' and '.join(hit)} a value lies at the edge of the grid: it may really lie beyond."] if hit else []


def saturation(result: Saturation) -> list[str]:
    """Where gradients die."""
    found = []
    for name in (TORCH, OURS):
        margin = result.dead_from(f"cross entropy, right, {name}")
        never = f"never 0 up to a margin of {result.margins[-1]:g}"
        ends = never if margin is None else f"exactly 0 from a margin of {margin:g}"
        found.append(f"{name}, float32, right label: the gradient of its logit is {ends}.")
    at = result.margins.index(20)
    entropy, squares = (result.pulls[f"{name}, wrong, {OURS}"][at] for name in ("cross entropy", "squared error"))
    found.append(
        f"Wrong label, margin 20: cross entropy still pulls with {entropy:.3g}, squared error of softmax with "
        f"{squares:.1e}."
    )
    return found
