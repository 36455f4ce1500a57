"""What cross_entropy says to arguments that it does not take, in torch's types and first words. No bug is sown here."""

import torch

TYPES = {torch.float64: "Double", torch.float32: "Float", torch.bfloat16: "BFloat16", torch.float16: "Half"}


def refuse(input, target, weight, ignore_index, reduction, smoothing):
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if not 0 <= smoothing <= 1:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {smoothing}")
    probs = target.shape == input.shape
    if probs and not target.is_floating_point():
        raise RuntimeError(f"Expected floating point type for target with class probabilities, got {target.dtype}")
    if probs and ignore_index >= 0:
        raise RuntimeError("ignore_index is not supported for floating point target")
    if input.dim() == 0:
        raise (IndexError if probs else ValueError)("Expected 1 or more dimensions (got 0)")
    if not probs:
        refuse_target(input, target)
    if input.dtype not in TYPES:
        raise NotImplementedError(f"\"log_softmax_lastdim_kernel_impl\" not implemented for '{name(input)}'")
    if weight is not None:
        if weight.shape != (input.shape[min(1, input.dim() - 1)],):
            kind = "cross_entropy: " if probs else ""
            raise RuntimeError(f"{kind}weight tensor should be defined either for all classes or no classes")
        if not probs and weight.dtype != input.dtype:
            raise RuntimeError(f"expected scalar type {name(input)} but found {name(weight)}")
        if not probs and weight.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("The function is not differentiable with respect to argument 'weight'.")


def refuse_target(input, target):
    rows = input.shape[:1] + input.shape[2:] if input.dim() > 1 else input.shape[:0]
    if input.dim() > 1 and (target.dim() == 0 or input.shape[0] != target.shape[0]):
        got = target.shape[0] if target.dim() else 0
        raise ValueError(f"Expected input batch_size ({input.shape[0]}) to match target batch_size ({got}).")
    if target.shape != rows and (input.dim() > 1 or target.shape != (1,)):
        if input.dim() == 1 and target.dim() == 1:
            raise ValueError(f"For 1D input, 1D target must have size 1, but got target size: {len(target)}")
        if input.dim() < 3:
            raise RuntimeError("0D or 1D target tensor expected, multi-target not supported")
        raise RuntimeError(f"Expected target size {list(rows)}, got {list(target.shape)}")
    if target.dtype not in (torch.int64, torch.int32, torch.uint8):
        raise RuntimeError(f"expected target dtype to be Long or Byte, but got {target.dtype}")


def name(x):
    return TYPES.get(x.dtype) or {torch.int64: "Long", torch.int32: "Int"}.get(x.dtype, str(x.dtype))
