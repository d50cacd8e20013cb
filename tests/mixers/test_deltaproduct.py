import math

import pytest
import torch

from seqlab.core.recurrence import recurrent
from seqlab.mixers.deltaproduct import DeltaProduct
from seqlab.mixers.gated_deltanet import GatedDeltaNet

D, H, T = 32, 4, 23


@pytest.mark.parametrize("forget", [False, True])
def test_a_token_turns_the_table_by_a_product_of_matrices(forget):
    """S_t = a_t S_{t-1} Π_j (I - β_j k_j k_jᵀ) + what the steps write; one read after the last."""
    n = 3
    mixer = DeltaProduct(D, H, n_steps=n, forget=forget).double()
    x = torch.randn(1, T, D, dtype=torch.float64)
    inputs, _ = mixer.micro_steps(x)
    inputs = {name: u[0, :, 0].unflatten(0, (T, n)) for name, u in inputs.items()}  # head 0
    S, eye = torch.zeros(12, 6, dtype=torch.float64), torch.eye(6, dtype=torch.float64)
    for t in range(T):
        if forget:
            S = inputs["log_a"][t, 0].exp() * S
        for j in range(n):
            k, v, beta = (inputs[name][t, j] for name in ("k", "v", "beta"))
            S = S @ (eye - beta * torch.outer(k, k)) + beta * torch.outer(v, k)
    torch.testing.assert_close(mixer(x)[1].S[0, 0], S, rtol=0, atol=1e-9)
    assert inputs["q"][:, :-1].eq(0).all() and inputs["q"][:, -1].ne(0).all()


def test_with_one_step_it_is_gated_deltanet():
    """Same weights, same outputs: n_steps = 1 and the decay is Gated DeltaNet with β up to 2."""
    ours = DeltaProduct(D, H, n_steps=1, forget=True).double()
    theirs = GatedDeltaNet(D, H, negative_eigenvalues=True).double()
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, T, D, dtype=torch.float64)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=0, atol=1e-12)


def test_two_reflections_are_a_rotation():
    """β = 2 twice, with keys at an angle θ: the table turns by 2θ, which no single write can do."""
    theta, exact = 0.3, {"dtype": torch.float64}
    k = torch.tensor([[1.0, 0.0], [math.cos(theta), math.sin(theta)]], **exact)[None, :, None]
    zeros, two = torch.zeros(1, 2, 1, 2, **exact), torch.full((1, 2, 1), 2, **exact)
    _, S = recurrent(zeros, k, zeros, beta=two, state=torch.eye(2, **exact)[None, None])
    c, s = math.cos(2 * theta), math.sin(2 * theta)
    torch.testing.assert_close(S[0, 0], torch.tensor([[c, s], [-s, c]], **exact))


def test_the_state_does_not_grow_with_the_steps():
    shapes = {DeltaProduct(D, H, n_steps=n)(torch.randn(1, T, D))[1].S.shape for n in (1, 2, 4)}
    assert shapes == {(1, H, 12, 6)}


def test_the_defaults_are_those_of_flas_layer():
    """Two writes a token, a gate, β up to 2, K = ¾ d_model / n_heads and V = 2 K; no decay."""
    mixer = DeltaProduct(D)
    inputs, _ = mixer.micro_steps(30 * torch.randn(1, T, D))
    assert inputs["q"].shape == (1, 2 * T, 4, 6) and inputs["v"].shape == (1, 2 * T, 4, 12)
    assert inputs["beta"].max() > 1.9 and "log_a" not in inputs
    assert mixer.gate.weight.shape == (48, D) and mixer.norm.eq(1).all()
    assert not any("bias" in name for name in mixer.state_dict())


def test_the_decay_starts_as_gated_deltanets():
    """A in (0, 16) and softplus(b) log-uniform in [0.001, 0.1]; bounds of five standard errors."""
    mixer = DeltaProduct(D, 2000, d_key=1, forget=True)
    A, dt = mixer.A_log.detach().exp(), torch.nn.functional.softplus(mixer.dt_bias.detach())
    assert 0 < A.min() < 0.2 and 15.8 < A.max() < 16
    assert A.mean().item() == pytest.approx(8, abs=5 * 4.6 / 2000**0.5)
    assert 0.99e-3 < dt.min() < 1.1e-3 and 0.09 < dt.max() < 0.101
    assert dt.log().mean().item() == pytest.approx(math.log(0.01), abs=5 * 1.33 / 2000**0.5)


def test_no_steps_get_one_clear_sentence():
    with pytest.raises(ValueError, match="n_steps is 0: each token needs at least 1 write"):
        DeltaProduct(D, n_steps=0)


@pytest.mark.oracle
@pytest.mark.parametrize("forget", [False, True])
def test_against_fla(fla, forget):
    n, mixer, x = 2, DeltaProduct(D, H, forget=forget), torch.randn(2, 50, D)
    inputs, _ = mixer.micro_steps(x)
    g = inputs["log_a"][:, ::n, :, 0] if forget else None
    q, k, v, beta = inputs["q"][:, n - 1 :: n], inputs["k"], inputs["v"], inputs["beta"]
    y, S = fla("gated_delta_product").naive_recurrent_gated_delta_product(
        q, k, v, g, beta, scale=1.0, num_householder=n
    )
    gate = mixer.gate(x)
    expected = mixer.out(mixer.read(y).flatten(2) * gate * gate.sigmoid())
    torch.testing.assert_close(mixer(x)[0], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mixer(x)[1].S, S.mT, rtol=1e-5, atol=1e-5)
