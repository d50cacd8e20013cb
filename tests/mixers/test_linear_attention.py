import math

import pytest
import torch

from seqlab.layers.feature_maps import RandomFeatures, Taylor, feature_map
from seqlab.mixers import LinearAttention

D, H = 24, 3


def qkv(mixer, x):
    """The layer's own q, k, v (B, T, H, 8) before the feature map."""
    return (W(x).unflatten(-1, (H, D // H)) for W in (mixer.q, mixer.k, mixer.v))


def by_all_pairs(mixer, x, weight):
    """y_t = Σ_{s≤t} w(q_t, k_s) v_s / Σ w, written as a loop over pairs."""
    q, k, v = qkv(mixer, x)
    y = torch.full_like(v, torch.nan)
    for t in range(x.shape[1]):
        w = weight(q[:, t, None], k[:, : t + 1])[..., None]  # (B, t + 1, H, 1)
        y[:, t] = (w * v[:, : t + 1]).sum(1) / w.sum(1)
    return mixer.out(y.flatten(-2))


def draw(T=17):
    return torch.randn(2, T, D, dtype=torch.float64)


def elu(x):
    """elu(x) + 1: x + 1 for x > 0, else e^x."""
    return torch.where(x > 0, x + 1, x.exp())


def by_elu(q, k):
    return (elu(q) * elu(k)).sum(-1)


def by_taylor(q, k):
    """The second-order polynomial of exp(q·k / √8)."""
    score = (q * k).sum(-1) / 8**0.5
    return 1 + score + score**2 / 2


@pytest.mark.parametrize(("name", "weight"), [("elu", by_elu), ("taylor", by_taylor)])
def test_it_is_a_weighted_mean_over_the_past(name, weight):
    mixer, x = LinearAttention(D, H, feature_map=name).double(), 2 * draw()
    expected = by_all_pairs(mixer, x, weight)
    # The layer adds 1e-6 to the normaliser, which is above 1 here.
    torch.testing.assert_close(mixer(x)[0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{"feature_map": "identity"}, {"normalize": False}])
def test_without_normaliser_it_is_a_sum_over_pairs_each_head_normed(options):
    mixer, x = LinearAttention(D, H, **options).double(), draw()
    q, k, v = qkv(mixer, x)
    if "normalize" in options:
        q, k = elu(q), elu(k)
    past = torch.ones(17, 17).tril().double()
    y = torch.einsum("bihk, bjhk, ij, bjhv -> bihv", q, k, past, v)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt()  # 1e-6 matters where y is small
    torch.testing.assert_close(mixer(x)[0], mixer.out(y.flatten(-2)), rtol=0, atol=1e-9)


def test_1e_6_is_added_to_the_normaliser():
    """One token: y = v z / (z + 1e-6), z = φ(q)·φ(k) = 8 e^-14 ≈ 6.7e-6 for q = k = -7."""
    mixer, x = LinearAttention(D, H).double(), torch.ones(1, 1, D, dtype=torch.float64)
    mixer.q.weight.data = mixer.k.weight.data = -7 * torch.eye(D, dtype=torch.float64)
    z = 8 * math.exp(-14)
    y = mixer.out(mixer.v(x) * z / (z + 1e-6))
    torch.testing.assert_close(mixer(x)[0], y, rtol=0, atol=1e-9)


def test_by_default_it_has_four_heads_and_a_normaliser():
    mixer = LinearAttention(D)
    assert mixer.n_heads == 4 and mixer.normalize and mixer.phi.out_features(6) == 6


def test_n_features_is_the_width_of_random_features():
    assert LinearAttention(D, H, feature_map="random").phi.out_features(8) == 64
    assert LinearAttention(D, H, feature_map="random", n_features=10).phi.out_features(8) == 10


def test_random_features_mean_exp_of_the_dot_product():
    """Over many draws the mean of φ(q)·φ(k) is exp(q·k/√K), within four standard errors."""
    q, k = torch.randn(2, 5, 8, dtype=torch.float64)
    maps = [RandomFeatures(8, 64, seed=s).double() for s in range(400)]
    draws = torch.stack([(phi(q) * phi(k)).sum(-1) for phi in maps])  # (400, 5)
    error = (draws.mean(0) - ((q * k).sum(-1) / 8**0.5).exp()).abs()
    assert (error < 4 * draws.std(0) / 400**0.5).all()


def test_more_random_features_are_closer_to_exp():
    q, k = 0.5 * torch.randn(2, 200, 8, dtype=torch.float64)
    exact = ((q * k).sum(-1) / 8**0.5).exp()

    def error(F):
        phi = RandomFeatures(8, F).double()
        return ((phi(q) * phi(k)).sum(-1) - exact).abs().mean()

    assert error(1024) < error(64) < error(8)


@pytest.mark.parametrize("name", ["identity", "elu", "taylor", "random"])
def test_a_map_says_its_width(name):
    phi = feature_map(name, 6, n_features=10)
    assert phi(torch.randn(2, 6)).shape == (2, phi.out_features(6))


def test_wrong_options_get_one_clear_sentence():
    sentence = "feature_map is 'softmax': choose one of identity, elu, taylor, random"
    with pytest.raises(ValueError, match=sentence):
        LinearAttention(D, H, feature_map="softmax")
    with pytest.raises(ValueError, match="d_model is 24, n_heads is 5"):
        LinearAttention(D, 5)
    with pytest.raises(ValueError, match="pass normalize=False"):
        LinearAttention(D, H, feature_map="identity", normalize=True)


@pytest.mark.oracle
def test_elu_against_fla(fla):
    mixer, x = LinearAttention(D, H), torch.randn(2, 50, D)
    inputs = mixer.project(x)
    y, _ = fla("linear_attn").naive_recurrent_linear_attn(
        inputs["q"], inputs["k"], inputs["v"][..., :-1], scale=1.0, normalize=True
    )
    torch.testing.assert_close(mixer(x)[0], mixer.out(y.flatten(-2)), rtol=1e-5, atol=1e-5)


@pytest.mark.oracle
def test_taylor_against_fla(fla):
    mixer, x = LinearAttention(D, H, feature_map="taylor"), torch.randn(2, 50, D)
    q, k, v = (t.transpose(1, 2) for t in qkv(mixer, x))
    y = fla("based").naive_parallel_based(q, k, v).transpose(1, 2)
    torch.testing.assert_close(mixer(x)[0], mixer.out(y.flatten(-2)), rtol=1e-5, atol=1e-5)
    assert Taylor().out_features(16) == 273
