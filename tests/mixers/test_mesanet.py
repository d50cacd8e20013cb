import pytest
import torch

from seqlab.core import least_squares
from seqlab.mixers.mesanet import MesaNet

D, T, H, K = 32, 23, 4, 8


def draw(B=2):
    return torch.randn(B, T, D, dtype=torch.float64)


def close(ours, theirs, atol=1e-9):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=atol)


def parts(mixer, x):
    """q, k, v, the log decay, λ and β from the layer's description."""
    q, k = (u.unflatten(-1, (H, K)) for u in mixer.conv(mixer.qk(x))[0].chunk(2, dim=-1))
    q, k = (u / (u.square().sum(-1, keepdim=True) + 1e-6).sqrt() for u in (q, k))
    g = mixer.decay(x).sigmoid().log()
    ridge = 0.25 + (1 + mixer.ridge.exp()).log()
    return q, k, mixer.v(x).unflatten(-1, (H, K)), g, ridge, mixer.beta(x).sigmoid()


@pytest.mark.oracle
def test_it_is_flas_layer_with_exact_solutions(fla, float64_for_float32):
    module = fla("mesa_net")
    float64_for_float32()
    mixer, x = MesaNet(D).double(), draw()
    mixer.norm.data.uniform_(0.5, 2)
    mixer.ridge.data.normal_()
    start = torch.zeros(2, H, K, K, dtype=torch.float64)
    y, R, S = module.naive_mesa_net_exact(*parts(mixer, x), start, start)
    y = mixer.norm * y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    ours, state = mixer(x)
    close(ours, mixer.out(y.flatten(2)))
    close(state.sums.R, R)
    close(state.sums.S, S.mT)


def test_the_table_is_the_ridge_regression_of_all_pairs():
    """The weighted loss, written out and minimised by PyTorch's least squares."""
    mixer, x = MesaNet(D).double(), draw(1)
    q, k, v, g, ridge, beta = parts(mixer, x)
    y, _ = least_squares.chunkwise(q, k, v, g[..., None], beta, ridge)
    h, t = 1, 17
    fades = torch.stack([g[0, s + 1 : t + 1, h].sum() for s in range(t + 1)]).exp()
    root = (fades * beta[0, : t + 1, h]).sqrt()[:, None]
    rows = torch.cat([root * k[0, : t + 1, h], torch.diag(ridge[h].sqrt())])
    wanted = torch.cat([root * v[0, : t + 1, h], torch.zeros(K, K, dtype=torch.float64)])
    table = torch.linalg.lstsq(rows, wanted).solution  # (K, V)
    close(y[0, t, h], q[0, t, h] @ table)


def test_a_pair_is_read_back_whole_where_the_ridge_is_small():
    """Where linear attention returns mixtures of all values whose keys overlap."""
    k, v = torch.randn(1, 5, 1, 8).double(), torch.randn(1, 5, 1, 3).double()
    ones, ridge = torch.ones(1, 5, 1).double(), torch.full((1, 8), 1e-9).double()
    _, sums = least_squares.recurrent(k, k, v, 0 * ones[..., None], ones, ridge)
    y, _ = least_squares.chunkwise(k, 0 * k, v, 0 * ones[..., None], 0 * ones, ridge, state=sums)
    close(y, v, atol=1e-6)


def test_the_ridge_starts_at_one_and_stays_above_a_quarter():
    mixer = MesaNet(D)
    close(mixer._inputs(torch.randn(1, 3, D), None)[0]["ridge"], torch.ones(H, K), atol=1e-6)
    mixer.ridge.data -= 100
    assert (mixer._inputs(torch.randn(1, 3, D), None)[0]["ridge"] >= 0.25).all()
