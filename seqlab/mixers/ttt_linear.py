from jaxtyping import Float
from torch import Tensor

from seqlab.layers.base import head_width
from seqlab.layers.inner_loop import InnerLoop


class TTTLinear(InnerLoop):
    """TTT-Linear (Sun et al. 2024, arXiv:2407.04620): the state is a linear model that is trained
    on the sequence it reads.

    f(x; W) = W x        W_t = W_s - e_t Σ_{s<j≤t} η_j g_j k_jᵀ        y_t = q_t + LN(f(q_t; W_t))
    g_j = ∂ℓ_j / ∂(W_s k_j)        ℓ_j = ½ ‖LN(W_s k_j) - (v_j - k_j)‖²
    η_j = base_lr σ(θ·x_j + b) / K        e_t = max(1/i + learned_i, 0),  i = t - s

    Tokens are processed in mini-batches. s is the last token of the mini-batch before t's, and all
    errors g_j of a mini-batch are taken at W_s. η_j is the step size that token j asks for; e_t is
    a learned factor for the i-th token of a mini-batch. LN is a LayerNorm with a weight and a bias
    per head.

    The difference from DeltaNet, whose write is also a gradient step on a squared error: here the
    error passes through the LN, and all tokens of a mini-batch take it at one W_s. With
    mini_batch=1 and without the LN it *is* the delta rule, beta = e_1 η.

    Everything around f is `InnerLoop` in seqlab/layers/inner_loop.py (options base_lr, mini_batch,
    d_conv, gate, inner_norm, form). State: W_s with its bias as a last column, and the sum of
    gradients since s, each (B, H, K, K + 1); the last d_conv - 1 inputs.
    """

    def __init__(self, d_model: int, n_heads: int = 4, *, base_lr: float = 1.0, **options):
        K = head_width(d_model, n_heads, even=True)
        super().__init__(d_model, n_heads, (K, K), base_lr=base_lr, **options)

    def model(self, x: Float[Tensor, "B H C K1"], layers) -> Float[Tensor, "B H C K"]:
        """f(x; W) = W x, with the product as `layers` computes it."""
        return layers[0](x)

    def errors(
        self,
        k: Float[Tensor, "B H C K1"],
        target: Float[Tensor, "B H C K"],
        W: Float[Tensor, "B H K K1"],
    ):
        """[(k, g)]: ∇ℓ(W; k) = g kᵀ."""
        return [(k, self.loss_gradient(k @ W.mT, target))]
