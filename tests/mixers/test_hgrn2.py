import pytest
import torch

from seqlab.core.recurrence import chunkwise
from seqlab.mixers.hgrn2 import HGRN2

D, H, T = 32, 4, 19


@pytest.mark.parametrize("bound", [0.0, 0.3])
def test_it_is_the_papers_recurrence(bound):
    """Its norm has no weight, as in the authors' language models."""
    mixer = HGRN2(D, H, lower_bound=bound).double()
    x = 3 * torch.randn(2, T, D, dtype=torch.float64)
    q, f, v = (W(x).unflatten(-1, (H, D // H)) for W in (mixer.q, mixer.f, mixer.v))
    q, f = q * torch.sigmoid(q), bound + (1 - bound) * torch.sigmoid(f)
    S, ys = torch.zeros(2, H, D // H, D // H, dtype=torch.float64), []
    for t in range(T):
        S = f[:, t, :, :, None] * S + (1 - f[:, t])[..., None] * v[:, t, :, None, :]
        ys.append(torch.einsum("bhk, bhkv -> bhv", q[:, t], S))
    y = torch.stack(ys, dim=1).flatten(-2)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    ours, state = mixer(x)
    torch.testing.assert_close(ours, mixer.out(y), rtol=0, atol=1e-9)
    torch.testing.assert_close(state, S.mT, rtol=0, atol=1e-9)


def test_no_gate_is_below_its_bound_and_a_higher_bound_remembers_longer():
    x, strongest = 100 * torch.randn(2, T, D), []
    for bound in (0.0, 0.5, 0.9):
        torch.manual_seed(1)
        strongest.append(HGRN2(D, H, lower_bound=bound).project(x)["log_a"].exp().min().item())
    assert strongest[0] < 1e-6 and strongest[1:] == pytest.approx([0.5, 0.9], abs=1e-6)


def test_a_constant_input_fills_the_state_up_to_itself():
    """What is forgotten is what is written: a column of S is a mean of values, at last v itself."""
    mixer = HGRN2(D, H).double()
    x = torch.randn(1, 1, D, dtype=torch.float64).expand(-1, 400, -1)
    v = mixer.project(x)["v"][:, 0, :, :, None]  # (1, H, V, 1)
    torch.testing.assert_close(mixer(x)[1], v.expand(-1, -1, -1, D // H), rtol=0, atol=1e-9)


def test_the_defaults():
    """No lower bound, so a = σ(W_f x); four heads; no bias anywhere."""
    mixer, x = HGRN2(D), torch.randn(1, T, D)
    gate = mixer.project(x)["log_a"].exp().flatten(-2)
    torch.testing.assert_close(gate, torch.sigmoid(mixer.f(x)))
    assert mixer(x)[1].shape == (1, 4, D // 4, D // 4)
    assert set(mixer.state_dict()) == {f"{name}.weight" for name in ("q", "f", "v", "out")}


def test_wrong_options_get_one_clear_sentence():
    for bound in (1.0, -0.1):
        with pytest.raises(ValueError, match=rf"is {bound}: a gate's lower bound is in \[0, 1\)"):
            HGRN2(D, H, lower_bound=bound)
    with pytest.raises(ValueError, match="d_model is 32, n_heads is 5"):
        HGRN2(D, 5)


@pytest.mark.oracle
def test_each_cell_of_the_state_is_fla_hgrn(fla):
    """HGRN's vector recurrence h = f h + (1 - f) i, once for every cell of the expanded state."""
    mixer, x = HGRN2(D, H, lower_bound=0.2), torch.randn(2, 50, D)
    inputs = mixer.project(x)
    cells = inputs["v"][..., :, None] * inputs["k"][..., None, :]  # (B, T, H, V, K)
    log_a = inputs["log_a"][..., None, :].expand_as(cells)
    h, _ = fla("hgrn").naive_recurrent_hgrn(cells.flatten(2), log_a.flatten(2))
    y = torch.einsum("bthvk, bthk -> bthv", h.unflatten(-1, cells.shape[2:]), inputs["q"])
    torch.testing.assert_close(chunkwise(**inputs)[0], y, rtol=1e-4, atol=1e-5)


@pytest.mark.oracle
def test_hgrn2_against_fla_gla(fla):
    mixer, x = HGRN2(D, H), torch.randn(2, 50, D)
    inputs = mixer.project(x)
    q = inputs["q"] * (D // H) ** 0.5
    y, _ = fla("gla").naive_recurrent_gla(q, inputs["k"], inputs["v"], inputs["log_a"])
    expected = mixer.out(mixer.read(y).flatten(-2))
    torch.testing.assert_close(mixer(x)[0], expected, rtol=1e-4, atol=1e-5)
