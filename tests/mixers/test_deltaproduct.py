import pytest
import torch

from seqlab.core.recurrence import recurrent
from seqlab.mixers.deltaproduct import DeltaProduct
from seqlab.mixers.gated_deltanet import GatedDeltaNet

D, H, T = 32, 4, 23


@pytest.mark.parametrize("forget", [False, True])
def test_a_token_turns_the_table_by_a_product_of_matrices(forget):
    """S_t = a_t S_{t-1} Π_j (I - β_j k_j k_jᵀ) + what the steps write, and one read after the
    last.
    """
    n, mixer, x = (
        3,
        DeltaProduct(D, H, n_steps=3, forget=forget).double(),
        torch.randn(1, T, D, dtype=torch.float64),
    )
    inputs = {
        name: u[0, :, 0].unflatten(0, (T, n)) for name, u in mixer.micro_steps(x)[0].items()
    }  # head 0
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
    """β = 2 twice, with keys at an angle θ: the table turns by 2 θ, which one step with β ≤ 2
    cannot do.
    """
    theta = torch.tensor(0.3, dtype=torch.float64)
    k = torch.stack([torch.tensor([1.0, 0.0]).double(), torch.stack([theta.cos(), theta.sin()])])[
        None, :, None
    ]
    zeros, two = (
        torch.zeros(1, 2, 1, 2, dtype=torch.float64),
        torch.full((1, 2, 1), 2, dtype=torch.float64),
    )
    _, S = recurrent(zeros, k, zeros, beta=two, state=torch.eye(2, dtype=torch.float64)[None, None])
    c, s = (2 * theta).cos(), (2 * theta).sin()
    torch.testing.assert_close(S[0, 0], torch.stack([torch.stack([c, s]), torch.stack([-s, c])]))


def test_the_state_does_not_grow_with_the_steps():
    shapes = {DeltaProduct(D, H, n_steps=n)(torch.randn(1, T, D))[1].S.shape for n in (1, 2, 4)}
    assert shapes == {(1, H, 12, 6)}


def test_no_steps_get_one_clear_sentence():
    with pytest.raises(ValueError, match="n_steps is 0: each token needs at least 1 write"):
        DeltaProduct(D, n_steps=0)


@pytest.mark.oracle
@pytest.mark.parametrize("forget", [False, True])
def test_against_fla(fla, forget):
    n, mixer, x = 2, DeltaProduct(D, H, forget=forget), torch.randn(2, 50, D)
    inputs, _ = mixer.micro_steps(x)
    g = inputs["log_a"][:, ::n, :, 0] if forget else None
    y, S = fla("gated_delta_product").naive_recurrent_gated_delta_product(
        inputs["q"][:, n - 1 :: n],
        inputs["k"],
        inputs["v"],
        g,
        inputs["beta"],
        scale=1.0,
        num_householder=n,
    )
    gate = mixer.gate(x)
    expected = mixer.out(mixer.read(y).flatten(2) * gate * gate.sigmoid())
    torch.testing.assert_close(mixer(x)[0], expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mixer(x)[1].S, S.mT, rtol=1e-5, atol=1e-5)
