#!/usr/bin/env bash
# Runs one flag file on every worker of a Cloud TPU slice and gives the slice back.
#
#   code → slice → wait → set-up → shared folder → keys → START, logs followed → keys removed → slice deleted
#
#   launch/tpu_pod.sh --name=rlao --zone=us-west4-a --accelerator_type=v5litepod-16 --spot \
#       --bucket=gs://my-bucket --run_dir=/mnt/w4s/7b --flagfile=experiments/flags/quickstart.flags -- --seed=1
#
# NO TPU HAS RUN THIS SCRIPT. It was dry-run, and tested against a fake gcloud.
#
# --name=             name of the slice; taken if it exists in the zone, else created
# --zone= --project=  where (--project: gcloud's own if not given)
# --accelerator_type= v5litepod-N, v6e-N (N chips), v5p-N, v4-N (N TensorCores)
# --runtime_version=  software of the slice (by generation if not given)
# --workers=          hosts of the slice (by accelerator type if not given); compared with what the slice says
# --spot              cheaper, and may be taken away at any moment; the same command goes on afterwards
# --existing          the slice must exist already; a dry run without it supposes that it does not
# --flagfile=         flag file on this machine; the flags after -- come after it and win
# --run_dir=          absolute path of a folder that all hosts share, below /mnt/w4s with --bucket or --nfs
# --bucket=gs://NAME  is mounted at /mnt/w4s on every worker with gcsfuse
# --nfs=HOST:/SHARE   is mounted at /mnt/w4s on every worker instead, e.g. a Filestore share
# --keys=NAME,…       environment variables to send (default: OPENAI_API_KEY, OPENAI_BASE_URL, HF_TOKEN where set)
# --log=              local copy of all workers' logs (default: runs/tpu_NAME.log); the code's archive lies beside it
# --keep              do not delete the slice that this command created
# --delete            delete the slice even though it existed before
# --dry_run           print every command, one a line, ready to be pasted; execute nothing
#
# Needs here: bash 4.4, git, and gcloud, logged in, its ssh key in the agent (ssh-add ~/.ssh/google_compute_engine).
# Needs there: quota for the slice; hosts that reach the internet and may sudo; with --bucket, a service account that
# may write to it. Paths here are relative to the repository. The last commit is what is copied; uncommitted changes
# are refused. All hosts must share --run_dir: a folder on one disk is seen by one host alone, and deleted with it.
#
# COSTS: the slice is billed from its creation until it is deleted, whatever runs on it. It is deleted at the end, on
# errors, on Ctrl-C and SIGTERM, unless it existed before or --keep is given. `kill -9` and power cuts leave it billed.
# A bucket, a Filestore share and the calls of the run (--budget_usd) are billed apart.
#
# Keys stand on no command line: they go through ssh's standard input into ~/.w4s_env (mode 600) of each worker, which
# is removed at the end.
#
# Exit code: that of the first worker that did not end with 0 (2 bad input, 3 stopped by a budget and resumable); 2 for
# bad input here; 130 after Ctrl-C, 143 after SIGTERM; gcloud's own where another step fails, 255 for a lost connection.
set -euo pipefail

say() { printf 'tpu_pod: %s\n' "$1" >&2; }

die() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || die "bash $BASH_VERSION is too old; take bash 4.4 or later"

readonly MOUNT=/mnt/w4s
declare -A opt=(
  [name]='' [zone]='' [project]='' [accelerator_type]='' [runtime_version]='' [workers]='' [flagfile]='' [run_dir]=''
  [bucket]='' [nfs]='' [keys]='' [log]=''
)
declare -A switch=([spot]='' [existing]='' [keep]='' [delete]='' [dry_run]='')
further=() keys=() where=()
workers='' existed='' taken='' created='' touched='' job=''

# --- the way to the outside -----------------------------------------------------

quote() { # WORD… → one line that a shell reads as these words
  local word words=()
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word=${word@Q}
    words+=("$word")
  done
  printf '%s' "${words[*]}"
}

run() { # LINE: the only way to the outside; what a dry run prints is what is evaluated
  if [[ ${switch[dry_run]} ]]; then
    printf '%s\n' "$1"
  else
    printf '+ %s\n' "$1" >&2
    eval "$1" </dev/null
  fi
}

tpu() { # VERB [ARGUMENT…] → a line of gcloud in the slice's zone
  quote gcloud compute tpus tpu-vm "$@" "${where[@]}"
}

remote() { # WORKER COMMAND [OPTION…] → a line of gcloud that runs the command there, on all at once for `all`
  tpu ssh "${opt[name]}" --worker="$1" "${@:3}" --command="$2"
}

# --- what is asked for ----------------------------------------------------------

parse() { # ARGUMENT…
  local key
  while (($#)); do
    key=${1#--} key=${key%%=*}
    case $1 in
      --) further=("${@:2}") && return ;;
      --help) sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit 0 ;;
      --[a-z]*=*) known "${opt[$key]+known}" "$1" && opt[$key]=${1#*=} ;;
      --[a-z]*) known "${switch[$key]+known}" "$1" && switch[$key]=1 ;;
      *) known '' "$1" ;;
    esac
    shift
  done
}

known() { # YES ARGUMENT
  [[ $1 ]] || die "$2 is not an option; options stand in --help, flags of the run after --"
}

need() { # NAME EXAMPLE
  [[ ${opt[$1]} ]] || die "--$1 is missing; give it, for example --$1=$2"
}

match() { # NAME PATTERN MEANING: what is given must match
  [[ ! ${opt[$1]} || ${opt[$1]} =~ ^($2)$ ]] || die "--$1=${opt[$1]} is not $3; correct it"
}

check() {
  need name rlao && need zone us-west4-a && need accelerator_type v5litepod-16
  need flagfile experiments/flags/quickstart.flags && need run_dir "$MOUNT/rlao"
  match name '[a-z]([a-z0-9-]{0,61}[a-z0-9])?' 'a name of lower-case letters, digits and -, beginning with a letter'
  match zone '[a-z0-9-]+' 'a zone such as us-west4-a'
  match project '[a-z0-9.:-]+' 'the id of a project'
  match workers '[1-9][0-9]{0,3}' 'a number of hosts'
  match run_dir '/.+' 'an absolute path, which every host would understand alike'
  match bucket '(gs://)?[a-z0-9][a-z0-9._-]+' 'a bucket such as gs://my-bucket, without a folder'
  match nfs '[A-Za-z0-9.-]+:/.*' 'a share such as 10.0.0.2:/share'
  [[ -f ${opt[flagfile]} ]] || die "--flagfile=${opt[flagfile]} is no file in $PWD; see experiments/flags"
  [[ ! ${switch[keep]} || ! ${switch[delete]} ]] || die '--keep and --delete contradict each other; give one of them'
  check_accelerator
  check_shared
  check_keys
  check_tools
}

check_accelerator() { # sets the number of workers and the runtime version, where they are not given
  local type=${opt[accelerator_type]} runtime='' size=0 per_worker=8
  [[ $type =~ ^[a-z0-9]+-([1-9][0-9]{0,4})$ ]] && size=${BASH_REMATCH[1]}
  case $type in # of 8 chips one host has all, of more it has 4
    v5litepod-*) runtime=v2-alpha-tpuv5-lite && ((size == 8)) || per_worker=4 ;;
    v6e-*) runtime=v2-alpha-tpuv6e && ((size == 8)) || per_worker=4 ;;
    v5p-*) runtime=v2-alpha-tpuv5 ;;
    v4-*) runtime=tpu-ubuntu2204-base ;;
  esac
  if [[ ! $runtime ]] || ((size == 0 || size % per_worker && (size > 1 || per_worker == 8))); then
    die "--accelerator_type=$type is unknown; allowed are v5litepod-N and v6e-N with N chips (1 or a multiple of 4), \
v5p-N and v4-N with N TensorCores (a multiple of 8), for example --accelerator_type=v5litepod-16"
  fi
  workers=${opt[workers]:-$(((size + per_worker - 1) / per_worker))}
  opt[runtime_version]=${opt[runtime_version]:-$runtime}
}

check_shared() { # a run directory on one host's own disk would be seen by one host, and deleted with it
  [[ ! ${opt[bucket]} || ! ${opt[nfs]} ]] || die '--bucket and --nfs are both given; one folder is shared, give one'
  if [[ ${opt[bucket]}${opt[nfs]} ]]; then
    [[ ${opt[run_dir]} == "$MOUNT"/?* ]] ||
      die "--run_dir=${opt[run_dir]} is not below $MOUNT, where --bucket and --nfs are mounted; give --run_dir=$MOUNT/…"
  elif [[ ! ${switch[existing]} ]]; then
    die "--run_dir=${opt[run_dir]} is not shared by the hosts of a new slice; give --bucket=gs://… or \
--nfs=HOST:/SHARE and --run_dir=$MOUNT/…, or mount it yourself and give --existing"
  fi
}

check_keys() { # sets the names of the keys to send
  local key
  if [[ ${opt[keys]} ]]; then
    IFS=, read -ra keys <<<"${opt[keys]}"
  else
    for key in OPENAI_API_KEY OPENAI_BASE_URL HF_TOKEN; do
      [[ ! ${!key:-} ]] || keys+=("$key")
    done
  fi
  for key in "${keys[@]}"; do
    [[ $key =~ ^[A-Za-z_][A-Za-z0-9_]*$ ]] ||
      die '--keys holds what is no name of an environment variable; give names, not values: --keys=OPENAI_API_KEY'
    [[ ${!key:-} ]] || die "--keys=${opt[keys]}: $key is not set here; export it, or leave it out"
  done
}

check_tools() {
  local tool
  [[ ! ${switch[dry_run]} ]] || return 0
  for tool in gcloud git; do
    command -v "$tool" >/dev/null || die "$tool is not on PATH; install it, or see what would be done with --dry_run"
  done
}

# --- the steps ------------------------------------------------------------------

pack_code() { # before anything is billed
  run 'git diff --quiet HEAD' || die 'what is not committed would not be copied to the workers; commit it'
  run "$(quote mkdir -p "$(dirname "${opt[log]}")")"
  run "$(quote git archive --format=tar.gz --output="${opt[log]%.log}.tar.gz" HEAD)"
}

take_slice() { # creates it unless it exists; a list, because a failed `describe` would not tell absence from an outage
  local slices='' spot=()
  run "slices=\$($(tpu list --format='value(name.basename())'))"
  is_listed "$slices" && existed=1
  if [[ ${switch[dry_run]} ]]; then
    existed=${switch[existing]}
    [[ $existed ]] || say 'dry run: supposing that there is no such slice yet; if there is one, give --existing'
  fi
  [[ ! ${switch[existing]} || $existed ]] ||
    die "--name=${opt[name]}: no such slice in ${opt[zone]}; correct the name or the zone, or leave out --existing"
  taken=1
  [[ ! $existed ]] || return 0
  [[ ! ${switch[spot]} ]] || spot=(--spot)
  created=1 # from here on it may exist and be billed
  run "$(tpu create "${opt[name]}" --accelerator-type="${opt[accelerator_type]}" --version="${opt[runtime_version]}" \
    "${spot[@]}")"
}

is_listed() { # NAMES, one a line
  [[ $'\n'$1$'\n' == *$'\n'"${opt[name]}"$'\n'* ]]
}

await_slice() { # until it is ready, with as many hosts as will be sent keys
  local seen='' state='' hosts=''
  for _ in {1..60}; do
    run "seen=\$($(tpu describe "${opt[name]}" --format='value(state,networkEndpoints.len())'))"
    [[ ! ${switch[dry_run]} ]] || return 0
    read -r state hosts <<<"$seen"
    case $state in
      READY) break ;;
      CREATING | STARTING | RESTARTING | REIMAGING | REPAIRING) sleep 10 ;;
      *) die "--name=${opt[name]}: the slice is $state, not READY; start it or delete it" ;;
    esac
  done
  [[ $state == READY ]] || die "--name=${opt[name]}: the slice is still $state after 10 minutes; see the console"
  [[ $hosts == "$workers" ]] || die "--name=${opt[name]}: the slice has $hosts hosts, expected were $workers; \
correct --accelerator_type=${opt[accelerator_type]}, or give --workers=$hosts"
}

set_up() { # the code is replaced, the environment beside it is kept
  run "$(tpu scp "${opt[log]%.log}.tar.gz" "${opt[name]}:w4s_code.tar.gz" --worker=all)"
  run "$(tpu scp "${opt[flagfile]}" "${opt[name]}:w4s.flags" --worker=all)"
  run "$(remote all "$(unpack)")"
  run "$(remote all "$(install)")"
}

mount_shared() {
  if [[ ${opt[bucket]} ]]; then
    run "$(remote all "$(mounted "${opt[bucket]#gs://}" "$(gcsfuse)")")"
  elif [[ ${opt[nfs]} ]]; then
    run "$(remote all "$(mounted "${opt[nfs]}" "$(nfs)")")"
  fi
}

send_keys() { # to one worker after the other: with `--worker=all` they would share one standard input
  local key format='' values='' worker
  ((${#keys[@]})) || return 0
  for key in "${keys[@]}"; do
    format+="export $key=%q\\n" values+=" \"\$$key\""
  done
  touched=1
  for ((worker = 0; worker < workers; worker++)); do
    run "printf '$format'$values | $(remote "$worker" "$(receive_keys)")"
  done
}

start() { # in a process group of its own, so that a signal to this script alone ends the wait
  local line
  line="$(remote all "$(rlao)" --ssh-flag=-oServerAliveInterval=30) 2>&1 | $(quote tee -a "${opt[log]}")"
  touched=1
  set -m
  run "$line" &
  job=$!
  set +m
  wait "$job"
  job=''
}

tear_down() { # at every exit: stops what still runs, removes the keys, deletes the slice where that is ours to do
  local code=$?
  trap '' INT TERM HUP
  trap - EXIT
  set +e
  [[ ! $job ]] || kill -TERM -- "-$job" 2>/dev/null
  [[ ! $touched ]] || run "$(remote all "$(stop)")" || say "workers of ${opt[name]} may still hold the keys and the run"
  if [[ $taken && ${switch[delete]} || $created && ! ${switch[keep]} ]]; then
    delete_slice || ((code)) || code=1
  elif [[ $taken ]]; then
    say "the slice is kept and goes on being billed; to delete it: $(tpu delete "${opt[name]}" --quiet)"
  fi
  exit "$code"
}

delete_slice() { # again while it is there: one that is being created may have to be waited for
  local slices='' line
  line=$(tpu delete "${opt[name]}" --quiet)
  for _ in {1..20}; do
    run "$line" && return 0
    run "slices=\$($(tpu list --format='value(name.basename())'))" && ! is_listed "$slices" && return 0
    sleep 15
  done
  say "THE SLICE MAY STILL EXIST AND BE BILLED; delete it: $line"
  return 1
}

# --- what the workers do: ~/w4s_pod holds code, venv, and of the run log, pid and exit -------------------------------

one_line() { # joins the lines of a command
  local line lines=()
  while read -r line; do lines+=("$line"); done
  printf '%s' "${lines[*]}"
}

unpack() {
  one_line <<'SH'
mkdir -p ~/w4s_pod && cd ~/w4s_pod &&
if [ ! -s exit ] && kill -0 "$(cat pid 2>/dev/null)" 2>/dev/null; then
  echo "error: an earlier run, process $(cat pid), goes on on $(hostname); stop it" >&2; exit 2;
fi &&
rm -rf code log pid exit && mkdir code && tar -xzf ~/w4s_code.tar.gz -C code
SH
}

install() { # the runtime's own Python may be older than 3.11: uv brings one; a fresh machine may be updating itself
  one_line <<'SH'
sudo apt-get update -qq &&
sudo apt-get install -qq -y -o DPkg::Lock::Timeout=300 make bubblewrap python3-pip >/dev/null &&
python3 -m pip install --user --quiet uv && export PATH="$HOME/.local/bin:$PATH" &&
cd ~/w4s_pod/code && make setup VENV="$HOME/w4s_pod/venv" &&
uv pip install --quiet --python "$HOME/w4s_pod/venv/bin/python" -r requirements.txt -e ".[tpu]"
SH
}

mounted() { # SOURCE COMMAND: the command mounts it, unless it is mounted; nothing else may be
  one_line <<SH
case "\$(findmnt -no SOURCE $MOUNT)" in
  $(quote "$1")) ;;
  "") sudo mkdir -p $MOUNT && sudo chown "\$(id -u)" $MOUNT && $2 $(quote "$1") $MOUNT &&
    { [ -w $MOUNT ] || sudo chown "\$(id -u)" $MOUNT; } ;;
  *) echo "error: $MOUNT is something else on \$(hostname); unmount it" >&2; exit 2 ;;
esac && mkdir -p $(quote "${opt[run_dir]}")
SH
}

gcsfuse() { # metadata always fresh, as hosts read what others wrote; folders renamed, as that completes a checkpoint
  one_line <<'SH'
curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg |
sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null &&
echo "deb [signed-by=/usr/share/keyrings/cloud.google.asc] https://packages.cloud.google.com/apt
gcsfuse-$(lsb_release -cs) main" | sudo tee /etc/apt/sources.list.d/gcsfuse.list >/dev/null &&
sudo apt-get update -qq && sudo apt-get install -qq -y -o DPkg::Lock::Timeout=300 gcsfuse >/dev/null &&
gcsfuse --implicit-dirs --rename-dir-limit=100000 --metadata-cache-ttl-secs=0
SH
}

nfs() { # what one host writes, the others see at once
  one_line <<'SH'
sudo apt-get install -qq -y -o DPkg::Lock::Timeout=300 nfs-common >/dev/null && sudo mount -t nfs -o lookupcache=positive,actimeo=1
SH
}

receive_keys() {
  one_line <<'SH'
rm -f ~/.w4s_env; umask 077; cat > ~/.w4s_env && [ -s ~/.w4s_env ]
SH
}

rlao() { # the run outlives a broken connection: gcloud then repeats the command, which finds the pid and follows
  one_line <<SH
cd ~/w4s_pod && if [ ! -e pid ]; then {
  [ ! -e ~/.w4s_env ] || . ~/.w4s_env;
  cd code;
  PYTHONUNBUFFERED=1 ../venv/bin/python -m experiments.rlao --distributed --flagfile="\$HOME/w4s.flags"
    $(quote --run_dir="${opt[run_dir]}" "${further[@]}") &
  echo \$! > ../pid; wait \$!; echo \$? > ../exit;
} > log 2>&1 < /dev/null & fi;
until [ -s pid ]; do sleep 0.2; done;
tail -n +1 -s 0.2 -f --pid="\$(cat pid)" log | sed -u "s/^/[\$(hostname)] /";
timeout 30 sh -c "until [ -s exit ]; do sleep 0.2; done"; exit "\$(cat exit || echo 1)"
SH
}

stop() { # SIGTERM lets the run save
  one_line <<'SH'
cd ~/w4s_pod && if [ -s pid ] && [ ! -s exit ]; then
  kill -TERM "$(cat pid)"; timeout 120 tail -s 0.2 --pid="$(cat pid)" -f /dev/null || kill -KILL "$(cat pid)";
fi; rm -f ~/.w4s_env
SH
}

main() {
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  parse "$@"
  check
  opt[log]=${opt[log]:-runs/tpu_${opt[name]}.log}
  where=(--zone="${opt[zone]}")
  [[ ! ${opt[project]} ]] || where+=(--project="${opt[project]}")
  trap tear_down EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  trap 'exit 129' HUP
  pack_code
  take_slice
  await_slice
  set_up
  mount_shared
  send_keys
  start
}

main "$@"
