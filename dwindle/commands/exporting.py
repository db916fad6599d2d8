"""What export takes and does."""

from __future__ import annotations

import argparse
import dataclasses

from dwindle.commands.command import Command, checkpoint_option, json_option, names, trust_options, trusted
from dwindle.export.options import ExportOptions
from dwindle.options import add_options, given
from dwindle.output import print_json, print_result, say, working


def _export_options(to: argparse.ArgumentParser) -> None:
    checkpoint_option(to)
    to.add_argument(
        "--target",
        metavar="TARGETS",
        help="The formats to write, comma-separated: onnx, coreml, executorch, executorch-coreml, litert, mnn or "
        "pytorch. Default: the one that the checkpoint was compressed for.",
    )
    to.add_argument(
        "--delegate",
        metavar="NAME",
        help="What runs ExecuTorch files: xnnpack on the CPU, or coreml, which packs zeros. Default: xnnpack.",
    )
    add_options(to, ExportOptions)
    to.add_argument(
        "--snippet",
        metavar="LANGUAGE",
        help="Print code that runs the file in an app, with its names, shapes and normalisation: python (onnx, "
        "executorch, litert), swift (coreml), kotlin (onnx, executorch, litert) or js (onnx). Default: none.",
    )
    trust_options(to)
    json_option(to)


def _export(arguments: argparse.Namespace) -> int:
    with working("loading PyTorch"):
        from rich.text import Text

        from dwindle.checkpoint import Checkpoint
        from dwindle.export import ExportOptions, export
        from dwindle.export.exporter import made_for
        from dwindle.export.snippet import require_language, snippet
        from dwindle.export.target_options import delegated

    options = ExportOptions(**given(arguments, ExportOptions))
    opened = Checkpoint.load(arguments.net)
    wanted = names(arguments.target) if arguments.target else made_for(opened, options, say)
    targets = delegated(wanted, arguments.delegate)
    if arguments.snippet:
        require_language(arguments.snippet, targets)
    with working("writing the files, and comparing each with its network"):
        made = export(opened, targets, options, trust=trusted(arguments), progress=say)
    written = [(arguments.net / "exports" / each.target / each.file.name, each) for each in made]
    lines = [f"{path}  {each.file.bytes:,} bytes  {each.encoding}" for path, each in written]
    if arguments.snippet:
        say("\n".join(lines))
        print_result(arguments, *(Text(snippet(each, arguments.snippet), no_wrap=True) for each in made))
    else:
        print_result(arguments, *lines)
    if arguments.json:
        print_json([dataclasses.asdict(manifest) for manifest in made])
    return 0


COMMANDS = (
    Command(
        "export",
        "Write the packed files, each proven equal to the checkpoint.",
        _export_options,
        _export,
        (
            "dwindle export net.dwindle --target coreml,onnx",
            "dwindle export net.dwindle --target coreml --snippet swift",
        ),
    ),
)
