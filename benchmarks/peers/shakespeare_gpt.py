"""`experiments/shakespeare_gpt.py` in PyTorch: nanoGPT's CPU recipe, and its loss over the whole validation split.

PYTHON -m benchmarks.peers.shakespeare_gpt path/to/tinyshakespeare.txt --seed=0 [--compile]
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

LAYERS, WIDTH, HEADS, CONTEXT, BATCH, STEPS, WARMUP = 4, 128, 4, 64, 12, 2000, 100
PEAK, LAST = 2e-3, 2e-4


class Block(nn.Module):
    """Pre-norm attention and MLP without biases."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, bias=False), nn.LayerNorm(width, bias=False)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, T, D] to [B, T, D]."""
        b, t, d = x.shape
        q, k, v = (y.view(b, t, self.heads, -1).transpose(1, 2) for y in self.qkv(self.norm1(x)).split(d, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(b, t, d))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    """GPT-2's architecture with tied embedding, initialised as GPT-2."""

    def __init__(
        self,
        vocab_size: int,
        layers: int = LAYERS,
        width: int = WIDTH,
        heads: int = HEADS,
        context: int = CONTEXT,
    ) -> None:
        super().__init__()
        self.embedding, self.positions = nn.Embedding(vocab_size, width), nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                residual = name.endswith(("out.weight", "down.weight"))
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * layers) if residual else 0.02)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The mean loss of targets int64 [B, T], those below 0 left out."""
        x = self.embedding(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        logits = self.norm(x) @ self.embedding.weight.T
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1)


def learning_rate(step: int) -> float:
    """Linear warm-up, then a cosine down to a tenth."""
    if step < WARMUP:
        return PEAK * (step + 1) / WARMUP
    share = (step - WARMUP) / (STEPS - WARMUP)
    return LAST + (PEAK - LAST) * (1 + math.cos(math.pi * share)) / 2


@torch.no_grad()
def validation_loss(model: nn.Module, data: torch.Tensor) -> float:
    """Nats per character over all of `data`, in windows one after another."""
    starts = range(0, len(data) - 1, CONTEXT)
    total = 0.0
    for group in (starts[i : i + BATCH] for i in range(0, len(starts), BATCH)):
        targets = torch.full((len(group), CONTEXT), -1)
        tokens = torch.zeros((len(group), CONTEXT), dtype=torch.long)
        for row, start in enumerate(group):
            window = data[start : start + CONTEXT + 1]
            tokens[row, : len(window) - 1], targets[row, : len(window) - 1] = window[:-1], window[1:]
        total += float(model(tokens, targets)) * int((targets >= 0).sum())
    return total / (len(data) - 1)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    start = time.perf_counter()
    torch.manual_seed(options.seed)
    text = Path(options.file).read_text()
    characters = sorted(set(text))
    data = torch.tensor([characters.index(c) for c in text])
    train, validation = data[: int(0.9 * len(data))], data[int(0.9 * len(data)) :]
    model = GPT(len(characters))
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=PEAK, betas=(0.9, 0.99))
    run = torch.compile(model) if options.compile else model
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        places = torch.randint(len(train) - CONTEXT, (BATCH,))
        tokens = torch.stack([train[i : i + CONTEXT] for i in places])
        targets = torch.stack([train[i + 1 : i + 1 + CONTEXT] for i in places])
        loss = run(tokens, targets)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 500 == 0:
            figure = validation_loss(run, validation)
    print(json.dumps({"seed": options.seed, "validation": figure, "seconds": round(time.perf_counter() - start, 1)}))


if __name__ == "__main__":
    main()
