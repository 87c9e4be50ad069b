"""Mutation check: do the tests notice when one operator, constant, condition, argument or statement is wrong?

    OMP_NUM_THREADS=1 nice python benchmarks/mutants.py --results runs/mutants.json --table runs/mutants.md

pytest collects the tests once. One traced run says which tests reach which line. Every mutant is then a forked child
that swaps the code of one function in memory and runs the tests that reach the line, the fastest first, until one
fails; the working tree is never written. A child that runs out of time or memory, or crashes, is a killed mutant
("stopped"). A line that no test reaches is a survivor. Before its mutants, the tests of a file have to pass in such a
child without any. The results are written as a whole after every mutant and a second call goes on from there; those of
a file whose text has changed are dropped. `--only objectives.py` for one file, `--survivors` to try the survivors
again after a test was added.

Not mutated: texts of errors, docstrings, annotations, what is outside of functions, `device=`, which only a second
kind of device would notice, and `strict=` of zip, which guards what earlier lines have made sure of.
"""

import argparse
import collections
import gc
import hashlib
import importlib
import json
import os
import resource
import signal
import sys
import types
from pathlib import Path

import pytest
from mutations import mutants_of
from tqdm.auto import tqdm

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "modeling_mgvmoe"
# Each file and the tests that are to guard it.
TESTS = {
    "objectives.py": ["objectives", "variational_experts"],
    "variational_experts.py": ["variational_experts", "linear_means", "sparse_routing"],
    "chunked_mixture.py": ["variational_experts", "linear_means", "sparse_routing"],
    "routing.py": ["sparse_routing"],
    "fusion.py": ["linear_means", "uncertainty", "modeling"],
    "sample_graph.py": ["sample_graph"],
    "neighbour_graph.py": ["neighbour_graph"],
    "similarity_score.py": ["similarity_score", "similarity"],
    "uncertainty.py": ["uncertainty"],
    "input_checks.py": ["input_checks", "modeling", "bad_inputs"],
    "padding.py": ["padding", "processing"],
    "patch_grid.py": ["patches", "explanation"],
    "evaluation/metrics.py": ["metrics"],
}
FILES = list(TESTS)
# What tests import when they run: once, and not in every child.
LOADED_BEFORE = ["evaluate", "sklearn.metrics", "torch_geometric.data", "torch_geometric.nn", "torch_geometric.utils"]
# Slower tests start other processes, which run the code as it is.
SECONDS_OF_A_TEST = 2.0


def functions_of(path):
    """The live functions that are written at the top of a file or of a class there: qualified name -> functions."""
    found = collections.defaultdict(list)
    for thing in gc.get_objects():
        if isinstance(thing, types.FunctionType) and thing.__code__.co_filename == str(path):
            found[thing.__code__.co_qualname].append(thing)
    return found


def codes_of(code):
    """Code objects by qualified name, all that are nested in `code`."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant.co_qualname, constant
            yield from codes_of(constant)


def apply(mutant, path, functions):
    """Swap the mutated code into the live function; false where it does not fit (a closure that is gone)."""
    tree = mutant.tree()
    codes = dict(codes_of(compile(tree, str(path), "exec")))
    for function in functions[mutant.function]:
        try:
            function.__code__ = codes[mutant.function]
        except ValueError:
            return False
        if mutant.default is not None:
            number, value = mutant.default
            values = list(function.__defaults__)
            values[number] = value
            function.__defaults__ = tuple(values)
    return bool(functions[mutant.function])


class Failures:
    """Remembers whether a test failed."""

    failed = False

    def pytest_runtest_logreport(self, report):
        self.failed = self.failed or report.failed


def run_test(item, following):
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)


def forked(work):
    """Process id of a child that does `work` in silence and exits with what it returns."""
    child = os.fork()
    if child:
        return child
    status = 70
    try:
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        status = work()
    finally:
        os._exit(status)


def reach(items, paths, watch, store):
    """Which of the tests that pass reach which lines, and how long each takes. Done in a child, written to `store`."""

    def work():
        found = {}
        for number, (item, following) in enumerate(zip(items, [*items[1:], None], strict=True)):
            lines = collections.defaultdict(set)

            def local(frame, event, _, lines=lines):
                lines[frame.f_code.co_filename].add(frame.f_lineno)
                return local  # noqa: B023

            def called(frame, event, _, local=local):
                return local(frame, event, _) if frame.f_code.co_filename in paths else None

            watch.failed, start = False, sum(os.times()[:4])
            sys.settrace(called)
            run_test(item, following)
            sys.settrace(None)
            seconds = sum(os.times()[:4]) - start  # with the processes that it started
            if not watch.failed:
                found[number] = (seconds, {name: sorted(of_file) for name, of_file in lines.items()})
        store.write_text(json.dumps(found))
        return 0

    os.waitpid(forked(work), 0)
    tests = json.loads(store.read_text())
    return {int(number): reached for number, reached in tests.items()}


def child_of(mutant, path, functions, items, numbers, seconds, watch):
    """Starts the child that tries one mutant, or the file as it is (None): 0 survived, 1 killed, 2 no mutant."""

    def work():
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(300)
        limit = int(10 + 5 * seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        space = pages * resource.getpagesize() + (4 << 30)
        resource.setrlimit(resource.RLIMIT_AS, (space, space))
        if mutant is not None and not apply(mutant, path, functions):
            return 2
        watch.failed = False
        chosen = [items[number] for number in numbers]
        for item, following in zip(chosen, [*chosen[1:], None], strict=True):
            run_test(item, following)
            if watch.failed:
                return 1
        return 0

    return forked(work)


class Mutants:
    """The plugin whose loop takes the place of pytest's."""

    def __init__(self, args):
        self.args = args

    def pytest_runtestloop(self, session):
        args, items, watch = self.args, session.items, Failures()
        session.config.pluginmanager.register(watch)
        session.config.pluginmanager.unregister(name="terminalreporter")
        files = [name for name in FILES if not args.only or name in args.only]
        for name in LOADED_BEFORE:
            importlib.import_module(name)
        paths = {str(PACKAGE / name) for name in files}
        tests = reach(items, paths, watch, args.results.with_suffix(".reach"))
        results = json.loads(args.results.read_text()) if args.results.exists() else {}
        todo = []
        for name in files:
            path = PACKAGE / name
            text = path.read_text()
            digest = hashlib.sha256(text.encode()).hexdigest()
            if results.get(name, {}).get("sha256") != digest:
                results[name] = {"sha256": digest, "mutants": {}}
            known, functions = results[name]["mutants"], functions_of(path)
            mutants = mutants_of(text)[:: args.every]
            keys = {mutant.key for mutant in mutants}
            results[name]["mutants"] = known = {key: known[key] for key in known if key in keys}
            for mutant in mutants:
                old = known.get(mutant.key)
                if old is None or (args.survivors and old == "survived"):
                    todo.append((name, mutant, functions))
        self.write(results)
        self.run(todo, items, tests, watch, results)
        return True

    def run(self, todo, items, tests, watch, results):
        # Or the garbage collectors of the children would touch, and so copy, all the memory that they share with us.
        gc.collect()
        gc.freeze()
        running = {}

        def finish_one():
            child, status = os.wait()
            name, key = running.pop(child)
            status = os.waitstatus_to_exitcode(status)
            # Anything else is a mistake of this program, and says nothing about the tests.
            outcomes = {0: "survived", 1: "killed", 2: "no mutant"}
            self.note(results, name, key, "stopped" if status < 0 else outcomes.get(status, "no mutant"))

        def reaching(name, mutant=None):
            """The tests that guard a file, of which those that reach a mutant, with their seconds."""
            guards, path = {f"test_{test}" for test in TESTS[name]}, str(PACKAGE / name)
            return [
                (seconds, number)
                for number, (seconds, lines) in tests.items()
                if items[number].path.stem in guards
                and seconds < SECONDS_OF_A_TEST
                and not (mutant and mutant.lines.isdisjoint(lines.get(path, ())))
            ]

        # A file without a change has to survive, or all of its mutants would seem to be killed.
        for name in dict.fromkeys(name for name, _, _ in todo):
            reached = reaching(name)
            seconds, numbers = sum(s for s, _ in reached), [number for _, number in sorted(reached)]
            child = child_of(None, PACKAGE / name, {}, items, numbers, seconds, watch)
            if os.waitpid(child, 0)[1]:
                raise RuntimeError(f"The tests of {name} fail without a mutant.")
        for name, mutant, functions in tqdm(todo, unit="mutant"):
            path, reached = PACKAGE / name, reaching(name, mutant)
            if not reached:
                self.note(results, name, mutant.key, "survived")
                continue
            seconds, numbers = sum(s for s, _ in reached), [number for _, number in sorted(reached)]
            while len(running) >= self.args.workers:
                finish_one()
            running[child_of(mutant, path, functions, items, numbers, seconds, watch)] = (name, mutant.key)
        while running:
            finish_one()

    def note(self, results, name, key, outcome):
        results[name]["mutants"][key] = outcome
        self.write(results)

    def write(self, results):
        new = self.args.results.with_suffix(".new")
        new.write_text(json.dumps(results, indent=1))
        os.replace(new, self.args.results)


def summary(results):
    """Counts per file, and which survived."""
    found = {}
    for name, of_file in results.items():
        outcomes = collections.Counter(of_file["mutants"].values())
        killed = outcomes["killed"] + outcomes["stopped"]
        found[name] = {
            "sha256": of_file["sha256"],
            "mutants": killed + outcomes["survived"],
            "killed": killed,
            "stopped": outcomes["stopped"],
            "no mutant": outcomes["no mutant"],
            "survivors": [key for key, outcome in of_file["mutants"].items() if outcome == "survived"],
        }
    return found


def table(found):
    """Markdown of a summary: counts per file, and the survivors."""
    rows = ["| file | mutants | killed | |", "|---|---:|---:|---:|"]
    total = {"mutants": sum(f["mutants"] for f in found.values()), "killed": sum(f["killed"] for f in found.values())}
    for name, counts in [*((f"`{name}`", of_file) for name, of_file in found.items()), ("all", total)]:
        number, killed = counts["mutants"], counts["killed"]
        rows.append(f"| {name} | {number} | {killed} | {killed / max(number, 1):.1%} |")
    survivors = [f"- `{name}` {key}" for name, of_file in found.items() for key in of_file["survivors"]]
    return "\n".join([*rows, "", *survivors]) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="JSON; goes on from there if it exists")
    parser.add_argument("--table", type=Path, help="Markdown, counts and survivors")
    parser.add_argument("--json", type=Path, help="JSON, the same")
    parser.add_argument("--only", nargs="+", choices=FILES, metavar="FILE", help="of " + ", ".join(FILES))
    parser.add_argument("--survivors", action="store_true", help="try the survivors again")
    parser.add_argument("--every", type=int, default=1, help="of the mutants of a file only each n-th")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    if args.every < 1 or args.workers < 1:
        parser.error(f"--every and --workers must be at least 1, got {args.every} and {args.workers}.")
    args.results.parent.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    tests = sorted({f"tests/test_{test}.py" for name in args.only or FILES for test in TESTS[name]})
    status = pytest.main(["-q", "-s", "-p", "no:cacheprovider", *tests], plugins=[Mutants(args)])
    if status:
        return int(status)
    found = summary(json.loads(args.results.read_text()))
    text = table(found)
    print(text)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    if args.table:
        args.table.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
