"""What can one layer of RWKV-7 not do, and why?

*Open question · 5 minutes*

The machine of the project can set, add, halve and clear a register. Write three or four sentences: why can it not *negate* one, why can RWKV-6 not even *clear* one register if the registers are directions that are no columns, and what would you change in RWKV-7 so that it can negate?
"""

POINTS = (
    "To negate is to multiply by -1: an eigenvalue of the gate has to be -1, along the register's direction.",
    "RWKV-7's eigenvalues are at least w - a > 0.545 - 1 = -0.455: a sign can be turned over, but more than half of the number is lost.",
    "RWKV-6's gate is a diagonal: it fades columns of the table, and with them every direction that has a part in that column.",
    "A factor of 2 on the erasing (or a up to 2), with w = 1, gives 1 - 2 = -1: a reflection. In the chapter the doubled layer learned parity.",
    "The price: with a factor of 2 and smaller w the eigenvalue may go below -1, and then the state grows.",
)
