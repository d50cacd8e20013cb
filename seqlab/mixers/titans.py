from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.inputs import at_least_one, full_precision, wide
from seqlab.layers.base import Mixer, head_width
from seqlab.layers.norm import RMSNorm, l2norm
from seqlab.layers.short_conv import ShortConv


class TitansState(NamedTuple):
    """M at the start of the chunk, where its gradients are taken; M now; and its momentum.

    Each has one matrix (B, H, out, in) for each layer of M. position: the number of tokens seen.
    """

    start: tuple[Tensor, ...]
    memory: tuple[Tensor, ...]
    momentum: tuple[Tensor, ...]
    conv: Float[Tensor, "B past D3"]
    position: int


class Titans(Mixer):
    """The neural memory of Titans (Behrouz et al. 2025, arXiv:2501.00663): an MLP M per head.

    S_t = η_t S_{t-1} - θ_t ∇‖M(k_t) - v_t‖²        M_t = (1 - α_t) M_{t-1} + S_t
    y_t = M_t(q_t)

    The difference from TTT: gradients pass through a momentum S, so a surprise also acts on the
    tokens after it; M forgets by α; and there is no norm inside the loss. All gradients of a chunk
    are taken at its start, so chunk_size=1 is the equation itself. With depth=1 and η = α = 0 that
    is the delta rule, beta = 2 θ.

    As in the paper q, k and v are short convolutions with silu, q and k of unit length, and y is
    normalised and gated. The paper leaves these open; chosen here: heads; an M of `depth` matrices
    with silu between them; M_0 is learned, and starts as Xavier uniform; α, η and θ are sigmoids; v
    has unit length too, and θ is at most max_lr (else a deep memory diverges); α starts at 0.25 %
    (if layers decay faster than they learn, they all go to zero), η at ½ and θ at max_lr / 2.

    form: "chunkwise" (given the gradients, both recurrences are products of decays) or "recurrent".
    State: TitansState, which holds M three times. MAG is `MemoryAsGate`, MAL a list of mixers.
    """

    FORMS = ("chunkwise", "recurrent")
    chunk_size: int

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        depth: int = 2,
        expand: int = 4,
        chunk_size: int = 16,
        d_conv: int = 4,
        max_lr: float = 0.1,
        form: str = "chunkwise",
    ):
        super().__init__(d_model, form, chunk_size)
        K = head_width(d_model, n_heads)
        at_least_one(depth=depth)
        self.n_heads = n_heads
        self.max_lr = max_lr
        maps = (nn.Linear(d_model, n * d_model, bias=False) for n in (3, 1, 1))
        self.qkv, self.g, self.out = maps
        self.conv = ShortConv(3 * d_model, d_conv)
        self.gates = nn.Linear(d_model, 3 * n_heads)  # α, η, θ
        self.gates.bias.data = torch.tensor([-6.0, 0.0, 0.0]).repeat_interleave(n_heads)
        widths = [K, *[expand * K] * (depth - 1), K]
        self.first = nn.ParameterList(xavier(n_heads, a, b) for a, b in pairwise(widths))
        self.norm = RMSNorm(K)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], TitansState]:
        inputs, past = self._inputs(x, None if state is None else state.conv)
        start, M, S, _, position = self._first(len(x)) if state is None else state
        fold = chunk if self.form == "chunkwise" else step
        ys = []
        for piece in self._pieces(inputs, x.shape[1], position):
            y, M, S = fold(*piece, start=start, M=M, S=S)
            ys.append(y)
            position += y.shape[2]
            if position % self.chunk_size == 0:
                start = M
        y = rearrange(self.norm(torch.cat(ys, dim=2)), "b h t k -> b t (h k)").to(x.dtype)
        y = self.out(y * F.silu(self.g(x)))
        return y, TitansState(tuple(start), tuple(M), tuple(S), past, position)

    def _inputs(self, x, past):
        """q, k, v, log (1 - α), log η and θ, each (B, H, T, ·); and what the convolution keeps."""
        qkv, past = self.conv(self.qkv(x), past)
        qkv = rearrange(wide(qkv), "b t (n h k) -> n b h t k", n=3, h=self.n_heads)
        alpha, eta, theta = rearrange(wide(self.gates(x)), "b t (n h) -> n b h t 1", n=3)
        gates = F.logsigmoid(-alpha), F.logsigmoid(eta), self.max_lr * theta.sigmoid()
        return (*l2norm(qkv), *gates), past

    def _pieces(self, inputs, T, position):
        """The inputs cut where chunks end, after `position` earlier tokens; or token by token.

        Split once: a slice's gradient would be T long, for each slice.
        """
        C = self.chunk_size if self.form == "chunkwise" else 1
        cuts = [0, *range(C - position % C, T, C), T]
        lengths = [b - a for a, b in pairwise(cuts)]
        return zip(*(u.split(lengths, dim=2) for u in inputs), strict=True)

    def _first(self, B):
        """Before the first token: M_0 and no momentum."""
        M = tuple(wide(W).expand(B, *W.shape) for W in self.first)
        return M, M, tuple(map(torch.zeros_like, M)), None, 0


def xavier(n_heads: int, d_in: int, d_out: int) -> Float[Tensor, "H out in"]:
    """Uniform within ±√(6 / (in + out))."""
    return (6 / (d_in + d_out)) ** 0.5 * torch.empty(n_heads, d_out, d_in).uniform_(-1, 1)


@full_precision
def step(q, k, v, log_keep, log_eta, theta, start, M, S):
    """The equation, one token."""
    gradients = [g.mT @ x for x, g in errors(start, k, v)]
    S = [log_eta.exp() * A - theta * G for A, G in zip(S, gradients, strict=True)]
    M = [log_keep.exp() * W + A for W, A in zip(M, S, strict=True)]
    return mlp(q, [partial(torch.matmul, other=W.mT) for W in M]), M, S


@full_precision
def chunk(q, k, v, log_keep, log_eta, theta, start, M, S):
    """The same for C tokens. Only the gates decide the `shares`, so no M_i is formed."""
    of_M, of_S = shares(log_keep, log_eta, theta)
    parts = [(W, A, x, g) for W, A, (x, g) in zip(M, S, errors(start, k, v), strict=True)]
    y = mlp(q, [partial(read, *of_M, *part) for part in parts])
    M_M, M_S, M_G = (u[:, :, -1:] for u in of_M)
    S_S, S_G = (u[:, :, -1:] for u in of_S)
    M = [M_M * W + M_S * A - (M_G.mT * g).mT @ x for W, A, x, g in parts]
    S = [S_S * A - (S_G.mT * g).mT @ x for _, A, x, g in parts]
    return y, M, S


def shares(log_keep, log_eta, theta):
    """What M_i and S_i hold of M_0, of S_0, and of the gradient G_j of each token of the chunk.

    M_i = M_M M_0 + M_S S_0 - Σ_j M_G G_j        S_i = S_S S_0 - Σ_j S_G G_j

    The gradients are fixed, so S_i is plain decays, and M_i is Π(1 - α) M_0 + Σ_l keep_il S_l, with
    keep_il what 1 - α leaves from l to i. Returns (M_M, M_S, M_G), (S_S, S_G): _M and _S are
    (B, H, C, 1), _G is (B, H, C, C).
    """
    keep, M_M = decays(log_keep)
    eta, S_S = decays(log_eta)
    S_G = eta * theta.mT
    return (M_M, keep @ S_S, keep @ S_G), (S_S, S_G)


def decays(log_a: Float[Tensor, "B H C 1"]) -> tuple[Tensor, Tensor]:
    """Π a over (j, i] as (B, H, C, C), 0 for j > i; and Π a from the start to i."""
    spans = log_a.repeat(1, 1, 1, log_a.shape[2]).tril(-1).cumsum(-2)
    return spans.exp().tril(), log_a.cumsum(-2).exp()


def read(M_M, M_S, M_G, W, A, seen, g, x):
    """M_i x_i of one layer, whose part of M_0 is W, of S_0 A, and of G_j g_j seen_jᵀ."""
    return M_M * (x @ W.mT) + M_S * (x @ A.mT) - (x @ seen.mT * M_G) @ g


def mlp(x, layers):
    """M(x): the layers, with silu between them."""
    x = layers[0](x)
    for layer in layers[1:]:
        x = layer(F.silu(x))
    return x


def errors(weights, k, v):
    """(x, g) of each layer, by backpropagation: its part of ∇‖M(k) - v‖² is g xᵀ."""
    xs, zs = [k], [k @ weights[0].mT]
    for W in weights[1:]:
        xs.append(F.silu(zs[-1]))
        zs.append(xs[-1] @ W.mT)
    gs = [2 * (zs.pop() - v)]
    for W, z in zip(reversed(weights[1:]), reversed(zs), strict=True):
        s = z.sigmoid()
        gs.append(gs[-1] @ W * s * (1 + z * (1 - s)))  # times the slope of silu
    return list(zip(xs, reversed(gs), strict=True))
