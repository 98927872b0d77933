"""The exceptions for mistakes that the user can mend."""


class UserError(Exception):
    """A mistake in data, a folder or a config. `cli.run` prints its one line, no traceback, and exits with its code."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        line = "\\n".join(message.splitlines())  # a value from a file may have several
        super().__init__(line if len(line) <= 1000 else f"{line[:700]} ... {line[-300:]}")


class ConfigError(UserError):
    """A config's field is out of bounds, or contradicts another."""

    exit_code = 2


class DivergedError(UserError):
    """A run's numbers went wrong: its next steps have no meaning.

    Attributes:
      what: the quantity, the step and the learning rate.
      seed: that of the run.
    """

    def __init__(self, message: str, *, what: str = "", seed: int = 0) -> None:
        super().__init__(message)
        self.what, self.seed = what, seed


class InUseError(UserError):
    """Another process, which still runs, has the folder."""
