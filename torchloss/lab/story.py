"""The sections of the report: what a learner should know beside each figure. What was found is in findings.py."""

from __future__ import annotations

from html import escape

from torchloss.lab import figures, findings, rates
from torchloss.lab.findings import flow
from torchloss.lab.report import Section
from torchloss.lab.robust import SHIFT, Robust
from torchloss.lab.summary import Results
from torchloss.lab.verdicts import verdicts_html

CROSS_ENTROPY = flow("""
    L = <sup>1</sup>/<sub>N</sub> Σ<sub>i</sub> ( log Σ<sub>j</sub> e<sup>z<sub>ij</sub></sup> −
    z<sub>i,y<sub>i</sub></sub> ), &emsp; ∂L/∂z<sub>ij</sub> = ( ŷ<sub>ij</sub> − [j = y<sub>i</sub>] ) / N, &emsp;
    ŷ = softmax(z)""")
SATURATION = flow("""
    ∂ŷ<sub>i</sub>/∂z<sub>j</sub> = ŷ<sub>i</sub> ( [i = j] − ŷ<sub>j</sub> ) → 0, &emsp; but &emsp;
    ∂(−log ŷ<sub>y</sub>)/∂z<sub>j</sub> = ŷ<sub>j</sub> − [j = y]""")


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


def digits(results: Results) -> Section:
    """(a)"""
    caption = """Left: torchloss's thin line on torch.nn's broad one. Right: their distance at every step (exact zeros
        left out); grey is torch.nn against itself with every initial weight moved by one rounding step."""
    return Section(
        "(a) Reading digits",
        flow("""A network of two layers (64 pixels, 64 hidden units, 10 digits) learns scikit-learn's 8 × 8 digits with
            Adam, 64 at a time. Its ten outputs are <i>logits</i>: any numbers, the largest wins. Softmax makes
            probabilities of them, and cross entropy is the surprise, −log, at the probability of the right digit. Both
            libraries compute this loss and its gradient; all else is the same."""),
        CROSS_ENTROPY,
        [(figures.curves(results.digits), "Loss curves on digits and their difference", flow(caption))],
        [
            findings.agreement("digits", results.digits),
            findings.score("Unseen digits read rightly", results.digits, ".2%"),
        ],
    )


def text(results: Results) -> Section:
    """(b)"""
    return Section(
        "(b) Predicting English, byte by byte",
        flow("""A small network reads the last 12 bytes of Python's own help topics (embedding of 24, 192 hidden units)
            and guesses the next: 256 classes, 16 pieces of 64 bytes a step. The loss is the same cross entropy. Divided
            by log 2 it is the bits one needs per byte if the model's guesses are used to compress the text."""),
        "bits per byte = L / log 2 &emsp; (8 without a model)",
        [(figures.curves(results.text), "Loss curves on text and their difference", "As above, for the text.")],
        [findings.agreement("text", results.text), findings.score("Bits per unseen byte", results.text, ".4f")],
        "<p>What the model trained with torchloss writes when given “The statement”:</p>"
        f"<pre>{escape(results.sample)}</pre>",
    )


def times(results: Results) -> Section:
    """Time in training."""
    return Section(
        "Time per step, and the loss's share of it",
        flow("""Every batch goes to both libraries before the next is drawn, and who goes first changes, so a busy
            machine slows both. The graph is cut at the logits, which lets the loss be timed apart from the model.
            Medians over all steps. A loss with a small share cannot speed up training much, however fast it is."""),
        "share = (loss forward + loss backward) / whole step",
        [(figures.times(results.digits, results.text), "Time per step by library", "Median time of a step.")],
        [findings.share("digits", results.digits), findings.share("text", results.text)],
    )


def costs(results: Results) -> Section:
    """The loss alone."""
    caption = "torchloss in percent of torch.nn (the vertical line): left of the line is less; pale: within the noise."
    return Section(
        "Time and memory of the loss alone",
        flow("""Cross entropy forward and backward on random float32 logits (rows × classes): of the digits' size, the
            text's, and that of a large language model's last layer. The libraries take turns; medians. Memory counts
            what PyTorch's CPU allocator hands out beyond the inputs while the loss runs, temporaries inside kernels
            included. The gradient of the logits, as large as the logits, is part of it and cannot be spared. Stack and
            malloc are not seen."""),
        "least possible peak = N · C · 4 bytes (the gradient)",
        [(figures.costs(results.costs), "Cost of torchloss relative to torch.nn", caption)],
        findings.costs(results),
    )


def robust(result: Robust) -> Section:
    """(c)"""
    return Section(
        "(c) A straight line through spoiled data",
        flow(f"""A linear model predicts how far diabetes has come after a year (scikit-learn's bundled table, every
            column scaled to deviation 1). Some training targets are spoiled: {SHIFT:g} deviations too high. L2 pulls in
            proportion to the distance, so a far point drags the line along; L1 pulls equally at any distance; Huber is
            L2 near and L1 far. Error is the mean distance on clean rows that were not trained on, over {result.seeds()}
            splits."""),
        "L2: r² &emsp; L1: |r| &emsp; Huber: ½ r² if |r| ≤ 1, else |r| − ½ &emsp; (r = prediction − target)",
        [
            (
                figures.robust(result),
                "Influence of a point and error against outliers",
                "Left: torchloss's gradients. Right: what outliers do to the fit.",
            )
        ],
        findings.robust(result),
    )


def heat(grid: rates.Grid) -> Section:
    """(d)"""
    caption = f"Yellow: trained. Dark: no better than guessing, or blown up. Usable: final loss below {rates.USABLE:g}."
    return Section(
        "(d) Mean or sum: which learning rates work?",
        flow(f"""The digits network again, plain gradient descent, {grid.steps} steps in every cell, batch size B times
            learning rate. With <code>mean</code> the gradient is an average, whatever B is; with <code>sum</code> it
            grows with B, so the same learning rate takes B times the step. Guess before you look: which way do the red
            edges lean? Each cell is the median of {grid.seeds()} seeds; neighbouring rates differ by a factor of 2, so
            no factor below is known more finely."""),
        flow("""w ← w − η ∂L/∂w, &emsp; L<sub>sum</sub> = B · L<sub>mean</sub> &emsp;⇒&emsp; η under sum acts as η · B
            under mean"""),
        [(figures.heat(grid), "Final training loss over learning rate and batch size", caption)],
        findings.learning_rates(grid),
        flow("""<p>More: Krizhevsky 2014 (arXiv:1404.5997), Goyal et al. 2017 (1706.02677), Masters and Luschi 2018
            (1804.07612), McCandlish et al. 2018 (1812.06162).</p>"""),
    )


def saturation(results: Results) -> Section:
    """(e), the figure."""
    result = results.notes.saturation
    caption = "A curve ends where the gradient is exactly 0, which a logarithmic axis cannot show."
    return Section(
        "(e) Where the gradient dies",
        flow("""If one logit leads, softmax is nearly one-hot and its derivative nearly nothing. Is that bad? If the
            leading class is right, a small gradient is what one wants. If it is wrong, the model must be pulled back:
            cross entropy's logarithm undoes softmax's exponential and pulls with full force; squared error of the
            probabilities does not."""),
        SATURATION,
        [(figures.saturation(result), "Gradient against margin, logarithmic", caption)],
        findings.saturation(result),
    )


def notes(results: Results) -> Section:
    """A student's notes against the numbers."""
    about = (
        "Sentences from a student's notes on losses, and what this run says to each. The verdicts are computed, too."
    )
    return Section("What the notes say, and what was measured", about, after=verdicts_html(results))


def limits(results: Results) -> Section:
    """What nobody should conclude."""
    return Section(
        "What this does not show",
        flow(f"""Small models, one machine, {results.grid.seeds()} seeds for the learning rates. Nothing was measured on
            a GPU. (a) and (b) compare single runs. A timing on a machine that does other work too is no benchmark.
            Numbers of (b) depend on the Python version, whose help text it reads."""),
    )
