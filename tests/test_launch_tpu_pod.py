"""The launcher of Cloud TPU slices: its dry run line by line, real runs against a fake gcloud. No TPU, no network."""

import os
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLAGFILE = "experiments/flags/quickstart.flags"
SECRET = "sk-secret-123"

GCLOUD = r"""#!/usr/bin/env bash
# Stands in for gcloud and git: writes down arguments and standard input, knows which slices there are, fails or hangs
# where it is told to. Where WORKERS holds homes, what is sent to the workers is done there, in sessions of their own.
set -u
seen="${0##*/} $*"
printf '%s\n' "$seen" >> "$FAKE/calls"
case $seen in *"${FAIL_ON:-nothing}"*) exit "${FAIL_CODE:-1}" ;; esac
case $seen in *"${HANG_ON:-nothing}"*) touch "$FAKE/hangs"; exec tail -f /dev/null ;; esac
option() { for word; do [[ $word == "$name"=* ]] && printf '%s' "${word#*=}"; done; }
homes() { name=--worker; n=$(option "$@"); if [[ $n == all ]]; then n='?'; fi; compgen -G "$FAKE/worker$n"; }
case "$1 ${4-}" in
  archive*) name=--output; tar -czf "$(option "$@")" -T /dev/null ;;
  *\ list) cat "$FAKE/slices" ;;
  *\ describe) printf '%s\t%s\n' "${STATE:-READY}" "${HOSTS:-2}" ;;
  *\ create) echo "$5" >> "$FAKE/slices" ;;
  *\ delete) : > "$FAKE/slices" ;;
  *\ scp) [[ -z ${WORKERS:-} ]] || for home in $(homes "$@"); do cp "$5" "$home/${6#*:}"; done ;;
  *\ ssh)
    if [[ -z ${WORKERS:-} ]]; then cat >> "$FAKE/stdin"; exit; fi
    exec 3<&0; code=0; pids=()
    for home in $(homes "$@"); do
      name=--command; HOME=$home setsid --wait bash -c "$(option "$@")" <&3 & pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
    exit "$code" ;;
esac
"""


class Launcher:
    """Runs the script with a fake gcloud and a fake git first on PATH."""

    def __init__(self, root):
        self.root, self.bin, self.log = root, root / "bin", root / "tpu.log"
        self.bin.mkdir()
        (root / "slices").write_text("somebody-elses\n")
        self.program("gcloud", GCLOUD)
        self.program("git", GCLOUD)
        self.asked = ["--name=rlao", "--zone=us-east5-a", "--accelerator_type=v5p-16", f"--log={self.log}"]
        self.new = [*self.asked, "--bucket=gs://my-bucket", "--run_dir=/mnt/w4s/7b", f"--flagfile={FLAGFILE}"]
        self.old = [*self.asked, "--existing", "--run_dir=/mnt/nfs/7b", f"--flagfile={FLAGFILE}"]

    def program(self, name, text):
        """Puts a program on the PATH of what is run."""
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def start(self, *arguments, command=("bash", "launch/tpu_pod.sh"), **variables):
        env = {"HOME": str(self.root), "FAKE": str(self.root), "LC_ALL": "C.UTF-8", "OPENAI_API_KEY": SECRET}
        env["PATH"] = f"{self.bin}:{os.environ['PATH']}"
        return subprocess.Popen(
            [shutil.which("env"), "--default-signal=INT", *command, *arguments],
            cwd=ROOT, env=env | variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __call__(self, *arguments, **variables):
        process = self.start(*arguments, **variables)
        out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def calls(self):
        """What the fakes were called with, a line each."""
        return self.read("calls").splitlines()

    def verbs(self):
        """What gcloud was told to do."""
        return [call.split()[4] for call in self.calls() if call.startswith("gcloud")]

    def read(self, name):
        return (self.root / name).read_text() if (self.root / name).exists() else ""


@pytest.fixture
def launcher(tmp_path):
    return Launcher(tmp_path)


# --- the dry run ----------------------------------------------------------------

GET = "-qq -y -o DPkg::Lock::Timeout=300"
UNPACK = (
    "mkdir -p ~/w4s_pod && cd ~/w4s_pod && "
    'if [ ! -s exit ] && kill -0 "$(cat pid 2>/dev/null)" 2>/dev/null; then '
    'echo "error: an earlier run, process $(cat pid), goes on on $(hostname); stop it" >&2; exit 2; fi && '
    "rm -rf code log pid exit && mkdir code && tar -xzf ~/w4s_code.tar.gz -C code"
)
INSTALL = (
    f"sudo apt-get update -qq && sudo apt-get install {GET} make bubblewrap python3-pip >/dev/null && "
    'python3 -m pip install --user --quiet uv && export PATH="$HOME/.local/bin:$PATH" && '
    'cd ~/w4s_pod/code && make setup VENV="$HOME/w4s_pod/venv" && '
    'uv pip install --quiet --python "$HOME/w4s_pod/venv/bin/python" -r requirements.txt -e ".[tpu]"'
)
MOUNT = (
    'case "$(findmnt -no SOURCE /mnt/w4s)" in my-bucket) ;; '
    '"") sudo mkdir -p /mnt/w4s && sudo chown "$(id -u)" /mnt/w4s && '
    "curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | "
    "sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null && "
    'echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt '
    'gcsfuse-$(lsb_release -cs) main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null && '
    f"sudo apt-get update -qq && sudo apt-get install {GET} gcsfuse >/dev/null && "
    "gcsfuse --implicit-dirs --rename-dir-limit=100000 --metadata-cache-ttl-secs=0 my-bucket /mnt/w4s && "
    '{ [ -w /mnt/w4s ] || sudo chown "$(id -u)" /mnt/w4s; } ;; '
    '*) echo "error: /mnt/w4s is something else on $(hostname); unmount it" >&2; exit 2 ;; '
    "esac && mkdir -p /mnt/w4s/7b"
)
RECEIVE_KEYS = "rm -f ~/.w4s_env; umask 077; cat > ~/.w4s_env && [ -s ~/.w4s_env ]"
START = (
    "cd ~/w4s_pod && if [ ! -e pid ]; then { [ ! -e ~/.w4s_env ] || . ~/.w4s_env; cd code; "
    'PYTHONUNBUFFERED=1 ../venv/bin/python -m experiments.rlao --distributed --flagfile="$HOME/w4s.flags" '
    "%s & echo $! > ../pid; wait $!; echo $? > ../exit; } > log 2>&1 < /dev/null & fi; "
    "until [ -s pid ]; do sleep 0.2; done; "
    'tail -n +1 -s 0.2 -f --pid="$(cat pid)" log | sed -u "s/^/[$(hostname)] /"; '
    'timeout 30 sh -c "until [ -s exit ]; do sleep 0.2; done"; exit "$(cat exit || echo 1)"'
)
STOP = (
    'cd ~/w4s_pod && if [ -s pid ] && [ ! -s exit ]; then kill -TERM "$(cat pid)"; '
    'timeout 120 tail -s 0.2 --pid="$(cat pid)" -f /dev/null || kill -KILL "$(cat pid)"; fi; rm -f ~/.w4s_env'
)


def test_the_dry_run_prints_exactly_what_would_be_executed(launcher):
    further = ["--seed=1", "--task=toy_units,it's mine"]
    done = launcher(*launcher.new, "--project=my-project", "--spot", "--dry_run", "--", *further)
    tpu, here = "gcloud compute tpus tpu-vm", "--zone=us-east5-a --project=my-project"
    send = "printf 'export OPENAI_API_KEY=%q\\n' \"$OPENAI_API_KEY\" | "
    flags = r"--run_dir=/mnt/w4s/7b --seed=1 '\''--task=toy_units,it'\''\'\'''\''s mine'\''"
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "git diff --quiet HEAD",
        f"mkdir -p {launcher.root}",
        f"git archive --format=tar.gz --output={launcher.root}/tpu.tar.gz HEAD",
        f"slices=$({tpu} list '--format=value(name.basename())' {here})",
        f"{tpu} create rlao --accelerator-type=v5p-16 --version=v2-alpha-tpuv5 --spot {here}",
        f"seen=$({tpu} describe rlao '--format=value(state,networkEndpoints.len())' {here})",
        f"{tpu} scp {launcher.root}/tpu.tar.gz rlao:w4s_code.tar.gz --worker=all {here}",
        f"{tpu} scp {FLAGFILE} rlao:w4s.flags --worker=all {here}",
        f"{tpu} ssh rlao --worker=all '--command={UNPACK}' {here}",
        f"{tpu} ssh rlao --worker=all '--command={INSTALL}' {here}",
        f"{tpu} ssh rlao --worker=all '--command={MOUNT}' {here}",
        f"{send}{tpu} ssh rlao --worker=0 '--command={RECEIVE_KEYS}' {here}",
        f"{send}{tpu} ssh rlao --worker=1 '--command={RECEIVE_KEYS}' {here}",
        f"{tpu} ssh rlao --worker=all --ssh-flag=-oServerAliveInterval=30 '--command={START % flags}' {here}"
        f" 2>&1 | tee -a {launcher.log}",
        f"{tpu} ssh rlao --worker=all '--command={STOP}' {here}",
        f"{tpu} delete rlao --quiet {here}",
    ]
    assert launcher.calls() == []
    assert not launcher.log.exists()


def test_the_dry_run_of_a_slice_that_exists_and_is_kept_neither_creates_nor_deletes_nor_mounts(launcher):
    done = launcher(*launcher.old, "--keep", "--dry_run", OPENAI_API_KEY="")
    tpu, here = "gcloud compute tpus tpu-vm", "--zone=us-east5-a"
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "git diff --quiet HEAD",
        f"mkdir -p {launcher.root}",
        f"git archive --format=tar.gz --output={launcher.root}/tpu.tar.gz HEAD",
        f"slices=$({tpu} list '--format=value(name.basename())' {here})",
        f"seen=$({tpu} describe rlao '--format=value(state,networkEndpoints.len())' {here})",
        f"{tpu} scp {launcher.root}/tpu.tar.gz rlao:w4s_code.tar.gz --worker=all {here}",
        f"{tpu} scp {FLAGFILE} rlao:w4s.flags --worker=all {here}",
        f"{tpu} ssh rlao --worker=all '--command={UNPACK}' {here}",
        f"{tpu} ssh rlao --worker=all '--command={INSTALL}' {here}",
        f"{tpu} ssh rlao --worker=all --ssh-flag=-oServerAliveInterval=30"
        f" '--command={START % '--run_dir=/mnt/nfs/7b'}' {here} 2>&1 | tee -a {launcher.log}",
        f"{tpu} ssh rlao --worker=all '--command={STOP}' {here}",
    ]
    assert f"goes on being billed; to delete it: {tpu} delete rlao --quiet {here}" in done.stderr


def test_the_dry_run_needs_no_gcloud(launcher):
    for name in ("bash", "dirname"):
        (launcher.bin / name).symlink_to(shutil.which(name))
    (launcher.bin / "gcloud").unlink()
    done = launcher(*launcher.new, "--dry_run", PATH=str(launcher.bin))
    assert done.returncode == 0, done.stderr
    done = launcher(*launcher.new, PATH=str(launcher.bin))
    assert refused(done) == "gcloud is not on PATH; install it, or see what would be done with --dry_run"


@pytest.mark.parametrize(
    ("accelerator_type", "version", "workers"),
    [
        ("v5litepod-1", "v2-alpha-tpuv5-lite", 1),
        ("v5litepod-8", "v2-alpha-tpuv5-lite", 1),
        ("v5litepod-16", "v2-alpha-tpuv5-lite", 4),
        ("v6e-4", "v2-alpha-tpuv6e", 1),
        ("v6e-32", "v2-alpha-tpuv6e", 8),
        ("v5p-8", "v2-alpha-tpuv5", 1),
        ("v5p-32", "v2-alpha-tpuv5", 4),
        ("v4-32", "tpu-ubuntu2204-base", 4),
    ],
)
def test_the_software_and_the_number_of_hosts_follow_from_the_accelerator_type(
    launcher, accelerator_type, version, workers
):
    done = launcher(*launcher.new, f"--accelerator_type={accelerator_type}", "--dry_run")
    assert f"--accelerator-type={accelerator_type} --version={version} " in done.stdout
    assert done.stdout.count("printf 'export OPENAI_API_KEY=%q") == workers


# --- real runs ------------------------------------------------------------------


@pytest.mark.parametrize("which", ["new", "old"])
def test_what_is_executed_is_what_the_dry_run_printed_and_can_be_pasted(launcher, which):
    asked = [*getattr(launcher, which), "--", "--seed=1", "--task=it's mine"]
    (launcher.root / "slices").write_text("rlao\n" if which == "old" else "rlao-2\n")
    assert launcher(*asked).returncode == 0
    executed, received = launcher.calls(), launcher.read("stdin")
    assert len(executed) > 8

    (launcher.root / "calls").unlink()
    (launcher.root / "stdin").unlink()
    printed = launcher("--dry_run", *asked)
    assert launcher.calls() == []
    pasted = launcher(printed.stdout, command=["bash", "-c"])
    assert pasted.returncode == 0, pasted.stderr
    assert launcher.calls() == executed
    assert launcher.read("stdin") == received


def test_a_secret_is_on_no_command_line_and_in_no_printed_line(launcher):
    done = launcher(*launcher.new, "--keys=OPENAI_API_KEY,OTHER", OTHER="it's $HOME")
    assert done.returncode == 0
    dry = launcher(*launcher.new, "--dry_run")
    for text in (done.stdout, done.stderr, dry.stdout, dry.stderr, launcher.read("calls"), launcher.read("tpu.log")):
        assert SECRET not in text
        assert "it's $HOME" not in text
    received = f"export OPENAI_API_KEY={SECRET}\nexport OTHER=it\\'s\\ \\$HOME\n"
    assert launcher.read("stdin") == 2 * received  # once a worker, and nothing else


@pytest.mark.parametrize("code", [0, 1, 2, 3, 130, 143])
def test_the_exit_code_of_the_workers_is_returned(launcher, code):
    assert launcher(*launcher.new, FAIL_ON="experiments.rlao", FAIL_CODE=str(code)).returncode == code
    assert launcher.verbs()[-3:] == ["ssh", "ssh", "delete"]
    assert STOP in launcher.calls()[-2]


@pytest.mark.parametrize("step", ["tpu-vm create", "tpu-vm describe", "w4s_code", "make setup", "gcsfuse", "umask 077"])
def test_whatever_fails_the_slice_that_was_created_is_deleted(launcher, step):
    assert launcher(*launcher.new, FAIL_ON=step, FAIL_CODE="7").returncode == 7
    assert "experiments.rlao" not in launcher.read("calls")
    assert launcher.verbs()[-1] == "delete"


@pytest.mark.parametrize(
    ("existed", "options", "deleted"),
    [
        (False, [], True),
        (False, ["--keep"], False),
        (True, [], False),
        (True, ["--existing"], False),
        (True, ["--keep"], False),
        (True, ["--delete"], True),
    ],
)
def test_only_a_slice_of_its_own_is_deleted_unless_told_otherwise(launcher, existed, options, deleted):
    (launcher.root / "slices").write_text("rlao\n" if existed else "not-rlao\nrlao-2\n")
    done = launcher(*launcher.new, *options, FAIL_ON="experiments.rlao", FAIL_CODE="9")
    assert done.returncode == 9
    assert ("create" in launcher.verbs()) is not existed
    assert ("delete" in launcher.verbs()) is deleted
    assert ("goes on being billed" in done.stderr) is not deleted


def test_without_an_answer_about_the_slices_nothing_is_created_or_deleted(launcher):
    assert launcher(*launcher.new, "--delete", FAIL_ON="tpu-vm list").returncode == 1
    assert launcher.verbs() == ["list"]


def test_uncommitted_changes_are_refused_before_anything_is_billed(launcher):
    assert refused(launcher(*launcher.new, FAIL_ON="git diff")).startswith("what is not committed would not be copied")
    assert launcher.verbs() == []


def test_a_slice_with_another_number_of_hosts_is_given_back(launcher):
    said = refused(launcher(*launcher.new, HOSTS="4"))
    assert said.startswith("--name=rlao: the slice has 4 hosts, expected were 2;")
    assert launcher.verbs() == ["list", "create", "describe", "delete"]


def test_a_slice_that_is_not_ready_is_waited_for_or_refused(launcher):
    (launcher.root / "slices").write_text("rlao\n")
    launcher.program("sleep", "#!/bin/sh\n")
    assert "is PREEMPTED, not READY" in refused(launcher(*launcher.new, STATE="PREEMPTED"))
    assert launcher.verbs() == ["list", "describe"]
    assert "still CREATING after 10 minutes" in refused(launcher(*launcher.new, STATE="CREATING"))


def test_a_slice_that_cannot_be_deleted_is_said_aloud(launcher):
    launcher.program("sleep", "#!/bin/sh\n")
    done = launcher(*launcher.new, FAIL_ON="tpu-vm delete")
    assert done.returncode == 1
    assert "MAY STILL EXIST AND BE BILLED; delete it: gcloud compute tpus tpu-vm delete rlao --quiet" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_during_the_start_tears_down(launcher, number, code):
    process = launcher.start(*launcher.new, HANG_ON="experiments.rlao")
    wait_for(launcher.root / "hangs")
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == code, err
    assert STOP in launcher.calls()[-2]
    assert launcher.verbs()[-1] == "delete"
    assert launcher.read("slices") == ""


# --- bad input ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--name="], "--name is missing; give it, for example --name=rlao"),
        (["--name=My_Slice"], "--name=My_Slice is not a name of lower-case letters"),
        (["--accelerator_type=v5e-16"], "--accelerator_type=v5e-16 is unknown; allowed are v5litepod-N"),
        (["--accelerator_type=v5p-4"], "--accelerator_type=v5p-4 is unknown; allowed are"),
        (["--flagfile="], "--flagfile is missing; give it, for example --flagfile=experiments/flags/quickstart.flags"),
        (["--flagfile=no/such.flags"], f"--flagfile=no/such.flags is no file in {ROOT}; see experiments/flags"),
        (["--run_dir=runs/7b"], "--run_dir=runs/7b is not an absolute path"),
        (["--run_dir=/mnt/elsewhere"], "--run_dir=/mnt/elsewhere is not below /mnt/w4s"),
        (["--bucket="], "--run_dir=/mnt/w4s/7b is not shared by the hosts of a new slice; give --bucket=gs://…"),
        (["--bucket=gs://b/folder"], "--bucket=gs://b/folder is not a bucket such as gs://my-bucket"),
        (["--nfs=10.0.0.2:/share"], "--bucket and --nfs are both given"),
        (["--workers=two"], "--workers=two is not a number of hosts"),
        (["--keys=OPENAI_API_KEY,HF_TOKEN"], "--keys=OPENAI_API_KEY,HF_TOKEN: HF_TOKEN is not set here; export it"),
        ([f"--keys={SECRET}"], "--keys holds what is no name of an environment variable; give names, not values"),
        (["--keep", "--delete"], "--keep and --delete contradict each other"),
        (["--sopt"], "--sopt is not an option; options stand in --help"),
        (["--spot=1"], "--spot=1 is not an option"),
        (["rlao"], "rlao is not an option"),
        (["--existing"], "--name=rlao: no such slice in us-east5-a; correct the name or the zone"),
    ],
)
def test_bad_input_is_one_line_that_names_it_and_the_remedy(launcher, arguments, said):
    done = launcher(*launcher.new, *arguments)
    assert refused(done).startswith(said)
    assert SECRET not in done.stderr
    assert set(launcher.verbs()) <= {"list"}


def test_the_help_is_the_head_of_the_script(launcher):
    done = launcher("--help")
    assert done.returncode == 0
    assert "NO TPU HAS RUN THIS SCRIPT" in done.stdout
    assert "COSTS: " in done.stdout
    assert "set -euo" not in done.stdout


# --- the workers' side, done in folders that stand in for their homes ------------

PYTHON = r"""#!/usr/bin/env bash
[[ $OPENAI_API_KEY == "it's \$secret" ]] && echo "key received, mode $(stat -c %a ~/.w4s_env)"
printf 'got %s\n' "$@"
touch ~/runs
trap 'echo saved; exit 143' TERM
[[ $* != *--hang* ]] || { touch ~/hangs; while :; do sleep 0.05; done; }
exit "$(cat ~/code)"
"""
ON_WORKERS = {"WORKERS": "1", "OPENAI_API_KEY": "it's $secret"}


@pytest.fixture
def workers(launcher):
    """Homes of two hosts on which installing makes a stand-in of Python."""
    homes = [launcher.root / f"worker{n}" for n in range(2)]
    for home in homes:
        home.mkdir()
        (home / "code").write_text("0")
    (launcher.root / "slices").write_text("rlao\n")
    (launcher.root / "venv_python").write_text(PYTHON)
    install = 'mkdir -p ~/w4s_pod/venv/bin && install -m 755 "$FAKE/venv_python" ~/w4s_pod/venv/bin/python'
    launcher.program("make", f"#!/bin/sh\n{install}\n")
    launcher.program("hostname", "#!/bin/sh\nbasename ~\n")
    for name in ("sudo", "python3", "uv"):
        launcher.program(name, "#!/bin/sh\n")
    return homes


def test_the_workers_get_flags_and_keys_and_keep_no_keys(launcher, workers):
    (workers[1] / "code").write_text("3")
    done = launcher(*launcher.old, "--", "--task=it's mine", **ON_WORKERS)
    assert done.returncode == 3, done.stderr
    for home in workers:
        assert (home / "w4s.flags").read_text() == (ROOT / FLAGFILE).read_text()
        assert (home / "w4s_pod" / "log").read_text().splitlines() == [
            "key received, mode 600",
            *("got -m", "got experiments.rlao", "got --distributed", f"got --flagfile={home}/w4s.flags"),
            *("got --run_dir=/mnt/nfs/7b", "got --task=it's mine"),
        ]
        assert f"[{home.name}] got --distributed\n" in done.stdout
        assert f"[{home.name}] got --distributed\n" in launcher.log.read_text()
        assert not (home / ".w4s_env").exists()


def test_the_keys_are_for_their_owner_alone_even_where_an_open_file_lay(launcher, workers):
    env_file = workers[0] / ".w4s_env"
    env_file.write_text("old\n")
    env_file.chmod(0o644)
    process = launcher.start(*launcher.old, HANG_ON="--ssh-flag", **ON_WORKERS)
    wait_for(launcher.root / "hangs")
    assert stat.S_IMODE(env_file.stat().st_mode) == 0o600
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert not env_file.exists()


def test_ctrl_c_lets_the_run_on_every_worker_save(launcher, workers):
    process = launcher.start(*launcher.old, "--", "--hang", **ON_WORKERS)
    for home in workers:
        wait_for(home / "hangs")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    for home in workers:
        assert (home / "w4s_pod" / "log").read_text().endswith("saved\n")
        assert (home / "w4s_pod" / "exit").read_text() == "143\n"


def test_a_start_that_gcloud_repeats_follows_the_run_and_does_not_start_another(launcher, workers):
    assert launcher(*launcher.old, **ON_WORKERS).returncode == 0
    (workers[0] / "runs").unlink()
    (workers[0] / "w4s_pod" / "exit").write_text("3\n")
    again = launcher(START % "--run_dir=/x", command=["bash", "-c"], HOME=str(workers[0]))
    assert again.returncode == 3
    assert "[worker0] got --distributed\n" in again.stdout
    assert not (workers[0] / "runs").exists()


def test_a_worker_on_which_a_run_goes_on_is_left_alone(launcher, workers):
    (workers[1] / "w4s_pod" / "code").mkdir(parents=True)
    (workers[1] / "w4s_pod" / "pid").write_text(f"{os.getpid()}\n")
    done = launcher(*launcher.old, **ON_WORKERS)
    assert done.returncode == 2
    assert f"error: an earlier run, process {os.getpid()}, goes on on worker1; stop it" in done.stderr
    assert (workers[1] / "w4s_pod" / "code").exists()
    assert "experiments.rlao" not in launcher.read("calls")


def refused(done):
    """The one line of a refusal, without its `error: `."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("+ ", "tpu_pod: "))]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


def wait_for(path):
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.01)
