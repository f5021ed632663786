"""Writing files so that nothing half-written is ever seen."""

import glob
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path

JOURNAL = "MLU_JOURNAL"  # environment variable: a file that takes down, a line each, the path of what was written
ABANDONED_AFTER_S = 3600  # a part that no process has touched for so long was left by one that was killed


def write_atomically(contents: Mapping[Path, bytes]) -> None:
    """Write files that each appear whole or not at all; missing folders are made, existing files are replaced.

    All of them are on disk under temporary names before the first takes its place, so that a full disk or an
    interruption leaves every older file as it was. Parts that a killed run left of the same files are removed.
    """
    parts: dict[Path, Path] = {}
    try:
        for file, content in contents.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            for part in file.parent.glob(f".{glob.escape(file.name)}.*.part"):
                if time.time() - part.stat().st_mtime > ABANDONED_AFTER_S:
                    part.unlink(missing_ok=True)
            parts[file] = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
            with open(parts[file], "xb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
        for file, part in parts.items():
            os.replace(part, file)
        if JOURNAL in os.environ:
            with open(os.environ[JOURNAL], "a", encoding="utf-8") as journal:
                journal.writelines(f"{file.absolute()}\n" for file in parts)
    finally:
        for part in parts.values():
            part.unlink(missing_ok=True)
