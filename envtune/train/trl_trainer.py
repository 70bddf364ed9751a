"""TRL's GRPOTrainer for a stage: its settings, its model and adapters, the policy that it saves.

trainer = stage_trainer(job, log, callbacks)
trainer.train()
hand_over(trainer, trainer.processing_class, job.start, job.preset, job.out / "policy")
"""

import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import datasets
import torch
from accelerate import PartialState
from transformers import PrinterCallback, TrainerCallback
from trl import GRPOConfig  # pyright: ignore[reportPrivateImportUsage]  # no __all__

from envtune.policy import sampler, vllm_engine
from envtune.policy.rollout import Chat
from envtune.train import colocated, lora, trl_rollout
from envtune.train.interrupt import random_states, set_random_states
from envtune.train.launch import Job
from envtune.train.packing import PackedGRPOTrainer
from envtune.train.presets import Preset
from envtune.train.runlog import MetricsLog
from envtune.train.stages import Stage, training_order, training_tasks, validation_tasks


def grpo_config(stage: Stage, preset: Preset, steps: int, out: Path, seed: int) -> GRPOConfig:
    """The paper's optimisation as TRL settings; nearly all differ from TRL's defaults."""
    prompts = preset.prompts_per_step or stage.prompts_per_step
    batch, at_once = prompts * preset.generations, preset.device_batch * preset.processes
    if batch % at_once:
        raise ValueError(
            f"{prompts} prompts x {preset.generations} generations = {batch} rollouts per step do "
            f"not divide into batches of {preset.device_batch} on {preset.processes} device(s); "
            "set device_batch to a divisor"
        )
    vllm = {
        "vllm_mode": preset.vllm_mode,
        "vllm_max_model_length": preset.context_tokens,
        "vllm_gpu_memory_utilization": preset.vllm_gpu_share,
        "vllm_enable_sleep_mode": preset.vllm_sleep,
        "vllm_server_base_url": preset.vllm_server or None,
        "vllm_importance_sampling_mode": "token_mask",
    }
    return GRPOConfig(
        output_dir=str(out),
        run_name=f"{out.parent.name}/{out.name}",
        seed=seed,
        max_steps=steps,
        logging_steps=1,
        report_to=list(preset.report_to) or "none",
        disable_tqdm=True,
        save_steps=preset.save_every,
        save_strategy="steps",  # and after the last step
        save_total_limit=preset.checkpoints_kept,
        eval_strategy="steps",
        eval_steps=preset.validate_every,
        eval_on_start=True,
        per_device_train_batch_size=preset.device_batch,
        gradient_accumulation_steps=batch // at_once,
        # all validation tasks in one rollout
        per_device_eval_batch_size=max(
            preset.device_batch, math.ceil(preset.validation_tasks / preset.processes)
        ),
        num_generations=preset.generations,
        num_generations_eval=1,
        max_completion_length=preset.message_tokens,
        temperature=preset.temperature,
        top_p=1.0,
        top_k=0,
        learning_rate=preset.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=preset.warmup_steps,
        max_grad_norm=preset.max_grad_norm,
        beta=preset.beta,
        epsilon=preset.epsilon,
        epsilon_high=preset.epsilon_high,
        delta=preset.delta,
        loss_type="grpo",
        scale_rewards=preset.scale_rewards,
        entropy_coef=preset.entropy_coef,
        num_iterations=1,
        bf16=preset.bf16,
        use_cpu=not torch.cuda.is_available(),
        gradient_checkpointing=preset.gradient_checkpointing,
        ddp_find_unused_parameters=False,  # every adapter is used in every step
        use_vllm=preset.use_vllm,
        **(vllm if preset.use_vllm else {}),
        dataloader_pin_memory=torch.cuda.is_available(),
        shuffle_dataset=False,
        save_only_model=False,
    )


def float32_masters(preset: Preset) -> bool:
    """Whether weights are kept in float32 and computed with in bf16 (autocast).

    All weights are trained then: in pure bf16 a step of 1e-6 is lost in rounding for 98% of them.
    DeepSpeed keeps float32 masters itself, and accelerate makes them for FSDP.
    """
    return preset.bf16 and not preset.lora_rank and preset.spread == 1


def adapters(preset: Preset):
    """The LoRA adapters of a preset, or None for full fine-tuning."""
    if not preset.lora_rank:
        return None
    from peft import LoraConfig

    return LoraConfig(
        r=preset.lora_rank,
        lora_alpha=2 * preset.lora_rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def adapters_in_float32(model) -> None:
    """Undo TRL's cast of adapters on 4-bit weights to bf16, where small steps round to nothing."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


class StageTrainer(PackedGRPOTrainer):
    """TRL's trainer. Validations only play episodes, and do not affect training's random state."""

    play: trl_rollout.TRLRollout

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Play the episodes of a validation, without the forward passes of a loss."""
        if self.use_vllm and self.state.global_step != self._last_loaded_step:
            self.vllm_generation.sync_weights()
            self._last_loaded_step = self.state.global_step
        with torch.no_grad():
            played = self.play([row["prompt"] for row in inputs], self)
        for name in ("reward", *trl_rollout.REPORTED):
            values = played["episode_reward" if name == "reward" else name]
            here = torch.tensor(values, dtype=torch.float32, device=self.accelerator.device)
            everywhere: Any = self.accelerator.gather(here)
            self._metrics["eval"][name].append(everywhere.mean().item())
        return None, None, None

    def evaluate(self, *args, **kwargs):
        states = random_states()
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            set_random_states(states)

    def _issue_warnings_after_load(self, load_result):
        # tied weights are saved once, under their other name
        tied = self.model.all_tied_weights_keys  # pyright: ignore[reportOptionalMemberAccess]
        load_result.missing_keys[:] = [key for key in load_result.missing_keys if key not in tied]
        super()._issue_warnings_after_load(load_result)


def stage_trainer(job: Job, log: MetricsLog, callbacks: list[TrainerCallback]) -> StageTrainer:
    """The trainer of a stage, before its first step."""
    stage, preset, seed = job.stage, job.preset, job.seed
    config = grpo_config(stage, preset, job.steps, job.out, seed)
    drawn = job.steps * (preset.prompts_per_step or stage.prompts_per_step)
    bf16 = preset.bf16 and not float32_masters(preset)
    model, tokenizer = sampler.load_policy(job.start, bf16, preset.four_bit)
    chat = Chat(tokenizer, sampler.end_ids(model.generation_config, tokenizer))
    play = trl_rollout.TRLRollout(chat, stage, preset, seed, log.on_records)

    def rows(task_ids) -> datasets.Dataset:
        return datasets.Dataset.from_list([{"prompt": trl_rollout.prompt_row(t)} for t in task_ids])

    # the tests pin the part of TRL's experimental interface that is used here
    warnings.filterwarnings("ignore", message="You are using 'rollout_func'")
    with colocated.engine_settings(**vllm_engine.settings(preset.bf16, seed)):
        trainer = StageTrainer(
            model=model,
            processing_class=tokenizer,
            reward_funcs=trl_rollout.episode_reward,
            args=config,
            peft_config=adapters(preset),
            train_dataset=rows(training_order(training_tasks(stage, preset), drawn, seed)),
            eval_dataset=rows(validation_tasks(preset)),
            rollout_func=play,
            callbacks=callbacks,
        )
    trainer.play = play
    if preset.four_bit:
        adapters_in_float32(trainer.model)
    trainer.remove_callback(PrinterCallback)  # it would print every row between the progress bars
    return trainer


def hand_over(trainer, tokenizer, start: Path | str, preset: Preset, folder: Path) -> None:
    """Save the policy atomically, with adapters merged into the weights that it started from.

    The next stage starts here, and its KL is measured to here. The adapters are kept beside it.
    """
    unfinished = folder.with_name(folder.name + ".unfinished")
    if PartialState().is_main_process:
        shutil.rmtree(unfinished, ignore_errors=True)
    PartialState().wait_for_everyone()
    trainer.save_model(str(unfinished))  # gathers weights that are spread over processes
    if PartialState().is_main_process:
        if preset.lora_rank:
            from peft import PeftModel

            kept = folder.with_name("adapters")
            shutil.rmtree(kept, ignore_errors=True)
            unfinished.rename(kept)
            # not the 4-bit weights: merging into those would round the adapters away
            base, _ = sampler.load_policy(start, preset.bf16)
            lora.merged(PeftModel.from_pretrained(base, kept)).save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        unfinished.rename(folder)
    PartialState().wait_for_everyone()
