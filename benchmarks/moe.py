"""A mixture of experts on CPU: does dispatch by sorting beat the loop over experts, and
transformers' Mixtral?

    python benchmarks/moe.py            # about two minutes; writes benchmarks/results/moe.json and .md

T = 2048, two experts a token, SwiGLU experts, float32, one thread. Beside `seqlab.ffn.MoE`: the
loop over experts (find the expert's tokens, gather, compute, add) on the very same experts, and the
MixtralSparseMoeBlock of transformers, eager (its own loop) and with torch's grouped_mm. Every round
times every implementation once, in turn; the figure is the median of the rounds. It is processor
time, not time on the clock, so waiting for a busy machine does not count.
"""

import copy
import statistics
import time

import torch
from keep import keep, versions
from tqdm import tqdm

from seqlab.ffn import MoE

T, TOP_K, ROUNDS = 2048, 2, 5
EXPERTS = [8, 16, 64]
SIZES = [(128, 256), (256, 512), (256, 128)]  # (D, width of an expert)
OURS = "seqlab, sorted"


class Loop(MoE):
    """The same layer without the sorting: each expert looks for its tokens."""

    def mix(self, x, routing):
        experts, weights, y = (
            routing.experts.flatten(0, -2),
            routing.weights.flatten(0, -2),
            torch.zeros_like(x),
        )
        for e, expert in enumerate(self.experts):
            token, slot = torch.where(experts == e)
            y.index_add_(0, token, expert(x[token]) * weights[token, slot, None])
        return y


def mixtral(moe, implementation):
    """The same weights in transformers' layer."""
    from transformers.models.mixtral.modeling_mixtral import MixtralConfig, MixtralSparseMoeBlock

    d_ff, d_model = moe.experts[0].up.weight.shape
    config = MixtralConfig(
        hidden_size=d_model,
        intermediate_size=d_ff,
        num_local_experts=len(moe.experts),
        num_experts_per_tok=TOP_K,
    )
    config._experts_implementation = implementation
    layer = MixtralSparseMoeBlock(config)
    layer.gate.weight.data.copy_(moe.router.score.weight)
    for e, expert in enumerate(moe.experts):
        layer.experts.gate_up_proj.data[e] = torch.cat([expert.gate.weight, expert.up.weight])
        layer.experts.down_proj.data[e] = expert.down.weight
    return layer


def implementations(d_model, n_experts, d_ff):
    moe = MoE(d_model, n_experts, d_ff=d_ff)
    loop = copy.deepcopy(moe)
    loop.__class__ = Loop
    layers = {OURS: moe, "the loop over the same experts": loop}
    try:
        layers["transformers, eager"] = mixtral(moe, "eager")
        layers["transformers, grouped_mm"] = mixtral(moe, "grouped_mm")
    except ImportError:
        pass
    return layers


def seconds(layer, x, backward):
    leaf = x.clone().requires_grad_(backward)
    for p in layer.parameters():
        p.grad = None
    start = time.process_time()
    with torch.set_grad_enabled(backward):
        y = layer(leaf)
    if backward:
        y.square().sum().backward()
    return time.process_time() - start, leaf.grad if backward else y


def measure():
    results = []
    bar = tqdm(total=len(SIZES) * len(EXPERTS) * 2 * (ROUNDS + 1), desc="moe")
    for d_model, d_ff in SIZES:
        for n_experts in EXPERTS:
            torch.manual_seed(0)
            layers, x = implementations(d_model, n_experts, d_ff), torch.randn(1, T, d_model)
            for backward, name in ((False, "forward"), (True, "forward + backward")):
                rounds = {layer: [] for layer in layers}
                for round_ in range(ROUNDS + 1):
                    outputs = {}
                    for layer, module in layers.items():
                        took, outputs[layer] = seconds(module, x, backward)
                        rounds[layer] += [took] if round_ else []  # the first round warms up
                    bar.update()
                for layer, y in outputs.items():
                    assert torch.allclose(y, outputs[OURS], rtol=1e-4, atol=1e-4), (
                        f"{layer} gives another answer"
                    )
                times = {layer: statistics.median(took) for layer, took in rounds.items()}
                results.append(
                    {"D": d_model, "d_ff": d_ff, "E": n_experts, "pass": name, "seconds": times}
                )
    return results


def table(results, where):
    layers = list(results[0]["seconds"])
    rows = [
        "# A mixture of experts on CPU",
        "",
        f"Milliseconds of processor time, median of {ROUNDS} rounds in one run; {where}.",
        f"T = {T}, {TOP_K} experts of width d_ff a token.",
        "In brackets the time over that of seqlab, sorted: above 1, seqlab is faster.",
        "",
        "| pass | D | d_ff | E | " + " | ".join(layers) + " |",
        "|---|" + "---:|" * (3 + len(layers)),
    ]
    for r in sorted(results, key=lambda r: r["pass"], reverse=True):
        ours = r["seconds"][OURS]
        cells = [
            f"{1e3 * r['seconds'][layer]:.1f} ({r['seconds'][layer] / ours:.2f})"
            for layer in layers[1:]
        ]
        rows.append(
            f"| {r['pass']} | {r['D']} | {r['d_ff']} | {r['E']} | {1e3 * ours:.1f} | {' | '.join(cells)} |"
        )
    return "\n".join(rows) + "\n"


def main():
    torch.set_num_threads(
        1
    )  # one thread: the figures depend less on what else the machine is doing
    where = versions()
    results = measure()
    text = table(results, where)
    keep("moe", text, where, results)


if __name__ == "__main__":
    main()
