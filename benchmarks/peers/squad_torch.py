"""The PyTorch side of `benchmarks.squad`: transformers' BertForQuestionAnswering on batches that bigjax made.

    python squad_torch.py CHECKPOINT BATCHES.npz LOGITS.npz

BATCHES.npz has the batches as `train_<step>_<key>` and `test_<number>_<key>`, the learning rate of every step, and what
else the recipe says. Weights that the checkpoint lacks are drawn from its seed, as is dropout.
"""

import sys
import time

import numpy as np
import torch
import transformers


def main(checkpoint: str, batches: str, output: str) -> None:
    data = np.load(batches, allow_pickle=False)
    torch.manual_seed(int(data["seed"]))
    dropout = {"hidden_dropout_prob": float(data["dropout"]), "attention_probs_dropout_prob": 0.0}
    model = transformers.BertForQuestionAnswering.from_pretrained(checkpoint, **dropout)
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": float(data["weight_decay"])},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)

    def batch(split: str, number: int) -> dict[str, torch.Tensor]:
        keys = ("tokens", "types", "real", "answerable", "start", "end")
        return {key: torch.from_numpy(data[f"{split}_{number}_{key}"]) for key in keys}

    def logits(batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """[B, T, 2], with no answer where none can be."""
        out = model(batch["tokens"].long(), batch["real"].long(), batch["types"].long())
        both = torch.stack([out.start_logits, out.end_logits], -1)
        return both.masked_fill(~batch["answerable"][..., None], -1e9)

    model.train()
    start = time.perf_counter()
    for step, rate in enumerate(data["rates"].tolist()):
        for group in optimizer.param_groups:
            group["lr"] = rate
        rows = batch("train", step)
        targets = torch.stack([rows["start"], rows["end"]], 1).long()
        loss = torch.nn.functional.cross_entropy(logits(rows), targets)  # over T
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), float(data["clip_norm"]))
        optimizer.step()
        if step % 20 == 0:
            print(
                f"step {step} loss {loss.item():.4f} {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True
            )
    model.eval()
    with torch.no_grad():
        found = {f"logits_{i}": logits(batch("test", i)).numpy() for i in range(int(data["test_batches"]))}
    np.savez(output, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
