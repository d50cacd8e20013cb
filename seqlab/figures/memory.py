"""What published models keep of a text, drawn against its length."""

import plotly.graph_objects as go

from seqlab.figures.ssd import memory_lines
from seqlab.zoo import RECIPES
from seqlab.zoo.memory import kept

CONTEXTS = [2**n for n in range(8, 21)]
PRESETS = {
    "7B: Llama 3.1 8B, Griffin, Falcon Mamba": [
        ("Transformer 2026", "Llama 3.1 8B"),
        ("Griffin", "7B"),
        ("Falcon Mamba", "7B"),
    ],
    "70B: Llama 3.1 70B, Jamba 1.5 Large": [
        ("Transformer 2026", "Llama 3.1 70B"),
        ("Jamba", "1.5 Large"),
    ],
}
# What `memory_of` can draw: two presets, and every published model.
MODELS = PRESETS | {
    f"{r.name} {model}": [(r.name, model)] for r in RECIPES for model in r.published
}


def memory_of(
    models: str = "7B: Llama 3.1 8B, Griffin, Falcon Mamba",
    bytes_per_number: int = 2,
    texts: int = 1,
) -> go.Figure:
    """Bytes of caches and states for one of MODELS.

    `bytes_per_number` is that of the caches; states are counted in float32. `texts` are kept at the
    same time.
    """
    lines = {
        f"{name} {model}": [
            texts * kept(name, model).bytes(n, cache=bytes_per_number) for n in CONTEXTS
        ]
        for name, model in MODELS[models]
    }
    (first, sizes), *others = lines.items()
    title = f"At 1M tokens {first} keeps {sizes[-1] / 1e9:,.3g} GB"
    for name, less in others[:1]:
        title += f", {sizes[-1] / less[-1]:,.0f} times as much as {name}"
    return memory_lines(lines, CONTEXTS, title=title)
