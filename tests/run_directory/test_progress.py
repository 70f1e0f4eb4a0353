import io
import os
import subprocess
import sys
import threading

import pytest

from gmpo_mm.training.progress import BestSample, Progress, clean, format_seconds, shorten

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
    progress.step_summary(3, 10, METRICS)
    assert lines(progress) == [
        "step 3/10  reward 0.500  accuracy 0.250  entropy 1.500  ratio 0.7..1.4  kl 0.0010  grad 0.3  "
        "step time 2.0 s  left 14.0 s"
    ]


def test_a_line_leaves_out_what_was_not_measured(progress):
    progress.step_summary(0, 10, {"val/accuracy_reward": 0.75, "ratio/token_min": 0.7})
    assert lines(progress) == ["step 0/10  val accuracy 0.750"]


def test_the_time_left_comes_from_the_median_so_that_one_slow_step_does_not_spoil_it(progress):
    for step, seconds in enumerate([2.0, 2.0, 500.0], start=1):
        progress.step_summary(step, 63, {"perf/time_per_step": seconds})
    assert progress.seconds_left(3, 63) == 120.0
    progress.step_summary(3, 63, {"val/accuracy_reward": 0.5})
    assert progress.seconds_left(3, 63) == 120.0, "a validation is not a step"
    assert progress.seconds_left(70, 63) == 0.0


HOSTILE = BestSample(
    problem="Find [bold]x[/bold]\nin the \x1b]8;;http://x\x07picture",
    response="<think>\x1b[2J\r" + "so " * 500 + "</think> [/red][link=file:///x] \\boxed{5}\u202e",
    answer="5\x00",
    reward=1.0,
)


@pytest.mark.parametrize("live", [False, True])
def test_text_of_a_model_is_shown_and_never_obeyed(live, clock):
    file = io.StringIO()
    progress = Progress(file, live=live, clock=clock)
    progress.step_summary(1, 2, METRICS, HOSTILE)
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
        progress.step_summary(1, 2, METRICS, HOSTILE)


PIPED = """
import sys
from gmpo_mm.training.progress import Progress
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
from gmpo_mm.training.progress import BestSample, Progress
with Progress() as progress:
    with progress.stage("sampling", 8, "responses") as stage:
        for step in range(200):
            progress.step_summary(step, 200, {"reward/overall": 0.5}, BestSample("p", "r", "a", 1.0))
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
    assert "step 199/200" in text and "best sample, reward 1.000" in text
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
