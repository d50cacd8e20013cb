"""Rotary positions from a config."""

from seqlab.core.position import (
    linear_frequencies,
    llama3_frequencies,
    rope_frequencies,
    yarn_frequencies,
    yarn_magnitude,
)
from seqlab.hub.config import Config

FIELDS = {
    "rope_parameters": None,
    "rope_scaling": None,
    "rope_theta": None,
    "max_position_embeddings": 0,
}


def rope(c: Config, width: int, base: float = 10000.0, *, partial: bool = False) -> dict:
    """Options of a mixer that turns `width` channels: theta and magnitude.

    base: the family's default. partial: the family turns only a share of the channels,
    partial_rotary_factor (in the dict, or a field of its own).

    Ways to a longer context whose angles depend on the length of the text (dynamic, longrope) are
    not offered: with them, a text read in parts gives other logits than the text read at once.
    """
    name, asked = parameters(c, base)
    kind = asked.pop("rope_type")
    base = asked.pop("rope_theta")
    length = c.max_position_embeddings
    asked.pop("finetuned", None)  # only a remark
    if partial:
        width = int(width * asked.pop("partial_rotary_factor", c.partial_rotary_factor))
    if kind not in KINDS:
        c.refuse(f"{name}.rope_type", f"is {kind!r}: only {', '.join(KINDS)} are supported")
    try:
        theta, magnitude = KINDS[kind](asked, width, base, length)
    except KeyError as missing:
        c.refuse(f"{name}.{missing.args[0]}", f"is missing: rope_type {kind!r} needs it")
    for field, value in asked.items():
        if value is not None:
            why = f"is {value!r}: it is not supported with rope_type {kind!r}"
            c.refuse(f"{name}.{field}", why)
    return {"theta": theta, "magnitude": magnitude}


def parameters(c: Config, base: float) -> tuple[str, dict]:
    """The name of the field in use, and its dict, completed by rope_type and rope_theta.

    Newer configs have one dict, rope_parameters; older ones have rope_theta, and perhaps the dict
    rope_scaling.
    """
    name = "rope_scaling" if c.rope_scaling else "rope_parameters"
    asked = dict(getattr(c, name) or {})
    old = c.rope_theta
    asked.setdefault("rope_type", asked.get("type", "default"))
    asked.pop("type", None)
    return name, {"rope_theta": base if old is None else old} | asked


def _frequencies(width, base):
    """base^(-2i/width) for i < width/2; if width is odd, one more channel is turned."""
    even = width + width % 2
    return rope_frequencies(even, base ** (even / width))


def _default(asked, width, base, length):
    return _frequencies(width, base), 1.0


def _linear(asked, width, base, length):
    return linear_frequencies(_frequencies(width, base), asked.pop("factor")), 1.0


def _llama3(asked, width, base, length):
    theta = _frequencies(width, base)
    low = asked.pop("low_freq_factor")
    high = asked.pop("high_freq_factor")
    original = asked.pop("original_max_position_embeddings", length)
    return llama3_frequencies(theta, asked.pop("factor"), low, high, original), 1.0


def _yarn(asked, width, base, length):
    original = asked.pop("original_max_position_embeddings", length)
    factor = asked.pop("factor") or length / original
    theta = yarn_frequencies(
        width,
        factor,
        original,
        base,
        beta_fast=asked.pop("beta_fast", None) or 32.0,
        beta_slow=asked.pop("beta_slow", None) or 1.0,
        truncate=asked.pop("truncate", True),
    )
    mscale = asked.pop("mscale", None)
    every = asked.pop("mscale_all_dim", None)
    given = asked.pop("attention_factor", None)
    if given is not None:
        return theta, given
    if mscale and every:
        return theta, yarn_magnitude(factor, mscale) / yarn_magnitude(factor, every)
    return theta, yarn_magnitude(factor)


KINDS = {"default": _default, "linear": _linear, "llama3": _llama3, "yarn": _yarn}
