"""What goes to the Hugging Face hub, and under which name."""

from dataclasses import dataclass

from kdcache.errors import UsageError
from kdcache.settings import Option, check_fields


def _check_repo(name: str) -> None:
    """Raise UsageError unless it is a name on the hub."""
    owner, slash, rest = name.partition("/")
    if not (owner and slash and rest) or "/" in rest or ":" in name:
        raise UsageError(f"A repository is named OWNER/NAME, not {name}.")


@dataclass(frozen=True, slots=True)
class PushConfig:
    """What goes to the Hugging Face hub, and under which name."""

    source: str = Option("Folder of a teacher, student or cache.", metavar="DIR", positional=True).required()
    repo: str = Option("Name of the repository.", metavar="OWNER/NAME", positional=True, test=_check_repo).required()
    public: bool = Option("Make the repository public where it is new.").default(False)

    def check(self) -> None:
        """Raise UsageError if a value is not allowed."""
        check_fields(self)
