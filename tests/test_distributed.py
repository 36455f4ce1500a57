"""DTensor on two processes: the sharded loss and gradient are those of the whole."""

import os

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from torchloss.testing.losses import FEW, leaves

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch.distributed's own

CASES = [(loss, r, d) for loss in FEW if not loss.weights for r in loss.reductions for d in (0, 1)]


def shard_and_compare(rank: int, folder: str) -> None:
    from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor, init_device_mesh

    import torchloss.distributed  # noqa: F401

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    for loss, reduction, dim in CASES:
        x, t = leaves(loss, *loss.sample((4, 6)))
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
        if dim == 0 and reduction != "mean":  # computed where it lies
            assert dy.placements == ((Shard(0),) if reduction == "none" else (Partial(),)), loss
        dy.full_tensor().backward(grad)
        where = f"{loss} {reduction} dim {dim}"
        torch.testing.assert_close(dy.full_tensor().detach(), y.detach(), msg=lambda m, w=where: f"{w}: {m}")
        torch.testing.assert_close(dx.grad.full_tensor(), x.grad, msg=lambda m, w=where: f"{w}: {m}")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
def test_dtensor_on_two_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")]))
    mp.spawn(shard_and_compare, args=(str(tmp_path),), nprocs=2)
