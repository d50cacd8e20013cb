r"""What is left of the first value

*Compute what two overlapping writes leave under an older key. · 6 minutes · ●○○ · 1 point*

Values are single numbers, keys have length 1. An empty delta memory reads three writes:

1. the value 10 under $k_1$, with $\beta = 1$;
2. the value $-4$ under $k_2$, with $\beta = \frac12$;
3. the value 9 under $k_2$ again, with $\beta = \frac12$.

The keys have the dot product $k_1 \cdot k_2 = 0.6$. What does $k_1$ return at the end?
"""

### BEGIN SOLUTION
share = 0.6
second = 10 * share  # what k2 returns before it is written
old = 10.0
for value in (-4, 9):
    write = 0.5 * (value - second)
    second = second + write
    old = old + write * share
left = old
### END SOLUTION

WHY = r"""
**Solution.** After the first write $k_1$ returns 10 and $k_2$ returns $10 · 0.6 = 6$. The second write adds $u = ½ (-4 - 6) = -5$ under $k_2$: now $k_2$ returns 1, and $k_1$ returns $10 - 5 · 0.6 = 7$. The third adds $½ (9 - 1) = 4$:
$k_1$ returns $9.4$.

A sum with the same $\beta$ would have returned $10 + 0.6 · (-2 + 4.5) = 11.5$. The delta rule takes more from $k_1$ here, because it had to take out of $k_2$ what $k_1$ had put there.

*Common mistakes:* writing $\beta v$ without the removal; an empty memory for $k_2$ at the second write; the key's share counted twice.
"""

HINTS = (
    "Follow two numbers, what k1 returns and what k2 returns. Each write changes both.",
    "A write under k2 adds u = β (v - what k2 returns). k2's answer changes by u, k1's by 0.6 u.",
    "k2: 6 → 1 → 5. So the two u are -5 and 4.",
)

reference = 9.4

TOLERANCE = 1e-8

OUTPUTS = ("left",)

ALTERNATIVES = (10 - 5 * 0.6 + 4 * 0.6, 10 + (5 - 6) * 0.6)

MISTAKES = """
write = 0.5 * (value - second) → write = 0.5 * value
    The writes do not remove what k2 returned: this is the sum's answer.
second = 10 * share  # what k2 returns before it is written → second = 0.0
    k2 is taken to be empty before its first write: it overlaps k1, so it returns a part of 10.
write = 0.5 * (value - second) → write = 1.0 * (value - second)
    These are writes with β = 1: half of the difference is written each time.
old = old + write * share → old = old + write
    k1 changes by the whole of each write: it shares 0.6 of k2's direction, so it changes by 0.6 of it.
old = old + write * share → old = old + write * share**2
    The overlap is counted twice: a write under k2 changes what k1 returns by u (k1·k2).
second = second + write ⏎ old = old + write * share → old = old + write * share
    What k2 returns is not brought up to date: the third write must see what the second one left.
left = old → left = second
    This is what k2 returns: k1 is asked for.
second = 10 * share  # what k2 returns before it is written → second = 10.0
    k2 is taken to return all of 10 before its first write: it shares 0.6 of k1's direction, so it returns 6.
second = 10 * share  # what k2 returns before it is written → second = 10.0 ; second = second + write → second = value
    Each value is compared with the value written before it. Compare it with what k2 returns at that moment.
write = 0.5 * (value - second) → write = value
    Nothing is removed, and β is not used: this is the answer of a sum that writes every value whole.
left = old → left = 10.0
    k1 is taken to be left alone by the writes under k2: the two keys overlap, so each of those writes changes it.
"""
