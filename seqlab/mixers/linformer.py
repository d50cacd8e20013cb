import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.attention import attend
from seqlab.layers.base import Mixer, head_width


class Linformer(Mixer):
    """Linformer (Wang et al. 2020, arXiv:2006.04768): attention to a fixed number of mixtures of
    all tokens.

    y_t = Σ_{r=1..R} softmax_r(q_t·k̃_r / √K) ṽ_r        k̃ = E k,  ṽ = F v,   E and F (R, T)

    The difference from attention: a low-rank T × R matrix in place of the T × T one, so time and
    memory are O(T). Each k̃_r mixes *all* tokens, later ones too, so there is no causal form and no
    state: it encodes, it does not generate. E and F belong to positions, so a sequence may have at
    most max_length tokens; a shorter one uses their first columns. They are shared by the heads
    ("headwise" in the paper); share_kv: E = F. rank is the paper's k; 128 or 256 there.
    """

    causal = False

    def __init__(self, d_model, n_heads=4, *, rank=128, max_length=512, share_kv=False):
        super().__init__(d_model)
        head_width(d_model, n_heads)
        self.n_heads, self.max_length = n_heads, max_length
        self.q, self.k, self.v, self.out = (
            nn.Linear(d_model, d_model, bias=False) for _ in range(4)
        )
        self.E = nn.Parameter(torch.randn(rank, max_length) * rank**-0.5)
        self.F = self.E if share_kv else nn.Parameter(torch.randn(rank, max_length) * rank**-0.5)

    def forward(self, x: Float[Tensor, "B T D"], state=None) -> tuple[Float[Tensor, "B T D"], None]:
        T = x.shape[1]
        if self.max_length < T:
            raise ValueError(
                f"the sequence has {T} tokens: E and F were made for max_length={self.max_length}"
            )
        if state is not None:
            raise ValueError("Linformer has no state: it reads the whole sequence at once")
        q, k, v = (
            rearrange(W(x), "b t (h k) -> b t h k", h=self.n_heads)
            for W in (self.q, self.k, self.v)
        )
        k, v = (
            torch.einsum("rs, bshk -> brhk", M[:, :T], u) for M, u in ((self.E, k), (self.F, v))
        )
        return self.out(rearrange(attend(q, k, v), "b t h v -> b t (h v)")), None
