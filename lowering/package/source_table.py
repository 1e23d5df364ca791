"""The table in a package that leads from any MIL op back to the user's source line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from frontend.json_text import parse
from frontend.source import Source
from lowering.package.metadata_entry import reading

SOURCES_KEY = "com.ane-passes.sources"
_FORM = 'JSON {"operator": {"module", "line", "passes"}}'


@dataclass(frozen=True)
class SourceTable:
    """Origin of each FX node of the converted program, and of MIL ops not named after theirs.

    Attributes:
        entries: FX node name, or name of a MIL op, to its origin.
    """

    entries: Mapping[str, Source] = field(default_factory=dict)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> SourceTable:
        """The table stored in a package's user-defined metadata; empty when there is none.

        Raises:
            PackageError: the table is damaged.
        """
        with reading(SOURCES_KEY, "table of source lines", _FORM):
            raw = parse(metadata.get(SOURCES_KEY, "{}"))
            return cls({str(name): _source(entry) for name, entry in raw.items()})

    def to_metadata(self) -> str:
        """JSON ``{name: {"module", "line", "passes"}}``; empty fields are left out."""
        raw = {
            name: {
                key: value
                for key, value in (
                    ("module", source.module),
                    ("line", source.line),
                    ("passes", list(source.passes)),
                )
                if value
            }
            for name, source in self.entries.items()
        }
        return json.dumps(raw, ensure_ascii=False, separators=(",", ":"), sort_keys=True)

    def key_of(self, mil_name: str) -> str | None:
        """The entry whose name is ``mil_name`` or its longest prefix ending before a ``_``."""
        name = mil_name
        while name:
            if name in self.entries:
                return name
            name = name.rpartition("_")[0]
        return None

    def lookup(self, mil_name: str) -> Source:
        """Origin of the MIL op or value ``mil_name``; an empty ``Source`` when unknown."""
        key = self.key_of(mil_name)
        return Source() if key is None else self.entries[key]


def _source(entry: Mapping[str, object]) -> Source:
    """One entry of the table; a ``TypeError`` for another form."""
    module, line, names = entry.get("module", ""), entry.get("line", ""), entry.get("passes", [])
    if not isinstance(module, str) or not isinstance(line, str) or not isinstance(names, list):
        raise TypeError(f"{entry!r:.80}")
    return Source(module, line, tuple(map(str, names)))
