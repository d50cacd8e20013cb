from functools import partial

import pytest
import torch

from seqlab.mixers.rwkv7 import RWKV7, default_ranks
from seqlab.model import LanguageModel

D, H, T, RANKS = 32, 4, 23, (5, 6, 7, 8)


def lively(**options):
    """A layer whose low-rank maps, which start at 0, do something."""
    mixer = RWKV7(D, H, ranks=RANKS, **options)
    for low_rank in (mixer.d, mixer.a, mixer.v_share, mixer.g):
        if low_rank is not None:
            low_rank.down.data.normal_(std=0.3)
            low_rank.up.data.normal_(std=0.3)
    mixer.k.weight.data.normal_(std=0.3)
    return mixer


def test_the_gate_is_diagonal_less_a_product_of_two_keys():
    """S_t = S_{t-1} (diag(w) - κ (a κ)ᵀ) + v kᵀ, with the matrix written out; w never under
    e^(-0.61).
    """
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
    """In a model, layer 1 mixes layer 0's v into its own; alone, a layer is its own first."""
    mixers = [partial(RWKV7, n_heads=H, ranks=RANKS, layer=i, n_layers=3) for i in range(3)]
    model = LanguageModel(17, D, mixers).double()
    tokens = torch.randint(17, (2, T))
    logits, _ = model(tokens)
    half, states = model(tokens[:, :9])
    torch.testing.assert_close(
        torch.cat([half, model(tokens[:, 9:], states)[0]], 1), logits, rtol=0, atol=1e-9
    )
    first = model.blocks[0].mixer
    logits.sum().backward()
    assert model.blocks[2].mixer.v_share.bias.grad.abs().sum() > 0
    assert first.v_share is None  # nothing to mix in, so no weights for it
    later, x, v_first = (
        model.blocks[1].mixer,
        torch.randn(2, T, D).double(),
        torch.randn(2, T, D).double(),
    )
    v = later.project(x)["v"]
    mixed = later.project(x, shared={"v_first": v_first})["v"]
    share = later.v_share.bias.sigmoid()  # its low-rank part starts at 0
    torch.testing.assert_close(mixed.flatten(2), v.flatten(2) + share * (v_first - v.flatten(2)))


def test_the_starting_values_are_the_authors():
    mixer = RWKV7(64, 2, layer=1, n_layers=3)
    assert mixer.d.bias[0].item() == pytest.approx(-6 + 0.5 - 2.5) and mixer.d.bias[
        -1
    ].item() == pytest.approx(3.0)
    assert mixer.a.bias[0].item() == pytest.approx(-0.19 - 0.3 - 0.2)
    assert mixer.v_share.bias[0].item() == pytest.approx(0.73 + 0.2)
    assert mixer.k_k[-1].item() == pytest.approx(0.71 - 0.05) and mixer.k_a.eq(1.02).all()
    assert mixer.norm.weight[0].item() == pytest.approx((2 / 3) ** 0.7)
    assert mixer.d.down.eq(0).all() and mixer.d.down.shape == (64, 32)
    assert default_ranks(2048) == (96, 96, 64, 256)  # of the 1.5B model


def test_a_layer_beyond_the_last_gets_one_clear_sentence():
    with pytest.raises(
        ValueError,
        match="layer is 3, n_layers is 1: layers are numbered from 0, so pass n_layers too",
    ):
        RWKV7(32, layer=3)


def test_wrong_widths_get_one_clear_sentence():
    with pytest.raises(
        ValueError, match="d_model is 32, n_heads is 3: the first must be a multiple of the second"
    ):
        RWKV7(D, 3)
    with pytest.raises(ValueError, match="form is 'parallel': choose one of recurrent, chunkwise"):
        RWKV7(D, H, form="parallel")


def test_a_later_layer_runs_under_autocast():
    """Its share of v_first is a float32 bias and a bfloat16 product."""
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
            layer, H, 8, x, last, v_first, S.clone(), mu_q, mu_d, mu_k, mu_v, mu_a, mu_g, *d, *a, *v,
            mixer.g.down, mixer.g.up, mixer.k_k, mixer.k_a, mixer.r_k.flatten(), *weights,
            mixer.norm.weight, mixer.norm.bias,
        )  # fmt: skip
    shared = {"v_first": v_first[None]} if layer else {}
    ours, state = mixer(x[None], (last[None], S[None]), shared)
    torch.testing.assert_close(ours[0], y, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(state.S[0], S_T, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(shared["v_first"][0], first, rtol=1e-5, atol=1e-5)
