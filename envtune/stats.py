"""Statistics that tables and figures share.

    >>> wilson(5, 10)
    (0.236593..., 0.763406...)
"""
import math

Z_95 = 1.959964


def wilson(successes: int, n: int) -> tuple[float, float]:
    """95% interval of a proportion (Wilson's score, right also near 0 and 1). ValueError for n = 0."""
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n with n > 0, got {successes} of {n}")
    share, z2 = successes / n, Z_95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # at the ends the formula gives 0 and 1 but for rounding, and an interval that leaves out its share cannot be drawn
    return min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half))
