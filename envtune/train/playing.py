"""Plays tasks with a policy under BFCL's limits, on one of three engines, and keeps every episode.

    >>> records = play("runs/x/stage4_alignment/policy", tasks, presets.CPU_TINY)
    >>> play("my-model", tasks, presets.PAPER, engine="http://localhost:8000/v1", keep=folder)

Engines: "transformers" (our sampler), "vllm" (in a process of its own), or the base URL of a server
with OpenAI's chat API. With vLLM and with a server an episode goes on as soon as its own message is
there.
"""

import json
import math
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, set_seed

from envtune import bfcl
from envtune.common import progress
from envtune.common.files import differences, fingerprint, read_json, read_lines, write_json
from envtune.env.episode import EVALUATION, Episode
from envtune.policy import rollout, sampler, vllm_engine
from envtune.record import Ending, EpisodeRecord
from envtune.train import launch
from envtune.train.errors import Interrupted, JobFailed
from envtune.train.presets import EPISODE_TOKENS, Preset

RETRIES = 8
"""Of a request to a server, with growing pauses (0.5 to 8 s), by the openai package."""
SECONDS = 300
"""How long a server may take for one message."""
Key = tuple[str, int]
"""Task id, repeat."""


@dataclass(frozen=True)
class Settings:
    """What the episodes of an evaluation depend on."""

    policy: str  # folder, hub id, or a server's name for its model
    engine: str
    episode: dict[str, Any]  # for every Episode: rules, hint_rate, compact, observation limits
    temperature: float
    seed: int
    context_tokens: int
    completion_tokens: int
    message_tokens: int
    bf16: bool
    four_bit: bool
    weights: str = ""  # files.fingerprint of the folder, where its episodes are kept

    def episodes(self, keys: Sequence[Key]) -> Iterator[Episode]:
        for task, repeat in keys:
            seed = self.seed + 1_000_003 * repeat
            yield Episode(bfcl.load_task(task), EVALUATION, seed=seed, **self.episode)


def play(
    policy: Path | str,
    task_ids: Sequence[str],
    preset: Preset,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int | None = None,
    engine: str = "",
    hint_rate: float = 0.0,
    repeats: int = 1,
    keep: Path | None = None,
) -> list[EpisodeRecord]:
    """Play every task `repeats` times: records, by repeat and in the order of the tasks.

    temperature: 0 is greedy and repeats exactly (on vLLM up to the rounding of other batches).
        Sampled episodes repeat too, also those played after a kill, but on vLLM not those.
    batch_size: episodes played at once; None: 32 or more by transformers, 16 on a server, on vLLM
        all.
    engine: as above; "" is vLLM where the preset uses it, else transformers.
    hint_rate: share of episodes with hints [0..1]; BFCL has none.
    keep: a folder for the settings and the episodes, each appended as it ends. The same call goes
        on after a kill and plays nothing twice.

    ValueError without a task, for another engine or temperature, or if `keep` has episodes of other
    settings or weights. A server's weights and those of a hub id go by their name alone.
    """
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ValueError(f"temperature is 0 (greedy) or above, got {temperature}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"the seed is between 0 and 2**32 - 1, got {seed}")
    if not task_ids or repeats < 1:
        raise ValueError(
            "evaluation needs at least one task id and one repeat, got "
            f"{len(task_ids)} and {repeats}"
        )
    engine = engine or ("vllm" if preset.use_vllm else "transformers")
    if engine not in ("transformers", "vllm") and not engine.startswith(("http://", "https://")):
        raise ValueError(f"engine is transformers, vllm or a URL (http...), got {engine!r}")
    settings = Settings(
        policy=str(policy),
        engine=engine,
        episode={"rules": True, "hint_rate": hint_rate, **preset.episode},
        temperature=temperature,
        seed=seed,
        context_tokens=preset.context_tokens,
        completion_tokens=preset.completion_tokens or EPISODE_TOKENS,
        message_tokens=preset.message_tokens,
        bf16=preset.bf16,
        four_bit=preset.four_bit,
        weights=fingerprint(Path(policy)) if keep and Path(policy).is_dir() else "",
    )
    keys = [(task, repeat) for repeat in range(repeats) for task in task_ids]
    if batch_size is None:
        many = {"transformers": max(32, preset.device_batch), "vllm": len(keys)}
        batch_size = many.get(engine, 16)
    apart = engine == "vllm" and not launch.inside()
    with tempfile.TemporaryDirectory() if apart and not keep else nullcontext(keep) as where:
        folder = Path(where) if where else None
        found = _kept(folder, settings) if folder else {}
        todo = [key for key in keys if key not in found]
        count = len(keys) - len(todo)
        with progress.bar(len(keys), "evaluating", "task", initial=count) as bar:

            def another(_: Any = None) -> None:
                bar.update()
                progress.report(bar.n, len(keys))

            # Our sampler goes on with the draws of a run that was not killed. On vLLM, and where
            # other tasks were played first, no draw is used twice.
            same = engine == "transformers" and list(found) == keys[:count]
            skip = count if same else 0
            first = same or not found or not todo
            draws = seed if first else _mixed(seed, *todo[0])
            if apart and folder and todo:
                _play_apart(folder, todo, batch_size, draws, another)
                found = _kept(folder, settings)
            else:
                for key, record in _play(settings, todo, batch_size, draws, skip):
                    found[key] = record
                    if folder:
                        _append(folder, key, record)
                    another()
    return [found[key] for key in keys]


def _kept(folder: Path, settings: Settings) -> dict[Key, EpisodeRecord]:
    """The episodes of a folder; its settings are written first. ValueError for other settings."""
    file, now = folder / "settings.json", asdict(settings)
    before = read_json(file)
    if before is None:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(file, now)
    elif changed := differences({"weights": now["weights"], **before}, json.loads(json.dumps(now))):
        raise ValueError(
            f"{folder} has episodes of an evaluation with other settings ({'; '.join(changed)}); "
            "choose another name, or delete the folder"
        )
    return dict(read_kept(folder))


def read_kept(folder: Path) -> Iterator[tuple[Key, EpisodeRecord]]:
    """The episodes that `play` has kept in a folder so far."""
    file = folder / "episodes.jsonl"
    for data in read_lines(file, reopened=True) if file.exists() else ():
        yield (data["task_id"], data["repeat"]), EpisodeRecord.from_dict(data)


def _append(folder: Path, key: Key, record: EpisodeRecord) -> None:
    file, line = folder / "episodes.jsonl", json.dumps({"repeat": key[1], **record.to_dict()})
    with open(file, "ab+") as out:
        # a kill may have left half a line
        if out.tell() and (out.seek(-1, 2), out.read(1))[1] != b"\n":
            out.write(b"\n")
        out.write(line.encode() + b"\n")


def _mixed(*parts) -> int:
    """A seed made from several values, the same in every process."""
    return random.Random(repr(parts)).getrandbits(31)


def _play(settings: Settings, keys: Sequence[Key], at_once: int, draws: int, skip: int = 0):
    """(key, record) of the episodes as they end, in this process.

    draws: the seed of the sampling; skip: how many episodes have drawn from it already.
    """
    set_seed(draws)
    if not keys:
        return
    if settings.engine == "transformers":
        yield from _on_transformers(settings, keys, at_once, skip)
    elif settings.engine == "vllm":
        yield from _on_vllm(settings, keys, at_once, draws)
    else:
        yield from _on_server(settings, keys, at_once)


def _on_transformers(settings: Settings, keys: Sequence[Key], at_once: int, skip: int):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    how = (settings.bf16, settings.four_bit, device)
    model, tokenizer = sampler.load_policy(settings.policy, *how)
    limits = (at_once, settings.completion_tokens, settings.message_tokens, settings.temperature)
    sampler.skip(skip)
    records = rollout.play_policy(model, tokenizer, settings.episodes(keys), *limits)
    del model
    try:
        yield from zip(keys, records, strict=True)
    finally:
        del records
        sampler.free_gpu()


def _on_vllm(settings: Settings, keys: Sequence[Key], at_once: int, draws: int):
    llm = vllm_engine.load(settings.policy, settings.context_tokens, settings.bf16, draws)
    tokenizer = AutoTokenizer.from_pretrained(settings.policy)
    try:
        own = GenerationConfig.from_pretrained(settings.policy)
    except OSError:  # a model without the file
        own = GenerationConfig()
    ends = sampler.end_ids(own, tokenizer)
    limits = (settings.message_tokens, settings.temperature)
    engine, chat = vllm_engine.VLLMEngine(llm, ends, *limits), rollout.Chat(tokenizer, ends)
    limits = (settings.completion_tokens, settings.message_tokens, at_once)
    for number, played in rollout.play_continuously(settings.episodes(keys), chat, engine, *limits):
        yield keys[number], played.record


def _on_server(settings: Settings, keys: Sequence[Key], at_once: int):
    import openai

    key = os.environ.get("OPENAI_API_KEY", "none")  # a server of one's own asks for none
    client = openai.OpenAI(
        base_url=settings.engine, api_key=key, max_retries=RETRIES, timeout=SECONDS
    )
    stopped: list[bool] = []

    def one(episode: Episode, key: Key) -> EpisodeRecord | None:
        messages, opening = list(episode.messages), 0
        while not episode.done and not stopped:
            try:
                answer = client.chat.completions.create(
                    model=settings.policy,
                    messages=messages,  # pyright: ignore[reportArgumentType]  # role, content
                    max_tokens=settings.message_tokens,
                    temperature=settings.temperature,
                    top_p=1.0,
                    seed=_mixed(settings.seed, *key, len(messages)),  # another for each message
                )
            except openai.BadRequestError as error:
                # the server's context is full: this episode ends, the others go on
                if len(messages) < 3 or "context" not in str(error).lower():
                    raise
                episode.abort(Ending.TOKEN_LIMIT)
                break
            if not getattr(answer, "choices", None):
                raise openai.OpenAIError(f"no chat completion, but {str(answer)[:100]!r}")
            text, used = answer.choices[0].message.content or "", answer.usage
            # half of a surrogate pair, which JSON can carry, cannot be sent back
            text = text.encode("utf-8", "replace").decode()
            before, spent = (getattr(used, f"{n}_tokens", None) or 0 for n in ("prompt", "total"))
            reply = episode.step(text)
            if reply is None:
                break
            messages += [
                {"role": "assistant", "content": text},
                {"role": "user", "content": reply},
            ]
            # the reply's own tokens are known only after the next request
            opening = opening or before
            if spent - opening > settings.completion_tokens - settings.message_tokens:
                episode.abort(Ending.TOKEN_LIMIT)
        return episode.record if episode.done else None

    with ThreadPoolExecutor(at_once) as pool:
        jobs = {
            pool.submit(one, episode, key): key
            for key, episode in zip(keys, settings.episodes(keys), strict=True)
        }
        failed: Exception | None = None
        try:
            for job in as_completed(jobs):
                try:
                    if record := job.result():
                        yield jobs[job], record
                except (openai.OpenAIError, json.JSONDecodeError) as error:
                    failed = failed or error
                    stopped.append(True)  # what has ended by now is still kept
        finally:
            stopped.append(True)  # running episodes end with their next message
            client.close()  # and requests at once
            pool.shutdown(cancel_futures=True)
    if failed:
        why = str(failed).rstrip(".")
        raise JobFailed(
            f"{settings.engine} did not answer for {settings.policy}: {why}. Episodes that had "
            "ended are kept where a folder was given; the same call or command goes on"
        ) from failed


def _play_apart(
    folder: Path,
    keys: Sequence[Key],
    at_once: int,
    draws: int,
    on_record: Callable[[Any], None],
) -> None:
    """Play on vLLM in a process of its own, which appends the episodes to the folder."""
    write_json(folder / "todo.json", {"keys": keys, "at_once": at_once, "draws": draws})
    command = [sys.executable, "-m", "envtune", "play", str(folder.resolve())]
    ended = launch.run_job(command, on_record, {}, out=sys.stderr)
    if ended.interrupted:
        raise Interrupted("evaluation was interrupted; the same call goes on where it stood")
    if ended.code:
        raise ended.error or JobFailed(
            f"evaluation on vLLM ended with exit code {ended.code}:\n{ended.last}"
        )


def play_job(folder: Path) -> None:
    """Play what `_play_apart` has written; a line for every episode tells the other process."""
    settings, todo = read_json(folder / "settings.json"), read_json(folder / "todo.json")
    if not settings or not todo:
        raise ValueError(f"{folder} has no settings.json and todo.json, which `evaluate` writes")
    settings = Settings(**settings)
    keys = [(task, repeat) for task, repeat in todo["keys"]]
    for key, record in _play(settings, keys, todo["at_once"], todo["draws"]):
        _append(folder, key, record)
        launch.say(launch.LINE, {"kind": "episode", "task": key[0]})
