"""PEER on CPU: what do a million experts cost in time and in memory?

    python benchmarks/peer.py    # two minutes; writes benchmarks/results/peer.json and .md

T = 2048, 8 heads of 16 experts each, keys of 128, float32, one thread. Each row is measured in a
process of its own, which makes the layer, runs forward and backward, and asks the operating system
for its peak memory (Linux). Beside it is the time to score every expert, which the two halves of a
key avoid. Processor time, not wall-clock time; the median of the rounds.
"""

import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from keep import keep, versions
from tqdm import tqdm

from seqlab.ffn import PEER

T = 2048
ROUNDS = 3
LINES = [
    (128, 128, False),
    (256, 128, False),
    (512, 128, False),
    (1024, 128, False),
    (1024, 64, False),
    (1024, 128, True),
    (1024, 256, True),
]
"""n, D and whether gradients are sparse; there are n² experts."""


def clock(f):
    """The median milliseconds of f, after one call to warm up."""
    times = []
    for _ in range(ROUNDS + 1):
        start = time.process_time()
        f()
        times.append(1e3 * (time.process_time() - start))
    return statistics.median(times[1:])


def backward(peer, x):
    peer.zero_grad(set_to_none=True)
    peer(x).square().mean().backward()


@torch.no_grad()
def score_all(peer, x, at_once=64):
    """Score all n² experts and take the k best of each head, for which halves need 2 n scores."""
    first = peer.keys[0].repeat_interleave(peer.n, 0)
    second = peer.keys[1].repeat(peer.n, 1)
    keys = torch.cat([first, second], dim=1)
    for part in x[0].split(at_once):
        queries = peer.query_norm(peer.query(part)).unflatten(-1, (peer.n_heads, -1))
        (queries @ keys.T).topk(peer.top_k)


def peak_bytes():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def line(n, d_model, sparse):
    torch.set_num_threads(1)  # so that the figures depend less on what else the machine does
    torch.manual_seed(0)
    peer = PEER(d_model, n**2, sparse=sparse)
    x = torch.randn(1, T, d_model)
    result = {
        "experts": n**2,
        "D": d_model,
        "sparse": sparse,
        "parameters": sum(p.numel() for p in peer.parameters()),
    }
    result["forward + backward"] = clock(lambda: backward(peer, x))
    result["peak_bytes"] = peak_bytes()  # after forward and backward alone
    peer.zero_grad(set_to_none=True)
    with torch.no_grad():
        result["forward"] = clock(lambda: peer(x))
        result["retrieval"] = clock(lambda: peer.route(x[0]))
    few = x[:, :64]  # scoring every expert for all tokens takes seconds: 64 of them, scaled up
    score_all(peer, few)
    start = time.process_time()
    score_all(peer, few)
    result["score all"] = 1e3 * (time.process_time() - start) * T / 64
    return result


def table(results, where):
    columns = ("retrieval", "score all", "forward", "forward + backward")
    rows = [
        "# PEER on CPU",
        "",
        (
            f"Milliseconds of processor time, median of {ROUNDS} rounds, T = {T}, "
            f"8 heads of 16 experts; {where}."
        ),
        (
            "Peak memory is that of the whole process after forward and backward, "
            "parameters and gradients included."
        ),
        (
            "Retrieval finds the best experts by halves of keys; "
            "score all scores every one (64 tokens, scaled to T)."
        ),
        "",
        f"| experts | D | parameters | gradients | {' | '.join(columns)} | peak |",
        "|---:|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for r in results:
        cells = [
            f"{r['experts']:,}",
            f"{r['D']}",
            f"{r['parameters'] / 1e6:.0f} M",
            "sparse" if r["sparse"] else "dense",
            *(f"{r[name]:.0f}" for name in columns),
            f"{r['peak_bytes'] / 1e9:.2f} GB",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def main():
    if len(sys.argv) > 1:
        print(json.dumps(line(*json.loads(sys.argv[1]))))
        return
    results = []
    for arguments in tqdm(LINES, desc="peer"):
        command = [sys.executable, __file__, json.dumps(arguments)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results.append(json.loads(done.stdout))
    where = versions()
    keep("peer", table(results, where), where, results)


if __name__ == "__main__":
    main()
