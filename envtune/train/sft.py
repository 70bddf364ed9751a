"""Supervised fine-tuning on episodes as text: the baseline on ground-truth trajectories, and the format warm-up of a small model.

    >>> rows = gold_rows(training_tasks(STAGES[3], preset), tokenizer, preset)
    >>> policy = train(rows, preset, start, run_dir, name="sft", seed=0, epochs=3)

TRL's SFTTrainer does the training. The rows are made by the same rollout as GRPO's: ids concatenated and never tokenised again, the
loss on the assistant's tokens alone. Ground truth has calls but no thoughts, so every message thinks the same sentence; the paper's SFT
baseline had trajectories of a stronger model (a departure: those are not published).
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import datasets
import torch
from accelerate import PartialState
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer

from envtune import bfcl
from envtune.env.episode import Episode
from envtune.policy import sampler
from envtune.policy.agent.script import Habits, Script, write
from envtune.policy.rollout import Chat, Rollout
from envtune.train import launch
from envtune.train.grpo import adapters, hand_over
from envtune.train.presets import Preset
from envtune.train.runlog import (
    MetricsLog,
    OnRow,
    full_disk_explained,
    last_good_checkpoint,
    mark_complete,
)

WARM_UP = Habits(skip=0.4, recover=0.4, give_up=0.5, early=0.15, wrong=0.3)
"""The script of a format warm-up: every message well-formed, about half of them right."""


def _row(rollout: Rollout, completion_tokens: int) -> dict[str, list[int]]:
    """input_ids and labels, both as long as the episode, cut at the budget; labels are -100 where the assistant did not write."""
    ids, mask = rollout.completion_ids[:completion_tokens], rollout.mask[:completion_tokens]
    return {
        "input_ids": rollout.prompt_ids + ids,
        "labels": [-100] * len(rollout.prompt_ids)
        + [t if m else -100 for t, m in zip(ids, mask, strict=True)],
    }


def _played(
    episode: Episode, chat: Chat, message: Callable[[Episode], str], budget_tokens: int
) -> Rollout:
    """An episode played by a script, as ids: the same concatenation as in training, the script's tokens in the mask."""
    rollout = Rollout(episode, chat.opening(episode.messages))
    while not episode.done:
        ids = chat.tokenizer(message(episode), add_special_tokens=False)["input_ids"] + [
            chat.eos_id
        ]
        rollout.advance(chat, ids, None, budget_tokens, message_tokens=0)
    return rollout


def gold_message(episode: Episode, fits: Callable[[str], bool]) -> str:
    """As many of the turn's next ground-truth calls as fit one message, at least one; the answer when all are made."""
    made = sum(len(step.calls) for step in episode.record.steps if step.turn == episode.turn)
    left = episode.task.ground_truth[episode.turn][made:]
    for count in range(len(left), 0, -1):
        message = write(
            "The tools do what is asked.",
            "tool_call",
            json.dumps([call._asdict() for call in left[:count]]),
        )
        if fits(message):
            break
    return message if left else write("The work of this turn is done.", "answer", "Done.")


def gold_rows(
    task_ids: Sequence[str],
    tokenizer,
    preset: Preset,
    rules: bool = True,
    completion_tokens: int = 24_576,
) -> list[dict[str, list[int]]]:
    """A row a task: the episode that does what ground truth does, in messages of at most `preset.message_tokens` where a call fits them."""
    chat, budget = Chat(tokenizer), preset.completion_tokens or completion_tokens

    def message(episode: Episode) -> str:
        return gold_message(
            episode,
            lambda text: (
                len(tokenizer(text, add_special_tokens=False)["input_ids"]) < preset.message_tokens
            ),
        )

    return [
        _row(
            _played(
                Episode(bfcl.load_task(t), rules=rules, **preset.episode), chat, message, budget
            ),
            budget,
        )
        for t in task_ids
    ]


def warm_up_rows(
    task_ids: Sequence[str],
    tokenizer,
    preset: Preset,
    count: int,
    seed: int,
    habits: Habits = WARM_UP,
) -> list[dict[str, list[int]]]:
    """`count` rows of scripted episodes, right and wrong calls mixed: they show the format, and that calls may fail."""
    chat, budget = Chat(tokenizer), preset.completion_tokens or 4_096
    rows = []
    for i in range(count):
        episode = Episode(
            bfcl.load_task(task_ids[i % len(task_ids)]),
            hint_rate=0.5,
            seed=seed * 1_000_003 + i,
            rules=bool(i % 2),
            **preset.episode,
        )
        script = Script(habits, seed * 1_000_003 + i)
        rows.append(
            _row(
                _played(episode, chat, lambda e, script=script: script.message(e).text, budget),
                budget,
            )
        )
    return rows


class _Log(TrainerCallback):
    """A line a step into metrics.jsonl, and a seal on every checkpoint."""

    def __init__(self, log: MetricsLog):
        self.log = log

    def on_log(self, args, state, control, logs=None, **_):
        if "loss" in logs:
            self.log.write(
                state.global_step,
                "sft",
                {
                    name: logs[name]
                    for name in ("loss", "grad_norm", "learning_rate")
                    if name in logs
                },
            )

    def on_save(self, args, state, control, **_):
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            mark_complete(Path(args.output_dir) / f"checkpoint-{state.global_step}", 0)


def train(
    rows: Sequence[dict[str, list[int]]],
    preset: Preset,
    start: Path | str,
    run_dir: Path,
    name: str,
    seed: int,
    epochs: float = 3,
    learning_rate: float = 1e-5,
    batch: int = 16,
    on_row: OnRow = lambda line: None,
) -> Path:
    """Fine-tune on the rows and return the folder of the policy, run_dir/name/policy. A run that had ended is not run again; a killed one
    goes on from its last epoch. `batch`: sequences a step. ValueError without a row, or where the preset asks for several processes."""
    if not rows:
        raise ValueError("supervised fine-tuning needs at least one row, got none")
    if preset.processes > 1 and not launch.inside():
        raise ValueError(
            f"supervised fine-tuning runs in one process, and the preset asks for {preset.processes}; set processes=1"
        )
    out = run_dir / name
    if (out / "policy").exists():
        return out / "policy"
    out.mkdir(parents=True, exist_ok=True)
    set_seed(seed)
    at_once = min(preset.device_batch, batch)
    config = SFTConfig(
        output_dir=str(out),
        run_name=f"{run_dir.name}/{name}",
        seed=seed,
        data_seed=seed,
        num_train_epochs=epochs,
        max_length=None,
        per_device_train_batch_size=at_once,
        gradient_accumulation_steps=max(1, batch // at_once),
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=round(0.05 * epochs * len(rows) / batch),
        max_grad_norm=1.0,
        logging_steps=1,
        report_to=list(preset.report_to) or "none",
        disable_tqdm=True,
        save_strategy="epoch",
        save_total_limit=2,
        bf16=preset.bf16,
        gradient_checkpointing=preset.gradient_checkpointing,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=torch.cuda.is_available(),
    )
    with full_disk_explained(out):
        log = MetricsLog(run_dir, name, 0, on_row)
        checkpoint = last_good_checkpoint(out)
        log.resume(int(checkpoint.name.rsplit("-", 1)[1]) if checkpoint else -1)
        model, tokenizer = sampler.load_policy(start, preset.bf16, preset.four_bit)
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=datasets.Dataset.from_list(list(rows)),
            processing_class=tokenizer,
            peft_config=adapters(preset),
            callbacks=[_Log(log)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        hand_over(trainer, tokenizer, start, preset, out / "policy")
    return out / "policy"
