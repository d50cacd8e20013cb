"""Rotary positions as a config asks for them."""

from seqlab.hub.config import Config

FIELDS = {"rope_parameters": None, "rope_scaling": None, "rope_theta": None}


def rope(c: Config, base: float = 10000.0) -> dict:
    """Options of Attention. `base` is the family's default.

    Newer configs hold one dict rope_parameters; older ones rope_theta, and the dict rope_scaling if there is any.
    """
    name = "rope_scaling" if c.rope_scaling else "rope_parameters"
    asked = dict(getattr(c, name) or {})
    old = c.rope_theta
    kind = asked.pop("rope_type", asked.pop("type", "default"))
    base = asked.pop("rope_theta", base if old is None else old)
    if kind != "default":
        c.refuse(f"{name}.rope_type", f"is {kind!r}: only 'default' is supported")
    for field, value in asked.items():
        c.refuse(f"{name}.{field}", f"is {value!r}: it is not supported with rope_type {kind!r}")
    return {"rope_base": base}
