"""Routers: which experts serve which token, and how much each of them counts. One paper a class.

Each is called with tokens (..., N, D) and gives a `Routing`. N is one group of tokens, a sequence
of a batch: where a router counts places (Switch, expert choice), it counts within the group, so a
row of a batch never depends on another.
"""

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from seqlab.core.inputs import wide


class Routing(NamedTuple):
    """Slot j of token n: expert experts[n, j] serves it with weight weights[n, j], unless kept[n,
    j] is False.
    """

    experts: Int[Tensor, "*G N k"]
    weights: Float[Tensor, "*G N k"]
    load: Int[Tensor, " E"]  # how many tokens each expert serves
    losses: dict[
        str, Tensor
    ]  # auxiliary losses by name; Router.coefficients has the papers' factors
    kept: Bool[Tensor, "*G N k"] | None = None  # None: all


def top_k_gate(
    logits: Float[Tensor, "*G N E"], k: int, normalise: bool = True
) -> tuple[Float[Tensor, "*G N k"], Int[Tensor, "*G N k"]]:
    """The k largest of softmax(logits), divided by their sum or (normalise=False) as they are, and
    their experts.

    The `form` of Switch and Mixtral. Of equal logits `torch.topk` takes any; the kernel takes the
    first.
    """
    weights, experts = logits.softmax(-1).topk(k)
    return (weights / weights.sum(-1, keepdim=True) if normalise else weights), experts


class Router(nn.Module):
    """What all share: one score per expert, linear in the token, in float32 at least (Switch's
    selective precision).

    per_token: a token's experts depend on that token alone (outside training), so decoding one by
    one changes nothing. causal: it depends on no later token. `seqlab.model.stream` warns without
    the one and refuses without the other.
    """

    coefficients: ClassVar[dict[str, float]] = {}
    per_token = causal = True

    def __init__(self, d_model: int, n_experts: int, top_k: int):
        super().__init__()
        if not 1 <= top_k <= n_experts:
            raise ValueError(
                f"top_k is {top_k}, n_experts is {n_experts}: a token takes 1 to n_experts experts"
            )
        self.n_experts, self.top_k = n_experts, top_k
        self.score = nn.Linear(d_model, n_experts, bias=False)

    def logits(self, x: Float[Tensor, "*G N D"]) -> Float[Tensor, "*G N E"]:
        return F.linear(wide(x), wide(self.score.weight))

    def route(self, x: Float[Tensor, "*G N D"]) -> Routing:
        raise NotImplementedError(f"{type(self).__name__} has no route(x) -> Routing")

    def forward(self, x: Float[Tensor, "*G N D"]) -> Routing:
        return self.route(x)

    def routing(self, experts, weights, losses, kept=None) -> Routing:
        counts = torch.ones_like(experts) if kept is None else kept.to(experts.dtype)
        load = experts.new_zeros(self.n_experts).scatter_add(0, experts.flatten(), counts.flatten())
        return Routing(
            experts, weights, load, losses, kept
        )  # load without bincount, for which a GPU's host waits


class SoftRouter(Router):
    """All experts, each with its softmax weight (Jacobs et al. 1991, doi:10.1162/neco.1991.3.1.79).

    p = softmax(W x)        y = Σ_e p_e E_e(x)

    Every later router cuts this sum. The paper trains -log Σ_e p_e exp(-½‖target - E_e(x)‖²), so
    that one expert wins each case; the forward pass is the same sum.
    """

    def __init__(self, d_model: int, n_experts: int):
        super().__init__(d_model, n_experts, top_k=n_experts)

    def route(self, x):
        weights = self.logits(x).softmax(-1)
        return self.routing(
            torch.arange(self.n_experts, device=x.device).expand(weights.shape), weights, {}
        )


class NoisyTopKRouter(Router):
    """Noise, the k largest, softmax over those (Shazeer et al. 2017, arXiv:1701.06538).

    h = W_g x + ε softplus(W_n x), ε ~ N(0, 1) in training, 0 else        p = softmax(h over its k largest)

    The difference from the soft mixture: all but k weights are exactly zero. The noise lets
    near-equal experts swap, so that who serves is smooth on average: the load loss differentiates
    the chance P(n, e) that e is chosen when its own noise is drawn again. Losses: the squared
    coefficient of variation, over experts, of Σ_n p (importance) and Σ_n P (load), each times 0.1.
    W_g and W_n start at zero. 0.01 on the noise, as in the authors' code, keeps P defined.
    """

    coefficients: ClassVar[dict[str, float]] = {"importance": 0.1, "load": 0.1}

    def __init__(self, d_model: int, n_experts: int, top_k: int = 2):
        super().__init__(d_model, n_experts, top_k)
        self.noise = nn.Linear(d_model, n_experts, bias=False)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.noise.weight)

    def route(self, x):
        clean, spread = (
            self.logits(x),
            F.softplus(F.linear(wide(x), wide(self.noise.weight))) + 1e-2,
        )
        noisy = clean + spread * torch.randn_like(clean) if self.training else clean
        top, experts = noisy.topk(self.top_k)
        weights = top.softmax(-1)
        importance = torch.zeros_like(clean).scatter(-1, experts, weights)
        chance = self.chance(clean, noisy, spread)
        losses = {"importance": variation(importance), "load": variation(chance)}
        return self.routing(experts, weights, losses)

    def chance(self, clean, noisy, spread):
        """P(n, e): e's logit with fresh noise beats the k-th largest of the others'."""
        if self.top_k == self.n_experts:
            return torch.ones_like(clean)
        top = noisy.topk(self.top_k + 1).values
        last, next_ = top[..., -2:-1], top[..., -1:]
        bar = torch.where(
            noisy > next_, next_, last
        )  # without e, the next one moves up into the k largest
        return torch.special.ndtr((clean - bar) / spread)


class SwitchRouter(Router):
    """One expert a token, and a limited number of places (Fedus et al. 2021, arXiv:2101.03961).

    p = softmax(W x)        y = p_e E_e(x),  e = argmax p        places per expert: ceil(capacity_factor N / E)

    The difference from noisy top-k: k = 1, and p is not renormalised, so that the router still has
    a gradient. Tokens come in order; those that find their expert full are dropped: the layer gives
    0 and the residual carries them on. capacity_factor None: no limit. In training the router's
    input is jittered by a factor in 1 ± jitter. Losses: balance E Σ_e f_e P_e (share of tokens
    times mean probability; 1 when even), z mean(logsumexp²) (ST-MoE, arXiv:2202.08906). The paper
    counts places over a device's batch, this class within each sequence.
    """

    coefficients: ClassVar[dict[str, float]] = {"balance": 0.01, "z": 0.001}

    def __init__(
        self,
        d_model: int,
        n_experts: int,
        *,
        capacity_factor: float | None = 1.25,
        jitter: float = 0.01,
        form: Callable = top_k_gate,
    ):
        super().__init__(d_model, n_experts, top_k=1)
        self.capacity_factor, self.jitter, self.form = capacity_factor, jitter, form
        self.per_token = capacity_factor is None
        std = (0.1 / d_model) ** 0.5
        nn.init.trunc_normal_(self.score.weight, std=std, a=-2 * std, b=2 * std)

    def route(self, x):
        x = wide(x)
        if self.training and self.jitter:
            x = x * torch.empty_like(x).uniform_(1 - self.jitter, 1 + self.jitter)
        logits = self.logits(x)
        weights, experts = self.form(logits, 1, normalise=False)
        losses = {
            "balance": balance(logits.softmax(-1), experts),
            "z": logits.logsumexp(-1).square().mean(),
        }
        return self.routing(experts, weights, losses, self.kept(experts))

    def kept(self, experts: Int[Tensor, "*G N 1"]) -> Bool[Tensor, "*G N 1"] | None:
        if self.capacity_factor is None:
            return None
        places = math.ceil(self.capacity_factor * experts.shape[-2] / self.n_experts)
        turn = (
            F.one_hot(experts[..., 0], self.n_experts).cumsum(-2).gather(-1, experts)
        )  # 1: the first for its expert
        return turn <= places


class MixtralRouter(Router):
    """The k largest, softmax over those, no noise, no limit (Jiang et al. 2024, arXiv:2401.04088).

    p = softmax(the k largest of W x)        y = Σ p_e E_e(x)

    The difference from noisy top-k: the noise is gone; from Switch: nothing is dropped. Computed as
    in the released code: the k largest of softmax(W x), divided by their sum, which is the same.
    normalise=False keeps them as they are (Jamba; Qwen's norm_topk_prob=False). Loss: Switch's
    balance over all k slots, k when even.
    """

    coefficients: ClassVar[dict[str, float]] = {"balance": 0.001}

    def __init__(
        self,
        d_model: int,
        n_experts: int,
        top_k: int = 2,
        *,
        normalise: bool = True,
        form: Callable = top_k_gate,
    ):
        super().__init__(d_model, n_experts, top_k)
        self.normalise, self.form = normalise, form

    def route(self, x):
        logits = self.logits(x)
        weights, experts = self.form(logits, self.top_k, self.normalise)
        return self.routing(experts, weights, {"balance": balance(logits.softmax(-1), experts)})


class DeepSeekV3Router(Router):
    """Sigmoid scores, a bias that only chooses, groups (DeepSeek-AI 2024, arXiv:2412.19437;
    arXiv:2408.15664).

    s = sigmoid(W x)        chosen: the k largest of s + b within the best groups        p = scale · s / Σ s

    The difference from Mixtral: experts do not compete in a softmax, and balance comes from b
    instead of a loss: after each training step `update_bias()` moves b_e by rate · sign(mean load -
    load_e); b is in no weight and has no gradient. Experts stand in n_groups groups, a group's
    score is the sum of its two best s + b, and a token may go to the best top_groups of them. Other
    groups are masked by -inf: by 0 they would beat a negative s + b. Loss: balance within each
    sequence (1 when even), times 1e-4; its f counts the k largest s, as in the paper's equation 18,
    without bias or groups. b stays in float32 when the model is made smaller.
    """

    coefficients: ClassVar[dict[str, float]] = {"sequence": 1e-4}
    bias: Tensor

    def __init__(
        self,
        d_model: int,
        n_experts: int = 256,
        top_k: int = 8,
        *,
        n_groups: int = 8,
        top_groups: int = 4,
        scale: float = 2.5,
        normalise: bool = True,
        rate: float = 0.001,
    ):
        super().__init__(d_model, n_experts, top_k)
        if (
            n_experts % n_groups
            or not 1 <= top_groups <= n_groups
            or top_k > top_groups * n_experts // n_groups
        ):
            raise ValueError(
                f"n_experts is {n_experts}, n_groups {n_groups}, top_groups {top_groups}, top_k {top_k}: groups must be"
                " of one size, and the chosen groups must hold top_k experts (the defaults fit the paper's 256 experts;"
                " for a few: partial(DeepSeekV3Router, top_k=2, n_groups=1, top_groups=1))"
            )
        self.n_groups, self.top_groups = n_groups, top_groups
        self.scale, self.normalise, self.rate = scale, normalise, rate
        self.register_buffer("bias", torch.zeros(n_experts))
        self.seen: Tensor | int = 0  # load since the last update

    def route(self, x):
        s = self.logits(x).sigmoid()
        experts = self.allowed(s.detach() + self.bias).topk(self.top_k).indices
        weights = s.gather(-1, experts)
        if self.normalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        losses = {
            "sequence": balance(s / s.sum(-1, keepdim=True), s.topk(self.top_k).indices, each=True)
            / self.top_k
        }
        routing = self.routing(experts, self.scale * weights, losses)
        if self.training:
            self.seen = self.seen + routing.load
        return routing

    def allowed(self, choice: Float[Tensor, "*G N E"]) -> Float[Tensor, "*G N E"]:
        """choice, with -inf in all but the best groups."""
        groups = choice.unflatten(-1, (self.n_groups, -1))  # (..., N, groups, E / groups)
        best = groups.topk(min(2, groups.shape[-1])).values.sum(-1).topk(self.top_groups).indices
        masked = torch.ones(groups.shape[:-1], dtype=torch.bool, device=choice.device).scatter(
            -1, best, False
        )
        return groups.masked_fill(masked[..., None], -torch.inf).flatten(-2)

    @torch.no_grad()
    def update_bias(self):
        """After a training step: a little up for those who served less than the mean, a little down
        for the others.
        """
        if isinstance(self.seen, Tensor):
            load = self.seen.to(self.bias.dtype)
            self.bias += self.rate * (load.mean() - load).sign()
        self.seen = 0

    def _apply(self, fn, recurse=True):
        bias = self.bias
        super()._apply(fn, recurse)
        if self.bias.dtype.itemsize < 4:  # in bfloat16 a step of 0.001 would be lost from 0.5 on
            self.bias = bias.to(self.bias.device)
        return self


class ExpertChoiceRouter(Router):
    """Experts choose tokens (Zhou et al. 2022, arXiv:2202.09368).

    p = softmax(W x)        expert e serves the ceil(capacity_factor N / E) tokens of the sequence with the largest p_e

    The difference from Switch: the k largest along the tokens, not along the experts. Every expert
    is full, so there is nothing to balance; a token may have many experts, or none. **Not causal**:
    whether a token is served depends on those after it, so a language model with it cannot be
    decoded as it was trained.
    """

    per_token = causal = False

    def __init__(self, d_model: int, n_experts: int, *, capacity_factor: float = 2.0):
        super().__init__(d_model, n_experts, top_k=n_experts)
        self.capacity_factor = capacity_factor

    def route(self, x):
        p = self.logits(x).softmax(-1)
        N = p.shape[-2]
        places = min(N, math.ceil(self.capacity_factor * N / self.n_experts))
        chosen = p.topk(places, dim=-2).indices  # (..., places, E)
        kept = torch.zeros_like(p, dtype=torch.bool).scatter(-2, chosen, True)
        return self.routing(
            torch.arange(self.n_experts, device=x.device).expand(p.shape), p, {}, kept
        )


def balance(
    p: Float[Tensor, "*G N E"], experts: Int[Tensor, "*G N k"], each: bool = False
) -> Float[Tensor, ""]:
    """E Σ_e f_e P_e: f_e the share of tokens that chose e, P_e its mean probability. each: per
    sequence, averaged.
    """
    chosen = torch.zeros_like(p).scatter(-1, experts, 1.0)
    if not each:
        chosen, p = chosen.flatten(0, -2), p.flatten(0, -2)
    return p.shape[-1] * (chosen.mean(-2) * p.mean(-2)).sum(-1).mean()


def variation(x: Float[Tensor, "*G N E"]) -> Float[Tensor, ""]:
    """The squared coefficient of variation of the experts' totals."""
    total = x.flatten(0, -2).sum(0)
    return total.var(correction=0) / total.mean().square()
