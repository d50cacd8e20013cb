import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.attention import attend
from seqlab.core.inputs import wide
from seqlab.layers.base import Mixer, head_width


class Linformer(Mixer):
    """Linformer (Wang et al. 2020, arXiv:2006.04768): attention to mixtures of all tokens.

    k̃ = E k        ṽ = F v        E and F (R, T)
    y_t = Σ_{r=1..R} softmax_r(q_t·k̃_r / √K) ṽ_r

    The difference from attention: the softmax is over R mixtures of tokens, a fixed number, not
    over T tokens, so time and memory are O(T). Each k̃_r mixes *all* tokens, later ones too. So
    there is no causal form and no state: Linformer encodes, it does not generate. E and F are
    indexed by position, so a sequence may have at most max_length tokens; a shorter one uses their
    first columns. The heads share them ("headwise" in the paper); share_kv: E = F. rank is R, the
    paper's k, 128 or 256 there. Scores are computed in float32 at least.

    E and F start normal with variance 1/R, as the random projections of the paper's proofs. The
    authors' code draws them uniformly, with variance 1/(R + max_length).
    """

    causal = False

    def __init__(
        self,
        d_model: int,
        n_heads: int = 4,
        *,
        rank: int = 128,
        max_length: int = 512,
        share_kv: bool = False,
    ):
        super().__init__(d_model)
        head_width(d_model, n_heads)
        self.n_heads = n_heads
        self.max_length = max_length
        linear = (nn.Linear(d_model, d_model, bias=False) for _ in range(4))
        self.q, self.k, self.v, self.out = linear
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
        qkv = self.q(x), self.k(x), self.v(x)
        q, k, v = (rearrange(u, "b t (h k) -> b t h k", h=self.n_heads) for u in qkv)
        k = torch.einsum("rs, bshk -> brhk", self.E[:, :T], k)
        v = torch.einsum("rs, bshk -> brhk", self.F[:, :T], v)
        y = attend(wide(q), wide(k), v)
        return self.out(rearrange(y, "b t h v -> b t (h v)")), None
