"""A mixture of experts on CPU: does dispatch by sorting beat a loop over experts, and Mixtral?

    python benchmarks/moe.py    # four minutes; writes benchmarks/results/moe.json and .md

T = 2048, two experts a token, SwiGLU experts, float32, one thread. Beside `seqlab.ffn.MoE` it times
the loop over the very same experts (find the expert's tokens, gather, compute, add), and the
MixtralSparseMoeBlock of transformers, both eager (its own loop) and with torch's grouped_mm. Every
round times each implementation once, in turn; the figure is the median of the rounds. It is
processor time, not wall-clock time, so waiting for a busy machine does not count.
"""

import copy
import statistics
import time

import torch
from keep import keep, versions
from tqdm import tqdm

from seqlab.ffn import MoE

T = 2048
TOP_K = 2
ROUNDS = 9
EXPERTS = [8, 16, 64]
SIZES = [(128, 256), (256, 512), (256, 128)]  # (D, width of an expert)
OURS = "seqlab, sorted"


class Loop(MoE):
    """The same layer without sorting: each expert looks for its tokens."""

    def mix(self, x, routing):
        experts = routing.experts.flatten(0, -2)
        weights = routing.weights.flatten(0, -2)
        y = torch.zeros_like(x)
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


def measure() -> list[dict]:
    results = []
    bar = tqdm(total=len(SIZES) * len(EXPERTS) * 2 * (ROUNDS + 1), desc="moe")
    for d_model, d_ff in SIZES:
        for n_experts in EXPERTS:
            torch.manual_seed(0)
            layers = implementations(d_model, n_experts, d_ff)
            x = torch.randn(1, T, d_model)
            row = {"D": d_model, "d_ff": d_ff, "E": n_experts}
            for backward, name in ((False, "forward"), (True, "forward + backward")):
                times = medians(layers, x, backward, bar)
                results.append(row | {"pass": name, "seconds": times})
    return results


def medians(layers: dict, x: torch.Tensor, backward: bool, bar) -> dict[str, float]:
    """Median seconds of each layer. Their answers agree, or this raises."""
    rounds = {name: [] for name in layers}
    outputs = {}
    for round_ in range(ROUNDS + 1):
        for name, layer in layers.items():
            took, outputs[name] = seconds(layer, x, backward)
            if round_:  # the first round warms up
                rounds[name].append(took)
        bar.update()
    for name, y in outputs.items():
        alike = torch.allclose(y, outputs[OURS], rtol=1e-4, atol=1e-4)
        assert alike, f"{name} gives another answer than {OURS}"
    return {name: statistics.median(took) for name, took in rounds.items()}


def table(results: list[dict], where: str) -> str:
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
        cells = [r["pass"], r["D"], r["d_ff"], r["E"], f"{1e3 * ours:.1f}"]
        for layer in layers[1:]:
            other = r["seconds"][layer]
            cells.append(f"{1e3 * other:.1f} ({other / ours:.2f})")
        rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows) + "\n"


def main():
    torch.set_num_threads(1)  # so that the figures depend less on what else the machine does
    where = versions()
    results = measure()
    keep("moe", table(results, where), where, results)


if __name__ == "__main__":
    main()
