"""Pre-training of the agent: competence, then habits. `python -m envtune agent` runs or resumes it.

Competence is learnt from short to long, because copying is learnt only on short, nearly clean
windows: one request without the system prompt, then whole one- and two-turn transcripts, then all.
Habits come last, in a few minutes, from a script that has them.
"""

import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from envtune.common.files import atomic, differences, read_json, write_json
from envtune.policy.agent import data, tokens
from envtune.policy.agent.script import HABITS, STUMBLING, Habits
from envtune.policy.rollout import Chat

MADE_WITH = "made_with.json"
"""The recipe of a part, kept in its folder."""


@dataclass(frozen=True)
class Phase:
    """One part of pre-training."""

    name: str
    episodes: int  # scripted episodes, each seen once
    turns: tuple[int | None, ...]  # user turns of a task, drawn from these; None: as tasks come
    width: int | None  # longest window from a user message on [tokens]; None: whole transcripts
    learning_rate: float  # at the phase's start; it changes linearly, see `_rate`
    habits: Habits = STUMBLING
    learn_all: bool = False  # mistakes are learnt too: the habits
    context: float = 0.0  # weight of the loss on the user's and tools' tokens [0..1]


@dataclass(frozen=True)
class Recipe:
    """How the agent is made. Any change gives another agent."""

    vocabulary: int = 1_500
    hidden: int = 128
    mlp: int = 384
    layers: int = 4
    heads: int = 4
    context_tokens: int = 4_096
    batch_tokens: int = 2_048  # per step and process, with padding; small ones learn copying sooner
    processes: int = 2
    pool: int = 512  # episodes that a process plays at a time and sorts into batches by length
    seed: int = 0
    phases: tuple[Phase, ...] = (
        Phase("one request", 100_000, (1,), 192, 5e-3),
        Phase("two turns", 60_000, (1, 2), None, 3.5e-3),
        Phase("all turns", 40_000, (None,), None, 2.5e-3),
    )
    habit_phases: tuple[Phase, ...] = (
        Phase("habits", 8_000, (None,), None, 1e-3, HABITS, learn_all=True),
    )


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.hidden,
            intermediate_size=recipe.mlp,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=recipe.context_tokens,
            rope_parameters={"rope_type": "default", "rope_theta": 2000.0},
            tie_word_embeddings=True,
            bos_token_id=None,
            # transformers' type of a token id also allows text
            eos_token_id=tokenizer.eos_token_id,  # pyright: ignore[reportArgumentType]
            pad_token_id=tokenizer.pad_token_id,  # pyright: ignore[reportArgumentType]
        )
    )


def pool(
    chat: Chat, phase: Phase, recipe: Recipe, start: int, first: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of a phase's episodes from `start` on: ids and labels (B, L), padded on the right.

    first: the number of episodes in the phases before, so that no task comes twice.
    """
    draw = random.Random(f"{phase.name} {recipe.seed} {start}")
    user, pad = chat.tokenizer.convert_tokens_to_ids("<|user|>"), chat.tokenizer.pad_token_id
    sequences: list[data.Example] = []
    for number in range(first + start, first + start + recipe.pool):
        task = data.task_id(number, draw, draw.choice(phase.turns), prompt=phase.width is None)
        played = data.play(task, chat, phase.habits, number, draw, phase.learn_all)
        sequences += data.windows(played, user, phase.width) if phase.width else [played]
    sequences.sort(key=lambda s: len(s.ids))
    groups, group = [], []
    for sequence in sequences:
        if group and len(sequence.ids) * (len(group) + 1) > recipe.batch_tokens:
            groups.append(group)
            group = []
        group.append(sequence)
    groups.append(group)
    draw.shuffle(groups)
    batches = []
    for group in groups:
        width = max(len(s.ids) for s in group)
        ids = torch.tensor([s.ids + [pad] * (width - len(s.ids)) for s in group])
        labels = torch.tensor([s.labels + [-100] * (width - len(s.labels)) for s in group])
        batches.append((ids, labels))
    return batches


def loss_of(
    model, ids: torch.Tensor, labels: torch.Tensor, pad: int, context: float
) -> tuple[torch.Tensor, float]:
    """(loss, its labelled part): cross-entropy over labelled tokens, plus `context` x the others'.

    No mask is needed, because padding is on the right. Only needed logits are computed.
    """
    hidden = model.model(input_ids=ids, use_cache=False)[0][:, :-1]  # (B, L-1, H)
    kept = labels[:, 1:] != -100
    loss = cross_entropy(model.lm_head(hidden[kept]), labels[:, 1:][kept])
    learnt = loss.item()
    if context:
        said = ~kept & (ids[:, 1:] != pad)
        loss = loss + context * cross_entropy(model.lm_head(hidden[said]), ids[:, 1:][said])
    return loss, learnt


@dataclass
class _State:
    """Where pre-training stands; all of it is in a checkpoint."""

    phase: int = 0
    pools: int = 0  # pools of the phase that are done
    tokens: int = 0
    seconds: float = 0.0


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings and norms.

    After 2.2M tokens of the first phase the loss was 0.47; with AdamW alone it was 0.54.
    """
    inside = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(
            inside, lr=1.0, momentum=0.95, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=1.0, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def tokenizer_of(recipe: Recipe) -> PreTrainedTokenizerFast:
    """The tokenizer, learnt from 1,500 scripted episodes with mistakes of every kind."""
    mishaps = Habits(skip=0.4, recover=0.5, follow=0.8, ask=0.6, wrong=0.1, broken=0.1)
    return tokens.build(data.texts(1_500, mishaps), recipe.vocabulary)


def pretrain(
    recipe: Recipe, folder: Path, phases: Sequence[Phase] | None = None, start: Path | None = None
) -> Path:
    """Train the phases in order and return the model's folder, folder/model. A second call resumes.

    ValueError if the folder was made with other settings.

    `recipe.processes` processes of one thread each share the work; on two cores that is a quarter
    faster than one process of two threads. log.jsonl has the loss, one row per pool.

    start: the model to begin with (the habits' phase starts from competence).
    """
    phases, done = tuple(phases or recipe.phases), folder / "model"
    _agree(recipe, folder, phases, start)
    if not done.exists():
        words = folder / "tokenizer"
        if not words.exists():
            (
                PreTrainedTokenizerFast.from_pretrained(start) if start else tokenizer_of(recipe)
            ).save_pretrained(words)
        with TemporaryDirectory() as rendezvous:
            spawn(
                _train,
                (recipe, folder, phases, start, f"file://{rendezvous}/file"),
                nprocs=recipe.processes,
            )
    return done


def _agree(recipe: Recipe, folder: Path, phases: Sequence[Phase], start: Path | None) -> None:
    """Keep what the folder is made with. ValueError if that was something else.

    A folder of an older version, which does not say, is taken as it is.
    """
    settings = asdict(replace(recipe, phases=tuple(phases), habit_phases=()))
    begun_with = read_json(start.parent / MADE_WITH) if start else None
    now = json.loads(json.dumps({**settings, "start": begun_with}))
    folder.mkdir(parents=True, exist_ok=True)
    before = read_json(folder / MADE_WITH, now)
    if found := differences(_named(before), _named(now)):
        raise ValueError(
            f"{folder} was made with other settings: {'; '.join(found)}. Delete it to make it anew"
        )
    write_json(folder / MADE_WITH, now)


def _named(made: dict) -> dict:
    """The settings of a folder with its phases by name, to be compared."""
    return {**made, "phases": {phase["name"]: phase for phase in made["phases"]}}


def _train(
    rank: int,
    recipe: Recipe,
    folder: Path,
    phases: Sequence[Phase],
    start: Path | None,
    rendezvous: str,
) -> None:
    """One process of pre-training, with pools of its own; gradients are averaged at every step."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=rendezvous, rank=rank, world_size=recipe.processes
    )
    set_seed(recipe.seed)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
    file = folder / "checkpoint.pt"
    model = LlamaForCausalLM.from_pretrained(start) if start else new_model(recipe, tokenizer)
    chat, state, optims = Chat(tokenizer), _State(), optimizers(model)
    if file.exists():
        saved = torch.load(file, weights_only=True)
        model.load_state_dict(saved["model"])
        for optimizer, its in zip(optims, saved["optimizers"], strict=True):
            optimizer.load_state_dict(its)
        state = _State(**saved["state"])
    log = folder / "log.jsonl"
    if rank == 0 and log.exists():  # a kill may have come between a row and its checkpoint
        lines = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        log.write_text(
            "".join(line for line in lines if json.loads(line)["tokens"] <= state.tokens)
        )
    first = [sum(p.episodes for p in phases[:i]) for i in range(len(phases))]
    began = time.monotonic() - state.seconds
    model.train()
    for number in range(state.phase, len(phases)):
        phase, at_once = phases[number], recipe.pool * recipe.processes
        rounds = -(-phase.episodes // at_once)
        bar = tqdm(
            total=rounds * at_once,
            initial=state.pools * at_once,
            desc=phase.name,
            unit="episode",
            mininterval=20,
            ncols=110,
            disable=rank > 0,
        )
        for turn in range(state.pools, rounds):
            batches = pool(chat, phase, recipe, turn * at_once + rank * recipe.pool, first[number])
            count = torch.tensor(len(batches))
            # pools differ by a few batches; every process trains on as many as the smallest has
            distributed.all_reduce(count, distributed.ReduceOp.MIN)
            batches, losses = batches[: int(count)], []
            for i, (ids, labels) in enumerate(batches):
                done, steps = (turn + i / len(batches)) / rounds, i if number == turn == 0 else 50
                rate, pad = _rate(phases, number, done, steps), tokenizer.pad_token_id
                losses.append(_step(model, optims, ids, labels, rate, pad, phase.context))
                state.tokens += ids.numel() * recipe.processes
            state = _State(number, turn + 1, state.tokens, time.monotonic() - began)
            if rank == 0:
                row = {
                    "phase": phase.name,
                    "episodes": (turn + 1) * at_once,
                    "tokens": state.tokens,
                    "seconds": round(state.seconds),
                    "loss": round(sum(losses) / len(losses), 5),
                    "learning_rate": round(rate, 6),
                }
                with open(log, "a") as lines:
                    lines.write(json.dumps(row) + "\n")
                saved = {
                    "model": model.state_dict(),
                    "optimizers": [o.state_dict() for o in optims],
                    "state": asdict(state),
                }
                with atomic(file) as unfinished:
                    torch.save(saved, unfinished)
                bar.set_postfix_str(f"loss {row['loss']:.3f}", refresh=False)
                bar.update(at_once)
        bar.close()
        state = _State(number + 1, 0, state.tokens, state.seconds)
    if rank == 0:
        save(model, tokenizer, folder / "model")
        file.unlink()
    distributed.destroy_process_group()


def _step(
    model,
    optims: Sequence[torch.optim.Optimizer],
    ids: torch.Tensor,
    labels: torch.Tensor,
    rate: float,
    pad: int,
    context: float,
) -> float:
    """One optimiser step on the mean gradient of all processes; the loss of this one's batch."""
    for group in (group for optimizer in optims for group in optimizer.param_groups):
        group["lr"] = rate
    loss, learnt = loss_of(model, ids, labels, pad, context)
    loss.backward()
    gradients = [p.grad for p in model.parameters()]
    together = torch.cat([g.flatten() for g in gradients])
    distributed.all_reduce(together)
    together /= distributed.get_world_size()
    means = together.split([g.numel() for g in gradients])
    for gradient, mean in zip(gradients, means, strict=True):
        gradient.copy_(mean.view_as(gradient))
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    for optimizer in optims:
        optimizer.step()
        optimizer.zero_grad()
    return learnt


def _rate(phases: Sequence[Phase], number: int, done: float, steps: int) -> float:
    """From the phase's rate towards the next one's, the last towards a tenth of its own (linear).

    The first 50 steps are a warm-up.
    """
    here = phases[number].learning_rate
    there = phases[number + 1].learning_rate if number + 1 < len(phases) else here / 10
    return (here + (there - here) * done) * min(1.0, (steps + 1) / 50)


def save(model, tokenizer, folder: Path) -> None:
    with atomic(folder) as unfinished:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
