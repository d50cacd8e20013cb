import pytest
import torch

from seqlab.core.recurrence import recurrent
from seqlab.mixers.h3 import H3

D, N, T = 12, 6, 15


@pytest.mark.parametrize("d_head", [1, 3])
def test_it_is_two_state_spaces_around_two_products(d_head):
    """The shift matrix and the diagonal one, each stepped token by token, the second by its matrix
    exponential.
    """
    mixer, x = H3(D, d_head=d_head, d_state=N).double(), torch.randn(1, T, D, dtype=torch.float64)
    q, k, v = (W(x)[0] for W in (mixer.q, mixer.k, mixer.v))
    shift_matrix = torch.diag(torch.ones(N - 1, dtype=torch.float64), -1)
    held = torch.zeros(D, N, dtype=torch.float64)
    H = D // d_head
    h, y = (
        torch.zeros(H, d_head, d_head, N // 2, dtype=torch.complex128),
        torch.zeros(T, H, d_head, dtype=torch.float64),
    )
    A = torch.complex(-mixer.log_rate.exp(), mixer.frequency)  # (H, N / 2)
    for t in range(T):
        held = held @ shift_matrix.mT
        held[:, 0] += k[t]
        k_t = ((held * mixer.shift.flip(1)).sum(1) + mixer.D_k * k[t]).unflatten(0, (H, d_head))
        write = v[t].unflatten(0, (H, d_head))[:, :, None] * k_t[:, None]  # (H, V, K)
        for i in range(H):
            for n in range(N // 2):
                joined = torch.zeros(2, 2, dtype=torch.complex128)
                joined[0] = torch.stack([A[i, n], torch.ones((), dtype=A.dtype)])
                held_step = torch.linalg.matrix_exp(joined * mixer.log_dt[i].exp())
                h[i, :, :, n] = held_step[0, 0] * h[i, :, :, n] + held_step[0, 1] * write[i]
        C = torch.view_as_complex(mixer.C)
        S = 2 * torch.einsum("hvkn, hn -> hvk", h, C).real + mixer.D[:, None, None] * write
        y[t] = torch.einsum("hvk, hk -> hv", S, q[t].unflatten(0, (H, d_head)))
    torch.testing.assert_close(mixer(x)[0][0], mixer.out(y.flatten(1)), rtol=0, atol=1e-9)


def test_h3_with_one_standing_mode_is_linear_attention():
    """A rate of 0 and C = 1/2 forget nothing and weight nothing: S_t = Σ v kᵀ, if the shift keeps k
    as it is.
    """
    mixer, x = H3(D, d_head=4, d_state=2).double(), torch.randn(2, T, D, dtype=torch.float64)
    for p, value in {
        mixer.log_rate: -60,
        mixer.frequency: 0,
        mixer.log_dt: 0,
        mixer.C: 0.5,
        mixer.D: 0,
    }.items():
        p.data.fill_(value)
    mixer.D_k.data.fill_(1), mixer.shift.data.zero_()
    q, k, v = (W(x).unflatten(-1, (3, 4)) for W in (mixer.q, mixer.k, mixer.v))
    torch.testing.assert_close(
        mixer(x)[0], mixer.out(recurrent(q, k, v)[0].flatten(-2)), rtol=0, atol=1e-9
    )


def test_the_shift_recalls_what_came_before_the_same_token():
    """ "a1 .. a?" with one-hot tokens: k̃ = the previous token, so S maps each token to its
    successor.
    """
    mixer = H3(4, d_head=4, d_state=2).double()
    for p, value in {
        mixer.log_rate: -60,
        mixer.frequency: 0,
        mixer.log_dt: 0,
        mixer.C: 0.5,
        mixer.D: 0,
    }.items():
        p.data.fill_(value)
    mixer.D_k.data.zero_(), mixer.shift.data.copy_(torch.tensor([1.0, 0.0]))
    for W in (mixer.q, mixer.k, mixer.v, mixer.out):
        W.weight.data, W.bias.data = (
            torch.eye(4, dtype=torch.float64),
            torch.zeros(4, dtype=torch.float64),
        )
    tokens = torch.tensor([2, 1, 3, 0, 2])
    y = mixer(torch.eye(4, dtype=torch.float64)[tokens][None])[0][0, -1]
    torch.testing.assert_close(
        y, torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64), rtol=0, atol=1e-9
    )


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="d_model is 12, d_head is 5"):
        H3(D, d_head=5)
