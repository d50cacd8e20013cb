from functools import partial, reduce
from itertools import accumulate, pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.inputs import at_least_one, full_precision
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import RMSNorm, l2norm
from seqlab.layers.short_conv import ShortConv


class TitansState(NamedTuple):
    start: tuple[
        Tensor, ...
    ]  # M at the start of the chunk, where its gradients are taken: (B, H, out, in) per layer
    memory: tuple[Tensor, ...]  # M now
    momentum: tuple[Tensor, ...]
    conv: Float[Tensor, "B past D3"]
    position: int


class Titans(Mixer):
    """The neural memory of Titans (Behrouz et al. 2025, arXiv:2501.00663), an MLP of `depth`
    matrices for each head.

    S_t = η_t S_{t-1} - θ_t ∇‖M(k_t) - v_t‖²        M_t = (1 - α_t) M_{t-1} + S_t        y_t = M_t(q_t)

    The difference from TTT: gradients pass through a momentum S, so a surprise acts on the tokens
    after it; M forgets by α; and no norm stands inside the loss. All gradients of a chunk are taken
    at its start: chunk_size=1 is the equation as it stands. With depth=1 and η = α = 0 it is then
    the delta rule, beta = 2 θ.

    form: "chunkwise" (given the gradients, both recurrences are products of decays) or "recurrent".
    As in the paper q, k, v are short convolutions with silu, q and k of unit length; y is
    normalised and gated. Left open there and chosen here: heads; silu in M; M_0 is learned; α, η, θ
    are sigmoids; v has unit length too and θ is at most max_lr (else a deep memory diverges); α
    starts at 0.25 % (layers forgotten faster than they learn both die). State: TitansState, M three
    times. MAG is `MemoryAsGate`, MAL a list.
    """

    FORMS = ("chunkwise", "recurrent")

    def __init__(
        self,
        d_model,
        n_heads=4,
        *,
        depth=2,
        expand=4,
        chunk_size=16,
        d_conv=4,
        max_lr=0.1,
        form="chunkwise",
    ):
        super().__init__(d_model, form, chunk_size)
        K = head_width(d_model, n_heads)
        at_least_one(depth=depth, chunk_size=chunk_size)
        self.n_heads = n_heads
        self.max_lr = max_lr
        self.qkv, self.g, self.out = (
            nn.Linear(d_model, n * d_model, bias=False) for n in (3, 1, 1)
        )
        self.conv, self.gates = ShortConv(3 * d_model, d_conv), nn.Linear(d_model, 3 * n_heads)
        self.gates.bias.data = torch.tensor([-6.0, 0.0, 0.0]).repeat_interleave(n_heads)  # α, η, θ
        widths = [K, *[expand * K] * (depth - 1), K]
        xavier = (
            (6 / (a + b)) ** 0.5 * torch.empty(n_heads, b, a).uniform_(-1, 1)
            for a, b in pairwise(widths)
        )
        self.first, self.norm = nn.ParameterList(xavier), RMSNorm(K)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], TitansState]:
        wide = torch.promote_types(x.dtype, torch.float32)
        qkv, conv = self.conv(self.qkv(x), None if state is None else state.conv)
        q, k, v = l2norm(rearrange(qkv.to(wide), "b t (n h k) -> n b h t k", n=3, h=self.n_heads))
        alpha, eta, theta = rearrange(self.gates(x).to(wide), "b t (n h) -> n b h t 1", n=3)
        tokens = q, k, v, F.logsigmoid(-alpha), F.logsigmoid(eta), self.max_lr * theta.sigmoid()
        if state is None:
            M = [W.to(wide).expand(len(x), *W.shape) for W in self.first]
            state = TitansState(M, M, [torch.zeros_like(W) for W in M], None, 0)
        fold, C = (chunk, self.chunk_size) if self.form == "chunkwise" else (step, 1)
        (start, M, S), position, ys = state[:3], state.position, []
        cuts = [0, *range(C - position % C, x.shape[1], C), x.shape[1]]
        for piece in zip(
            *(u.split([b - a for a, b in pairwise(cuts)], dim=2) for u in tokens), strict=True
        ):
            y, M, S = fold(*piece, start, M, S)
            ys.append(y)
            position += y.shape[2]
            start = start if position % self.chunk_size else M
        y = rearrange(self.norm(torch.cat(ys, dim=2)), "b h t k -> b t (h k)").to(x.dtype)
        return self.out(y * F.silu(self.g(x))), TitansState(
            *map(tuple, (start, M, S)), conv, position
        )


@full_precision
def step(q, k, v, log_keep, log_eta, theta, start, M, S):
    """The equation, one token."""
    gradients = [g.mT @ x for x, g in errors(start, k, v)]
    S = [log_eta.exp() * A - theta * u for A, u in zip(S, gradients, strict=True)]
    M = [log_keep.exp() * W + A for W, A in zip(M, S, strict=True)]
    return mlp(q, [lambda x, W=W: x @ W.mT for W in M]), M, S


@full_precision
def chunk(q, k, v, log_keep, log_eta, theta, start, M, S):
    """The same for C tokens: -S_i and -M_i hold gradient j in parts that only the gates decide, so
    no M_i is formed.
    """
    learned = errors(start, k, v)
    (keep, kept), (eta, left) = decays(log_keep), decays(log_eta)
    in_S = eta * theta.mT  # (B, H, C, C)
    in_M, S_in_M = (
        keep @ in_S,
        keep @ left,
    )  # M_i = Π(1 - α) M_0 + Σ_l (what 1 - α leaves from l to i) S_l

    def layer(W, A, seen, g, x):
        return kept * (x @ W.mT) + S_in_M * (x @ A.mT) - (x @ seen.mT * in_M) @ g

    parts = [(W, A, seen, g) for W, A, (seen, g) in zip(M, S, learned, strict=True)]
    y = mlp(q, [partial(layer, *part) for part in parts])
    kept, S_in_M, in_M, left, in_S = (u[:, :, -1:] for u in (kept, S_in_M, in_M, left, in_S))
    M = [kept * W + S_in_M * A - (in_M.mT * g).mT @ seen for W, A, seen, g in parts]
    return y, M, [left * A - (in_S.mT * g).mT @ seen for _, A, seen, g in parts]


def decays(log_a: Float[Tensor, "B H C 1"]):
    """Π a over (j, i] as (B, H, C, C), 0 for j > i, and Π a from the start to i."""
    return log_a.repeat(1, 1, 1, log_a.shape[2]).tril(-1).cumsum(-2).exp().tril(), log_a.cumsum(
        -2
    ).exp()


def mlp(x, layers):
    """M(x): the layers, silu between them."""
    return reduce(lambda z, layer: layer(F.silu(z)), layers[1:], layers[0](x))


def errors(weights, k, v):
    """(x, g) of each layer by backpropagation: its part of ∇‖M(k) - v‖² is g xᵀ."""
    zs = list(accumulate(weights[1:], lambda z, W: F.silu(z) @ W.mT, initial=k @ weights[0].mT))
    gs = [2 * (zs.pop() - v)]
    for W, z in zip(reversed(weights[1:]), reversed(zs), strict=True):
        s = z.sigmoid()
        gs.append(gs[-1] @ W * s * (1 + z * (1 - s)))  # the derivative of silu
    return list(zip([k, *map(F.silu, zs)], reversed(gs), strict=True))
