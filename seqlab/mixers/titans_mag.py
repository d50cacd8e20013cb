from jaxtyping import Float
from torch import Tensor, nn

from seqlab.layers.base import Mixer
from seqlab.layers.norm import RMSNorm


class MemoryAsGate(Mixer):
    """Titans MAG (arXiv:2501.00663, §4.2): a short-term and a long-term memory side by side, one
    gating the other.

    y = W_o(norm(attention(x)) · σ(norm(memory(x))))

    attention and memory are factories of mixers, called with d_model. The state is the pair of
    theirs. The paper has both outputs normalised with learned weights, then a non-linearity σ; that
    it is a sigmoid, and of the memory alone, is a choice made here. Left out: the paper's
    persistent tokens in front of x.
    """

    def __init__(self, d_model, *, attention, memory):
        super().__init__(d_model)
        self.attention, self.memory = attention(d_model), memory(d_model)
        self.attention_norm, self.memory_norm = RMSNorm(d_model), RMSNorm(d_model)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], tuple]:
        y, seen = self.attention(x, None if state is None else state[0])
        m, learned = self.memory(x, None if state is None else state[1])
        return self.out(self.attention_norm(y) * self.memory_norm(m).sigmoid()), (seen, learned)
