"""The notes' claims beside the measurements, with a verdict computed from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from torchloss.lab import rates
from torchloss.lab.findings import flow
from torchloss.lab.robust import FRACTIONS
from torchloss.lab.summary import Results
from torchloss.lab.train import OURS, TORCH

HOLDS, PARTLY, FAILS, UNDECIDED = "holds", "holds in part", "does not hold here", "not decided"


@dataclass
class Verdict:
    """A claim in the notes' words, in English, and what came out."""

    note: str
    meaning: str
    measured: str
    verdict: str


def verdicts(results: Results) -> list[Verdict]:
    """All of them, in the order of the notes."""
    claims = (mean, zero_grad, l1, huber, jacobian, vanishing, gradient, divergence)
    return [claim(results) for claim in claims]


def mean(results: Results) -> Verdict:
    """Why losses are averaged."""
    usable, usable_sum = (rates.move(results.grid.usable(name)) for name in rates.REDUCTIONS)
    best = rates.move(results.grid.best("mean"))
    measured = f"""(d) Under mean the largest usable rate moves by {usable:g}, the best one by {best:g}; under sum the
        usable one moves by {usable_sum:g}."""
    if math.isnan(usable + usable_sum):
        verdict = UNDECIDED
    else:
        verdict = (HOLDS if best <= 2 else PARTLY) if usable_sum >= 4 * usable else FAILS
    return Verdict(
        "损失为什么求平均：更好调学习率……和 batch size 没有关系",
        "Losses are averaged so that the learning rate has nothing to do with the batch size.",
        flow(measured),
        verdict,
    )


def zero_grad(results: Results) -> Verdict:
    """Gradients add up."""
    factor = results.notes.accumulated
    return Verdict(
        "每次算梯度的时候要记得清零，不然会做累加",
        "Zero the gradients each time, or they accumulate.",
        f"A second backward without zero_grad makes the gradient {factor:.6g} times as large.",
        HOLDS if abs(factor - 2) < 1e-5 else FAILS,
    )


def l1(results: Results) -> Verdict:
    """L1's constant pull, and its jump."""
    slopes = list(zip(results.robust.residuals, results.robust.pull["L1"], strict=True))
    near = [slope for r, slope in slopes if abs(r) < 0.06]
    sizes = {abs(slope) for r, slope in slopes if abs(r) > 1e-6}
    clean = results.robust.errors[OURS]["L1"][0]
    measured = f"""(c) Around 0 L1's gradient jumps from {min(near):g} to {max(near):g}; elsewhere its size is
        {", ".join(f"{size:g}" for size in sorted(sizes))}. Its fits to clean data, with a falling step size, end with
        errors of {min(clean):.3f} to {max(clean):.3f}."""
    return Verdict(
        "l1 loss 有不平滑性，可能不稳定；离远点较远的时候，不一定希望有一个很大的梯度",
        "L1 is not smooth and may be unstable; far away a large gradient is not always wanted.",
        flow(measured),
        HOLDS if max(near) - min(near) == 2 and len(sizes) == 1 else FAILS,
    )


def huber(results: Results) -> Verdict:
    """Robustness."""
    worst = len(FRACTIONS) - 1
    error = results.robust.mean_error
    grown = {loss: error(OURS, loss, worst) / error(OURS, loss, 0) for loss in ("L2", "Huber")}
    measured = f"""(c) With {FRACTIONS[worst]:.0%} outliers the error grows {grown["Huber"]:.2f}-fold under Huber and
        {grown["L2"]:.2f}-fold under L2."""
    holds = grown["Huber"] < 1.5 and grown["L2"] > 2 * grown["Huber"]
    return Verdict("Huber Robust loss", "Huber is robust.", flow(measured), HOLDS if holds else FAILS)


def jacobian(results: Results) -> Verdict:
    """Softmax's derivative."""
    error = results.notes.jacobian_error
    measured = f"torchloss's Jacobian by autograd differs from it by at most {error:.1e} in float64."
    return Verdict("J = diag(ŷ) − ŷ ŷᵀ", "The Jacobian of softmax.", measured, HOLDS if error < 1e-14 else FAILS)


def vanishing(results: Results) -> Verdict:
    """Large inputs kill softmax's gradient, but not cross entropy's."""
    norms, saturation = results.notes.jacobian_norms, results.notes.saturation
    wrong = saturation.pulls[f"cross entropy, wrong, {OURS}"][saturation.margins.index(20)]
    listed = ", ".join(f"{norm:.1e} at margin {margin}" for margin, norm in norms.items())
    measured = f"""Size of softmax's Jacobian: {listed}. Cross entropy on the same logits with a wrong label pulls with
        {wrong:.3g}: {"it does not vanish there" if wrong > 0.5 else "it vanishes there, too"}."""
    return Verdict(
        "在输入的数量级很大时，梯度消失为 0，造成参数更新困难",
        "With large inputs softmax's gradient vanishes and training gets hard.",
        flow(measured),
        (PARTLY if wrong > 0.5 else HOLDS) if norms[20] < 1e-6 * norms[0] else FAILS,
    )


def gradient(results: Results) -> Verdict:
    """The famous difference."""
    errors = results.notes.gradient_error
    measured = f"""In float32, torchloss's gradient differs from it (computed in float64) by at most
        {errors[OURS]:.1e}, torch.nn's by {errors[TORCH]:.1e}."""
    return Verdict(
        "∇ₓ L(g(x)) = ŷ − y",
        "The gradient of cross entropy after softmax is prediction minus label.",
        flow(measured),
        HOLDS if errors[OURS] < 1e-6 else FAILS,
    )


def divergence(results: Results) -> Verdict:
    """KL, cross entropy, entropy."""
    error = results.notes.kl_error
    meaning = """KL measures how two distributions differ; cross entropy is the expected surprise of who believes Q
        when P is true. So KL(P, Q) = CE(P, Q) − H(P)."""
    return Verdict(
        "KL 散度：衡量两个概率的区别；交叉熵：主观概率为 Q 的观察者在看到根据概率 P 生成的数据时的预期惊异",
        flow(meaning),
        f"torchloss's two losses satisfy it to {error:.1e} (64 pairs of distributions, float64).",
        HOLDS if error < 1e-10 else FAILS,
    )


def verdicts_html(results: Results) -> str:
    """As a table."""
    lines = "".join(
        f'<tr><td><span lang="zh">{escape(v.note)}</span><br>{escape(v.meaning)}</td>'
        f'<td>{escape(v.measured)}</td><td class="verdict">{v.verdict}</td></tr>'
        for v in verdicts(results)
    )
    head = "<tr><th>note</th><th>measured</th><th>verdict</th></tr>"
    return f'<div class="scroll"><table id="notes">{head}{lines}</table></div>'
