"""The user's options for a corpus; with the text and the tokenizer they determine its bytes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from data_tools.errors import InputError
from data_tools.jobs.task_sizes import MIB
from data_tools.reading.documents import ReadOptions
from data_tools.tar_writer import check_name


@dataclass(frozen=True, slots=True)
class ShardOptions:
    """The options of a sharding job.

    Raises:
        InputError: An option is out of range.
    """

    name: str = "tokens"
    """The prefix of the tars' names."""
    folder_glob: str | None = None
    """Which files of a folder are text; None takes every known kind."""
    exclude: Sequence[str] = ()
    """Which files to leave out."""
    validation_percent: float = 0.0
    """Percentage of documents for validation, chosen by content; 0 makes no validation split."""
    task_bytes: int | None = None
    """Input per task, and so per tar; None: chosen from the size of the input."""
    pack_tokens: int = MIB
    """A pack is closed with the document that brings it to this many tokens."""
    seed: int = 0
    """The seed for choosing validation documents and for shuffling."""
    reading: ReadOptions = field(default_factory=ReadOptions)
    """Where the text is in a record, and what to do with invalid records."""
    shuffle: bool = False
    """Puts pieces of 16 MiB of the whole job, then the documents of each task, in random order."""
    sentences: bool = False
    """Also records where sentences start."""

    def __post_init__(self) -> None:
        check_name(self.name)
        percent = self.validation_percent
        if not 0 <= percent < 100:
            raise InputError(f"validation percent {percent} must be from 0 to below 100")
        check_positive("task size", self.task_bytes)
        check_positive("pack", self.pack_tokens)
        check_positive("longest document", self.reading.max_document_bytes)


def check_positive(what: str, value: int | None) -> None:
    """Checks that a number, if it is given, is at least 1.

    Raises:
        InputError: The number is smaller than 1.
    """
    if value is not None and value < 1:
        raise InputError(f"{what} {value} must be at least 1")
