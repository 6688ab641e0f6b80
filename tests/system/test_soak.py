"""A small soak; the large one is a command: python tests/soak.py."""

import random
from pathlib import Path

from soak import soak


def test_a_sweep_under_a_random_killer_ends_with_every_record_of_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    said: list[str] = []
    assert soak(tmp_path, trials=20, seed=seed, minutes=10, say=said.append) == [], said
