import pytest
import torch
import torch.nn.functional as F

from seqlab.mixers.based import BaseConv, Based
from seqlab.mixers.linear_attention import LinearAttention

D, H, T = 32, 4, 19


def test_it_is_a_mean_weighted_by_the_taylor_polynomial():
    mixer, x = Based(D, H, d_feature=5).double(), 3 * torch.randn(2, T, D, dtype=torch.float64)
    q, k, v = (W(x).unflatten(-1, (H, -1)) for W in (mixer.q, mixer.k, mixer.v))
    s = torch.einsum("bihd, bjhd -> bhij", q, k) / 5**0.5
    weights = (1 + s + s**2 / 2).tril()
    assert weights[..., torch.ones(T, T, dtype=torch.bool).tril()].min() >= 0.5
    y = torch.einsum("bhij, bjhv -> bihv", weights / weights.sum(-1, keepdim=True), v)
    torch.testing.assert_close(mixer(x)[0], mixer.out(y.flatten(-2)), rtol=0, atol=1e-9)


def test_with_full_width_it_is_linear_attention_with_taylor_features():
    based = Based(D, H, d_feature=D // H).double()
    linear = LinearAttention(D, H, feature_map="taylor").double()
    based.load_state_dict(linear.state_dict())
    x = torch.randn(2, T, D, dtype=torch.float64)
    # Linear attention adds 1e-6 to the normaliser.
    torch.testing.assert_close(based(x)[0], linear(x)[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(based(x)[1], linear(x)[1], rtol=0, atol=1e-9)


def test_a_head_of_the_paper_has_273_columns():
    """16 heads of width 16 by default; the last row of the state is marked as the normaliser."""
    mixer = Based(D)
    assert mixer.normalize and not any("bias" in name for name in mixer.state_dict())
    assert mixer(torch.randn(1, 2, D))[1].shape == (1, 16, D // 16 + 1, 273)


def test_the_short_convolution_is_conv1d_under_a_gate():
    mixer, x = BaseConv(D).double(), torch.randn(2, T, D, dtype=torch.float64)
    conv = torch.nn.Conv1d(2 * D, 2 * D, 3, groups=2 * D, padding=2).double()
    conv.weight.data, conv.bias.data = mixer.conv.weight.data[:, None], mixer.conv.bias.data
    y = F.silu(conv(mixer.u(x).mT)[..., :T].mT) * mixer.g(x)
    torch.testing.assert_close(mixer(x)[0], mixer.out(y), rtol=0, atol=1e-9)


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="d_model is 32, n_heads is 5"):
        Based(D, 5)


@pytest.mark.oracle
def test_based_against_fla(fla):
    mixer, x = Based(D, H), torch.randn(2, 50, D)
    q, k, v = (W(x).unflatten(-1, (H, -1)).transpose(1, 2) for W in (mixer.q, mixer.k, mixer.v))
    y = fla("based").naive_parallel_based(q, k, v).transpose(1, 2)
    torch.testing.assert_close(mixer(x)[0], mixer.out(y.flatten(-2)), rtol=1e-4, atol=1e-5)
