"""What the figures depend on, besides the code."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from time import perf_counter, process_time

import torch

import torchloss

FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "asimd", "bf16", "sve")
CPU = Path("/sys/devices/system/cpu/cpu0/cache")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def machine(devices: list[str]) -> dict[str, str]:
    """Facts by name; one that cannot be known here is left out."""
    facts = {
        "processor": processor() or platform.machine(),
        "cores": str(os.cpu_count()),
        "flags": " ".join(f for f in FLAGS if f in cpu_info("flags", "Features").split()),
        "load": load(),
        "L2": cache(2),
        "L3": cache(3),
        "huge pages": text(HUGE_PAGES).partition("[")[2].partition("]")[0],
        "torch": torch.__version__,
        "torch's instruction set": torch.backends.cpu.get_cpu_capability(),
        "torchloss": torchloss.__version__,
        "torchloss's commit": commit(),
        "TORCHLOSS_CPU": os.environ.get("TORCHLOSS_CPU", ""),
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
    }
    return {name: fact for name, fact in (facts | (gpu() if "cuda" in devices else {})).items() if fact}


def text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def cpu_info(*names: str) -> str:
    """The first processor's field of one of these names."""
    lines = (line.partition(":") for line in text(Path("/proc/cpuinfo")).splitlines())
    return next((value.strip() for name, _, value in lines if name.strip() in names), "")


def processor() -> str:
    return cpu_info("model name") or platform.processor()


def load() -> str:
    """What else kept the processor busy in the last minute, in processors: on a busy machine nothing is certain."""
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""


class Others:
    """What other programs, and on a shared machine other machines, kept busy since it was made, in processors."""

    def __init__(self) -> None:
        self.start = self.clocks()

    @staticmethod
    def clocks() -> tuple[float, float]:
        """The wall's clock, and the processors' time that others had."""
        fields = [int(f) for f in text(Path("/proc/stat")).partition("\n")[0].split()[1:9]]
        if len(fields) < 8:  # not Linux
            return perf_counter(), 0.0
        user, nice, system, _, _, irq, softirq, stolen = fields
        busy = (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")
        return perf_counter(), busy - process_time()

    def busy(self) -> float:
        wall, busy = (now - then for now, then in zip(self.clocks(), self.start, strict=True))
        return max(0.0, busy / wall)


def cache(level: int) -> str:
    """Such as `32768K`."""
    sizes = (folder for folder in CPU.glob("index*") if text(folder / "level").strip() == str(level))
    return next((text(folder / "size").strip() for folder in sizes), "")


def output(*command: str) -> str:
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def commit() -> str:
    """The commit of the checkout that torchloss is in, with + if files of it were changed."""
    if not (Path(torchloss.__file__).parents[1] / ".git").exists():
        return ""
    changed = output("git", "status", "--porcelain", "--untracked-files=no")
    return output("git", "rev-parse", "--short", "HEAD") + "+" * bool(changed)


def gpu() -> dict[str, str]:
    driver = output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()
    return {
        "gpu": torch.cuda.get_device_name(),
        "cuda": str(torch.version.cuda),
        "driver": driver[0] if driver else "",
    }
