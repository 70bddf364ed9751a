"""An interrupt of training (Ctrl-C, a notebook's stop button, a file `stop`) loses no step.

    $ touch runs/quickstart/stop        # where no key can be pressed: a run in the background

A checkpoint of the last step is written first. Between the optimiser's step and the start of the
next one, no checkpoint can be written: weights may be half updated, the row not logged, the
validation not done. An interrupt that comes there is delayed until then; a second one is not.
"""

import random
import signal
import threading
from pathlib import Path

import numpy as np
import torch
from transformers import TrainerCallback

from envtune.train.runlog import COMPLETE_MARKER


def random_states() -> tuple:
    """The state of every generator that training draws from."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def set_random_states(states: tuple) -> None:
    """Restore what `random_states` gave."""
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    if states[3]:
        torch.cuda.set_rng_state_all(states[3])


STOP = "stop"
"""A file of this name in the run folder interrupts the run after its step, and is removed."""


class Interrupts(TrainerCallback):
    """Delays interrupts while a step is being finished, and keeps the random states of its end."""

    def __init__(self):
        self.states: tuple | None = None  # None while a step is being finished
        self._handler = None  # of SIGINT, before it was replaced
        self._held = False

    def on_step_begin(self, args, state, control, **_):
        self.states = random_states()
        self._let_through()
        stop = Path(args.output_dir).parent / STOP
        if args.world_size == 1 and stop.exists():  # several processes would not agree on a step
            stop.unlink()
            raise KeyboardInterrupt

    def on_train_begin(self, args, state, control, **_):
        if state.is_world_process_zero:  # one that came too late for the last call
            (Path(args.output_dir).parent / STOP).unlink(missing_ok=True)

    def on_pre_optimizer_step(self, args, state, control, **_):
        # a shell lets what it starts in the background ignore interrupts
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        main_thread = threading.current_thread() is threading.main_thread()
        if args.world_size == 1 and main_thread and not ignored:
            self._handler = signal.signal(signal.SIGINT, self._hold)
        self.states = None

    def on_train_end(self, args, state, control, **_):
        self._let_through()

    def _hold(self, *_):
        self._held = True
        self.off()  # the next one passes

    def _let_through(self) -> None:
        self.off()
        if self._held:
            self._held = False
            raise KeyboardInterrupt

    def off(self) -> None:
        """Restore the handler that SIGINT had before."""
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    def save(self, trainer) -> None:
        """Write the checkpoint of the last complete step, unless it exists.

        Not with several processes: each was interrupted at another place.
        """
        step = trainer.state.global_step
        marker = Path(trainer.args.output_dir) / f"checkpoint-{step}" / COMPLETE_MARKER
        if trainer.args.world_size > 1 or self.states is None or step == 0 or marker.exists():
            return
        set_random_states(self.states)
        trainer._save_checkpoint(trainer.model, trial=None)
        # marks it as complete
        trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)
