"""PEER on CPU: a million experts, at what time and in how much memory?

    python benchmarks/peer.py           # about two minutes; writes benchmarks/results/peer.json and .md

T = 2048, 8 heads of 16 experts each, keys of 128, float32, one thread. Each line is a process of
its own: it makes the layer, runs forward and backward, and reads its peak memory from the kernel
(Linux). Beside it the time to score every expert, which the two halves of a key avoid. Processor
time, not time on the clock; the median of the rounds.
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

T, ROUNDS = 2048, 3
# (n, D, sparse gradients): n² experts
LINES = [(n, 128, False) for n in (128, 256, 512, 1024)] + [
    (1024, 64, False),
    (1024, 128, True),
    (1024, 256, True),
]


def clock(f):
    """Median milliseconds of f, after one call to warm up."""
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
    """The scores of all n² experts, the k best of each head: what retrieval by halves gives for 2 n
    scores.
    """
    keys = torch.cat(
        [peer.keys[0].repeat_interleave(peer.n, 0), peer.keys[1].repeat(peer.n, 1)], dim=1
    )
    for part in x[0].split(at_once):
        (peer.query_norm(peer.query(part)).unflatten(-1, (peer.n_heads, -1)) @ keys.T).topk(
            peer.top_k
        )


def peak_bytes():
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def line(n, d_model, sparse):
    torch.set_num_threads(
        1
    )  # one thread: the figures depend less on what else the machine is doing
    torch.manual_seed(0)
    peer, x = PEER(d_model, n**2, sparse=sparse), torch.randn(1, T, d_model)
    result = {
        "experts": n**2,
        "D": d_model,
        "sparse": sparse,
        "parameters": sum(p.numel() for p in peer.parameters()),
    }
    result["forward + backward"] = clock(lambda: backward(peer, x))
    result["peak_bytes"] = peak_bytes()  # before anything but forward and backward has run
    peer.zero_grad(set_to_none=True)
    with torch.no_grad():
        result["forward"] = clock(lambda: peer(x))
        result["retrieval"] = clock(lambda: peer.route(x[0]))
    few = x[:, :64]  # scoring all of them takes seconds: 64 tokens, scaled up
    score_all(peer, few)
    start = time.process_time()
    score_all(peer, few)
    result["score all"] = 1e3 * (time.process_time() - start) * T / 64
    return result


def table(results, where):
    rows = [
        "# PEER on CPU",
        "",
        f"Milliseconds of processor time, median of {ROUNDS} rounds, T = {T}, 8 heads of 16 experts; {where}.",
        "Peak memory is that of the whole process after forward and backward, parameters and gradients included.",
        "Retrieval finds the best experts by halves of keys; score all scores every one (64 tokens, scaled to T).",
        "",
        "| experts | D | parameters | gradients | retrieval | score all | forward | forward + backward | peak |",
        "|---:|---:|---:|---|---:|---:|---:|---:|---:|",
    ]
    for r in results:
        cells = [
            f"{r[name]:.0f}" for name in ("retrieval", "score all", "forward", "forward + backward")
        ]
        size, kind = f"{r['parameters'] / 1e6:.0f} M", "sparse" if r["sparse"] else "dense"
        peak = f"{r['peak_bytes'] / 1e9:.2f} GB"
        rows.append(
            f"| {r['experts']:,} | {r['D']} | {size} | {kind} | {' | '.join(cells)} | {peak} |"
        )
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
    text = table(results, where)
    keep("peer", text, where, results)


if __name__ == "__main__":
    main()
