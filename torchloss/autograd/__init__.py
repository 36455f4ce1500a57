"""The torch.autograd.Functions: for each family one hand-written chain of three, and a small subclass per loss.

A loss, its gradient and its double gradient are three ops (csrc/ops.cpp). Each is wrapped in a Function:

    Loss.backward             = Gradient
    Gradient.backward         = DoubleGradient
    DoubleGradient.backward   raises: there is no third derivative

Forward mode needs no op of its own. With a tangent v of the inputs, the tangent of the loss is <gradient, v>, which is
what the double gradient gives for grad; the tangent of the gradient is (Hessian) v, which, the Hessian being
symmetric, is what it gives for the inputs.

In eager mode the Functions run. Under torch.compile and torch.export, Dynamo cannot trace a Function with a jvp, so
`run` calls the bare op, whose autograd kernel `bind` makes from the same Function: one set of formulas, both ways.
"""

from torchloss.autograd.chain import loss_of, run
from torchloss.autograd.early import early
from torchloss.autograd.pointwise import pointwise
from torchloss.autograd.row_map import LogSoftmaxGradient, SoftmaxGradient, row_map
from torchloss.autograd.rowwise import rowwise

__all__ = ["loss_of", "run"]

L1LossFunction = pointwise("l1_loss")
MSELossFunction = pointwise("mse_loss")
HuberLossFunction = pointwise("huber_loss")
SmoothL1LossFunction = pointwise("smooth_l1_loss")
KLDivFunction = pointwise("kl_div")
KLDivLogTargetFunction = pointwise("kl_div_log_target")
BinaryCrossEntropyFunction = pointwise("binary_cross_entropy")
BinaryCrossEntropyWithLogitsFunction = pointwise("binary_cross_entropy_with_logits")

# Rowwise ones with the count of the numbers that a row leaves for its backward pass.
CrossEntropyFunction = rowwise("cross_entropy", saved := lambda label_smoothing: 3 if label_smoothing else 2)
CrossEntropyFunction.early = early(CrossEntropyFunction, saved)
CrossEntropyProbsFunction = rowwise("cross_entropy_probs", lambda _: 4)
NLLLossFunction = rowwise("nll_loss", lambda _: 0)
EntropyFunction = rowwise("entropy", lambda _: 0)
SoftmaxEntropyFunction = rowwise("softmax_entropy", lambda _: 3)
KLDivWithLogitsFunction = rowwise("kl_div_with_logits", lambda _: 7)

SoftmaxFunction = row_map("softmax", SoftmaxGradient)
LogSoftmaxFunction = row_map("log_softmax", LogSoftmaxGradient)
