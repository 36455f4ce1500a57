"""Two processes: the loss and the gradients are those of one process with all the data.

One pair of processes runs all checks, each for each loss; the tests read what it found.
"""

import contextlib
import datetime
import json
import os
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.testing import assert_close

from torchloss.testing.losses import EVERY, FEW, leaves

CHECKS = {}
# By their numbers in docs/failures.md: what has gone wrong elsewhere and the check sees.
FAILURES = {
    "dtensor_uneven": (13, 94, 95),
    "ddp_all_ignored_on_one_process": (16,),
    "ddp_mean_of_nothing_on_one_process": (16,),
    "fsdp2_all_ignored_on_one_process": (16,),
    "dtensor_class_weights": (82,),
    "dtensor_in_loss_parallel": (83,),
    "dtensor_beside_a_plain_tensor": (86,),
    "ddp_sum_over_global_count": (92, 93),
    "fsdp2_sum_over_global_count": (92, 93),
    "ddp_mean_of_equal_shards": (93,),
    "fsdp2_mean_of_equal_shards": (93,),
    "dtensor": (94, 95),
}


def check(capability, *losses):
    """Names what a function shows, and for which losses."""

    def register(f):
        CHECKS[f.__name__] = f, capability, losses
        return f

    return register


# DTensor


@check("DTensor", *(x for x in EVERY if not x.weights and (x in FEW or "normalizer" in x.params)))
def dtensor(loss, rank):
    from torch.distributed.tensor import init_device_mesh

    mesh = init_device_mesh("cpu", (2,))
    for reduction in loss.reductions:
        for dim in (0, 1):
            shard_and_compare(loss, reduction, dim, mesh)


@check("DTensor", *(loss for loss in FEW if not loss.weights))
def dtensor_uneven(loss, rank):
    """The last process holds less: neither rows nor classes are made up to fill it."""
    from torch.distributed.tensor import init_device_mesh

    for reduction in loss.reductions:
        for dim in (0, 1):
            shard_and_compare(loss, reduction, dim, init_device_mesh("cpu", (2,)), (5, 7))


@check("DTensor", *(loss for loss in EVERY if loss.weights and loss.family == "rowwise"))
def dtensor_class_weights(loss, rank):
    from torch.distributed.tensor import init_device_mesh
    from torch.distributed.tensor.experimental import implicit_replication

    for reduction in loss.reductions:
        for dim in (0, 1):
            with implicit_replication():  # of the weights
                shard_and_compare(loss, reduction, dim, init_device_mesh("cpu", (2,)))


@check("DTensor", *(x for x in FEW if x.name in ("log_softmax", "nll_loss", "cross_entropy") and not x.weights))
def dtensor_in_loss_parallel(loss, rank):
    """It gives torch's operators other gradients, and these none."""
    from torch.distributed.tensor import init_device_mesh
    from torch.distributed.tensor.parallel import loss_parallel

    for reduction in loss.reductions:
        for dim in (0, 1):
            with loss_parallel():
                shard_and_compare(loss, reduction, dim, init_device_mesh("cpu", (2,)))


@check("DTensor", *(loss for loss in FEW if loss.target is not None and not loss.weights))
def dtensor_beside_a_plain_tensor(loss, rank):
    from torch.distributed.tensor import Shard, distribute_tensor, init_device_mesh

    import torchloss.distributed  # noqa: F401

    x, t = loss.sample((4, 6))
    for dim in (0, 1):
        dx = distribute_tensor(x, init_device_mesh("cpu", (2,)), [Shard(dim)])
        with pytest.raises(RuntimeError, match="mixed torch.Tensor and DTensor"):
            loss.ours(dx, t, "sum")


def shard_and_compare(loss, reduction, dim, mesh, shape=(4, 6)):
    from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor

    import torchloss.distributed  # noqa: F401

    x, t = leaves(loss, *loss.sample(shape))
    y = loss.oracle(x, t, reduction)
    grad = torch.linspace(1, 2, y.numel(), dtype=y.dtype).reshape(y.shape)
    y.backward(grad)

    split = [Shard(dim)]
    dx = distribute_tensor(x.detach(), mesh, split).requires_grad_()
    dt = t
    if t is not None:
        rows = t.dim() < x.dim()
        dt = distribute_tensor(t.detach(), mesh, [Replicate()] if rows and dim else split)
    dy = loss.ours(dx, dt, reduction)
    if dim == 0 and reduction != "mean" and loss.name != "logit_stats":  # computed where it lies
        assert dy.placements == ((Shard(0),) if reduction == "none" else (Partial(),)), loss
    dy.full_tensor().backward(grad)
    where = f"{reduction} dim {dim}"
    assert_close(dy.full_tensor().detach(), y.detach(), msg=lambda m: f"{where}: {m}")
    assert_close(dx.grad.full_tensor(), x.grad, msg=lambda m: f"{where}: {m}")


# Data parallel: both average the gradients over the processes. Hence a mean of equal shards is the mean; everywhere
# else it takes sum / global count * processes, for a mean of means weighs the rows of a small shard more.


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 5)).double()


def data_parallel(model):
    return nn.parallel.DistributedDataParallel(model)


def fully_sharded(model):
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import init_device_mesh

    mesh = init_device_mesh("cpu", (2,))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def part(a, rank):
    """The half of a batch, of ones that are as long: elements of equal weight then lie in the same places."""
    return None if a is None else a.chunk(2)[rank]


def batch(loss):
    """A batch of 32 rows. Every fifth class index is ignored: 4 in one half and 3 in the other."""
    return loss.sample((32, 5))


def total(loss, y):
    """A loss that maps a row to a row, or to several values, as a sum."""
    return (y * torch.arange(5).cos()).sum() if loss.family == "map" else y.sum()


def compare_gradients(actual, expected):
    """In float64: a wrong count shows in the first digits, another order of the sums in the last ones."""
    for a, b in zip(actual.parameters(), expected.parameters(), strict=True):
        grad = a.grad.full_tensor() if hasattr(a.grad, "full_tensor") else a.grad
        assert_close(grad, b.grad, rtol=1e-9, atol=1e-9 * b.grad.abs().max().item())


def train_on_equal_means(loss, rank, wrap):
    x, t = batch(loss)
    if t is not None and not t.is_floating_point():
        t = torch.arange(32) % 4  # as many of each class, and so as much weight, in both halves
    actual, expected = wrap(model()), model()
    loss.ours(actual(part(x, rank)), part(t, rank), "mean").backward()
    loss.oracle(expected(x), t, "mean").backward()
    compare_gradients(actual, expected)


def train_on_ragged_sums(loss, rank, wrap, ignored_on=None):
    x, t = batch(loss)
    if ignored_on is not None:
        part(t, ignored_on).fill_(-100)
    indices = t is not None and not t.is_floating_point()
    count = (t != -100).sum() if indices else 32
    actual, expected = wrap(model()), model()
    y = loss.ours(actual(part(x, rank)), part(t, rank), "sum")
    assert y.requires_grad
    (total(loss, y) / count * 2).backward()
    (total(loss, loss.oracle(expected(x), t, "sum")) / count).backward()
    compare_gradients(actual, expected)


MEANS = [loss for loss in FEW if "mean" in loss.reductions]
INDICES = [loss for loss in FEW if loss.op in ("nll_loss", "cross_entropy")]


@check("DDP", *MEANS)
def ddp_mean_of_equal_shards(loss, rank):
    train_on_equal_means(loss, rank, data_parallel)


@check("DDP", *FEW)
def ddp_sum_over_global_count(loss, rank):
    train_on_ragged_sums(loss, rank, data_parallel)


@check("DDP", *INDICES)
def ddp_all_ignored_on_one_process(loss, rank):
    """It takes part in the reduction all the same, else the other one would wait."""
    train_on_ragged_sums(loss, rank, data_parallel, ignored_on=1)


@check("DDP", *INDICES)
def ddp_mean_of_nothing_on_one_process(loss, rank):
    """The mean of no rows is NaN, as torch's; its gradient is 0."""
    x, t = batch(loss)
    part(t, 1).fill_(-100)
    actual, expected = data_parallel(model()), model()
    loss.ours(actual(part(x, rank)), part(t, rank), "mean").backward()
    (loss.oracle(expected(part(x, 0)), part(t, 0), "mean") / 2).backward()
    compare_gradients(actual, expected)


@check("FSDP2", *MEANS)
def fsdp2_mean_of_equal_shards(loss, rank):
    train_on_equal_means(loss, rank, fully_sharded)


@check("FSDP2", *FEW)
def fsdp2_sum_over_global_count(loss, rank):
    train_on_ragged_sums(loss, rank, fully_sharded)


@check("FSDP2", *INDICES)
def fsdp2_all_ignored_on_one_process(loss, rank):
    train_on_ragged_sums(loss, rank, fully_sharded, ignored_on=0)


# The processes


def run_checks(rank, folder):
    """Writes what passed, and what failed: that is the end, as the other process may wait for this one."""
    torch.set_num_threads(1)
    wait = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=wait)
    found = {}
    for name, (f, _, losses) in CHECKS.items():
        for loss in losses:
            try:
                f(loss, rank)
                found[f"{name} {loss}"] = "passed"
            except Exception:
                found[f"{name} {loss}"] = traceback.format_exc()
                raise
            finally:
                Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each process found."""
    folder = tmp_path_factory.mktemp("processes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("PYTHONWARNINGS", "ignore")  # torch.distributed's own
        with contextlib.suppress(mp.ProcessRaisedException):
            mp.spawn(run_checks, args=(str(folder),), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def marks(name, capability):
    failures = [pytest.mark.failure(*FAILURES[name])] if name in FAILURES else []
    return [pytest.mark.capability(capability), *failures]


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
@pytest.mark.parametrize(
    "name, loss",
    [
        pytest.param(name, loss, marks=marks(name, capability), id=f"{name}-{loss}")
        for name, (_, capability, losses) in CHECKS.items()
        for loss in losses
    ],
)
def test_on_two_processes(name, loss, found):
    for rank in range(2):
        result = found[rank].get(f"{name} {loss}", "did not run, because another check failed")
        assert result == "passed", f"process {rank}: {result}"
