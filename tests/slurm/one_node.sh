#!/usr/bin/env bash
# A Slurm cluster of this machine alone, to try things on: without systemd, cgroups or accounting.
#
#     tests/slurm/one_node.sh start FOLDER    # as root; then: export SLURM_CONF=FOLDER/slurm.conf
#     tests/slurm/one_node.sh stop FOLDER
#
# Needs the Debian packages slurm-wlm and munge. Everything it writes lies in the folder. To stop means to
# cancel its jobs and to end the three daemons that it started, and no others.
set -euo pipefail

usage() {
    echo "usage: one_node.sh start|stop FOLDER" >&2
    exit 2
}

start() {
    [[ $(id -u) == 0 ]] || { echo "one_node.sh: slurmd has to be started as root" >&2; exit 1; }
    mkdir -p "$folder"/{state,spool,log}
    dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 status=none
    chmod 600 "$folder/munge.key"
    local node socket="$folder/munge.socket"
    node=$(hostname -s)
    cat > "$folder/slurm.conf" <<CONF
ClusterName=one-node
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=${SLURMCTLD_PORT:-16817}
SlurmdPort=${SLURMD_PORT:-16818}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=100000
MpiDefault=none
ReturnToService=2
KillWait=1
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/log/slurmctld.log
SlurmdLogFile=$folder/log/slurmd.log
$(slurmd -C | head -1) NodeAddr=127.0.0.1 State=UNKNOWN
PartitionName=all Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF
    export SLURM_CONF=$folder/slurm.conf
    munged --force --key-file="$folder/munge.key" --socket="$socket" \
        --pid-file="$folder/munged.pid" --log-file="$folder/log/munged.log" \
        --seed-file="$folder/munge.seed" --num-threads=2
    slurmctld -f "$SLURM_CONF"
    slurmd -f "$SLURM_CONF"
    for _ in $(seq 60); do
        if [[ $(sinfo --noheader --format=%T 2> /dev/null) == idle ]]; then
            return
        fi
        sleep 0.5
    done
    echo "one_node.sh: the node did not become idle in 30 s; see $folder/log" >&2
    tail -n 20 "$folder"/log/*.log >&2
    stop
    exit 1
}

stop() {
    local daemon pid
    export SLURM_CONF=$folder/slurm.conf
    if timeout 5 sinfo > /dev/null 2>&1; then
        timeout 5 scancel --user=root || true
        for _ in $(seq 50); do
            [[ -n $(timeout 5 squeue --noheader 2> /dev/null) ]] || break
            sleep 0.2
        done
    fi
    for daemon in slurmd slurmctld munged; do
        [[ -s $folder/$daemon.pid ]] || continue
        pid=$(< "$folder/$daemon.pid")
        kill "$pid" 2> /dev/null || continue
        for _ in $(seq 100); do
            kill -0 "$pid" 2> /dev/null || break
            sleep 0.1
        done
        kill -KILL "$pid" 2> /dev/null || true
    done
}

[[ $# == 2 ]] || usage
mkdir -p "$2"
folder=$(cd "$2" && pwd)
case $1 in
    start) start ;;
    stop) stop ;;
    *) usage ;;
esac
