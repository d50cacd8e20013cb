"""A model of one row, as large as every other row's."""

from functools import partial

import torch
from torch import nn

from seqlab.course.leaderboard.contest import Contest, Setting
from seqlab.ffn import SwiGLU
from seqlab.model import LanguageModel, Make
from seqlab.zoo import row

SHIFT = "Based's short convolution"


def build(setting: Setting, contest: Contest, name: str) -> LanguageModel:
    """The model of the row called `name`; its start is torch's own random state."""
    mixers = [row(name).make] * setting.depth
    if contest.shift:
        mixers = [row(SHIFT).make, *mixers]
    ffns = [partial(SwiGLU, d_ff=fitting_d_ff(setting, mixer, name)) for mixer in mixers]
    return LanguageModel(contest.vocab, setting.d_model, mixers, ffns)


def fitting_d_ff(setting: Setting, mixer: Make, name: str) -> int:
    """The width with which mixer, SwiGLU and their two norms come closest to block_parameters."""
    D = setting.d_model
    with torch.random.fork_rng(devices=[]):
        used = parameters(mixer(D)) + 2 * D
        each = parameters(SwiGLU(D, d_ff=2)) - parameters(SwiGLU(D, d_ff=1))
    d_ff = round((setting.block_parameters - used) / each)
    if d_ff < 1:
        raise ValueError(
            f"{name} has {used:,} parameters a block: block_parameters is "
            f"{setting.block_parameters:,}, which leaves none for the SwiGLU"
        )
    return d_ff


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())
