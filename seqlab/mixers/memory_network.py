import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.inputs import at_least_one, full_precision, wide
from seqlab.layers.base import Mixer, check_shape


class MemoryNetwork(Mixer):
    """End-to-end memory network (Sukhbaatar et al. 2015, arXiv:1503.08895).

    u = E_0 x_t                              for each hop k = 1 .. n:
    p_i = softmax_i u·(E_{k-1} x_i + a_{k-1,t-i})
    u ← u + Σ_i p_i (E_k x_i + a_{k,t-i})              y_t = E_nᵀ u

    The difference from an RNN: the past is kept as it was read, and nothing is folded into a state.
    The difference from an attention layer: one token asks several times, and each question is made
    of the last answer. a holds a vector for each age, so that the latest of two facts can win.

    All weights start normal with standard deviation init, 0.1 in the paper, and are shared in its
    "adjacent" way: what hop k reads is what hop k + 1 compares with. x_t is the question, and the
    memory is the n_memory tokens before it. The first token has no memory and keeps its u.
    State: the last n_memory tokens (B, ≤ n_memory, D).
    """

    def __init__(
        self,
        d_model: int,
        *,
        n_hops: int = 2,
        d_head: int | None = None,
        n_memory: int = 16,
        init: float = 0.1,
    ):
        super().__init__(d_model)
        d_head = d_model if d_head is None else d_head
        at_least_one(n_hops=n_hops, d_head=d_head, n_memory=n_memory)
        self.n_hops, self.n_memory = n_hops, n_memory
        self.E = nn.Parameter(init * torch.randn(n_hops + 1, d_head, d_model))
        self.ages = nn.Parameter(init * torch.randn(n_hops + 1, n_memory, d_head))

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B S D"]]:
        y, state, _ = self.run(x, state)
        return y, state

    @full_precision
    def run(self, x, state=None):
        """forward, and beside it the weights of each hop on the tokens before t, by age: the newest
        first (B, T, n_hops, n_memory).
        """
        dtype, n = x.dtype, self.n_memory
        x, E, ages = wide(x), wide(self.E), wide(self.ages)
        past = x[:, :0] if state is None else state.to(x.dtype)
        check_shape("the state", past, (len(x), min(past.shape[1], n), self.d_model))
        kept = torch.cat([past, x], dim=1)
        filled = nn.functional.pad(kept, (0, 0, n - past.shape[1], 0))
        memory = filled.unfold(1, n, 1)[:, :-1].flip(-1).mT  # (B, T, n, D), the newest first
        t = torch.arange(x.shape[1], device=x.device)[:, None] + past.shape[1]
        there = torch.arange(n, device=x.device) < t  # (T, n)
        u, history = x @ E[0].mT, []
        for k in range(self.n_hops):
            scores = torch.einsum("btd, btnd -> btn", u, memory @ E[k].mT + ages[k])
            p = scores.masked_fill(~there, torch.finfo(x.dtype).min).softmax(-1) * there
            u = u + torch.einsum("btn, btnd -> btd", p, memory @ E[k + 1].mT + ages[k + 1])
            history.append(p)
        return (u @ E[-1]).to(dtype), kept[:, -n:], torch.stack(history, dim=2)
