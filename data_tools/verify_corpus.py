"""Checks that a corpus on disk agrees with its manifest; a fault names file, pack and byte.

Checking changes nothing. `header` checks sizes, headers and indexes; `crc` also reads every pack;
`full` also hashes every tar.
"""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import cast, get_args

from data_tools.errors import InputError
from data_tools.files import file_sha256, write_file
from data_tools.manifest import MANIFEST_NAME, Manifest, ShardInfo, load_manifest
from data_tools.progress import show_progress
from data_tools.samples.sample_table import SampleMode, load_sample_table
from data_tools.tar_check import REMEDY, REMEDY_IF_MISSING, Fault, Level, check_tar
from data_tools.tar_index import PackLocation, index_path, render_index, scan_tar

_RESTORE_MANIFEST = "restore the manifest from a good copy"


@dataclass(frozen=True, slots=True)
class ShardReport:
    """The faults of one tar and its index."""

    file: str
    faults: tuple[Fault, ...]

    @property
    def state(self) -> str:
        """`intact` or `damaged`; `intact, but …` if only the index is, which can be made again."""
        if not self.faults:
            return "intact"
        of_tar = any(fault.file == self.file for fault in self.faults)
        return "damaged" if of_tar else "intact, but its index is damaged"


@dataclass(frozen=True, slots=True)
class Verification:
    """The faults of a corpus folder; the shards are in the order of the manifest."""

    folder: Path
    level: Level
    manifest: Manifest
    shards: tuple[ShardReport, ...]
    folder_faults: tuple[Fault, ...]
    """Faults of the manifest, the tokenizer, sample tables, and tars that are not listed."""
    seconds: float

    @property
    def faults(self) -> tuple[Fault, ...]:
        """All faults."""
        return (*self.folder_faults, *(fault for shard in self.shards for fault in shard.faults))


@dataclass(frozen=True, slots=True)
class IndexReport:
    """The names of the indexes of a corpus that were made, or were good and left unchanged."""

    made: tuple[str, ...]
    unchanged: tuple[str, ...]
    refused: tuple[str, ...]
    """An error line for each tar that differs from the manifest, so that no index was made."""


def verify_corpus(folder: Path, level: Level = "crc", *, workers: int = 1) -> Verification:
    """Finds every fault of a corpus folder, and changes nothing.

    Args:
        folder: The folder with `manifest.json`.
        level: `header`: sizes, headers of tars and arrays, indexes, the tokenizer's hash. `crc`:
            also every pack's crc32, its document ends and ids. `full`: also the sha256 of every
            tar and of the arrays of sample tables.
        workers: Number of threads; each has one pack in memory.

    Raises:
        InputError: The manifest cannot be read, so nothing else can be checked.
    """
    if level not in get_args(Level):
        raise InputError(f"level {level!r} must be one of {', '.join(get_args(Level))}")
    if workers < 1:
        raise InputError(f"workers {workers} must be at least 1")
    started = time.monotonic()
    manifest = load_manifest(folder)
    lock = threading.Lock()
    with show_progress(f"verifying ({level})", manifest.totals.bytes) as advance:

        def check(info: ShardInfo) -> ShardReport:
            faults = tuple(_check_shard(folder, manifest, info, level))
            with lock:
                advance(info.bytes)
            return ShardReport(info.file, faults)

        with ThreadPoolExecutor(workers) as pool:
            reports = tuple(pool.map(check, manifest.shards))
    faults = (*_check_folder(folder, manifest), *_check_tables(folder, manifest, level))
    return Verification(folder, level, manifest, reports, faults, time.monotonic() - started)


def render_verification(result: Verification) -> Iterator[str]:
    """Renders the lines of a report: the state of each shard; consecutive intact ones share one."""
    yield from (fault.line for fault in result.folder_faults)
    for state, group in groupby(result.shards, key=lambda shard: shard.state):
        shards = list(group)
        if state == "intact" and len(shards) > 1:
            yield f"{shards[0].file} to {shards[-1].file}: {len(shards)} shards intact"
            continue
        for shard in shards:
            yield f"{shard.file}: {state}"
            yield from (f"  {fault.line}" for fault in shard.faults)
    intact = sum(shard.state != "damaged" for shard in result.shards)
    count = len(result.shards)
    megabytes = result.manifest.totals.bytes / 1e6
    seconds = max(result.seconds, 1e-9)
    if result.level == "header":
        rate = f"{count / seconds:,.0f} shards/s"
    else:
        rate = f"{megabytes / seconds:,.0f} MB/s"
    yield (
        f"{result.folder}: {intact} of {count} shards intact at level {result.level}, "
        f"{megabytes:,.1f} MB in {seconds:.2f} s, {rate}"
    )


def summarize_faults(result: Verification) -> str:
    """Renders the last line of a report with faults."""
    damaged = sum(shard.state == "damaged" for shard in result.shards)
    count = len(result.faults)
    return (
        f"{result.folder} has {count} {'fault' if count == 1 else 'faults'}, {damaged} of "
        f"{len(result.shards)} shards damaged: repair them as the lines above say; "
        "the other shards can stay"
    )


def rebuild_indexes(folder: Path, *, everything: bool = False) -> IndexReport:
    """Makes missing and stale indexes of a corpus again from its tars.

    Args:
        folder: The folder with `manifest.json`.
        everything: Whether up-to-date indexes are made again too.

    Raises:
        InputError: The manifest cannot be read.
    """
    made, unchanged, refused = [], [], []
    manifest = load_manifest(folder)
    with show_progress("indexing", manifest.totals.bytes) as advance:
        for info in manifest.shards:
            tar = folder / info.file
            path = index_path(tar)
            try:
                packs = _scan_listed(tar, info)
            except InputError as error:
                refused.append(str(error))
            else:
                content = render_index(packs, sha256=info.sha256)
                if everything or not path.is_file() or path.read_bytes() != content:
                    write_file(path, content)
                    made.append(path.name)
                else:
                    unchanged.append(path.name)
            advance(info.bytes)
    return IndexReport(tuple(made), tuple(unchanged), tuple(refused))


def _scan_listed(tar: Path, info: ShardInfo) -> list[PackLocation]:
    if not tar.is_file():
        raise InputError(f"{tar} is missing, and the manifest lists it: {REMEDY_IF_MISSING}")
    packs = scan_tar(tar)
    found = (tar.stat().st_size, len(packs), sum(pack.num_tokens for pack in packs))
    if found != (info.bytes, info.packs, info.tokens):
        raise InputError(f"{tar} is not the tar that the manifest lists, or damaged: {REMEDY}")
    return packs


def _check_folder(folder: Path, manifest: Manifest) -> Iterator[Fault]:
    names = Counter(shard.file for shard in manifest.shards)
    for name, count in names.items():
        if count > 1:
            yield Fault(MANIFEST_NAME, f"lists {name} {count} times", _RESTORE_MANIFEST)
    for path in sorted(folder.glob("*.tar")):
        if path.name not in names:
            yield Fault(
                path.name, "is not in the manifest", f"move it away, or {_RESTORE_MANIFEST}"
            )
    tokenizer = manifest.tokenizer
    if not 0 <= tokenizer.special.eos < tokenizer.vocab_size:
        what = f"eos {tokenizer.special.eos} is outside the vocabulary of {tokenizer.vocab_size}"
        yield Fault(MANIFEST_NAME, what, _RESTORE_MANIFEST)
    path = folder / tokenizer.file
    remedy = f"restore the one with sha256 {tokenizer.sha256}"
    if not path.is_file():
        yield Fault(tokenizer.file, "is missing", remedy)
    elif file_sha256(path) != tokenizer.sha256:
        yield Fault(tokenizer.file, "is not the tokenizer that wrote this corpus", remedy)


def _check_tables(folder: Path, manifest: Manifest, level: Level) -> Iterator[Fault]:
    for path in sorted((folder / "samples").glob("*-*")):
        mode, _, length = path.name.rpartition("-")
        try:
            table = load_sample_table(
                folder,
                mode=cast(SampleMode, mode),
                sequence_length=int(length),
                corpus_fingerprint=manifest.fingerprint,
            )
            if level == "full":
                table.check_content()
            table.close()
        except ValueError as error:  # An InputError, or a folder of another name.
            remedy = "delete that folder and make it again with `bigtrain data samples`"
            yield Fault(f"samples/{path.name}", str(error), remedy)


def _check_shard(folder: Path, manifest: Manifest, info: ShardInfo, level: Level) -> list[Fault]:
    tar = folder / info.file
    faults: list[Fault] = []
    try:
        faults += check_tar(tar, manifest, info, level)
        is_good = all(fault.file != info.file for fault in faults)
        if level == "full" and is_good and file_sha256(tar) != info.sha256:
            faults.append(Fault(info.file, f"its sha256 is not the manifest's {info.sha256}"))
    except FileNotFoundError:
        faults.append(Fault(info.file, "is missing, and the manifest lists it", REMEDY_IF_MISSING))
    except OSError as error:
        faults.append(Fault(info.file, f"cannot be read ({error.strerror})"))
    return faults
