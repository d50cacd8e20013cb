"""Real checkpoints in our modules.

`from_transformers(model)` makes our LanguageModel out of a `transformers` causal language model,
with equal logits. `from_pretrained(folder)` reads a folder of safetensors with its config.json,
without `transformers`.

No config is understood only in part: a field that changes the logits in a way we do not offer, or
that is unknown to us, raises ValueError with its name; so does a weight of theirs without a place
in our model, and a weight of ours that nothing fills.

To add a family, write one file here with a `Family`, and name it in FAMILIES below:

- `fields`: the config's fields that may change the logits, with the defaults of its config class.
  A field that neither `build` nor `names` reads must have its default value: to support a field is
  to read it.
- `build(c)`: our LanguageModel of the sizes that `c` asks for. `c.refuse(field, why)` raises the
  error if it asks for too much.
- `names(c)`: a table from the names of their weights to ours (`weights.py`).
- `no_effect`: fields that change nothing (initialisation, losses) beyond those of `config.py`.
- `weights(model)`, if a `transformers` model's state_dict is not what was trained.

Then add a few tiny configs, odd ones too, to tests/hub/test_families.py.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from seqlab.hub import (
    bamba,
    deepseek_v3,
    diffllama,
    jamba,
    kimi_linear,
    llama,
    mamba,
    minimax,
    mixtral,
    qwen3_next,
    recurrent_gemma,
    rwkv,
    xlstm,
    zamba2,
)
from seqlab.hub.family import Family
from seqlab.model import LanguageModel

__all__ = ["FAMILIES", "from_pretrained", "from_transformers"]

_FAMILIES = (
    llama.LLAMA,
    llama.MISTRAL,
    mixtral.MIXTRAL,
    deepseek_v3.DEEPSEEK_V3,
    diffllama.DIFFLLAMA,
    minimax.MINIMAX,
    mamba.MAMBA,
    mamba.FALCON_MAMBA,
    mamba.MAMBA2,
    jamba.JAMBA,
    bamba.BAMBA,
    zamba2.ZAMBA2,
    recurrent_gemma.RECURRENT_GEMMA,
    rwkv.RWKV,
    xlstm.XLSTM,
    qwen3_next.QWEN3_NEXT,
    kimi_linear.KIMI_LINEAR,
)
FAMILIES: dict[str, Family] = {family.name: family for family in _FAMILIES}


def from_transformers(model: Any) -> LanguageModel:
    """Our LanguageModel with the weights, copied, of a `transformers` causal language model."""
    kind = type(model).__name__
    if not (hasattr(model, "config") and hasattr(model, "state_dict")):
        raise TypeError(
            f"a {kind} is not a transformers model: "
            "give AutoModelForCausalLM.from_pretrained(...); a folder goes to from_pretrained"
        )
    config = model.config.to_dict()
    family = _family(config)
    if model.get_output_embeddings() is None:
        raise ValueError(
            f"{kind} has no head for the next token: give AutoModelForCausalLM.from_pretrained(...)"
        )
    return family.load(config, family.weights(model).items()).train(model.training)


def from_pretrained(folder: str | Path) -> LanguageModel:
    """Our LanguageModel, in eval mode, from a folder with config.json and .safetensors files."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no folder {folder}, and nothing is downloaded: {_BY_TRANSFORMERS}"
        )
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(
            f"{folder} has no config.json: give a folder that `save_pretrained` wrote"
        )
    config = _json(folder / "config.json", object_hook=_special_float)
    family = _family(config)
    return family.load(config, _stored_weights(_parts(folder))).eval()


_BY_TRANSFORMERS = (
    "from_transformers(AutoModelForCausalLM.from_pretrained(...)) loads as transformers does"
)


def _family(config: dict) -> Family:
    name = config.get("model_type")
    if name not in FAMILIES:
        raise ValueError(f"model_type is {name!r}: choose one of {', '.join(FAMILIES)}")
    return FAMILIES[name]


def _special_float(value: dict):
    """config.json writes an infinite float as {"__float__": "Infinity"}."""
    return float(value["__float__"]) if value.keys() == {"__float__"} else value


def _json(path: Path, **options) -> dict:
    try:
        return json.loads(path.read_text(), **options)
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def _parts(folder: Path) -> list[Path]:
    """The files with the weights. An index file lists those of a large checkpoint."""
    index = folder / "model.safetensors.index.json"
    parts = ["model.safetensors"]
    if index.is_file():
        parts = sorted(set(_json(index)["weight_map"].values()))
    for part in parts:
        if not (folder / part).is_file():
            way_out = f"; for .bin files: {_BY_TRANSFORMERS}" if any(folder.glob("*.bin")) else ""
            raise FileNotFoundError(
                f"{folder} has no {part}: weights are read from .safetensors files{way_out}"
            )
    return [folder / part for part in parts]


def _stored_weights(parts: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """Name by name, so that a checkpoint is never in memory twice."""
    from safetensors import SafetensorError, safe_open

    for part in parts:
        try:
            with safe_open(part, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    yield name, file.get_tensor(name)
        except SafetensorError as error:
            raise OSError(f"{part} cannot be read; it may be incomplete: {error}") from None
