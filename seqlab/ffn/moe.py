from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqlab.core.inputs import wide
from seqlab.ffn.routers import MixtralRouter, Router, Routing
from seqlab.ffn.swiglu import SwiGLU


class MoE(nn.Module):
    """A mixture of experts: y = Σ_e p_e E_e(x) over the experts that a router chose for x.

    The difference from a dense ffn: each token runs through few of the experts. router and expert
    are factories, called with (d_model, n_experts) and (d_model, d_ff): DeepSeek-V3's layer is
    `MoE(D, 256, router=DeepSeekV3Router, d_ff=2048, n_shared=1)`. Shared experts are added for
    every token (arXiv:2401.06066); n_shared of them side by side are one expert of n_shared times
    the width (d_shared sets its width directly), scaled by sigmoid(w x) with gate_shared=True
    (Qwen).

    form: how the experts' sum is computed, a function of (x, routing, experts): `mix_sorted`, for
    experts of any kind, or a kernel.

    After each forward pass `routing` holds the router's decision, with its load per expert and its
    losses. Only the losses, or DeepSeek-V3's biases, keep the experts balanced, so a training step
    uses both (`seqlab.train.train` does):

        (loss + auxiliary_loss(model)).backward()
        optimiser.step()
        for router in (m for m in model.modules() if hasattr(m, "update_bias")):
            router.update_bias()
    """

    routing: Routing | None = None

    def __init__(
        self,
        d_model: int,
        n_experts: int = 8,
        *,
        router: Callable[[int, int], Router] = MixtralRouter,
        expert: Callable[[int, int | None], nn.Module] = SwiGLU,
        d_ff: int | None = None,
        n_shared: int = 0,
        d_shared: int | None = None,
        gate_shared: bool = False,
        form: Callable[[Tensor, Routing, nn.ModuleList], Tensor] | None = None,
        **unknown,
    ):
        super().__init__()
        check_options(unknown, router=router, expert=expert)
        width = shared_width(d_ff, n_shared, d_shared, gate_shared)
        self.form = form or mix_sorted
        self.router = router(d_model, n_experts)
        self.experts = nn.ModuleList(expert(d_model, d_ff) for _ in range(n_experts))
        self.shared = None if width is None else expert(d_model, width)
        self.shared_gate = nn.Linear(d_model, 1, bias=False) if gate_shared else None

    def forward(self, x: Float[Tensor, "*B T D"]) -> Float[Tensor, "*B T D"]:
        routing = self.router(x)
        self.routing = routing
        y = self.mix(x.flatten(0, -2), routing).view_as(x)
        if self.shared is None:
            return y
        shared = self.shared(x)
        return y + (shared if self.shared_gate is None else self.shared_gate(x).sigmoid() * shared)

    def mix(self, x: Float[Tensor, "N D"], routing: Routing) -> Float[Tensor, "N D"]:
        return self.form(x, routing, self.experts)

    def __getstate__(self):
        """Without `routing`: tensors inside a graph cannot be copied with the module."""
        return {**self.__dict__, "routing": None}


def check_options(unknown: dict, **factories: Callable):
    """TypeError for an option that MoE does not have, and for a module instead of a factory."""
    if unknown:
        given = ", ".join(f"{name}={value!r}" for name, value in unknown.items())
        raise TypeError(
            f"MoE has no option {given}: "
            "a router's goes to it, as in router=partial(MixtralRouter, ...)"
        )
    for name, make in factories.items():
        if isinstance(make, nn.Module):
            what = type(make).__name__
            raise TypeError(
                f"{name} is already a module: give its factory, {what} or partial({what}, ...)"
            )


def shared_width(
    d_ff: int | None, n_shared: int, d_shared: int | None, gate_shared: bool
) -> int | None:
    """The width of the shared experts side by side, or None if there is none."""
    if not n_shared:
        if gate_shared or d_shared is not None:
            raise ValueError(
                "gate_shared and d_shared are about shared experts, and n_shared is 0: "
                "say n_shared=1"
            )
        return None
    if d_shared:
        return d_shared
    if d_ff is None:
        raise ValueError(
            f"n_shared is {n_shared}, but neither d_ff nor d_shared says how wide a shared expert "
            "is"
        )
    return n_shared * d_ff


def mix_sorted(
    x: Float[Tensor, "N D"], routing: Routing, experts: nn.ModuleList
) -> Float[Tensor, "N D"]:
    """Σ p_e E_e(x), summed in float32 at least; 0 for a token that no expert serves.

    Dispatch by sorting: the chosen (token, slot) pairs are sorted by expert and their tokens
    gathered once into one buffer; each expert works on its own slice of it, and one indexed
    addition puts the results back in place. A loop over experts would instead search the tokens,
    gather and add once per expert, and write a gradient of all tokens for each in the backward
    pass. Experts are modules of any kind, not slices of one tensor: torch's grouped_mm, which needs
    that and does not support float64, is slower up to 16 experts and a little faster for 64 small
    ones (benchmarks/moe.py).
    """
    pairs, load = by_expert(routing)
    tokens = pairs // routing.experts.shape[-1]
    slices = x.index_select(0, tokens).split(load)
    # In training an expert without tokens runs too: its gradient is zero, not missing.
    every = torch.is_grad_enabled() or len(x) == 0
    served = [E(part) for E, part in zip(experts, slices, strict=True) if every or len(part)]
    weights = routing.weights.flatten().index_select(0, pairs)
    y = torch.cat(served) * weights[:, None]  # (pairs, D)
    return torch.zeros_like(wide(x)).index_add(0, tokens, wide(y)).to(x.dtype)


def by_expert(routing: Routing) -> tuple[Int[Tensor, " P"], list[int]]:
    """The kept pairs (token · k + slot) sorted by expert, and how many each expert has."""
    load = routing.load.tolist()
    experts = routing.experts.flatten()
    if routing.kept is not None:
        # Dropped pairs are sorted behind the last expert, and cut off.
        experts = experts.masked_fill(~routing.kept.flatten(), len(load))
    return experts.argsort(stable=True)[: sum(load)], load


def auxiliary_loss(model: nn.Module) -> Tensor | float:
    """The losses of each MoE layer's last forward pass, times the router's factors, summed.

    To be added to the training loss.
    """
    total = 0.0
    for layer in model.modules():
        if isinstance(layer, MoE) and layer.routing is not None:
            for name, loss in layer.routing.losses.items():
                total = total + layer.router.coefficients[name] * loss
    return total
