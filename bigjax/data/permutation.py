"""A permutation that needs no memory: any element of it is computed alone."""

import numpy as np

ROUNDS = 8


def permuted(index: np.ndarray, length: int, generator: np.random.Generator) -> np.ndarray:
    """Where a permutation of `length` elements, drawn by `generator`, takes the elements `index`.

    A Feistel network (Luby & Rackoff 1988) over the integers of as many bits as `length` needs; what comes out too
    large goes through again until it fits (cycle walking; Black & Rogaway 2002, section 3), on average less than once.

    Args:
      index: int64 [b], from 0 to length - 1.

    Returns:
      int64 [b].
    """
    bits = max(2, (length - 1).bit_length())
    low = bits // 2
    keys = generator.integers(2**64, size=ROUNDS, dtype=np.uint64)
    value = index.astype(np.uint64)
    outside = np.ones(len(value), bool)
    while outside.any():
        value[outside] = feistel(value[outside], bits, low, keys)
        outside = value >= length
    return value.astype(np.int64)


def feistel(value: np.ndarray, bits: int, low: int, keys: np.ndarray) -> np.ndarray:
    """A permutation of the integers of `bits` bits: each round changes one part by a function of the other.

    Args:
      value: uint64 [b].
      low: the bits of the lower part.
      keys: uint64, one for each round.
    """
    parts = [value >> np.uint64(low), value & np.uint64((1 << low) - 1)]
    sizes = [np.uint64((1 << (bits - low)) - 1), np.uint64((1 << low) - 1)]
    for number, key in enumerate(keys):
        changed = number % 2
        parts[changed] = parts[changed] ^ (mixed(parts[1 - changed] ^ key) & sizes[changed])
    return parts[0] << np.uint64(low) | parts[1]


def mixed(value: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele et al. 2014): every bit of uint64 [b] bears on every other."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
