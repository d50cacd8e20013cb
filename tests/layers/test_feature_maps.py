"""φ(q)·φ(k) is the function of q·k that each map promises."""

import math

import pytest
import torch

from seqlab.layers.feature_maps import Elu, Identity, RandomFeatures, Taylor, feature_map

K = 6
NAMES = {"identity": Identity, "elu": Elu, "taylor": Taylor, "random": RandomFeatures}


def draw(n=40):
    return torch.randn(2, n, K, dtype=torch.float64)


def score(phi, q, k):
    return (phi(q) * phi(k)).sum(-1)


def test_identity_and_elu_are_their_formulas():
    x = torch.tensor([-2.0, 0.0, 3.0], dtype=torch.float64)
    assert torch.equal(Identity()(x), x) and not Identity.positive
    torch.testing.assert_close(Elu()(x), torch.tensor([math.exp(-2), 1.0, 4.0]).double())
    assert Elu.positive and Taylor.positive and RandomFeatures.positive


def test_taylor_is_the_second_order_polynomial_of_exp():
    q, k = draw()
    s = (q * k).sum(-1) / K**0.5
    torch.testing.assert_close(score(Taylor(), q, k), 1 + s + s**2 / 2)
    assert score(Taylor(), 3 * q, k).min() >= 0.5


@pytest.mark.parametrize("name", NAMES)
def test_a_name_gives_a_map_of_the_width_it_states(name):
    phi = feature_map(name, K, n_features=10)
    assert isinstance(phi, NAMES[name])
    assert phi(torch.randn(2, K)).shape == (2, phi.out_features(K))
    assert phi.out_features(K) == {"taylor": 1 + K + K**2, "random": 10}.get(name, K)


def test_random_features_are_their_formula():
    """φ_i(x) = exp(w_i·x̂ - ‖x̂‖²/2) / √F with x̂ = x / K^¼."""
    phi, x = RandomFeatures(K, 16).double(), draw()[0]
    x_hat = x / K**0.25
    for i in range(16):
        expected = (x_hat @ phi.w[i] - x_hat.norm(dim=-1) ** 2 / 2).exp() / 4
        torch.testing.assert_close(phi(x)[:, i], expected)


def test_random_features_are_orthogonal_in_blocks_and_as_long_as_gaussian_vectors():
    """Rows of one block are orthogonal; lengths are those of K normal numbers: E‖w‖² = K."""
    w = RandomFeatures(8, 20).w
    for block in (w[:8], w[8:16], w[16:]):
        gram = block @ block.T
        torch.testing.assert_close(gram, torch.diag(gram.diagonal()), rtol=0, atol=1e-4)
    assert (w[:8] @ w[8:16].T).abs().max() > 0.1
    squares = RandomFeatures(8, 4000).w.square().sum(-1)
    assert squares.mean().item() == pytest.approx(8, rel=0.05)
    assert squares.var().item() == pytest.approx(16, rel=0.15)  # of χ² with 8 degrees of freedom


def test_rotations_are_uniform():
    """Signs included: the first entry of the first row has mean 0 and variance 1/K."""
    first = torch.stack([RandomFeatures(4, 4, seed=s).w[0] for s in range(600)])
    first = first / first.norm(dim=-1, keepdim=True)
    assert first.mean(0).abs().max() < 4 * (1 / 4 / 600) ** 0.5
    torch.testing.assert_close(first.square().mean(0), torch.full((4,), 0.25), rtol=0, atol=0.04)


def test_a_seed_fixes_the_draw_and_no_other_random_number():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    one, two, other = RandomFeatures(K), RandomFeatures(K), RandomFeatures(K, seed=1)
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(one.w, two.w) and not torch.equal(one.w, other.w)
    assert one.w.shape == (64, K) and "w" in one.state_dict()


def test_an_unknown_map_gets_one_clear_sentence():
    with pytest.raises(ValueError, match="feature_map is 'relu': choose one of identity, elu"):
        feature_map("relu", K)
