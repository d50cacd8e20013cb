from functools import partial

import pytest
import torch

from seqlab.mixers.rwkv7 import RWKV7, default_ranks
from seqlab.model import LanguageModel

D, H, T, RANKS = 32, 4, 23, (5, 6, 7, 8)
# layer, how many there are, 1 - layer / L, and layer / (L - 1)
LAYERS = [(0, 4, 1.0, 0.0), (1, 4, 0.75, 1 / 3), (3, 4, 0.25, 1.0), (1, 2, 0.5, 1.0)]


def lively(**options):
    """A layer whose low-rank maps, which start at 0, are not 0."""
    mixer = RWKV7(D, H, ranks=RANKS, **options)
    for low_rank in (mixer.d, mixer.a, mixer.v_share, mixer.g):
        if low_rank is not None:
            low_rank.down.data.normal_(std=0.3)
            low_rank.up.data.normal_(std=0.3)
    mixer.k.weight.data.normal_(std=0.3)
    return mixer


def test_the_gate_is_diagonal_less_a_product_of_two_keys():
    """S_t = S_{t-1} (diag(w) - κ (a κ)ᵀ) + v kᵀ, with the matrix written out; w > e^(-0.61)."""
    mixer, x = lively().double(), 3 * torch.randn(1, T, D, dtype=torch.float64)
    inputs = {name: u[0] for name, u in mixer.project(x).items()}
    w, kappa = inputs["log_a"].exp(), -inputs["e"]
    assert w.min() > 0.545 and w.max() < 1
    torch.testing.assert_close(kappa.norm(dim=-1), torch.ones(T, H, dtype=torch.float64))
    S = torch.zeros(H, 8, 8, dtype=torch.float64)
    for t in range(T):
        A = torch.diag_embed(w[t]) - kappa[t][:, :, None] * inputs["f"][t][:, None]
        S = S @ A + inputs["v"][t][:, :, None] * inputs["k"][t][:, None]
    torch.testing.assert_close(mixer(x)[1].S[0], S, rtol=0, atol=1e-9)


def test_the_first_layers_values_reach_every_later_layer():
    """In a model, later layers mix layer 0's v into their own; alone, a layer is its own first."""
    mixers = [partial(RWKV7, n_heads=H, ranks=RANKS, layer=i, n_layers=3) for i in range(3)]
    model = LanguageModel(17, D, mixers).double()
    tokens = torch.randint(17, (2, T))
    logits, _ = model(tokens)
    half, states = model(tokens[:, :9])
    halves = torch.cat([half, model(tokens[:, 9:], states)[0]], dim=1)
    torch.testing.assert_close(halves, logits, rtol=0, atol=1e-9)
    first = model.blocks[0].mixer
    logits.sum().backward()
    assert model.blocks[2].mixer.v_share.bias.grad.abs().sum() > 0
    assert first.v_share is None  # nothing to mix in, so no weights for it
    later = model.blocks[1].mixer
    x, v_first = torch.randn(2, 2, T, D, dtype=torch.float64)
    v = later.project(x)["v"]
    mixed = later.project(x, shared={"v_first": v_first})["v"]
    share = later.v_share.bias.sigmoid()  # its low-rank part starts at 0
    torch.testing.assert_close(mixed.flatten(2), v.flatten(2) + share * (v_first - v.flatten(2)))


def test_the_starting_values_are_the_authors():
    mixer = RWKV7(64, 2, layer=1, n_layers=3)
    assert mixer.d.bias[0].item() == pytest.approx(-6 + 0.5 - 2.5)
    assert mixer.d.bias[-1].item() == pytest.approx(3.0)
    assert mixer.a.bias[0].item() == pytest.approx(-0.19 - 0.3 - 0.2)
    assert mixer.v_share.bias[0].item() == pytest.approx(0.73 + 0.2)
    assert mixer.k_k[-1].item() == pytest.approx(0.71 - 0.05) and mixer.k_a.eq(1.02).all()
    assert mixer.r_k.eq(torch.tensor(-0.04)).all() and mixer.r_k.shape == (2, 32)
    assert mixer.norm.weight[0].item() == pytest.approx((2 / 3) ** 0.7)
    assert mixer.norm.bias.eq(0).all()
    assert mixer.d.down.eq(0).all() and mixer.d.down.shape == (64, 32)
    assert RWKV7(64).n_heads == 4 and RWKV7(64).norm.weight.eq(1).all()


@pytest.mark.parametrize("K, zigzag", [(1, [0.0]), (2, [-1.0, 1.0]), (3, [-1.0, 0.0, 1.0])])
def test_narrow_heads_have_a_zigzag_too(K, zigzag):
    mixer = RWKV7(6, 6 // K)
    linear = torch.arange(6) / 5 - 0.5
    expected = -0.19 + 0.3 * torch.tensor(zigzag).repeat(6 // K) + 0.4 * linear
    torch.testing.assert_close(mixer.a.bias.detach(), expected)


@pytest.mark.parametrize("layer, L, left, depth", LAYERS)
def test_mixes_and_biases_start_as_the_authors(layer, L, left, depth):
    """Layer `layer` of L, at channels 8 of 32 (the first of its head of 8) and 22."""
    mixer = RWKV7(D, H, layer=layer, n_layers=L)
    mu_q, mu_d, mu_k, mu_v, mu_a, mu_g = mixer.mu
    for mu, power in ((mu_q, 0.2), (mu_g, 0.2), (mu_k, 0.7), (mu_v, 0.7), (mu_d, 0.9), (mu_a, 0.9)):
        assert mu[8].item() == pytest.approx(1 - 0.25 ** (power * left))
        assert mu[0] == 1
    biases = {"d": mixer.d.bias, "a": mixer.a.bias, "k_k": mixer.k_k}
    if layer:
        biases["v_share"] = mixer.v_share.bias
    for n, place in ((8, -1.0), (22, 5 / 7)):  # channel, and where it is in its head: -1 to 1
        linear = n / 31 - 0.5
        zigzag = place * abs(place)
        expected = {
            "d": -6 + 6 * (n / 31) ** (1 + depth**0.3) + 0.5 + zigzag * 2.5,
            "a": -0.19 + zigzag * 0.3 + linear * 0.4,
            "k_k": 0.71 - linear * 0.1,
            "v_share": 0.73 - linear * 0.4,
        }
        for name, bias in biases.items():
            assert bias[n].item() == pytest.approx(expected[name], abs=1e-6), name


def test_the_matrices_start_as_the_authors():
    """W_q, W_v within ±0.5 / √D, W_k within ±0.05 / √D; the upper low-rank maps a tenth of
    orthogonal ones, or √(rank / D) times that if the rank is above D.
    """
    mixer = RWKV7(64, 4, ranks=(8, 16, 32, 256), layer=1, n_layers=2)
    for W, bound in ((mixer.q, 0.5 / 8), (mixer.k, 0.05 / 8), (mixer.v, 0.5 / 8)):
        assert -bound <= W.weight.min() < -0.99 * bound
        assert 0.99 * bound < W.weight.max() <= bound
        assert W.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    for low_rank, rank in ((mixer.d, 8), (mixer.a, 16), (mixer.v_share, 32), (mixer.g, 256)):
        up = low_rank.up
        assert low_rank.down.shape == (64, rank) and up.shape == (rank, 64)
        assert low_rank.down.eq(0).all()
        square = up @ up.T if rank <= 64 else up.T @ up
        scale = 0.01 * max(1, rank / 64)
        torch.testing.assert_close(square, scale * torch.eye(len(square)), rtol=0, atol=1e-5)
    assert mixer.g.bias is None


@pytest.mark.parametrize(
    "D, ranks",
    [
        (256, (32, 32, 32, 64)),
        (768, (64, 64, 32, 128)),  # the released 0.1B and 0.2B
        (1024, (64, 64, 32, 160)),  # 0.4B
        (2048, (96, 96, 64, 256)),  # 1.5B
        (2560, (96, 96, 64, 320)),  # 2.9B
        (4096, (128, 128, 96, 480)),  # 7.2B
    ],
)
def test_default_ranks_are_those_of_the_released_models(D, ranks):
    assert default_ranks(D) == ranks


def test_a_layer_beyond_the_last_gets_one_clear_sentence():
    sentence = "layer is 3, n_layers is 1: layers are numbered from 0, so pass n_layers too"
    with pytest.raises(ValueError, match=sentence):
        RWKV7(D, layer=3)


def test_wrong_widths_get_one_clear_sentence():
    sentence = "d_model is 32, n_heads is 3: the first must be a multiple of the second"
    with pytest.raises(ValueError, match=sentence):
        RWKV7(D, 3)
    with pytest.raises(ValueError, match="form is 'parallel': choose one of recurrent, chunkwise"):
        RWKV7(D, H, form="parallel")


def test_a_later_layer_runs_under_autocast():
    """Its share of v_first is a float32 bias plus a bfloat16 product."""
    mixer, x, first = lively(layer=1, n_layers=2), torch.randn(2, T, D), torch.randn(2, T, D)
    exact, _ = mixer.double()(x.double(), None, {"v_first": first.double()})
    mixer.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, _ = mixer(x, None, {"v_first": first.bfloat16()})
    assert (y - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.oracle
@pytest.mark.parametrize("layer", [0, 1])
def test_against_the_rwkv_package(rwkv_package, layer):
    mixer, x, S = lively(layer=layer, n_layers=3), torch.randn(T, D), torch.randn(H, 8, 8)
    v_first, last = torch.randn(T, D), torch.randn(D)
    mu_q, mu_d, mu_k, mu_v, mu_a, mu_g = mixer.mu
    unused = mixer.a  # layer 0 has no share of v_first, but theirs asks for its weights
    d, a, v = ((p.bias, p.down, p.up) for p in (mixer.d, mixer.a, mixer.v_share or unused))
    weights = (W.weight.T for W in (mixer.q, mixer.k, mixer.v, mixer.out))
    with torch.no_grad():
        y, _, S_T, first = rwkv_package(v7=True).RWKV_x070_TMix_seq(
            layer, H, 8, x, last, v_first, S.clone(), mu_q, mu_d, mu_k, mu_v, mu_a, mu_g,
            *d, *a, *v, mixer.g.down, mixer.g.up, mixer.k_k, mixer.k_a, mixer.r_k.flatten(),
            *weights, mixer.norm.weight, mixer.norm.bias,
        )  # fmt: skip
    shared = {"v_first": v_first[None]} if layer else {}
    ours, state = mixer(x[None], (last[None], S[None]), shared)
    torch.testing.assert_close(ours[0], y, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(state.S[0], S_T, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(shared["v_first"][0], first, rtol=1e-5, atol=1e-5)
