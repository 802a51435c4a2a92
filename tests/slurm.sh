#!/usr/bin/env bash
# A SLURM of one node on the loopback interface, for tests: no root, no systemd and no accounting database are needed.
#   eval "$(tests/slurm.sh up DIR)"      starts it in DIR and sets what its commands need
#   tests/slurm.sh down DIR
# Debian: apt-get install --no-install-recommends slurm-wlm slurmctld slurmd munge
set -euo pipefail
[ $# = 2 ] || { sed -n 2,5p "$0" >&2; exit 2; }
PATH=$PATH:/usr/sbin
dir=$(realpath -m "$2")

if [ "$1" = down ]; then
  export SLURM_CONF=$dir/slurm.conf
  scancel --user "$(id -un)" || true
  for _ in $(seq 100); do
    [ -n "$(squeue --noheader 2> /dev/null)" ] || break
    sleep 0.1
  done
  for daemon in slurmd slurmctld munged; do
    [ ! -f "$dir/$daemon.pid" ] || kill "$(cat "$dir/$daemon.pid")" 2> /dev/null || true
  done
  exit 0
fi

mkdir -p "$dir"/{bin,state,spool,munge}
chmod 700 "$dir/munge"
head -c 1024 /dev/urandom > "$dir/munge/key"
chmod 400 "$dir/munge/key"
port=${SLURM_PORT:-$((20000 + RANDOM % 10000))}
me=$(id -un)

cat > "$dir/gres.conf" << CONF
AutoDetect=off
Name=gpu Type=fake File=/dev/null
Name=gpu Type=fake File=/dev/zero
CONF
# No cgroups, so a job may use more than it asked for. What has ended stays in squeue for as long as a test takes. Jobs of
# the partition `urgent` preempt those of `main`, which return to the queue.
cat > "$dir/slurm.conf" << CONF
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort=$port
SlurmdPort=$((port + 1))
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=$me
SlurmdUser=$me
AuthType=auth/munge
AuthInfo=socket=$dir/munge/socket
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MinJobAge=7200
KillWait=2
ReturnToService=2
SlurmdParameters=config_overrides
GresTypes=gpu
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 RealMemory=16000 Gres=gpu:fake:2
PartitionName=main Nodes=localhost Default=YES PriorityTier=1
PartitionName=urgent Nodes=localhost PriorityTier=2
CONF
# Snakemake's executor drops SLURM_CONF from the environment of its job steps; on a cluster it is at the usual place.
printf '#!/bin/sh\nSLURM_CONF=%s exec %s "$@"\n' "$dir/slurm.conf" "$(command -v srun)" > "$dir/bin/srun"
# The executor asks the accounting database whether an account exists; there is none, this answers in its place.
printf '#!/bin/sh\necho lab\n' > "$dir/bin/sacctmgr"
chmod +x "$dir"/bin/*

export SLURM_CONF=$dir/slurm.conf
{
  munged --force --socket="$dir/munge/socket" --key-file="$dir/munge/key" --pid-file="$dir/munged.pid" \
    --log-file="$dir/munge/log" --seed-file="$dir/munge/seed" --num-threads=2
  slurmctld -c
  slurmd
} >&2
for _ in $(seq 100); do
  [ "$(sinfo --noheader --partition main --format %T 2> /dev/null)" != idle ] || break
  sleep 0.1
done
if [ "$(sinfo --noheader --partition main --format %T)" != idle ]; then
  echo "the node is not idle: $(sinfo --noheader --partition main --format '%T %E')" >&2
  exit 1
fi
echo "export SLURM_CONF=$SLURM_CONF PATH=$dir/bin:\$PATH"
