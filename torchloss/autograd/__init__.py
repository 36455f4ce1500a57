"""The torch.autograd.Functions: for each family one hand-written chain of three, and a small subclass per loss.

A loss, its gradient and its double gradient are three ops (csrc/ops.cpp). Each is wrapped in a Function, the last in
two, because what it gives for grad can be differentiated once more (second_order.py):

    Loss.backward       = Gradient
    Gradient.backward   = DirectionalDerivative, for grad, and HessianProduct, for the inputs
    HessianProduct      refuses a derivative in the inputs, a third one

Forward mode needs no op of its own. With a tangent v of the inputs, the tangent of the loss is <gradient, v>, the
directional derivative; the tangent of the gradient is (Hessian) v, the Hessian being symmetric. The derivatives of
these two are made of the same Functions, so that second derivatives may be taken in any order.

In eager mode the Functions run. Under torch.compile and torch.export, Dynamo cannot trace a Function with a jvp, so
`run` calls the bare op, whose autograd kernel `bind` makes from the same Function: one set of formulas, both ways.
`chain.way` lists the ways.
"""

from torchloss.autograd.chain import run
from torchloss.autograd.in_forward import loss_of_rows, with_gradient_in_forward
from torchloss.autograd.in_place import with_gradient_in_place
from torchloss.autograd.pointwise import plain_loss, pointwise
from torchloss.autograd.row_map import LogSoftmaxFormulas, SoftmaxFormulas, row_map
from torchloss.autograd.rowwise import RowConfig, rowwise

__all__ = ["RowConfig", "loss_of_rows", "plain_loss", "run"]

L1LossFunction = pointwise("l1_loss")
MSELossFunction = pointwise("mse_loss")
HuberLossFunction = pointwise("huber_loss")
SmoothL1LossFunction = pointwise("smooth_l1_loss")
KLDivFunction = pointwise("kl_div")
KLDivLogTargetFunction = pointwise("kl_div_log_target")
BinaryCrossEntropyFunction = pointwise("binary_cross_entropy")
BinaryCrossEntropyWithLogitsFunction = pointwise("binary_cross_entropy_with_logits")

CrossEntropyFunction = rowwise("cross_entropy")
CrossEntropyProbsFunction = rowwise("cross_entropy_probs")
NLLLossFunction = rowwise("nll_loss")
EntropyFunction = rowwise("entropy")
SoftmaxEntropyFunction = rowwise("softmax_entropy")
KLDivWithLogitsFunction = rowwise("kl_div_with_logits")
LogitStatsFunction = rowwise("logit_stats")

for function in (CrossEntropyFunction, CrossEntropyProbsFunction, SoftmaxEntropyFunction, KLDivWithLogitsFunction):
    function.in_forward = with_gradient_in_forward(function)
    function.in_place = with_gradient_in_place(function)

SoftmaxFunction = row_map("softmax", SoftmaxFormulas)
LogSoftmaxFunction = row_map("log_softmax", LogSoftmaxFormulas)
