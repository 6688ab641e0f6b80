"""Seeds and generators of independent random streams."""

import hashlib

import torch


def derived_seed(purpose: str, *numbers: int) -> int:
    """Derive a 63-bit seed; streams of different purposes or numbers are independent."""
    digest = hashlib.sha256(":".join([purpose, *map(str, numbers)]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(purpose: str, *numbers: int) -> torch.Generator:
    """Make a CPU generator from `derived_seed`; its numbers do not depend on the device."""
    return torch.Generator().manual_seed(derived_seed(purpose, *numbers))
