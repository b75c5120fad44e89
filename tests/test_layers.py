"""The layers: who may import whom, where devices appear, and what is documented."""

import ast
import io
import pathlib
import sys
import tokenize

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = sorted(ROOT.glob("diffusion_jax/**/*.py"))
OTHERS = [*ROOT.glob("examples/*.py"), *ROOT.glob("benchmarks/*.py")]
FILES = [*PACKAGE, *sorted(ROOT.glob("configs/*.py")), *sorted(OTHERS)]

# main, trained -> training_loop, sample, evaluate, report, compare
#      -> run_plots, run_summary -> evaluators -> outputs, task_runner
#      -> scorers, planning
#      -> inference, runs, run_config, run_data
#      -> methods, renames
#      -> models, diffusion, objectives, data, training, metrics
#      -> prng, lookup, paths, progress, special_tokens, strict_json
ANYONE = {"prng", "lookup", "paths", "progress", "special_tokens", "strict_json"}
LEAVES = set("models diffusion decoding objectives data training metrics".split())
BELOW_RUNS = LEAVES | ANYONE | {"methods", "renames"}
RUNS = {"inference", "runs", "run_config", "run_data"}
BELOW_PLOTS = BELOW_RUNS | RUNS | {"scorers", "task_runner", "outputs", "evaluators"}
COMMAND = BELOW_PLOTS | {"run_plots", "run_summary"}
WITHIN = {
    "__main__": set(),
    "main": COMMAND
    | {"training_loop", "sample", "evaluate", "report", "compare"}
    | {"command_line", "planning"},
    "command_line": {"renames", "run_config", "training", ""} | ANYONE,  # "": version
    "training_loop": COMMAND | {"planning"},
    "planning": BELOW_RUNS | {"run_config"},
    "sample": COMMAND,
    "evaluate": COMMAND,
    "report": COMMAND,
    "compare": COMMAND,
    "run_plots": BELOW_PLOTS,
    "run_summary": BELOW_PLOTS,
    "evaluators": BELOW_PLOTS - {"evaluators"},
    "outputs": {"data", "training"} | ANYONE,
    "scorers": BELOW_RUNS | RUNS,
    "task_runner": BELOW_RUNS | RUNS | {"scorers"},
    "trained": BELOW_RUNS | RUNS | {"task_runner", "training_loop", "evaluate"},
    "runs": BELOW_RUNS | {"run_config"},
    "run_config": BELOW_RUNS,
    "run_data": BELOW_RUNS,
    "renames": set(),
    "inference": {"methods", "data", "training", "progress"},
    "methods": LEAVES | ANYONE,
    **{leaf: ANYONE for leaf in LEAVES},
    **{name: set() for name in ANYONE},
    "configs": {"methods"},
    "examples": LEAVES | ANYONE | {"methods"},
    "benchmarks": COMMAND,
}
MATHEMATICS = {"jax", "numpy", "chex"}
FLAGS = {"jax", "numpy", "absl", "ml_collections"}
BENCHMARKS = set(
    "benchmarks torch diffusers transformers flax ml_collections matplotlib PIL".split()
)
OUTSIDE = {
    "prng": {"jax"},
    "progress": {"rich"},
    **dict.fromkeys("lookup paths special_tokens strict_json renames".split(), set()),
    "diffusion": MATHEMATICS,
    "decoding": MATHEMATICS,
    "objectives": MATHEMATICS,
    "models": MATHEMATICS | {"flax"},
    "methods": MATHEMATICS | {"flax", "optax", "ml_collections"},
    "data": set(
        "numpy grain PIL sklearn tensorflow_datasets tokenizers emoji fontTools".split()
    ),
    "training": MATHEMATICS
    | {"optax", "orbax", "flax", "tensorboard", "wandb", "mlflow"},
    "metrics": {"numpy", "sacrebleu"},
    "outputs": {"numpy", "PIL", "matplotlib"},
    "evaluators": FLAGS | {"rich"},
    "configs": {"ml_collections"},
    "examples": MATHEMATICS | {"flax", "optax", "matplotlib"},
    "benchmarks": MATHEMATICS | BENCHMARKS,
    "__main__": set(),
    **dict.fromkeys("main command_line training_loop sample planning".split(), FLAGS),
    **dict.fromkeys("evaluate report scorers task_runner trained".split(), FLAGS),
    **dict.fromkeys("inference runs".split(), FLAGS),
    **dict.fromkeys("run_plots run_summary".split(), FLAGS),
    "compare": FLAGS | {"rich"},
    **dict.fromkeys("run_config run_data".split(), FLAGS),
}
# Slow to import and needed by few: inside the function that needs them.
LAZY = set(
    "sklearn tensorflow_datasets tokenizers tensorboard matplotlib sacrebleu emoji "
    "fontTools wandb mlflow".split()
)
TRAINING = "diffusion_jax/training"
PLACES = {f"{TRAINING}/parallel.py", f"{TRAINING}/processes.py"}
PLACES |= {"diffusion_jax/models/attention.py"}  # asks for the GPU's generation
PLACEMENT = set(
    "pmap shard_map Mesh mesh make_mesh NamedSharding PartitionSpec pmean psum pmax "
    "all_gather devices local_devices device_count local_device_count device_put "
    "process_allgather multihost_utils".split()
)


def each_file(files=FILES):
    return pytest.mark.parametrize("path", files, ids=name)


def name(path):
    return path.relative_to(ROOT).as_posix()


def layer(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[1] if parts[0] == "diffusion_jax" and len(parts) > 1 else parts[0]


def imports(nodes):
    """Returns the dotted names that the nodes import."""
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "import by the whole path"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [dotted for dotted in found if not dotted.startswith("__future__")]


@each_file()
def test_layers(path):
    """A file imports only what its layer may, and nothing private."""
    tree, here = ast.parse(path.read_text()), layer(path)
    if here == "__init__":  # test_package.py holds what it imports for type checkers
        assert imports(tree.body) in (
            [],
            ["importlib", "typing.TYPE_CHECKING", "typing.Any"],
        )
        return
    for dotted in imports(ast.walk(tree)):
        first, second = dotted.split(".")[:2] if "." in dotted else (dotted, "")
        assert "._" not in dotted, f"{dotted} is private"
        if first == "diffusion_jax":
            assert second in WITHIN[here] | {here}, f"{here} may not import {second}"
        elif first not in sys.stdlib_module_names:
            assert first in OUTSIDE[here], f"{here} may not import {first}"
            if (here, first) == ("training", "flax"):
                assert dotted.startswith("flax.struct")
    eager = {dotted.split(".")[0] for dotted in imports(tree.body)}
    assert not eager & LAZY or here == "examples", "import it inside the function"


def module_name(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph_of(files):
    """Returns the modules that each module imports, inside functions too.

    Importing a.b.c also runs a/__init__ and a.b/__init__, unless the importer lies in
    that package, so that they are running already.
    """
    modules = {module_name(path): path for path in files}
    graph = {}
    for module, path in modules.items():
        graph[module] = set()
        for dotted in imports(ast.walk(ast.parse(path.read_text()))):
            imported = dotted if dotted in modules else dotted.rpartition(".")[0]
            graph[module].add(imported)
            while imported := imported.rpartition(".")[0]:
                if not f"{module}.".startswith(f"{imported}."):
                    graph[module].add(imported)
        graph[module] &= modules.keys()
    return graph


def circle(graph):
    """Returns modules that import each other in a circle; () if there are none."""
    done = set()

    def visit(module, path):
        if module in path:
            return (*path[path.index(module) :], module)
        if module in done:
            return ()
        found = (visit(other, (*path, module)) for other in sorted(graph[module]))
        found = next(filter(None, found), ())
        done.add(module)
        return found

    return next(filter(None, (visit(module, ()) for module in graph)), ())


def test_no_import_circle():
    """No file imports another that imports it back, directly or through others."""
    graph = graph_of(PACKAGE)
    assert len(graph) == len(PACKAGE) and sum(map(len, graph.values())) > len(PACKAGE)
    assert not circle(graph), " -> ".join(circle(graph))
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ("b", "c", "b")


@each_file()
def test_nothing_private_of_others(path):
    """A name with a leading underscore is used only by the object that has it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            owner = node.value.id if isinstance(node.value, ast.Name) else None
            public = node.attr.startswith("__")
            public |= node.attr in ("_replace", "_asdict")  # of a NamedTuple
            public |= (owner, node.attr) == ("os", "_exit")  # documented
            assert owner in ("self", "cls") or public, f"line {node.lineno}"


@each_file(PACKAGE)
def test_placement_has_its_files(path):
    """Only training/parallel.py places work on devices, which training/processes.py
    counts and models/attention.py asks for their kind; only these and
    training/checkpoints.py use Orbax; and no import is hidden from the interpreter."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    names = {token.string for token in tokens if token.type == tokenize.NAME}
    if name(path) not in PLACES:
        assert not names & PLACEMENT
    if name(path) not in PLACES | {f"{TRAINING}/checkpoints.py"}:
        assert not names & {"orbax", "ocp"}
    if name(path) != "diffusion_jax/__init__.py":
        assert "TYPE_CHECKING" not in names


@each_file()
def test_width(path):
    """Lines have at most 88 columns."""
    assert max(map(len, path.read_text().splitlines()), default=0) <= 88


@each_file()
def test_public_is_documented(path):
    """Files, public classes and functions have docstrings, arguments type hints."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree)
    public = [node for node in tree.body if getattr(node, "name", "_")[0] != "_"]
    classes = [node for node in public if isinstance(node, ast.ClassDef)]
    members = [node for group in classes for node in group.body]
    public += [node for node in members if getattr(node, "name", "_")[0] != "_"]
    for node in public:
        where = f"{node.name}, line {node.lineno}"
        assert ast.get_docstring(node), where
        if node not in classes:
            arguments = [*node.args.args, *node.args.kwonlyargs]
            hints = [x.annotation for x in arguments if x.arg not in ("self", "cls")]
            assert node.returns and all(hints), where
