"""Routers: which experts serve each token, and with what weight. One paper a class.

A router is called with tokens (..., N, D) and returns a `Routing`. N is one group of tokens, one
sequence of a batch. A router that counts places (Switch, expert choice) counts them within the
group, so no row of a batch depends on another.
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
    """Expert experts[n, j] serves token n with weight weights[n, j], unless kept[n, j] is False.

    load counts the tokens that each expert serves. losses holds the auxiliary losses by name; the
    papers' factors are in Router.coefficients. kept is None if every slot is kept.
    """

    experts: Int[Tensor, "*G N k"]
    weights: Float[Tensor, "*G N k"]
    load: Int[Tensor, " E"]
    losses: dict[str, Tensor]
    kept: Bool[Tensor, "*G N k"] | None = None


def top_k_gate(
    logits: Float[Tensor, "*G N E"], k: int, normalise: bool = True
) -> tuple[Float[Tensor, "*G N k"], Int[Tensor, "*G N k"]]:
    """The k largest of softmax(logits) and their experts; normalise=True divides by their sum.

    The `form` of Switch and Mixtral. Which of several equal logits is taken is up to `torch.topk`;
    the kernel takes the first.
    """
    weights, experts = logits.softmax(-1).topk(k)
    if normalise:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, experts


class Router(nn.Module):
    """What all routers share: one score per expert, linear in the token.

    Scores are computed in float32 at least (Switch's selective precision). Buffers named in `exact`
    stay in float32 when the model is made smaller.

    per_token: the experts of a token depend on that token alone (outside training), so decoding
    token by token changes nothing. causal: they depend on no later token. `seqlab.model.stream`
    warns if the first is False, and refuses if the second is.
    """

    coefficients: ClassVar[dict[str, float]] = {}
    exact: ClassVar[tuple[str, ...]] = ()
    per_token: bool = True
    causal: bool = True

    def __init__(self, d_model: int, n_experts: int, top_k: int):
        super().__init__()
        if not 1 <= top_k <= n_experts:
            raise ValueError(
                f"top_k is {top_k}, n_experts is {n_experts}: a token takes 1 to n_experts experts"
            )
        self.n_experts = n_experts
        self.top_k = top_k
        self.score = nn.Linear(d_model, n_experts, bias=False)

    def logits(self, x: Float[Tensor, "*G N D"]) -> Float[Tensor, "*G N E"]:
        return F.linear(wide(x), wide(self.score.weight))

    def route(self, x: Float[Tensor, "*G N D"]) -> Routing:
        raise NotImplementedError(f"{type(self).__name__} has no route(x) -> Routing")

    def forward(self, x: Float[Tensor, "*G N D"]) -> Routing:
        return self.route(x)

    def routing(
        self,
        experts: Int[Tensor, "*G N k"],
        weights: Float[Tensor, "*G N k"],
        losses: dict[str, Tensor],
        kept: Bool[Tensor, "*G N k"] | None = None,
    ) -> Routing:
        """A Routing with its load. If there is no token, every loss is 0 instead of 0 / 0."""
        # scatter_add: bincount would make the CPU wait for the GPU.
        counts = torch.ones_like(experts) if kept is None else kept.to(experts.dtype)
        load = experts.new_zeros(self.n_experts).scatter_add(0, experts.flatten(), counts.flatten())
        if experts.numel() == 0:
            losses = dict.fromkeys(losses, weights.sum())
        return Routing(experts, weights, load, losses, kept)

    def update_bias(self):
        """Called after each training step; moves the bias of a router that has one."""

    def _apply(self, fn, recurse=True):
        """Moves and widens the buffers in `exact` like all others, but never rounds them."""
        before = {name: getattr(self, name) for name in self.exact}
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            after = getattr(self, name)
            if after.dtype.itemsize < 4:
                setattr(self, name, wide(buffer).to(after.device))
        return self

    def _load_from_state_dict(self, *args):
        """Under assign=True, a buffer in `exact` would take the checkpoint's dtype."""
        super()._load_from_state_dict(*args)
        for name in self.exact:
            setattr(self, name, wide(getattr(self, name)))


class SoftRouter(Router):
    """All experts, each with its softmax weight (Jacobs et al. 1991, doi:10.1162/neco.1991.3.1.79).

    p = softmax(W x)        y = Σ_e p_e E_e(x)

    Every later router shortens this sum. The paper trains -log Σ_e p_e exp(-½‖target - E_e(x)‖²),
    so that one expert wins each case; the forward pass is the same sum.
    """

    def __init__(self, d_model: int, n_experts: int):
        super().__init__(d_model, n_experts, top_k=n_experts)

    def route(self, x: Float[Tensor, "*G N D"]) -> Routing:
        weights = self.logits(x).softmax(-1)
        return self.routing(all_experts(weights), weights, {})


class NoisyTopKRouter(Router):
    """Noise, the k largest, softmax over those (Shazeer et al. 2017, arXiv:1701.06538).

    h = W_g x + ε softplus(W_n x)        ε ~ N(0, 1) in training, otherwise 0
    p = softmax(h over its k largest)

    The difference from the soft mixture: all but k weights are exactly zero. The noise lets
    near-equal experts swap, so the choice is smooth on average: the load loss differentiates the
    chance P(n, e) that e is chosen if its own noise is drawn again. Losses: the squared coefficient
    of variation, over experts, of Σ_n p (importance) and Σ_n P (load), each times 0.1. W_g and W_n
    start at zero. As in the authors' code, 0.01 is added to the noise's softplus, so that P is
    always defined.
    """

    coefficients: ClassVar[dict[str, float]] = {"importance": 0.1, "load": 0.1}

    def __init__(self, d_model: int, n_experts: int, top_k: int = 2):
        super().__init__(d_model, n_experts, top_k)
        self.noise = nn.Linear(d_model, n_experts, bias=False)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.noise.weight)

    def route(self, x: Float[Tensor, "*G N D"]) -> Routing:
        clean = self.logits(x)
        spread = F.softplus(F.linear(wide(x), wide(self.noise.weight))) + 0.01
        noisy = clean + spread * torch.randn_like(clean) if self.training else clean
        top, experts = noisy.topk(self.top_k)
        weights = top.softmax(-1)
        importance = torch.zeros_like(clean).scatter(-1, experts, weights)
        chance = self.chance(clean, noisy, spread)
        losses = {"importance": variation(importance), "load": variation(chance)}
        return self.routing(experts, weights, losses)

    def chance(
        self,
        clean: Float[Tensor, "*G N E"],
        noisy: Float[Tensor, "*G N E"],
        spread: Float[Tensor, "*G N E"],
    ) -> Float[Tensor, "*G N E"]:
        """P(n, e): e's logit with fresh noise exceeds the k-th largest of the others'."""
        if self.top_k == self.n_experts:
            return torch.ones_like(clean)
        top = noisy.topk(self.top_k + 1).values
        kth = top[..., -2:-1]
        next_best = top[..., -1:]
        # Without e, if e is among the k largest, the next one moves up.
        bar = torch.where(noisy > next_best, next_best, kth)
        return torch.special.ndtr((clean - bar) / spread)


class SwitchRouter(Router):
    """One expert a token, and a limited number of places (Fedus et al. 2021, arXiv:2101.03961).

    p = softmax(W x)        y = p_e E_e(x),  e = argmax p
    places per expert: ceil(capacity_factor N / E)

    The difference from noisy top-k: k = 1, and p is not renormalised, so that the router still has
    a gradient. Places are given in the order of the tokens; a token whose expert is full is
    dropped: the layer returns 0 for it, and the residual stream carries it on. capacity_factor
    None: no limit. In training the router's input is multiplied by random factors in 1 ± jitter.
    W starts as a normal of variance 0.1 / D, cut off at two standard deviations. Losses: balance
    E Σ_e f_e P_e (share of tokens times mean probability; 1 when even), z mean(logsumexp²) (ST-MoE,
    arXiv:2202.08906). The paper counts places over a device's batch, this class within each
    sequence.
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
        self.capacity_factor = capacity_factor
        self.jitter = jitter
        self.form = form
        self.per_token = capacity_factor is None
        std = (0.1 / d_model) ** 0.5
        nn.init.trunc_normal_(self.score.weight, std=std, a=-2 * std, b=2 * std)

    def route(self, x: Float[Tensor, "*G N D"]) -> Routing:
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
        chosen = F.one_hot(experts[..., 0], self.n_experts)
        turn = chosen.cumsum(-2).gather(-1, experts)  # 1: the first token for its expert
        return turn <= places


class MixtralRouter(Router):
    """The k largest, softmax over those, no noise, no limit (Jiang et al. 2024, arXiv:2401.04088).

    p = softmax(the k largest of W x)        y = Σ p_e E_e(x)

    The difference from noisy top-k: the noise is gone; from Switch: nothing is dropped. Computed as
    in the released code: the k largest of softmax(W x), divided by their sum, which is the same.
    normalise=False does not divide (Jamba; Qwen's norm_topk_prob=False). Loss: Switch's balance
    over all k slots, k when even.
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
        self.normalise = normalise
        self.form = form

    def route(self, x: Float[Tensor, "*G N D"]) -> Routing:
        logits = self.logits(x)
        weights, experts = self.form(logits, self.top_k, self.normalise)
        return self.routing(experts, weights, {"balance": balance(logits.softmax(-1), experts)})


class DeepSeekV3Router(Router):
    """Sigmoid scores, a bias that only chooses, groups (DeepSeek-AI 2024, arXiv:2412.19437).

    s = sigmoid(W x)        chosen: the k largest of s + b within the best groups
    p = scale · s / Σ s over the chosen

    The difference from Mixtral: experts do not compete in a softmax, and balance comes from b
    instead of a loss (arXiv:2408.15664): after each training step `update_bias()` adds
    rate · sign(mean load - load_e) to b_e, which enters no weight and has no gradient. The experts
    are divided into n_groups groups; the score of a group is the sum of its two best s + b, and a
    token may use the best top_groups of them. Other groups are masked by -inf: a mask of 0 would
    beat a negative s + b. Loss: balance within each sequence (1 when even), times 1e-4; its f
    counts the k largest s, as in the paper's equation 18, without bias or groups. b stays in
    float32 when the model is made smaller: in bfloat16 a step of 0.001 would be lost from 0.5 on.
    """

    coefficients: ClassVar[dict[str, float]] = {"sequence": 1e-4}
    exact: ClassVar[tuple[str, ...]] = ("bias",)
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
        fits = n_experts % n_groups == 0 and 1 <= top_groups <= n_groups
        if not fits or top_k > top_groups * n_experts // n_groups:
            raise ValueError(
                f"n_experts is {n_experts}, n_groups {n_groups}, top_groups {top_groups}, "
                f"top_k {top_k}: groups must be of one size, and the chosen groups must hold top_k "
                "experts (the defaults fit the paper's 256 experts; for a few: "
                "partial(DeepSeekV3Router, top_k=2, n_groups=1, top_groups=1))"
            )
        self.n_groups = n_groups
        self.top_groups = top_groups
        self.scale = scale
        self.normalise = normalise
        self.rate = rate
        self.register_buffer("bias", torch.zeros(n_experts))
        self.seen: Tensor | int = 0  # load since the last update

    def route(self, x: Float[Tensor, "*G N D"]) -> Routing:
        s = self.logits(x).sigmoid()
        experts = self.allowed(s.detach() + self.bias).topk(self.top_k).indices
        weights = s.gather(-1, experts)
        if self.normalise:
            weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
        share = s / s.sum(-1, keepdim=True)
        largest = s.topk(self.top_k).indices
        losses = {"sequence": balance(share, largest, each=True) / self.top_k}
        routing = self.routing(experts, self.scale * weights, losses)
        if self.training:
            self.seen = self.seen + routing.load
        return routing

    def allowed(self, choice: Float[Tensor, "*G N E"]) -> Float[Tensor, "*G N E"]:
        """choice, with -inf in all but the best groups."""
        groups = choice.unflatten(-1, (self.n_groups, -1))  # (..., N, groups, E / groups)
        score = groups.topk(min(2, groups.shape[-1])).values.sum(-1)
        best = score.topk(self.top_groups).indices
        masked = torch.ones_like(score, dtype=torch.bool).scatter(-1, best, False)
        return groups.masked_fill(masked[..., None], -torch.inf).flatten(-2)

    @torch.no_grad()
    def update_bias(self):
        """After a training step: up for experts below the mean load, down for those above it."""
        if isinstance(self.seen, Tensor):
            load = self.seen.to(self.bias.dtype)
            self.bias += self.rate * (load.mean() - load).sign()
        self.seen = 0


class ExpertChoiceRouter(Router):
    """Experts choose tokens (Zhou et al. 2022, arXiv:2202.09368).

    p = softmax(W x)
    expert e serves the ceil(capacity_factor N / E) tokens of the sequence with the largest p_e

    The difference from Switch: the k largest along the tokens, not along the experts. Every expert
    is full, so there is nothing to balance; a token may have many experts, or none. **Not causal**:
    whether a token is served depends on later tokens, so a language model with this router cannot
    be decoded in the way it was trained.
    """

    per_token = False
    causal = False

    def __init__(self, d_model: int, n_experts: int, *, capacity_factor: float = 2.0):
        super().__init__(d_model, n_experts, top_k=n_experts)
        self.capacity_factor = capacity_factor

    def route(self, x: Float[Tensor, "*G N D"]) -> Routing:
        p = self.logits(x).softmax(-1)
        N = p.shape[-2]
        places = min(N, math.ceil(self.capacity_factor * N / self.n_experts))
        chosen = p.topk(places, dim=-2).indices  # (..., places, E)
        kept = torch.zeros_like(p, dtype=torch.bool).scatter(-2, chosen, True)
        return self.routing(all_experts(p), p, {}, kept)


def all_experts(p: Float[Tensor, "*G N E"]) -> Int[Tensor, "*G N E"]:
    """0 .. E - 1 for every token."""
    return torch.arange(p.shape[-1], device=p.device).expand(p.shape)


def balance(
    p: Float[Tensor, "*G N E"], experts: Int[Tensor, "*G N k"], each: bool = False
) -> Float[Tensor, ""]:
    """E Σ_e f_e P_e: f_e the share of tokens that chose e, P_e its mean probability.

    each=True takes f and P per sequence, and averages over the sequences.
    """
    chosen = torch.zeros_like(p).scatter(-1, experts, 1.0)
    if not each:
        chosen = chosen.flatten(0, -2)
        p = p.flatten(0, -2)
    return p.shape[-1] * (chosen.mean(-2) * p.mean(-2)).sum(-1).mean()


def variation(x: Float[Tensor, "*G N E"]) -> Float[Tensor, ""]:
    """The squared coefficient of variation of the experts' totals."""
    total = x.flatten(0, -2).sum(0)
    return total.var(correction=0) / total.mean().square()
