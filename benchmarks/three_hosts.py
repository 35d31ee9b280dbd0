"""A search by two hosts on the PostgreSQL and MLflow of a third, one of them cut off from the network for a while.

    sudo python benchmarks/three_hosts.py [--trials 6] [--seconds 30] [--rows 44] [--base FOLDER]

Three network namespaces stand for the hosts (Linux, root, iproute2, the programs of a PostgreSQL server): one has the
store, the command of examples/compose.yaml's ``mlflow`` service with a folder for the files; two have a worker each. A
few seconds into its first trial, the second worker's link goes down for so many seconds. Prints a Markdown
table: trials asked for and ended, by how they ended; trials per host; runs that still say RUNNING; points of the
trials' curves that the study has and MLflow has not.
"""

from __future__ import annotations

import argparse
import os
import pwd
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pandas as pd
import yaml

ROOT = Path(__file__).resolve().parent.parent
HOSTS = {"store": "10.77.0.1", "first": "10.77.0.2", "second": "10.77.0.3"}
TRACKING = f"http://{HOSTS['store']}:5000"
SEARCH = f"postgresql://cartas:cartas@{HOSTS['store']}:5432/busca"
STUDY = "tres-maquinas"


def main() -> None:
    options = _options()
    if options.hold:
        hold()
        return
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        scratch.chmod(0o755)
        stack.enter_context(hosts())
        stack.enter_context(postgres(scratch))
        stack.enter_context(tracking_server(scratch))
        table = pd.read_csv(ROOT / "data" / "cartas.csv").groupby("carta").head(-(-options.rows // 22))
        table.head(options.rows).to_csv(scratch / "leituras.csv", index=False)
        first = worker("first", scratch, options)
        time.sleep(5)
        second = worker("second", scratch, options)
        wait_for_a_trial(scratch / "second")
        command("ip", "-n", "second", "link", "set", "net0", "down")
        print(f"second is cut off for {options.seconds:.0f} s", file=sys.stderr)
        time.sleep(options.seconds)
        # An address of IPv4 stays where it is while the link is down.
        command("ip", "-n", "second", "link", "set", "net0", "up")
        codes = [process.wait() for process in (first, second)]
        if any(codes):
            for name in ("first", "second"):
                print((scratch / name / "console.txt").read_text(encoding="utf-8")[-3000:], file=sys.stderr)
            sys.exit(f"exit codes {codes}")
        print("| asked | ended | of them | by each worker | runs RUNNING | points missing |")
        print("| ---: | ---: | --- | --- | ---: | ---: |")
        for line in inside("store", sys.executable, __file__, "--hold", stdout=subprocess.PIPE).stdout.splitlines():
            print(f"| {options.trials} | {line} |")


@contextmanager
def hosts() -> Iterator[None]:
    """The namespaces, each with an address on one bridge in the store's."""
    try:
        for name in HOSTS:
            command("ip", "netns", "add", name)
            command("ip", "-n", name, "link", "set", "lo", "up")
        command("ip", "-n", "store", "link", "add", "bridge0", "type", "bridge")
        command("ip", "-n", "store", "addr", "add", f"{HOSTS['store']}/24", "dev", "bridge0")
        command("ip", "-n", "store", "link", "set", "bridge0", "up")
        for name in ("first", "second"):
            peer = f"to-{name}"
            command("ip", "link", "add", peer, "netns", "store", "type", "veth", "peer", "name", "net0", "netns", name)
            command("ip", "-n", "store", "link", "set", peer, "master", "bridge0", "up")
            command("ip", "-n", name, "addr", "add", f"{HOSTS[name]}/24", "dev", "net0")
            command("ip", "-n", name, "link", "set", "net0", "up")
        yield
    finally:
        for name in HOSTS:
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def postgres(scratch: Path) -> Iterator[None]:
    programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    owner, folder = pwd.getpwnam("nobody"), scratch / "postgres"
    folder.mkdir()
    os.chown(folder, owner.pw_uid, owner.pw_gid)
    become = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": [], "cwd": folder}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    initial = [programs / "initdb", "-D", folder / "data", "-U", "cartas", "--auth=trust", "--no-sync"]
    subprocess.run(initial, check=True, **quiet, **become)
    with (folder / "data" / "pg_hba.conf").open("a", encoding="utf-8") as file:
        file.write("host all all 10.77.0.0/24 trust\n")
    words = ["ip", "netns", "exec", "store", "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    words += [str(programs / "postgres"), "-D", str(folder / "data"), "-k", str(folder)]
    process = subprocess.Popen([*words, "-c", f"listen_addresses={HOSTS['store']}"], cwd=folder, **quiet)
    psql = [str(programs / "psql"), "-h", HOSTS["store"], "-U", "cartas", "-d", "postgres", "-c"]
    try:
        until(lambda: inside("store", *psql, "CREATE DATABASE mlflow", check=False, **quiet).returncode == 0)
        inside("store", *psql, "CREATE DATABASE busca", **quiet)
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def tracking_server(scratch: Path) -> Iterator[None]:
    compose = yaml.safe_load((ROOT / "examples" / "compose.yaml").read_text(encoding="utf-8"))
    words = [re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", word) for word in compose["services"]["mlflow"]["command"]]
    words = [word.replace("${CARTAS_PASSWORD:?}@postgres", f"cartas@{HOSTS['store']}") for word in words[1:]]
    words = [re.sub("s3://.*", str(scratch / "files"), word) for word in words]
    with (scratch / "server.txt").open("wb") as log:
        process = subprocess.Popen(
            ["ip", "netns", "exec", "store", sys.executable, "-m", "mlflow", *words],
            cwd=scratch,
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    probe = [sys.executable, "-c", f"import urllib.request as u; u.urlopen('{TRACKING}/health', timeout=2)"]
    try:
        until(lambda: inside("store", *probe, check=False, stderr=subprocess.DEVNULL).returncode == 0)
        yield
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def worker(name: str, scratch: Path, options: argparse.Namespace) -> subprocess.Popen[bytes]:
    """``tune`` on one host, as docs/varias-maquinas.md says."""
    folder = scratch / name
    folder.mkdir()
    words = [
        f"--model.name={options.base}",
        f"--data.path={scratch / 'leituras.csv'}",
        "--model.fallback=none",
        "--training.epochs=3",
        "--generation.max_new_tokens=24",
        "--search.pruner=none",
        f"--search.trials={options.trials}",
        f"--search.study={STUDY}",
        "--tracking.experiment=tres",
        "--tracking.system_metrics=false",
        f"--tracking.output_dir={folder / 'results'}",
    ]
    variables = {"MLFLOW_TRACKING_URI": TRACKING, "OPTUNA_STORAGE": SEARCH, "OMP_NUM_THREADS": "1"}
    with (folder / "console.txt").open("wb") as console:
        return subprocess.Popen(
            ["ip", "netns", "exec", name, sys.executable, "-m", "cartas_mlflow", "tune", *words],
            cwd=ROOT,
            env={**os.environ, **variables, "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=console,
            stderr=console,
        )


def wait_for_a_trial(folder: Path) -> None:
    until(lambda: "5. Buscando" in (folder / "console.txt").read_text(encoding="utf-8"))
    time.sleep(5)


def hold() -> None:
    """Inside the store's namespace: the study against MLflow's runs."""
    import optuna
    from mlflow import MlflowClient
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name=STUDY, storage=SEARCH)
    client = MlflowClient(TRACKING)
    runs = client.search_runs([client.get_experiment_by_name("tres").experiment_id], max_results=1000)
    ended = [trial for trial in study.trials if trial.state.is_finished()]
    states = Counter(trial.state.name for trial in ended)
    counted = sum(count for name, count in states.items() if name != TrialState.FAIL.name)
    workers = Counter(str(trial.user_attrs.get("worker")) for trial in ended)
    missing = 0
    for trial in ended:
        if trial.state == TrialState.COMPLETE:
            told = {point.step for point in client.get_metric_history(trial.user_attrs["run"], "eval/chrf")}
            missing += max(0, len(trial.intermediate_values) - len(told))
    running = sum(run.info.status == "RUNNING" for run in runs)
    kinds = ", ".join(f"{name}: {count}" for name, count in sorted(states.items()))
    each = ", ".join(str(count) for _, count in sorted(workers.items()))
    print(f"{counted} | {kinds} | {each} | {running} | {missing}")


def inside(name: str, *words: str, check: bool = True, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", "netns", "exec", name, *words], check=check, text=True, **options)


def command(*words: str) -> None:
    subprocess.run(words, check=True)


def until(done, seconds: float = 600) -> None:
    limit = time.monotonic() + seconds
    while not done():
        if time.monotonic() > limit:
            sys.exit("waited in vain")
        time.sleep(0.5)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rows", type=int, default=44)
    parser.add_argument("--base", default="data/base/cartas-t5-mini")
    parser.add_argument("--hold", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
