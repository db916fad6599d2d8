"""What the commands that say what a checkpoint or file is take and do: show, verify, attest and card."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle import streams
from dwindle.commands.command import Command, checkpoint_option, json_option
from dwindle.errors import DwindleError
from dwindle.output import facts, print_json, print_result, say, summary

if TYPE_CHECKING:
    from rich.console import RenderableType


_SUBJECT = "The checkpoint, or a model file of any origin."


def _license_option(to: argparse.ArgumentParser) -> None:
    to.add_argument(
        "--license",
        dest="spdx_license",
        metavar="SPDX",
        help="The model's licence as an SPDX expression, such as Apache-2.0. Default: nothing is said of it.",
    )


def _show_options(to: argparse.ArgumentParser) -> None:
    checkpoint_option(to)
    json_option(to)


def _show(arguments: argparse.Namespace) -> int:
    from rich.text import Text

    from dwindle.checkpoint import Checkpoint
    from dwindle.compress.progress import rounds_table
    from dwindle.export.options import ExportOptions
    from dwindle.layers import layers
    from dwindle.live import layers_table
    from dwindle.options import as_flags, flags
    from dwindle.origin import command_line
    from dwindle.shipped import shipped, shipped_table

    found = Checkpoint.load(arguments.net).require_figures()
    exports, damaged = shipped(found.exports)
    if arguments.json:
        listed = [dataclasses.asdict(export) for export in exports]
        made_by = command_line(found.origin, found.path.name)
        print_json({**facts(found), "command": made_by, "exports": listed, "damaged_exports": damaged})
        return 0
    page: list[RenderableType] = [rounds_table(found.history, found.origin["target"], metric=found.metric)]
    if left := layers(found):
        page += ["", layers_table(left), ""]
    if (found.path / "amc").exists():
        from dwindle.compress.amc.allocate import allocation
        from dwindle.compress.amc.view import result_view

        if searched := allocation(found.path):
            page.append(result_view(searched))
    if found.signature:
        page.append(f"takes and gives: {found.signature}")
    for uncut in found.uncut:
        page.append(f"kept whole: {uncut.channels} of {uncut.of} channels of {uncut.layer}, {uncut.reason}")
    if exports:
        page += ["", shipped_table(exports), ""]
    for export in exports:
        if export.unproven:
            page.append(f"unproven: {export.path.parent.name}/{export.path.name}: {export.unproven}")
        page += [f"parity: {export.path.parent.name}/{export.path.name}: {doubt}" for doubt in export.doubts]
        page += [f"{export.path.parent.name}: {sentence}" for sentence in export.zeros]
        if export.compute:
            page.append(f"computes in {export.compute}: {export.path.parent.name}/{export.path.name}")
        if export.fp32:
            page.append(f"fp32 within {export.path.parent.name}/{export.path.name}: {', '.join(export.fp32)}")
        if export.consumers:
            read = "; ".join(map(str, export.consumers))
            sentence = as_flags(f"{export.path.parent.name}/{export.path.name}: {read}", flags(ExportOptions))
            page.append(f"read by: {sentence}")
    for sentence in (*damaged, *(line for export in exports for line in export.altered)):
        page.append(f"warning: {sentence}")
    page.append(Text(f"made by: {' '.join(command_line(found.origin, found.path.name))}", no_wrap=True))
    print_result(arguments, *page, summary(found))
    return 0


def _verify_options(to: argparse.ArgumentParser) -> None:
    to.add_argument("net", metavar="NET.dwindle|FILE", type=Path, help=_SUBJECT)
    to.add_argument(
        "--attestation",
        dest="attested_by",
        type=Path,
        metavar="FILE.intoto.json",
        help="The attestation of the model file. Default: the one beside it, or in its checkpoint.",
    )
    to.add_argument(
        "--public-key",
        type=Path,
        metavar="KEY.pem",
        help="The public key that attestations must be signed with. Default: none, signatures aren't checked.",
    )
    json_option(to)


def _verify(arguments: argparse.Namespace) -> int:
    from dwindle.verify import verify, verify_table

    found = verify(arguments.net, attested_by=arguments.attested_by, public_key=arguments.public_key)
    print_result(arguments, verify_table(found))
    for note in found.notes:
        say(f"note: {note}")
    if arguments.json:
        print_json({"whole": found.whole, **dataclasses.asdict(found), "path": str(found.path)})
    return 0 if found.whole else DwindleError.exit_code


def _attest_options(to: argparse.ArgumentParser) -> None:
    to.add_argument("nets", metavar="NET.dwindle|FILE", nargs="+", type=Path, help=_SUBJECT)
    to.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="FOLDER",
        help="The folder to write FILE.intoto.json and FILE.cdx.json to. Default: beside the file; attestations/ in "
        "the checkpoint.",
    )
    to.add_argument(
        "--key",
        type=Path,
        metavar="KEY.pem",
        help="The private key to sign with, without a password: Ed25519, ECDSA or RSA. Default: none, it isn't signed.",
    )
    _license_option(to)
    json_option(to)


def _attest(arguments: argparse.Namespace) -> int:
    from dwindle.attest import attest

    written = [
        one
        for net in arguments.nets
        for one in attest(net, arguments.out, key=arguments.key, spdx_license=arguments.spdx_license)
    ]
    print_result(arguments, *(str(path) for path in written))
    if arguments.json:
        print_json([str(path) for path in written])
    return 0


def _card_options(to: argparse.ArgumentParser) -> None:
    to.add_argument("net", metavar="NET.dwindle|FILE", type=Path, help=_SUBJECT)
    to.add_argument(
        "-o", "--out", type=Path, metavar="FILE.md", help="The file to write the card to. Default: standard output."
    )
    _license_option(to)


def _card(arguments: argparse.Namespace) -> int:
    from dwindle.card import card
    from dwindle.checkpoint import require_not_sealed
    from dwindle.files import staged

    text = card(arguments.net, spdx_license=arguments.spdx_license)
    if arguments.out is None:
        streams.print_document(text.rstrip("\n"))
        return 0
    require_not_sealed(arguments.out)
    with staged(arguments.out) as scratch:
        scratch.write_text(text, encoding="utf-8")
    say(f"wrote {arguments.out}")
    return 0


COMMANDS = (
    Command(
        "show",
        "Print what a checkpoint is and how it was made.",
        _show_options,
        _show,
    ),
    Command(
        "verify",
        "Say whether a checkpoint or a model file is whole and signed; exit with 1 if it isn't.",
        _verify_options,
        _verify,
    ),
    Command(
        "attest",
        "Write a bill of materials and a signed statement of how model files came about.",
        _attest_options,
        _attest,
    ),
    Command(
        "card",
        "Print a model card in Markdown, with the front matter of Hugging Face's hub.",
        _card_options,
        _card,
    ),
)
