"""How large a run is: the paper's settings, and what changes on a laptop or one GPU.

    >>> replace(CPU_TINY, stage_steps=(2, 2, 2, 2))
    >>> memory.check(get("gpu-24gb", model="Qwen/Qwen2.5-7B-Instruct"))   # memory needed and found

With one update per batch (num_iterations 1) the probability ratio is 1, so the clips below never
act; they are the paper's and matter once a batch is used more than once.
"""

import math
from dataclasses import dataclass, field, replace
from typing import get_args, get_origin, get_type_hints

from envtune.bfcl.splits import TASKS
from envtune.bfcl.synthetic import MORE_TRAIN
from envtune.env.episode import TRAINING, Limits
from envtune.policy import agent
from envtune.train.collapse import Guard

VLLM_MODES = ("colocate", "server")
SCALES = ("group", "none")
PARALLEL = ("ddp", "zero3", "fsdp", "cpu")
SHARDED = ("zero3", "fsdp")
"""Of these the ones that spread weights, gradients and optimiser over the processes."""
EPISODE_TOKENS = 24_576
"""The longest episode of stages 3 and 4 in the paper."""
REPORTS = ("tensorboard", "wandb", "trackio")
UNBOUND = ("stage_steps", "keep_tokens", "report_to")
"""Fields that config.json lacks: a stage's own steps are in its entry, the others change no
result."""


@dataclass(frozen=True)
class Preset:
    """Settings of a run besides its curriculum. Defaults are the paper's."""

    name: str = "paper-8x80gb"
    model: str = "Qwen/Qwen2.5-7B-Instruct"
    """A hub id or a folder; "tiny-agent" is the embedded agent (docs/agent.md), "smollm2" the
    model of `make small`."""
    tasks: str = "bfcl"  # trained and validated on: one of splits.TASKS
    compact: bool = False  # tool docs as signatures, for a small context
    max_scenarios: int | None = None  # only so many scenarios, those with the shortest ground truth
    synthetic_scenarios: int | None = None
    """Synthetic scenarios to train on, each in four variants; None: 100, as many as of BFCL."""
    synthetic_requests: int | None = None
    """Requests of the user in every synthetic task, 1 to 4; None: as drawn."""
    stage_steps: tuple[int, ...] = (94, 63, 250, 250)
    """Optimiser steps of each stage [steps]: 20 epochs each, the most that the paper allows."""
    prompts_per_step: int | None = None  # tasks in one optimiser step; None: the stage's own
    generations: int = 16  # rollouts per prompt, the group whose rewards are normalised
    device_batch: int = 1  # sequences in one forward and backward pass of a device
    rollout_batch: int | None = None
    """Episodes that a process plays at once without vLLM, which bounds its keys and values; None:
    all of a step. With vLLM leave it at None: vLLM queues what does not fit."""
    context_tokens: int = 32_768  # opening and completion together; vLLM reserves it [tokens]
    message_tokens: int = 2_048  # longest agent message [tokens]
    completion_tokens: int | None = None  # longest episode after its opening; None: the stage's own
    max_result_chars: int = 20_000
    """How much of one tool result the agent reads [characters]; the cut is marked and counted."""
    max_observation_chars: int = 100_000  # the same for all results of one step [characters]
    steps_per_turn: int = TRAINING.steps_per_turn
    """Steps without an answer in a training turn; the next one ends it (evaluation: 20)."""
    steps_per_episode: int | None = None
    """Steps after which a training episode ends; None: only its turns are limited."""
    learning_rate: float = 1e-6
    warmup_steps: int = 0  # steps over which the learning rate rises from 0 at a stage's start
    beta: float = 0.1  # weight of the KL term to the stage's start (k3 estimator, in the loss)
    epsilon: float = 0.2
    epsilon_high: float = 0.28
    delta: float = 10.0  # upper bound of the ratio on negative advantages (dual clip)
    entropy_coef: float = 0.001
    scale_rewards: str = "group"
    """group: advantages are divided by the group's standard deviation. none: they are not, and the
    reward's scale matters."""
    max_grad_norm: float = 1.0
    temperature: float = 1.0
    bf16: bool = True
    gradient_checkpointing: bool = True
    use_vllm: bool = True
    vllm_mode: str = "colocate"
    """colocate: vLLM on the training GPUs. server: on its own, started as docs/training.md says."""
    vllm_gpu_share: float = 0.5
    """Share of a GPU's memory for a colocated vLLM: its copy of the weights, then keys and values
    [0..1]. `check` says how many full episodes those hold; with fewer than are played, openings are
    read again between waves. Awake while training, half of the GPU is the loss's; asleep, 0.7."""
    vllm_sleep: bool = False
    """Free vLLM's memory while training; slower, as weights are pushed at every rollout."""
    vllm_server: str = ""  # base URL of the server, for vllm_mode "server"
    lora_rank: int | None = None  # LoRA, merged at the end of a stage; None: full fine-tuning
    four_bit: bool = False  # base weights in 4 bits (QLoRA, bitsandbytes NF4)
    processes: int = 1  # GPUs, one process each; more than one are started by `accelerate launch`
    gpu_gib: float = 80.0  # the GPU the preset is made for; used where none is found [GiB]
    parallel: str = "ddp"
    """How processes share the model: ddp, zero3 or fsdp, files of train/accelerate; LoRA takes ddp.
    cpu: several processes without a GPU, for tests."""
    validate_every: int = 10  # optimiser steps between validations; each end of a stage has one too
    validation_tasks: int = 100
    save_every: int = 10  # optimiser steps between checkpoints
    fixed_length: bool = False
    """Train every stage for its stage_steps. Else they are the maximum, and the stage's
    transition rule ends it."""
    guard: Guard = field(default_factory=Guard)  # what counts as a collapse and what happens then
    keep_tokens: bool = False
    """Keep the tokens of every training episode, their mask and log-probabilities, in
    episodes.jsonl.gz, for `envtune.browse`; the file grows several times larger."""
    report_to: tuple[str, ...] = ()  # besides metrics.jsonl: any of tensorboard, wandb, trackio

    def __post_init__(self):
        if problem := self._type_problem() or self._combination_problem() or self._value_problem():
            raise ValueError(f"preset {self.name!r}: {problem}")
        self.training_limits  # noqa: B018 -- Limits checks its own numbers

    def _type_problem(self) -> str | None:
        for name, kind in get_type_hints(Preset).items():
            value = getattr(self, name)
            if get_origin(kind) is tuple:
                inside, fits = get_args(kind)[0], isinstance(value, (tuple, list))
                fits = fits and all(type(one) is inside for one in value)
            else:
                fits = isinstance(value, kind | int if kind is float else kind)
                fits = fits and (kind is bool or not isinstance(value, bool))
            if not fits:
                return f"{name} is of type {getattr(kind, '__name__', kind)}, got {value!r}"
            if isinstance(value, float) and not math.isfinite(value):
                return f"{name} is a finite number, got {value}"
        return None

    def _value_problem(self) -> str | None:
        if len(self.stage_steps) != 4 or any(steps < 0 for steps in self.stage_steps):
            return f"stage_steps holds four counts >= 0, got {self.stage_steps!r}"
        if self.generations < 2:
            return (
                "GRPO compares rollouts of one prompt, generations must be at least 2, got "
                f"{self.generations}"
            )
        if self.beta < 0 or self.learning_rate <= 0:
            return f"beta >= 0 and learning_rate > 0, got {self.beta}, {self.learning_rate}"
        if self.temperature <= 0:
            return f"rollouts are sampled, at a temperature above 0, got {self.temperature}"
        for name, most in (("synthetic_scenarios", len(MORE_TRAIN)), ("synthetic_requests", 4)):
            if (value := getattr(self, name)) is None:
                continue
            if self.tasks == "bfcl":
                return f"{name} is of synthetic tasks, and tasks is 'bfcl'; leave it None"
            if not 1 <= value <= most:
                return f"{name} is between 1 and {most}, got {value}"
        if self.max_result_chars < 1 or self.max_observation_chars < 1:
            return (
                "observation limits are at least 1 character, got "
                f"{self.max_result_chars} per result and {self.max_observation_chars} per step"
            )
        return None

    def _combination_problem(self) -> str | None:
        """Why settings cannot work, or not together, on any machine."""
        if self.four_bit and self.use_vllm:
            return (
                "4-bit weights do not go with vLLM (TRL pushes them packed, trl#4973); set "
                "use_vllm=False, or four_bit=False for bf16 LoRA with vLLM"
            )
        if self.four_bit and not self.lora_rank:
            return "4-bit weights cannot be trained, only adapters on them; set lora_rank"
        if self.four_bit and self.parallel in SHARDED:
            return "4-bit weights are not spread over GPUs here; set parallel='ddp'"
        if self.lora_rank and self.parallel in SHARDED:
            return (
                "adapters are merged by one process at the end of a stage, and parallel="
                f"{self.parallel!r} spreads the weights over all of them; set parallel='ddp', or "
                "lora_rank=None for full fine-tuning"
            )
        choices = {"vllm_mode": VLLM_MODES, "parallel": PARALLEL, "scale_rewards": SCALES}
        for name, allowed in (choices | {"tasks": TASKS}).items():
            if (value := getattr(self, name)) not in allowed:
                return f"{name} is one of {', '.join(allowed)}, got {value!r}"
        if unknown := sorted(set(self.report_to) - set(REPORTS)):
            return f"report_to holds any of {', '.join(REPORTS)}, got {', '.join(unknown)}"
        if self.use_vllm and self.vllm_mode == "server" and not self.vllm_server:
            return "vllm_mode 'server' needs vllm_server, the base URL of a running `vllm serve`"
        if self.use_vllm and self.vllm_mode == "server" and self.vllm_sleep:
            return (
                "a vLLM server has GPUs of its own, so vllm_sleep=True frees nothing that training "
                "could use; set vllm_sleep=False, or vllm_mode='colocate'"
            )
        if self.processes < 1 or not 0 < self.vllm_gpu_share < 1 or (self.rollout_batch or 1) < 1:
            return (
                "processes and rollout_batch are at least 1 and vllm_gpu_share is between 0 and 1, "
                f"got {self.processes}, {self.rollout_batch}, {self.vllm_gpu_share}"
            )
        return None

    @property
    def episode(self) -> dict:
        """What an Episode takes from a preset."""
        fields = ("compact", "max_result_chars", "max_observation_chars")
        return {name: getattr(self, name) for name in fields}

    @property
    def spread(self) -> int:
        """Over how many processes weights, gradients and optimiser are spread; 1: not at all."""
        return self.processes if self.parallel in SHARDED else 1

    @property
    def zero3(self) -> bool:
        """Whether DeepSpeed spreads the weights, and keeps float32 ones in its optimiser."""
        return self.spread > 1 and self.parallel == "zero3"

    @property
    def checkpoints_kept(self) -> int:
        """Checkpoints of a stage in training: the last two, and those that a rollback may go to."""
        return 2 + math.ceil(2 * self.guard.window / max(1, self.save_every))

    @property
    def training_limits(self) -> Limits:
        """The limits of training episodes: the authors' unless a field above changes them."""
        steps = {"steps_per_turn": self.steps_per_turn, "steps_per_episode": self.steps_per_episode}
        limits = replace(TRAINING, **steps)
        return limits if limits == TRAINING else replace(limits, name="training, changed")


PAPER = Preset(processes=8, parallel="zero3", vllm_sleep=True, vllm_gpu_share=0.7)
CPU_TINY = Preset(
    name="cpu-tiny",
    model="tiny-agent",
    tasks="synthetic",
    compact=True,
    stage_steps=(8, 12, 14, 10),
    prompts_per_step=8,
    generations=8,
    device_batch=64,
    message_tokens=agent.MESSAGE_TOKENS,
    completion_tokens=agent.EPISODE_TOKENS,
    max_result_chars=160,
    learning_rate=5e-4,
    beta=0.02,
    warmup_steps=2,
    bf16=False,
    gradient_checkpointing=False,
    use_vllm=False,
    validate_every=10,
    validation_tasks=40,
    save_every=10,
    fixed_length=True,
)
"""The embedded agent on synthetic tasks that it has never seen, in minutes on two cores."""
CPU_STUDY = replace(
    CPU_TINY,
    name="cpu-study",
    stage_steps=(10, 14, 18, 14),
    prompts_per_step=4,
    device_batch=32,
    validate_every=14,
)
"""Half the episodes per step and more steps: as good in less time, so that a study can afford more
seeds (docs/study.md)."""
CPU_SMOKE = replace(
    CPU_TINY,
    name="cpu-smoke",
    stage_steps=(1, 1, 1, 1),
    prompts_per_step=1,
    generations=4,
    device_batch=4,
    completion_tokens=300,
    validation_tasks=4,
    warmup_steps=0,
)
"""The same in seconds a step: does a change run at all? Its numbers mean nothing."""
SMOLLM2 = Preset(
    name="smollm2",
    model="smollm2",
    compact=True,
    max_scenarios=8,
    stage_steps=(20, 20, 20, 20),
    prompts_per_step=4,
    generations=8,
    device_batch=8,
    context_tokens=8_192,
    message_tokens=96,
    completion_tokens=1_536,
    max_result_chars=400,
    max_observation_chars=800,
    learning_rate=1e-4,
    warmup_steps=2,
    bf16=False,
    use_vllm=False,
    lora_rank=16,
    validate_every=10,
    validation_tasks=20,
    save_every=5,
    fixed_length=True,
    gpu_gib=16.0,
)
"""A real language model for a laptop: SmolLM2-135M-Instruct, LoRA, short episodes."""
GPU_80GB = Preset(
    name="gpu-80gb",
    lora_rank=32,
    learning_rate=1e-5,
    prompts_per_step=8,
    generations=8,
    completion_tokens=10_000,
    context_tokens=18_192,
    stage_steps=(60, 80, 120, 120),
)
"""One 80 GB GPU: bf16 LoRA on 7B, vLLM beside the trainer."""
GPU_24GB_VLLM = replace(
    GPU_80GB,
    name="gpu-24gb-vllm",
    model="Qwen/Qwen2.5-1.5B-Instruct",
    compact=True,
    context_tokens=8_192,
    completion_tokens=3_072,
    message_tokens=512,
    gpu_gib=24.0,
    max_result_chars=2_000,
    max_observation_chars=4_000,
)
"""One 24 GB GPU: bf16 LoRA on 1.5B, vLLM beside the trainer."""
GPU_24GB = replace(
    GPU_24GB_VLLM,
    name="gpu-24gb",
    model="Qwen/Qwen2.5-3B-Instruct",
    use_vllm=False,
    four_bit=True,
    rollout_batch=16,
)
"""One 24 GB GPU: 4-bit QLoRA on 3B (7B: model="Qwen/Qwen2.5-7B-Instruct"), without vLLM."""
PRESETS = {
    preset.name: preset
    for preset in (
        CPU_TINY,
        CPU_STUDY,
        CPU_SMOKE,
        SMOLLM2,
        GPU_24GB,
        GPU_24GB_VLLM,
        GPU_80GB,
        PAPER,
    )
}


def get(name: str, **changes) -> Preset:
    """A preset by name with some fields changed. ValueError for an unknown name or field."""
    if name not in PRESETS:
        raise ValueError(f"preset is one of {', '.join(PRESETS)}, got {name!r}")
    unknown = set(changes) - set(Preset.__dataclass_fields__)
    if unknown:
        raise ValueError(
            f"a preset has no field {', '.join(sorted(unknown))}; "
            f"fields: {', '.join(Preset.__dataclass_fields__)}"
        )
    return replace(PRESETS[name], **changes)


def from_dict(kept: dict) -> Preset:
    """A preset from its fields as JSON keeps them.

    Missing fields are those of the preset of the same name. Those in UNBOUND, which config.json
    lacks, may be missing under any name, and are then the defaults. Keys that are no
    field (any more) are left out. ValueError for values that no preset takes, or if other fields
    are missing and no preset has the name.
    """
    base, fields = PRESETS.get(kept.get("name", "")), Preset.__dataclass_fields__
    missing = sorted(set(fields) - set(kept) - set(UNBOUND))
    if base is None and missing:
        raise ValueError(
            f"no preset is named {kept.get('name')!r}, and what was kept of it lacks "
            f"{', '.join(missing)}"
        )
    base = base or Preset()
    given = {name: value for name, value in kept.items() if name in fields}
    given |= {name: tuple(given[name]) for name in ("stage_steps", "report_to") if name in given}
    if "guard" in given:
        known = {k: v for k, v in given["guard"].items() if k in Guard.__dataclass_fields__}
        given["guard"] = replace(base.guard, **known)
    return replace(base, **given)


def choose(
    preset: Preset,
    transition: str = "preset",
    guard: str = "warn",
    report_to: str = "none",
    tasks: str = "preset",
) -> Preset:
    """A preset changed by a notebook's parameters. ValueError for an unknown choice.

    transition: preset, fixed (every stage has its length) or plateau (the rule ends it).
    guard: the collapse guard's action.
    tasks: preset, or one of splits.TASKS.
    """
    lengths = {"preset": preset.fixed_length, "fixed": True, "plateau": False}
    if transition not in lengths:
        raise ValueError(f"transition is one of {', '.join(lengths)}, got {transition!r}")
    return replace(
        preset,
        tasks=preset.tasks if tasks == "preset" else tasks,
        fixed_length=lengths[transition],
        guard=replace(preset.guard, action=guard),
        report_to=() if report_to == "none" else (report_to,),
    )
