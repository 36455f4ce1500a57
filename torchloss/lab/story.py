"""The words of the report. What is general is written here; every sentence that reports a result is computed from it."""

from __future__ import annotations

import math
from html import escape

import torch

from torchloss.lab import figures, rates
from torchloss.lab.report import Section
from torchloss.lab.robust import FRACTIONS, LOSSES, SHIFT, Robust
from torchloss.lab.summary import Results, Row, gap, ratio, seconds, size_of
from torchloss.lab.train import NUDGED, OURS, TORCH, Run
from torchloss.lab.verdicts import verdicts_html

CROSS_ENTROPY = "L = <sup>1</sup>/<sub>N</sub> Σ<sub>i</sub> ( log Σ<sub>j</sub> e<sup>z<sub>ij</sub></sup> − z<sub>i,y<sub>i</sub></sub> ), &emsp; ∂L/∂z<sub>ij</sub> = ( ŷ<sub>ij</sub> − [j = y<sub>i</sub>] ) / N, &emsp; ŷ = softmax(z)"


def lead(results: Results, rows: list[Row]) -> list[str]:
    """The report in a few sentences, losses first."""
    slower = [row for row in rows if row.relation.endswith("more")]
    listed = "; ".join(f"{row.part}, {row.quantity} ({row.relation})" for row in slower)
    losing = (
        f"Where torchloss needs more time or memory than torch.nn: {listed}."
        if slower
        else "In no row of the table does torchloss need more time or memory than torch.nn."
    )
    return [
        agreement("digits", results.digits),
        agreement("text", results.text),
        losing,
        *rate_findings(results.grid)[:1],
    ]


def sections(results: Results) -> list[Section]:
    """The report's body."""
    return [
        digits(results),
        text(results),
        times(results),
        costs(results),
        robust(results.robust),
        heat(results.grid),
        saturation(results),
        notes(results),
        limits(results),
    ]


def agreement(part: str, runs: dict[str, Run]) -> str:
    """Do the two curves differ by more than rounding does?"""
    apart, noise = runs[TORCH].largest_difference(runs[OURS]), runs[TORCH].largest_difference(runs[NUDGED])
    first = abs(runs[TORCH].losses[0] - runs[OURS].losses[0])
    least = 8 * torch.finfo(torch.float32).eps * runs[TORCH].losses[0]
    if apart <= max(10 * noise, least):
        verdict = "so the two libraries differ no more than rounding explains"
    else:
        verdict = "so rounding alone does NOT explain the difference"
    return (
        f"On {part} the two loss curves lie at most {gap(apart)} apart over {len(runs[TORCH].losses)} steps ({gap(first)} at the first); torch.nn against "
        f"itself, from weights one rounding step away, drifts {gap(noise)} apart, {verdict}."
    )


def score(name: str, runs: dict[str, Run], form: str) -> str:
    """The result on unseen data."""
    return f"{name}: {format(runs[TORCH].score, form)} with torch.nn, {format(runs[OURS].score, form)} with torchloss."


def digits(results: Results) -> Section:
    """(a)"""
    return Section(
        "(a) Reading digits",
        "A network of two layers (64 pixels, 64 hidden units, 10 digits) learns scikit-learn's 8 × 8 digits with Adam, 64 at a time. Its ten outputs are <i>logits</i>: any "
        "numbers, the largest wins. Softmax makes probabilities of them, and cross entropy is the surprise, −log, at the probability of the right digit. Both libraries compute "
        "this loss and its gradient; all else is the same.",
        CROSS_ENTROPY,
        [
            (
                figures.curves(results.digits),
                "Loss curves on digits and their difference",
                "Left: torchloss's thin line on torch.nn's broad one. Right: their distance at every step (exact zeros left out); grey is torch.nn against itself with every initial weight moved by one rounding step.",
            )
        ],
        [agreement("digits", results.digits), score("Unseen digits read rightly", results.digits, ".2%")],
    )


def text(results: Results) -> Section:
    """(b)"""
    return Section(
        "(b) Predicting English, byte by byte",
        "A small network reads the last 12 bytes of Python's own help topics (embedding of 24, 192 hidden units) and guesses the next: 256 classes, 16 pieces of 64 bytes a step. The loss "
        "is the same cross entropy. Divided by log 2 it is the bits one needs per byte if the model's guesses are used to compress the text.",
        "bits per byte = L / log 2 &emsp; (8 without a model)",
        [
            (
                figures.curves(results.text),
                "Loss curves on text and their difference",
                "As above, for the language model.",
            )
        ],
        [agreement("text", results.text), score("Bits per unseen byte", results.text, ".4f")],
        f"<p>What the model trained with torchloss writes when given “The statement”:</p><pre>{escape(results.sample)}</pre>",
    )


def times(results: Results) -> Section:
    """Time in training."""
    found = []
    for part, runs in (("digits", results.digits), ("text", results.text)):
        one, two = runs[TORCH], runs[OURS]
        found.append(
            f"On {part} the loss takes {seconds(one.loss_seconds())} of a step with torch.nn ({one.loss_share():.1%}) and {seconds(two.loss_seconds())} with torchloss "
            f"({two.loss_share():.1%}): {ratio(one.loss_seconds(), two.loss_seconds())}."
        )
    return Section(
        "Time per step, and the loss's share of it",
        "Every batch goes to both libraries before the next is drawn, and who goes first changes, so a busy machine slows both. The graph is cut at the logits, which lets the loss "
        "be timed apart from the model. Medians over all steps. A loss with a small share cannot speed up training much, however fast it is.",
        "share = (loss forward + loss backward) / whole step",
        [(figures.times(results.digits, results.text), "Time per step by library", "Median time of a step.")],
        found,
    )


def costs(results: Results) -> Section:
    """The loss alone."""
    found = []
    for size, pair in results.costs.items():
        one, two = pair[TORCH], pair[OURS]
        found.append(
            f"{size}: {seconds(one.both.median)} (middle half {seconds(one.both.low)} to {seconds(one.both.high)}) with torch.nn, {seconds(two.both.median)} "
            f"({seconds(two.both.low)} to {seconds(two.both.high)}) with torchloss; at most {size_of(one.peak_bytes)} against {size_of(two.peak_bytes)} in use; "
            f"{size_of(one.saved_bytes)} against {size_of(two.saved_bytes)} kept for backward."
        )
    holding = [name for name in (TORCH, OURS) if list(results.costs.values())[-1][name].holds_logits]
    found.append(
        f"The logits themselves are held until backward by: {' and '.join(holding) or 'neither'}. What is kept beyond them is saved only where the program holds them anyway."
    )
    return Section(
        "Time and memory of the loss alone",
        "Cross entropy forward and backward on random float32 logits: of the digits' size, the text's, and that of a large language model's last layer. The libraries take turns; "
        "medians. Memory counts what PyTorch's CPU allocator hands out beyond the inputs while the loss runs, temporaries inside kernels included. The gradient of the logits, as "
        "large as the logits, is part of it and cannot be spared. Stack and malloc are not seen.",
        "least possible peak = N · C · 4 bytes (the gradient)",
        [
            (
                figures.costs(results.costs),
                "Cost of torchloss relative to torch.nn",
                "torchloss in percent of torch.nn (the vertical line): left of the line is less.",
            )
        ],
        found,
    )


def robust(result: Robust) -> Section:
    """(c)"""
    worst = len(FRACTIONS) - 1
    found = []
    for loss in LOSSES:
        clean, dirty = (result.mean_error(OURS, loss, k) for k in (0, worst))
        found.append(
            f"{loss}: error {clean:.3f} without outliers, {dirty:.3f} with {FRACTIONS[worst]:.0%} of them, {dirty / clean:.2f} times as much."
        )
    best = [min(LOSSES, key=lambda loss, k=k: result.mean_error(OURS, loss, k)) for k in range(len(FRACTIONS))]
    found.append(
        "Lowest mean error: "
        + ", ".join(f"{loss} at {fraction:.0%}" for loss, fraction in zip(best, FRACTIONS, strict=True))
        + "."
    )
    found.append(f"torch.nn's losses give the same errors to within {gap(result.largest_difference(TORCH, OURS))}.")
    seeds = len(result.errors[OURS]["L2"][0])
    return Section(
        "(c) A straight line through spoiled data",
        f"A linear model predicts how far diabetes has come after a year (scikit-learn's bundled table, every column scaled to deviation 1). Some training targets are spoiled: {SHIFT:g} "
        f"deviations too high. L2 pulls in proportion to the distance, so a far point drags the line along; L1 pulls equally at any distance; Huber is L2 near and L1 far. Error is the mean "
        f"distance on clean rows that were not trained on, over {seeds} splits.",
        "L2: r² &emsp; L1: |r| &emsp; Huber: ½ r² if |r| ≤ 1, else |r| − ½ &emsp; (r = prediction − target)",
        [
            (
                figures.robust(result),
                "Influence of a point and error against outliers",
                "Left: torchloss's gradients. Right: what outliers do to the fit.",
            )
        ],
        found,
    )


def heat(grid: rates.Grid) -> Section:
    """(d)"""
    return Section(
        "(d) Mean or sum: which learning rates work?",
        f"The digits network again, plain gradient descent, {grid.steps} steps in every cell, batch size B times learning rate. With <code>mean</code> the gradient is an average, whatever B is; with "
        "<code>sum</code> it grows with B, so the same learning rate takes B times the step. Guess before you look: which way do the red edges lean? Each cell is the median of "
        f"{len(grid.losses['mean'][0][0])} seeds; neighbouring rates differ by a factor of 2, so no factor below is known more finely.",
        "w ← w − η ∂L/∂w, &emsp; L<sub>sum</sub> = B · L<sub>mean</sub> &emsp;⇒&emsp; η under sum acts as η · B under mean",
        [
            (
                figures.heat(grid),
                "Final training loss over learning rate and batch size",
                f"Yellow: trained. Dark: no better than guessing, or blown up. Usable: final loss below {rates.USABLE:g}.",
            )
        ],
        rate_findings(grid),
        "<p>More: Krizhevsky 2014 (arXiv:1404.5997), Goyal et al. 2017 (1706.02677), Masters and Luschi 2018 (1804.07612), McCandlish et al. 2018 (1812.06162).</p>",
    )


def rate_findings(grid: rates.Grid) -> list[str]:
    """What the two panels say."""
    usable = {name: grid.usable(name) for name in rates.REDUCTIONS}
    best = {name: grid.best(name) for name in rates.REDUCTIONS}
    if any(map(math.isnan, usable["mean"] + usable["sum"])):
        return [
            "For some batch size no learning rate of the grid reached a usable loss: too few steps to conclude from."
        ]
    moved = {name: rates.move(usable[name]) for name in rates.REDUCTIONS}
    span = grid.batches[-1] / grid.batches[0]
    clear = (
        "that is the coupling that the mean removes"
        if moved["sum"] >= 4 * moved["mean"]
        else "that is no clear difference between the two"
    )
    pairs = grid.twins()
    apart = max((abs(x - y) for x, y in pairs), default=math.nan)
    return [
        f"Batch sizes spread by {span:g}: the largest usable learning rate moves by {moved['mean']:g} under mean ({series(usable['mean'])}) and by {moved['sum']:g} under sum ({series(usable['sum'])}): {clear}.",
        f"The best learning rate moves by {rates.move(best['mean']):g} under mean ({series(best['mean'])}) and by {rates.move(best['sum']):g} under sum ({series(best['sum'])})"
        + (": the mean does not free it from the batch size." if rates.move(best["mean"]) > 2 else "."),
        f"The panels are one picture, slid: {len(pairs)} runs under sum have a twin under mean with B times the rate, and their final losses differ by at most {gap(apart)}.",
        *censored(grid, best, usable),
    ]


def series(rates_of: list[float]) -> str:
    """Learning rates, smallest batch first."""
    return ", ".join(f"{rate:.2g}" for rate in rates_of)


def censored(grid: rates.Grid, best: dict[str, list[float]], usable: dict[str, list[float]]) -> list[str]:
    """A warning where the grid is too small."""
    edge = {grid.rates[0], grid.rates[-1]}
    hit = [name for name in rates.REDUCTIONS if edge & {*best[name], *usable[name]}]
    return [f"Under {' and '.join(hit)} a value lies at the edge of the grid: it may really lie beyond."] if hit else []


def saturation(results: Results) -> Section:
    """(e), the figure."""
    result = results.notes.saturation
    dead = {name: result.dead_from(f"cross entropy, right, {name}") for name in (TORCH, OURS)}
    found = [
        f"{name}, float32, right label: the gradient of its logit is "
        + (
            f"exactly 0 from a margin of {margin:g}."
            if margin is not None
            else f"never 0 up to a margin of {result.margins[-1]:g}."
        )
        for name, margin in dead.items()
    ]
    at = result.margins.index(20)
    wrong = {name: result.pulls[f"{name}, wrong, {OURS}"][at] for name in ("cross entropy", "squared error of softmax")}
    found.append(
        f"Wrong label, margin 20: cross entropy still pulls with {wrong['cross entropy']:.3g}, squared error of softmax with {wrong['squared error of softmax']:.1e}."
    )
    return Section(
        "(e) Where the gradient dies",
        "If one logit leads, softmax is nearly one-hot and its derivative nearly nothing. Is that bad? If the leading class is right, a small gradient is what one wants. If it is wrong, the "
        "model must be pulled back: cross entropy's logarithm undoes softmax's exponential and pulls with full force; squared error of the probabilities does not.",
        "∂ŷ<sub>i</sub>/∂z<sub>j</sub> = ŷ<sub>i</sub> ( [i = j] − ŷ<sub>j</sub> ) → 0, &emsp; but &emsp; ∂(−log ŷ<sub>y</sub>)/∂z<sub>j</sub> = ŷ<sub>j</sub> − [j = y]",
        [
            (
                figures.saturation(result),
                "Gradient against margin, logarithmic",
                "A curve ends where the gradient is exactly 0, which a logarithmic axis cannot show.",
            )
        ],
        found,
    )


def notes(results: Results) -> Section:
    """The owner's notes against the numbers."""
    text = "Sentences from a student's notes on losses, and what this run says to each. The verdicts are computed, too."
    return Section("What the notes say, and what was measured", text, after=verdicts_html(results))


def limits(results: Results) -> Section:
    """What nobody should conclude."""
    return Section(
        "What this does not show",
        f"Small models, one machine, {len(results.grid.losses['mean'][0][0])} seeds for the learning rates. Nothing was measured on a GPU. (a) and (b) compare single runs: their scores differ by chance as "
        "much as by library. A timing on a machine that does other work too is no benchmark. Numbers of (b) depend on the Python version, whose help text it reads.",
    )
