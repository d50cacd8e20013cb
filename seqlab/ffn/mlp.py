import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class MLP(nn.Module):
    """W_2 gelu(W_1 x): the feed-forward layer of the 2017 Transformer, with GELU for ReLU. d_ff defaults to 4 D."""

    def __init__(self, d_model: int, d_ff: int | None = None):
        super().__init__()
        self.up = nn.Linear(d_model, d_ff or 4 * d_model)
        self.down = nn.Linear(d_ff or 4 * d_model, d_model)

    def forward(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return self.down(F.gelu(self.up(x)))
