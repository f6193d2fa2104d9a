"""The benchmark harness: its gate, its arithmetic, its files. Nothing here depends on a time."""

import json
import os
import platform
import time
from collections import Counter

import pytest
import torch

from torchext.bench import (
    chart,
    cli,
    contenders,
    gate,
    machine,
    model_table,
    models,
    race,
    results,
    runtimes,
    stats,
    table,
    team,
    timing,
    worker,
)
from torchext.bench.case import Case, families, find, flatten, load
from torchext.bench.cli import main, parse


def cases():
    """What a worker asks of a module of cases."""
    return [CASE, TRAINED]


def make_inputs(generator):
    return (torch.randn(2, 3, 4, 4, generator=generator),)


def doubled():
    return lambda x: x + x


CASE = Case("doubled/b2", "doubled", make_inputs, doubled, doubled, bytes=768, flops=96, batch=2)
TRAINED = Case(
    "linear/b2/train",
    "linear_train",
    lambda generator: (torch.randn(2, 3, generator=generator),),
    lambda: torch.nn.Linear(3, 4),
    lambda: torch.nn.Linear(3, 4),
    bytes=100,
    layout="contiguous",
    training=True,
)


class Right(contenders.Torchext):
    def version(self, device):
        return "1"


class Peer(contenders.Eager):
    pass


class Wrong(contenders.Contender):
    name = "wrong"

    def build(self, case):
        (x,) = case.inputs("contiguous")
        return lambda: x + x * 1.00001


class WrongOurs(Wrong):
    name = "torchext"
    ours = True


class Missing(contenders.Contender):
    name = "missing"

    def version(self, device):
        raise contenders.AbsentError("not installed")


class Crashing(contenders.Contender):
    name = "crashing"

    def build(self, case):
        raise RuntimeError("no kernel\nfor this")


class Dying(contenders.Contender):
    name = "dying"

    def version(self, device):
        print("last words", flush=True)
        os._exit(3)


class Telling(contenders.Contender):
    def version(self, device):
        return os.environ["TORCHEXT_DISABLE"]


class Inside:
    """A worker without a process of its own."""

    process = "this one"

    def __init__(self, contender):
        self.contender = contender
        if contender is None:
            self.worker = worker.JudgeWorker()
        else:
            self.worker = worker.ContenderWorker(__name__, type(contender).__name__)

    def request(self, method, *arguments):
        self.call = getattr(self.worker, method), arguments

    def answer(self):
        method, arguments = self.call
        try:
            return method(*arguments)
        except Exception as error:
            raise team.WorkerError(worker.in_a_line(error)) from None

    def ask(self, *request):
        self.request(*request)
        return self.answer()

    def stop(self):
        pass


@pytest.fixture
def run(monkeypatch):
    """(contenders, case) -> the Outcome of a race in this process."""
    threads, seed = torch.get_num_threads(), torch.random.get_rng_state()
    monkeypatch.setattr(race, "Remote", lambda contender, threads: Inside(contender))
    monkeypatch.setattr("torchext.bench.worker.Yardsticks", NoYardsticks)

    def run(entrants, case=CASE):
        with race.Race(1, rounds=3, contenders=entrants, turn_s=0.0005) as running:
            return running.run(__name__, case)

    yield run
    torch.set_num_threads(threads)
    torch.random.set_rng_state(seed)
    torch.set_grad_enabled(True)


class NoYardsticks:
    """Two limits that need no compiler."""

    def build(self, case, threads):
        return {"copy": (lambda: None, case.bytes), "peak": (lambda: None, 1)}


def test_right_outputs_are_timed(run):
    outcome = run([Right(), Peer()])
    assert not outcome.failed
    for entry in outcome.entries.values():
        assert entry.status == "ok" and len(entry.rounds) == 3 and min(entry.samples) > 0
        assert entry.verdict.error <= entry.verdict.allowed
    assert outcome.entries["torchext"].speedup["against"] == "eager"
    assert outcome.entries["eager"].speedup is None
    assert outcome.limits["bytes_per_s"] > 0


def test_gradients_pass_the_gate_too(run):
    outcome = run([Right(), Peer()], TRAINED)
    assert not outcome.failed and outcome.entries["torchext"].rounds


def test_a_wrong_peer_is_failed_and_not_timed(run):
    outcome = run([Right(), Peer(), Wrong(), Missing(), Crashing()])
    wrong, missing, crashing = (outcome.entries[n] for n in ("wrong", "missing", "crashing"))
    assert (wrong.status, wrong.rounds) == ("failed", []) and "allowed" in wrong.reason
    assert (missing.status, missing.reason) == ("absent", "not installed")
    assert (crashing.status, crashing.reason) == ("failed", "RuntimeError: no kernel")
    assert not outcome.failed and outcome.entries["torchext"].speedup["against"] == "eager"


def test_a_wrong_torchext_fails_the_case_and_nobody_is_timed(run):
    outcome = run([WrongOurs(), Peer()])
    assert "allowed" in outcome.failed
    assert all(not entry.rounds for entry in outcome.entries.values())
    assert [entry.status for entry in outcome.entries.values()] == ["failed", "untimed"]
    document = results.new_document("cpu", 1)
    results.add(document, outcome)
    assert not document["benchmarks"]
    assert "failed: output 0: error" in table.markdown(document)


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda y: y * 1.00001, "error"),
        (lambda y: y.index_fill(0, torch.tensor(0), torch.nan), "error inf"),
        (lambda y: y[:1], "shape"),
        (lambda y: y.double(), "expected torch.float32"),
    ],
)
def test_gate(spoil, words):
    judged = gate.judge(CASE)
    y = judged[0][0].float()
    assert not gate.check(CASE, [y], judged).reason
    assert words in gate.check(CASE, [spoil(y)], judged).reason
    assert gate.check(CASE, [], judged).reason


def test_worker_process_is_replaced_when_it_dies_and_stopped_when_it_waits():
    remote = team.Remote(Dying(), threads=1)
    try:
        with pytest.raises(team.WorkerError, match="ended with status 3: last words"):
            remote.ask("version", "cpu")
        with pytest.raises(team.WorkerError, match="AttributeError"):
            remote.ask("nonsense")
        _, status = os.waitpid(remote.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
    finally:
        remote.stop()


def test_peers_run_without_torchexts_ops():
    remote = team.Remote(Telling(), threads=1)
    try:
        assert remote.ask("version", "cpu") == ("1", "")
    finally:
        remote.stop()
    assert contenders.Torchext.env["TORCHEXT_DISABLE"] == "0"


def test_peak_memory_is_that_of_a_call():
    one, peaks = worker.ContenderWorker("torchext.bench.contenders", "Eager"), []
    for size in (200 << 20, 0):
        one.calls = {"call": lambda size=size: len(bytearray(size))}
        peaks.append(one.peak_bytes())
    assert 190 << 20 < peaks[0] - peaks[1] < 260 << 20


def test_a_process_that_keeps_memory_is_replaced(run, monkeypatch):
    stopped = []
    monkeypatch.setattr(Inside, "stop", lambda self: stopped.append(self.contender))
    first, second = Right(), Peer()
    monkeypatch.setattr(race, "MOST_KEPT", 1 << 50)
    assert not run([first, second]).failed
    assert stopped == [None, first, second]  # all of them, at the end
    stopped.clear()
    monkeypatch.setattr(race, "MOST_KEPT", 0)
    assert not run([first, second]).failed
    assert stopped == [first, second, None, first, second]


def test_a_turn_of_slow_calls_wastes_none():
    """One wakes threads and caches; each further one is a sample."""
    made = []
    samples = timing.CpuTimer().turn(lambda: made.append(time.sleep(0.002)), 0.0001)
    assert len(made) == 2 and len(samples) == 1 and samples[0] >= 0.002
    timer = timing.CpuTimer()
    assert timer.turn(lambda: None, 0.0001) and timer.calls > 1


def test_long_calls_are_woken_once(monkeypatch):
    monkeypatch.setattr(timing, "WARM_S", 0.001)
    made, timer = [], timing.CpuTimer()
    for _ in range(2):
        assert len(timer.turn(lambda: made.append(time.sleep(0.002)), 0.0001)) == 1
    assert len(made) == 3


def test_long_races_have_fewer_rounds(run, monkeypatch):
    monkeypatch.setattr(race, "ENOUGH_ROUNDS", 2)
    monkeypatch.setattr(race, "MOST_S", 0)
    outcome = run([Right(), Peer()])
    assert [len(entry.rounds) for entry in outcome.entries.values()] == [2, 2]


def test_ratios():
    ours = [[1.0, 1.0, 5.0], [2.0, 2.0, 2.0], [10.0]]
    fast = [[2.0], [4.0], [20.0]]  # twice our time in each round, whatever the machine's phase
    slow = [[9.0], [9.0], [90.0]]
    speedup = stats.speedups(ours, {"slow": slow, "fast": fast})
    assert speedup == {"against": "fast", "min": 2.0, "median": 2.0, "paired": 2.0}
    assert stats.speedups(ours, {}) is None
    assert stats.geometric_mean([0.5, 2.0, 8.0]) == pytest.approx(2.0)


def test_paired_ratio_ignores_drift():
    ours = [[1.0 * phase] for phase in (1, 1, 1, 7, 7)]
    other = [[1.5 * phase] for phase in (1, 1, 1, 7, 7)]
    assert stats.paired(ours, other) == pytest.approx(1.5)


def test_roofline():
    limits = {"bytes_per_s": 768.0, "flops_per_s": 9.6}
    assert stats.roofline_s(CASE, limits) == 10.0  # 1 s of bytes, 10 s of FLOPs
    assert stats.roofline_s(CASE, None) is None


def outcome_with(name, family, seconds, other=1.0, **more):
    """As if measured: `seconds` for ours, `other` for eager, and so on."""
    case = Case(
        name, family, make_inputs, doubled, doubled, bytes=1000, flops=10, origin="theirs 1"
    )
    times = {"torchext": seconds, "eager": other, **more}
    entries = {
        contender: race.Entry(contender == "torchext", "ok", rounds=[[seconds] * 2] * 2)
        for contender, seconds in times.items()
    }
    entries["openvino"] = race.Entry(False, "absent", "not installed")
    peers = {contender: entries[contender].rounds for contender in times if contender != "torchext"}
    entries["torchext"].speedup = stats.speedups(entries["torchext"].rounds, peers)
    limits = {"bytes_per_s": 2000.0, "flops_per_s": 1e9}
    return race.Outcome(case, 2, entries, limits)


@pytest.fixture
def document():
    document = results.new_document("cpu", 2, "some-machine")
    results.add(document, outcome_with("b/lost", "b", 2.0))
    results.add(document, outcome_with("b/won", "b", 0.5))
    results.add(document, outcome_with("a/won", "a", 0.25))
    return document


def test_file_is_pytest_benchmarks(document, tmp_path):
    fields = pytest.importorskip("pytest_benchmark.stats").Stats.fields
    results.save(document, tmp_path / "new" / "file.json")
    text = (tmp_path / "new" / "file.json").read_text()
    read = results.read(tmp_path / "new" / "file.json")
    assert read == json.loads(text) == document
    assert platform.node() not in json.dumps(read["machine_info"])
    assert {"machine_info", "commit_info", "benchmarks", "datetime", "version"} <= set(read)
    assert len(read["benchmarks"]) == 6
    for benchmark in read["benchmarks"]:
        assert set(benchmark["stats"]) == {*fields, "iterations"}
        assert {"revision", "code", "date", "threads", "version"} <= set(benchmark["extra_info"])
    ours = read["benchmarks"][0]["extra_info"]
    assert ours["gb_per_s"] == pytest.approx(500e-9) and ours["roofline_percent"] == 25
    assert [item["contender"] for item in read["not_timed"]] == ["openvino"] * 3


def test_summary_agrees_with_pytest_benchmark():
    theirs = pytest.importorskip("pytest_benchmark.stats").Stats()
    theirs.data = [3.0, 1.0, 2.0, 100.0, 2.5]
    ours = stats.summary(theirs.data, 1)
    for field in ("min", "max", "mean", "stddev", "median", "rounds", "total", "ops"):
        assert ours[field] == pytest.approx(getattr(theirs, field)), field


def test_table_is_sorted_and_sums_up_each_family(document):
    found = table.rows(document)
    assert [cells[0] for _, _, cells in found] == ["a/won", "b/lost", "b/won"]
    a, b = table.families(found)
    assert a[:3] == ("a", "torchext", 1) and a[3] == pytest.approx(4)
    assert b[:3] == ("b", "torchext", 2) and b[3:] == (pytest.approx(1), "b/lost", 0.5, 0)
    assert "openvino absent: not installed" in table.markdown(document)


def test_a_table_names_all_code_that_was_timed(document):
    document["benchmarks"][-1]["extra_info"]["revision"] = "abc1234"
    first = document["benchmarks"][0]["extra_info"]["revision"]
    assert f" at {first}, abc1234, 2" in table.markdown(document)


def test_resume_keeps_what_was_measured_here(document):
    failed = outcome_with("b/failed", "b", 1.0)
    for entry in failed.entries.values():
        entry.drop("failed", "wrong")
    results.add(document, failed)
    new = results.new_document("cpu", 2, "some-machine")
    results.merge(new, document)
    assert results.timed(new) == {"a/won", "b/lost", "b/won"}
    assert "b/failed" not in {item["case"] for item in new["not_timed"]}
    with pytest.raises(ValueError, match="machine_info"):
        results.merge(results.new_document("cpu", 2, "another"), document)


def test_a_killed_run_goes_on(monkeypatch, tmp_path):
    """Models case by case: first the ones that have no time, then the disturbed ones again."""
    file, ran = tmp_path / "mine-models.json", []
    arguments = ["lenet5", "--json", str(tmp_path), "--machine", "mine", "--resume"]

    class Fake(race.Race):
        def run(self, module, case):
            if len(ran) == last:
                raise KeyboardInterrupt
            ran.append(case.name)
            outcome = outcome_with(case.name, "models", 1.0)
            outcome.intruders = 1.5 if len(ran) == 1 else 0.0
            return outcome

    monkeypatch.setattr(cli, "Race", Fake)
    last = 3
    assert main(arguments) == 130
    assert results.timed(results.read(file)) == {*ran} and len(ran) == 3
    last = None
    assert main(arguments) == 0
    first, second, third, fourth, again = ran
    assert again == first and {first, second, third, fourth} == results.timed(results.read(file))
    assert len(results.read(file)["benchmarks"]) == 2 * 4
    assert main(arguments) == 0 and len(ran) == 5


def test_pooling_cases():
    found = {name: case for name, (_, case) in load(families()).items()}
    case = found["max_pool2d/vgg16-64x224x224-k2s2/b8/bf16"]
    assert case.bytes == 8 * 64 * (224 * 224 + 112 * 112) * 2
    assert case.flops == 8 * 64 * 112 * 112 * 4
    (x,) = case.inputs("channels_last")
    assert x.is_contiguous(memory_format=torch.channels_last) and x.dtype is torch.bfloat16
    assert torch.equal(x, case.inputs("contiguous")[0])
    outputs = case.reference()(x[:1]).numel() * 8
    assert case.bytes == (x.numel() + outputs) * 2
    quick = Counter(case.family for case in found.values() if case.quick)
    assert quick.keys() >= {"max_pool2d", "conv2d", "depthwise", "linear", "layer_norm"}
    assert max(quick.values()) < 10


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--filter", "no such case"], "no case is named like"),
        (["--contenders", "eager,nobody"], "no contender is named nobody"),
        (["--threads", "none"], "expected a positive whole number"),
        (["--resume"], "--resume needs --json"),
        (["--report", "missing.json"], "missing.json"),
        (["--nonsense"], "unrecognized"),
        (["no_such_model"], "MODEL: got 'no_such_model', expected one that torchext list shows"),
        (["resnet18", "no_such*"], "MODEL: got 'no_such*', expected one that torchext list shows"),
        (["resnet18", "-b", "1,0"], "argument -b/--batch-size: got '0', expected a positive"),
        (["resnet18", "--img-size", "big"], "--img-size: got 'big', expected a positive"),
        (["resnet18", "--precision", "int8"], "--precision: got 'int8', expected float32 or"),
        (["--batch-size", "4"], "--batch-size needs a MODEL"),
    ],
)
def test_misuse_is_one_line_and_status_2(arguments, words, capsys):
    with pytest.raises(SystemExit) as status:
        main(arguments)
    assert status.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and words in lines[0]


def test_only_named_contenders():
    _, options = parse(["--contenders", "eager"])
    assert [c.name for c in options.contenders] == ["torchext", "eager"]


def test_whole_models():
    found = {name: case for name, (_, case) in load(["torchext.bench.models"]).items()}
    assert {"mobilenet/b1/f32", "resnet50/b8/bf16", "swin_t/b1/f32"} <= found.keys()
    assert found["resnet50/b8/f32"].flops == pytest.approx(8 * 2 * 4.089e9)
    case = found["lenet5/b1/f32"]
    layers = {type(m).__module__.partition(".")[0] for m in case.reference().children()}
    assert layers == {"torch"}
    assert type(case.reference().fc3) is torch.nn.Linear


def test_images_have_the_size_that_models_are_built_for():
    sizes = {
        name: tuple(models.image_of(name, 1, None, None)[0].shape[1:]) for name in models.names()
    }
    assert sizes.pop("lenet5") == (1, 32, 32) and sizes.pop("nin") == (3, 32, 32)
    assert sizes.pop("alexnet_original") == (3, 227, 227)
    assert set(sizes.values()) == {(3, 224, 224)}
    # The library tells vit_h_14's GMAC for images of 518 x 518.
    assert models.case("vit_h_14/b1/f32").flops == 0 < models.case("resnet18/b1/f32").flops


@pytest.mark.parametrize(
    "arguments, cases",
    [
        ("lenet5", "lenet5/b1/f32 lenet5/b1/bf16 lenet5/b8/f32 lenet5/b8/bf16"),
        ("resnet18 -b 1,4 --precision float32", "resnet18/b1/f32 resnet18/b4/f32"),
        (
            "vit_l_* --batch-size 2 --precision bfloat16 --img-size 160",
            "vit_l_16/b2/bf16/160 vit_l_32/b2/bf16/160",
        ),
        ("mobilenet mobilenet_v1 -b 1 --filter bf16", "mobilenet/b1/bf16 mobilenet_v1/b1/bf16"),
        ("mobilenet* -b 1 --filter v1", ""),  # another name of mobilenet
    ],
)
def test_flags_choose_among_models(arguments, cases):
    parser, options = parse(arguments.split())
    assert " ".join(case.name for _, case in cli.choose(parser, options)) == cases


@pytest.mark.parametrize("name", ["resnet18", "vit_b_16", "deit_tiny_patch16_224"])
def test_models_for_images_of_another_size(name):
    pytest.importorskip("torchvision"), pytest.importorskip("timm")
    case = find(models.__name__, f"{name}/b2/f32/32")
    (x,) = case.inputs("contiguous")
    assert x.shape == (2, 3, 32, 32)
    with torch.no_grad():
        assert case.reference()(x).shape == (2, 1000)
    assert find(models.__name__, f"{name}/b2/f32").inputs("contiguous")[0].shape[-1] == 224


def test_models_are_built_one_by_one_where_memory_is_short(monkeypatch):
    entries = {
        "torchext": race.Entry(True, "ok", peak_bytes=2 << 30),
        "eager": race.Entry(False, "ok"),
    }
    assert 1 << 20 < machine.free_memory() < float("inf")
    monkeypatch.setattr(machine, "free_memory", lambda: 9 << 30)
    assert race._fit(entries, 3) and not race._fit(entries, 4)
    asked = []

    class Fake(race.Race):
        def _gate(self, names, entries, *request):
            asked.append((request[0], names))

        def _weigh(self, names, entries):
            entries["torchext"].peak_bytes = 2 << 30

        def _time(self, *_):
            for name, entry in outcome_with(
                "a", "models", 1.0, eager=2.0, ncnn=3.0
            ).entries.items():
                if name in running:
                    running[name].rounds = entry.rounds

        def _enter(self, case):
            return running

    for free, groups in ((1 << 40, [["eager", "ncnn"]]), (5 << 30, [["eager"], ["ncnn"]])):
        monkeypatch.setattr(machine, "free_memory", lambda free=free: free)
        names = ("torchext", "eager", "ncnn")
        running = {name: race.Entry(name == "torchext", "ok") for name in names}
        asked.clear()
        with Fake(1, 1) as fake:
            fake.judge = type("", (), {"ask": lambda *_: "", "stop": lambda _: None})()
            assert not fake.run("", CASE).failed
        assert [names for what, names in asked if what == "build"] == [["torchext"], *groups]


def test_peers_run_what_their_libraries_have():
    torchvision, timm = pytest.importorskip("torchvision"), pytest.importorskip("timm")
    libraries = {"torchvision": torchvision.models.list_models(), "timm": timm.list_models()}
    libraries["timm"] += models._MOBILENETS
    for case in models.cases():
        name = case.name.partition("/")[0]
        having = (library for library, names in libraries.items() if name in names)
        assert case.origin.partition(" ")[0] == next(having, "torchext"), name
    for name, library in (("mobilenet", "timm"), ("resnet18", "torchvision"), ("nin", "torchext")):
        with torch.device("meta"):
            assert type(models._build(name)).__module__.partition(".")[0] == library


def test_a_missing_library_is_told(monkeypatch):
    monkeypatch.setattr(models, "_version", lambda library: None)
    (case,) = (c for c in models.cases() if c.name == "resnet18/b1/f32")
    assert case.origin == "torchext (torchvision is not installed)"
    with torch.device("meta"):
        assert type(models._build("resnet18")).__module__ == "torchext.models.resnet"


def test_the_gate_sees_the_whole_model():
    """Two images have two outputs, and norms are no identities."""
    pytest.importorskip("torchvision")
    torch.manual_seed(0)
    model = models.reference("googlenet")
    with torch.no_grad():
        y = model(torch.randn(2, 3, 64, 64))
    assert (y[0] - y[1]).abs().max() > 1e-3 * y.abs().max()
    assert model.conv1.bn.running_mean.std() > 0


def test_ncnn():
    """One image after another; what it can't run is an error, not a crash."""
    ncnn = runtimes.Ncnn()
    try:
        ncnn.version("cpu")
    except contenders.AbsentError as reason:
        pytest.skip(str(reason))
    x = torch.randn(2, 3, 7, 7)
    layers = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3))
    with torch.no_grad():
        exact = layers(x).double()
        (y,) = ncnn.bind(layers, (x,), 1)()
        assert y.shape == exact.shape and gate.relative_error(y, exact) < 1e-6
        (y,) = ncnn.bind(layers.bfloat16(), (x.bfloat16(),), 1)()
        assert y.dtype is torch.bfloat16 and gate.relative_error(y, exact) < 2e-2
        in_f32 = layers.float()(x.bfloat16().float())
        assert not torch.equal(y, in_f32.bfloat16())  # what lies between the layers is rounded too
        with pytest.raises(RuntimeError, match="layers that ncnn lacks"):
            ncnn.bind(Unbind(), (x,), 1)


class Unbind(torch.nn.Module):
    def forward(self, x):
        return x.reshape(1, 3, 7, 7, 1, 1).permute(5, 1, 0, 3, 2, 4).unbind(2)[0]


@pytest.fixture
def of_models():
    """As if whole models had been measured."""
    document = results.new_document("cpu", 2, "some-machine")
    times = {"other": 2.0, "eager_channels_last": 4.0, "ncnn": 8.0}
    results.add(document, outcome_with("vit_b_16/b1/f32", "models", 4.0, **times))
    wrong = outcome_with("resnet18/b8/bf16", "models", 1.0)
    for entry in wrong.entries.values():
        entry.drop("failed", "wrong")
    results.add(document, wrong)
    times = {"other": 3.0, "eager_channels_last": 2.0, "ncnn": 8.0}
    outcome = outcome_with("resnet18/b1/f32", "models", 1.0, **times)
    outcome.entries["ncnn"].drop("failed", "no such layer")
    results.add(document, outcome)
    return document


def test_table_of_whole_models(of_models):
    found = model_table.rows(of_models)
    cells = [
        dict(zip(model_table.times(found)[0], line, strict=True))
        for line in model_table.times(found)[1]
    ]
    won, wrong, lost = cells
    assert (won["model"], won["batch"], won["dtype"]) == ("resnet18", "1", "f32")
    assert (won["torchext"], won["eager"], won["ncnn"]) == ("**1000**", "3000", "failed")
    assert (won["x eager"], won["x fastest other"], won["x compile"]) == ("2.00", "2.00", "")
    assert won["reference"] == "theirs 1"
    assert (lost["model"], lost["eager"], lost["x eager"]) == ("vit_b_16", "**2000**", "0.50")
    assert (wrong["dtype"], wrong["torchext"], wrong["x eager"]) == ("bf16", "failed", "")
    header, lines = model_table.means(found)
    means = [dict(zip(header, line, strict=True)) for line in lines]
    assert [(m["models"], m["batch"], m["dtype"], m["cases"]) for m in means[:3]] == [
        ("all", "all", "all", "3"),
        ("all", "1", "f32", "2"),
        ("all", "8", "bf16", "1"),
    ]
    assert (means[1]["x eager"], means[1]["x ncnn"]) == ("1.00", "2.00 (1)")
    assert {m["models"]: m["x eager"] for m in means if m["batch"] == "1"} == {
        "all": "1.00",
        "CNNs": "2.00",
        "transformers": "0.50",
    }
    text = table.markdown(of_models)
    assert "ncnn failed: no such layer" in text and "roofline" not in text


def test_chart_of_whole_models(of_models):
    pytest.importorskip("matplotlib")
    b1, b8 = chart.figure_of(of_models).axes
    names = [label.get_text() for label in b1.get_yticklabels()]
    assert names == ["resnet18", "vit_b_16", "geometric mean"] and not b8.collections
    eager = next(marks for marks in b1.collections if marks.get_label() == "eager")
    assert eager.get_offsets().ravel().tolist() == pytest.approx([2.0, 0, 0.5, 1, 1.0, 2])


@pytest.mark.parametrize(
    "contender",
    [contenders.Torchext(), *(c for c in runtimes.RUNTIMES if c.name != "zentorch")],
    ids=lambda contender: contender.name,
)
def test_runtimes_of_whole_models(contender):
    """Their outputs pass the gate; wrong ones would not."""
    try:
        contender.version("cpu")
    except contenders.AbsentError as reason:
        pytest.skip(str(reason))
    _, case = load(["torchext.bench.models"])["lenet5/b1/f32"]
    with torch.no_grad():
        judged = gate.judge(case)
        torch.manual_seed(0)
        (y,) = flatten(contender.build(case)())
        assert gate.check(case, [y], judged).reason == ""
        assert "error" in gate.check(case, [y * 1.001], judged).reason


def test_the_judge_has_one_model():
    """Whose error in f32 is rounding: weights drawn anew would allow anything."""
    with torch.enable_grad():
        assert all(allowed < 1e-5 for _, allowed in gate.judge(TRAINED))


def test_report_and_chart_from_a_file(document, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    results.save(document, tmp_path / "file.json")
    arguments = ["--report", str(tmp_path / "file.json"), "--chart", str(tmp_path / "chart.png")]
    assert main(arguments) == 0
    assert "b/lost" in capsys.readouterr().out
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
