"""What can be wrong with the bytes of config.json, before there is a configuration."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

from ropewalk.models.defects.finding import Finding
from ropewalk.models.defects.tidy import REPAIR


def encoding_rules(path: Path) -> Iterator[Finding]:
    """Findings about a file that `read_config` has read."""
    with path.open("rb") as stream:
        marked = stream.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8
    if marked:
        yield Finding(
            "byte-order-mark",
            "error",
            f"{path.name} begins with a byte order mark (EF BB BF), as editors on Windows write it: transformers and "
            "most other readers take the file for broken JSON and load nothing",
            f"save it as UTF-8 without the mark; {REPAIR}",
            repairable=True,
        )
