"""The house: who may import whom, and how long, wide and explained code may be."""

import ast
import io
import pathlib
import sys
import tokenize

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = sorted(ROOT.glob("diffusion_jax/**/*.py"))
FILES = [*PACKAGE, *sorted(ROOT.glob("configs/*.py")), *ROOT.glob("examples/*.py")]

# main -> {train, sample, evaluate} -> {measures | pictures} -> runs -> methods
#      -> {models | diffusion | objectives | data | training | evaluation}
LEAVES = {"models", "diffusion", "objectives", "data", "training", "evaluation"}
SHARED = {"runs", "methods", "data", "training", "evaluation"}
COMMAND = SHARED | {"measures", "pictures"}
WITHIN = {
    "main": {"train", "sample", "evaluate", "runs", "training"},
    "train": COMMAND,
    "sample": COMMAND,
    "evaluate": COMMAND,
    "measures": SHARED,
    "pictures": SHARED,
    "runs": SHARED - {"runs"},
    "methods": LEAVES,
    "configs": set(),
    "examples": LEAVES | {"methods"},
    **{leaf: set() for leaf in LEAVES},
}
MATHEMATICS = {"jax", "numpy", "chex"}
FLAGS = {"jax", "numpy", "absl", "ml_collections"}
OUTSIDE = {
    "diffusion": MATHEMATICS,
    "objectives": MATHEMATICS,
    "models": MATHEMATICS | {"flax"},
    "methods": MATHEMATICS | {"flax", "optax", "ml_collections"},
    "data": {"numpy", "grain", "PIL", "sklearn", "tensorflow_datasets"},
    "training": MATHEMATICS | {"optax", "orbax", "flax", "tensorboardX"},
    "evaluation": {"numpy", "PIL", "matplotlib"},
    "configs": {"ml_collections"},
    "examples": MATHEMATICS | {"flax", "optax", "matplotlib"},
    **dict.fromkeys("main train sample evaluate measures pictures runs".split(), FLAGS),
}
# Slow to import and needed by few: inside the function that needs them.
LAZY = {"sklearn", "tensorflow_datasets", "tensorboardX", "matplotlib"}
PLACEMENT = set(
    "pmap shard_map Mesh mesh make_mesh NamedSharding PartitionSpec pmean psum pmax "
    "devices local_devices device_count local_device_count device_put axis_name "
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
    """Returns the dotted names that imports among the nodes bring in."""
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name the whole path"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return [dotted for dotted in found if not dotted.startswith("__future__")]


@each_file()
def test_layers(path):
    """A file imports what its layer may, and nothing private."""
    tree, here = ast.parse(path.read_text()), layer(path)
    if here == "__init__":
        assert not imports(ast.walk(tree))
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


@each_file()
def test_nothing_private_of_others(path):
    """Names with a leading underscore are used by the object that has them alone."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            owner = node.value.id if isinstance(node.value, ast.Name) else None
            public = node.attr.startswith("__") or node.attr == "_replace"  # NamedTuple
            assert owner in ("self", "cls") or public, f"line {node.lineno}"


@each_file(PACKAGE)
def test_placement_has_its_files(path):
    """Only training/parallel.py places work on devices; only checkpoints.py saves."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    names = {token.string for token in tokens if token.type == tokenize.NAME}
    if name(path) != "diffusion_jax/training/parallel.py":
        assert not names & PLACEMENT
    if name(path) != "diffusion_jax/training/checkpoints.py":
        assert "orbax" not in names and "ocp" not in names


@each_file()
def test_sizes(path):
    """main has 80 lines, configs 120, networks 500, others 400; functions have 50."""
    lines = path.read_text().splitlines()
    limits = {"main": 80, "configs": 120, "models": 500, "examples": 120}
    assert len(lines) <= limits.get(layer(path), 400)
    assert max(map(len, lines), default=0) <= 88
    functions = [
        node
        for node in ast.walk(ast.parse("\n".join(lines)))
        if isinstance(node, ast.FunctionDef)
    ]
    for function in functions:
        length = function.end_lineno - function.lineno + 1
        if ast.get_docstring(function):
            docstring = function.body[0]
            length -= docstring.end_lineno - docstring.lineno + 1
        if layer(path) != "configs":  # one flat list of values
            assert length <= 50, f"{function.name} has {length} lines"


@each_file()
def test_public_is_explained(path):
    """Files, and public classes and functions, say what they are and take."""
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
