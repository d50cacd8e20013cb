import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from seqlab.core.inputs import wide
from seqlab.layers.norm import RMSNorm


class PEER(nn.Module):
    """Parameter efficient expert retrieval: a million experts of one neuron each.

    He 2024, arXiv:2407.04153.

    y = Σ_h Σ_{i in top k of head h} softmax(q_h · key_i) σ(d_i · x) u_i
    key_i = [c_{i // n}; c'_{i mod n}]

    The difference from MoE: the router cannot score N = n² experts, but it need not: a key is a
    pair of halves out of n and n, so a score is a sum of two, and the k best sums are among the k²
    sums of the k best halves: 2 n scores instead of n². Exact, for k ≤ n. Each head has queries of
    its own; keys and experts are shared by all heads.

    query_norm, called with n_heads · d_key, spreads the use of the keys. The paper's is
    nn.BatchNorm1d; RMSNorm is the default here, because batch statistics let each token see the
    others, later ones too, so training would differ from decoding. The paper does not say how
    weights start: here keys start as in product-key memories (arXiv:1907.05242), uniform within
    ± (d_key / 2)^-½, and experts as N(0, 1/D). sparse=True: the experts' gradients hold only the
    rows in use (for torch.optim.SparseAdam). d and u are rows of (N, D): d is gathered, u is summed
    by embedding_bag, which makes no copy of its rows.
    """

    def __init__(
        self,
        d_model: int,
        n_experts: int = 1024**2,
        *,
        n_heads: int = 8,
        top_k: int = 16,
        d_key: int = 128,
        query_norm: Callable[[int], nn.Module] | None = RMSNorm,
        activation: Callable[[Tensor], Tensor] = F.gelu,
        sparse: bool = False,
    ):
        super().__init__()
        n = math.isqrt(n_experts)
        if n * n != n_experts or top_k > n:
            raise ValueError(
                f"n_experts is {n_experts}, top_k {top_k}: it must be n², with n at least top_k"
            )
        if d_key % 2:
            raise ValueError(f"d_key is {d_key}: a key has two halves, so its width must be even")
        self.n = n
        self.n_heads = n_heads
        self.top_k = top_k
        self.activation = activation
        self.sparse = sparse
        self.query = nn.Linear(d_model, n_heads * d_key, bias=False)
        self.query_norm = nn.Identity() if query_norm is None else query_norm(n_heads * d_key)
        bound = (d_key // 2) ** -0.5
        self.keys = nn.Parameter(torch.empty(2, n, d_key // 2).uniform_(-bound, bound))
        self.down = nn.Parameter(torch.empty(n_experts, d_model))
        self.up = nn.Parameter(torch.empty(n_experts, d_model))
        nn.init.normal_(self.down, std=d_model**-0.5)
        nn.init.normal_(self.up, std=d_model**-0.5)

    def route(self, x: Float[Tensor, "N D"]) -> tuple[Int[Tensor, "N H k"], Float[Tensor, "N H k"]]:
        """Each head's top_k of all the experts, and their scores, in float32 at least."""
        q = self.query_norm(self.query(x))
        q = rearrange(q, "n (h two d) -> n h two d", h=self.n_heads, two=2)
        halves = torch.einsum("nhtd, tmd -> nhtm", wide(q), wide(self.keys))  # (N, H, 2, n)
        best, index = halves.topk(self.top_k)
        sums = (best[:, :, 0, :, None] + best[:, :, 1, None, :]).flatten(-2)  # (N, H, k²)
        scores, pair = sums.topk(self.top_k)
        row = index[:, :, 0].gather(-1, pair // self.top_k)
        column = index[:, :, 1].gather(-1, pair % self.top_k)
        return row * self.n + column, scores

    def forward(self, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
        tokens = x.flatten(0, -2)
        experts, scores = self.route(tokens)
        weights = scores.softmax(-1).flatten(1).to(x.dtype)  # (N, H k)
        experts = experts.flatten(1)
        down = F.embedding(experts, self.down, sparse=self.sparse)  # (N, H k, D)
        hidden = weights * self.activation((down @ tokens[:, :, None])[..., 0])
        y = F.embedding_bag(
            experts, self.up, per_sample_weights=hidden, mode="sum", sparse=self.sparse
        )
        return y.view_as(x)
