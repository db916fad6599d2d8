"""A bill of materials of a model file: CycloneDX 1.7, with a model card, for an inventory of what ships."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from dwindle.bench.result import Row
from dwindle.checkpoint import DENSE
from dwindle.errors import UsageError, one_line
from dwindle.lineage import Lineage

if TYPE_CHECKING:
    from cyclonedx.model.component import Component
    from cyclonedx.model.license import License

SUFFIX = ".cdx.json"
"""What is added to a file's name for its bill of materials, as CycloneDX suggests."""
_REFERENCE = "model"


def document(lineage: Lineage, hashes: dict[str, str], licence: str | None) -> str:
    """The bill of materials as JSON, valid by the standard's schema.

    hashes: of each file of the model. licence: an SPDX expression. Raises UsageError for one that is none.
    """
    from cyclonedx.model.bom import Bom, BomMetaData
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot7
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator
    from packageurl import PackageURL

    model = _model(lineage, hashes, licence)
    tools = [
        Component(name=name, version=version, type=ComponentType.LIBRARY, purl=PackageURL("pypi", None, name, version))
        for name, version in sorted(lineage.versions.items())
        if " " not in name  # such as the state of the user's own code
    ]
    digest = "".join(hashes.values())
    bom = Bom(
        metadata=BomMetaData(component=model, tools=_repository(tools)),
        serial_number=uuid.uuid5(uuid.NAMESPACE_OID, digest),
    )
    made = json.loads(JsonV1Dot7(bom).output_as_string())
    made["metadata"]["component"]["modelCard"] = _card(lineage)  # of which the library has no model yet
    text = json.dumps(made, indent=2, allow_nan=False) + "\n"
    if wrong := JsonStrictValidator(SchemaVersion.V1_7).validate_str(text):
        raise AssertionError(f"the bill of materials breaks CycloneDX's schema: {wrong}")
    return text


def _model(lineage: Lineage, hashes: dict[str, str], licence: str | None) -> Component:
    from cyclonedx.model import HashAlgorithm, HashType, Property
    from cyclonedx.model.component import Component, ComponentType, Pedigree

    def component(name: str, reference: str, digest: str | None, **more: Any) -> Component:
        known = [HashType(alg=HashAlgorithm.SHA_256, content=digest)] if digest else []
        return Component(
            name=name, type=ComponentType.MACHINE_LEARNING_MODEL, bom_ref=reference, hashes=known, **more
        )  # fmt: skip

    facts = {"bytes": str(lineage.bytes)}
    if lineage.contents:
        facts["format"] = lineage.contents.format
    if lineage.manifest:
        facts |= {name: getattr(lineage.manifest, name) for name in ("target", "precision", "encoding")}
    ancestors = []
    if dense := lineage.hashes.get(DENSE):
        ancestors.append(component(f"{lineage.model} before pruning", "dense", dense))
    name = lineage.path.name
    inner = [component(file, f"file:{file}", digest) for file, digest in hashes.items() if file != name]
    return component(
        name,
        _REFERENCE,
        hashes.get(name),
        components=inner,
        licenses=_licences(licence),
        pedigree=Pedigree(ancestors=ancestors) if ancestors else None,
        properties=[Property(name=f"dwindle:{key}", value=value) for key, value in facts.items()],
    )


def _repository(tools: list[Component]) -> Any:
    from cyclonedx.model.tool import ToolRepository

    return ToolRepository(components=tools)


def _licences(licence: str | None) -> list[License]:
    from cyclonedx.contrib.license.exceptions import FactoryException
    from cyclonedx.contrib.license.factories import LicenseFactory

    if licence is None:
        return []
    factory = LicenseFactory()
    for make in (factory.make_with_id, factory.make_with_expression):
        try:
            return [make(licence)]
        except (FactoryException, ValueError) as error:
            wrong = error
    message = f"`spdx_license` {licence!r:.80} is no SPDX licence or expression, such as Apache-2.0 ({one_line(wrong)})"
    raise UsageError(message, code="licence", option="spdx_license")


def _card(lineage: Lineage) -> dict[str, Any]:
    """The model card: what it takes and gives, what it was trained on and how good it is."""
    parameters: dict[str, Any] = {}
    if lineage.model:
        parameters["modelArchitecture"] = lineage.model
    if lineage.data:
        properties = [{"name": f"dwindle:{name}", "value": value} for name, value in lineage.data.items()]
        contents = {"properties": properties}
        parameters["datasets"] = [{"type": "dataset", "name": lineage.data["name"], "contents": contents}]
    if lineage.contents:
        for side in ("inputs", "outputs"):
            parameters[side] = [{"format": str(tensor)} for tensor in getattr(lineage.contents, side)]
    metrics = [_metric(row) for row in lineage.rows if row.accuracy]
    if lineage.checkpoint:
        for name, value in lineage.checkpoint.metrics.items():
            when = "before" if name.startswith("dense") else "after"
            kind = f"{lineage.checkpoint.metric} in PyTorch, {when} pruning"
            metrics.append({"type": kind, "value": f"{value:g}", "slice": "test split"})
    card: dict[str, Any] = {"modelParameters": parameters}
    if metrics:
        card["quantitativeAnalysis"] = {"performanceMetrics": metrics}
    return card


def _metric(row: Row) -> dict[str, Any]:
    assert row.accuracy
    return {
        "type": f"{row.accuracy.metric} of the file in {row.runtime.place}",
        "value": f"{row.accuracy.value:g}",
        "slice": f"{row.accuracy.n} samples of the {row.accuracy.split} split",
    }
