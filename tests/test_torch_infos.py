"""torch's own samples of its losses (OpInfo and ModuleInfo), put to torchloss's: values, gradients, layouts, errors.

The generators are private to torch, so a minimum of samples is asked for: an empty list would prove nothing.
"""

import copy
import functools
import warnings

import pytest
import torch
from torch.testing import assert_close
from torch.utils._pytree import tree_map

import torchloss
import torchloss.functional
from torchloss.testing.losses import TEXTS_OF_TORCH

FROZEN = torch.backends.flags_frozen()

# The least number of samples, and of calls that must fail.
OPS = {
    "nn.functional.cross_entropy": (21, 0),
    "nn.functional.nll_loss": (61, 0),
    "nn.functional.mse_loss": (6, 0),
    "nn.functional.l1_loss": (6, 2),
    "nn.functional.smooth_l1_loss": (8, 0),
    "nn.functional.huber_loss": (9, 3),
    "nn.functional.kl_div": (16, 0),
    "nn.functional.binary_cross_entropy": (11, 0),
    "nn.functional.binary_cross_entropy_with_logits": (26, 0),
    "softmax": (7, 0),
    "softmax.with_dtype": (7, 0),
    "log_softmax": (7, 0),
    "log_softmax.with_dtype": (7, 0),
}
MODULES = {
    "CrossEntropyLoss": (105, 7),
    "NLLLoss": (28, 1),
    "KLDivLoss": (10, 0),
    "SmoothL1Loss": (8, 0),
    "MSELoss": (8, 0),
    "L1Loss": (5, 0),
    "HuberLoss": (4, 1),
    "BCELoss": (6, 0),
    "BCEWithLogitsLoss": (6, 0),
    "Softmax": (3, 0),
    "LogSoftmax": (4, 0),
    "Softmax2d": (2, 0),
}

each_dtype = pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # broadcasting, kl_div's mean: tests of their own
        torch.manual_seed(0)
        yield


@functools.cache
def databases():
    """torch's op_db and module_db: they take ten seconds to make, so not while tests are collected."""
    try:
        from torch.testing._internal.common_methods_invocations import op_db
        from torch.testing._internal.common_modules import module_db
    except Exception as error:  # whatever may go wrong with private names in another release
        pytest.skip(f"torch {torch.__version__} does not lend its test samples: {error!r}")
    finally:
        # The import forbids torch.backends.cudnn.x = ... for the rest of the process, which other tests may need.
        torch.backends.flags_frozen.__globals__["__allow_nonbracketed_mutation_flag"] = not FROZEN
    return op_db, module_db


def info(name):
    return next(o for o in databases()[0] if o.name + f".{o.variant_test_name}" * bool(o.variant_test_name) == name)


def module_info(name):
    return next(m for m in databases()[1] if m.module_cls is getattr(torch.nn, name))


def ours_of(op):
    return getattr(torchloss.functional, op.name.split(".")[-1])


def leaves(arguments, convert):
    """The arguments again, with leaves of their own, and those that require grad."""
    made = []

    def leaf(x):
        if not isinstance(x, torch.Tensor):
            return x
        fresh = convert(x.detach()) if x.is_floating_point() else x
        if x.requires_grad:
            made.append(fresh.requires_grad_())
        return fresh

    return tree_map(leaf, arguments), made


def double(x):
    return x.double()


def results(call, arguments, convert=lambda x: x.view_as(x)):
    (args, kwargs), inputs = leaves(arguments, convert)
    value = call(*args, **kwargs)
    if not inputs:
        return [value]
    torch.manual_seed(1)
    upstream = torch.randn(value.shape, dtype=torch.float64)
    grads = torch.autograd.grad(value, inputs, upstream.to(value.dtype), allow_unused=True)
    return [value, *grads]


def compare(ours, theirs, arguments, exact_arguments=None, where=""):
    """Equal to torch's in float64, rounded once."""
    exact = results(theirs, arguments if exact_arguments is None else exact_arguments, double)
    for mine, right in zip(results(ours, arguments), exact, strict=True):
        if right is None:
            assert mine is None, where
        else:
            assert_close(mine, right.to(mine.dtype), equal_nan=True, msg=lambda m: f"{where}: {m}")


def same_dtype(ours, theirs, arguments):
    args, kwargs = arguments
    mine, right = ours(*args, **kwargs), theirs(*args, **kwargs)
    assert (mine.dtype, mine.shape) == (right.dtype, right.shape)


@each_dtype
@pytest.mark.parametrize("name", OPS)
def test_op(name, dtype):
    op = info(name)
    samples = list(op.sample_inputs("cpu", dtype, requires_grad=True))
    assert len(samples) >= OPS[name][0]
    for sample in samples:
        for s in (sample, sample.noncontiguous()):
            arguments = ((s.input, *s.args), s.kwargs)
            if "dtype" not in s.kwargs:
                compare(ours_of(op), op.op, arguments, where=str(s))
            else:  # the conversion is part of what is computed
                compare(ours_of(op), op.op, arguments, ((s.input, *s.args), s.kwargs | {"dtype": torch.float64}))
            same_dtype(ours_of(op), op.op, arguments)


def failure(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except Exception as error:
        return error
    pytest.fail("raised nothing")


def same_failure(ours, theirs):
    assert type(ours) is type(theirs), repr(ours)
    assert str(ours).startswith(str(theirs).splitlines()[0]), repr(ours)


@pytest.mark.parametrize("name", [name for name, (_, errors) in OPS.items() if errors])
def test_op_errors(name):
    op = info(name)
    errors = list(op.error_inputs("cpu"))
    assert len(errors) >= OPS[name][1]
    for e in errors:
        s = e.sample_input
        same_failure(*(failure(f, s.input, *s.args, **s.kwargs) for f in (ours_of(op), op.op)))


@pytest.mark.parametrize("name", ["l1_loss", "smooth_l1_loss", "huber_loss", "mse_loss"])
def test_complex_is_refused(name):
    """torch takes complex numbers in l1_loss; ours say that they do not."""
    for sample in info(f"nn.functional.{name}").sample_inputs("cpu", torch.float32):
        x, t = sample.input + 0j, sample.args[0] + 0j
        with pytest.raises((TypeError, NotImplementedError), match="[Cc]omplex"):
            getattr(torchloss.functional, name)(x, t, **sample.kwargs)


def modules(i, name):
    """torch's module and ours, made alike."""
    made = i.constructor_input
    return [getattr(package, name)(*copy.deepcopy(made.args), **made.kwargs) for package in (torch.nn, torchloss)]


@each_dtype
@pytest.mark.parametrize("name", MODULES)
def test_module(name, dtype):
    mi = module_info(name)
    inputs = mi.module_inputs_func(mi, device="cpu", dtype=dtype, requires_grad=True, training=True)
    assert len(inputs) >= MODULES[name][0]
    for i in inputs:
        theirs, ours = modules(i, name)
        arguments = (i.forward_input.args, i.forward_input.kwargs)
        compare(ours, theirs.double(), arguments, where=f"{name} {i.desc}")
        same_dtype(ours, theirs.to(dtype), arguments)
        if i.reference_fn is not None:
            plain = tree_map(lambda a: a.detach() if isinstance(a, torch.Tensor) else a, arguments)
            assert_close(ours(*plain[0], **plain[1]), i.reference_fn(theirs, *plain[0], **plain[1]), equal_nan=True)


@pytest.mark.parametrize("name", [name for name, (_, errors) in MODULES.items() if errors])
@pytest.mark.skipif(not TEXTS_OF_TORCH, reason="the errors are those of torch 2.13")
def test_module_errors(name):
    mi = module_info(name)
    errors = mi.module_error_inputs_func(mi, device="cpu", dtype=torch.float32, requires_grad=False, training=True)
    assert len(errors) >= MODULES[name][1]
    for e in errors:
        i = e.module_error_input

        def call(package, i=i):
            made, given = i.constructor_input, i.forward_input
            module = getattr(package, name)(*made.args, **made.kwargs)
            return module(*given.args, **given.kwargs) if given is not None else module

        same_failure(failure(call, torchloss), failure(call, torch.nn))


def test_import_leaves_torch_as_it_was():
    databases()
    assert torch.backends.flags_frozen() == FROZEN
