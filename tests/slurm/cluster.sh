#!/usr/bin/env bash
# A SLURM cluster on this one host, for tests: munged, slurmctld and several slurmd, without systemd or a database.
#
#   cluster.sh up        install Debian's packages if they are missing (root only), configure, start; harmless if it is up
#   cluster.sh down      cancel every job, stop the daemons
#   cluster.sh status    the daemons, nodes and jobs; exit code 0 if every node answers
#   cluster.sh run CMD…  run a command that sees this cluster
#   cluster.sh stop|start DAEMON    one daemon: munged, slurmctld, n1, n2, …
#
# Partitions: main; low, whose jobs are put back in the queue for those of high. It listens on 127.0.0.1 alone.
# Set in the environment: CLUSTER_DIR (state and logs), CLUSTER_NODES, CLUSTER_CPUS and CLUSTER_MEM (MB) a node,
# CLUSTER_GPUS (pretended, a node), CLUSTER_PORT, CLUSTER_DELAY (s before a job that was put back may start again; at
# least 5), CLUSTER_GRACE (s between the notice of a preemption and SIGTERM), CLUSTER_ARRAY (jobs an array may have)
set -euo pipefail

dir=${CLUSTER_DIR:-${TMPDIR:-/tmp}/vmamba-slurm-$(id -u)}
nodes=${CLUSTER_NODES:-4}
cpus=${CLUSTER_CPUS:-4}
memory=${CLUSTER_MEM:-16000}
gpus=${CLUSTER_GPUS:-2}
port=${CLUSTER_PORT:-27817}
delay=${CLUSTER_DELAY:-5}
grace=${CLUSTER_GRACE:-30}
array=${CLUSTER_ARRAY:-1001}
export SLURM_CONF=$dir/slurm.conf
export PATH=$dir/bin:$PATH:/usr/sbin:/sbin
host=$(hostname -s)

fail() {
  echo "cluster.sh: $*" >&2
  exit 1
}

# A daemon is known by its process id and the time that process began: a number used again is not ours.
born() { cut -d ' ' -f 22 "/proc/$1/stat" 2>/dev/null; }

pid_of() {
  local pid began
  read -r pid began 2>/dev/null <"$dir/run/$1.pid" || return 1
  [ "$(born "$pid")" = "$began" ] || return 1
  echo "$pid"
}

start() {
  local name=$1 pid
  shift
  pid_of "$name" >/dev/null && return
  setsid "$@" </dev/null >>"$dir/log/$name.out" 2>&1 &
  pid=$!
  disown
  echo "$pid $(born "$pid")" >"$dir/run/$name.pid"
}

stop() {
  local name pid tries
  for name in "$@"; do
    pid=$(pid_of "$name") && kill -TERM "$pid"
  done
  for name in "$@"; do
    for ((tries = 0; tries < 100; tries++)); do
      pid=$(pid_of "$name") || break
      sleep 0.1
    done
    pid=$(pid_of "$name") && kill -KILL "$pid"
    rm -f "$dir/run/$name.pid"
  done
}

start_one() {
  case $1 in
    munged)
      pid_of munged >/dev/null && return
      rm -f "$dir/run/munge.socket"*
      start munged munged --foreground --key-file="$dir/munge.key" --socket="$dir/run/munge.socket" \
        --pid-file="$dir/run/munged.self" --seed-file="$dir/run/munge.seed"
      ;;
    slurmctld) start slurmctld slurmctld -D -f "$SLURM_CONF" ;;
    n[0-9]*)
      mkdir -p "$dir/spool/$1"
      start "$1" slurmd -D -f "$SLURM_CONF" -N "$1"
      ;;
    *) fail "no daemon '$1'; choose from: ${daemons[*]}" ;;
  esac
}

install_packages() {
  local missing=() package policy=/usr/sbin/policy-rc.d own=""
  for package in munge:munged slurmctld:slurmctld slurmd:slurmd slurm-client:squeue; do
    command -v "${package#*:}" >/dev/null || missing+=("${package%:*}")
  done
  [ ${#missing[@]} -eq 0 ] && return
  command -v apt-get >/dev/null || fail "missing: ${missing[*]}, and there is no apt-get here to bring them"
  [ "$(id -u)" -eq 0 ] || fail "missing: ${missing[*]}; install them (apt-get install ${missing[*]}) or run as root"
  if [ ! -e $policy ]; then # or the packages would start daemons of their own
    own=$policy
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod +x $policy
  fi
  export DEBIAN_FRONTEND=noninteractive
  if ! { apt-get -qq update && apt-get -qq install -y --no-install-recommends "${missing[@]}"; } >"$dir/log/apt" 2>&1; then
    [ -z "$own" ] || rm -f "$own"
    fail "apt-get could not install ${missing[*]}: $(grep -m 1 '^E:' "$dir/log/apt" || tail -n 1 "$dir/log/apt")"
  fi
  [ -z "$own" ] || rm -f "$own"
}

configure() {
  local range="n[1-$nodes]" node resources="" number
  getent hosts "$host" >/dev/null || fail "this host's name does not resolve; add '127.0.0.1 $host' to /etc/hosts"
  [ -s "$dir/munge.key" ] || (umask 077 && head -c 128 /dev/urandom >"$dir/munge.key")
  : >"$dir/gres.conf"
  if [ "$gpus" -gt 0 ]; then
    resources="Gres=gpu:$gpus"
    for ((number = 0; number < gpus; number++)); do
      # like /dev/null, as only a device's name is looked at; without the right to make one, a file
      [ -e "$dir/dev/nvidia$number" ] || mknod "$dir/dev/nvidia$number" c 1 3 2>/dev/null || : >"$dir/dev/nvidia$number"
      echo "NodeName=$range Name=gpu File=$dir/dev/nvidia$number" >>"$dir/gres.conf"
    done
  fi
  echo "ConstrainCores=no" >"$dir/cgroup.conf"
  if dpkg --compare-versions "$(slurmctld -V | cut -d ' ' -f 2)" ge 23.11; then # which wants a plugin even if unused
    echo "CgroupPlugin=disabled" >>"$dir/cgroup.conf"
  fi
  cat >"$SLURM_CONF" <<END
ClusterName=vmamba
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
AuthType=auth/munge
# cred_expire is also the time before a job that was put back may start again
AuthInfo=socket=$dir/run/munge.socket,cred_expire=$delay
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/run/slurmctld.self
SlurmdPidFile=$dir/run/%n.self
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=64
# more CPUs and memory than this host has
SlurmdParameters=config_overrides
# a preempted job hears of it by the signal it asked for
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=3
SlurmctldTimeout=30
SlurmdTimeout=60
InactiveLimit=0
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=50000,bf_interval=1
# no accounting, so the controller itself must remember how jobs ended
AccountingStorageType=accounting_storage/none
MinJobAge=86400
MaxArraySize=$array
GresTypes=gpu
END
  for ((number = 1; number <= nodes; number++)); do
    node="NodeName=n$number NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + number))"
    echo "$node CPUs=$cpus RealMemory=$memory $resources"
  done >>"$SLURM_CONF"
  cat >>"$SLURM_CONF" <<END
PartitionName=main Nodes=$range Default=YES PriorityTier=10 PreemptMode=OFF DefaultTime=30 MaxTime=1440
PartitionName=low Nodes=$range PriorityTier=1 PreemptMode=REQUEUE GraceTime=$grace DefaultTime=30 MaxTime=1440
PartitionName=high Nodes=$range PriorityTier=100 PreemptMode=OFF DefaultTime=30 MaxTime=1440
END
}

# sacct refuses to work without a database; this one asks the controller, for the columns that submitit wants.
write_sacct() {
  cat >"$dir/bin/sacct" <<'END'
#!/usr/bin/env bash
set -eu
columns=JobID,State,NodeList jobs=() header=yes
while [ $# -gt 0 ]; do
  case $1 in
    -o | --format) columns=$2 && shift ;;
    --format=*) columns=${1#*=} ;;
    -j | --jobs) jobs+=("$2") && shift ;;
    --jobs=*) jobs+=("${1#*=}") ;;
    -n | --noheader) header=no ;;
    -P | --parsable2 | -X | --allocations) ;;
    *) echo "sacct, stand-in of a test cluster: no option $1" >&2 && exit 1 ;;
  esac
  shift
done
declare -A letters=([jobid]=%i [jobidraw]=%A [state]=%T [nodelist]=%N [jobname]=%j [reason]=%r [elapsed]=%M [start]=%S)
format=""
for column in ${columns//,/ }; do
  letter=${letters[${column,,}]:-}
  [ -n "$letter" ] || { echo "sacct, stand-in of a test cluster: no column $column" >&2 && exit 1; }
  format+=${format:+|}$letter
done
[ $header = no ] || echo "${columns//,/|}"
wanted=$(IFS=, && echo "${jobs[*]}")
squeue --noheader --array --states=all --format="$format" ${wanted:+--jobs="$wanted"} 2>/dev/null || true
END
  chmod +x "$dir/bin/sacct"
}

answering() { [ "$(timeout 5 sinfo -h -N -p main -o %T 2>/dev/null | grep -cE '^(idle|mixed|allocated|completing)$')" -eq "$nodes" ]; }

up() {
  local name tries
  mkdir -p "$dir"/{bin,dev,log,run,spool,state}
  chmod 755 "$dir" "$dir/run" # munged wants its socket within everybody's reach
  install_packages
  if ! pid_of slurmctld >/dev/null; then
    configure
    write_sacct
  fi
  start_one munged
  for ((tries = 0; tries < 50; tries++)); do
    [ -S "$dir/run/munge.socket" ] && break
    pid_of munged >/dev/null || fail "munged did not start: $(grep -m 1 Error "$dir/log/munged.out")"
    sleep 0.1
  done
  for name in "${daemons[@]:1}"; do start_one "$name"; done
  for ((tries = 0; tries < 300; tries++)); do
    answering && return
    sleep 0.1
  done
  fail "not every node answered within 30 s; see $dir/log ($(tail -q -n 1 "$dir"/log/{munged.out,slurmctld} 2>/dev/null | tail -n 1))"
}

down() {
  local tries
  if pid_of slurmctld >/dev/null; then
    timeout 20 scancel --quiet --user="$(id -un)" 2>/dev/null || true
    for ((tries = 0; tries < 100; tries++)); do
      [ -n "$(timeout 5 squeue -h 2>/dev/null)" ] || break
      sleep 0.1
    done
  fi
  stop "${daemons[@]:1}"
  stop munged
}

status() {
  local name pid code=0
  for name in "${daemons[@]}"; do
    if pid=$(pid_of "$name"); then echo "$name: process $pid"; else echo "$name: not running" && code=1; fi
  done
  [ $code -eq 0 ] && sinfo && squeue && answering
}

daemons=(munged slurmctld)
for ((number = 1; number <= nodes; number++)); do daemons+=("n$number"); done
case ${1:-} in
  up | down | status) "$1" ;;
  start) start_one "${2:-}" ;;
  stop) stop "${2:-}" ;;
  run) shift && exec "$@" ;;
  *) sed -n '2,14s/^# \{0,1\}//p' "$0" && exit 2 ;;
esac
