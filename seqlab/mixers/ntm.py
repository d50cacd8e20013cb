from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from seqlab.core.addressing import address, erase_and_add
from seqlab.core.inputs import at_least_one, full_precision
from seqlab.layers.base import Mixer, check_shape


class NTMState(NamedTuple):
    memory: Float[Tensor, "B N M"]
    weights: Float[Tensor, "B 2 N"]
    read: Float[Tensor, "B M"]


class NTM(Mixer):
    """Neural Turing Machine with one reading and one writing head (Graves et al. 2014,
    arXiv:1410.5401).

    u_t = tanh(W [x_t, r_{t-1}])          k, β, g, s, γ of each head, and e, a, from u_t
    w_t = address(M_{t-1}, w_{t-1}, …)    by content, interpolation, shift, sharpening
    M_t = M_{t-1} (1 - w e) + w a         r_t = Σ_n w_n M_t(n)          y_t = O [u_t, r_t]

    The difference from the LSTM: the cells are rows of a table, and a weight over the rows says
    which of them is kept, erased or read. Each head can move to the neighbouring row, so the table
    is also a tape.

    The paper leaves these open; they are our choices. Both heads find their rows in M_{t-1}, and
    the read sees the write of its own token. Memory starts at 1e-6 everywhere and both heads at row
    0. Shifts are -1, 0 or 1 row, around the end. The controller is feedforward, one of the paper's
    two. State: M, the heads' weights (writing head first) and the last read.
    """

    def __init__(self, d_model: int, *, n_rows: int = 16, d_row: int = 16):
        super().__init__(d_model)
        at_least_one(n_rows=n_rows, d_row=d_row)
        self.n_rows, self.d_row = n_rows, d_row
        self.controller = nn.Linear(d_model + d_row, d_model)
        self.heads = nn.Linear(d_model, 2 * (d_row + 6))
        self.write = nn.Linear(d_model, 2 * d_row)
        self.out = nn.Linear(d_model + d_row, d_model)

    def forward(
        self, x: Float[Tensor, "B T D"], state: NTMState | None = None
    ) -> tuple[Float[Tensor, "B T D"], NTMState]:
        y, state, _ = self.run(x, state)
        return y, state

    @full_precision
    def run(self, x, state=None):
        """forward, and beside it the weights of both heads at each token (B, T, 2, N)."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        memory, weights, read = self.start(x, dtype) if state is None else state
        B, N, M = len(x), self.n_rows, self.d_row
        check_shape("the state's memory", memory, (B, N, M))
        check_shape("the state's weights", weights, (B, 2, N))
        check_shape("the state's read", read, (B, M))
        us, reads, history = [], [], []
        for x_t in x.to(dtype).unbind(1):
            u = self.of(self.controller, torch.cat([x_t, read], dim=-1)).tanh()
            heads = self.of(self.heads, u).unflatten(-1, (2, -1))
            weights = address(memory, weights, *self.dials(heads))
            e, a = self.of(self.write, u).chunk(2, dim=-1)
            memory = erase_and_add(memory, weights[:, 0], e.sigmoid(), a)
            read = (weights[:, 1, None] @ memory)[:, 0]
            us.append(u)
            reads.append(read)
            history.append(weights)
        told = torch.cat([torch.stack(us, dim=1), torch.stack(reads, dim=1)], dim=-1)
        y = self.of(self.out, told).to(x.dtype)
        return y, NTMState(memory, weights, read), torch.stack(history, dim=1)

    def start(self, x, dtype) -> NTMState:
        """The state before the first token."""
        memory = x.new_full((len(x), self.n_rows, self.d_row), 1e-6, dtype=dtype)
        weights = x.new_zeros(len(x), 2, self.n_rows, dtype=dtype)
        weights[..., 0] = 1
        return NTMState(memory, weights, x.new_zeros(len(x), self.d_row, dtype=dtype))

    def dials(self, heads: Float[Tensor, "B 2 M_6"]):
        """k, β ≥ 0, g in (0, 1), s on the simplex and γ ≥ 1 of each head."""
        k, beta, g, shift, gamma = heads.split([self.d_row, 1, 1, 3, 1], dim=-1)
        plus = nn.functional.softplus
        return k, plus(beta), g.sigmoid(), shift.softmax(-1), 1 + plus(gamma)

    @staticmethod
    def of(layer, x):
        """layer(x), in the dtype of x."""
        return x @ layer.weight.to(x.dtype).mT + layer.bias.to(x.dtype)
