"""The parser of commands that take a config."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from seqmix.commands.explain import Explained
from seqmix.errors import ConfigError


class Parser(Explained, LightningArgumentParser):
    """Lightning's parser with errors of two lines."""

    def dump(self, *given: Any, **how: Any) -> str:
        """Write a config as jsonargparse does; it was checked when it was parsed, which takes longer than to write."""
        return super().dump(*given, **{"skip_validation": True, **how})

    def parse_args(self, args: Sequence[str] | None = None, *given: Any, **how: Any) -> Any:
        """Parse as jsonargparse does, which hands the null of a nested option to an inner parser as ``None``."""
        if args is not None and not self.exit_on_error:
            args = [f"{arg[:-4]}null" if arg.endswith("=None") else arg for arg in args]
        try:
            return super().parse_args(args, *given, **how)
        except UnicodeDecodeError as e:
            raise ConfigError(f"a config file is no text, at byte {e.start} ({e.reason}); save it as UTF-8") from e
