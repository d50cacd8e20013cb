"""Expert parallelism: each process holds a few experts, and tokens are sent to them and back.

    y, gradient, sent = on_processes(moe, x, 4)

runs one forward and backward pass of `moe` on four processes of this machine (gloo), each with a
quarter of the sequences and a quarter of the experts.
"""

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from seqlab.core.inputs import wide
from seqlab.ffn.moe import MoE, by_expert
from seqlab.ffn.routers import Routing


class ExpertParallel:
    """A form of `MoE` in which `experts` are those of this process alone: E / processes of them.

    The router is the same in every process and knows all E experts. Each process sorts its own
    (token, slot) pairs by expert, so that the rows for one process lie together; one all-to-all
    sends every row to the process of its expert, a second brings the results back. `sent` counts
    the bytes of rows that left this process, in both exchanges of the forward pass.
    """

    def __init__(self):
        self.sent = 0

    def __call__(
        self, x: Float[Tensor, "N D"], routing: Routing, experts: nn.ModuleList
    ) -> Float[Tensor, "N D"]:
        pairs, load = by_expert(routing)
        tokens = pairs // routing.experts.shape[-1]
        leaving = torch.tensor(load).view(dist.get_world_size(), len(experts))
        arriving = torch.empty_like(leaving)  # rows from each process for each expert here
        dist.all_to_all_single(arriving, leaving)
        there, here = leaving.sum(1).tolist(), arriving.sum(1).tolist()
        rows = self.exchange(x.index_select(0, tokens), there, here)
        served = self.exchange(serve(rows, arriving, experts), here, there)
        weights = routing.weights.flatten().index_select(0, pairs)
        y = served * weights[:, None]
        return torch.zeros_like(wide(x)).index_add(0, tokens, wide(y)).to(x.dtype)

    def exchange(self, rows: Tensor, leaving: list[int], arriving: list[int]) -> Tensor:
        """leaving[p] rows for process p, one process after the other; returns those that arrive."""
        others = sum(leaving) - leaving[dist.get_rank()]
        self.sent += others * rows.shape[1] * rows.element_size()
        return _AllToAll.apply(rows, leaving, arriving)  # pyright: ignore[reportReturnType]


def serve(rows: Tensor, arriving: Tensor, experts: nn.ModuleList) -> Tensor:
    """Each row through its expert. Rows are ordered by the process they come from, then by expert:
    they are sorted by expert alone, and put back.
    """
    expert = torch.arange(len(experts)).repeat(len(arriving))
    order = expert.repeat_interleave(arriving.flatten()).argsort(stable=True)
    parts = rows.index_select(0, order).split(arriving.sum(0).tolist())
    served = [E(part) for E, part in zip(experts, parts, strict=True)]
    return torch.cat(served).index_select(0, order.argsort())


class _AllToAll(torch.autograd.Function):
    """An exchange of rows; gradients go back the way the rows came."""

    @staticmethod
    def forward(ctx: Any, rows, leaving, arriving):
        ctx.way_back = arriving, leaving
        received = rows.new_empty(sum(arriving), rows.shape[1])
        dist.all_to_all_single(received, rows.contiguous(), arriving, leaving)
        return received

    @staticmethod
    def backward(ctx: Any, *gradients):
        (gradient,) = gradients
        return _AllToAll.apply(gradient, *ctx.way_back), None, None


def on_processes(moe: MoE, x: Float[Tensor, "B T D"], n: int) -> tuple[Tensor, Tensor, list[int]]:
    """y, the gradient of Σ sin(y) with respect to x, and the bytes that each process sent.

    Starting a process takes seconds: it loads torch. ValueError: n must divide sequences and
    experts.
    """
    if len(x) % n or len(moe.experts) % n:
        raise ValueError(
            f"{n} processes cannot share {len(x)} sequences and {len(moe.experts)} experts "
            "equally: n must divide both"
        )
    with tempfile.TemporaryDirectory() as folder:
        spawn(_work, (n, folder, copy.deepcopy(moe), x.detach()), nprocs=n)
        results = [torch.load(Path(folder) / f"{rank}.pt") for rank in range(n)]
    ys, gradients, sent = zip(*results, strict=True)
    return torch.cat(ys), torch.cat(gradients), list(sent)


def _work(rank: int, n: int, folder: str, moe: MoE, x: Tensor):
    torch.set_num_threads(1)
    path = f"{folder}/store"
    store = dist.FileStore(path, n)  # pyright: ignore[reportPrivateImportUsage]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=n)
    each = len(moe.experts) // n
    moe.experts = moe.experts[rank * each : (rank + 1) * each]
    moe.form = ExpertParallel()
    part = x.chunk(n)[rank].clone().requires_grad_()
    y = moe(part)
    y.sin().sum().backward()
    torch.save((y.detach(), part.grad, moe.form.sent), Path(folder) / f"{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
