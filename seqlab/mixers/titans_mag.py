from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from seqlab.layers.base import Mixer
from seqlab.layers.norm import RMSNorm


class MemoryAsGate(Mixer):
    """Titans MAG (Behrouz et al. 2025, arXiv:2501.00663, §4.2): long-term memory gates attention.

    y = W_o(norm(attention(x)) · σ(norm(memory(x))))

    attention and memory are factories of mixers, called with d_model; both read x. In the paper,
    both outputs are normalised with learned weights, then passed through a non-linearity σ; that it
    is a sigmoid, and only of the memory, is a choice made here. Left out: the paper's persistent
    tokens in front of x. State: the pair of theirs.
    """

    def __init__(
        self,
        d_model: int,
        *,
        attention: Callable[[int], nn.Module],
        memory: Callable[[int], nn.Module],
    ):
        super().__init__(d_model)
        self.attention = attention(d_model)
        self.memory = memory(d_model)
        self.attention_norm = RMSNorm(d_model)
        self.memory_norm = RMSNorm(d_model)
        self.out = nn.Linear(d_model, d_model, bias=False)

    def forward(
        self, x: Float[Tensor, "B T D"], state=None
    ) -> tuple[Float[Tensor, "B T D"], tuple]:
        seen, learned = (None, None) if state is None else state
        y, seen = self.attention(x, seen)
        m, learned = self.memory(x, learned)
        return self.out(self.attention_norm(y) * self.memory_norm(m).sigmoid()), (seen, learned)
