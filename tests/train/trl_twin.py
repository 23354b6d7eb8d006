# SPDX-License-Identifier: Apache-2.0
"""TRL's SFTTrainer on the rows of a run: transformers' ids and masks, TRL's batches and loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

ROWS_A_STEP = 8


def trl_losses(
    work: Path, *, rows: list[list[list[dict[str, str]] | str]], template: str, lr: float
) -> list[float]:
    """The loss of each step of so many rows, from the weights in ``work``/model."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from megacpt.shards.chat.template import BUILTIN

    losses: list[float] = []

    class Recording(SFTTrainer):  # type: ignore[misc]
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            found = super().compute_loss(model, inputs, *args, **kwargs)
            losses.append(float((found[0] if isinstance(found, tuple) else found).detach()))
            return found

    tokenizer = AutoTokenizer.from_pretrained(work / "model")
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = (BUILTIN / f"{template}.jinja").read_text()
    settings = SFTConfig(
        output_dir=str(work / "trl"),
        per_device_train_batch_size=ROWS_A_STEP,
        max_steps=len(rows) // ROWS_A_STEP,
        learning_rate=lr,
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        weight_decay=0.1,
        max_grad_norm=1.0,
        padding_free=True,
        max_length=None,
        assistant_only_loss=False,
        train_sampling_strategy="sequential",
        remove_unused_columns=True,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        disable_tqdm=True,
    )
    trainer = Recording(
        model=AutoModelForCausalLM.from_pretrained(work / "model"),
        args=settings,
        train_dataset=Dataset.from_list([packed(row, tokenizer=tokenizer) for row in rows]),
        processing_class=tokenizer,
    )
    trainer.train()
    return losses


def packed(row: list[list[dict[str, str]] | str], *, tokenizer: Any) -> dict[str, list[int]]:
    """What TRL makes of conversations that it packs, all of a text a target."""
    ids: list[int] = []
    labels: list[int] = []
    lengths: list[int] = []
    for said in row:
        if isinstance(said, str):
            tokens = [*tokenizer(said)["input_ids"], tokenizer.eos_token_id]
            mask = [1] * len(tokens)
        else:
            found = tokenizer.apply_chat_template(
                said, return_dict=True, return_assistant_tokens_mask=True
            )
            tokens, mask = found["input_ids"], found["assistant_masks"]
        ids += tokens
        labels += [token if m else -100 for token, m in zip(tokens, mask, strict=True)]
        lengths.append(len(tokens))
    return {"input_ids": ids, "labels": labels, "seq_lengths": lengths}
