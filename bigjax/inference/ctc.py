"""From a CTC head's scores to labels: the best path, the best labels by beam search, and how likely labels are."""

from collections.abc import Sequence

import numpy as np

BLANK = 0


def best_path(ids: np.ndarray) -> list[int]:
    """The labels that an alignment int [T] stands for: repeats count once, then blanks are left out."""
    changed = np.concatenate([[True], ids[1:] != ids[:-1]])[: len(ids)]
    return ids[changed & (ids != BLANK)].tolist()


def prefix_beam_search(log_probs: np.ndarray, beams: int) -> list[tuple[list[int], float]]:
    """The likeliest labels, summed over all their alignments (Graves & Jaitly 2014; Hannun et al. 2014).

    Exact where no more than `beams` prefixes are possible; a sum over fewer alignments is too small.

    Args:
      log_probs: float [T, V], label 0 is the blank.
      beams: prefixes that are kept after each position.

    Returns:
      At most `beams` labels with their log-probabilities, the likeliest first.
    """
    prefixes: list[tuple[int, ...]] = [()]
    blank, label = np.zeros(1), np.full(1, -np.inf)  # of each prefix, its last position being a blank or its last label
    for scores in log_probs.astype(np.float64):
        place = {prefix: k for k, prefix in enumerate(prefixes)}
        last = np.array([prefix[-1] if prefix else BLANK for prefix in prefixes])
        both = np.logaddexp(blank, label)
        longer = both[:, None] + scores  # [K, V], of each prefix with one more label
        with_last = np.arange(len(prefixes)), last
        longer[with_last] = blank + scores[last]  # between two of the same label stands a blank
        longer[:, BLANK] = -np.inf
        stays = np.where(last == BLANK, -np.inf, label + scores[last])
        for k, prefix in enumerate(prefixes):  # a kept prefix may be another with one more label
            if prefix and (parent := place.get(prefix[:-1])) is not None:
                stays[k] = np.logaddexp(stays[k], longer[parent, prefix[-1]])
                longer[parent, prefix[-1]] = -np.inf
        blank = both + scores[BLANK]
        totals = np.concatenate([np.logaddexp(blank, stays), longer.ravel()])
        best = np.argsort(-totals, kind="stable")[:beams]
        best = best[totals[best] > -np.inf]
        kept, added = best[best < len(prefixes)], best[best >= len(prefixes)] - len(prefixes)
        parents, labels = np.divmod(added, log_probs.shape[1])
        extended = [(*prefixes[p], int(v)) for p, v in zip(parents, labels, strict=True)]
        prefixes = [prefixes[k] for k in kept] + extended
        blank = np.concatenate([blank[kept], np.full(len(added), -np.inf)])
        label = np.concatenate([stays[kept], longer[parents, labels]])
    totals = np.logaddexp(blank, label)
    return [(list(prefixes[k]), float(totals[k])) for k in np.argsort(-totals, kind="stable")]


def log_probability(log_probs: np.ndarray, labels: Sequence[int]) -> float:
    """The log-probability of labels, summed over all alignments (Graves et al. 2006, section 4.1).

    Args:
      log_probs: float [T, V], label 0 is the blank.
    """
    states = np.full(2 * len(labels) + 1, BLANK)
    states[1::2] = labels
    skips = np.zeros(len(states), bool)  # a blank between two different labels may be left out
    skips[2:] = (states[2:] != BLANK) & (states[2:] != states[:-2])
    alpha = np.full(len(states), -np.inf)
    alpha[0] = 0  # before the first position, which the first two states can follow
    for scores in log_probs.astype(np.float64):
        step = np.concatenate([[-np.inf], alpha[:-1]])
        skip = np.where(skips, np.concatenate([[-np.inf] * 2, alpha[:-2]])[: len(states)], -np.inf)
        alpha = np.logaddexp(np.logaddexp(alpha, step), skip) + scores[states]
    return float(np.logaddexp.reduce(alpha[-2:]))
