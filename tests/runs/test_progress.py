import io
import os
import re
import subprocess
import sys
import threading

import pytest

from gmpo_mm.errors import ConfigError
from gmpo_mm.runs.progress import Progress, clean, format_seconds, shorten
from gmpo_mm.runs.shown_samples import Sample
from gmpo_mm.runs.step_table import COLUMNS

METRICS = {
    "reward/overall": 0.5,
    "reward/accuracy": 0.25,
    "actor/entropy": 1.5,
    "ratio/token_min": 0.7,
    "ratio/token_max": 1.4,
    "actor/kl_ref": 0.001,
    "actor/grad_norm": 0.3,
    "perf/time_per_step": 2.0,
}


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def progress(clock):
    """Plain lines into a string, driven by a clock of ours; the heartbeat is called by hand."""
    return Progress(io.StringIO(), clock=clock)


def lines(progress):
    return progress._file.getvalue().splitlines()


def test_silence_is_ended_with_what_is_waited_for_and_since_when(progress, clock):
    with progress.stage("validation"), progress.stage("sampling", total=128, unit="responses") as stage:
        clock.now += 7.9
        stage.update(32, note="longest 20 tokens")
        assert lines(progress) == []
        clock.now += 0.1
        assert progress.heartbeat()
        assert lines(progress) == ["... validation, for 8.0 s > sampling, 32/128 responses, for 8.0 s (longest 20 tokens)"]
        clock.now += 7.9
        assert not progress.heartbeat(), "the heartbeat's own line ends the silence too"
    clock.now += 1
    assert progress.heartbeat()
    assert lines(progress)[1] == "... working for 1.0 s"


def test_a_stage_that_reports_often_prints_no_more_than_the_heartbeat(progress, clock):
    with progress.stage("sampling", 100) as stage:
        for done in range(100):
            clock.now += 1
            stage.update(done)
    assert len(lines(progress)) == 12


def test_a_note_alone_leaves_the_count(progress, clock):
    with progress.stage("sampling", 100) as stage:
        stage.update(7)
        stage.update(note="token 3")
        clock.now += 9
        progress.heartbeat()
    assert lines(progress) == ["... sampling, 7/100, for 9.0 s (token 3)"]


def test_an_exception_ends_its_stage(progress, clock):
    with pytest.raises(RuntimeError), progress.stage("sampling"):
        raise RuntimeError
    clock.now += 20
    progress.heartbeat()
    assert lines(progress) == ["... working for 20.0 s"]


def test_a_step_is_one_line_with_what_there_is_and_what_is_left(progress):
    progress.step(3, 10, METRICS)
    assert lines(progress) == [
        "step 3/10  reward 0.500  accuracy 0.250  ratio 0.700..1.400  entropy 1.500  KL to reference 0.0010  "
        "gradient norm 0.300  seconds 2.0  left 14.0 s"
    ]


def test_a_validation_says_what_its_accuracy_is(progress):
    progress.validation(0, {"val/accuracy_reward": 0.75, "val/truncated_frac": 0.125})
    progress.validation(4, {"val/accuracy_reward": -0.5, "val/accuracy_not_0_or_1_frac": 0.75})
    progress.validation(
        8, {"val/accuracy_reward": -0.5, "val/accuracy_not_0_or_1_frac": 0.75, "val/accuracy_normalized_reward": 0.25}
    )
    assert lines(progress) == [
        "validation after step 0  accuracy 0.750  truncated 12.5%",
        "validation after step 4  mean accuracy (not a share of right answers) -0.500",
        "validation after step 8  accuracy 0.250",
    ]


@pytest.mark.parametrize(
    ("metric", "kind"),
    [("actor/kl_ref", "to reference"), ("actor/kl_loss", "in the loss"), ("actor/kl_penalty", "in the reward"),
     ("actor/ppo_kl", "to old policy")],
)  # fmt: skip
def test_a_kl_is_shown_with_which_one_it_is(progress, metric, kind):
    progress.step(1, 2, {metric: 0.25})
    assert f"KL {kind} 0.2500" in lines(progress)[0]


def test_the_time_left_comes_from_the_median_so_that_one_slow_step_does_not_spoil_it(progress):
    for step, seconds in enumerate([2.0, 2.0, 500.0], start=1):
        progress.step(step, 63, {"perf/time_per_step": seconds})
    assert progress.seconds_left(3, 63) == 120.0
    assert progress.seconds_left(70, 63) == 0.0


def test_the_time_left_counts_what_comes_between_steps_but_not_what_came_before_them(progress, clock):
    clock.now += 500  # loading, and the validation before training
    for step in range(1, 5):
        clock.now += 2.0
        progress.step(step, 10, {"perf/time_per_step": 2.0})
        clock.now += 1.0 if step % 2 == 0 else 0.0  # every second step is validated
    assert progress.seconds_left(4, 10) == 6 * (2.0 + 2.0 / 4)


def test_the_log_holds_what_was_printed_before_and_after_it_was_opened_and_how_it_ended(tmp_path, clock):
    with pytest.raises(ConfigError), Progress(io.StringIO(), clock=clock) as progress:
        progress.log("before")
        progress.log_to(tmp_path / "run.log", ["gmpo-mm", "train", "x.yaml"])
        progress.step(1, 2, METRICS)
        progress.sample(1, HOSTILE)
        progress.warn("two\nlines")
        progress.log_only("of another package")
        printed = lines(progress)
        raise ConfigError("the fix")
    text = (tmp_path / "run.log").read_text()
    assert text.startswith("==== ") and "gmpo-mm train x.yaml\n" in text
    assert all(line in text for line in printed) and "of another package" not in "".join(printed)
    assert "of another package" in text and text.endswith("error: the fix\n")


def test_the_log_of_a_terminal_holds_the_lines_in_words(tmp_path, clock):
    progress = Progress(io.StringIO(), live=True, clock=clock)
    progress.log_to(tmp_path / "run.log")
    progress.step(1, 2, METRICS)
    progress.close()
    assert "step 1/2  reward 0.500  accuracy 0.250" in (tmp_path / "run.log").read_text()


def test_a_log_that_can_not_be_written_ends_no_run(tmp_path, progress):
    progress.log_to(tmp_path / "no such folder" / "run.log")
    progress.log("goes on")
    assert "goes on without a log" in lines(progress)[0] and lines(progress)[1] == "goes on"


HOSTILE = Sample(
    kind="best",
    problem="Find [bold]x[/bold]\nin the \x1b]8;;http://x\x07picture",
    response="<think>\x1b[2J\r" + "so " * 500 + "</think> [/red][link=file:///x] \\boxed{5}\u202e",
    answer="5\x00",
    reward=1.0,
)


@pytest.mark.parametrize("live", [False, True])
def test_text_of_a_model_is_shown_and_never_obeyed(live, clock):
    file = io.StringIO()
    progress = Progress(file, live=live, clock=clock)
    progress.step(1, 2, METRICS)
    progress.sample(1, HOSTILE)
    progress.log("[red]note[/red]\x1b[31m")
    progress.warn("[/nothing]\x07")
    text = file.getvalue()
    # No terminal here, so rich writes no control sequences of its own: any would be the model's.
    assert all(c == "\n" or c >= " " for c in text) and "\u202e" not in text
    for shown in ("Find [bold]x[/bold]", "[link=file:///x] \\boxed{5}", "[red]note[/red]", "[/nothing]"):
        assert shown in " ".join(text.replace("│", " ").split())
    assert len(text) < 1500


def test_shortening_keeps_the_end_where_the_answer_stands():
    text = shorten("start " + "x" * 100_000 + " \\boxed{5}", 100)
    assert len(text) <= 100 and text.startswith("start") and text.endswith("\\boxed{5}") and " ... " in text
    assert shorten("a\n\n b\tc", 100) == "a b c"


def test_line_breaks_stay_in_notes_only():
    assert clean("a\nb") == "a b"
    assert clean("a\nb\r\x1b", newlines=True) == "a\nb  "


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.94, "59.9 s"), (59.96, "1:00"), (61, "1:01"), (3599.6, "1:00:00"), (36061, "10:01:01")],
)
def test_seconds_read_as_a_clock(seconds, text):
    assert format_seconds(seconds) == text


def test_an_encoding_without_the_character_does_not_end_a_run():
    raw = io.BytesIO()
    progress = Progress(io.TextIOWrapper(raw, encoding="ascii"))
    progress.log("angle ∠ABC = 5°")
    assert raw.getvalue() == b"angle \\u2220ABC = 5\\xb0\n"


def test_a_closed_pipe_silences_the_progress_and_nothing_else():
    read_end, write_end = os.pipe()
    os.close(read_end)
    with Progress(os.fdopen(write_end, "w")) as progress:
        progress.log("nobody listens")
        progress.log("still nobody")
        progress.step(1, 2, METRICS)
        progress.sample(1, HOSTILE)


PIPED = """
import sys
from gmpo_mm.runs.progress import Progress
with Progress(heartbeat_seconds=0.05) as progress:
    progress.log("begin")
    with progress.stage("waiting for the model"):
        sys.stdin.readline()
    raise SystemExit(3)
"""


def test_a_piped_run_that_hangs_speaks_by_itself_and_an_exception_ends_it_cleanly():
    run = subprocess.Popen([sys.executable, "-c", PIPED], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    first, second, third = (run.stdout.readline() for _ in range(3))
    rest, errors = run.communicate(b"\n")
    assert first == b"begin\n"
    assert second.startswith(b"... waiting for the model, for ") and third.startswith(b"... waiting for the model, for ")
    assert run.returncode == 3 and errors == b""
    assert not set(first + second + third + rest) & (set(range(32)) - {10})


TERMINAL = """
import sys
from gmpo_mm.runs.progress import Progress
from gmpo_mm.runs.shown_samples import Sample
with Progress() as progress:
    with progress.stage("sampling", 8, "responses") as stage:
        for step in range(1, 200):
            progress.step(step, 200, {"reward/overall": 0.5, "actor/kl_ref": 0.125})
        progress.sample(199, Sample("worst", "p", "r", "a", 0.25))
        stage.update(3)
        sys.stdin.readline()
print("end")
"""


def read_terminal(descriptor, until=None):
    """What the other end wrote, up to `until` or its end."""
    text = b""
    while until is None or until not in text:
        try:
            chunk = os.read(descriptor, 1 << 16)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not chunk:
            break
        text += chunk
    return text.decode()


def test_on_a_terminal_the_status_line_and_the_steps_share_the_screen():
    pty = pytest.importorskip("pty")
    main, secondary = pty.openpty()
    run = subprocess.Popen(
        [sys.executable, "-c", TERMINAL],
        stdin=subprocess.PIPE,
        stdout=secondary,
        stderr=secondary,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "90"},
    )
    os.close(secondary)
    text = read_terminal(main, until=b"sampling, 3/8 responses, for")  # comes by itself: the status line is redrawn
    screen = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    rows = [line.split() for line in screen.splitlines() if re.match(r" *\d+ +0.500 ", line)]
    assert [int(row[0]) for row in rows] == list(range(1, 200))
    assert {len(row) for row in rows} == {1 + len(COLUMNS)}
    headers = [i for i, line in enumerate(screen.splitlines()) if line.split()[:2] == ["step", "reward"]]
    assert len(headers) > 200 / 25, "the header is repeated before it would leave the screen"
    assert "step 199/200" in screen and "about" in screen and "sample of step 199: the worst one, reward 0.250" in screen
    run.stdin.write(b"\n")
    run.stdin.close()
    rest = read_terminal(main)
    os.close(main)
    assert run.wait() == 0
    assert "\x1b[?25h" in rest, "the cursor comes back"
    assert rest.splitlines()[-1].endswith("end")


def test_threads_may_report_at_once(clock):
    progress = Progress(io.StringIO(), clock=clock)

    def work(name):
        for index in range(200):
            with progress.stage(f"{name}", 200) as stage:
                stage.update(index)
                progress.log(f"{name} {index}")

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(lines(progress)) == sorted(f"{name} {index}" for name in "abcd" for index in range(200))
