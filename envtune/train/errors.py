"""How training ends early, each with a message that says what to do. Needs no torch."""


class Interrupted(KeyboardInterrupt):
    """Training was interrupted; the message says where the same call resumes.

    A notebook shows the message alone.
    """

    def _render_traceback_(self) -> list[str]:  # IPython asks for it
        return [f"Interrupted: {self}"]


class JobFailed(RuntimeError):
    """A launched job ended with an error; the message has its last lines."""


class Collapsed(RuntimeError):
    """The collapse guard ended a stage; the message says by which sign and what can be done."""


class RolledBack(RuntimeError):
    """A stage with vLLM was rolled back and goes on in a new process, which the launcher starts."""


class CannotWrite(OSError):
    """The disk is full; the message says at which step the run goes on."""
