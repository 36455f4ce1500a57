"""inplace_backward=True: the same gradient, in the memory of the logits, and nobody else misled."""

import pytest
import torch
from test_in_forward import FUNCTIONS, ONE_OF_EACH, OVER, Y

import torchloss
import torchloss.functional as T
from torchloss.testing.checks.memory import every_second, first_expanded, sliced, transposed
from torchloss.testing.losses import DTYPES

of_every_loss = pytest.mark.parametrize("loss", OVER, ids=str)
of_every_op = pytest.mark.parametrize("loss", ONE_OF_EACH, ids=str)
pytestmark = pytest.mark.skipif(not FUNCTIONS, reason="needs names that are private to torch")


@pytest.fixture(autouse=True)
def gradients_in_the_backward_pass():
    """For what is compared with: gradients of the forward pass differ in their last bits."""
    torchloss.set_early_gradient(0)
    yield
    torchloss.set_early_gradient()


def call(loss, z, t, reduction="mean", **more):
    options = loss.options(z.shape, reduction, z.dtype)
    return getattr(T, loss.name)(z, *([] if t is None else [t]), **options, **more)


def sample(loss, dtype=torch.float32, shape=(6, 7)):
    x, t = loss.sample(shape)
    return x.to(dtype), t if t is None or not t.is_floating_point() else t.to(dtype)


def gradient(loss, x, t, make=lambda x: x * 1, reduction="mean", **options):
    """The gradient at the logits that `make` makes of a leaf, and whether it lies where they lie."""
    leaf, seen = x.clone().requires_grad_(), []
    z = make(leaf)
    z.register_hook(lambda g: seen.append((g.clone(), g.data_ptr() == z.data_ptr())))
    y = call(loss, z, t, reduction, **options)
    y.sum().backward()
    return y.detach(), *seen[0], leaf.grad


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", ((6, 7), (6, 300)), ids=str)
@of_every_loss
def test_the_same_in_the_memory_of_the_logits(loss, shape, dtype):
    x, t = sample(loss, dtype, shape)
    for reduction in loss.reductions:
        value, grad, shared, leaf_grad = gradient(loss, x, t, reduction=reduction)
        inplace = gradient(loss, x, t, reduction=reduction, inplace_backward=True)
        assert not shared and inplace[2]
        for a, b in ((value, inplace[0]), (grad, inplace[1]), (leaf_grad, inplace[3])):
            assert torch.equal(a, b)


@pytest.mark.parametrize("view", (sliced, every_second, transposed), ids=lambda v: v.__name__)
@pytest.mark.parametrize("shape", ((6, 7), (6, 300), (2, 5, 3, 4)), ids=str)
@of_every_loss
def test_in_any_layout(loss, view, shape):
    x, t = sample(loss, shape=shape)
    right = gradient(loss, x, t, view)
    got = gradient(loss, x, t, view, inplace_backward=True)
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


@of_every_op
def test_whoever_uses_the_logits_again_is_told(loss):
    """Another loss that saved them, and a second backward pass."""
    x, t = sample(loss)
    z = x.requires_grad_() * 1
    version = z._version
    other, y = (z * z).sum(), call(loss, z, t, inplace_backward=True)
    y.backward(retain_graph=True)
    assert z._version > version
    for late in (other, y):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            late.backward()


@of_every_op
def test_logits_changed_before_backward_raise(loss):
    x, t = sample(loss)
    z = x.requires_grad_() * 1
    y = call(loss, z, t, inplace_backward=True)
    with torch.no_grad():
        z.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


@of_every_op
def test_a_gradient_that_comes_from_elsewhere_too(loss):
    x, t = sample(loss)
    grads = []
    for inplace in (True, False):
        leaf = x.clone().requires_grad_()
        z = leaf * 1
        (call(loss, z, t, inplace_backward=inplace) + 3 * z.sum()).backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)


@of_every_op
def test_weights_and_normalizers_have_their_gradients(loss):
    x, t = sample(loss)
    grads = []
    for inplace in (True, False):
        others = [torch.linspace(0.5, 1, 6).requires_grad_(), torch.tensor(3.0, requires_grad=True)]
        more = dict(zip(("row_weight", "normalizer"), others, strict=True))
        call(loss, x.clone().requires_grad_() * 1, t, **more, inplace_backward=inplace).backward()
        grads.append([a.grad for a in others])
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)


@of_every_op
def test_refusals(loss):
    x, t = sample(loss)
    z = x.requires_grad_() * 1
    with pytest.raises(RuntimeError, match="leaf of the graph"):
        call(loss, x, t, inplace_backward=True)
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(call(loss, z, t, inplace_backward=True), z, create_graph=True)
    with pytest.raises(RuntimeError, match="share a place in memory"):
        call(loss, first_expanded(x * 1), t, inplace_backward=True).backward()
    if t is not None and t.is_floating_point():
        with pytest.raises(RuntimeError, match="no gradient of the target"):
            call(loss, z, t.clone().requires_grad_(), inplace_backward=True)
    with pytest.raises(RuntimeError, match="on meta"):
        t = None if t is None else t.to("meta")
        call(loss, torch.zeros(6, 7, device="meta", requires_grad=True) * 1, t, inplace_backward=True)


@pytest.mark.parametrize("kept", (slice(None, -1), slice(1, None)), ids=("next", "previous"))
def test_a_target_in_the_memory_of_the_logits(kept):
    """As in self-distillation, from a row to its neighbour: the right gradient, or none."""
    leaf = torch.randn(2001, 7).requires_grad_()
    z = leaf * 1
    x, t = z[kept], (z[1:] if kept.stop else z[:-1]).detach()
    (right,) = torch.autograd.grad(T.kl_div_with_logits(x, t), x, retain_graph=True)
    try:
        T.kl_div_with_logits(x, t, inplace_backward=True).backward()
    except RuntimeError as error:
        assert "memory" in str(error)
    else:
        assert torch.equal(leaf.grad[kept], right)


@of_every_op
def test_nothing_is_written_without_a_backward_pass(loss):
    x, t = sample(loss)
    before = x.clone()
    call(loss, x, t, inplace_backward=True)
    with torch.no_grad():
        call(loss, x.requires_grad_() * 1, t, inplace_backward=True)
    assert torch.equal(x, before)


@of_every_op
def test_compiled_and_transformed_it_changes_nothing(loss):
    x, t = sample(loss)
    right = torch.func.grad(lambda x: loss.oracle(x, t))(x)
    torch.testing.assert_close(torch.func.grad(lambda x: call(loss, x, t, inplace_backward=True))(x), right)
    f = torch.compile(lambda x: call(loss, x * 1, t, inplace_backward=True), backend="aot_eager", fullgraph=True)
    x.requires_grad_()
    f(x).backward()
    torch.testing.assert_close(x.grad, right)


@of_every_op
def test_no_memory_of_the_logits_size(loss):
    x, t = sample(loss, shape=(64, 5000))
    z = x.requires_grad_() * 1
    y = call(loss, z, t, inplace_backward=True)
    with torch.profiler.profile(profile_memory=True) as profile:
        y.backward(inputs=[z])
    taken = [e.cpu_memory_usage for e in profile.events() if e.name == "aten::empty_strided"]
    assert sum(m for m in taken if m > 0) < 64 * 5000
