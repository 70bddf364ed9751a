"""Supervised fine-tuning: the baseline on ground truth, and the format warm-up of a small model.

    >>> rows = gold_rows(training_tasks(STAGES[3], preset), tokenizer, preset)
    >>> policy = train(rows, preset, start, run_dir, name="sft", seed=0, epochs=3)

TRL's SFTTrainer trains. The rows are made by the same rollout as GRPO's: ids are concatenated and
never tokenised again, the loss is on the assistant's tokens alone. Ground truth has calls but no
thoughts, so every thought is the same sentence. Departure from the paper: its SFT baseline had
trajectories of a stronger model, which are not published.

The embedded agent knows the format; a model such as SmolLM2 learns it first by `warm_up_rows`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path

import datasets
import torch
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]  # no __all__

from envtune import bfcl
from envtune.common.files import differences, read_json, write_json
from envtune.env.episode import Episode
from envtune.policy import sampler
from envtune.policy.agent.script import Habits, Script, write
from envtune.policy.rollout import Chat, Rollout
from envtune.train import launch, presets, runconfig
from envtune.train.metrics import OnRow
from envtune.train.presets import EPISODE_TOKENS, Preset
from envtune.train.runlog import (
    MetricsLog,
    checkpoint_step,
    full_disk_explained,
    last_good_checkpoint,
    mark_saved,
)
from envtune.train.trl_trainer import (
    adapters,
    adapters_in_float32,
    float32_masters,
    hand_over,
)

WARM_UP = Habits(skip=0.4, recover=0.4, give_up=0.5, early=0.15, wrong=0.3)
"""The script of a format warm-up: every message well-formed, about half of them right."""


def _played(
    episode: Episode, chat: Chat, message: Callable[[Episode], str], budget_tokens: int
) -> dict[str, list[int]]:
    """input_ids and labels of an episode played by a script, cut at the budget.

    Its messages are what is learned; the labels of others' tokens are -100.
    """
    rollout = Rollout(episode, chat.opening(episode.messages))
    while not episode.done:
        ids = chat.written(message(episode))
        rollout.advance(chat, ids, None, budget_tokens, message_tokens=0)
    ids, mask = rollout.completion_ids[:budget_tokens], rollout.mask[:budget_tokens]
    labels = [token if own else -100 for token, own in zip(ids, mask, strict=True)]
    prompt = rollout.prompt_ids
    return {"input_ids": prompt + ids, "labels": [-100] * len(prompt) + labels}


def gold_message(episode: Episode, chat: Chat, most_tokens: int) -> str:
    """As many of the turn's next ground-truth calls as fit, at least one; then the answer."""
    made = sum(len(step.calls) for step in episode.record.steps if step.turn == episode.turn)
    left = episode.task.ground_truth[episode.turn][made:]
    for count in range(len(left), 0, -1):
        calls = json.dumps([call._asdict() for call in left[:count]])
        message = write("The tools do what is asked.", "tool_call", calls)
        if len(chat.written(message)) <= most_tokens:
            break
    return message if left else write("The work of this turn is done.", "answer", "Done.")


def gold_rows(task_ids: Sequence[str], tokenizer, preset: Preset) -> list[dict[str, list[int]]]:
    """One row per task: the episode that makes ground truth's calls.

    Messages have at most `preset.message_tokens`, unless a single call is longer.
    """
    chat, budget = Chat(tokenizer), preset.completion_tokens or EPISODE_TOKENS

    def message(episode: Episode) -> str:
        return gold_message(episode, chat, preset.message_tokens)

    episodes = (Episode(bfcl.load_task(t), rules=True, **preset.episode) for t in task_ids)
    return [_played(episode, chat, message, budget) for episode in episodes]


def warm_up_rows(
    task_ids: Sequence[str], tokenizer, preset: Preset, count: int, seed: int
) -> list[dict[str, list[int]]]:
    """`count` rows of scripted episodes with right and wrong calls, all well-formed."""
    chat, budget = Chat(tokenizer), preset.completion_tokens or 4_096
    rows = []
    for i in range(count):
        task, own_seed = bfcl.load_task(task_ids[i % len(task_ids)]), seed * 1_000_003 + i
        settings = {"rules": bool(i % 2), **preset.episode}
        episode = Episode(task, hint_rate=0.5, seed=own_seed, **settings)
        script = Script(WARM_UP, own_seed)
        rows.append(_played(episode, chat, lambda e, s=script: s.message(e).text, budget))
    return rows


class _Log(TrainerCallback):
    """Writes a row per step into metrics.jsonl and marks checkpoints as complete."""

    def __init__(self, log: MetricsLog):
        self.log = log

    def on_log(self, args, state, control, logs, **_):
        if "loss" in logs:
            names = ("loss", "grad_norm", "learning_rate")
            values = {name: logs[name] for name in names if name in logs}
            self.log.write(state.global_step, "sft", values)

    def on_save(self, args, state, control, **_):
        mark_saved(args, state)


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
    """Fine-tune on the rows and return the folder of the policy, run_dir/name/policy.

    A finished run is not run again; a killed one resumes at its last epoch. `batch`: sequences per
    step. ValueError without a row, if the preset has several processes, or if the folder was
    trained with other settings.
    """
    if not rows:
        raise ValueError("supervised fine-tuning needs at least one row, got none")
    if preset.processes > 1 and not launch.inside():
        raise ValueError(
            "supervised fine-tuning runs in one process, and the preset asks for "
            f"{preset.processes}; set processes=1"
        )
    out = run_dir / name
    settings = {
        "rows": sha256(json.dumps(list(rows)).encode()).hexdigest()[:12],
        "start": runconfig.portable(start, run_dir),
        "preset": {k: v for k, v in asdict(preset).items() if k not in (*presets.UNBOUND, "model")},
        "seed": seed,
        "epochs": epochs,
        "learning_rate": learning_rate,
        "batch": batch,
    }
    settings = json.loads(json.dumps(settings))
    before = read_json(out / "settings.json", settings)
    if changed := differences(before, settings):
        raise ValueError(
            f"{out} was trained with other settings ({'; '.join(changed)}); choose another name, "
            "or delete it"
        )
    if (out / "policy").exists():
        return out / "policy"
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "settings.json", settings)
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
        log.resume(checkpoint_step(checkpoint) if checkpoint else -1)
        bf16 = preset.bf16 and not float32_masters(preset)
        model, tokenizer = sampler.load_policy(start, bf16, preset.four_bit)
        trainer = SFTTrainer(
            model=model,
            args=config,
            train_dataset=datasets.Dataset.from_list(list(rows)),
            processing_class=tokenizer,
            peft_config=adapters(preset),
            callbacks=[_Log(log)],
        )
        if preset.four_bit:
            adapters_in_float32(trainer.model)
        trainer.remove_callback(PrinterCallback)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        hand_over(trainer, tokenizer, start, preset, out / "policy")
    del trainer, model
    sampler.free_gpu()
    return out / "policy"
