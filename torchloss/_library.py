"""Loads the compiled operators. Nothing is compiled here: building is `pip install`'s business."""

from pathlib import Path

import torch


def _load(stem: str) -> bool:
    files = sorted(Path(__file__).parent.glob(f"{stem}.*so"))
    for file in files:
        torch.ops.load_library(file)
    return bool(files)


if not _load("_C"):
    raise ImportError(
        "torchloss is not built: no _C.*so beside " + __file__ + ". "
        "Install it with `pip install .`, or build it in place with `python setup.py build_ext --inplace`."
    )

# The CUDA library refers to symbols that only a CUDA build of torch has. Asking for the build, not for a device,
# keeps the import from initialising CUDA, which would break a later fork.
has_cuda = torch.version.cuda is not None and _load("_C_cuda")
