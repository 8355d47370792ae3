"""Translation: a source text read whole, its target written token by token."""

import inspect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bigjax.inference.beam import LengthPenalty, search
from bigjax.inference.generate import advance, begin
from bigjax.inference.sampling import GREEDY
from bigjax.models.encoder_decoder import Source
from bigjax.tasks.cross_entropy import cross_entropy
from bigjax.tasks.task import Batch, Sums, Task


@dataclass(frozen=True)
class Translation(Task):
    """Cross-entropy of the target's tokens in training; the model's own translations in evaluation.

    The batch: `source` int32 [B, S], `source_mask` bool [B, S] (false where a token is padding), `inputs` int32 [B, T]
    (the target behind its begin token), `targets` int32 [B, T] (the target and its end token) and `mask` float32 [B, T]
    (1 where a target counts); in evaluation `index` int32 [B] and `stop` int32 [B], the end token, in each row.

    Attributes:
      label_smoothing: epsilon. Trained on is -sum over tokens v of q(v) log p(v), with q(v) = epsilon / V, and
        1 - epsilon more for the right token (Szegedy et al. 2016, section 7; Vaswani et al. 2017 with 0.1). Evaluation
        is without.
      num_beams: above 1, evaluation translates by beam search instead of taking the likeliest token each time.
      length_penalty: alpha of Wu et al. 2016 (equation 14), for beams: a translation of N tokens scores
        log p / ((5 + N) / 6) ** alpha.
      max_new_tokens: where a translation is cut off, its end token included.
      bleu_tokenizer: what words are to BLEU: "13a" as WMT has it; "zh" and "char" for languages without spaces.
    """

    label_smoothing: float = 0.1
    num_beams: int = 1
    length_penalty: float = 0.6
    max_new_tokens: int = 256
    bleu_tokenizer: Literal["13a", "intl", "zh", "char"] = "13a"

    unit: ClassVar[str] = "tokens"
    main_metric: ClassVar[str] = "bleu"
    higher_is_better: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), not {self.label_smoothing}")
        if self.num_beams < 1 or self.max_new_tokens < 1:
            raise ValueError("num_beams and max_new_tokens must be positive")

    @property
    def penalty(self) -> LengthPenalty:
        """What translations of different lengths are compared by."""
        return LengthPenalty(self.length_penalty, offset=5.0)

    def model_arguments(self, info: Mapping[str, Any]) -> dict[str, Any]:
        return {"vocab_size": info["vocab_size"]}

    def check_model(self, model: nnx.Module) -> None:
        if "source_mask" not in inspect.signature(model.__call__).parameters:
            raise ValueError(f"a {type(model).__name__} reads no source with a mask, as an encoder-decoder does")

    def loss(
        self, model: nnx.Module, batch: Batch, carry: None, *, train: bool, rngs: nnx.Rngs | None
    ) -> tuple[Sums, None]:
        logits = model(batch["source"], batch["inputs"], batch["source_mask"], train=train, rngs=rngs)
        targets, mask = batch["targets"], batch["mask"]
        losses = nats = cross_entropy(logits, targets)
        if train and self.label_smoothing:
            of_all = -jax.nn.log_softmax(logits.astype(jnp.float32)).mean(-1)
            losses = (1 - self.label_smoothing) * nats + self.label_smoothing * of_all
        sums = {
            "loss": (losses * mask).sum(),
            "nats": (nats * mask).sum(),
            "correct": ((logits.argmax(-1) == targets) * mask).sum(),
            "weight": mask.sum(),
        }
        return sums, None

    def evaluate(self, model: nnx.Module, batch: Batch, carry: None) -> tuple[Sums, None, dict[str, jax.Array]]:
        sums, _ = self.loss(model, batch, None, train=False, rngs=None)
        return sums, None, {"tokens": self.translate(model, batch)}

    def translate(self, model: nnx.Module, batch: Batch) -> jax.Array:
        """Translations of a batch's sources, int32 [B, max_new_tokens], -1 after the end token."""
        prompts, stop = batch["inputs"][:, :1], batch["stop"][:1]
        lengths = jnp.ones(len(prompts), jnp.int32)
        source = Source(batch["source"], batch["source_mask"])
        if self.num_beams > 1:
            texts, _ = search(model, prompts, lengths, stop, self.max_new_tokens, self.num_beams, self.penalty, source)
            return texts[:, 0]
        state = begin(model, prompts, lengths, self.max_new_tokens, source)
        return advance(model, state, jax.random.key(0), stop, self.max_new_tokens, GREEDY).new

    def metrics(self, sums: Mapping[str, float]) -> dict[str, float]:
        """`loss` in nats, smoothed in training; `perplexity` and `accuracy` of tokens, those before them given."""
        nats = sums["nats"] / sums["weight"]
        return {
            "loss": sums["loss"] / sums["weight"],
            "perplexity": math.exp(min(nats, 700.0)),
            "accuracy": sums["correct"] / sums["weight"],
        }

    def score(self, outputs: Mapping[int, dict[str, np.ndarray]], references: Any) -> dict[str, float]:
        """sacreBLEU's `bleu` (Post 2018) and `chrf` (Popović 2015) of the whole split, 0 to 100.

        There are none of the training split, which keeps no references.
        """
        if references is None:
            return {}
        from sacrebleu.metrics import BLEU, CHRF

        translations = [decoded(outputs[i]["tokens"], references.decode) for i in sorted(outputs)]
        right = [references.texts[i] for i in sorted(outputs)]
        bleu = BLEU(tokenize=self.bleu_tokenizer).corpus_score(translations, [right])
        return {"bleu": bleu.score, "chrf": CHRF().corpus_score(translations, [right]).score}

    def examples(self, model: nnx.Module, batches: Iterable[Batch], info: Mapping[str, Any]) -> dict[str, Any]:
        """20 pairs of middling length with their translations."""
        from sacrebleu.metrics import BLEU

        batches = list(batches)
        batch = batches[len(batches) // 2]
        tokens = jax.jit(self.translate)(model, batch)
        rows: list[list[str]] = []
        sides = jax.device_get((batch["source"], batch["targets"], tokens))
        for number, *texts in zip(jax.device_get(batch["index"]), *sides, strict=True):
            if number >= 0 and len(rows) < 20:
                rows.append([decoded(text, info["decode"]) for text in texts])
        bleu = BLEU(tokenize=self.bleu_tokenizer)
        bleu.corpus_score([row[2] for row in rows], [[row[1] for row in rows]])
        return {
            "kind": "table",
            "columns": ["source", "reference", "translation"],
            "rows": rows,
            "right": [row[1] == row[2] for row in rows],
            "note": f"Those that equal the reference are marked ✓. BLEU is sacreBLEU's {bleu.get_signature()}.",
        }


def decoded(tokens: np.ndarray, decode: Any) -> str:
    """The text of a row of tokens, [N], padding (-1) left out."""
    return decode(tokens[tokens >= 0])
