r"""How wide must a state be?

*Turn the count into bytes. · 8 minutes · ●●○ · 1 point*

One head of linear attention shall hold n = 1,000 pairs. Keys are *random* vectors of length 1 in K dimensions, drawn independently and uniformly over all directions; values have V = 64 channels, mean zero and mean square length 1, and are independent. The mean
square disturbance of a read may be at most ¼ of the answer's mean square.

What is the smallest K? Give the size of the state in **KiB** (1,024 bytes), in float32.
"""

### BEGIN SOLUTION
n, V = 1000, 64
K = (n - 1) / 0.25  # the mean of (k_i · k_j)² is 1 / K
room = K * V * 4 / 1024
### END SOLUTION

WHY = r"""
**Solution.** A read of pair i is disturbed by n - 1 others, each with the mean square $E(k_i \cdot k_j)^2$. For random directions that is 1 / K: the squares of the K coordinates of a unit vector add up to 1, and no direction is preferred. So
$(n - 1) / K \le \frac14$ gives K = 3,996, and $3996 \cdot 64 \cdot 4$ bytes are 999 KiB.

The best keys there are need only $n / K - 1 \le \frac14$, so K = 800 and 200 KiB: five times less. Softmax attention with keys of width 64 keeps $1000 \cdot 128$ numbers, 500 KiB. So a fixed state is not small by itself; it is fixed.

*Common mistakes:* the bound for the best keys; n for n - 1; K = n; a square root.
"""

HINTS = (
    "Write the read as answer plus disturbance. How many terms has the disturbance, and what is the mean square of one?",
    "For a random direction the K squared coordinates have equal means and add up to 1, so E (k_i · k_j)² = 1 / K.",
    "K = (n - 1) / 0.25, and the state has K · V numbers of 4 bytes.",
)

reference = 999 * 4 * 64 * 4 / 1024

OUTPUTS = ("room",)

TOLERANCE = 0.0004

ALTERNATIVES = (999.0, 3996 / 4)

MISTAKES = """
K = (n - 1) / 0.25 → K = n / 1.25
    This is K for the best possible keys (a tight frame): random keys disturb each other more.
K = (n - 1) / 0.25 → K = n / 0.25
    A pair does not disturb itself: there are n - 1 others.
K = (n - 1) / 0.25 → K = n
    K = n makes independent keys possible, but random keys are not orthogonal: count their disturbance.
K = (n - 1) / 0.25 → K = (n - 1) / 0.5
    The mean square may be a quarter. Here it is a half: the quarter is not of the length.
K = (n - 1) / 0.25 → K = (n - 1) / 0.0625
    The disturbance's length would be a quarter here: its mean *square* may be a quarter.
K * V * 4 / 1024 → K * V / 1024
    A float32 number has 4 bytes.
K * V * 4 / 1024 → K * V * 4 / 1000
    This is in units of 1,000 bytes: a KiB has 1,024.
K * V * 4 / 1024 → K * 4 / 1024
    This is one row of the state: it has V rows.
K * V * 4 / 1024 → K * V * 4
    These are bytes: divide by 1,024.
"""
