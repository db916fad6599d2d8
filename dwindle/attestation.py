"""An attestation: an in-toto statement about a model file, in an envelope that may be signed, read and checked offline.

The statement names the SHA-256 of every file that belongs to the model (a package is a folder of them) and says in its
predicate how the model came about (`dwindle.lineage`). The envelope is a DSSE, so that other tools can check it too.
Formats: https://github.com/in-toto/attestation/tree/main/spec/v1 and https://github.com/secure-systems-lab/dsse.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from dwindle.documents import read
from dwindle.errors import DwindleError, UsageError, one_line
from dwindle.files import sha256, walk, write_json

if TYPE_CHECKING:
    from securesystemslib.signer import SSlibKey

SUFFIX = ".intoto.json"
"""What is added to a file's name for its attestation."""
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "urn:dwindle:lineage:v1"
_REMEDY = "attest the file again"


@dataclass(frozen=True)
class Attestation:
    """What an attestation says, and who signed it; nothing of it is checked yet."""

    path: Path
    name: str
    """What the model's file or package was called."""
    digests: Mapping[str, str]
    """The SHA-256 of each file by its path from the model's folder on."""
    predicate: Mapping[str, Any]
    envelope: Mapping[str, Any]

    def own(self, file: str) -> bool:
        """Whether a file of `digests` is the model's file, or within its package, and not beside it."""
        return file == self.name or file.startswith(f"{self.name}/")

    @property
    def signers(self) -> tuple[str, ...]:
        """The identifiers of the keys that signed it."""
        return tuple(str(one["keyid"]) for one in self.envelope["signatures"])


def digests(path: Path, beside: Iterable[str] = ()) -> dict[str, str]:
    """The SHA-256 of a model file, of each file of a package, and of files `beside` it, by their paths from its folder
    on."""
    files = [*walk(path), *(path.parent / name for name in beside)]
    return {file.relative_to(path.parent).as_posix(): sha256(file) for file in files}


def write(to: Path, name: str, hashes: Mapping[str, str], predicate: Mapping[str, Any], key: Path | None) -> None:
    """Writes an attestation of the files with these hashes; with a private key (PEM: Ed25519, ECDSA or RSA), signed.

    name: the model's file or package. Raises UsageError for a key that can't be used.
    """
    statement = {
        "_type": _STATEMENT,
        "subject": [{"name": file, "digest": {"sha256": digest}} for file, digest in hashes.items()],
        "predicateType": _PREDICATE,
        "predicate": {"name": name, **predicate},
    }
    payload = json.dumps(statement, sort_keys=True, allow_nan=False).encode()
    write_json(to, _signed(payload, key) if key else _envelope(payload))


def read_attestation(path: Path) -> Attestation:
    """Reads an attestation without checking anything that it says.

    Raises DwindleError for a damaged one, or one that isn't about a model file.
    """
    envelope = read(path, _REMEDY)
    try:
        payload = json.loads(base64.b64decode(envelope["payload"], validate=True))
        if (envelope["payloadType"], payload["_type"], payload["predicateType"]) != (_PAYLOAD, _STATEMENT, _PREDICATE):
            raise ValueError("it is about something else")
        hashes = {str(one["name"]): str(one["digest"]["sha256"]) for one in payload["subject"]}
        predicate = dict(payload["predicate"])
        found = Attestation(path, str(predicate["name"]), hashes, predicate, envelope)
        if not hashes or any(not _inside(name) for name in (*hashes, found.name)):
            raise ValueError("it names files that lie elsewhere")
        _ = found.signers, [base64.b64decode(one["sig"], validate=True) for one in envelope["signatures"]]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
        message = f"{path} is no attestation that dwindle writes ({one_line(error)}): {_REMEDY}"
        raise DwindleError(message, code="damaged", path=path) from error
    return found


def altered(found: Attestation, path: Path) -> str | None:
    """A sentence about how the model at `path` differs from the one that was attested; None where it doesn't."""
    try:
        now = digests(path)
    except OSError as error:
        return f"{path} can't be read: {error.strerror}"
    ours = {path.name + name.removeprefix(found.name): sha for name, sha in found.digests.items() if found.own(name)}
    for name in dict.fromkeys((*ours, *now)):
        if name not in now:
            return f"{path.parent / name} was attested and is missing"
        if name not in ours:
            return f"{path.parent / name} is not among the files that were attested"
        if now[name] != ours[name]:
            hashes = f"its SHA-256 is {now[name][:12]}…, and that of the attested one {ours[name][:12]}…"
            return f"{path.parent / name} is not the file that was attested: {hashes}"
    return None


def beside(found: Attestation, path: Path) -> dict[str, str | None]:
    """A sentence on each further file that was attested and isn't the same beside the model, or None where it is."""
    sentences: dict[str, str | None] = {}
    for name, digest in found.digests.items():
        if found.own(name):
            continue
        file = path.parent / name
        if not file.is_file():
            sentences[name] = f"{file} was attested and is missing"
        else:
            sentences[name] = None if sha256(file) == digest else f"{file} is not the file that was attested"
    return sentences


def unsigned(found: Attestation, key: Path) -> str | None:
    """A sentence on why an attestation doesn't count as signed by the owner of a public key (PEM); None where it does.

    Raises UsageError for a key that can't be used.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError

    public = _public(key)
    if not found.signers:
        return f"{found.path} is not signed"
    if public.keyid not in found.signers:
        return f"{found.path} is not signed with the key {key}, but with {found.signers[0][:12]}…"
    try:
        Envelope.from_dict(json.loads(json.dumps(found.envelope))).verify([public], 1)
    except (VerificationError, ValueError, LookupError) as _:
        return f"the signature in {found.path} is over other bytes: it was changed after it was signed"
    return None


def _inside(name: str) -> bool:
    """Whether a name is that of a file at or below the model's own folder."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\\" not in name and ":" not in parts[0]


def _envelope(payload: bytes) -> dict[str, Any]:
    return {"payload": base64.b64encode(payload).decode(), "payloadType": _PAYLOAD, "signatures": []}


def _signed(payload: bytes, key: Path) -> dict[str, Any]:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner

    try:
        signer = CryptoSigner(load_pem_private_key(key.read_bytes(), None))
    except (OSError, ValueError, TypeError) as error:
        raise _no_key(key, "private", error) from error
    envelope = Envelope(payload, _PAYLOAD, {})
    envelope.sign(signer)
    return dict(envelope.to_dict())


def _public(key: Path) -> SSlibKey:
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    try:
        return SSlibKey.from_crypto(load_pem_public_key(key.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise _no_key(key, "public", error) from error


def _no_key(key: Path, kind: str, error: Exception) -> UsageError:
    message = f"{key} is no {kind} key in PEM without a password ({one_line(error)}): `openssl genpkey` makes one"
    return UsageError(message, code="key", option="key", path=key)
