"""What machine this is: the facts from which device, precision, quantisation and batch are chosen."""

from __future__ import annotations

import math
import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartas_mlflow.errors import SettingError

NATIVE_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
"""CPU capabilities, as PyTorch names them, that compute bfloat16 products natively."""
PROBE_SHAPE = (192, 512, 1024)
"""Rows, width and height of the matrices whose product is timed: some readings in a T5's feed-forward layer."""
PROBE_ROUNDS = 20


@dataclass(frozen=True)
class Hardware:
    """Sizes in GiB; ``free_memory`` is that of the device that will train (VRAM on CUDA, else RAM)."""

    device: str
    """``cpu`` or ``cuda`` (always the first visible GPU)."""
    cpu: str
    cores: int
    ram: float
    free_memory: float
    bfloat16: bool
    """The device computes bfloat16 natively."""
    gpu: str | None = None
    vram: float | None = None
    cuda: str | None = None

    def flat(self) -> dict[str, Any]:
        """For MLflow parameters: facts of the machine only, not of the moment."""
        facts = {"device": self.device, "cpu": self.cpu, "cores": self.cores, "ram_gb": round(self.ram, 1)}
        if self.gpu is not None:
            facts |= {"gpu": self.gpu, "vram_gb": round(self.vram or 0.0, 1), "cuda": self.cuda}
        return facts | {"bfloat16": self.bfloat16}


def inspect_hardware(requested: str = "auto") -> Hardware:
    """Ask the machine.

    Args:
        requested: ``auto`` (CUDA where there is one), ``cpu`` or ``cuda``.

    Raises:
        SettingError: ``cuda`` was asked for and there is none.
    """
    import psutil
    import torch

    available = torch.cuda.is_available()
    if requested == "cuda" and not available:
        raise SettingError(
            "training.device=cuda, mas este computador não tem GPU CUDA utilizável pelo PyTorch; use "
            "training.device=auto."
        )
    memory = psutil.virtual_memory()
    common: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": len(psutil.Process().cpu_affinity())
        if hasattr(psutil.Process, "cpu_affinity")
        else psutil.cpu_count(),
        "ram": memory.total / 2**30,
    }
    if available and requested != "cpu":
        free, total = torch.cuda.mem_get_info(0)
        return Hardware(
            device="cuda",
            free_memory=free / 2**30,
            bfloat16=torch.cuda.get_device_capability(0) >= (8, 0),
            gpu=torch.cuda.get_device_name(0),
            vram=total / 2**30,
            cuda=torch.version.cuda,
            **common,
        )
    capabilities = torch.cpu.get_capabilities()
    bfloat16 = any(capabilities.get(name) for name in NATIVE_BFLOAT16)
    return Hardware(device="cpu", free_memory=memory.available / 2**30, bfloat16=bfloat16, **common)


def measure_bfloat16_gain() -> float:
    """How many times as fast as in float32 this CPU multiplies matrices in bfloat16; takes a tenth of a second.

    That it has the instructions does not tell: with ``avx512_bf16`` alone some CPUs take half the time of float32, and
    others twice.
    """
    import torch

    rows, width, height = PROBE_SHAPE
    pairs = {
        dtype: (torch.ones(rows, width, dtype=dtype), torch.ones(width, height, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    best = dict.fromkeys(pairs, math.inf)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # whose own time is then the whole time, whatever else the machine is doing
    try:
        for _ in range(PROBE_ROUNDS):
            for dtype, (left, right) in pairs.items():
                started = time.thread_time()
                left @ right
                best[dtype] = min(best[dtype], time.thread_time() - started)
    finally:
        torch.set_num_threads(threads)
    return best[torch.float32] / (best[torch.bfloat16] or math.inf)  # a clock too coarse to tell tells of no gain


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether the memory of the device or of the machine did not suffice (PyTorch has a type only for the GPU's)."""
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def _cpu_name() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return " ".join(line.split(":", 1)[1].split())
    return platform.processor() or platform.machine()
