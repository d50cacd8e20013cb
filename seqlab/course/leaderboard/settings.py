"""The two settings of the leaderboard: data only."""

from seqlab.course.leaderboard.contest import Contest, Setting
from seqlab.tasks import MQAR, Copy, Induction, ModularCount, Parity, Recall, SelectiveCopy
from seqlab.zoo import ZOO


def recall(steps: int) -> Contest:
    """A pair is one token, so nothing but the memory is asked."""
    sizes = tuple((f"{n}", Recall(32, 8, n, overwrite=False)) for n in (4, 8, 16, 32))
    return Contest("recall", "pairs", sizes, steps)


def parity(steps: int) -> Contest:
    return Contest("parity", "tokens", (("16", Parity(16)),), steps)


def mqar(steps: int) -> Contest:
    """As published, without random filler, with a vocabulary of 64."""
    sizes = tuple((f"{n}", MQAR(n, 64, 64, filler=False)) for n in (4, 8, 16))
    return Contest("MQAR", "pairs", sizes, steps, shift=True)


SMALL = Setting(
    "small",
    (
        "attention",
        "sliding-window attention",
        "linear attention",
        "RetNet",
        "GLA",
        "DeltaNet",
        "Gated DeltaNet",
        "Mamba-2",
    ),
    (recall(500), parity(300)),
)

FULL = Setting(
    "full",
    tuple(row.name for row in ZOO if row.causal),
    (
        recall(2000),
        parity(1000),
        Contest("counting mod 5", "tokens", (("16", ModularCount(5, 16)),), 1000),
        Contest("copying", "symbols", (("12", Copy(8, 12)),), 1000),
        Contest("selective copying", "symbols", (("3", SelectiveCopy()),), 1000),
        Contest("induction", "tokens", (("64", Induction()),), 1000, shift=True),
        mqar(3000),
    ),
)

SETTINGS = {setting.name: setting for setting in (SMALL, FULL)}
