"""The exceptions for mistakes that the user can mend."""


class UserError(Exception):
    """A mistake in what the user gave: data, a folder, a config.

    Its message is one line that names the thing, the value found and what would be right. `cli.run` prints it
    without a traceback and exits with `exit_code`.
    """

    exit_code = 1


class ConfigError(UserError):
    """A config's field is out of bounds, or contradicts another."""

    exit_code = 2


class DivergedError(UserError):
    """A run's numbers went wrong: its next steps have no meaning."""


class InUseError(UserError):
    """Another process, which still runs, has the folder."""
