"""Models that leave the process: decompositions, torch.export, ONNX, TorchScript and FX."""

import inspect
import subprocess
import sys
import warnings

import pytest
import torch
from op_calls import arguments, given, of
from torch import nn
from torch._decomp import decomposition_table
from torch.fx.experimental.proxy_tensor import make_fx

import torchloss
from torchloss.testing.losses import EVERY, FEW

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch's own tracing
each = pytest.mark.parametrize("loss", EVERY, ids=str)
each_of_few = pytest.mark.parametrize("loss", FEW, ids=str)

PLAIN = [loss for loss in FEW if not loss.weights]  # the others' weights are of one size
OPS = ("softmax", "log_softmax", "cross_entropy", "binary_cross_entropy_with_logits")
EXPORTED = [next(loss for loss in PLAIN if loss.op == op) for op in OPS]


def sample(loss, shape=(4, 5), dtype=torch.float32):
    x, t = loss.sample(shape, 3)
    return x.to(dtype), t if t is None or not t.is_floating_point() else t.to(dtype)


def tensors(loss, shape=(4, 5)):
    return tuple(a for a in sample(loss, shape) if a is not None)


# Decompositions

ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 2**-7, torch.float16: 2**-10}


@each
def test_decomposition_gives_what_the_op_gives(loss):
    """The values, what is saved for the backward pass, and the divisor of a mean."""
    op = of(loss.op)
    for dtype, tolerance in ROUNDING.items():
        for shape in ((4, 5), (3, 6, 2), (6,), (0, 5), (1, 1)):
            for reduction in loss.reductions:
                args = arguments(op, given(loss, *sample(loss, shape, dtype), reduction))
                torch.testing.assert_close(
                    decomposition_table[op](*args), op(*args), rtol=tolerance, atol=tolerance / 10, equal_nan=True
                )


def test_every_forward_op_has_a_decomposition():
    assert {of(loss.op) for loss in EVERY} <= decomposition_table.keys()


OF_LOGITS = [loss for loss in EVERY if loss.op in ("log_softmax", "cross_entropy", "cross_entropy_probs")]


@pytest.mark.parametrize("op", sorted({loss.op for loss in OF_LOGITS}))
@pytest.mark.parametrize("margin", [5.0, 15.0, 30.0, 80.0])
def test_decomposition_keeps_the_leaders_tail(op, margin):
    """As the kernels do, and torch's own decomposition does not."""
    loss = next(loss for loss in OF_LOGITS if loss.op == op)
    x = torch.tensor([[margin, 0.0, -1.0]])
    t = {"cross_entropy": torch.tensor([0]), "cross_entropy_probs": torch.tensor([[1.0, 0.0, 0.0]])}.get(op)
    args = arguments(of(op), given(loss, x, t, "none") | {"dim": 1})
    value, exact = (f(*args) for f in (decomposition_table[of(op)], of(op)))
    value, exact = (v if op == "log_softmax" else v[0] for v in (value, exact))
    torch.testing.assert_close(value, exact, rtol=1e-6, atol=0)
    assert exact.flatten()[0] != 0


@pytest.mark.parametrize("op", ["cross_entropy", "nll_loss", "logit_stats"])
def test_decomposition_makes_a_class_out_of_range_nan(op):
    """Also one below 0, which ONNX would count from the end."""
    loss = next(loss for loss in EVERY if loss.op == op)
    target = torch.tensor([0, 3, -1, -100])
    args = arguments(of(op), given(loss, torch.randn(4, 3), target, "none") | {"dim": 1})
    value = decomposition_table[of(op)](*args)[0]
    assert value.isnan().reshape(-1, 4).any(0).tolist() == [False, True, True, False]


@pytest.mark.parametrize("loss", [loss for loss in EVERY if loss.family == "rowwise"], ids=str)
def test_decomposition_without_classes(loss):
    op = of(loss.op)
    have = given(loss, *sample(loss, (2, 0)), "none")
    if "ignore_index" in [a.name for a in op._schema.arguments]:
        have["target"] = torch.full((2,), -100)
    args = arguments(op, have)
    torch.testing.assert_close(decomposition_table[op](*args)[0], op(*args)[0], equal_nan=True)


# torch.export


class All(nn.Module):
    """The sums or means of several losses, or what they give for each row, each after a layer."""

    def __init__(self, losses):
        super().__init__()
        self.losses, self.sizes = losses, [1 if loss.target is None else 2 for loss in losses]
        self.layer = nn.Linear(5, 5)
        nn.init.eye_(self.layer.weight)
        nn.init.constant_(self.layer.bias, 0.01)

    def forward(self, *args):
        results, rest = [], iter(args)
        for loss, size in zip(self.losses, self.sizes, strict=True):
            x, *t = (next(rest) for _ in range(size))
            x = self.layer(x) * 0.9 if loss.name in ("binary_cross_entropy", "entropy") else self.layer(x)
            results.append(loss.ours(x, *t or [None], loss.reductions[-1]))
        return tuple(results)

    def inputs(self, shape=(4, 5)):
        return tuple(a for loss in self.losses for a in tensors(loss, shape))


def of_any_size(model, args):
    return torch.export.export(model, args, dynamic_shapes=(tuple({0: torch.export.Dim.DYNAMIC} for _ in args),))


@pytest.fixture(scope="module")
def exported():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = All(EXPORTED)
        return model, of_any_size(model, model.inputs())


def targets(program):
    return [n.target for n in program.graph.nodes if isinstance(n.target, torch._ops.OpOverload)]


def test_run_decompositions_gives_core_aten(exported):
    """For any batch size, and what comes of it can be trained."""
    model, program = exported
    core = program.run_decompositions()
    assert [op for op in targets(core) if op.namespace != "aten" or torch.Tag.core not in op.tags] == []
    trained, args = core.module(), model.inputs((7, 5))
    results, expected = trained(*args), model(*args)
    torch.testing.assert_close(results, expected, rtol=1e-5, atol=1e-6)
    pairs = ((results, trained), (expected, model))
    mine, theirs = (torch.autograd.grad(sum(r.sum() for r in y), tuple(m.parameters())) for y, m in pairs)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_export_and_empty_table_keep_the_ops(exported):
    """And a table keeps an op that was deleted from it."""
    _, program = exported
    ops = {of(loss.op) for loss in EXPORTED}
    assert ops <= set(targets(program)) and ops <= set(targets(program.run_decompositions({})))
    table = torch.export.default_decompositions()
    del table[of("softmax")]
    assert {op for op in targets(program.run_decompositions(table)) if op.namespace == "torchloss"} == {of("softmax")}


def test_flop_counter_sees_the_kernels():
    """It would take a composite op apart, and miss a class out of range."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False), pytest.raises(IndexError):
        torchloss.functional.cross_entropy(torch.randn(2, 3), torch.tensor([0, 3]))


WITHOUT_TORCHLOSS = """
import sys, torch
assert torch.export.load(sys.argv[1]).module()(torch.zeros(1, 4)).tolist() == [[0.25] * 4]
try:
    torch.export.load(sys.argv[2])
except RuntimeError:
    assert "torchloss" not in sys.modules
else:
    raise AssertionError("loaded")
"""


@pytest.mark.slow  # a process that imports torch and loads a program
@pytest.mark.failure(98)
def test_saved_programs_in_a_process_without_torchloss(tmp_path):
    """A decomposed one needs nothing; the other's error names torchloss and says to import it."""
    program = torch.export.export(torchloss.Softmax(-1), (torch.randn(1, 4),))
    files = [str(tmp_path / name) for name in ("core.pt2", "ops.pt2")]
    torch.export.save(program.run_decompositions(), files[0])
    torch.export.save(program, files[1])
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCHLOSS, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "torchloss.softmax" in done.stderr and "import the custom op" in done.stderr
    assert torch.export.load(files[1]).module()(torch.zeros(1, 4)).tolist() == [[0.25] * 4]


@pytest.mark.failure(98)
def test_onnx(tmp_path):
    """In onnxruntime: the same numbers, in the same dtype, for another batch size."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model = All(PLAIN)
    args = model.inputs()
    shapes = (tuple({0: torch.export.Dim.DYNAMIC} for _ in args),)
    program = torch.onnx.export(model, args, dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = runtime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    args = model.inputs((7, 5))
    feed = {i.name: a.numpy() for i, a in zip(session.get_inputs(), args, strict=True)}
    results = [torch.from_numpy(y) if y.ndim else torch.tensor(y) for y in session.run(None, feed)]
    torch.testing.assert_close(results, list(model(*args)), rtol=1e-5, atol=1e-6)


@pytest.mark.failure(98)
@pytest.mark.parametrize("make", [torchloss.Softmax, torchloss.LogSoftmax])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_onnx_of_maps(make, dtype):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    x = torch.tensor([[30, 0, 0], [1, 2, 3]], dtype=dtype)
    program = torch.onnx.export(make(-1), (x,), dynamo=True, verbose=False)
    session = runtime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    y = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])
    torch.testing.assert_close(y, make(-1)(x), rtol=1e-6 if dtype is torch.float32 else 2**-10, atol=0)


# TorchScript


@pytest.mark.failure(98)
@each_of_few
def test_trace_save_and_load(loss, tmp_path):
    """With gradients, which then are the model's, and for another batch size where there are no weights."""
    model = All([loss])
    file = tmp_path / "model.pt"
    torch.jit.trace(model, model.inputs()).save(file)
    loaded, args = torch.jit.load(file), model.inputs((4 if loss.weights else 7, 5))
    results, expected = loaded(*args)[0], model(*args)[0]
    torch.testing.assert_close(results, expected)
    pairs = ((results, loaded), (expected, model))
    mine, theirs = (torch.autograd.grad(y.sum(), tuple(m.parameters()), allow_unused=True) for y, m in pairs)
    torch.testing.assert_close(mine, theirs)


def test_trace_under_no_grad():
    model = nn.Sequential(nn.Linear(3, 3), torchloss.LogSoftmax(-1)).requires_grad_(False)
    x = torch.randn(2, 3)
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.trace(model, (x,))(x), model(x))


@pytest.mark.parametrize("make", [torchloss.Softmax, torchloss.LogSoftmax])
@pytest.mark.parametrize("dim", [0, -1])
def test_script_of_maps(make, dim, tmp_path):
    model, x = nn.Sequential(nn.Linear(3, 3), make(dim)), torch.randn(2, 3)
    torch.jit.script(model).save(tmp_path / "model.pt")
    loaded = torch.jit.load(tmp_path / "model.pt")
    assert torch.equal(loaded(x), model(x)) and type(model[1]) is make
    loaded(x)[0, 0].backward()
    assert next(loaded.parameters()).grad.any()


def test_script_of_functions():
    class Maps(nn.Module):
        def forward(self, x):
            return torchloss.functional.softmax(x, 1) + torchloss.functional.log_softmax(x, dim=-2)

    x = torch.randn(2, 3)
    assert torch.equal(torch.jit.script(Maps())(x), Maps()(x))
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(torch.jit.script(torchloss.Softmax2d())(x), torchloss.Softmax2d()(x))


MAPS = ("Softmax", "LogSoftmax", "Softmax2d", "softmax", "log_softmax")
SCRIPTED = [getattr(torchloss, n) for n in torchloss.__all__ if n not in MAPS]
SCRIPTED = [m() for m in SCRIPTED if inspect.isclass(m) and issubclass(m, nn.Module)]
SCRIPTED += [getattr(torchloss.functional, n) for n in torchloss.functional.__all__ if n not in MAPS]


@pytest.mark.failure(98)
@pytest.mark.parametrize("loss", SCRIPTED, ids=lambda m: getattr(m, "__name__", type(m).__name__))
def test_script_of_a_loss_says_what_to_do(loss):
    """In one line, and inside a model too."""
    name = getattr(loss, "__name__", type(loss).__name__)
    for model in (loss, nn.Sequential(loss)) if isinstance(loss, nn.Module) else (loss,):
        with pytest.raises(RuntimeError, match=rf"^torch.jit.script cannot compile \S*{name}: use torch.jit.trace .*$"):
            torch.jit.script(model)


# FX


@pytest.mark.parametrize("loss", PLAIN, ids=str)
def test_symbolic_trace_keeps_the_call(loss):
    x, t = sample(loss)
    graph = torch.fx.symbolic_trace(lambda x: loss.ours(x, t, loss.reductions[-1]))
    names = [n.target.__name__ for n in graph.graph.nodes if n.op == "call_function"]
    assert loss.name in names
    assert torch.equal(graph(x), loss.ours(x, t, loss.reductions[-1]))


@pytest.mark.parametrize("mode", ["real", "fake", "symbolic"])
@each_of_few
def test_make_fx_of_a_step(loss, mode):
    """The loss and its gradient are calls of their ops: none is taken early, and no number read."""

    def step(x, *t):
        x = x.detach().requires_grad_()
        return torch.autograd.grad(loss.ours(x, *t or [None], loss.reductions[-1]).sum(), x)[0]

    args = tensors(loss)
    graph = make_fx(step, tracing_mode=mode)(*args)
    names = [str(n.target) for n in graph.graph.nodes if "torchloss" in str(n.target)]
    assert names == [f"torchloss.{loss.op}.default", f"torchloss.{loss.op}_backward.default"]
    args = [a + 0.001 if a.is_floating_point() else a for a in args]
    torch.testing.assert_close(graph(*args), step(*args))


def test_make_fx_of_a_backward_pass_alone():
    """Of a loss whose gradient is ready: the graph asks for it with the grad that it is given."""
    x = torch.randn(2, 3, requires_grad=True)
    loss = torchloss.functional.cross_entropy(x, torch.tensor([0, 1]))
    graph = make_fx(lambda g: torch.autograd.grad(loss, x, g, retain_graph=False)[0])(torch.tensor(1.0))
    p = (x.softmax(1) - torch.eye(3)[:2]) / 2
    for factor in (2.0, 1.0):
        torch.testing.assert_close(graph(torch.tensor(factor)), (p * factor).detach())
