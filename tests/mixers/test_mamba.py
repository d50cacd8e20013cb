import warnings
from functools import partial

import pytest
import torch
from torch.nn.functional import silu, softplus

from seqlab.mixers.mamba import Mamba

D, E, N = 24, 36, 6


def mamba(transformers, bias):
    from transformers.models.mamba.modeling_mamba import MambaMixer

    names = {"intermediate_size": E, "state_size": N, "conv_kernel": 3, "time_step_rank": 5}
    config = transformers.MambaConfig(
        hidden_size=D, use_bias=bias, use_conv_bias=bias, num_hidden_layers=1, **names
    )
    return MambaMixer, config, {}


def falcon(transformers, bias):
    from transformers.models.falcon_mamba.modeling_falcon_mamba import FalconMambaMixer

    names = {
        "intermediate_size": E,
        "state_size": N,
        "conv_kernel": 3,
        "time_step_rank": 5,
        "mixer_rms_eps": 1e-3,
    }
    config = transformers.FalconMambaConfig(
        hidden_size=D, use_bias=bias, use_conv_bias=bias, num_hidden_layers=1, **names
    )
    make = partial(
        FalconMambaMixer, initialize_mixer_weights=False
    )  # it would use its norms before they exist
    return make, config, {"norm_eps": 1e-3}


def jamba(transformers, bias):
    from transformers.models.jamba.modeling_jamba import JambaMambaMixer

    names = {
        "mamba_expand": 2,
        "mamba_d_state": N,
        "mamba_d_conv": 3,
        "mamba_dt_rank": 5,
        "rms_norm_eps": 1e-3,
    }
    config = transformers.JambaConfig(
        hidden_size=D, mamba_proj_bias=bias, mamba_conv_bias=bias, **names
    )
    return JambaMambaMixer, config, {"norm_eps": 1e-3, "norm_weight": True, "d_inner": 2 * D}


def copy_into(ours, theirs):
    """The weights of a transformers Mamba layer, name by name."""
    for name in ("in_proj", "x_proj", "dt_proj"):
        getattr(ours, name).load_state_dict(getattr(theirs, name).state_dict())
    ours.out.load_state_dict(theirs.out_proj.state_dict())
    ours.conv.weight.data = theirs.conv1d.weight.data[:, 0]
    ours.A_log.data, ours.D.data = theirs.A_log.data, theirs.D.data
    if ours.conv.bias is not None:
        ours.conv.bias.data = theirs.conv1d.bias.data
    if isinstance(ours.norms, torch.nn.ModuleList):
        for norm, name in zip(ours.norms, ("dt", "b", "c"), strict=True):
            norm.load_state_dict(getattr(theirs, f"{name}_layernorm").state_dict())


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
@pytest.mark.parametrize("family", [mamba, falcon, jamba])
def test_a_layer_of_transformers_loads(transformers, wide_floats, family, bias):
    """Prefill, then token by token, in float64; random A, D, norms and Δ, odd sizes."""
    make, config, options = family(transformers, bias)
    theirs = make(config, layer_idx=0)
    for p in theirs.parameters():
        p.data = 0.5 * torch.randn_like(p)
    theirs = theirs.double().eval()
    options = {
        "d_inner": E,
        "d_state": N,
        "d_conv": 3,
        "dt_rank": 5,
        "bias": bias,
        "conv_bias": bias,
    } | options
    ours = Mamba(D, **options).double()
    copy_into(ours, theirs)
    x, cache = torch.randn(2, 21, D, dtype=torch.float64), transformers.DynamicCache(config=config)
    torch.testing.assert_close(ours(x)[0], theirs(x), rtol=0, atol=1e-9)
    y, state = ours(x[:, :13])
    torch.testing.assert_close(y, theirs(x[:, :13], cache_params=cache), rtol=0, atol=1e-9)
    for t in range(13, 21):
        y, state = ours(x[:, t : t + 1], state)
        torch.testing.assert_close(
            y, theirs(x[:, t : t + 1], cache_params=cache), rtol=0, atol=1e-9
        )


def test_every_channel_holds_its_own_state():
    """h = exp(Δ A) h + Δ B x and y = C·h + D x, channel by channel and token by token, as the
    paper's algorithm 2.
    """
    mixer, x = (
        Mamba(D, d_inner=E, d_state=N, d_conv=3).double(),
        torch.randn(1, 9, D, dtype=torch.float64),
    )
    u, z = mixer.in_proj(x)[0].chunk(2, dim=-1)
    padded = torch.cat([torch.zeros(2, E, dtype=torch.float64), u])
    u = silu(sum(padded[j : j + 9] * mixer.conv.weight[:, j] for j in range(3)) + mixer.conv.bias)
    dt, B, C = mixer.x_proj(u).split([2, N, N], dim=-1)  # dt_rank = ⌈24/16⌉
    dt = softplus(mixer.dt_proj(dt))
    y = torch.zeros(9, E, dtype=torch.float64)
    for e in range(E):
        h = torch.zeros(N, dtype=torch.float64)
        for t in range(9):
            h = torch.exp(-dt[t, e] * mixer.A_log[e].exp()) * h + dt[t, e] * B[t] * u[t, e]
            y[t, e] = C[t] @ h + mixer.D[e] * u[t, e]
    torch.testing.assert_close(mixer(x)[0][0], mixer.out(y * silu(z)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("chunk_size", [1, 3, 8, 100])
def test_the_chunk_of_the_scan_does_not_matter(chunk_size):
    x = torch.randn(2, 19, D, dtype=torch.float64)
    mixer = Mamba(D, d_state=N).double()
    y, state = mixer(x)
    mixer.chunk_size = chunk_size
    torch.testing.assert_close(mixer(x)[0], y, rtol=0, atol=1e-12)
    torch.testing.assert_close(mixer(x)[1].S, state.S, rtol=0, atol=1e-12)


def test_every_weight_starts_where_the_authors_start_it():
    mixer = Mamba(64, expand=8)
    steps = softplus(mixer.dt_proj.bias)
    assert (steps > 0.9e-3).all() and (steps < 1.1e-1).all() and steps.max() > 10 * steps.min()
    torch.testing.assert_close(mixer.A_log.exp(), torch.arange(1.0, 17).expand(512, 16))
    assert mixer.x_proj.out_features == 4 + 16 + 16 and (mixer.D == 1).all()


def test_a_closed_step_keeps_the_state_and_an_open_one_forgets():
    """Δ → 0: the token is skipped. Δ → ∞: the past is gone."""
    mixer, x = Mamba(D, d_state=N, d_conv=3).double(), torch.randn(1, 7, D, dtype=torch.float64)
    _, state = mixer(x)
    mixer.dt_proj.bias.data.fill_(-40)
    torch.testing.assert_close(mixer(x, state)[1].S, state.S, rtol=0, atol=1e-9)
    mixer.dt_proj.bias.data.fill_(400)
    torch.testing.assert_close(mixer(x, state)[0][:, 2:], mixer(x)[0][:, 2:], rtol=0, atol=1e-9)


def test_an_unknown_form_gets_one_clear_sentence():
    with pytest.raises(ValueError, match="form is 'fast': choose one of recurrent"):
        Mamba(D, form="fast")(torch.randn(1, 2, D))
