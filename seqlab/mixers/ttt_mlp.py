import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from seqlab.layers.base import head_width
from seqlab.layers.inner_loop import InnerLoop, one


class TTTMLP(InnerLoop):
    """TTT-MLP (Sun et al. 2024, arXiv:2407.04620): the state is a two-layer network that is trained
    on the sequence it reads.

    f(x; W) = W₂ gelu(W₁ x)        y_t = q_t + LN(f(q_t; W_t))
    W_t = W_s - e_t Σ_{s<j≤t} η_j g_j z_jᵀ        for each of W₁ and W₂

    For the key k_j, z_j is the input of that layer, and g_j is the gradient of
    ½ ‖LN(f(k_j; W_s)) - (v_j - k_j)‖² at its output. s is the last token of the mini-batch before;
    η_j, e_t and LN are as in `TTTLinear`.

    The difference from TTT-Linear: a hidden layer, four times as wide, so that the error of W₁
    passes through W₂, and what is stored need no longer be linear in k. Both layers have a dual
    form, the second in terms of the first's output.

    Everything around f is `InnerLoop` in seqlab/layers/inner_loop.py (options base_lr, mini_batch,
    d_conv, gate, inner_norm, form). State: W₁ (B, H, 4K, K + 1) and W₂ (B, H, K, 4K + 1) with their
    biases, and the sums of gradients since s; the last d_conv - 1 inputs.
    """

    def __init__(
        self, d_model: int, n_heads: int = 4, *, expand: int = 4, base_lr: float = 0.1, **options
    ):
        K = head_width(d_model, n_heads, even=True)
        super().__init__(d_model, n_heads, (K, expand * K, K), base_lr=base_lr, **options)

    def model(self, x: Float[Tensor, "B H C K1"], layers) -> Float[Tensor, "B H C K"]:
        """f(x; W) = W₂ gelu(W₁ x), with the products as `layers` computes them."""
        return layers[1](one(F.gelu(layers[0](x), approximate="tanh")))

    def errors(
        self,
        k: Float[Tensor, "B H C K1"],
        target: Float[Tensor, "B H C K"],
        W_1: Float[Tensor, "B H E K1"],
        W_2: Float[Tensor, "B H K E1"],
    ):
        """[(k, g_1), (hidden, g_2)]: backpropagation, one layer at a time."""
        z = k @ W_1.mT
        hidden = one(F.gelu(z, approximate="tanh"))
        g_2 = self.loss_gradient(hidden @ W_2.mT, target)
        g_1 = torch.ops.aten.gelu_backward(g_2 @ W_2[..., :-1], z, approximate="tanh")
        return [(k, g_1), (hidden, g_2)]
