"""The verdict as JUnit XML, which CI systems show beside the tests."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as Xml

from dwindle.bench.verdict import Verdict
from dwindle.files import staged
from dwindle.foreign import xml


def write_junit(verdict: Verdict, name: str, path: Path) -> None:
    """A test case per limit, a class per target, in a suite called `name`: a miss is a failure, and a figure that
    could not be measured an error. (The schema is Jenkins's: xunit-plugin, junit-10.xsd.)

    Raises DwindleError where `path` cannot be written.
    """
    words = [check.outcome for check in verdict.rows]
    counts = {
        "tests": str(len(words)),
        "failures": str(words.count("miss")),
        "errors": str(words.count("unmeasured")),
        "time": "0",
    }
    suites = Xml.Element("testsuites", counts)
    suite = Xml.SubElement(suites, "testsuite", {"name": xml(f"dwindle gate {name}"), **counts})
    for check, word in zip(verdict.rows, words, strict=True):
        titles = {"classname": xml(f"dwindle.gate.{check.subject}"), "name": check.title, "time": "0"}
        case = Xml.SubElement(suite, "testcase", titles)
        measured = "not measured" if check.measured is None else check.amount(check.measured)
        said = xml(f"{measured}, allowed {check.amount(check.limit)}" + (f": {check.reason}" if check.reason else ""))
        if word in ("pass", "allowed"):
            Xml.SubElement(case, "system-out").text = said
        else:
            Xml.SubElement(case, "failure" if word == "miss" else "error", {"message": said, "type": check.name})
    Xml.indent(suites)
    with staged(path) as scratch:
        Xml.ElementTree(suites).write(scratch, encoding="utf-8", xml_declaration=True)
