import json
import os
import signal
import subprocess
import sys
import threading

import pytest
import yaml

from gmpo_mm.errors import ConfigError, DataError
from gmpo_mm.runs.checkpoint import checkpoint_steps
from gmpo_mm.runs.run_config import FREE_KEYS, STEP_COUNT_KEYS, yaml_differences
from gmpo_mm.runs.run_directory import RunDirectory, read_events, read_metrics

CONFIG = """
worker:
  actor:
    loss_type: gmpo
    optim: {lr: 1.0e-06, lr_warmup_ratio: 0.0, lr_warmup_steps: null, lr_scheduler_type: constant}
trainer: {max_steps: 4, total_epochs: 15, save_freq: 2, resume: auto, logger: [console, file]}
"""


def write_model(folder):
    (folder / "config.json").write_text("{}")


def changed(**keys):
    config = yaml.safe_load(CONFIG)
    for dotted, value in keys.items():
        *parents, last = dotted.split("__")
        node = config
        for parent in parents:
            node = node[parent]
        node[last] = value
    return yaml.safe_dump(config)


def open_run(path, resume="auto", config=CONFIG):
    return RunDirectory.open(path, resume=resume, config=config, command=["gmpo-mm", "train", "x.yaml"])


def train(run, last_step, save_every=2):
    """The loop in small: a metrics line per step, a checkpoint of every second one."""
    run.begin(total_steps=last_step)
    for step in range(run.from_step + 1, last_step + 1):
        run.log_metrics(step, "train", {"value": step * 10})
        if step % save_every == 0:
            run.save_checkpoint(step, model_files=write_model, tensors={}, state={"value": step})


def run_json(path):
    return json.loads((path / "run.json").read_text())


def kill_training(path, steps, save_every=2):
    """Train in another process that ends by kill -9 after `steps`."""
    child = os.fork()
    if child == 0:
        try:
            train(open_run(path), steps, save_every)
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_run_leaves_its_configuration_environment_state_and_command(tmp_path):
    path = tmp_path / "a" / "run"
    with open_run(path) as run:
        assert (run.resuming, run.from_step, run.checkpoint, run.load_checkpoint()) == (False, 0, None, None)
        assert run_json(path)["state"] == "created"
        train(run, 4)
        assert run_json(path)["state"] == "running"
        run.finish()

    state = run_json(path)
    assert (state["state"], state["step"], state["last_checkpoint"], state["total_steps"]) == ("finished", 4, 4, 4)
    assert state["command"] == ["gmpo-mm", "train", "x.yaml"]
    assert yaml.safe_load((path / "config.yaml").read_text()) == yaml.safe_load(CONFIG)
    environment = json.loads((path / "environment.json").read_text())
    assert environment["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {
        "torch",
        "transformers",
        "tokenizers",
        "vllm",
        "peft",
        "gmpo_mm",
        "git_commit",
        "device",
        "cpu",
        "threads",
    } <= set(environment)
    assert os.uname().nodename not in json.dumps(environment)
    assert [line["value"] for line in read_metrics(path)] == [10, 20, 30, 40]
    assert read_events(path) == []


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (KeyboardInterrupt(), "interrupted", "keyboard"),
        (RuntimeError("three bad gradients"), "failed", "RuntimeError: three bad"),
    ],
)
def test_how_a_run_ended_is_written_down(tmp_path, error, state, reason):
    with pytest.raises(type(error)), open_run(tmp_path) as run:
        train(run, 1)
        raise error
    assert run_json(tmp_path)["state"] == state
    assert reason in run_json(tmp_path)["exit_reason"]


def test_two_threads_write_the_state_of_the_run(tmp_path):
    with open_run(tmp_path) as run:
        run.begin()
        steps = range(1, 300)
        thread = threading.Thread(target=lambda: [run.log_metrics(step, "train", {}) for step in steps])
        thread.start()
        while thread.is_alive():
            run.note_checkpoint(7)
            assert run_json(tmp_path)["last_checkpoint"] == 7
        thread.join()
    assert (run_json(tmp_path)["step"], run_json(tmp_path)["last_checkpoint"]) == (299, 7)


def test_an_ending_that_the_loop_wrote_down_itself_stays(tmp_path):
    with pytest.raises(KeyboardInterrupt), open_run(tmp_path) as run:
        train(run, 2)
        run.finish("interrupted", "Ctrl-C: finished step 2 and saved")
        raise KeyboardInterrupt
    assert run_json(tmp_path)["exit_reason"] == "Ctrl-C: finished step 2 and saved"


def test_auto_goes_on_from_the_latest_checkpoint_of_a_killed_run(tmp_path):
    kill_training(tmp_path, steps=5)
    with open_run(tmp_path) as run:
        assert (run.resuming, run.from_step) == (True, 4)
        assert run.load_checkpoint().state["value"] == 4
        assert "killed at step 5" in run.notes[0] and "step_4" in run.notes[0]
        train(run, 6)
        run.finish()
    assert [event["from_step"] for event in read_events(tmp_path)] == [4]
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_a_run_killed_before_its_first_checkpoint_goes_on_from_the_beginning(tmp_path):
    kill_training(tmp_path, steps=3, save_every=100)
    with open_run(tmp_path) as run:
        assert (run.resuming, run.from_step, run.checkpoint) == (True, 0, None)
        run.begin()
        run.log_metrics(1, "train", {"value": 11})
    assert [event["from_step"] for event in read_events(tmp_path)] == [0]
    assert [line["value"] for line in read_metrics(tmp_path)] == [11]


def test_what_a_killed_checkpoint_write_left_is_cleared(tmp_path):
    kill_training(tmp_path, steps=2)
    (tmp_path / "checkpoints" / ".step_4.tmp-9").mkdir()
    with open_run(tmp_path) as run:
        assert run.from_step == 2
    assert os.listdir(tmp_path / "checkpoints") == ["step_2"]


def test_a_finished_run_is_complete_until_more_steps_are_asked_for(tmp_path):
    with open_run(tmp_path) as run:
        train(run, 4)
        assert not run.is_complete(4), "a run that trains now is not complete"
        run.finish()
    before = {name: (tmp_path / name).read_bytes() for name in ("metrics.jsonl", "run.json", "config.yaml")}
    with open_run(tmp_path) as run:
        assert run.is_complete(4) and not run.is_complete(6)
        assert "finished at step 4" in run.notes[0] and "trainer.max_steps" in run.notes[0]
    assert before == {name: (tmp_path / name).read_bytes() for name in before}, "opening alone changes nothing"
    (tmp_path / "environment.json").write_bytes(b"\0" * 40)
    (tmp_path / "metrics.jsonl").write_bytes(before["metrics.jsonl"][:-9])
    with pytest.raises(DataError, match=r"metrics.jsonl was cut or removed: it ends with step 3 of the 4"):
        open_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(before["metrics.jsonl"].removesuffix(b"\n"))
    with open_run(tmp_path) as run, pytest.raises(DataError, match="metrics.jsonl was cut or removed"):
        run.is_complete(4)
    (tmp_path / "metrics.jsonl").write_bytes(before["metrics.jsonl"])
    with open_run(tmp_path) as run:
        assert run.is_complete(4)
        assert json.loads((tmp_path / "environment.json").read_text()) == run.environment

    with open_run(tmp_path, config=changed(trainer__max_steps=6)) as run:
        train(run, 6)
        run.finish()
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2, 3, 4, 5, 6]
    [event] = read_events(tmp_path)
    assert event["config_changed"] == {"trainer.max_steps": [4, 6]}
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["trainer"]["max_steps"] == 6


def test_a_key_that_is_newer_than_a_run_is_no_difference_at_its_default(tmp_path):
    kill_training(tmp_path, steps=2)
    with open_run(tmp_path, config=changed(worker__rollout={"staleness": 0})) as run:
        assert run.from_step == 2
    with pytest.raises(ConfigError, match=r"worker\.rollout\.staleness: '\(not set\)' there, 1 now"):
        open_run(tmp_path, config=changed(worker__rollout={"staleness": 1}))
    with pytest.raises(ConfigError, match=r"worker\.rollout\.unknown: '\(not set\)' there, 0 now"):
        open_run(tmp_path, config=changed(worker__rollout={"unknown": 0}))


def test_another_configuration_is_refused_key_by_key(tmp_path):
    kill_training(tmp_path, steps=2)
    other = changed(worker__actor__loss_type="default", worker__actor__optim__lr=2e-6, trainer__save_freq=5)
    with pytest.raises(ConfigError) as caught:
        open_run(tmp_path, config=other)
    text = str(caught.value)
    assert "worker.actor.loss_type: 'gmpo' there, 'default' now" in text
    assert "worker.actor.optim.lr: 1e-06 there, 2e-06 now" in text
    assert "trainer.save_freq" not in text
    assert "another trainer.run_dir" in text and f"trainer.resume={tmp_path}/checkpoints/step_2" in text
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 2]


@pytest.mark.parametrize("key", FREE_KEYS + STEP_COUNT_KEYS)
def test_keys_that_do_not_change_the_training_may_differ(tmp_path, key):
    with open_run(tmp_path) as run:
        train(run, 2)
    *sections, name = key.split(".")
    other = yaml.safe_load(CONFIG)
    node = other
    for part in sections:
        node = node.setdefault(part, {})
    node[name] = "something else"
    with open_run(tmp_path, config=yaml.safe_dump(other)) as run:
        assert run.resuming


def test_keys_that_only_a_compared_loss_reads_may_come_change_and_go(tmp_path):
    with open_run(tmp_path) as run:
        train(run, 2)
    for values in ({"clip_ratio_low": 0.2}, {"clip_ratio_low": 0.1, "tau_positive": 1.0}, {}):
        other = yaml.safe_load(CONFIG)
        other["worker"]["actor"] |= values
        with open_run(tmp_path, config=yaml.safe_dump(other)) as run:
            assert run.resuming
    with pytest.raises(ConfigError, match="log_clip_low"):  # the trained loss reads it
        open_run(tmp_path, config=changed(worker__actor__gmpo={"log_clip_low": 0.3}))


@pytest.mark.parametrize(
    "schedule",
    [{"lr_scheduler_type": "cosine"}, {"lr_warmup_ratio": 0.1}, {"lr_scheduler_type": "cosine", "lr_warmup_steps": 3}],
)
def test_more_steps_are_refused_when_the_learning_rate_depends_on_their_number(tmp_path, schedule):
    keys = {f"worker__actor__optim__{name}": value for name, value in schedule.items()}
    with open_run(tmp_path, config=changed(**keys)) as run:
        train(run, 2)
    with pytest.raises(ConfigError, match=r"trainer.max_steps: 4 there, 8 now(.|\n)*learning-rate schedule"):
        open_run(tmp_path, config=changed(**keys, trainer__max_steps=8))


def test_a_warmup_given_in_steps_does_not_hinder_an_extension(tmp_path):
    keys = {"worker__actor__optim__lr_warmup_ratio": 0.1, "worker__actor__optim__lr_warmup_steps": 5}
    with open_run(tmp_path, config=changed(**keys)) as run:
        train(run, 2)
    with open_run(tmp_path, config=changed(**keys, trainer__max_steps=8)) as run:
        assert run.resuming


def test_a_run_that_never_began_is_replaced_by_another_configuration(tmp_path):
    with pytest.raises(RuntimeError), open_run(tmp_path):
        raise RuntimeError("the model path was wrong")
    with open_run(tmp_path, resume="never", config=changed(worker__actor__loss_type="default")) as run:
        assert not run.resuming


def test_never_refuses_a_directory_with_a_run(tmp_path):
    with open_run(tmp_path, resume="never") as run:
        train(run, 1)
    with pytest.raises(ConfigError, match="already holds a run .failed at|already holds a run .*trainer.resume=auto"):
        open_run(tmp_path, resume="never")


def test_must_refuses_a_directory_without_a_complete_checkpoint(tmp_path):
    with pytest.raises(ConfigError, match="holds no complete checkpoint"):
        open_run(tmp_path, resume="must")
    kill_training(tmp_path, steps=1)
    with pytest.raises(ConfigError, match="holds no complete checkpoint"):
        open_run(tmp_path, resume="must")
    kill_training(tmp_path, steps=2)
    with open_run(tmp_path, resume="must") as run:
        assert run.from_step == 2


@pytest.mark.parametrize("where", ["", "checkpoints", "checkpoints/step_4"])
def test_a_path_starts_a_new_run_from_that_checkpoint_and_goes_on_with_it(tmp_path, where):
    first, second = tmp_path / "first", tmp_path / "second"
    kill_training(first, steps=4)
    given = str(first / where) if where else str(first)
    other = changed(worker__actor__loss_type="default")
    with open_run(second, resume=given, config=other) as run:
        assert (run.resuming, run.from_step) == (False, 4)
        assert run.load_checkpoint().path == first / "checkpoints" / "step_4"
        run.begin()
        run.log_metrics(5, "train", {"value": 50})
    # Killed before its own first checkpoint: the same command, or auto, starts from the same place again.
    for resume in (given, "auto"):
        with open_run(second, resume=resume, config=other) as run:
            assert (run.resuming, run.from_step) == (True, 4)
            assert run.load_checkpoint().path == first / "checkpoints" / "step_4"
    with open_run(second, config=other) as run:
        train(run, 6)
    with open_run(second, resume=given, config=other) as run:
        assert run.load_checkpoint().path == second / "checkpoints" / "step_6"
    assert [line["step"] for line in read_metrics(second)] == [5, 6]
    assert checkpoint_steps(first / "checkpoints") == [2, 4]


def test_a_path_is_refused_where_another_run_is_or_where_no_checkpoint_is(tmp_path):
    kill_training(tmp_path / "first", steps=2)
    kill_training(tmp_path / "second", steps=2)
    with pytest.raises(ConfigError, match="already holds a run"):
        open_run(tmp_path / "second", resume=str(tmp_path / "first"))
    with pytest.raises(ConfigError, match="no checkpoint there"):
        open_run(tmp_path / "third", resume=str(tmp_path / "nothing"))
    # The refused start left nothing that would hinder a right one.
    with open_run(tmp_path / "third", resume=str(tmp_path / "first")) as run:
        assert run.from_step == 2


def test_a_directory_of_something_else_is_not_written_into(tmp_path):
    (tmp_path / "config.yaml").write_text("mine: true\n")
    with pytest.raises(ConfigError, match=r"has no run.json, but already holds config.yaml"):
        open_run(tmp_path)
    assert (tmp_path / "config.yaml").read_text() == "mine: true\n"


def test_a_run_directory_that_can_not_be_made_is_an_error_naming_the_key(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="trainer.run_dir="):
        open_run(tmp_path / "file" / "run")


HOLDER = """
import os, sys
from gmpo_mm.runs.run_directory import RunDirectory
run = RunDirectory.open(sys.argv[1], resume="auto", config="a: 1", command=[])
run.begin()
worker = os.fork()  # like a reward worker: it outlives the run
if worker:
    print(worker, flush=True)
sys.stdin.read()
"""


def test_two_processes_can_not_train_in_one_directory_and_a_dead_one_frees_it(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    worker = int(holder.stdout.readline())
    try:
        with pytest.raises(ConfigError, match=f"another process .process {holder.pid}. is working in"):
            open_run(tmp_path, config="a: 1")
        holder.kill()
        holder.wait()
        os.kill(worker, 0)  # still there
        with open_run(tmp_path, config="a: 1") as run:
            assert run.resuming
    finally:
        os.kill(worker, signal.SIGKILL)
        holder.stdin.close()
        holder.stdout.close()


def test_the_lock_is_freed_when_opening_fails(tmp_path):
    with open_run(tmp_path) as run:
        train(run, 1)
    with pytest.raises(ConfigError):
        open_run(tmp_path, resume="never")
    open_run(tmp_path).close()


def test_samples_are_whole_files_and_a_repeated_step_replaces_its_own(tmp_path):
    with open_run(tmp_path) as run:
        run.begin()
        run.write_samples(1, "train", [{"response": "old"}])
        target = run.write_samples(1, "train", ({"response": text} for text in ("é", "line\nbreak")))
    assert [json.loads(line)["response"] for line in target.read_text(encoding="utf-8").split("\n")[:-1]] == [
        "é",
        "line\nbreak",
    ]
    assert os.listdir(tmp_path / "samples") == ["step_1_train.jsonl"]


def test_a_changed_environment_is_noted_where_the_run_goes_on(tmp_path):
    with open_run(tmp_path) as run:
        train(run, 2)
    file = tmp_path / "environment.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"torch": "2.8.0"}))
    with open_run(tmp_path) as run:
        now = run.environment["torch"]
        run.begin()
    assert read_events(tmp_path)[0]["environment_changed"] == {"torch": ["2.8.0", now]}
    assert json.loads(file.read_text())["torch"] == "2.8.0"


def test_differences_see_types_lists_and_missing_keys():
    old = {"a": {"b": 1, "c": [1, 2]}, "d": None, "same": (1, 2), "x": 2}
    new = {"a": {"b": True, "c": [1, 3]}, "e": {}, "same": [1, 2], "x": 2.0}
    assert yaml_differences(old, new) == {
        "a.b": (1, True),
        "a.c": ([1, 2], [1, 3]),
        "d": (None, "(not set)"),
        "e": ("(not set)", {}),
    }


def test_metrics_of_a_run_that_has_not_begun_are_an_error(tmp_path):
    open_run(tmp_path).close()
    with pytest.raises(DataError, match="has begun"):
        read_metrics(tmp_path)
