"""Agreement of weight vectors, penalties of pairs, the energy E."""
