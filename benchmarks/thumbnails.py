"""Small pictures for notebooks/README.md, from published figures, reference runs and runs/.

    $ make thumbnails       # writes notebooks/thumbnails/NN.png; nothing is trained

A notebook whose runs were not made here keeps the picture that is committed.
"""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from envtune import replay
from envtune.common import paths
from envtune.record import COLOURS, OUTCOME_WORDS, EpisodeRecord
from envtune.study import kit
from envtune.train.stages import STAGES

FOLDER = paths.NOTEBOOKS / "thumbnails"
WIDTH = 320
"""Of a picture [pixels]; half of it is shown."""
SHADES = 48
SOURCES = {  # the first that is there
    "00": ("figures/learning/held_out.png",),
    "01": ("runs/data_splits/shape.png",),
    "03": ("figures/hints/coverage.png",),
    "08": ("runs/baselines/methods.png",),
    "09": ("runs/small_llm/dynamics.png",),
    "10": ("runs/evaluation/accuracy.png",),
    "11": ("runs/ood/ood.png",),
    "12": ("figures/findings/stages.png",),
    "13": ("figures/findings/hints.png",),
    "14": ("figures/findings/signal.png",),
    "15": ("figures/findings/kl.png",),
    "16": ("figures/ablations/hint_robustness.png",),
    "17": ("figures/paper/figure7.png",),
    "18": ("figures/findings/errors.png",),
    "19": ("figures/ablations/training_tasks.png",),
    "20": ("runs/change_one_thing/compared.png",),
}


def located(source: str) -> Path:
    """Where a picture of SOURCES lies, also where runs are kept elsewhere."""
    top, _, rest = source.partition("/")
    return {"runs": paths.runs(), "figures": paths.figures()}[top] / rest


def small(picture: Image.Image, name: str) -> None:
    height = round(picture.height * WIDTH / picture.width)
    less = picture.convert("RGB").resize((WIDTH, height), Image.Resampling.LANCZOS)
    less.quantize(SHADES).save(FOLDER / f"{name}.png", optimize=True)


def drawn(fig: Figure, name: str) -> None:
    file = FOLDER / f"{name}.png"
    fig.savefig(file, dpi=100)
    kit.plt.close(fig)
    small(Image.open(file), name)


def episode(record: EpisodeRecord) -> Figure:
    """An episode as a column of its messages: what came of each, and the verdict of a turn."""
    fig, axes = kit.canvas(1, 1, (4, 2.4))
    for i, step in enumerate(record.steps):
        said, kind = OUTCOME_WORDS[step.outcome]
        said += "" if step.verdict is None else f": turn {'won' if step.verdict else 'lost'}"
        axes[0][0].barh(i, 1, color=COLOURS[kind])
        axes[0][0].text(0.03, i, said, va="center", color="white", fontsize=11)
    axes[0][0].invert_yaxis()
    axes[0][0].set_axis_off()
    return fig


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    answer = "<think>x</think><answer>Done.</answer>"
    call = '<think>x</think><tool_call>[{"name": "divide", "arguments": {"a": 692, "b": %d}}]'
    tried = ["Sure!", call % 0 + "</tool_call>", call % 35 + "</tool_call>", answer]
    drawn(episode(replay("synthetic_base_8", tried)), "02")
    runs = sorted((paths.DATA / "reference_runs").glob("cpu_tiny_seed*.parquet"))
    metrics = pd.concat(pd.read_parquet(run).assign(seed=i) for i, run in enumerate(runs))
    for name, stage in zip(("04", "05", "06", "07"), STAGES, strict=True):
        fig, axes = kit.canvas(1, 1, (4, 2.4))
        own = metrics.query("stage == @stage.name")
        column = "format_reward" if stage.reward == "stage1" else "progress"
        kit.panel(axes[0][0], own, column, "stage", legend=False)
        drawn(fig, name)
    for name, sources in SOURCES.items():
        found = next((file for file in map(located, sources) if file.exists()), None)
        if found:
            small(Image.open(found), name)
        else:
            print(f"{name}: none of {', '.join(sources)} is here; its picture stays as it is")
    size = sum(file.stat().st_size for file in FOLDER.glob("*.png"))
    print(f"{len(list(FOLDER.glob('*.png')))} pictures, {size / 1024:.0f} KiB, in {FOLDER.name}/")


if __name__ == "__main__":
    main()
