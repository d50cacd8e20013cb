r"""Five states

*Count what five gated models carry. · 8 minutes · ●●○ · 1 point*

Five models have 24 layers of width D = 2,048 each. For one sequence they carry, in float32:

- **gated retention**: 16 heads, K = V = D / 16;
- **GLA**: 4 heads, V = D / 4, and K half of V;
- **HGRN-2**: 16 heads, K = V = D / 16;
- **GateLoop**: 16 heads, K = V = D / 16, and every number of the state is complex;
- **GSA**: 4 heads of width D / 4 and 64 slots, with a table of keys and a table of values.

How many MiB do the five states have together (1 MiB = $2^{20}$ bytes)?
"""

### BEGIN SOLUTION
retention = 16 * 128**2
gla = 4 * 256 * 512
hgrn2 = 16 * 128**2
gateloop = 2 * 16 * 128**2
gsa = 4 * 64 * 2 * 512
floats = retention + gla + hgrn2 + gateloop + gsa
mebibytes = 24 * floats * 4 / 2**20
### END SOLUTION

WHY = r"""
**Solution.** In units of $2^{18}$ = 262,144 numbers a layer: gated retention has $16 \cdot 128^2$, 1; GLA has $4 \cdot 256 \cdot 512$, 2; HGRN-2 has 1; GateLoop two
numbers for each of retention's, 2; GSA has $4 \cdot 64 \cdot (512 + 512)$, 1. That makes 7 units, times 24 layers times 4 bytes: 168 MiB.

Fewer, wider heads give a larger state: H heads of width D / H hold $D^2 / H$ numbers. That, not the kind of gate, is what sets the size of a memory.

*Common mistakes:* one table instead of two for GSA; K = V in GLA; two bytes a number.
"""

HINTS = (
    "A head's state has V rows and K columns; count numbers first, bytes last.",
    "H heads of width D / H hold D² / H numbers. GLA's keys are half as wide; GateLoop has twice the numbers; GSA has M (K + V) a head.",
    "24 * (16 * 128**2 + 4 * 256 * 512 + 16 * 128**2 + 2 * 16 * 128**2 + 4 * 64 * 1024) * 4 / 2**20.",
)

reference = 24 * 7 * 2**18 * 4 / 2**20

TOLERANCE = 1e-4

OUTPUTS = ("mebibytes",)

ALTERNATIVES = (168, 24 * 7 * 2**20 / 2**20)

MISTAKES = """
gsa = 4 * 64 * 2 * 512 → gsa = 4 * 64 * 512
    GSA has two tables, one of keys and one of values: only one is counted.
gla = 4 * 256 * 512 → gla = 4 * 512 * 512
    GLA's keys are half as wide as its values: they are counted as wide.
gateloop = 2 * 16 → gateloop = 16
    GateLoop's numbers are complex: each has a real and an imaginary part.
floats * 4 → floats * 2
    A number has 4 bytes in float32: two are counted.
floats * 4 → floats * 8
    This is twice what it should be. A number has 4 bytes in float32 (8 is float64), and a MiB has 2^20 bytes.
24 * floats → floats
    One layer is counted: each of the 24 has a state of its own.
/ 2**20 → / 10**6
    These are megabytes of 1,000,000 bytes: a MiB has 2^20.
* 4 / 2**20 → / 2**20
    These are millions of numbers: each has 4 bytes.
24 * floats * 4 / 2**20 → 24 * floats * 4
    These are bytes: divide by 2^20.
24 * floats * 4 / 2**20 → 24 * floats * 4 / 2**30
    These are GiB: divide by 2^20 for MiB.
gla = 4 * 256 * 512 → gla = 16 * 64 * 128
    GLA is counted with 16 heads: it has 4, and fewer heads hold more.
"""
