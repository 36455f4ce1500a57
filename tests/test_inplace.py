"""cross_entropy(inplace_backward=True): the same gradient, in the memory of the logits, and nobody else misled."""

import pytest
import torch
import torch.nn.functional as F

import torchloss
import torchloss.functional as T
from torchloss.testing.checks.memory import every_second, first_expanded, sliced, transposed

OPTIONS = ({}, {"weight": torch.linspace(0.5, 2, 7)}, {"label_smoothing": 0.2}, {"ignore_index": 3})
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
Y = torch.tensor([0, 3, 6, 1, 5, 2])


def logits(dtype=torch.float32, classes=7):
    return torch.randn(6, classes, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


@pytest.fixture(autouse=True)
def gradients_in_the_backward_pass():
    """Of what is compared with; the forward pass takes them with other last bits."""
    torchloss.set_early_gradient(0)
    yield
    torchloss.set_early_gradient()


def gradient(x, y, make=lambda x: x * 1, **options):
    """The gradient at the logits that `make` makes of a leaf, and whether it lies where they lie."""
    leaf, seen = x.clone().requires_grad_(), []
    z = make(leaf)
    z.register_hook(lambda g: seen.append((g.clone(), g.data_ptr() == z.data_ptr())))
    loss = T.cross_entropy(z, y, **options)
    loss.sum().backward()
    return loss.detach(), *seen[0], leaf.grad


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("reduction", ("none", "mean", "sum"))
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: next(iter(o), "plain"))
@pytest.mark.parametrize("classes", (7, 300))
def test_the_same_in_the_memory_of_the_logits(options, reduction, dtype, classes):
    options = {k: v.to(dtype).repeat(classes // 7 + 1)[:classes] if k == "weight" else v for k, v in options.items()}
    x = logits(dtype, classes)
    loss, grad, shared, leaf_grad = gradient(x, Y, reduction=reduction, **options)
    inplace = gradient(x, Y, reduction=reduction, inplace_backward=True, **options)
    assert not shared and inplace[2]
    for a, b in ((loss, inplace[0]), (grad, inplace[1]), (leaf_grad, inplace[3])):
        assert torch.equal(a, b)


@pytest.mark.parametrize("view", (sliced, every_second, transposed), ids=lambda v: v.__name__)
@pytest.mark.parametrize("shape", ((6, 7), (6, 300), (2, 5, 3, 4)), ids=str)
def test_in_any_layout(view, shape):
    x = torch.randn(shape)
    y = torch.randint(shape[1], (shape[0], *shape[2:]))
    right = gradient(x, y, view)
    got = gradient(x, y, view, inplace_backward=True)
    assert got[2] and torch.equal(right[0], got[0]) and torch.equal(right[1], got[1])


def test_a_whole_model():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(5, 7) for _ in range(2)]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn(6, 5)
    for layer, inplace in zip(layers, (False, True), strict=True):
        T.cross_entropy(layer(x)[:, :7], Y, inplace_backward=inplace).backward()
    for a, b in zip(layers[0].parameters(), layers[1].parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_who_saved_the_logits_is_told():
    leaf = logits().requires_grad_()
    z = leaf * 1
    version = z._version
    other = (z * z).sum()
    T.cross_entropy(z, Y, inplace_backward=True).backward()
    assert z._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        other.backward()


def test_a_second_backward_raises():
    loss = T.cross_entropy(logits().requires_grad_() * 1, Y, inplace_backward=True)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_logits_changed_before_backward_raise():
    z = logits().requires_grad_() * 1
    loss = T.cross_entropy(z, Y, inplace_backward=True)
    with torch.no_grad():
        z.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_gradient_that_comes_from_elsewhere_too():
    x = logits()
    got, right = x.clone().requires_grad_(), x.clone().requires_grad_()
    for leaf, options in ((got, {"inplace_backward": True}), (right, {})):
        z = leaf * 1
        (T.cross_entropy(z, Y, **options) + 3 * z.sum()).backward()
    assert torch.equal(got.grad, right.grad)


def test_refusals():
    z = logits().requires_grad_() * 1
    with pytest.raises(RuntimeError, match="leaf of the graph"):
        T.cross_entropy(logits().requires_grad_(), Y, inplace_backward=True)
    with pytest.raises(RuntimeError, match="class indices, not probabilities"):
        T.cross_entropy(z, z.detach().softmax(1), inplace_backward=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(T.cross_entropy(z, Y, inplace_backward=True), z, create_graph=True)
    wide = first_expanded(logits().requires_grad_() * 1)
    with pytest.raises(RuntimeError, match="share a place in memory"):
        T.cross_entropy(wide, Y, inplace_backward=True).backward()
    with pytest.raises(RuntimeError, match="for the CPU"):
        T.cross_entropy(torch.zeros(6, 7, device="meta", requires_grad=True) * 1, Y.to("meta"), inplace_backward=True)


def test_nothing_is_written_without_a_backward_pass():
    x = logits()
    before = x.clone()
    T.cross_entropy(x, Y, inplace_backward=True)
    with torch.no_grad():
        T.cross_entropy(x.requires_grad_() * 1, Y, inplace_backward=True)
    assert torch.equal(x, before)


def test_compiled_and_transformed_it_changes_nothing():
    x = logits()
    want = torch.func.grad(lambda x: F.cross_entropy(x, Y))(x)
    torch.testing.assert_close(torch.func.grad(lambda x: T.cross_entropy(x, Y, inplace_backward=True))(x), want)
    f = torch.compile(lambda x: T.cross_entropy(x * 1, Y, inplace_backward=True), backend="aot_eager", fullgraph=True)
    x.requires_grad_()
    f(x).backward()
    torch.testing.assert_close(x.grad, want)


def test_no_memory_of_the_logits_size():
    z = torch.randn(64, 5000).requires_grad_() * 1
    loss = T.cross_entropy(z, torch.arange(64), inplace_backward=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        loss.backward(inputs=[z])
    taken = [e.cpu_memory_usage for e in profile.events() if e.name == "aten::empty_strided"]
    assert sum(m for m in taken if m > 0) < 64 * 5000


WRITES = {  # over the logits; over another gradient, as for a loss whose early gradient was of another scale
    torch.ops.torchloss.cross_entropy_backward_.default: "input",
    torch.ops.torchloss.cross_entropy_backward_into.default: "grad_input",
}


def raw_call(op, **spoiled):
    """The arguments of a right call of the op, but for those that are given; `written` is what it writes."""
    x = logits()
    _, stats, total = torch.ops.torchloss.cross_entropy(x, Y, None, 1, 1, -100, 0.0)
    right = (torch.ones(()), x, Y, None, stats, total, 1, 1, -100, 0.0)
    if WRITES[op] == "grad_input":
        right = (torch.rand(6, 7), *right)
    names = [a.name for a in op._schema.arguments]
    return dict(zip(names, right, strict=True)) | {WRITES[op] if k == "written" else k: v for k, v in spoiled.items()}


@pytest.mark.parametrize("op", WRITES, ids=str)
def test_the_op_declares_what_it_writes(op):
    torch.library.opcheck(op, tuple(raw_call(op).values()), test_utils="test_schema")


@pytest.mark.parametrize("op", WRITES, ids=str)
def test_the_op_writes_the_gradient(op):
    call = raw_call(op, grad=torch.tensor(0.3))
    x, y, stats, total = call["input"].clone(), call["target"], call["stats"], call["total"]
    right, _ = torch.ops.torchloss.cross_entropy_backward(
        call["grad"], x, y, None, stats, total, 1, 1, -100, 0.0, False
    )
    op(**call)
    assert torch.equal(call[WRITES[op]], right)


SPOILED = {
    "a class out of range": {"target": torch.tensor([0, 3, 7, 1, 5, 2])},
    "a negative class": {"target": torch.tensor([0, 3, -1, 1, 5, 2])},
    "too few targets": {"target": Y[:5]},
    "targets of another dtype": {"target": Y.int()},
    "stats of another size": {"stats": torch.zeros(2, 5)},
    "stats of another layout": {"stats": torch.zeros(6, 2).t()},
    "a gradient of another size": {"grad": torch.ones(2)},
    "a weight of another size": {"weight": torch.ones(6)},
    "another dimension": {"dim": 2},
    "an unknown reduction": {"reduction": 3},
    "integers": {"input": torch.zeros(6, 7, dtype=torch.long)},
    "to write to another shape": {"written": torch.zeros(7, 6)},
    "to write to another dtype": {"written": torch.zeros(6, 7, dtype=torch.float64)},
    "to write to an expanded tensor": {"written": torch.zeros(1, 7).expand(6, 7)},
    "to write to an overlapping tensor": {"written": torch.zeros(100).as_strided((6, 7), (6, 1))},
}


@pytest.mark.parametrize("op", WRITES, ids=str)
@pytest.mark.parametrize("spoiled", SPOILED.values(), ids=SPOILED)
def test_a_bad_call_writes_nothing(spoiled, op):
    call = raw_call(op, **spoiled)
    written = call[WRITES[op]]
    before = written.clone()
    with pytest.raises(RuntimeError):
        op(**call)
    assert torch.equal(written, before)
