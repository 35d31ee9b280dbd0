"""What tells one base from another: its weights, whatever file they come in."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

PREFIX = "w1:"
"""Of a fingerprint of the weights. One without it, of an earlier version, is of the file."""
SHARED = "shared.weight"
_SHARED_AGAIN = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "lm_head.weight")
"""Names under which old files hold the shared embeddings once more."""
_OBSOLETE = re.compile(r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight")
"""In PTT5's files; no T5 of today has it, and it is not loaded."""


def fingerprint_weights(files: tuple[Path, ...]) -> str:
    """``w1:`` and 16 hex digits, of the tensors that the files hold: name, shape, and values in float32.

    The same weights have the same fingerprint as ``.bin`` and as safetensors, whole and in shards, and where a file
    holds the tied embeddings four times or once.
    """
    return _weights(tuple((path, stat.st_size, stat.st_mtime_ns) for path in files for stat in [path.stat()]))


def fingerprint_files(files: tuple[Path, ...]) -> str:
    """16 hex digits of the SHA-256 of the files: what earlier versions wrote beside their adapters."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as stream:
            while block := stream.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()[:16]


def is_of(fingerprint: str, files: tuple[Path, ...]) -> bool:
    """Whether a fingerprint, of this version or an earlier one, is that of the weights in these files."""
    make = fingerprint_weights if fingerprint.startswith(PREFIX) else fingerprint_files
    return fingerprint == make(files)


@functools.lru_cache(maxsize=8)
def _weights(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Kept for as long as name, size and time of the files stay: PTT5 base takes seconds to read."""
    found = {name: _digest(tensor) for path, _, _ in files for name, tensor in _tensors(path)}
    shared = found.get(SHARED) or next((found[name] for name in _SHARED_AGAIN if name in found), None)
    for name in _SHARED_AGAIN:
        if found.get(name) == shared:
            found.pop(name, None)
    if shared is not None:
        found[SHARED] = shared
    lines = (f"{name} {digest}\n" for name, digest in sorted(found.items()) if not _OBSOLETE.fullmatch(name))
    return PREFIX + hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


def _tensors(path: Path) -> Iterator[tuple[str, torch.Tensor]]:
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            names = list(file.keys())
        for name in names:
            # Opened for each: the pages of a file count as the process's memory for as long as it is open.
            with safe_open(path, "pt") as file:
                yield name, file.get_tensor(name)
        return
    import torch

    yield from torch.load(path, map_location="cpu", weights_only=True).items()


def _digest(tensor: torch.Tensor) -> str:
    digest = hashlib.sha256(str(tuple(tensor.shape)).encode())
    digest.update(tensor.float().contiguous().numpy().reshape(-1).view("u1"))
    return digest.hexdigest()
