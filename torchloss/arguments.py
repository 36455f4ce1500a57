"""What the commands check of their arguments before they start."""

from __future__ import annotations

from pathlib import Path

import torch

DTYPES = {str(d).removeprefix("torch."): d for d in (torch.float64, torch.float32, torch.bfloat16, torch.float16)}


class Refusal(Exception):
    """Why nothing was done, in one line that says what to change."""


def device_of(device: str) -> str:
    """`cpu` or a GPU that is there."""
    if device.split(":")[0] not in ("cpu", "cuda"):
        raise Refusal(f"--device must be cpu or cuda, not {device!r}")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise Refusal(f"--device {device}: PyTorch sees no GPU here")
    return device


def devices_of(wanted: str) -> list[str]:
    """One device, or with `all` the CPU and, where there is one, the GPU."""
    if wanted == "all":
        return ["cpu"] + ["cuda"] * torch.cuda.is_available()
    if wanted not in ("cpu", "cuda"):
        raise Refusal(f"--device must be cpu, cuda or all, not {wanted!r}")
    return [device_of(wanted)]


def dtypes_of(names: str) -> tuple[torch.dtype, ...]:
    """The dtypes of a list with commas, each once, the most exact first."""
    unknown = [n for n in names.split(",") if n not in DTYPES]
    if unknown:
        raise Refusal(f"--dtype: {unknown[0]!r} is none of {', '.join(DTYPES)}")
    return tuple(d for name, d in DTYPES.items() if name in names.split(","))


def file_in_folder(option: str, path: Path, example: str) -> Path:
    """A path that a file can be written to, as far as its folder tells."""
    if path.is_dir():
        raise Refusal(f"{path} is a folder; name a file in it: {option} {path / example}")
    if not path.parent.is_dir():
        raise Refusal(f"there is no folder {path.parent}; make it or choose another {option}")
    return path
