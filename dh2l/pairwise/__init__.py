"""Cosine and sign agreement of weight vectors, penalties of pairs, the energy E."""
