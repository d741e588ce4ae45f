"""The LAMB optimizer, with which the published CAFormer weights were trained."""

from collections.abc import Callable, Iterable
from typing import Any

import torch


class Lamb(torch.optim.Optimizer):
    """Layer-wise adaptive moments: Adam's direction, scaled to the norm of each parameter.

    ``w = w - lr phi(|w|) / |r| r`` with ``r = m / (sqrt(v) + eps) + weight_decay w`` (algorithm 2); the scale is 1 for
    parameters without decay and for norms of zero.

    Args:
        params: parameters or groups of them.
        lr: learning rate.
        betas: decay of the two moments for each step.
        eps: added to the square root of the second moment.
        weight_decay: decay of the weights, as a fraction of the learning rate.
        max_grad_norm: norm that all gradients together are clipped to before the moments.

    Source: You et al., 2019, arXiv:1904.00962. Differs from the original code in: gradients are clipped, and parameters
    without decay are not scaled, as in the implementation the published image models were trained with.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        max_grad_norm: float = 1.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self.max_grad_norm = max_grad_norm

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        cut = (self.max_grad_norm / torch.nn.utils.get_total_norm(grads)).clamp(max=1.0)
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._change(p, p.grad * cut, group)
        return loss

    def _change(self, p: torch.Tensor, grad: torch.Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[p], group["betas"]
        if not state:
            state.update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
        state["step"] += 1
        mean = state["exp_avg"].lerp_(grad, 1 - beta1) / (1 - beta1 ** state["step"])
        square = state["exp_avg_sq"].lerp_(grad.square(), 1 - beta2) / (1 - beta2 ** state["step"])
        update = mean / (square.sqrt() + group["eps"])
        if group["weight_decay"]:
            update = update + group["weight_decay"] * p
            ratio = p.norm() / update.norm()
            update = update * torch.where(ratio.isfinite() & (ratio > 0), ratio, 1.0)
        p.sub_(group["lr"] * update)
