"""Every family of the zoo on CPU, beside the public implementation of the same thing.

    python benchmarks/zoo.py            # minutes; writes benchmarks/results/zoo.json and .md
    python benchmarks/zoo.py mamba rwkv # only rows whose name contains one of these; writes nothing

Forward and backward, T = 2048, B = 1, float32, one thread. The peers: whole layers of
`transformers` with the same weights (loaded through `seqlab.hub`), the reference functions of
flash-linear-attention, and torch.nn. Both answers are compared before anything is timed. Every
round times both once, in turn; the figure is the median of the rounds, in processor time, so
waiting for a busy machine does not count.
"""

import argparse
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from keep import keep, versions
from torch import nn
from tqdm import tqdm

from seqlab.core import dplr, two_sided
from seqlab.core.recurrence import chunkwise
from seqlab.core.scan import linear_scan
from seqlab.core.shift import read_before_write
from seqlab.hub import from_transformers
from seqlab.layers.feature_maps import Taylor
from seqlab.mixers.elman import Elman
from seqlab.mixers.gru import GRU
from seqlab.mixers.lstm import LSTM
from seqlab.mixers.ttt_linear import TTTLinear

T, D, H, K = 2048, 256, 4, 64
ROUNDS = 5


@dataclass
class Pair:
    """Two functions of the same inputs that give the same answer."""

    name: str
    peer: str
    ours: Callable
    theirs: Callable
    inputs: list[torch.Tensor]
    tolerance: float = 1e-3  # of the largest value: float32 over 2048 tokens


def draw(*shape):
    return torch.randn(1, T, *shape)


def heads():
    """q and k of length 1, v, log decays per channel."""
    q = F.normalize(draw(H, K), dim=-1)
    k = F.normalize(draw(H, K), dim=-1)
    return q, k, draw(H, K), -draw(H, K).exp() / 16


def heads_first(f):
    """f of (B, H, T, ·) tensors, called with (B, T, H, ·) ones."""
    return lambda *xs: f(*(x.transpose(1, 2) for x in xs)).transpose(1, 2)


# Reference functions of flash-linear-attention


def fla_pairs():
    from fla.ops.based.naive import naive_parallel_based
    from fla.ops.delta_rule.naive import delta_rule_chunkwise
    from fla.ops.generalized_delta_rule.dplr.naive import dplr_chunkwise
    from fla.ops.gla.naive import naive_recurrent_gla
    from fla.ops.gsa.naive import naive_recurrent_gsa
    from fla.ops.linear_attn.naive import naive_chunk_linear_attn
    from fla.ops.retention.naive import naive_retention
    from fla.ops.rwkv6.recurrent_naive import naive_recurrent_rwkv6
    from fla.ops.simple_gla.naive import naive_chunk_simple_gla

    q, k, v, log_a = heads()
    beta = torch.rand(1, T, H)
    u = torch.randn(H, K)
    scale = K**0.5  # undoes the scale of fla's own functions
    small = [draw(H, 16), draw(H, 16), v]
    share = 1 - log_a.exp()
    gamma = torch.log1p(-(2.0 ** -(5 + torch.arange(H, dtype=torch.float64)))).float()
    taylor = Taylor()

    def based(q, k, v):
        y = chunkwise(taylor(q), taylor(k), F.pad(v, (0, 1), value=1.0))[0]
        return y[..., :-1] / y[..., -1:]

    def gsa(q, k, v, share, log_a):
        scores, _ = two_sided.chunkwise(q * K**-0.5, k, share, log_b=log_a)
        return two_sided.chunkwise(scores.softmax(-1), share, v, log_a=log_a)[0]

    def rwkv6(q, k, v, log_a, u):
        return read_before_write(partial(chunkwise, chunk_size=16), q, k, v, log_a, u)[0]

    def fla_rwkv6(q, k, v, log_a, u):
        def peer(q, k, v, log_a):
            return _first(naive_recurrent_rwkv6(q, k, v, log_a, u, scale=1.0))

        return heads_first(peer)(q, k, v, log_a)

    return [
        Pair(
            "linear attention",
            "fla naive_chunk_linear_attn",
            lambda q, k, v: chunkwise(q, k, v)[0],
            lambda q, k, v: _first(naive_chunk_linear_attn(q, k, v, scale=1.0, normalize=False)),
            [q, k, v],
        ),
        Pair("Based", "fla naive_parallel_based", based, heads_first(naive_parallel_based), small),
        Pair(
            "RetNet",
            "fla naive_retention",
            lambda q, k, v: chunkwise(q, k, v, log_a=gamma[:, None].expand(1, T, H, 1))[0],
            heads_first(lambda q, k, v: naive_retention(q * scale, k, v)),
            [q, k, v],
        ),
        Pair(
            "gated retention",
            "fla naive_chunk_simple_gla",
            lambda q, k, v, a: chunkwise(q, k, v, log_a=a[..., :1])[0],
            lambda q, k, v, a: _first(naive_chunk_simple_gla(q, k, v, a[..., 0], scale=1.0)),
            [q, k, v, log_a],
        ),
        Pair(
            "GLA",
            "fla naive_recurrent_gla",
            lambda q, k, v, a: chunkwise(q, k, v, log_a=a, chunk_size=16)[0],
            lambda q, k, v, a: _first(naive_recurrent_gla(q * scale, k, v, a)),
            [q, k, v, log_a],
        ),
        Pair(
            "GSA",
            "fla naive_recurrent_gsa",
            gsa,
            lambda q, k, v, s, a: _first(naive_recurrent_gsa(q, k, v, s, a)),
            [q, k, v, share, log_a],
        ),
        Pair(
            "DeltaNet",
            "fla delta_rule_chunkwise",
            lambda q, k, v, beta: chunkwise(q, k, v, beta=beta)[0],
            heads_first(lambda q, k, v, beta: _first(delta_rule_chunkwise(q * scale, k, v, beta))),
            [q, k, v, beta],
        ),
        Pair("RWKV-6", "fla naive_recurrent_rwkv6", rwkv6, fla_rwkv6, [q, k, v, log_a, u]),
        Pair(
            "RWKV-7",
            "fla dplr_chunkwise",
            lambda q, k, v, e, f, a: dplr.chunkwise(q, k, v, e, f, a)[0],
            heads_first(lambda q, k, v, e, f, a: _first(dplr_chunkwise(q * scale, k, v, e, f, a))),
            [q, k, v, -k, k * torch.rand(1, T, H, K), log_a],
        ),
        ttt_pair(),
    ]


def ttt_pair():
    """TTT-Linear beside fla's, whose answer differs: only the work is the same.

    fla has a step size per token, not one per pair, so here e_t = 1. It adds LN(z) to z, where the
    paper adds it to q.
    """
    from fla.ops.ttt.naive import chunk_ttt_linear_ref

    ours = TTTLinear(D, H)
    ours.learned_e.data = 1 - 1 / (torch.arange(16) + 1.0)
    place = torch.arange(T) % 16  # in the mini-batch

    def theirs(x):
        q, k, v, _ = ours.inputs(x, place, None)
        eta = ours.eta(x).sigmoid()[..., None] / K
        w, b = (u.squeeze(1) for u in ours.inner_norm)
        W = ours.first[0][None, :, :, :-1].mT
        bias = ours.first[0][None, :, :, -1][:, :, None]
        options = {"scale": 1.0, "mini_batch_size": 16}
        state = {"initial_state": W, "initial_state_bias": bias}
        y = chunk_ttt_linear_ref(q.clone(), k, v, w, b, eta, **options, **state)[0]
        return ours.out(ours.norm(y.flatten(-2)) * F.gelu(ours.g(x), approximate="tanh"))

    def seqlab(x):
        return ours(x)[0]

    peer = "fla chunk_ttt_linear_ref"
    return Pair("TTT-Linear", peer, seqlab, theirs, [draw(D)], tolerance=math.inf)


# torch


def torch_pairs():
    from torch._higher_order_ops.associative_scan import associative_scan

    def combine(left, right):
        return left[0] * right[0], right[0] * left[1] + right[1]

    def whole(a, b):
        return associative_scan(combine, (a, b), dim=1, combine_mode="generic")[1]

    gates = torch.rand(1, T, 4096)
    pairs = [Pair("linear scan", "torch associative_scan", linear_scan, whole, [gates, draw(4096)])]
    names = {
        "W.weight": "weight_ih_l0",
        "R.weight": "weight_hh_l0",
        "W.bias": "bias_ih_l0",
        "R.bias": "bias_hh_l0",
    }
    for ours, theirs in ((Elman, nn.RNN), (LSTM, nn.LSTM), (GRU, nn.GRU)):
        peer = theirs(D, D, batch_first=True)
        # Ours has torch.nn's second bias only in the GRU, where it is not redundant.
        peer.bias_hh_l0.data.zero_()
        mixer = ours(D)
        mixer.load_state_dict({name: peer.state_dict()[names[name]] for name in mixer.state_dict()})
        run, run_peer = partial(_output, mixer), partial(_output, peer)
        pairs.append(Pair(ours.__name__, f"torch.nn.{theirs.__name__}", run, run_peer, [draw(D)]))
    return pairs


def _output(module, x):
    return module(x)[0]


# Whole models of transformers with one layer of each kind, and ours with their weights

COMMON = {
    "vocab_size": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": D,
    "num_hidden_layers": 1,
}
HEADS = {"num_attention_heads": H, "num_key_value_heads": H}
MOE = {"intermediate_size": 512, "num_local_experts": 8, "num_experts_per_tok": 2}
DEEPSEEK = {
    "intermediate_size": 512,
    "first_k_dense_replace": 1,
    "q_lora_rank": 96,
    "kv_lora_rank": 64,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 32,
    "v_head_dim": 64,
}
MAMBA2 = {"num_heads": 8, "head_dim": 64, "state_size": 128, "n_groups": 1, "chunk_size": 256}
GRIFFIN = {"lru_width": D, "intermediate_size": 1024, "block_types": ["recurrent"]}
MINIMAX = {
    "head_dim": K,
    "num_hidden_layers": 2,
    "layer_types": ["linear_attention", "full_attention"],
}
QWEN = {
    "layer_types": ["linear_attention"],
    "linear_num_key_heads": H,
    "linear_num_value_heads": H,
    "linear_key_head_dim": K,
    "linear_value_head_dim": K,
    "intermediate_size": 512,
    "mlp_only_layers": [0],
}
KIMI = {
    "linear_num_heads": H,
    "linear_head_dim": K,
    "layer_types": ["linear_attention"],
    "intermediate_size": 512,
    "first_k_dense_replace": 1,
}
CHECKPOINTS = {  # family -> (class, config)
    "attention (Llama)": ("Llama", HEADS | {"intermediate_size": 512}),
    "differential attention (DiffLlama)": ("DiffLlama", HEADS | {"intermediate_size": 512}),
    "mixture of 8 (Mixtral)": ("Mixtral", HEADS | MOE),
    "MLA (DeepSeek-V3)": ("DeepseekV3", HEADS | DEEPSEEK),
    "Mamba": ("Mamba", {"state_size": 16}),
    "Mamba-2": ("Mamba2", MAMBA2),
    "RWKV-4": ("Rwkv", {"attention_hidden_size": D, "num_hidden_layers": 2}),
    "mLSTM (xLSTM)": ("xLSTM", {"num_heads": H}),
    "RG-LRU (RecurrentGemma)": ("RecurrentGemma", HEADS | GRIFFIN),
    "lightning attention (MiniMax)": ("MiniMax", HEADS | MOE | MINIMAX),
    "Gated DeltaNet (Qwen3-Next)": ("Qwen3Next", HEADS | QWEN),
    "KDA (Kimi Linear)": ("KimiLinear", HEADS | KIMI),
}


def checkpoint_pairs(wanted: Callable[[str], bool]) -> Iterator[Pair]:
    for fla in ("fla", "mamba_ssm", "causal_conv1d"):
        sys.modules.setdefault(fla, None)  # if these import, transformers calls GPU kernels
    import transformers

    for name, (family, config) in CHECKPOINTS.items():
        if wanted(name):
            torch.manual_seed(0)
            config = getattr(transformers, f"{family}Config")(**COMMON | config)
            theirs = getattr(transformers, f"{family}ForCausalLM")(config).float()
            for p in theirs.parameters():
                p.data += 0.02 * torch.randn_like(p)
            ours = from_transformers(theirs.eval())
            theirs = theirs.train() if family == "xLSTM" else theirs
            tokens = torch.randint(64, (1, T))
            run, run_peer = partial(_output, ours), partial(_logits, theirs)
            yield Pair(name, f"transformers {family}", run, run_peer, [tokens])


def _logits(model, tokens):
    return model(tokens, use_cache=False).logits


def _first(y):
    return y[0] if isinstance(y, tuple) else y


def seconds(f, inputs, backward):
    leaves = [x.clone().requires_grad_(backward and x.is_floating_point()) for x in inputs]
    start = time.process_time()
    with torch.set_grad_enabled(backward):
        y = f(*leaves)
        if backward:
            y.square().mean().backward()
    return time.process_time() - start, y.detach()


def measure(pair: Pair, rounds: int) -> dict:
    """Median seconds of ours and theirs, forward alone and with the backward.

    Their answers agree, or this raises.
    """
    result = {}
    for name, backward in (("forward", False), ("forward + backward", True)):
        times, peer_times = [], []
        for round_ in range(rounds + 1):
            took, ours = seconds(pair.ours, pair.inputs, backward)
            peer_took, theirs = seconds(pair.theirs, pair.inputs, backward)
            error = ((ours - theirs).abs().max() / theirs.abs().max()).item()
            assert error < pair.tolerance, (
                f"{pair.name}: the answers differ by {error:.1e} of the largest value"
            )
            slow = peer_took > 20
            if round_ or slow:  # the first round warms up, which does not matter if it is slow
                times.append(took)
                peer_times.append(peer_took)
            if slow:
                break
        ours, theirs = statistics.median(times), statistics.median(peer_times)
        result[name] = {"seqlab": ours, "peer": theirs, "ratio": theirs / ours}
    return result


def table(results: list[tuple[str, str, dict]], where: str) -> str:
    lines = [
        "# The zoo on CPU, beside public implementations of the same thing",
        "",
        (
            f"T = {T}, float32; milliseconds of processor time, "
            f"medians of up to {ROUNDS} rounds in one run; {where}."
        ),
        "The ratio is the peer's time over seqlab's: above 1, seqlab is faster.",
        "",
        ("| | peer | forward: seqlab | peer | ratio | forward + backward: seqlab | peer | ratio |"),
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, peer, passes in results:
        cells = [
            f"{1e3 * p['seqlab']:.0f} | {1e3 * p['peer']:.0f} | {p['ratio']:.2f}"
            for p in passes.values()
        ]
        lines.append(f"| {name} | {peer} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def all_pairs(wanted: Callable[[str], bool]) -> list[Pair]:
    pairs = [pair for pair in [*torch_pairs(), *fla_pairs()] if wanted(pair.name)]
    for module in [name for name in sys.modules if name == "fla" or name.startswith("fla.")]:
        del sys.modules[module]  # see checkpoint_pairs
    return pairs + list(checkpoint_pairs(wanted))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="only rows whose name contains one of these")
    names = [name.lower() for name in parser.parse_args().names]

    def wanted(name):
        return not names or any(part in name.lower() for part in names)

    torch.set_num_threads(1)
    torch.manual_seed(0)
    with warnings.catch_warnings():
        # fla warns that this machine has no GPU, transformers of slow paths
        warnings.simplefilter("ignore")
        pairs = tqdm(all_pairs(wanted), desc="zoo")
        results = [(pair.name, pair.peer, measure(pair, ROUNDS)) for pair in pairs]
    where = versions("transformers", "fla-core")
    text = table(results, where)
    if names:
        print(text)
    else:
        keep("zoo", text, where, [{"name": n, "peer": p, "seconds": s} for n, p, s in results])


if __name__ == "__main__":
    main()
