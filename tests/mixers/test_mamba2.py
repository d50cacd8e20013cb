import warnings

import pytest
import torch
from torch.nn.functional import silu, softplus

from seqlab.mixers.mamba2 import Mamba2

D = 24
SIZES = {"d_head": 5, "d_state": 6, "n_groups": 2, "d_conv": 3}


def copy_into(ours, theirs):
    """The weights of a transformers Mamba-2 layer, name by name."""
    for name, part in {"in_proj": theirs.in_proj, "out": theirs.out_proj}.items():
        getattr(ours, name).load_state_dict(part.state_dict())
    pairs = {
        ours.conv.weight: theirs.conv1d.weight[:, 0],
        ours.norm: theirs.norm.weight,
        **{getattr(ours, name): getattr(theirs, name) for name in ("A_log", "D", "dt_bias")},
    }
    if ours.conv.bias is not None:
        pairs[ours.conv.bias] = theirs.conv1d.bias
    for mine, other in pairs.items():
        mine.data = other.data.clone()


def bamba(transformers, bias):
    from transformers.models.bamba.modeling_bamba import BambaMixer

    names = {
        "mamba_d_head": 6,
        "mamba_expand": 1,
        "mamba_d_state": 6,
        "mamba_n_groups": 2,
        "mamba_d_conv": 3,
    }
    return BambaMixer, transformers.BambaConfig(
        hidden_size=D,
        mamba_n_heads=4,
        mamba_chunk_size=8,
        mamba_proj_bias=bias,
        mamba_conv_bias=bias,
        **names,
    )


def mamba2(transformers, bias):
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    names = {"head_dim": 6, "expand": 1, "state_size": 6, "n_groups": 2, "conv_kernel": 3}
    return Mamba2Mixer, transformers.Mamba2Config(
        hidden_size=D,
        num_heads=4,
        chunk_size=8,
        use_bias=bias,
        use_conv_bias=bias,
        num_hidden_layers=1,
        **names,
    )


def zamba2(transformers, bias):
    from transformers.models.zamba2.modeling_zamba2 import Zamba2MambaMixer

    names = {
        "mamba_headdim": 6,
        "mamba_expand": 1,
        "mamba_d_state": 6,
        "mamba_ngroups": 2,
        "mamba_d_conv": 3,
    }
    return Zamba2MambaMixer, transformers.Zamba2Config(
        hidden_size=D, n_mamba_heads=4, chunk_size=8, add_bias_linear=bias, **names
    )


@pytest.fixture
def transformers():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            "transformers", reason="needs transformers: pip install -e '.[test]'"
        )


@pytest.fixture
def wide_floats(monkeypatch):
    """transformers drops to float32 inside, whatever the model's dtype: here `float32` means
    float64 to it.
    """
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    monkeypatch.setattr(torch, "float32", torch.float64)


@pytest.mark.oracle
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("family", [mamba2, bamba, zamba2])
def test_a_layer_of_transformers_loads(transformers, wide_floats, family, bias):
    """Prefill, then token by token, in float64; random A, D and Δ, several groups, an odd
    convolution.
    """
    make, config = family(transformers, bias)
    theirs = make(config, layer_idx=0).double().eval()
    for p in theirs.parameters():
        p.data = p.data + 0.3 * torch.randn_like(p)
    limit = theirs.time_step_limit
    conv_bias = theirs.conv1d.bias is not None
    ours = Mamba2(
        D, 4, d_head=6, d_state=6, n_groups=2, d_conv=3, bias=bias, conv_bias=conv_bias, dt_limit=limit,
        eps=theirs.norm.variance_epsilon,
    ).double()  # fmt: skip
    copy_into(ours, theirs)
    x, cache = torch.randn(2, 21, D, dtype=torch.float64), transformers.DynamicCache(config=config)
    whole = theirs(x)
    torch.testing.assert_close(ours(x)[0], whole, rtol=0, atol=1e-9)
    y, state = ours(x[:, :13])
    torch.testing.assert_close(y, theirs(x[:, :13], cache_params=cache), rtol=0, atol=1e-9)
    for t in range(13, 21):
        y, state = ours(x[:, t : t + 1], state)
        torch.testing.assert_close(
            y, theirs(x[:, t : t + 1], cache_params=cache), rtol=0, atol=1e-9
        )


@pytest.mark.oracle
def test_steps_are_clipped_in_every_form(transformers, wide_floats):
    """As in their prefill. (Decoding, they forget the limit: their two ways differ. Ours are
    one.)
    """
    make, config = mamba2(transformers, bias=True)
    config.time_step_limit = (0.5, 0.8)
    theirs = make(config, layer_idx=0).double().eval()
    theirs.dt_bias.data.normal_()
    ours = Mamba2(
        D, 4, d_head=6, d_state=6, n_groups=2, d_conv=3, bias=True, dt_limit=(0.5, 0.8)
    ).double()
    copy_into(ours, theirs)
    x = torch.randn(2, 9, D, dtype=torch.float64)
    for form in ("recurrent", "parallel", "chunkwise"):
        ours.form = form
        torch.testing.assert_close(ours(x)[0], theirs(x), rtol=0, atol=1e-9)


def test_it_is_a_state_space_model_whose_step_the_input_chooses():
    """h' = A h + B x held for Δ_t: A by zero-order hold, B by Euler; written out token by token,
    head by head.
    """
    H, V, N = 4, 5, 6
    mixer, x = Mamba2(D, H, **SIZES).double(), torch.randn(1, 9, D, dtype=torch.float64)
    z, xBC, w = mixer.in_proj(x)[0].split([H * V, H * V + 4 * N, H], dim=-1)
    padded = torch.cat([torch.zeros(2, xBC.shape[1], dtype=torch.float64), xBC])
    xBC = silu(sum(padded[j : j + 9] * mixer.conv.weight[:, j] for j in range(3)) + mixer.conv.bias)
    u, B, C = xBC.split([H * V, 2 * N, 2 * N], dim=-1)
    h, ys = torch.zeros(H, V, N, dtype=torch.float64), []
    for t in range(9):
        y = torch.zeros(H, V, dtype=torch.float64)
        for i in range(H):
            group = slice(N * (i // 2), N * (i // 2) + N)
            dt, u_t = softplus(w[t, i] + mixer.dt_bias[i]), u[t, V * i : V * i + V]
            h[i] = torch.exp(-dt * mixer.A_log[i].exp()) * h[i] + dt * torch.outer(u_t, B[t, group])
            y[i] = h[i] @ C[t, group] + mixer.D[i] * u_t
        g = (y.flatten() * silu(z[t])).unflatten(0, (2, -1))
        ys.append((g / (g.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten() * mixer.norm)
    torch.testing.assert_close(mixer(x)[0][0], mixer.out(torch.stack(ys)), rtol=0, atol=1e-9)


def test_ssd_has_two_readings():
    """One matrix M_ij = C_i·B_j exp(Σ_{j<s≤i} Δ_s A): attention with a mask, and a recurrence."""
    mixer, x = Mamba2(D, 4, **SIZES).double(), torch.randn(2, 17, D, dtype=torch.float64)
    inputs = mixer.project(x)
    G = inputs["log_a"][..., 0].cumsum(1)  # (B, T, H)
    mask = (
        (G[:, :, None] - G[:, None])
        .exp()
        .masked_fill(torch.ones(17, 17).triu(1).bool()[None, :, :, None], 0)
    )
    M = torch.einsum("bihk, bjhk, bijh -> bijh", inputs["q"], inputs["k"], mask)
    matrix = torch.einsum("bijh, bjhv -> bihv", M, inputs["v"])
    state, ys = torch.zeros(2, 4, 5, 6, dtype=torch.float64), []
    for q, k, v, log_a in zip(
        *(inputs[name].unbind(1) for name in ("q", "k", "v", "log_a")), strict=True
    ):
        state = state * log_a.exp()[..., None] + v[..., :, None] * k[..., None, :]
        ys.append(torch.einsum("bhvk, bhk -> bhv", state, q))
    torch.testing.assert_close(matrix, torch.stack(ys, dim=1), rtol=0, atol=1e-9)


def test_every_weight_starts_where_the_authors_start_it():
    mixer = Mamba2(64, 32, d_head=4)
    steps = softplus(mixer.dt_bias)
    assert ((mixer.A_log.exp() >= 1) & (mixer.A_log.exp() <= 16)).all()
    assert (steps > 0.9e-3).all() and (steps < 1.1e-1).all() and steps.max() > 10 * steps.min()
    assert (mixer.D == 1).all()


def test_a_closed_step_keeps_the_state_and_an_open_one_forgets():
    """Δ → 0: the token is skipped. Δ → ∞: the past is gone."""
    mixer, x = Mamba2(D, 4, **SIZES).double(), torch.randn(1, 7, D, dtype=torch.float64)
    _, state = mixer(x)
    mixer.dt_bias.data.fill_(-40)
    torch.testing.assert_close(mixer(x, state)[1].S, state.S, rtol=0, atol=1e-9)
    mixer.dt_bias.data.fill_(400)
    torch.testing.assert_close(mixer(x, state)[0][:, 3:], mixer(x)[0][:, 3:], rtol=0, atol=1e-9)


def test_wrong_options_get_one_clear_sentence():
    with pytest.raises(ValueError, match="n_heads is 4, n_groups is 3"):
        Mamba2(D, 4, n_groups=3)
    with pytest.raises(ValueError, match="form is 'scan': choose one of recurrent"):
        Mamba2(D, 4, form="scan")(torch.randn(1, 2, D))
