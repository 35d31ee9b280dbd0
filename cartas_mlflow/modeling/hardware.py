"""What machine this is: the facts from which device, precision, quantisation and batch are chosen."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cartas_mlflow.errors import SettingError

NATIVE_BFLOAT16 = ("amx_bf16", "avx512_bf16", "bf16", "sve_bf16")
"""CPU capabilities, as PyTorch names them, that compute bfloat16 products natively."""
AGREEMENT = 1e-3
"""Relative difference of a step's gradients from the CPU's up to which a device counts as computing rightly."""


@dataclass(frozen=True)
class Hardware:
    """Sizes in GiB; ``free_memory`` is that of the device that will train (VRAM on CUDA, else RAM)."""

    device: str
    """``cpu``, ``cuda`` (always the first visible GPU) or ``mps`` (Apple's)."""
    cpu: str
    cores: int
    ram: float
    free_memory: float
    bfloat16: bool
    """The device computes bfloat16 natively."""
    gpu: str | None = None
    vram: float | None = None
    cuda: str | None = None
    gpus: int = 0
    """CUDA GPUs that are visible; one of them trains."""
    remark: str | None = None
    """Portuguese: why a GPU that is there is not used."""

    def flat(self) -> dict[str, Any]:
        """For MLflow parameters: facts of the machine only, not of the moment."""
        facts = {"device": self.device, "cpu": self.cpu, "cores": self.cores, "ram_gb": round(self.ram, 1)}
        if self.gpu is not None:
            facts |= {"gpu": self.gpu, "vram_gb": round(self.vram or 0.0, 1), "cuda": self.cuda, "gpus": self.gpus}
        return facts | {"bfloat16": self.bfloat16}


def inspect_hardware(requested: str = "auto") -> Hardware:
    """Ask the machine.

    Args:
        requested: ``auto`` (CUDA where there is one, else Apple's GPU where it computes rightly), ``cpu``, ``cuda`` or
            ``mps``.

    Raises:
        SettingError: a GPU was asked for and there is none, or one that computes wrongly.
    """
    import psutil
    import torch

    memory = psutil.virtual_memory()
    common: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": len(psutil.Process().cpu_affinity())
        if hasattr(psutil.Process, "cpu_affinity")
        else psutil.cpu_count(),
        "ram": memory.total / 2**30,
    }
    remark = None
    if requested in {"auto", "cuda"} and torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info(0)
        return Hardware(
            device="cuda",
            free_memory=free / 2**30,
            bfloat16=torch.cuda.get_device_capability(0) >= (8, 0),
            gpu=torch.cuda.get_device_name(0),
            vram=total / 2**30,
            cuda=torch.version.cuda,
            gpus=torch.cuda.device_count(),
            **common,
        )
    if requested in {"auto", "mps"} and torch.backends.mps.is_available():
        if computes_as_cpu("mps"):  # its memory is the machine's
            return Hardware(device="mps", free_memory=memory.available / 2**30, bfloat16=False, gpu="Apple", **common)
        remark = "a GPU da Apple (mps) não calcula um passo de T5 como a CPU"
    if requested in {"cuda", "mps"}:
        why = remark or f"este computador não tem GPU {requested.upper()} utilizável pelo PyTorch"
        raise SettingError(f"training.device={requested}, mas {why}; use training.device=auto.")
    capabilities = torch.cpu.get_capabilities()
    bfloat16 = any(capabilities.get(name) for name in NATIVE_BFLOAT16)
    return Hardware(device="cpu", free_memory=memory.available / 2**30, bfloat16=bfloat16, remark=remark, **common)


def computes_as_cpu(device: str, *, agreement: float = AGREEMENT) -> bool:
    """Whether a training step of a small T5 has the gradients there that it has on the CPU.

    Args:
        agreement: largest relative difference of their norms.
    """
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"vocab_size": 64, "d_model": 64, "d_kv": 32, "d_ff": 128, "num_heads": 2, "num_layers": 2}
        shape = T5Config(**sizes, dropout_rate=0.0, decoder_start_token_id=0)
        model = T5ForConditionalGeneration(shape)
        prompt, text = torch.randint(2, 64, (4, 12)), torch.randint(2, 64, (4, 20))
    found = []
    for place in ("cpu", device):
        model.zero_grad()
        model.to(place)(input_ids=prompt.to(place), labels=text.to(place)).loss.backward()
        found.append(torch.cat([weight.grad.flatten().cpu() for weight in model.parameters()]))
    right, other = found
    return bool((right - other).norm() <= agreement * right.norm())


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
