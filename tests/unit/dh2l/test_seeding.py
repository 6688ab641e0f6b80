"""Seeds of independent random streams."""

from itertools import product

import torch

from dh2l.seeding import derived_seed, generator


def test_seeds_of_different_purposes_and_numbers_differ() -> None:
    names = ("epoch", "classifier", "backbone")
    seeds = {
        derived_seed(name, *n)
        for name in names
        for n in [(), *product(range(20)), *product(range(12), repeat=2)]
    }
    assert len(seeds) == 3 * (1 + 20 + 144)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derived_seed("epoch", 1, 23) != derived_seed("epoch", 12, 3)


def test_derived_seeds_stay_what_they_are() -> None:
    """They are part of every trial's numbers: a change needs another `numerics`."""
    assert derived_seed("epoch", 0, 1) == 4653772283725217136
    first = torch.randperm(8, generator=generator("epoch", 0, 1))
    assert torch.equal(first, torch.randperm(8, generator=generator("epoch", 0, 1)))
    assert not torch.equal(first, torch.randperm(8, generator=generator("epoch", 0, 2)))
