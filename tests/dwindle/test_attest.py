"""Attestations, bills of materials and their verification: valid by the standards' own tools, and nothing gets by."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from dwindle.attest import attest
from dwindle.bench.machine import this_machine
from dwindle.bench.result import Accuracy, Bench
from dwindle.bench.rows import blank_rows, untried
from dwindle.cli import main
from dwindle.errors import CheckpointError, DwindleError, UsageError
from dwindle.lineage import lineages
from dwindle.manifest import File, Manifest, Parity, manifests
from dwindle.verify import verify
from dwindle.verify_file import Verified
from tests.fuzz import arrange

pytestmark = pytest.mark.needs("attest")
FILES = {"net.onnx", "net.onnx.intoto.json"}


def network(path: Path, size: int = 4) -> Path:
    """An ONNX file of one layer."""
    weight = onnx.numpy_helper.from_array(np.full((size, size), 0.5, np.float32), "w")
    sides = [onnx.helper.make_tensor_value_info(name, 1, [1, size]) for name in ("x", "y")]
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", sides[:1], sides[1:], [weight])
    onnx.save(onnx.helper.make_model(graph), path)
    return path


def keys(folder: Path, kind: str = "ed25519") -> tuple[Path, Path]:
    """A private and a public key, as openssl makes them."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    made: Any
    if kind == "ed25519":
        made = ed25519.Ed25519PrivateKey.generate()
    else:
        made = ec.generate_private_key(ec.SECP256R1()) if kind == "ecdsa" else rsa.generate_private_key(65537, 2048)
    private, public = folder / f"{kind}.pem", folder / f"{kind}.pub.pem"
    pem = serialization.Encoding.PEM
    private.write_bytes(
        made.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    )
    public.write_bytes(made.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished checkpoint with an ONNX export that can be read."""
    path = arrange.finished(tmp_path_factory.mktemp("made") / "net.dwindle").path
    folder = path / "exports/onnx"
    network(folder / "net.onnx")
    Manifest(
        target="onnx",
        precision="fp32",
        encoding="dense",
        file=File.of(folder / "net.onnx"),
        dense=File.of(folder / "dense.onnx"),
        parity=Parity(1e-6, 1e-6, 1e-4, 1.0, 16, 20),
        versions={"dwindle": "0", "onnx": "1"},
    ).write(folder)
    (path / "bench.json").unlink()  # it is about the file that was there before
    return path


@pytest.fixture
def net(made: Path, tmp_path: Path) -> Path:
    return arrange.copied(made, tmp_path / "net.dwindle")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return network(tmp_path / "net.onnx")


def damaged(found: Verified) -> set[str]:
    return {part.name for part in found.parts if part.damage}


def statement(path: Path) -> dict[str, Any]:
    envelope = json.loads(path.read_text())
    return dict(json.loads(base64.b64decode(envelope["payload"])))


def test_a_checkpoint_has_its_whole_lineage(net: Path) -> None:
    attested, bill = attest(net, spdx_license="Apache-2.0")
    assert attested == net / "attestations/onnx/net.onnx.intoto.json"
    said = statement(attested)
    manifest = Manifest.read(net / "exports/onnx")
    document = json.loads((net / "checkpoint.json").read_text())
    assert said["_type"] == "https://in-toto.io/Statement/v1"
    assert said["subject"] == [{"name": "net.onnx", "digest": {"sha256": manifest.file.sha256}}]
    told = said["predicate"]
    assert told["weights"]["dense"] == document["files"]["dense.safetensors"]
    assert [each["density"] for each in told["rounds"]] == [1.0, 0.5]
    assert told["export"]["parity"]["relative"] == 1e-6
    assert told["metrics"] == {"test": 88.5, "dense_test": 89.0}
    assert (told["licence"], told["data"]["name"]) == ("Apache-2.0", "digits")
    assert len(told["data"]["fingerprint"]) == 64
    assert verify(net).whole
    assert "attestations/onnx/net.onnx.intoto.json" in {part.name for part in verify(net).parts}
    component = json.loads(bill.read_text())["metadata"]["component"]
    assert component["hashes"] == [{"alg": "SHA-256", "content": manifest.file.sha256}]
    assert component["pedigree"]["ancestors"][0]["hashes"][0]["content"] == told["weights"]["dense"]
    assert component["licenses"] == [{"license": {"id": "Apache-2.0"}}]
    assert {one["value"] for one in component["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]} == {
        "88.5", "89",
    }  # fmt: skip


@pytest.mark.parametrize("licence", [None, "MIT", "MIT OR Apache-2.0"])
def test_the_bill_is_valid_by_the_standards_schema(net: Path, file: Path, licence: str | None) -> None:
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    for path in (net, file):
        bill = attest(path, spdx_license=licence)[1]
        text = bill.read_text()
        assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(text) is None
        found = json.loads(text)
        assert (found["specVersion"], found["metadata"]["component"]["type"]) == ("1.7", "machine-learning-model")
        found["metadata"]["component"]["type"] = "nonsense"
        assert JsonStrictValidator(SchemaVersion.V1_7).validate_str(json.dumps(found)) is not None


def test_a_licence_that_is_none(file: Path) -> None:
    with pytest.raises(UsageError) as refused:
        attest(file, spdx_license="no such licence at all")
    assert refused.value.option == "spdx_license"
    assert list(file.parent.glob("*.json")) == []


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_signature_is_checked_offline(file: Path, tmp_path: Path, kind: str) -> None:
    private, public = keys(tmp_path, kind)
    attest(file, key=private)
    found = verify(file, public_key=public)
    assert found.whole
    assert {part.name for part in found.parts} == FILES
    assert found.notes == ()
    assert len(verify(file).notes) == 1  # that it wasn't checked


def test_a_signature_over_other_bytes(file: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    attested, _ = attest(file, key=private)
    envelope = json.loads(attested.read_text())
    content = base64.b64decode(envelope["payload"]).replace(b'"bytes": ', b'"bytes": 1')
    envelope["payload"] = base64.b64encode(content).decode()
    attested.write_text(json.dumps(envelope))
    found = verify(file, public_key=public)
    assert damaged(found) == {"net.onnx.intoto.json"}
    assert any("over other bytes" in str(part.damage) for part in found.parts)
    assert verify(file).whole  # who does not ask is told that it wasn't checked


def test_a_file_that_was_changed_after_it_was_signed(file: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    attest(file, key=private)
    network(file, 5)
    found = verify(file, public_key=public)
    assert damaged(found) == {"net.onnx"}
    assert "not the file that was attested" in str(found.parts[0].damage)
    assert main(["verify", str(file), "--public-key", str(public)]) == 1


def test_anothers_key_and_no_signature(file: Path, tmp_path: Path) -> None:
    (private, _), (_, other) = keys(tmp_path), keys(tmp_path, "ecdsa")
    attest(file, key=private)
    assert damaged(verify(file, public_key=other)) == {"net.onnx.intoto.json"}
    attest(file)
    assert damaged(verify(file, public_key=other)) == {"net.onnx.intoto.json"}
    assert verify(file).whole


def test_a_signature_that_is_another_ones_is_none(file: Path, tmp_path: Path) -> None:
    """The key's name alone, with a signature of somebody else, does not count."""
    (private, public), (other, _) = keys(tmp_path), keys(tmp_path, "ecdsa")
    attested, _ = attest(file, key=private)
    ours = json.loads(attested.read_text())
    attest(file, key=other)
    theirs = json.loads(attested.read_text())
    theirs["signatures"][0]["keyid"] = ours["signatures"][0]["keyid"]
    attested.write_text(json.dumps(theirs))
    assert damaged(verify(file, public_key=public)) == {"net.onnx.intoto.json"}


@pytest.mark.parametrize("content", [b"", b"key", None], ids=["empty", "text", "absent"])
def test_keys_that_cannot_be_used(file: Path, tmp_path: Path, content: bytes | None) -> None:
    key = tmp_path / "bad.pem"
    if content is not None:
        key.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        attest(file, key=key)
    assert (refused.value.code, refused.value.path) == ("key", key)
    attest(file)
    with pytest.raises(UsageError):
        verify(file, public_key=key)


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        '{"payload": "!", "payloadType": "", "signatures": []}',
        '{"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": []}',
        "not json",
    ],
)
def test_a_damaged_attestation_is_a_sentence(file: Path, content: str) -> None:
    attested, _ = attest(file)
    attested.write_text(content)
    found = verify(file)
    assert damaged(found) == {"net.onnx.intoto.json"}
    assert main(["verify", str(file)]) == 1


@pytest.mark.parametrize("name", ["../net.onnx", "/etc/passwd", "a/../../b", "C:\\x"])
def test_an_attestation_of_files_elsewhere_is_refused(file: Path, name: str) -> None:
    attested, _ = attest(file)
    said = statement(attested)
    said["subject"].append({"name": name, "digest": {"sha256": "0" * 64}})
    envelope = {**json.loads(attested.read_text()), "payload": base64.b64encode(json.dumps(said).encode()).decode()}
    attested.write_text(json.dumps(envelope))
    assert damaged(verify(file)) == {"net.onnx.intoto.json"}


def test_a_renamed_file_with_its_attestation(file: Path) -> None:
    attested, _ = attest(file)
    shipped = file.rename(file.with_name("shipped.onnx"))
    assert verify(shipped, attested_by=attested).whole
    assert not verify(shipped).whole  # nothing that would vouch for it is called as it is


def test_what_lies_beside_a_file_belongs_to_it(tmp_path: Path) -> None:
    whole = onnx.load(network(tmp_path / "net.onnx", 64))
    path = tmp_path / "net.onnx"
    onnx.save(whole, path, save_as_external_data=True, location="net.data", size_threshold=0)
    attest(path)
    assert verify(path).whole
    (tmp_path / "net.data").write_bytes(b"\0" * (tmp_path / "net.data").stat().st_size)
    assert damaged(verify(path)) == {"net.data"}


def test_a_package_is_all_of_its_files(tmp_path: Path) -> None:
    from dwindle.attestation import digests, read_attestation, write

    package = tmp_path / "net.mlpackage"
    (package / "Data").mkdir(parents=True)
    for name in ("Manifest.json", "Data/model.mlmodel"):
        (package / name).write_text(name)
    attested = tmp_path / "net.mlpackage.intoto.json"
    write(attested, package.name, digests(package), {}, None)
    named = {"net.mlpackage/Manifest.json", "net.mlpackage/Data/model.mlmodel"}
    assert set(read_attestation(attested).digests) == named
    assert verify(package).whole
    (package / "more").touch()
    assert not verify(package).whole
    (package / "more").unlink()
    (package / "Manifest.json").unlink()
    assert not verify(package).whole


def test_a_file_of_an_export_has_its_lineage_wherever_it_is_asked_for(net: Path) -> None:
    path = net / "exports/onnx/net.onnx"
    attested, _ = attest(path)
    assert attested == net / "attestations/onnx/net.onnx.intoto.json"
    assert statement(attested)["predicate"]["weights"]["dense"]
    found = verify(path)
    assert found.whole
    assert "manifest.json" in {part.name for part in found.parts}
    path.write_bytes(path.read_bytes() + b"\0")
    assert damaged(verify(path)) == {"net.onnx"}


def test_a_checkpoint_whose_exports_must_be_signed(net: Path, tmp_path: Path) -> None:
    private, public = keys(tmp_path)
    assert damaged(verify(net, public_key=public)) == {"exports/onnx/net.onnx"}
    attest(net, key=private)
    assert verify(net, public_key=public).whole


def test_nothing_vouches_for_a_strangers_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert not verify(file).whole
    assert main(["verify", str(file)]) == 1
    assert "nothing vouches" in capsys.readouterr().out
    assert main(["verify", str(file.parent / "gone.onnx")]) == 2


def test_what_cannot_be_attested(net: Path, tmp_path: Path) -> None:
    for given in (tmp_path / "gone.onnx", tmp_path / "gone.dwindle"):
        with pytest.raises(UsageError):
            attest(given)
    shutil.rmtree(net / "exports")
    with pytest.raises(UsageError) as refused:
        attest(net)
    assert refused.value.code == "no-exports"
    (tmp_path / "cut.onnx").write_bytes(b"\x08")
    with pytest.raises(DwindleError):
        attest(tmp_path / "cut.onnx")


def test_what_was_measured_is_told(net: Path) -> None:
    [(dense, compressed)] = blank_rows(net, manifests(net / "exports"))
    accuracy = Accuracy("accuracy", 87.25, 360, (85.0, 89.0), "test")
    measured = replace(untried(compressed, "it was not timed"), accuracy=accuracy)
    rows = (untried(dense, "it was not run"), measured)
    Bench(rows, this_machine(), 0, "2026-01-01T00:00:00+00:00", "0", "zoo:resnet8 on digits").save(net / "bench.json")
    attested, bill = attest(net)
    [told] = statement(attested)["predicate"]["measured"]
    assert (told["accuracy"]["value"], told["accuracy"]["n"]) == (87.25, 360)
    assert '"87.25"' in bill.read_text()
    network(net / "exports/onnx/net.onnx", 5)
    with pytest.raises(CheckpointError):  # it is not the file that was measured
        lineages(net)


def test_on_the_command_line(net: Path, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    private, public = keys(tmp_path)
    out = tmp_path / "out"
    given = ["attest", str(net), str(file), "-o", str(out), "--key", str(private), "--license", "MIT", "--json"]
    assert main(given) == 0
    written = json.loads(capsys.readouterr().out)
    assert written == [
        str(out / place / f"net.onnx{suffix}") for place in ("onnx", ".") for suffix in (".intoto.json", ".cdx.json")
    ]
    shipped = shutil.copy(file, out)
    assert main(["verify", str(shipped), "--public-key", str(public), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["whole"]


@pytest.mark.needs("openssl")
def test_openssls_keys_are_taken(file: Path, tmp_path: Path) -> None:
    """The two commands that the documentation has."""
    for command in (
        ["genpkey", "-algorithm", "ed25519", "-out", "key.pem"],
        ["pkey", "-in", "key.pem", "-pubout", "-out", "key.pub.pem"],
    ):
        subprocess.run(["openssl", *command], check=True, capture_output=True, cwd=tmp_path)
    attest(file, key=tmp_path / "key.pem")
    assert verify(file, public_key=tmp_path / "key.pub.pem").whole
