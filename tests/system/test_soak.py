"""A small soak with a fixed seed. The command `python tests/support/soak.py` draws one."""

from pathlib import Path

from soak import soak

SEED = 501652


def test_a_sweep_under_a_random_killer_ends_with_every_record_of_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    assert soak(tmp_path, trials=20, seed=SEED, minutes=10, say=said.append) == [], said
