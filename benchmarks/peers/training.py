"""The PyTorch side of `benchmarks.training`: the same models, losses, optimizers and shapes.

PYTHON -m benchmarks.peers.training WORK [--compile]
"""

import argparse
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.peers import cifar10_cnn, shakespeare_gpt
from benchmarks.training import resident, serve
from benchmarks.work import GPU, WORK
from tests.torchvision_models import ResNet

Loss = Callable[[dict[str, torch.Tensor]], torch.Tensor]


def image_loss(model: nn.Module) -> Loss:
    """Cross-entropy of normalised images; convolutions are quicker with channels last."""
    model.to(memory_format=torch.channels_last)

    def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        x = ((batch["image"].float() / 255 - 0.5) / 0.5).permute(0, 3, 1, 2)
        scores = model(x)
        return F.cross_entropy(getattr(scores, "logits", scores), batch["label"].long())

    return loss


class LSTM(nn.Module):
    """Two layers of 650, as "medium" of Zaremba et al. 2014."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(10_000, 650), nn.Linear(650, 10_000)
        self.layers = nn.LSTM(650, 650, 2, batch_first=True)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """[B, T] to [B, T, V]."""
        return self.head(self.layers(self.embedding(tokens))[0])


class Conformer(nn.Module):
    """Conformer-S of transformers' blocks, with the LayerNorm that ours has, behind the paper's subsampling."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        from transformers import Wav2Vec2ConformerConfig
        from transformers.models.wav2vec2_conformer import modeling_wav2vec2_conformer as parts

        config = Wav2Vec2ConformerConfig(
            hidden_size=144,
            num_attention_heads=4,
            intermediate_size=576,
            conv_depthwise_kernel_size=31,
            hidden_act="swish",
            attention_dropout=0.0,
            position_embeddings_type="relative",
            max_source_positions=256,
            attn_implementation="eager",
        )
        self.conv1, self.conv2 = nn.Conv2d(1, 144, 3, 2, 1), nn.Conv2d(144, 144, 3, 2, 1)
        self.out, self.head = nn.Linear(144 * 20, 144), nn.Linear(144, vocab_size)
        self.positions = parts.Wav2Vec2ConformerRelPositionalEmbedding(config)
        self.blocks = nn.ModuleList(parts.Wav2Vec2ConformerEncoderLayer(config) for _ in range(16))
        for block in self.blocks:
            block.conv_module.batch_norm = NormOverChannels(144)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """[B, T, F] to [B, T / 4, V]."""
        x = F.relu(self.conv2(F.relu(self.conv1(features[:, None]))))
        x = F.dropout(self.out(x.transpose(1, 2).flatten(2)), 0.1)
        positions = self.positions(x)
        for block in self.blocks:
            x = block(x, relative_position_embeddings=positions)
            x = x[0] if isinstance(x, tuple) else x
        return self.head(x)


class NormOverChannels(nn.LayerNorm):
    """LayerNorm where channels are the second axis."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, T] to [B, C, T]."""
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def token_loss(model: nn.Module) -> Loss:
    """Cross-entropy of the next token."""
    return lambda batch: F.cross_entropy(model(batch["inputs"].long()).flatten(0, 1), batch["targets"].long().flatten())


def build(name: str, sizes: tuple[int, int, int]) -> tuple[nn.Module, Callable[[nn.Module], Loss]]:
    """A model, and what makes its loss of it or of what `torch.compile` made of it."""
    if name == "cnn":
        return cifar10_cnn.CNN(), image_loss
    if name in ("resnet18", "resnet50"):
        return ResNet(int(name[-2:]), num_classes=1000), image_loss
    if name == "vit_b16":
        from transformers import ViTConfig, ViTForImageClassification

        return ViTForImageClassification(ViTConfig(num_labels=1000, attn_implementation="sdpa")), image_loss
    if name in ("lstm", "lstm_bf16"):
        return LSTM(), token_loss
    if name in ("gpt", "gpt2"):
        shape = {"gpt": (6, 384, 6), "gpt2": (12, 768, 12)}[name]
        model = shakespeare_gpt.GPT(sizes[2], *shape, context=sizes[1])
        return model, lambda model: lambda batch: model(batch["inputs"].long(), batch["targets"].long())
    if name.startswith("bert_base"):
        from transformers import BertConfig, BertForSequenceClassification

        def classified(model: nn.Module) -> Loss:
            return lambda batch: model(batch["tokens"].long(), labels=batch["label"].long()).loss

        config = BertConfig(num_labels=2, attention_probs_dropout_prob=0.0, attn_implementation="sdpa")
        return BertForSequenceClassification(config), classified

    def ctc(model: nn.Module) -> Loss:
        def loss(batch: dict[str, torch.Tensor]) -> torch.Tensor:
            scores = F.log_softmax(model(batch["features"]), -1).transpose(0, 1)
            lengths = torch.full((scores.shape[1],), scores.shape[0])
            return F.ctc_loss(scores, batch["labels"].long(), lengths, batch["label_lengths"].long())

        return loss

    return Conformer(sizes[2]), ctc


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=WORK)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    torch.manual_seed(0)
    work = WORK[options.work]
    device = "cuda" if options.work in GPU else "cpu"
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")  # as XLA has it for what is left in float32
    batch = {key: torch.from_numpy(value).to(device) for key, value in work.data(*work.sizes)[1].items()}
    model, make_loss = build(options.work, work.sizes)
    model.train().to(device)
    settings = work.optimizer
    if settings["name"] == "adamw":
        rate = settings["learning_rate"]
        optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01, fused=True)
    else:
        rate, momentum = settings["learning_rate"], settings.get("momentum", 0)
        optimizer = torch.optim.SGD(model.parameters(), rate, momentum, fused=True)
    loss = make_loss(torch.compile(model) if options.compile else model)

    def run(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16, enabled=work.precision == "bfloat16"):
                value = loss(batch)
            value.backward()
            if "clip_norm" in settings:
                nn.utils.clip_grad_norm_(model.parameters(), settings["clip_norm"])
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    peak = torch.cuda.max_memory_allocated if device == "cuda" else resident
    serve(run, peak, sum(parameter.numel() for parameter in model.parameters()))


if __name__ == "__main__":
    main()
