"""The benchmark measures what it says, tells noise from change, and refuses what it cannot do."""

import copy
import json
import re
import subprocess
import sys
from xml.etree import ElementTree

import pytest
import torch

from torchloss.bench import cases, command, compare, harness, machine, memory, record, report, rivals
from torchloss.bench.cases import ROWS, SETS, Case
from torchloss.bench.step import Step, incoming, step_of
from torchloss.testing.losses import DEVICES, LOSSES

pytestmark = pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")


def small(row="cross_entropy-index", shape=(8, 10), **fields):
    return Case(ROWS[row], shape, **fields)


# What is timed.


@pytest.mark.parametrize(
    "case, read, written",
    [
        (small(), 2 * (80 * 4 + 8 * 8), 80 * 4),
        (small(direction="forward"), 80 * 4 + 8 * 8, 0),
        (small(dtype=torch.bfloat16), 2 * (80 * 2 + 8 * 8), 80 * 2),
        (small(variant="ignored"), 2 * (60 * 4 + 8 * 8), 80 * 4),  # 2 rows of 8 are not read
        (small("cross_entropy-index-weight"), 2 * (80 * 4 + 8 * 8 + 10 * 4), 80 * 4),
        (small("cross_entropy-probs"), 2 * 2 * 80 * 4, 80 * 4),
        (small("nll_loss"), 2 * (8 * 4 + 8 * 8), 80 * 4),
        (small("nll_loss", direction="forward"), 8 * 4 + 8 * 8, 0),
        (small("softmax"), 3 * 80 * 4, 2 * 80 * 4),
        (small("softmax", direction="forward"), 80 * 4, 80 * 4),
        (small("softmax_entropy"), 2 * 80 * 4, 80 * 4),
        (small("mse_loss", (64,)), 2 * 2 * 64 * 4, 64 * 4),
        (small("mse_loss-weight", (64,), direction="forward"), 3 * 64 * 4, 0),
        (small(shape=(2, 5, 3, 3)), 2 * (90 * 4 + 18 * 8), 90 * 4),
    ],
    ids=str,
)
def test_least_bytes(case, read, written):
    assert case.traffic(*case.arguments()) == (read, written)


def test_the_set_all_has_every_loss_dtype_and_direction():
    made = cases.cases(SETS["all"], ["cpu"])
    assert {str(c.loss) for c in made} == {str(loss) for loss in LOSSES}
    for loss in map(str, LOSSES):
        assert {(c.dtype, c.direction) for c in made if str(c.loss) == loss} == {
            (dtype, direction)
            for dtype in (torch.float32, torch.bfloat16, torch.float16)
            for direction in ("forward", "both")
        }
    assert len({str(c) for c in made}) == len(made)


def test_a_set_in_other_dtypes_and_directions():
    made = cases.cases(SETS["quick"], ["cpu"], [torch.float64], ["forward"])
    assert {(c.dtype, c.direction) for c in made} == {(torch.float64, "forward")} and len(made) == 6


def test_the_grid_of_a_gpu_has_small_and_huge_rows():
    made = [c for c in cases.cases(SETS["grid"], ["cuda"]) if c.shape[0] == 4096]
    assert {c.dtype for c in made} == {torch.float32, torch.bfloat16}
    assert min(c.shape[1] for c in made) == 10 and max(c.shape[1] for c in made) == 262144


def test_large_tensors_repeat_what_was_drawn(monkeypatch):
    monkeypatch.setattr(cases, "MOST_DRAWN", 100)
    x, (target,), _ = small(shape=(25, 10)).arguments()
    assert x.shape == (25, 10) and target.shape == (25,) and len(x.unique()) == 100
    assert torch.equal(x[:5], x[20:]) and not torch.equal(x[:5], x[5:10])
    assert len(small("mse_loss", (250,)).arguments()[0].unique()) == 100


def test_series_grow_from_100_to_10_to_the_8_elements():
    made = cases.cases(SETS["scaling"], ["cpu", "cuda"])
    for name in {c.series for c in made}:
        for where in (("cpu", ""), ("cuda", ""), ("cuda", "transfer")):
            sizes = [c.elements for c in made if c.series == name and (c.device, c.variant) == where]
            assert sizes == sorted(set(sizes)) and (sizes[0], sizes[-1], len(sizes)) == (100, 10**8, 13)


# How it is timed.


@pytest.mark.parametrize("short, turns", ((0, "ab"), (60, "aabb")))
def test_steps_take_turns(short, turns, monkeypatch):
    """A short call with one before it that finds the memory as the last of its own kind left it."""
    monkeypatch.setattr(harness, "SHORT", short)
    order = []
    steps = {name: Step(lambda name=name: order.append(name) or sum(range(300_000))) for name in "ab"}
    times = harness.interleaved(steps, "cpu", seconds=0.01)
    assert len(times["a"]) == len(times["b"]) >= 9
    assert "".join(order) == "abab" + turns * len(times["a"])


def test_what_is_prepared_is_off_the_clock(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(harness, "perf_counter", lambda: clock[0])

    def takes(seconds):
        return lambda: clock.__setitem__(0, clock[0] + seconds)

    assert harness.turn(Step(takes(1)), 3, "cpu") == 1
    assert harness.turn(Step(takes(1), prepare=takes(50)), 3, "cpu") == 1


def test_a_gpu_has_a_clock_of_its_own(monkeypatch):
    """Here, one that stands still but for the calls: they take 2 ms each, and to prepare one 50."""
    now = [0.0]

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            self.at = now[0]

        def synchronize(self):
            now[0] += 1000

        def elapsed_time(self, other):
            return other.at - self.at

    monkeypatch.setattr(torch.cuda, "Event", Event)

    def takes(ms):
        return lambda: now.__setitem__(0, now[0] + ms)

    assert harness.turn(Step(takes(2)), 3, "cuda") == 2e-3
    before = now[0]
    assert harness.turn(Step(takes(2), prepare=takes(50)), 3, "cuda") == 2e-3
    assert now[0] - before == 3 * 52 + 1000


def test_the_speed_of_memory_is_measured_with_what_fits(monkeypatch):
    monkeypatch.setattr(harness, "MOST_COPIED", 1000)
    seen = []
    monkeypatch.setattr(harness, "bandwidth_steps", lambda size, _: seen.append(size) or STEPS)
    monkeypatch.setattr(harness, "interleaved", lambda steps, *_: {name: [2.0] * 9 for name in steps})
    result = harness.measure(small(), ["torchloss"], seconds=0.01)  # 1088 bytes
    assert seen == [1000] and result.copy_gbs == pytest.approx(1000 / 2 / 1e6)
    assert result.limit_ms == pytest.approx(2.0 * (result.read_bytes + result.write_bytes) / 1000)


STEPS = {"copy": Step(lambda: None), "read": Step(lambda: None)}


def test_garbage_is_collected_off_the_clock():
    import gc

    seen = []
    harness.interleaved({"a": Step(lambda: seen.append(gc.isenabled()))}, "cpu", seconds=0.001)
    assert not any(seen) and gc.isenabled()


def test_the_limit():
    """As many bytes as are both read and written at the speed of a copy, the others as they are read."""
    assert harness.limit(100, 100, copy_ms=6, read_ms=3) == 6
    assert harness.limit(100, 0, copy_ms=6, read_ms=3) == 3
    assert harness.limit(200, 100, copy_ms=6, read_ms=3) == pytest.approx(5)
    assert harness.limit(0, 100, copy_ms=6, read_ms=3) == 6


def test_the_error_is_relative_to_the_largest_entry():
    exact = torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert harness.error(torch.tensor([1.0, -1.5]), exact) == 0.25
    assert harness.error(torch.tensor([0.5, -2.0], dtype=torch.bfloat16), exact) == 0.25
    assert harness.error(None, exact) is None


MEGABYTE = torch.ones(250_000)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "function, megabytes",
    [
        (lambda a: a.sum(), 0),
        (lambda a: a + 1, 1),
        (lambda a: (a + 1) * 2, 2),
        (lambda a: [a + 1 for _ in range(3)], 3),
        (lambda a: [(a + 1).sum() for _ in range(3)], 1),  # one after the other
    ],
)
def test_peak_memory(function, megabytes, device):
    a = MEGABYTE.to(device)
    assert memory.peak_bytes(Step(lambda: function(a)), device) == pytest.approx(megabytes * 1e6, abs=5000)


@pytest.mark.parametrize("device", DEVICES)
def test_peak_memory_of_a_gradient_counts_it_each_time(device):
    case = small("mse_loss", (250_000,), device=device)
    step = step_of(case, case.loss.reference, *case.arguments())
    step.run()
    assert memory.peak_bytes(step, device) == pytest.approx(2e6, abs=5000)  # the difference and the gradient


@pytest.mark.parametrize("direction", cases.DIRECTIONS)
@pytest.mark.parametrize("loss", LOSSES, ids=str)
def test_a_step_gives_value_and_gradient(loss, direction):
    case = Case(loss, (4, 5), torch.float64, direction=direction)
    value, gradient = step_of(case, rivals.ours(case), *case.arguments()).run()
    x, targets, options = case.arguments()
    exact = case.loss.reference(x.requires_grad_(), *targets, **options)
    exact.backward(incoming(case, x))
    for mine in (value, harness.exact_results(case, *case.arguments())[0]):
        assert harness.error(mine, exact.detach()) < 1e-12
    if direction == "forward":
        assert gradient is None and not value.requires_grad
    else:
        assert harness.error(gradient, x.grad) < 1e-12


class Spoiling(torch.autograd.Function):
    """A sum that spoils its input, forward and backward."""

    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        total = x.sum()
        x.detach().add_(1)
        return total

    @staticmethod
    def backward(ctx, upstream):
        return ctx.x.detach().mul_(2)


@pytest.mark.parametrize("direction", cases.DIRECTIONS)
def test_a_step_that_overwrites_the_logits_gets_fresh_ones(direction):
    case = small(direction=direction)
    x, *others = case.arguments()
    step = step_of(case, lambda input, *_, **__: Spoiling.apply(input), x.clone(), *others, overwritten=True)
    for _ in range(3):
        step.prepare()
        value, gradient = step.run()
        assert torch.equal(value, x.sum())
        assert gradient is None if direction == "forward" else torch.equal(gradient, 2 * (x + 1))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("row", ["cross_entropy-index", "mse_loss", "softmax"])
def test_a_case(row, device):
    result = harness.measure(small(row, device=device), ["torchloss", "eager"], seconds=0.01)
    for entry in result.entries:
        assert not entry.reason and 0 < entry.ms[0] <= entry.ms[1] <= entry.ms[2] <= entry.ms[3]
        assert entry.value_error < 1e-6 and entry.gradient_error < 1e-6 and entry.peak_bytes >= 320
    assert result.rounds >= 9 and result.limit_ms > 0 and result.copy_gbs > 0 and result.read_gbs > 0


# Rivals.


def fails(case):
    raise ValueError("no\nand more")


def test_a_rival_that_fails_is_a_row_with_a_reason(monkeypatch):
    monkeypatch.setitem(rivals.RIVALS, "apex", fails)
    monkeypatch.setitem(rivals.RIVALS, "cce", lambda case: lambda *_, **__: 1 / 0)
    monkeypatch.setattr(rivals, "of_indices", lambda case: None)
    monkeypatch.setitem(sys.modules, "liger_kernel", None)
    result = harness.measure(small(), ["apex", "cce", "liger", "eager"], seconds=0.01)
    apex, cce, liger, eager = result.entries
    assert apex.reason == "ValueError: no" and cce.reason.startswith("ZeroDivisionError")
    assert "liger_kernel" in liger.reason and "not installed" in liger.reason
    assert eager.ms and not eager.reason and not liger.ms
    assert "not measured" in report.lines(result)[0]
    assert "not measured: apex: ValueError: no (1 cases)" in report.missing([result])


def test_packages_for_cuda_say_so_on_the_cpu():
    result = harness.measure(small(), ["liger", "quack", "cce", "apex", "eager"], seconds=0.01)
    assert [e.reason for e in result.entries] == ["runs on CUDA only"] * 4 + [""]


def test_inplace_backward_needs_a_torchloss_that_has_it(monkeypatch):
    case = small(variant="inplace")
    monkeypatch.setattr("torchloss.functional.cross_entropy", lambda input, target: None)
    with pytest.raises(rivals.Missing, match="inplace_backward"):
        rivals.ours(case)
    monkeypatch.setattr("torchloss.functional.cross_entropy", lambda *, inplace_backward=False: inplace_backward)
    assert rivals.ours(case)() is True and rivals.overwrites("torchloss", case)
    assert not rivals.overwrites("eager", case)


@pytest.mark.slow
@pytest.mark.parametrize("row", ["cross_entropy-index", "kl_div", "softmax"])
def test_the_compiled_rival(row):
    """It compiles without a break, or its row tells why not."""
    result = harness.quietly(harness.measure, small(row), ["compile", "eager"], 0.01)
    assert all(e.ms and e.gradient_error < 1e-6 for e in result.entries), result.entries


# The file, the table and the comparison.


def made(ms=(1.0, 1.1, 1.2, 1.3), eager=(2.0, 2.1, 2.2, 2.3), **machine):
    """A record of one case."""
    result = harness.Result("case", "", "case", [8], "float32", "cpu", "both", "", 2, 100, 50)
    result.limit_ms, result.copy_gbs = 0.5, 1e-4
    result.entries = [
        harness.Entry("torchloss", ms=list(ms), value_error=1e-8),
        harness.Entry("eager", ms=list(eager), gradient_error=float("nan")),
        harness.Entry("liger", reason="runs on CUDA only"),
    ]
    return record.Record({"processor": "a", **machine}, [result])


def scaled(by, times=(1.0, 1.1, 1.2, 1.3)):
    return tuple(by * t for t in times)


def test_the_file_holds_everything(tmp_path):
    path = tmp_path / "bench.json"
    before = made()
    before.write(path)
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    after = record.read(path)
    expected = copy.deepcopy(before)
    expected.results[0].entries[1].gradient_error = "nan"
    assert after == expected
    assert report.lines(after.results[0])[1][-1] == "nan"


def test_the_table(monkeypatch, capsys):
    result = made(ms=scaled(2)).results[0]
    ours, theirs, liger, limit = report.lines(result)
    assert ours == ("case", "torchloss", "2.4 (2.2..2.6)", "1.00", "4.80", "6.25e-05", "62%", "", "1e-08", "")
    assert theirs[3] == "0.92" and report.losing(result, theirs) and not report.losing(result, ours)
    assert limit[1:3] == ("limit", "0.5") and not report.losing(result, liger)
    assert [line[0] for line in report.lines(result)] == ["case", "8 float32", "cpu both, 2 threads", ""]
    monkeypatch.setitem(sys.modules, "rich.table", None)
    report.show(made())
    printed = capsys.readouterr().out
    assert "processor a" in printed and "liger: runs on CUDA only (1 cases)" in printed and "1.2 (1.1..1.3)" in printed


@pytest.mark.parametrize(
    "new, slower, faster, says",
    [
        (made(), 0, 0, "1.00"),
        (made(ms=scaled(1.5)), 1, 0, "slower"),
        (made(ms=scaled(0.5)), 0, 1, "faster"),
        (made(ms=scaled(1.09, (1.2, 1.2, 1.2, 1.2))), 0, 0, "1.09"),  # below the threshold
        (made(ms=(1.0, 1.25, 1.5, 2.0)), 0, 0, "1.25"),  # noise: the quartiles overlap
        (made(ms=scaled(1.5), eager=scaled(1.5, (2.0, 2.1, 2.2, 2.3))), 0, 0, "the machine did"),
        (made(ms=scaled(3.0), eager=scaled(1.5, (2.0, 2.1, 2.2, 2.3))), 1, 0, "2.00 relative to eager"),
        (made(eager=scaled(0.5, (2.0, 2.1, 2.2, 2.3))), 0, 0, "2.00 relative to eager"),  # torch became faster
        (made(processor="b"), 0, 0, "processor: a, then b"),
        (made(driver="1"), 0, 0, "driver: unknown, then 1"),
        (record.Record({"processor": "a"}), 0, 0, "no case in common"),
    ],
)
def test_compare(new, slower, faster, says, tmp_path, capsys):
    made().write(tmp_path / "old.json")
    new.write(tmp_path / "new.json")
    code = compare.compare(tmp_path / "old.json", tmp_path / "new.json", threshold=0.1)
    printed = capsys.readouterr().out
    assert code == slower and f"torchloss: {slower} slower, {faster} faster" in printed and says in printed


def test_crossover():
    def result(device, size, ms, variant=""):
        r = copy.deepcopy(made(ms=(ms,) * 4).results[0])
        r.series, r.device, r.shape, r.variant = "s", device, [size], variant
        return r

    results = [result("cpu", n, n) for n in (10, 100, 1000)] + [result("cuda", n, 50) for n in (10, 100, 1000)]
    results += [result("cuda", n, 5000, "transfer") for n in (10, 100, 1000)]
    assert report.crossover(results) == [
        "s: CUDA is faster than the CPU from 100 elements on, transfer excluded",
        "s: CUDA is not faster than the CPU at any size, transfer included",
    ]


@pytest.mark.parametrize("series", ["", "mse_loss, N"])
def test_the_drawing(series, tmp_path):
    pytest.importorskip("matplotlib")
    from torchloss.bench.figure import draw

    drawn = made()
    second = copy.deepcopy(drawn.results[0])
    second.shape, second.case = [80], "another"
    drawn.results.append(second)
    for result in drawn.results:
        result.series = series
    for name in ("a.svg", "b.svg"):
        draw(drawn, tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    ElementTree.fromstring(text)
    assert text == (tmp_path / "b.svg").read_text()
    for words in ("torchloss", "eager", "limit", series or "another, 2 threads"):
        assert f"{words}" in re.sub(r"<!--.*?-->", "", text), words


def test_others_are_seen(monkeypatch):
    """This process had 2 of 8 processor seconds in 4 seconds."""
    stat, clock = "cpu {} 0 0 100 0 0 0 {}\ncpu0 1\n", [0.0, 0.0]
    ticks = machine.os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(machine, "text", lambda path: stat.format(*(int(clock[0] * ticks),) * 2))
    monkeypatch.setattr(machine, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(machine, "process_time", lambda: clock[1])
    others = machine.Others()
    clock[:] = 4.0, 2.0
    assert others.busy() == 1.5
    loud = made()
    loud.results[0].others = 1.5
    assert report.disturbed(made().results) == [] and "up to 1.5 processors" in report.disturbed(loud.results)[0]


def test_the_machine():
    facts = machine.machine(["cpu"])
    assert facts["torch"] == torch.__version__ and facts["processor"] and all(facts.values())


# The command.


@pytest.mark.parametrize(
    "options, says",
    [
        ({"set": "huge"}, "--set: 'huge' is none of quick, main, all, scaling, grid, big, small"),
        ({"dtype": "int8"}, "--dtype: 'int8'"),
        ({"device": "tpu"}, "--device"),
        ({"direction": "backward"}, "--direction"),
        ({"rivals": "eager,jax"}, "--rivals: 'jax'"),
        ({"threads": "two"}, "--threads"),
        ({"threads": "-1"}, "--threads"),
        ({"only": "no such"}, "--only 'no such' leaves no case"),
        ({"only": "("}, "--only"),
        ({"json": "/nowhere/at/all.json"}, "there is no folder /nowhere/at"),
        ({"svg": "/nowhere/at/all.svg"}, "choose another --svg"),
        ({"json": "/"}, "--json"),
    ],
)
def test_refusals(options, says, monkeypatch):
    monkeypatch.setattr(harness, "measure", lambda *_: pytest.fail("measured"))
    paths = {k: command.Path(v) for k, v in options.items() if k in ("json", "svg")}
    with pytest.raises(command.Refusal) as refusal:
        command.bench(command.Options(**options | paths))
    assert says in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    "text, says",
    [(None, "No such file"), ("{", "not JSON"), ("[]", "not written by"), ('{"timings": []}', "not written by")]
    + [('{"format": 2, "results": [{}], "machine": {}, "date": ""}', "not whole")],
)
def test_files_that_cannot_be_compared(text, says, tmp_path):
    path = tmp_path / "old.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(command.Refusal, match=says):
        record.read(path)


def run(*arguments, folder=None):
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=300, cwd=folder)


def test_no_case_is_begun_after_the_time(monkeypatch, capsys):
    clock = iter([0, 1, 100, 200])
    monkeypatch.setattr(command, "monotonic", lambda: next(clock))
    command.bench(command.Options("quick", "cross_entropy", "cpu", seconds=0.01, minutes=1, rivals="torchloss"))
    printed = capsys.readouterr().out
    assert "out of time: 2 of 3 cases" in printed and "8x10" in printed


def test_the_command(monkeypatch, capsys, tmp_path):
    out = tmp_path / "bench.json"
    options = command.Options("quick", " 8x10 ", "cpu", threads="1,2", seconds=0.01, json=out)
    command.bench(options)
    printed = capsys.readouterr().out
    assert "8x10 float32" in printed and "CUDA: not measured" in printed
    assert [r["threads"] for r in json.loads(out.read_text())["results"]] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("module", ["torchloss", "torchloss.bench"])
def test_the_command_line(module, tmp_path):
    pytest.importorskip("typer")
    words = [module, "bench"][: 2 if module == "torchloss" else 1]
    out = str(tmp_path / "bench.json")
    done = run(*words, "--quick", "--only", " 8x10 ", "--seconds", "0.01", "--device", "cpu", "--json", out)
    assert done.returncode == 0 and "cross_entropy" in done.stdout and not done.stderr
    assert run(*words, "compare", out, out).returncode == 0
    for wrong in (("compare", out, "/nowhere.json"), ("--set", "huge"), ("compare", out)):
        done = run(*words, *wrong)
        assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr
