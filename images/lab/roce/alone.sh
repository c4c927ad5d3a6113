# The verbs driver alone, beside perftest. This script does and says; what must hold is written in roce.rs, which listens.

# The same of our driver: MODE BYTES stream|pingpong COUNT.
ours() {
    where="$1 $2"
    case $1 in
    *events) how="taskset 1" words="--events" ;;
    *) how="" words="--pin" ;;
    esac
    $how timeout 20 verbs_pingpong --a rxea:$a --b rxeb:$b --mode "${1%-events}" --test "$3" --bytes "$2" --count "$4" \
        --limit 15 $words >/tmp/ours 2>/tmp/ours.err || { cat /tmp/ours /tmp/ours.err; return 1; }
    say tachyon "$where" "$(cat /tmp/ours)"
}
# Whether both latencies just measured are less than three times their least: only then both ends had a processor most of the time.
# The host may have other work; what it takes away it takes from both, but not in the same run.
calm() {
    awk '{ exit !($5 < 3 * $3) }' /tmp/figures &&
        sed 's/.*"min_us":\([0-9.]*\),.*"p50_us":\([0-9.]*\),.*/\1 \2/' /tmp/ours | awk '{ exit !($2 < 3 * $1) }'
}
# Rates and latencies of one row, theirs and ours by turns: MODE BYTES.
row() {
    phase "$1-$2" 300
    for run in $(seq $RUNS); do
        on_wire "$1" "$2" perftest theirs "$1" "$2" bw $STREAMED
        on_wire "$1" "$2" tachyon ours "$1" "$2" stream $STREAMED
    done
    runs=0
    for run in $(seq $((2 * RUNS))); do
        theirs "$1" "$2" lat $PING_PONGS || {
            # It waits for what was lost, and would again; ours is then told alone.
            say failed "$1 $2" lat
            [ $run -gt 1 ] || ours "$1" "$2" pingpong $PING_PONGS
            break
        }
        ours "$1" "$2" pingpong $PING_PONGS || break
        say pair "$1 $2" "$run"
        if calm; then runs=$((runs + 1)); fi
        [ $runs -lt $RUNS ] || break
    done
    if [ "$1" = ring ]; then
        # Beside it, what a write takes that nobody is told of.
        for run in $(seq $RUNS); do perftest "$1" "$2" ib_write_bw -n $STREAMED -l 32 -Q 32 || say failed "$1 $2" ib_write_bw; done
        perftest "$1" "$2" ib_write_lat -n $PING_PONGS || say failed "$1 $2" ib_write_lat # then the row says null
    fi
}

# What of our packets is seen at the publisher's device: MODE.
captured() {
    tachyon-lab-capture va 1000 >/tmp/capture &
    capture=$!
    within 10 grep -q ready /tmp/capture >/tmp/listens || return 1
    ours "$1" 64 stream 200 || return 1
    wait $capture || return 1
    sed 1d /tmp/capture | while read -r line; do say captured "$1 $line"; done
}

arrived() { tail -n 1 /tmp/fault.err | sed -n 's/^arrived //p'; }
more_than() { now=$(arrived) && [ "${now:-0}" -gt "$1" ]; }
# Begins a stream: MODE SECONDS.
begin() {
    timeout 30 verbs_pingpong --a rxea:$a --b rxeb:$b --mode "$1" --test stream --seconds "$2" --limit 25 --progress --pin \
        >/tmp/fault 2>/tmp/fault.err &
    stream=$!
    within 15 more_than 100 >/tmp/begun || { cat /tmp/fault.err; return 1; }
}
# Waits for its end and says its report: FAULT MODE.
end() {
    code=0
    wait $stream || code=$?
    [ $code -le 1 ] || cat /tmp/fault.err
    say fault "$1 $2 $code" "$(cat /tmp/fault)"
}

for bytes in 64 1024; do
    for mode in ud rc ring; do row $mode $bytes; done
done
for mode in ud rc; do row $mode-events 64; done

for mode in ud rc ring; do
    phase "wire-$mode" 30
    captured $mode
done

for mode in ud rc ring; do
    phase "link-$mode" 60
    begin $mode 7 # long enough for a machine with other work to bring the lane back
    ip link set va down
    sleep 0.5
    down=$(arrived)
    ip link set va up
    ways
    back=1
    within 10 more_than $((down + 100)) >/tmp/back || back=0
    end link $mode
    say link "$mode" "$down" "$back"
done

# Of the packets of both directions.
for fault in "loss:loss 5%" "delay:delay 1ms" "reorder:delay 1ms reorder 25% 50%"; do
    for name in va vb; do tc qdisc replace dev $name root netem ${fault#*:}; done
    for mode in ud rc ring; do
        phase "${fault%%:*}-$mode" 40
        begin $mode 2
        end "${fault%%:*}" $mode
    done
done
for name in va vb; do tc qdisc delete dev $name root; done

# One of two subscribers is killed, reads nothing, or has the wrong key for a while.
for fault in killed:ud killed:rc killed:ring withheld:rc withheld:ring key:ring; do
    phase "${fault%:*}-${fault#*:}" 40
    code=0
    timeout 30 verbs_faults --a rxea:$a --b rxeb:$b --mode "${fault#*:}" --fault "${fault%:*}" --limit 25 >/tmp/fault 2>/tmp/fault.err || code=$?
    [ $code = 0 ] || cat /tmp/fault.err
    say subscribers "${fault%:*} ${fault#*:} $code" "$(cat /tmp/fault)"
done
