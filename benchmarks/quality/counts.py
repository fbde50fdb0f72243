"""What counts of right and wrong answers say."""

import math


def wilson(num_right, num_asked, z=1.96):
    """The interval of the true rate, by default at 95 %."""
    if num_asked == 0:
        return 0.0, 1.0
    rate = num_right / num_asked
    scale = 1 + z * z / num_asked
    centre = (rate + z * z / (2 * num_asked)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / num_asked + z * z / (4 * num_asked * num_asked))
    return max(0.0, centre - half), min(1.0, centre + half)


def mcnemar(num_lost, num_gained):
    """The two-sided exact probability of so uneven a split of the pairs that differ, were both equally good."""
    count = num_lost + num_gained
    tail = sum(math.comb(count, k) for k in range(min(num_lost, num_gained) + 1))
    return min(1.0, 2 * tail / 2**count)


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]
