"""The architecture, read from the source's imports: who may know whom."""

import ast
import graphlib
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "w4s_jax"
SHARED = frozenset("types errors files concurrency".split())
"""What both halves stand on."""
HOST = SHARED | frozenset("mdp prompts tasks workflows executor sandbox rollout search reports runtime".split())
DEVICE = frozenset({"policy", "training", "preflight"})
RUN_ON_DEVICES = frozenset("export local_agent models processes rlao rounds tensorboard training".split())
"""Modules of `run` that train or sample on this machine's devices; a search with an API and an evaluation need none."""
OF_DEVICES = frozenset("jax jaxlib flax optax orbax safetensors tokenizers transformers tensorboardX torch".split())
"""What the extra `train` brings: whoever only runs a finished workflow has none of it."""
MAY_IMPORT = {
    "types": "",
    "errors": "types",
    "files": "",
    "concurrency": "",
    "mdp": "",
    "workflows": "prompts",
    "prompts": "",
    "sandbox": "",
    "tasks": "workflows",
    "executor": "sandbox",
    "reports": "mdp rollout executor",
    "rollout": "mdp prompts tasks",
    "search": "mdp prompts tasks workflows rollout",
    "runtime": "workflows sandbox executor",
    "policy": "",
    "training": "policy",
    "preflight": "policy training",
}
"""The packages that a package imports beside the shared ones; all else reaches it by the Protocols of `types`."""


@cache
def parsed(path):
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def modules(folder):
    """Python files of a folder, workflows aside: those run in the sandbox alone."""
    return sorted(p for p in folder.rglob("*.py") if "seeds" not in p.parts and "hostile" not in p.parts)


def imported(path, *, relative=True):
    """Dotted names that a module imports, wherever in it; `from a import b` counts as `a.b`."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and (relative or not node.level):
            base = package[: len(package) - node.level + 1] if node.level else ()
            stem = ".".join((*base, *filter(None, [node.module])))
            yield from (f"{stem}.{alias.name}" for alias in node.names)


def package_of(path):
    """The subpackage or module that a file belongs to; empty for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def packages_imported(path):
    """The subpackages that a module imports from."""
    return {name.split(".")[1] for name in imported(path) if name.startswith("w4s_jax.")} & (HOST | DEVICE)


def third_party(path):
    """Top-level packages that are neither ours nor the standard library's."""
    tops = {name.split(".")[0] for name in imported(path)}
    return {top for top in tops if top not in sys.stdlib_module_names} - {"w4s_jax", "experiments", ""}


def broken(rule, paths):
    """`path: what` for each module that imports what the rule finds."""
    return [f"{path.relative_to(ROOT)}: {', '.join(sorted(found))}" for path in paths if (found := rule(path))]


def of_packages(names):
    return [path for path in modules(PACKAGE) if package_of(path) in names]


def test_every_module_is_in_a_known_package():
    assert {package_of(path) for path in modules(PACKAGE)} <= HOST | DEVICE | {"", "run"}


def test_nothing_but_the_front_door_imports_what_a_run_is_made_of():
    def of_run(path):
        return {name for name in imported(path) if name.startswith("w4s_jax.run.") or name == "w4s_jax.run"}

    assert broken(of_run, of_packages(HOST | DEVICE)) == []


def test_a_run_without_a_local_model_imports_no_array_library():
    """What is imported inside a function, where a local model is asked for, does not count."""

    def while_loading(path):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found = set()
        for node in tree.body:
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
        found -= {"w4s_jax.training.config", "w4s_jax.training.weights"}  # what is decided of training, without JAX
        of_devices = {f"w4s_jax.{name}" for name in DEVICE} | {f"w4s_jax.run.{name}" for name in RUN_ON_DEVICES}
        return {
            n for n in found if n.split(".")[0] in OF_DEVICES or any(f"{n}.".startswith(f"{d}.") for d in of_devices)
        }

    light = [path for path in of_packages({"run"}) if path.stem not in RUN_ON_DEVICES]
    assert len(light) > 10
    assert broken(while_loading, light) == []


def test_the_host_half_imports_no_array_library():
    assert broken(lambda path: third_party(path) & OF_DEVICES, of_packages(HOST)) == []


def test_the_host_half_does_not_import_the_device_half():
    assert broken(lambda path: packages_imported(path) & DEVICE, of_packages(HOST)) == []


def test_the_device_half_knows_no_benchmark_and_no_api():
    assert broken(lambda path: packages_imported(path) - DEVICE - SHARED, of_packages(DEVICE)) == []


def test_the_device_half_reaches_no_network():
    network = frozenset("openai aiohttp httpx httpx2 requests urllib datasets".split())
    assert broken(lambda path: {n.split(".")[0] for n in imported(path)} & network, of_packages(DEVICE)) == []


def test_the_package_imports_no_entry_point():
    def entry_points(path):
        return {name for name in imported(path) if name.split(".")[0] in ("experiments", "benchmarks", "tests")}

    assert broken(entry_points, modules(PACKAGE)) == []


@pytest.mark.parametrize("package", sorted(MAY_IMPORT))
def test_a_package_imports_those_below_it_alone(package):
    allowed = {package, *MAY_IMPORT[package].split()} | (SHARED if package not in SHARED else set())
    assert broken(lambda path: packages_imported(path) - allowed, of_packages({package})) == []


def test_the_borders_have_no_circle_and_name_every_package():
    graph = {package: names.split() for package, names in MAY_IMPORT.items()}
    assert set(graphlib.TopologicalSorter(graph).static_order()) == HOST | DEVICE


def test_no_two_modules_import_each_other_while_they_load():
    graph = {}
    for path in modules(PACKAGE):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        graph[name] = [n for n in imported(path) if n.startswith("w4s_jax.")]
    known = {name: {_module(n, graph) for n in names} - {name, None, "w4s_jax"} for name, names in graph.items()}
    packages = {name for name in graph if any(other.startswith(name + ".") for other in graph)}
    loads = {n: found - packages for n, found in known.items() if n not in packages}
    assert set(loads) <= set(graphlib.TopologicalSorter(loads).static_order())  # a circle raises CycleError


def _module(name, known):
    """The module that a dotted name of a module, class or function is of."""
    return name if name in known else name.rpartition(".")[0] if name.rpartition(".")[0] in known else None


def test_the_types_are_standard_library_only():
    assert third_party(PACKAGE / "types.py") == set()


def test_the_sandboxed_child_is_standard_library_only():
    child = modules(PACKAGE / "sandbox" / "child")

    def outside(path):  # the zygote loads the folder by itself, so neighbours are imported by relative names only
        relative = {node for node in ast.walk(parsed(path)) if isinstance(node, ast.ImportFrom) and node.level}
        assert all(node.level == 1 for node in relative)
        return third_party(path) | ({"w4s_jax"} & {n.split(".")[0] for n in imported(path, relative=False)})

    assert len(child) > 5
    assert broken(outside, child) == []


def test_flags_are_defined_in_experiments_alone():
    elsewhere = [p for folder in ("w4s_jax", "benchmarks", "tests", "launch") for p in modules(ROOT / folder)]
    assert broken(lambda path: {n for n in imported(path) if n.startswith("absl.flags")}, elsewhere) == []


def test_no_module_is_longer_than_500_lines():
    paths = [
        p for folder in ("w4s_jax", "experiments", "benchmarks", "launch", "tests") for p in modules(ROOT / folder)
    ]
    lengths = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in paths}
    assert {name: n for name, n in lengths.items() if n > 500 and name != "w4s_jax/types.py"} == {}


def test_no_function_is_longer_than_80_lines():
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for folder in ("w4s_jax", "experiments")
        for path in modules(ROOT / folder)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno >= 80
    ]
    assert long == []


def test_every_module_of_the_package_says_where_it_stands():
    silent = [str(p.relative_to(ROOT)) for p in modules(PACKAGE) if not ast.get_docstring(parsed(p))]
    assert silent == []


def test_only_the_top_of_the_sandboxed_child_swallows_every_error():
    """Elsewhere, whoever catches everything (to record it, to clean up) raises it again."""

    def broad(node):
        kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        everything = any(kind is None or getattr(kind, "id", "") in ("Exception", "BaseException") for kind in kinds)
        return everything and not (isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None)

    places = {
        str(path.relative_to(ROOT))
        for folder in ("w4s_jax", "experiments")
        for path in modules(ROOT / folder)
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.ExceptHandler) and broad(node)
    }
    assert places <= {"w4s_jax/sandbox/child/runner.py"}
