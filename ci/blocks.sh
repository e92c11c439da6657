# shellcheck shell=bash
# Blocks of ci/check and ci/campaign: names, budgets, what each counted, the sum. Sourced, never run.
# A block is a function of the same name. Its output goes to <target>/check/NAME.log; what failed is shown.
# A block that cannot run here calls `skip REASON` and returns with its code.

target=${CARGO_TARGET_DIR:-target}
# Where the programs of the checked profile stand.
programs=$target/checked
names=() ; declare -A minutes=() ; declare -A asks=()
passed_sum=0 ; failed_sum=0 ; skipped_sum=0
skip_code=77

block() { names+=("$1"); minutes[$1]=$2; asks[$1]=$3; }

skip() { echo "skipped: $*"; return "$skip_code"; }

# Root with loop devices; and FUSE and the recorder, for the blocks that record what is written to one.
needs_loop_devices() {
  ((EUID == 0)) || { skip "makes loop devices, which needs root"; return; }
  [[ -e /dev/loop-control ]] || { skip "needs /dev/loop-control"; return; }
  command -v losetup >/dev/null || { skip "needs losetup (package mount)"; return; }
}
needs_devices() {
  needs_loop_devices || return
  [[ -e /dev/fuse ]] || { skip "needs /dev/fuse"; return; }
  command -v qemu-storage-daemon >/dev/null || { skip "needs qemu-storage-daemon (package qemu-system-common)"; return; }
  command -v nbdfuse >/dev/null || { skip "needs nbdfuse (package libnbd-bin)"; return; }
}

# An empty folder for a block's files, on the disk that also carries the target folder: direct I/O works there.
work_folder() {
  local folder
  mkdir -p "$target/check/work-$1" && folder=$(realpath "$target/check/work-$1") || return
  release "$folder"
  rm -rf "$folder" && mkdir -p "$folder" && echo "$folder"
}

# Takes down what a run that was killed left standing below its folder: loop devices, mounts, storage daemons.
release() {
  local folder=$1 device file pid
  command -v losetup >/dev/null && losetup --noheadings --output NAME,BACK-FILE | while read -r device file; do
    [[ $file == "$folder"/* ]] && losetup --detach "$device"
  done
  while read -r _ file _; do
    [[ $file == "$folder"/* ]] && umount "$file"
  done </proc/mounts
  find "$folder" -name daemon.pid | while read -r file; do
    pid=$(<"$file")
    # The number may be somebody else's by now.
    tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF "$folder" && kill "$pid"
  done
  return 0
} >&2

# A seed that rotates with the commit, the same wherever that commit is checked.
fresh_seed() { local hash; hash=$(git rev-parse HEAD 2>/dev/null || echo 1); echo $((16#${hash:0:6})); }

# Tests that a log says passed and failed: nextest, cargo test, Python's unittest, and our own closing line.
count() {
  awk '
    /^ *Summary \[/ { for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) p += $(i-1)
                      if ($i ~ /^(failed|timed|exec)/) f += $(i-1) } }
    /^test result: / { p += $4; f += $6 }
    /^Ran [0-9]+ tests? in / { ran = $2 }
    /^OK( |$)/ && ran { p += ran; ran = 0 }
    /^FAILED \(/ && ran { bad = 0; n = split($0, part, /[(),= ]+/)
                          for (i = 1; i <= n; i++) if (part[i] ~ /^(failures|errors)$/) bad += part[i+1]
                          p += ran - bad; f += bad; ran = 0 }
    /^[0-9]+ passed, [0-9]+ failed$/ { p += $1; f += $3 }
    END { print p + 0, f + 0 }' "$1"
}

# A check that fails for a full disk says nothing of the change: said at the start, where few GiB are left for what it makes.
room_gib=30
room() {
  local free_kib
  free_kib=$(df --output=avail -k "$1" | tail -n 1) || return 0
  ((free_kib >= room_gib << 20)) ||
    echo "warning: $((free_kib >> 20)) GiB are free where $1 lies, less than $room_gib: blocks may fail for want of space; free some"
}

run() {
  local name=$1 log=$target/check/$1.log begun=$SECONDS code passed failed verdict late= TIMEFORMAT='%U %S'
  mkdir -p "$target/check"
  printf '%-9s … %s\n' "$name" "${asks[$name]}"
  { time { ("$name") >"$log" 2>&1 </dev/null; }; } 2>"$log.processor"
  code=$?
  local took=$((SECONDS - begun)) processor
  # On a shared machine a block may take long and do little: processor time tells.
  processor=$(awk '{ printf "%d", $1 + $2 }' "$log.processor")
  read -r passed failed < <(count "$log")
  if ((code == skip_code)) && [[ ${THERMOCLINE_CHECK_STRICT:-0} != 1 ]]; then
    skipped_sum=$((skipped_sum + 1))
    printf '%-9s skipped: %s\n' "$name" "$(sed -n 's/^skipped: //p' "$log" | tail -n 1)"
    return
  fi
  if ((code == 0 && failed == 0)); then
    verdict=ok
    # A block that counts nothing is one question with one answer.
    ((passed == 0)) && passed=1
  else
    verdict=FAILED
    ((failed == 0)) && failed=1
    echo "----- the end of $log (exit code $code)"
    tail -n "${THERMOCLINE_CHECK_TAIL:-60}" "$log"
    echo "-----"
  fi
  ((took > minutes[$name] * 60)) && late=", OVER BUDGET"
  passed_sum=$((passed_sum + passed)) ; failed_sum=$((failed_sum + failed))
  printf '%-9s %s: %d of %d good, %d s of %d min (%d s of processor)%s\n' \
    "$name" "$verdict" "$passed" $((passed + failed)) "$took" "${minutes[$name]}" "$processor" "$late"
}

main() {
  local name begun=$SECONDS chosen=()
  if [[ ${1:-} == --list ]]; then
    for name in "${names[@]}"; do printf '%-9s %2d min  %s\n' "$name" "${minutes[$name]}" "${asks[$name]}"; done
    return 0
  fi
  for name in "$@"; do
    [[ -n ${minutes[$name]:-} ]] || { echo "no block is called $name; see --list" >&2; exit 2; }
    chosen+=("$name")
  done
  ((${#chosen[@]})) || chosen=("${names[@]}")
  for name in "${chosen[@]}"; do
    [[ $(type -t "$name") == function ]] || { echo "the block $name has no function" >&2; exit 2; }
  done
  mkdir -p "$target" && room "$target"
  for name in "${chosen[@]}"; do run "$name"; done
  printf '%d blocks in %d s' "${#chosen[@]}" $((SECONDS - begun))
  ((skipped_sum)) && printf ', %d skipped' "$skipped_sum"
  printf '\n%d passed, %d failed\n' "$passed_sum" "$failed_sum"
  ((failed_sum == 0))
}
