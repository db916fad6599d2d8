"""Ways from a checkpoint or an exported file that somebody sent to code of theirs that runs.

Each leaves the file `ran` in the working directory if it works. The `.pt2` ones are also shown to work where nothing is
checked, by `works_unchecked`: a way that leads nowhere anyway would prove nothing.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from dwindle.cli import main
from dwindle.errors import DwindleError
from dwindle.export.pytorch import PyTorch, read
from dwindle.files import sha256
from dwindle.sealed import sealed_json
from tests.fuzz import arrange

RAN = "ran"
TOUCH = f"__import__('pathlib').Path('{RAN}').touch()"
HELPER = f"open('{RAN}', 'w').close()\ndef make(**_): open('{RAN}', 'w').close()\nclass Kind: pass\n"
Change = Callable[[dict[str, Any]], object]


def _helper() -> None:
    """Modules that lie in the folder that was sent, where the user is."""
    Path("helper.py").write_text(HELPER)
    Path("helpers").mkdir(exist_ok=True)
    Path("helpers/inner.py").write_text(HELPER)


def _sent(change: Change) -> Path:
    """A finished checkpoint with another origin, sealed anew."""
    path = Path("net.dwindle")
    if not path.exists():
        arrange.finished(path)
    document = json.loads((path / "checkpoint.json").read_text())
    document.pop("sha256")
    change(document["origin"])
    (path / "checkpoint.json").write_text(json.dumps(sealed_json(document)))
    return path


def _commands(change: Change, *words: str, verbs: Sequence[str] = ("export", "bench")) -> Callable[[], list[int]]:
    """Export and bench, with `words`, of a checkpoint whose origin was changed."""

    def run() -> list[int]:
        _helper()
        path = str(_sent(change))
        return [main([verb, path, *words]) for verb in verbs]

    return run


def _task(**options: Any) -> Change:
    return lambda origin: origin.update(task=options)


def _model(spec: str) -> Change:
    return lambda origin: origin["model"].update(spec=spec)


CHECKPOINTS: dict[str, Callable[[], list[int]]] = {
    "a task that is subprocess:getoutput": _commands(_task(task="subprocess:getoutput", cmd=f"touch {RAN}")),
    "a task that is os:system": _commands(_task(task="os:system", command=f"touch {RAN}")),
    "a task that is builtins:exec": _commands(_task(task="builtins:exec", source=TOUCH)),
    "a task in a helper.py beside the checkpoint": _commands(_task(task="helper:make")),
    "a task in a package beside the checkpoint": _commands(_task(task="helpers.inner:make")),
    "data in a helper.py beside the checkpoint": _commands(_task(data="helper:make")),
    "a model in a helper.py beside the checkpoint": _commands(_model("helper:make"), verbs=["export"]),
    "a model that is runpy:run_path": _commands(_model("runpy:run_path"), verbs=["export"]),
    "a task, the caller trusting another": _commands(_task(task="helper:make"), "--task", "tasks.mine:make"),
    "data, the caller trusting the task": _commands(_task(data="helper:make"), "--task", "digits"),
    "with --trust, a task that is subprocess:getoutput": _commands(
        _task(task="subprocess:getoutput", cmd=f"touch {RAN}"), "--trust"
    ),
    "with --trust, data that is os:system": _commands(_task(data="os:system"), "--trust"),
    "with --trust, a model that is builtins:eval": _commands(_model("builtins:eval"), "--trust", verbs=["export"]),
}
"""Ways through what checkpoint.json says, each with the exit codes of the commands."""


def pickled_weights() -> list[int]:
    """Weights that are a pickle, sealed anew."""
    path = _sent(lambda origin: None)
    (path / "weights.safetensors").write_bytes(_pickle())
    document = json.loads((path / "checkpoint.json").read_text())
    document.pop("sha256")
    document["files"]["weights.safetensors"] = sha256(path / "weights.safetensors")
    (path / "checkpoint.json").write_text(json.dumps(sealed_json(document)))
    return [main([verb, str(path)]) for verb in ("export", "show", "verify")]


def script_in_the_report() -> list[int]:
    """A script in names that the HTML report shows."""
    script = "<script>1</script>"
    path = _sent(lambda origin: origin.update(size=None, target="onnx", method=script, score=script))
    _sent(lambda origin: origin["model"].update(spec=f"zoo:{script}"))
    code = main(["report", str(path), "-o", "page.html"])
    if Path("page.html").exists() and script in Path("page.html").read_text(encoding="utf-8"):
        Path(RAN).touch()
    return [code]


def modules_beside_the_checkpoint() -> list[int]:
    """Modules with the names of installed ones in the working directory, for whatever starts Python there."""
    path = _sent(lambda origin: None)
    for name in ("json", "numpy", "torch", "onnx", "tempfile"):
        Path(f"{name}.py").write_text(HELPER)
    script = Path(sys.executable).with_name("dwindle")
    done = subprocess.run([script, "export", str(path), "--target", "onnx,pytorch"], capture_output=True, text=True)
    return [done.returncode]


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (TOUCH,)


def _pickle() -> bytes:
    return pickle.dumps(_Bomb())


def _program(change: Change) -> Callable[[Path], None]:
    """A .pt2 whose models/model.json was changed."""

    def write(path: Path) -> None:
        def changed(name: str, content: bytes) -> bytes:
            if not name.endswith("models/model.json"):
                return content
            document = json.loads(content)
            change(document)
            return json.dumps(document).encode()

        _rewrite(path, changed)

    return write


def _rewrite(path: Path, changed: Callable[[str, bytes], bytes]) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, changed(name, content))


def _symbolic(document: dict[str, Any]) -> None:
    values = document["graph_module"]["graph"]["tensor_values"]
    next(iter(values.values()))["sizes"][0] = {"as_expr": {"expr_str": TOUCH, "hint": {"as_int": 1}}}


def _call(document: dict[str, Any]) -> None:
    """A node that calls any function that can be reached from torch's modules."""
    node = document["graph_module"]["graph"]["nodes"][0]
    command = {"name": "command", "arg": {"as_string": f"touch {RAN}"}, "kind": 1}
    node.update(target="torch.os.system", inputs=[command])


def _guards(document: dict[str, Any]) -> None:
    document["guards_code"] = [TOUCH]


def _enum(document: dict[str, Any]) -> None:
    """A key of the inputs that is a member of an enumeration, whose module PyTorch imports."""
    context = json.dumps([{"__enum__": True, "fqn": "helper:Kind", "name": "a"}])
    _spec(document, {"type": "builtins.dict", "context": context, "children_spec": []})


def _defaultdict(document: dict[str, Any]) -> None:
    context = {"default_factory_module": "helper", "default_factory_name": "make", "dict_context": []}
    _spec(document, {"type": "collections.defaultdict", "context": context, "children_spec": []})


def _spec(document: dict[str, Any], tree: dict[str, Any]) -> None:
    signature = document["graph_module"]["module_call_graph"][0]["signature"]
    signature["in_spec"] = json.dumps([1, {"type": "builtins.tuple", "context": "null", "children_spec": [tree]}])


def _pickled_constant(path: Path) -> None:
    def changed(name: str, content: bytes) -> bytes:
        if name.endswith("weights_config.json"):
            return content.replace(b'"use_pickle": false', b'"use_pickle": true')
        return _pickle() if name.endswith("weight_0") else content

    _rewrite(path, changed)


PROGRAMS: dict[str, Callable[[Path], None]] = {
    "a symbolic size that sympy evaluates": _program(_symbolic),
    "a call of a function that is no operator": _program(_call),
    "guards that are compiled": _program(_guards),
    "an enumeration whose module is imported": _program(_enum),
    "a defaultdict whose module is imported": _program(_defaultdict),
    "pickled weights": _pickled_constant,
}
"""Ways through a .pt2, by what is changed in a good one."""
STOPPED = ("a call of a function that is no operator", "guards that are compiled")
"""Those of them that PyTorch 2.14 itself does not follow: refused all the same, since that can change."""


def write_program(way: str, path: Path) -> Path:
    """A .pt2 with one of PROGRAMS in it."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU()).eval()
    PyTorch().write(network, (torch.zeros(1, 1, 8, 8),), path, pack=False)
    _helper()
    PROGRAMS[way](path)
    return path


def reads_program(way: str) -> int:
    """Reads a .pt2 as export and bench do; the exit code of the refusal, or 0."""
    try:
        read(write_program(way, Path("net.pt2"))).module()
    except DwindleError as error:
        return error.exit_code
    return 0


def works_unchecked(way: str) -> bool:
    """Whether this .pt2 runs code if PyTorch is given it as it is."""
    path = write_program(way, Path("unchecked.pt2"))
    sys.path.insert(0, str(Path.cwd()))
    try:
        with contextlib.suppress(Exception):
            torch.export.load(path).module()(torch.zeros(1, 1, 8, 8))
        return Path(RAN).exists()
    finally:
        sys.path.remove(str(Path.cwd()))
        sys.modules.pop("helper", None)
        Path(RAN).unlink(missing_ok=True)


def ran() -> bool:
    """Whether code has run since this was last asked."""
    there = Path(RAN).exists()
    Path(RAN).unlink(missing_ok=True)
    return there
