from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqlab.core.inputs import wide
from seqlab.ffn.routers import MixtralRouter, Router, Routing
from seqlab.ffn.swiglu import SwiGLU


class MoE(nn.Module):
    """A mixture of experts: y = Σ_e p_e E_e(x) over the experts that a router chose for x, plus the
    shared experts.

    router and expert are factories, called with (d_model, n_experts) and (d_model, d_ff):
    DeepSeek-V3's layer is `MoE(D, 256, router=DeepSeekV3Router, d_ff=2048, n_shared=1)`. Shared
    experts serve every token (arXiv:2401.06066); n_shared of them side by side are one of n_shared
    times the width (d_shared sets it directly), scaled by sigmoid(w x) with gate_shared=True
    (Qwen).

    form: how the experts' sum is computed, a function of (x, routing, experts): `mix_sorted`, for
    experts of any kind, or a kernel.

    After each forward pass `routing` holds what the router decided, with its load per expert and
    its losses. Training adds the losses and moves DeepSeek-V3's biases, or nothing keeps the
    experts balanced (`seqlab.train.train` does):

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
        if unknown:
            given = ", ".join(f"{name}={value!r}" for name, value in unknown.items())
            raise TypeError(
                f"MoE has no option {given}: a router's goes to it, as in router=partial(MixtralRouter, ...)"
            )
        for name, make in (("router", router), ("expert", expert)):
            if isinstance(make, nn.Module):
                what = type(make).__name__
                raise TypeError(
                    f"{name} is a {what} that is made already: give {what} itself or partial({what}, ...)"
                )
        if not n_shared and (gate_shared or d_shared is not None):
            raise ValueError(
                "gate_shared and d_shared are about shared experts, and n_shared is 0: say n_shared=1"
            )
        if n_shared and d_ff is None and d_shared is None:
            raise ValueError(
                f"n_shared is {n_shared}, but neither d_ff nor d_shared says how wide a shared expert is"
            )
        self.form = form or mix_sorted
        self.router = router(d_model, n_experts)
        self.experts = nn.ModuleList(expert(d_model, d_ff) for _ in range(n_experts))
        self.shared = expert(d_model, d_shared or n_shared * d_ff) if n_shared else None
        self.shared_gate = nn.Linear(d_model, 1, bias=False) if n_shared and gate_shared else None

    def forward(self, x: Float[Tensor, "*B T D"]) -> Float[Tensor, "*B T D"]:
        self.routing = self.router(x)
        y = self.mix(x.flatten(0, -2), self.routing).view_as(x)
        if self.shared is None:
            return y
        return y + self.shared(x) * (
            1 if self.shared_gate is None else self.shared_gate(x).sigmoid()
        )

    def mix(self, x: Float[Tensor, "N D"], routing: Routing) -> Float[Tensor, "N D"]:
        return self.form(x, routing, self.experts)

    def __getstate__(self):
        return {
            **self.__dict__,
            "routing": None,
        }  # tensors inside a graph cannot be copied with the module


def mix_sorted(
    x: Float[Tensor, "N D"], routing: Routing, experts: nn.ModuleList
) -> Float[Tensor, "N D"]:
    """Σ p_e E_e(x), summed in float32 at least; 0 for a token that no expert serves.

    Dispatch by sorting: the chosen (token, slot) pairs are sorted by expert, their tokens gathered
    once into one buffer, each expert works on its own slice of it, and one indexed addition brings
    the results home. A loop over experts instead searches the tokens, gathers and adds once per
    expert, and in the backward pass writes a gradient of all tokens for each. Experts are modules
    of any kind, not slices of one tensor: torch's grouped_mm, which needs that and knows no
    float64, is slower up to 16 experts and a little faster for 64 small ones (benchmarks/moe.py).
    """
    pairs, load = by_expert(routing)
    tokens = pairs // routing.experts.shape[-1]
    slices = x.index_select(0, tokens).split(load)
    # An expert without tokens still runs in training: its gradient is zero, not missing.
    served = [
        E(part)
        for E, part in zip(experts, slices, strict=True)
        if len(part) or torch.is_grad_enabled()
    ]
    y = torch.cat(served) * routing.weights.flatten().index_select(0, pairs)[:, None]  # (pairs, D)
    return torch.zeros_like(wide(x)).index_add(0, tokens, wide(y)).to(x.dtype)


def by_expert(routing: Routing) -> tuple[Int[Tensor, " P"], list[int]]:
    """The pairs (token · k + slot) sorted by expert, dropped ones left out, and how many each
    expert has.
    """
    load = routing.load.tolist()
    experts = routing.experts.flatten()
    if routing.kept is not None:
        experts = experts.masked_fill(
            ~routing.kept.flatten(), len(load)
        )  # behind the last expert, and cut off
    return experts.argsort(stable=True)[: sum(load)], load


def auxiliary_loss(model: nn.Module) -> Tensor | float:
    """To add to the training loss: the losses of each MoE layer's last forward pass, times the
    router's factors.
    """
    layers = [m for m in model.modules() if isinstance(m, MoE) and m.routing is not None]
    return sum(
        (m.router.coefficients[name] * x for m in layers for name, x in m.routing.losses.items()),
        0.0,
    )
