"""The chapters run; and the runner does with small notebooks what it says."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell

from lesionlab import chapters, results
from lesionlab._files import LOCK, read_json, write_text
from lesionlab.chapters import notebooks, parameters, runs
from lesionlab.chapters.notebooks import ExecutionError

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
CHAPTERS = notebooks.available(FOLDER)


def quick_run(project: Any, name: str = "one", **options: Any) -> notebooks.Plan:
    chosen = {"force": options.pop("force", False), "timeout": options.pop("timeout", 60)}
    task = notebooks.plan(name, folder=project.folder, **options)
    return notebooks.carry_out(task, progress=False, **chosen)


def write_sets(project: Any, text: str) -> None:
    (project.folder / "sets.yml").write_text(text, encoding="utf-8")


# -- the chapters ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_runs_with_its_smoke_set(name, smoke):
    run = smoke(name)
    executed = nbformat.read(run.path, as_version=4)
    assert all(cell.execution_count for cell in executed.cells if cell.cell_type == "code")
    outputs = [output for cell in executed.cells for output in cell.get("outputs", ())]
    noise = [output.text for output in outputs if output.get("name") == "stderr"]
    assert not noise, "what goes to standard error is printed in the book"
    found = results.read(run.results)
    assert found["set"] == "smoke"
    assert found["results"], "a chapter records what it found"
    assert found["data"], "a chapter says what its numbers rest on"
    assert_says_nothing_about_the_machine(run.results)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["phantoms", "fu2021"])
def test_plain_papermill_in_another_folder_gives_the_same_results(name, smoke, tmp_path):
    alone = Path(shutil.copy(FOLDER / f"{name}.ipynb", tmp_path))
    recorded = tmp_path / "recorded.json"
    values = parameters.sets(FOLDER, name)["smoke"] | {"solutions": True}
    given = [part for key, value in values.items() for part in ("-p", key, str(value))]
    command = [sys.executable, "-m", "papermill", alone, "out.ipynb", "--no-progress-bar", *given]
    environment = os.environ | {results.ENVIRONMENT: str(recorded)}
    environment.pop(chapters.SET, None)
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True)
    # `smoke` runs in the checkout
    expected = dict(runs._numbers(results.read(smoke(name).results)["results"], ""))
    found = dict(runs._numbers(read_json(recorded)["results"], ""))
    assert found == pytest.approx(expected, abs=1e-6, rel=1e-6)


def assert_says_nothing_about_the_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for secret in (str(Path.home()), str(FOLDER.parent), str(path.parent), socket.gethostname()):
        # "root" or "box" alone could be any word
        assert len(secret) < 6 or secret not in text


# -- parameters ------------------------------------------------------------------------


def test_a_value_is_read_as_yaml_or_refused():
    given = ["x = 3", "x=-2.5E+3", "x=null", "x='1e-3'", "x=[1, .2e1, a]", "x=a=b"]
    found = [parameters.parse(text) for text in given]
    values = [3, -2500.0, None, "1e-3", [1, 2.0, "a"], "a=b"]
    assert repr(found) == repr([("x", value) for value in values])  # where 3 is not 3.0
    for text in ("seed", "two words=3", "x=[1", "x=!!python/object/apply:os.getcwd []"):
        with pytest.raises(ValueError, match="given as name=value, the value as YAML"):
            parameters.parse(text)


def test_yaml_that_stands_for_gigabytes_is_refused_before_it_is_made(project):
    lists = ", ".join(f"&a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30))
    bomb = f"[&a0 [x], {lists}]"
    with pytest.raises(ValueError, match=r"got 'x=\[&a0 .*: an alias, \*a0, is not allowed"):
        parameters.parse(f"x={bomb}")
    write_sets(project, f"one: {{smoke: {{x: {bomb}}}}}")
    with pytest.raises(ValueError, match=r"sets\.yml: .*; an alias, \*a0, is not allowed"):
        parameters.sets(project.folder, "one")


@pytest.mark.parametrize(
    "value",
    ["[" * 5000, "9" * 5000, "0x" + "f" * 9000, "2001-99-99", "2001-01-01", "!!set {a}",
     "{[1]: 2}", "!!bool maybe", "!!timestamp x", "{1: 2, '1': 3}", "\x00", "<<: 3"],
)  # fmt: skip
def test_yaml_that_a_run_cannot_keep_is_refused_by_name_in_one_line(project, value):
    with pytest.raises(ValueError, match=r"\Aa parameter .* YAML; got .x=.*: .+\Z"):
        parameters.parse(f"x={value}")
    write_sets(project, f"one: {{smoke: {{x: {value}}}}}")
    with pytest.raises(ValueError, match=r"\A.*sets\.yml: expected YAML like one: .*\Z"):
        parameters.sets(project.folder, "one")


def test_parameters_come_with_their_defaults(project):
    cell = "# how many\nn = 5\nrate = 1e-3  # step\nsizes = [1,\n  -2]\nx = None"
    path = project.write("one", parameters=cell)
    assert parameters.declared(path) == {"n": 5, "rate": 0.001, "sizes": [1, -2], "x": None}
    assert parameters.declared(project.write("two", parameters=None)) == {}
    for stored in (path, *FOLDER.glob("*.ipynb")):
        assert set(papermill.inspect_notebook(str(stored))) == set(parameters.declared(stored))


def test_what_is_no_notebook_with_one_cell_of_literals_is_named(project):
    for cell in ("n = 2 + x", "import os", "a = b = 1", "%matplotlib inline"):
        with pytest.raises(ValueError, match="takes only lines like 'seed = 0'"):
            parameters.declared(project.write("one", parameters=cell))
    cells = [new_code_cell(f"{x} = 1", metadata={"tags": ["parameters"]}) for x in "ab"]
    path = project.write_cells("one", cells)
    with pytest.raises(ValueError, match="2 cells tagged 'parameters', one is allowed"):
        parameters.declared(path)
    for literal in ("{[]: 1}", "-" * 100_000 + "1", "9" * 5000, "b'a'", "{1}", "'a\0'"):
        path = project.write("one", parameters=f"n = {literal}")
        with pytest.raises(ValueError, match=r"one\.ipynb: .* takes only lines like 'seed = 0'"):
            parameters.declared(path)


CELL: dict[str, Any] = {"cell_type": "code", "source": "n = 1", "metadata": {}}
NO_CELLS = [3, {}, CELL | {"source": 3}, CELL | {"source": [3]}, CELL | {"cell_type": None},
            CELL | {"metadata": []}, CELL | {"metadata": {"tags": "parameters"}},
            CELL | {"metadata": {"tags": [["parameters"]]}}]  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "not json", "{", "[]", "null", "[" * 100_000, "9" * 5000, '{"cells": 3}', "\udcff",
     '{"worksheets": []}', *(json.dumps({"cells": [CELL, cell]}) for cell in NO_CELLS)],
)  # fmt: skip
def test_a_malformed_notebook_is_named_whoever_reads_it(project, text):
    path = project.folder / "one.ipynb"
    path.write_text(text, encoding="utf-8", errors="surrogateescape")

    def plan(_: Path) -> Any:
        return notebooks.plan("one", folder=project.folder)

    for read in (parameters.declared, parameters.title, plan):
        with pytest.raises(ValueError, match=r"one\.ipynb is not a (JSON file|notebook)"):
            read(path)


def test_sets_have_an_empty_book_and_read_small_numbers(project):
    write_sets(project, "one: {smoke: {rate: 1e-3}, paper: }\ntwo:\n")
    found = parameters.sets(project.folder, "one")
    assert found == {"book": {}, "smoke": {"rate": 0.001}, "paper": {}}
    assert parameters.sets(project.folder, "two") == {"book": {}}
    assert parameters.sets(project.folder, "three") == {"book": {}}
    for text in ("- one", "one: [smoke]", "one: {smoke: 3}", "one: {smoke"):
        write_sets(project, text)
        with pytest.raises(ValueError, match=r"sets\.yml: expected YAML like one: {smoke: "):
            parameters.sets(project.folder, "one")


# -- planning --------------------------------------------------------------------------


def test_a_parameter_of_a_set_that_does_not_exist_is_told(project):
    project.write("lidc", parameters="seed = 1\nrate = 0.1")
    write_sets(project, "lidc: {smoke: {sead: 1}}")
    with pytest.raises(
        ValueError, match=r"unknown parameter 'sead' of lidc; did you mean 'seed'\?"
    ):
        notebooks.plan("lidc", set_name="smoke", folder=project.folder)


@pytest.mark.parametrize(
    ("default", "fitting", "unfitting"),
    [
        (1, [2, -1], [0.5, "a", True, None, [1]]),
        (0.5, [1, 0.1], ["0.1", True, None]),
        (True, [False], [1, "yes", None]),
        ([1], [[], ["a"]], [1, "a", {}]),
        ((1, 2), [[3, 4]], [1]),
        (None, [None, 1, "a", True], []),
    ],
)
def test_a_value_must_be_of_its_defaults_kind(default, fitting, unfitting):
    for value in fitting:
        parameters.check("one", {"x": value}, {"x": default})
    for value in unfitting:
        with pytest.raises(ValueError, match="parameter x of one takes a value of type"):
            parameters.check("one", {"x": value}, {"x": default})


def test_only_the_book_as_it_is_goes_where_the_book_is_built_from(project):
    project.write("one", parameters="seed = 1")
    write_sets(project, "one: {smoke: {}}")

    def place(**options: Any) -> str:
        path = notebooks.plan("one", folder=project.folder, **options).path
        return path.relative_to(project.root).as_posix()

    assert place() == "_build/executed/one.ipynb"
    assert place(out=project.root / "x") == "x/one.ipynb"
    assert re.fullmatch(r"runs/one/smoke-[0-9a-f]{8}/one\.ipynb", place(set_name="smoke"))
    first, other = place(parameters={"seed": 2}), place(parameters={"seed": 3})
    assert re.fullmatch(r"runs/one/book-[0-9a-f]{8}/one\.ipynb", first)
    assert first == place(parameters={"seed": 2}) != other


# -- running ---------------------------------------------------------------------------


def test_a_run_is_this_python_in_the_checkout_without_habits(project, tmp_path, monkeypatch):
    spec = {"argv": ["false"], "display_name": "Somebody else's", "language": "python"}
    for file, text in {
        "jupyter/kernels/python3/kernel.json": json.dumps(spec),
        "startup.py": "habit = 1",
        "ipython/profile_default/startup/00.py": "custom = 1",
    }.items():
        write_text(tmp_path / file, text)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("PYTHONSTARTUP", str(tmp_path / "startup.py"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = project.write(
        "one",
        "import sys\nfrom pathlib import Path\nfrom lesionlab import results",
        f"assert sys.executable == {sys.executable!r}, sys.executable",
        f"assert Path.cwd() == Path({str(project.root)!r}), Path.cwd()",
        "assert 'habit' not in globals() and 'custom' not in globals()",
        "results.record('seed', seed)\nresults.record_data('none', tier='phantom')",
        "import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()",
    )
    stored = notebook.read_bytes()

    run = quick_run(project)

    assert run.fresh
    assert run.path == project.executed / "one.ipynb"
    assert notebook.read_bytes() == stored
    executed = nbformat.read(run.path, as_version=4)
    nbformat.validate(executed)
    # the defaults are what the book shows: nothing is put in
    before = nbformat.read(notebook, as_version=4)
    assert [c.source for c in executed.cells] == [c.source for c in before.cells]
    assert any("image/png" in o.get("data", {}) for o in executed.cells[-1].outputs)
    assert "papermill" not in executed.metadata
    assert_says_nothing_about_the_machine(run.results)
    found = results.read(run.results)
    assert found["results"] == {"seed": 1}
    assert found["data"] == [{"name": "none", "tier": "phantom", "checksum": None}]
    assert (found["set"], found["parameters"]) == ("book", {"seed": 1})
    assert found["seconds"] == run.seconds > 0
    assert found["versions"]["numpy"]
    assert len(list(project.executed.iterdir())) == 2, "nothing else is left"


def test_a_failing_cell_is_named_and_the_notebook_kept(project):
    project.write("one", "1 + 1", "# Text\n\nbetween", "{}['missing']", "2 + 2")
    write_sets(project, "one: {smoke: {seed: 2}}")
    project.executed.mkdir(parents=True)
    (project.executed / "one.ipynb").write_text("earlier", encoding="utf-8")
    told = r"one\.ipynb, In \[4\]: KeyError: 'missing'; as far as it got: .*one\.failed\.ipynb"
    with pytest.raises(ExecutionError, match=told):
        quick_run(project, set_name="smoke", out=project.executed)
    failed = project.executed / "one.failed.ipynb"
    partial = nbformat.read(failed, as_version=4)
    assert any(o.output_type == "error" for c in partial.cells for o in c.get("outputs", ()))
    assert str(project.root) not in json.dumps(partial.metadata)
    assert (project.executed / "one.ipynb").read_text(encoding="utf-8") == "earlier"
    assert not (project.executed / "one.json").exists()

    project.write("one", "1 + 1")
    quick_run(project)
    assert not failed.exists(), "a success clears the failure away"


@pytest.mark.parametrize(
    ("cell", "complaint"),
    [
        ("import time\ntime.sleep(60)", r"In \[2\]: took longer than 1 s"),
        ("import os\nos._exit(1)", r"In \[2\]: killed the kernel"),
        ("import sys\nsys.exit()", r"In \[2\]: exits before the last cell"),
        ("def f(:", r"In \[2\]: SyntaxError"),
    ],
)
def test_other_ways_to_fail(project, cell, complaint):
    project.write("one", cell, "2 + 2")
    with pytest.raises(ExecutionError, match=complaint):
        quick_run(project, timeout=1)
    assert not (project.executed / "one.ipynb").exists()


def test_a_cell_that_is_to_be_skipped_is_no_early_end(project):
    skipped = new_code_cell("1 / 0", metadata={"tags": ["skip-execution"]})
    project.write_cells("one", [new_code_cell("1 + 1"), skipped, new_code_cell(" ")])
    assert quick_run(project).fresh


# -- up to date ------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the kernel: these tests are about when something runs, not how."""
    ran: list[str] = []

    def execute(task: notebooks.Plan, *_: Any) -> Any:
        ran.append(task.name)
        return nbformat.read(task.notebook, as_version=4)

    monkeypatch.setattr(notebooks, "_execute", execute)
    # so that an editor at work in lesionlab/ does not disturb them
    monkeypatch.setattr(notebooks, "library_sha256", lambda: "1")
    return ran


def test_what_is_up_to_date_is_not_run_again(project, counted):
    project.write("one")
    write_sets(project, "one: {smoke: {}}")
    assert quick_run(project).fresh
    again = quick_run(project)
    assert not again.fresh
    assert counted == ["one"]
    assert again.seconds == results.read(again.results)["seconds"]
    assert quick_run(project, force=True).fresh
    assert quick_run(project, set_name="smoke", out=project.executed).fresh
    assert quick_run(project).fresh, "the copy was of another set"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p, m: p.write("one", "1 + 2"), "the notebook changed"),
        (lambda p, m: (p.executed / "one.ipynb").unlink(), "it has not been executed"),
        (lambda p, m: (p.executed / "one.json").unlink(), "its results are missing"),
        (lambda p, m: (p.executed / "one.json").write_text("{"), "its results are missing"),
        (lambda p, m: m.setattr(notebooks, "library_sha256", lambda: "0"), "the library changed"),
        (lambda p, m: m.setenv("LESIONLAB_LIDC_SLICES", "x.zip"), "the settings changed"),
        (lambda p, m: write_sets(p, "one: {book: {seed: 5}}"), "the parameters changed"),
    ],
)
def test_what_changed_is_run_again(project, counted, monkeypatch, change, reason):
    monkeypatch.delenv("LESIONLAB_LIDC_SLICES", raising=False)
    project.write("one")
    quick_run(project)
    assert notebooks.plan("one", folder=project.folder).outdated() is None
    change(project, monkeypatch)
    assert reason in str(notebooks.plan("one", folder=project.folder).outdated())
    assert quick_run(project).fresh
    assert notebooks.plan("one", folder=project.folder).outdated() is None


def test_the_checksum_of_the_library_covers_every_kind_of_its_files(monkeypatch):
    covered: list[str] = []
    monkeypatch.setattr(notebooks, "sha256_tree", lambda folder, kinds: covered.extend(kinds))
    notebooks.library_sha256()
    of_no_effect = {"", ".md", ".pyc", ".typed"}
    package = (FOLDER.parent / "lesionlab").rglob("[!.]*")
    assert {file.suffix for file in package} - of_no_effect == {*covered}


def test_an_edit_while_it_runs_makes_the_copy_stale(project, counted, monkeypatch):
    path, execute = project.write("one"), notebooks._execute

    def edited(task: notebooks.Plan, *_: Any) -> Any:
        done = execute(task, *_)
        project.write("one", "another")
        return done

    monkeypatch.setattr(notebooks, "_execute", edited)
    told = notebooks.outdated(quick_run(project).path, notebooks.checksums(path))
    assert told == "the notebook changed since it was executed"


WAIT = (
    "from pathlib import Path\nimport time\nPath('{mine}').touch()\nend = time.monotonic() + 60\n"
)
WAIT += (
    "while not Path('{other}').exists():\n    assert time.monotonic() < end\n    time.sleep(0.1)"
)


@pytest.mark.slow
@pytest.mark.parametrize("threads", [None, "3"])
def test_side_by_side_they_share_the_cores_out_unless_the_user_has(project, monkeypatch, threads):
    monkeypatch.delenv("OMP_NUM_THREADS")  # of the tests
    monkeypatch.setattr(notebooks, "usable_cores", lambda: 8)
    if threads:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    shared = f"import os\nassert os.environ['OMP_NUM_THREADS'] == {threads or '4'!r}"
    project.write("one", WAIT.format(mine="a", other="b"), shared)
    project.write("two", WAIT.format(mine="b", other="a"), shared)
    tasks = [notebooks.plan(name, folder=project.folder) for name in ("one", "two")]
    found = {task.name: done for task, done in notebooks.carry_out_all(tasks, jobs=2)}
    assert [found[name].fresh for name in ("one", "two")] == [True, True], found
    # what is up to date needs no process
    monkeypatch.delattr(notebooks, "_side_by_side")
    assert not any(done.fresh for _, done in notebooks.carry_out_all(tasks, jobs=2))


@pytest.mark.parametrize(
    ("cores", "at_once", "threads"), [(1, 1, None), (2, 2, 1), (4, 2, 2), (8, 3, 2), (64, 5, 12)]
)
def test_as_many_run_at_once_as_the_cores_allow(project, monkeypatch, cores, at_once, threads):
    asked = [1, None]

    def ask(tasks: Any, jobs: int, how: Any) -> Any:
        asked[:] = jobs, how[0]
        return [(task, task) for task in tasks]

    for name in "abcde":
        project.write(name)
    monkeypatch.setattr(notebooks, "_side_by_side", ask)
    monkeypatch.setattr(notebooks, "usable_cores", lambda: cores)
    monkeypatch.setattr(notebooks, "carry_out", lambda task, **_: task)
    tasks = [notebooks.plan(name, folder=project.folder) for name in "abcde"]
    assert [task.name for task, _ in notebooks.carry_out_all(tasks)] == list("abcde")
    assert asked == [at_once, threads]


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_an_interrupted_command_goes_on_where_it_stopped(project, jobs):
    project.write("a_quick", "1 + 1")
    wait = "import os, time\nfrom pathlib import Path\n"
    wait += "Path('kernel').write_text(str(os.getpid()))\nPath('started').touch()\n"
    project.write("b_long", wait + "while not Path('go').exists():\n    time.sleep(0.1)")
    command = [Path(sys.executable).with_name("lesionlab"), "notebooks", "run", "--jobs", jobs]
    pipes: dict[str, Any] = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    # a shell's background jobs, and what they start, do not heed it unless told
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(command, cwd=project.root, preexec_fn=heed, **pipes) as first:
        try:
            deadline = time.monotonic() + 60
            started = [project.root / "started", project.executed / "a_quick.json"]
            while not all(path.exists() for path in started):
                assert time.monotonic() < deadline
                assert first.poll() is None
                time.sleep(0.05)
            first.send_signal(signal.SIGINT)
            _, errors = first.communicate(timeout=60)
        finally:
            first.kill()  # or a failure would wait for ever
    assert first.returncode == 130
    assert "lesionlab: interrupted; what was finished is kept" in errors
    # a kernel that is stopped may print a traceback of its own
    assert not re.search(r"lesionlab/(chapters|cli)/|KeyboardInterrupt", errors)
    until(lambda: not alive(int(kernel(project))))
    assert sorted(p.name for p in project.executed.iterdir()) == ["a_quick.ipynb", "a_quick.json"]

    (project.root / "go").touch()
    second = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=True)
    assert re.search(r"a_quick +up to date\s[\s\S]*b_long +executed", second.stdout)


@pytest.mark.slow
def test_what_a_killed_run_leaves_is_removed_by_the_next(project, tmp_path, monkeypatch):
    temporary, runtime = tmp_path / "temporary", tmp_path / "runtime"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(runtime))
    monkeypatch.setattr(tempfile, "tempdir", None)  # it is looked up once
    wait = "import os, tempfile, time\nfrom pathlib import Path\nwork = tempfile.mkdtemp()\n"
    wait += "Path('kernel').write_text(str(os.getpid()))\nwhile True:\n    time.sleep(0.1)"
    project.write("one", wait)
    kept = [temporary / "lesionlab-notebook-other", temporary / "lesionlab-notebook-link"]
    kept[0].mkdir()  # without an owner, and so perhaps being made
    kept[1].symlink_to(project.root)
    (project.root / LOCK).write_text(f"999999999 on {socket.gethostname()}", encoding="utf-8")
    command = [Path(sys.executable).with_name("lesionlab"), "notebooks", "run"]
    with subprocess.Popen(command, cwd=project.root, stderr=subprocess.DEVNULL) as first:
        try:
            until(lambda: (project.root / "kernel").exists() and kernel(project).isdigit())
            (scratch,) = set(temporary.iterdir()) - {*kept}
            project.write("two", "1 + 1")
            assert quick_run(project, "two").fresh
            assert scratch.exists(), "the other still runs"
        finally:
            first.kill()
    until(lambda: not alive(int(kernel(project))))
    assert scratch.exists()
    assert not runtime.exists()
    assert quick_run(project, "two", force=True).fresh
    assert {*temporary.iterdir()} == {*kept}
    assert (project.root / "kernel").exists()


def kernel(project: Any) -> str:
    return (project.root / "kernel").read_text(encoding="utf-8")


def until(true: Any) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # where nothing collects orphans, as in a container, the dead stay as zombies
    stat = Path(f"/proc/{process}/stat")
    return not stat.exists() or ") Z " not in stat.read_text(encoding="utf-8")
