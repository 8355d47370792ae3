"""BERT (Devlin et al. 2019) and its heads as Hugging Face stores them."""

from collections.abc import Mapping, Sequence
from typing import Any

from bigjax.errors import UserError
from bigjax.models.blocks import mlp_width
from bigjax.pretrained.mapping import LINEAR, Family, Rule, class_count, class_names, require

ENCODER = {
    "attention.self.query": "attention/query",
    "attention.self.key": "attention/key",
    "attention.self.value": "attention/value",
    "attention.output.dense": "attention/out",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "mlp/up",
    "output.dense": "mlp/down",
    "output.LayerNorm": "norm2",
}


def model(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config.model` for their config, without the head."""
    require(config, "hidden_act", "gelu")
    require(config, "position_embedding_type", "absolute")
    require(config, "is_decoder", False)
    require(config, "add_cross_attention", False)
    require(config, "tie_word_embeddings", True)
    return {
        "vocab_size": config["vocab_size"],
        "context": config["max_position_embeddings"],
        "d_model": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": config["num_attention_heads"],
        "d_ff": config["intermediate_size"],
        "num_types": config["type_vocab_size"],
        "norm_epsilon": config.get("layer_norm_eps", 1e-12),
        "dropout": config.get("hidden_dropout_prob", 0.1),
    }


def config(model: Mapping[str, Any]) -> dict[str, Any]:
    """Their config for `config.model`, but for the architecture."""
    return {
        "model_type": "bert",
        "vocab_size": model["vocab_size"],
        "max_position_embeddings": model["context"],
        "hidden_size": model["d_model"],
        "num_hidden_layers": model["num_layers"],
        "num_attention_heads": model["num_heads"],
        "intermediate_size": model["d_ff"] or mlp_width(model["d_model"], "gelu"),
        "type_vocab_size": model["num_types"],
        "hidden_act": "gelu",
        "layer_norm_eps": model["norm_epsilon"],
        "hidden_dropout_prob": model["dropout"],
        "attention_probs_dropout_prob": 0.0,
        **class_names(model["num_classes"] or 2),
    }


def dense(theirs: str, ours: str) -> list[Rule]:
    """A linear layer, or what they call LayerNorm, whose weights were gamma and beta in checkpoints from TensorFlow."""
    if not theirs.endswith("LayerNorm"):
        return [Rule(f"{theirs}.weight", f"{ours}/kernel", LINEAR), Rule(f"{theirs}.bias", f"{ours}/bias")]
    names = (("weight", "scale"), ("bias", "bias"), ("gamma", "scale"), ("beta", "bias"))
    return [Rule(f"{theirs}.{t}", f"{ours}/{o}") for t, o in names]


def encoder(prefix: str) -> list[Rule]:
    """What is below the heads."""
    embeddings = {"word": "embedding", "position": "positions", "token_type": "types"}
    return [
        *(Rule(f"{prefix}embeddings.{t}_embeddings.weight", f"{o}/embedding") for t, o in embeddings.items()),
        *dense(f"{prefix}embeddings.LayerNorm", "norm"),
        *(
            rule
            for theirs, ours in ENCODER.items()
            for rule in dense(f"{prefix}encoder.layer.{{i}}.{theirs}", f"blocks/{{i}}/{ours}")
        ),
    ]


def family(
    architecture: str,
    head: str,
    rules: Sequence[Rule],
    *,
    prefix: str = "bert.",
    unused: tuple[str, ...] = (),
    tied: Mapping[str, str] | None = None,
) -> Family:
    """The encoder with one head.

    Args:
      architecture: its name in config.json.
      head: our model's.
      rules: of what is above the encoder.
      prefix: of the encoder's tensors.
      unused: as `Family` has it; position_ids, which count from 0, are in all old checkpoints.
      tied: likewise.
    """

    def with_head(theirs: Mapping[str, Any]) -> dict[str, Any]:
        count = class_count(theirs)
        if head == "question_answering" and count != 2:
            raise UserError(f"The checkpoint's config.json has {count} labels; answers have two ends.")
        return model(theirs) | {"num_classes": count if head.endswith("classification") else None}

    kind = {"name": "bert", "head": head}
    return Family(
        architecture,
        kind | {"pool": "first"} if head == "sequence_classification" else kind,  # they have no other
        with_head,
        lambda ours: config(ours) | {"architectures": [architecture]},
        lambda _: [*encoder(prefix), *rules],
        unused=(f"{prefix}embeddings.position_ids", *unused),
        tied=tied or {},
        prefix=prefix,
    )


# The pooler is saved with every pre-trained encoder, also for a head that does not look at it.
POOLER = ("bert.pooler.dense.weight", "bert.pooler.dense.bias")
BERT = family("BertModel", "pooler", dense("pooler.dense", "pooler"), prefix="")
BERT_SEQUENCE_CLASSIFICATION = family(
    "BertForSequenceClassification",
    "sequence_classification",
    [*dense("bert.pooler.dense", "pooler"), *dense("classifier", "head")],
)
BERT_TOKEN_CLASSIFICATION = family(
    "BertForTokenClassification", "token_classification", dense("classifier", "head"), unused=POOLER
)
BERT_QUESTION_ANSWERING = family(
    "BertForQuestionAnswering", "question_answering", dense("qa_outputs", "head"), unused=POOLER
)
BERT_MASKED_LM = family(
    "BertForMaskedLM",
    "masked_lm",
    [
        *dense("cls.predictions.transform.dense", "head/transform"),
        *dense("cls.predictions.transform.LayerNorm", "head/norm"),
        Rule("cls.predictions.bias", "head/bias"),
    ],
    unused=(
        *POOLER,
        "cls.predictions.decoder.weight",  # tied to the word embeddings
        "cls.predictions.decoder.bias",  # tied to cls.predictions.bias
        "cls.seq_relationship.weight",  # next sentence prediction, the other half of pre-training
        "cls.seq_relationship.bias",
    ),
    tied={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
)
BERTS = (BERT, BERT_SEQUENCE_CLASSIFICATION, BERT_TOKEN_CLASSIFICATION, BERT_QUESTION_ANSWERING, BERT_MASKED_LM)
