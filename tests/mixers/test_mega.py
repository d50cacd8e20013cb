import pytest
import torch
from torch.distributions import Normal
from torch.nn.functional import silu

from seqlab.mixers.mega import MEGA

D, N, Z, V, C, T = 8, 3, 4, 10, 5, 17


@pytest.fixture
def mixer():
    mixer = MEGA(D, d_state=N, d_z=Z, d_v=V, chunk_size=C).double()
    for p in mixer.parameters():
        p.data += 0.5 * torch.randn_like(p)
    return mixer


def averages(mixer, x):
    """Equation 7 of the paper, token by token: u = β x, h = α u + (1 - α δ) h, y = ηᵀ h.

    Then ω x and silu.
    """
    alpha, delta = torch.sigmoid(mixer.alpha), torch.sigmoid(mixer.delta)
    h, ys = torch.zeros(D, N, dtype=torch.float64), []
    for x_t in x:
        h = alpha * (mixer.beta * x_t[:, None]) + (1 - alpha * delta) * h
        ys.append((mixer.eta * h).sum(1) / N**0.5)
    return silu(torch.stack(ys) + mixer.omega * x)


def test_it_is_the_papers_layer(mixer):
    """Equations 7 to 17, token by token: each attends to its chunk, up to itself."""
    x = torch.randn(T, D, dtype=torch.float64)
    moved, v = averages(mixer, x), silu(mixer.v(x))
    update, candidate, z, reset = mixer.moved(moved).split([D, D, Z, V], dim=-1)
    q, k = (silu(z) * mixer.kappa[i] + mixer.mu[i] for i in range(2))
    y = torch.zeros(T, D, dtype=torch.float64)
    for t in range(T):
        seen = range(t - t % C, t + 1)
        weights = torch.stack([q[t] @ k[s] / Z**0.5 + mixer.bias[t - s] for s in seen]).softmax(0)
        o = sum(w * v[s] for w, s in zip(weights, seen, strict=True))
        hidden = silu(candidate[t] + (silu(reset[t]) * o) @ mixer.u.weight.mT)
        gate = torch.sigmoid(update[t])
        y[t] = gate * hidden + (1 - gate) * x[t]
    torch.testing.assert_close(x + mixer(x[None])[0][0], y, rtol=0, atol=1e-9)


def test_a_chunk_hears_of_the_chunks_before_it_through_the_average_alone(mixer):
    x = torch.randn(1, 2 * C, D, dtype=torch.float64)
    changed = x.clone()
    changed[:, 0] += 1
    assert not torch.isclose(mixer(changed)[0][:, C:], mixer(x)[0][:, C:]).all(-1).any()
    mixer.eta.data.zero_()
    torch.testing.assert_close(mixer(changed)[0][:, C:], mixer(x)[0][:, C:], rtol=0, atol=1e-12)


def test_one_long_chunk_is_plain_gated_attention(mixer):
    """Chunks of T tokens and more give one answer: the whole sequence is seen."""
    x = torch.randn(2, 2 * C, D, dtype=torch.float64)
    sizes = {"d_state": N, "d_z": Z, "d_v": V}
    wide, wider = (MEGA(D, **sizes, chunk_size=n).double() for n in (2 * C, 3 * C))
    for other in (wide, wider):
        bias = torch.arange(float(other.chunk_size), dtype=torch.float64).cos()
        other.load_state_dict(mixer.state_dict() | {"bias": bias})
    torch.testing.assert_close(wide(x)[0], wider(x)[0], rtol=0, atol=1e-12)


def test_the_cache_holds_the_open_chunk(mixer):
    for T in (1, C - 1, C, C + 1, 3 * C - 1):
        state = mixer(torch.randn(1, T, D, dtype=torch.float64))[1]
        assert state.k.shape == (1, T % C, Z) and state.v.shape == (1, T % C, V)


def test_every_weight_starts_where_the_authors_start_it(drawn_from):
    mixer = MEGA(128, d_state=15)
    for p in (mixer.alpha, mixer.delta):
        drawn_from(p, Normal(0, 0.2))
    sign = torch.tensor([1.0, -1.0] * 8)[:15]
    drawn_from(mixer.beta - sign, Normal(0, 0.02))
    for p in (mixer.eta, mixer.omega):
        drawn_from(p, Normal(0, 1))
    for p in (mixer.v.weight, mixer.moved.weight, mixer.u.weight, mixer.kappa, mixer.bias):
        drawn_from(p, Normal(0, 0.02))
    for p in (mixer.v.bias, mixer.moved.bias, mixer.mu):
        assert (p == 0).all()


def test_the_default_sizes_are_the_papers():
    """z a quarter and v twice as wide as the model, 16 averages per channel, chunks of 128."""
    mixer = MEGA(64)
    assert mixer.eta.shape == (64, 16) and mixer.kappa.shape == mixer.mu.shape == (2, 16)
    assert mixer.v.out_features == mixer.u.in_features == 128 and mixer.bias.shape == (128,)
    assert mixer.moved.out_features == 2 * 64 + 16 + 128 and mixer.chunk_size == 128
    assert MEGA(3).kappa.shape == (2, 1)  # never no channel at all


def test_scores_beyond_float16_are_computed_in_float32(mixer):
    """q = k = 256 in Z = 4 channels: q·k = 262,144, and the largest half is 65,504."""
    q = torch.full((1, C, Z), 256.0).half()
    v = torch.randn(1, C, V).half()
    mixer.bias.data.zero_()
    mean = v.double().cumsum(1) / torch.arange(1, C + 1)[:, None]
    y = mixer.half()._attend(q, q, v).double()
    # The weights and y are rounded to half: 2^-11 of |v|, below 5, each.
    torch.testing.assert_close(y, mean, rtol=0, atol=2 * 5 * 2**-11)
