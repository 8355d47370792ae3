"""Speech recognition: what was said, by connectionist temporal classification (CTC)."""

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from bigjax.inference.ctc import BLANK, best_path, prefix_beam_search
from bigjax.tasks.task import Batch, Sums, Task


@dataclass(frozen=True)
class SpeechRecognition(Task):
    """The negative log-probability of transcripts, summed over all their alignments (Graves et al. 2006), per label.

    The batch: `features` float32 [B, T, F], `lengths` int32 [B], `labels` int32 [B, L] (0 is the blank, and padding),
    `label_lengths` int32 [B], `mask` float32 [B], `index` int32 [B].

    Attributes:
      beams: how many prefixes the beam search of evaluation keeps; 1 takes the best label of each position instead.
        More than 1 has the distributions at all positions of a split in memory, 4 V bytes each.
    """

    beams: int = 1

    unit: ClassVar[str] = "labels"
    main_metric: ClassVar[str] = "word_error_rate"
    higher_is_better: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise ValueError(f"beams must be positive, not {self.beams}")

    def model_arguments(self, info: Mapping[str, Any]) -> dict[str, Any]:
        return {key: info[key] for key in ("vocab_size", "num_mels", "subsampling")}

    def check_model(self, model: nnx.Module) -> None:
        if not {"features", "lengths"} <= inspect.signature(model.__call__).parameters.keys():
            raise ValueError(f"a {type(model).__name__} is no model of speech, for it takes no features and lengths")

    def loss(
        self, model: nnx.Module, batch: Batch, carry: None, *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Sums, None]:
        return self.sums(batch, *model(batch["features"], batch["lengths"], train=train, rngs=rngs)), None

    def sums(self, batch: Batch, logits: jax.Array, lengths: jax.Array) -> Sums:
        """Of logits [B, T, V], `lengths` int32 [B] of which are real; the weight is the number of labels."""
        losses = optax.ctc_loss(
            logits.astype(jnp.float32),
            1.0 - real(logits, lengths),
            batch["labels"],
            1.0 - real(batch["labels"], batch["label_lengths"]),
            blank_id=BLANK,
        )
        mask = batch["mask"]
        return {"loss": (losses * mask).sum(), "weight": (batch["label_lengths"] * mask).sum()}

    def evaluate(self, model: nnx.Module, batch: Batch, carry: None) -> tuple[Sums, None, dict[str, jax.Array]]:
        """With the best label of each position, blank behind the last, or for a beam search the whole distribution."""
        logits, lengths = model(batch["features"], batch["lengths"])
        if self.beams == 1:
            outputs = {"ids": jnp.where(real(logits, lengths), logits.argmax(-1), BLANK)}
        else:
            outputs = {"log_probs": jax.nn.log_softmax(logits.astype(jnp.float32)), "length": lengths}
        return self.sums(batch, logits, lengths), None, outputs

    def heard(self, row: Mapping[str, np.ndarray]) -> list[int]:
        """The labels of one example, from what `evaluate` gives of it."""
        if self.beams == 1:
            return best_path(row["ids"])
        return prefix_beam_search(row["log_probs"][: row["length"]], self.beams)[0][0]

    def score(self, outputs: Mapping[int, dict[str, np.ndarray]], references: Any) -> dict[str, float]:
        """Substitutions, deletions and insertions per word and per character of the split, as jiwer counts them."""
        import jiwer

        texts = [references.texts[example] for example in outputs]
        heard = [references.decode(self.heard(row)) for row in outputs.values()]
        return {
            "word_error_rate": float(jiwer.wer(texts, heard)),
            "character_error_rate": float(jiwer.cer(texts, heard)),
        }

    def examples(self, model: nnx.Module, batches: Iterable[Batch], info: Mapping[str, Any]) -> dict[str, Any]:
        """48 transcripts with what was heard, mistakes first."""
        evaluate = jax.jit(lambda model, batch: self.evaluate(model, batch, None)[2])
        rows = []
        for batch in batches:
            outputs = jax.device_get(evaluate(model, batch))
            labels, lengths, mask = (np.asarray(batch[key]) for key in ("labels", "label_lengths", "mask"))
            for row in np.flatnonzero(mask):
                heard = self.heard({key: leaf[row] for key, leaf in outputs.items()})
                rows.append((info["decode"](labels[row, : lengths[row]].tolist()), info["decode"](heard)))
        wrong = sum(text != heard for text, heard in rows)
        shown = sorted(rows, key=lambda row: row[0] == row[1])[:48]
        return {
            "kind": "table",
            "columns": ["said", "heard"],
            "rows": shown,
            "right": [text == heard for text, heard in shown],
            "note": f"{wrong} of {len(rows)} utterances have mistakes; these come first.",
        }


def real(x: jax.Array, lengths: jax.Array) -> jax.Array:
    """1 where a position of `x` [B, T, ...] comes before the end of its row, else 0: bool [B, T]."""
    return jnp.arange(x.shape[1]) < lengths[:, None]
