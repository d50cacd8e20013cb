"""The bytes of a state

*Count. · 3 minutes · ●○○ · 1 point*

How many bytes?
"""

### BEGIN SOLUTION
n_bytes = 4 * 64 * 64
### END SOLUTION

WHY = """
Why 90.3 is so.
"""

HINTS = ("How many numbers?", "K times V numbers.", "4 bytes each")

reference = 2**14

MISTAKES = """
4 * 64 → 64
    Numbers, not bytes.
4 * 64 → 2 * 64
    bfloat16.
4 * 64 → 32 * 64
    Bits.
64 * 64 → 128
    K + V.
"""
