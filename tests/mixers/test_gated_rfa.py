import pytest
import torch

from seqlab.core.recurrence import chunkwise
from seqlab.mixers.gated_rfa import GatedRFA

D, H, T = 32, 4, 19


def test_it_is_the_papers_recurrence():
    mixer, x = GatedRFA(D, H).double(), torch.randn(2, T, D, dtype=torch.float64)
    mixer.scale.data.uniform_(0.5, 1.5)
    q, k, v = (W(x).unflatten(-1, (H, D // H)) for W in (mixer.q, mixer.k, mixer.v))
    g, W = torch.sigmoid(mixer.gate(x)), mixer.w * mixer.scale[:, None]  # rows of W: σ ∘ w̃

    def phi(u):
        unit = u / (u.square().sum(-1, keepdim=True) + 1e-6).sqrt()
        angle = torch.einsum("hdk, bhk -> bhd", W, unit)
        return torch.cat([angle.sin(), angle.cos()], dim=-1) / W.shape[1] ** 0.5

    S, z, ys = 0, 0, []
    for t in range(T):
        g_t, phi_k, phi_q = g[:, t, :, None], phi(k[:, t]), phi(q[:, t])
        S = g_t[..., None] * S + (1 - g_t)[..., None] * phi_k[..., :, None] * v[:, t, :, None, :]
        z = g_t * z + (1 - g_t) * phi_k
        normaliser = (phi_q * z).sum(-1, keepdim=True).abs()
        ys.append(torch.einsum("bhf, bhfv -> bhv", phi_q, S) / normaliser)
    y = torch.stack(ys, dim=1)
    ours, state = mixer(x)
    assert mixer.normalize  # the last row of the state is the normaliser
    torch.testing.assert_close(ours, mixer.out(y.flatten(-2)), rtol=0, atol=1e-9)
    torch.testing.assert_close(state[:, :, :-1], S.mT, rtol=0, atol=1e-9)
    torch.testing.assert_close(state[:, :, -1], z, rtol=0, atol=1e-9)


def test_its_features_mean_the_gaussian_kernel():
    """The mean of φ(q)·φ(k) over draws is exp(-‖σ(q - k)‖²/2), within four standard errors."""
    q, k = torch.randn(2, 1, 5, H, D // H, dtype=torch.float64)
    unit = lambda u: u / u.norm(dim=-1, keepdim=True)  # noqa: E731
    draws = []
    for seed in range(300):
        mixer = GatedRFA(D, H, n_features=64, seed=seed).double()
        mixer.scale.data.fill_(0.7)
        draws.append((mixer.phi(q) * mixer.phi(k)).sum(-1))
    draws = torch.stack(draws)
    exact = (-(0.7**2) * (unit(q) - unit(k)).square().sum(-1) / 2).exp()
    assert ((draws.mean(0) - exact).abs() < 4 * draws.std(0) / 300**0.5).all()


def test_an_output_is_a_mean_of_values():
    """Normaliser and table have the same gates: equal values return unchanged, whatever these."""
    mixer, x = GatedRFA(D, H).double(), torch.randn(1, T, D, dtype=torch.float64)
    inputs = mixer.project(x)
    inputs["v"] = inputs["v"][:, :1].expand_as(inputs["v"])
    y = mixer.read(chunkwise(**inputs)[0])
    torch.testing.assert_close(y, inputs["v"][..., :-1].contiguous(), rtol=0, atol=1e-9)


def test_a_normaliser_near_0_divides_by_no_less_than_eps():
    y = torch.tensor([2.0, 3.0, -1e-9], dtype=torch.float64).expand(1, 1, 1, 3)
    expected = torch.tensor([2e6, 3e6], dtype=torch.float64).expand(1, 1, 1, 2)
    torch.testing.assert_close(GatedRFA(D, H).read(y), expected)
    torch.testing.assert_close(GatedRFA(D, H, eps=0.1).read(y), 1e-5 * expected)


def test_the_frequencies_start_normal_and_their_scale_at_1():
    """w ~ N(0, 1), σ = 1, four heads of 64 sines and 64 cosines; bounds of five standard errors."""
    mixer = GatedRFA(320)
    assert mixer.w.shape == (4, 64, 80) and mixer.scale.eq(1).all()
    assert [name for name in mixer.state_dict() if "bias" in name] == ["gate.bias"]
    assert mixer.w.mean().item() == pytest.approx(0, abs=5 / mixer.w.numel() ** 0.5)
    assert mixer.w.std().item() == pytest.approx(1, abs=5 / (2 * mixer.w.numel()) ** 0.5)


def test_the_seed_alone_chooses_the_frequencies():
    """So two layers of one seed share them, whatever was drawn before; the default is one seed."""
    assert GatedRFA(D, H).w.equal(GatedRFA(D, H, seed=0).w)
    assert not GatedRFA(D, H).w.equal(GatedRFA(D, H, seed=1).w)


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="n_features is 7: features come in pairs"):
        GatedRFA(D, H, n_features=7)


@pytest.mark.oracle
def test_gated_rfa_against_fla(fla):
    mixer, x = GatedRFA(D, H), torch.randn(2, 64, D)
    inputs = mixer.project(x)
    q = inputs["q"] * inputs["q"].shape[-1] ** 0.5
    y, _ = fla("simple_gla").naive_recurrent_simple_gla(
        q, inputs["k"], inputs["v"], inputs["log_a"][..., 0]
    )
    expected = mixer.out(mixer.read(y).flatten(-2))
    torch.testing.assert_close(mixer(x)[0], expected, rtol=1e-4, atol=1e-5)
