# shellcheck shell=bash
# The tortures that ci/check runs short and ci/campaign long; how long, the variables at the top say. Sourced, never run.

# Minutes of processor time for each of two stretches of simulated worlds.
: "${SIM_MINUTES:=5}"
# The same of simulated clusters.
: "${CLUSTER_MINUTES:=2}"
# The same of simulated cold nodes.
: "${COLD_MINUTES:=0.5}"
# The same of groups that sink to cold nodes.
: "${SINK_MINUTES:=1}"
# Times kill -9 on each kind of device.
: "${KILL_ROUNDS:=8}"
# Seconds of trouble for each group of real processes, for one with caches before it, and for one with cold nodes behind it.
: "${CLUSTER_SECONDS:=25}" "${CACHES_SECONDS:=15}" "${COLDS_SECONDS:=20}"
# Crash states to open: of the proof, for each of its journals; and of the engine.
: "${PROOF_STATES:=100}" "${CRASH_STATES:=240}"
# The simulator.
: "${simulator:=$programs/sim}"

# Seeds that once found something come first, then one process per core from this commit's seeds on.
sim() {
  local first folder pids=() seed failed=0 stretch mode seeds limit=()
  folder=$(work_folder sim)
  "$simulator" --regressions || failed=1
  first=$(fresh_seed)
  for mode in all cluster cold sink; do
    pids=()
    for stretch in 0 1000000; do
      seeds=$((first + stretch))..$((first + stretch + 999999)) limit=(--minutes "$SIM_MINUTES")
      [[ $mode == cluster ]] && limit=(--minutes "$CLUSTER_MINUTES")
      [[ $mode == cold ]] && limit=(--minutes "$COLD_MINUTES")
      [[ $mode == sink ]] && limit=(--minutes "$SINK_MINUTES")
      "$simulator" --seeds "$seeds" --mode "$mode" "${limit[@]}" >"$folder/from-$mode-$stretch" &
      pids+=($!)
    done
    for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  done
  cat "$folder"/from-*
  # What is wrong, once more at the end, under its seed.
  awk '/^seed/ { seed = $0 } /WRONG/ { if (seed) print seed; seed = ""; print }' "$folder"/from-*
  awk '/ runs, / { runs += $1 } END { print runs " runs" }' "$folder"/from-*
  return "$failed"
}

kill9() {
  needs_loop_devices || return
  local device failed=0 folder
  folder=$(work_folder kill9)
  for device in file loop; do
    python3 ci/kill/kill.py --binary "$programs/thermocline" --rounds "$KILL_ROUNDS" --device "$device" \
      --folder "$folder/$device" --seed "$(fresh_seed)" || failed=1
  done
  return "$failed"
}

# Three nodes and five, each with a replica of everything; then with disks that are damaged, rolled back and lost; then read through caches; then sunk to cold nodes.
cluster() {
  local nodes damage failed=0 folder
  folder=$(work_folder cluster)
  for damage in "" --damage; do
    for nodes in 3 5; do
      "$programs/cluster" --binary "$programs/thermocline" --nodes "$nodes" --seconds "$CLUSTER_SECONDS" \
        --folder "$folder/$nodes$damage" --seed "$(fresh_seed)" ${damage:+"$damage"} || failed=1
    done
  done
  "$programs/cluster" --binary "$programs/thermocline" --caches 2 --seconds "$CACHES_SECONDS" \
    --folder "$folder/caches" --seed "$(fresh_seed)" || failed=1
  "$programs/cluster" --binary "$programs/thermocline" --colds --seconds "$COLDS_SECONDS" \
    --folder "$folder/colds" --seed "$(fresh_seed)" || failed=1
  return "$failed"
}

# The same with bugs planted in the nodes, which have to be found.
complains() {
  local canary caches folder found missed=0
  folder=$(work_folder complains)
  for canary in serve_before_tip forget_request_ids skip_compare serve_without_asking; do
    found=no caches=0
    [[ $canary == serve_without_asking ]] && caches=2
    # How processes meet is not of the seed alone: another one, if need be.
    for seed in 4 5 6; do
      "$programs/cluster" --binary "$programs/thermocline" --seconds 10 --seed "$seed" --caches "$caches" --canary "$canary" \
        --folder "$folder/$canary-$seed" >"$folder/$canary" 2>&1
      (($? == 1)) && grep -q WRONG "$folder/$canary" && found=yes && break
    done
    echo "planted $canary: found $found"
    [[ $found == yes ]] || missed=1
  done
  return "$missed"
}

hostile() {
  local folder
  folder=$(work_folder hostile)
  HOSTILE_FOLDER=$folder python3 ci/hostile/hostile.py --ready-command \
    "$programs/thermocline" dev --nodes 1 --dir "$folder/dev" --port 0
}

crash() {
  needs_devices || return
  local folder
  folder=$(work_folder crash)
  "$programs/crash_states" proof --states "$PROOF_STATES" --folder "$folder" &&
    "$programs/crash_states" engine --states "$CRASH_STATES" --seed "$(fresh_seed)" --folder "$folder"
}
