"""Error rates and power of the tables' tests, by simulation.

    python -m benchmarks.evidence [--tables N] [--sets N] [--seed N]

A test set is drawn anew for every table: each image has a difficulty b ~ N(centre, spread²) in
logits, shared by all networks, and a network with shift s is right on it with chance sigmoid(b +
s). Shifts are normal around their arm's; given its shift a network's number of right answers is a
sum of independent draws, taken as normal with that sum's mean and variance and rounded to whole
images. Accuracies then go through `study.analysis.statistics.confirmatory`, as those of real trials
do.
"""

import argparse
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from benchmarks.frame import pipe_table
from study.analysis.statistics import confirmatory, paired_bootstrap

ALPHA = 0.05
CELLS = (8, 40)
SEEDS = (3, 5, 10)
EFFECTS = (0.5, 1.0, 2.0)
SHIFTS = np.linspace(-1.5, 1.5, 13)
"""Between these shifts a test set's accuracy is interpolated: to 0.003 points."""
QUANTILES = special.ndtri((np.arange(20_000) + 0.5) / 20_000)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class World:
    """Settings that all tables of a simulation share.

    Attributes:
        seed_sd: standard deviation of one arm's accuracy over seeds on one test set, in points.
        taste: standard deviation over images of an arm's own preference, in logits. Above 0 arms of
            equal accuracy over all images differ on any one test set.
        images: size of the test set.
        centre, spread: of the images' difficulties, in logits.
    """

    seed_sd: float = 0.3
    taste: float = 0.0
    images: int = 10_000
    centre: float = 3.75
    spread: float = 8.0

    def accuracy(self, shift: float) -> float:
        """Accuracy over all images of a network with a shift, a fraction."""
        return float(special.expit(self._all + shift).mean())

    @property
    def shift_sd(self) -> float:
        """Standard deviation of the shifts that, with the draws per image, makes `seed_sd`."""
        chances = special.expit(self._all)
        slope = float((chances * (1 - chances)).mean())
        return math.sqrt((self.seed_sd / 100) ** 2 - slope / self.images) / slope

    def shift_of(self, effect: float) -> float:
        """Return the shift that raises an arm's accuracy over all images by an effect in points."""
        return float(
            np.interp(self.accuracy(0) + effect / 100, [self.accuracy(s) for s in SHIFTS], SHIFTS)
        )

    @property
    def taste_sd(self) -> float:
        """Standard deviation over test sets of the difference that tastes make, in points."""
        chances = special.expit(self._all)
        squared = float(((chances * (1 - chances)) ** 2).mean())
        return 100 * self.taste * math.sqrt(2 * squared / self.images)

    @property
    def _all(self) -> Floats:
        everything: Floats = self.centre + math.hypot(self.spread, self.taste) * QUANTILES
        return everything


class TestSet:
    """The images of one table, as one arm finds them."""

    __test__ = False  # pytest would take it for tests

    def __init__(self, difficulties: Floats) -> None:
        chances = special.expit(difficulties + SHIFTS[:, None])
        self.images = len(difficulties)
        self.mean = chances.sum(axis=1)
        self.variance = (chances * (1 - chances)).sum(axis=1)

    def accuracies(self, shifts: Floats, random: np.random.Generator) -> Floats:
        """Accuracies of networks with these shifts, in percent."""
        mean, variance = (
            np.interp(shifts, SHIFTS, self.mean),
            np.interp(shifts, SHIFTS, self.variance),
        )
        right = np.rint(mean + np.sqrt(variance) * random.standard_normal(shifts.shape))
        percent: Floats = 100 * right.clip(0, self.images) / self.images
        return percent


@dataclass(frozen=True)
class Setting:
    """Tables of some cells beside a reference, of `n` seeds each; the first has a true effect."""

    cells: int
    n: int
    effect: float = 0.0


@dataclass
class Count:
    """Counts of tables: a null cell rejected, without and with Holm; the true effect found."""

    false: int = 0
    uncorrected: int = 0
    found: int = 0


def simulate(
    world: World, settings: Sequence[Setting], tables: int, seed: int
) -> dict[Setting, Count]:
    """Count errors and finds over tables; the settings share the test sets, not the networks."""
    random = np.random.default_rng(seed)
    counts = {setting: Count() for setting in settings}
    shifts = {setting: world.shift_of(setting.effect) for setting in settings}
    most, spread = max(setting.cells for setting in settings), world.shift_sd
    for _ in range(tables):
        difficulties = world.centre + world.spread * random.standard_normal(world.images)
        if world.taste:
            own = [world.taste * random.standard_normal(world.images) for _ in range(most + 1)]
            sets = [TestSet(difficulties + of_arm) for of_arm in own]
        else:
            sets = [TestSet(difficulties)] * (most + 1)
        for setting, count in counts.items():
            drawn = spread * random.standard_normal((setting.cells + 1, setting.n))
            drawn[1] += shifts[setting]
            if world.taste:
                table = [
                    one.accuracies(s, random).tolist() for one, s in zip(sets, drawn, strict=False)
                ]
            else:
                table = sets[0].accuracies(drawn, random).tolist()
            _judge(table, setting, count)
    return counts


def _judge(table: list[list[float]], setting: Setting, count: Count) -> None:
    """Put one table, its reference first, through the tests."""
    comparisons, adjusted = confirmatory([(cell, table[0]) for cell in table[1:]])
    rejected = [p is not None and p <= ALPHA for p in adjusted]
    plain = [c is not None and c.p is not None and c.p <= ALPHA for c in comparisons]
    null = slice(1 if setting.effect else 0, None)
    first = comparisons[0]
    count.false += any(rejected[null])
    count.uncorrected += any(plain[null])
    count.found += (
        bool(setting.effect) and rejected[0] and first is not None and first.difference > 0
    )


def band(tables: int) -> tuple[int, int]:
    """Return the exact binomial band: counts of 95% of simulations whose true rate is α."""
    low, high = stats.binom.interval(0.95, tables, ALPHA)
    return int(low), int(high)


def coverage(world: World, networks: int, sets: int, seed: int) -> int:
    """In how many test sets the bootstrap's interval holds the difference over all images.

    Two arms of so many networks each stay as they are while test sets are drawn, image by image.
    """
    random = np.random.default_rng(seed)
    shifts = world.shift_sd * random.standard_normal((2, networks))
    truth = 100 * float(np.diff([np.mean([world.accuracy(s) for s in arm]) for arm in shifts])[0])
    held = 0
    for number in range(sets):
        difficulties = world.centre + world.spread * random.standard_normal(world.images)
        right = []
        for arm in shifts:
            own = difficulties + world.taste * random.standard_normal(world.images)
            right.append(
                random.random((networks, world.images)) < special.expit(own + arm[:, None])
            )
        interval = paired_bootstrap(right[1], right[0], seed=number)
        held += interval is not None and interval[0] <= truth <= interval[1]
    return held


def main() -> None:
    """Simulate and print Markdown tables, with their settings above."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evidence", description="Simulates tables and tests."
    )
    parser.add_argument(
        "--tables", type=int, default=2000, help="tables per setting (default: %(default)s)"
    )
    parser.add_argument(
        "--sets", type=int, default=1000, help="test sets for the coverage (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of all draws (default: %(default)s)")
    options = parser.parse_args()
    started = time.monotonic()
    worlds = [World(0.3), World(0.6)]
    tasting = World(0.3, taste=1.0)
    null = [Setting(cells, n) for cells, n in itertools.product(CELLS, SEEDS)]
    settings = [*null, *(replace(setting, effect=effect) for setting in null for effect in EFFECTS)]
    counts = {world: simulate(world, settings, options.tables, options.seed) for world in worlds}
    few = [setting for setting in null if setting.cells == min(CELLS)]
    tasted = simulate(tasting, few, options.tables, options.seed)
    low, high = band(options.tables)
    parts = [
        f"{options.tables} tables per setting, seed {options.seed}; {tasting.images} images of "
        "difficulty "
        f"N({tasting.centre}, {tasting.spread}²) in logits, mean accuracy "
        f"{100 * World().accuracy(0):.1f}%; α = {ALPHA}.",
        "Rate of tables in which some cell without an effect is rejected "
        f"(binomial band around 5%: {_percent(low, options.tables)} to "
        f"{_percent(high, options.tables)}):",
        pipe_table(
            ["sd over seeds", "arms' own tastes", "cells", "n", "with Holm", "without"],
            [
                [
                    f"{world.seed_sd}",
                    f"{world.taste_sd:.2f} points" if world.taste else "none",
                    f"{setting.cells}",
                    f"{setting.n}",
                    _percent(found[setting].false, options.tables),
                    _percent(found[setting].uncorrected, options.tables),
                ]
                for world, found, chosen in (
                    *((w, counts[w], null) for w in worlds),
                    (tasting, tasted, few),
                )
                for setting in chosen
            ],
        ),
        "Rate of tables in which the one cell with a true effect is found, in its direction:",
        pipe_table(
            ["sd over seeds", "cells", "n", *(f"{effect:g} points" for effect in EFFECTS)],
            [
                [
                    f"{world.seed_sd}",
                    f"{setting.cells}",
                    f"{setting.n}",
                    *(
                        _percent(
                            counts[world][replace(setting, effect=effect)].found, options.tables
                        )
                        for effect in EFFECTS
                    ),
                ]
                for world in worlds
                for setting in null
            ],
        ),
        f"Rate of {options.sets} test sets whose 95% bootstrap interval holds the difference over "
        "all images:",
        pipe_table(
            ["images", "networks per arm", "held"],
            [
                [
                    f"{images}",
                    f"{n}",
                    _percent(coverage(world, n, options.sets, options.seed), options.sets),
                ]
                for images, n in itertools.product((400, 10_000), (1, 5))
                for world in [
                    World(seed_sd=3.0 if images == 400 else 0.6, taste=1.0, images=images)
                ]
            ],
        ),
        f"{time.monotonic() - started:.0f} s.",
    ]
    print("\n\n".join(parts))


def _percent(count: int, of: int) -> str:
    return f"{100 * count / of:.1f}%"


if __name__ == "__main__":
    main()
