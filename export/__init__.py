"""Export: files that phone runtimes load, their sparsity packed, each proven equal to the checkpoint it came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

if __name__ != "dwindle.export":  # found from the repository's root, where this folder lies
    raise ImportError("this folder is the package `dwindle.export`: write `import dwindle.export`")

from dwindle.lazy import lazy_attributes

if TYPE_CHECKING:
    from dwindle.export.exporter import export
    from dwindle.export.options import ExportOptions

__all__ = ["ExportOptions", "export"]
__getattr__ = lazy_attributes(
    __name__, {"ExportOptions": "dwindle.export.options", "export": "dwindle.export.exporter"}
)
