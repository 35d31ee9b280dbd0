"""The optimiser of pre-training: Muon with steps scaled by each tensor's own initial size; Adam for the rest.

T5's initialisation gives every tensor another size (q, for one, holds the attention's 1/sqrt(d_kv)), so one absolute
step size stalls. Here a step of size ``lr`` changes a tensor by ``lr`` times the root mean square it started with.
Muon: K. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/ (quintic Newton-Schulz, Nesterov momentum).
"""

from __future__ import annotations

from collections import defaultdict

import torch

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ITERATIONS = 5


def orthogonalise(matrices: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Return the nearest semi-orthogonal matrices, roughly (singular values 0.7 to 1.2). Shape [n, rows, columns].

    dtype: what it is computed in; bfloat16 is enough where the hardware has it.
    """
    a, b, c = _COEFFICIENTS
    x = matrices.to(dtype)
    transposed = x.size(1) > x.size(2)
    if transposed:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if transposed else x


class RelativeMuon(torch.optim.Optimizer):
    """Muon for 2-D tensors; ``lr`` is relative to the root mean square that each tensor had at the start."""

    def __init__(
        self,
        params,
        lr: float = 0.02,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """params: 2-D tensors at their initial values. weight_decay: share of ``lr`` taken off the weights a step."""
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.dtype = dtype
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["momentum"] = torch.zeros_like(parameter)
                state["scale"] = parameter.detach().square().mean().sqrt()

    @torch.no_grad()
    def step(self, closure=None) -> None:
        """Take one step; tensors of one shape are orthogonalised together."""
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for parameter in group["params"]:
                by_shape[parameter.shape].append(parameter)
            for shape, parameters in by_shape.items():
                directions = []
                for parameter in parameters:
                    momentum = self.state[parameter]["momentum"]
                    momentum.lerp_(parameter.grad, 1 - group["momentum"])
                    directions.append(torch.lerp(parameter.grad, momentum, group["momentum"]))
                updates = orthogonalise(torch.stack(directions), self.dtype)
                for parameter, update in zip(parameters, updates, strict=True):
                    size = group["lr"] * self.state[parameter]["scale"] * max(shape) ** 0.5
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    parameter.sub_(update.to(parameter.dtype) * size)


def build_optimizers(
    model, matrix_lr: float, embedding_lr: float, weight_decay: float, dtype: torch.dtype = torch.float32
) -> list[torch.optim.Optimizer]:
    """Return [Muon for the layers' matrices, Adam for embeddings, norms and position biases]; base rates in the groups.

    Each group keeps its rate at full scale under ``base_lr``, for the schedule.
    """
    matrices, vectors = [], []
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "relative_attention_bias" not in name and parameter is not model.shared.weight:
            matrices.append(parameter)
        elif parameter is not model.shared.weight:
            vectors.append(parameter)
    muon = RelativeMuon(matrices, lr=matrix_lr, weight_decay=weight_decay, dtype=dtype)
    adam = torch.optim.Adam(
        [{"params": [model.shared.weight], "lr": embedding_lr}, {"params": vectors, "lr": embedding_lr / 2}],
        betas=(0.9, 0.98),
        eps=1e-10,
        fused=True,
    )
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["base_lr"] = group["lr"]
    return [muon, adam]
