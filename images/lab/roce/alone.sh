# Two soft RoCE devices on the two ends of one veth: rxea (va, 10.9.1.1) - rxeb (vb, 10.9.2.1).
# This script does and says; what must hold is written in roce.rs, which listens.
a=10.9.1.1
b=10.9.2.1
tc() { /usr/bin/tc "$@"; } # busybox has one that knows no netem

# Routes and neighbours go with a link, so they are set again each time that it comes. Both ends are in one namespace, because a
# soft device sends and receives in the first one only; what leaves one end for the other is told apart by its addresses.
ways() {
    ip -batch - <<WAYS
route replace $b dev va table 11
route replace $a dev vb table 12
neighbour replace $b lladdr $(cat /sys/class/net/vb/address) dev va nud permanent
neighbour replace $a lladdr $(cat /sys/class/net/va/address) dev vb nud permanent
WAYS
}

# Adds up what is in files.
sum() {
    total=0
    for file in "$@"; do
        read -r value <"$file"
        total=$((total + value))
    done
    echo $total
}
# Packets that both devices sent, that both received, and that were sent on both ends of the veth.
wire() {
    hardware=/sys/class/infiniband/rxe?/ports/1/hw_counters
    echo "$(sum $hardware/sent_pkts) $(sum $hardware/rcvd_pkts) $(sum /sys/class/net/v?/statistics/tx_packets)"
}
# Runs a command and says what it put on the wire: MODE BYTES WHO COMMAND...
on_wire() {
    row="$1 $2 $3"
    shift 3
    before=$(wire)
    "$@" || say failed "$row" "$*" # the row then lacks a run
    say wire "$row" $before $(wire)
}

listens() { grep -q ':4853 .* 0A ' /proc/net/tcp; } # port 18515, perftest's own
# Runs both sides of a perftest program and says the last line of figures: MODE BYTES PROGRAM [words]. Where both sides poll, each
# has a processor, ours and theirs (the masks are 1 and 2): two that share one wait for each other's time slice, and the
# scheduler would be measured. With events both ends share one.
perftest() {
    where="$1 $2 $3"
    bytes=$2 program=$3 other=2
    case $1 in *events) other=1 ;; esac
    shift 3
    taskset $other timeout 12 "$program" -d rxea -x "$index" -s "$bytes" -F "$@" >/tmp/server 2>&1 &
    server=$!
    within 10 listens >/tmp/listens || return 1
    taskset 1 timeout 10 "$program" -d rxeb -x "$index" -s "$bytes" -F "$@" 127.0.0.1 >/tmp/client 2>&1 || {
        kill $server
        tail -n 3 /tmp/server /tmp/client
        return 1
    }
    wait $server || return 1
    grep "^ $bytes " /tmp/client | tail -n 1 >/tmp/figures
    say perftest "$where" "$(cat /tmp/figures)"
}
# One test of perftest: MODE BYTES bw|lat COUNT. A ring's frame is told to its reader, as a send is and a plain write is not.
theirs() {
    list=""
    [ "$3" = lat ] || list="-l 32 -Q 32" # bursts of 32 and a completion for each, as ours are
    case $1 in
    ud) perftest "$1" "$2" "ib_send_$3" -c UD -n "$4" $list ;;
    rc | ring) perftest "$1" "$2" "ib_send_$3" -c RC -n "$4" $list ;;
    ud-events) perftest "$1" "$2" "ib_send_$3" -c UD -e -n "$4" $list ;;
    rc-events) perftest "$1" "$2" "ib_send_$3" -c RC -e -n "$4" $list ;;
    esac
}
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
    phase "$1-$2" 150
    for run in 1 2 3; do
        on_wire "$1" "$2" perftest theirs "$1" "$2" bw $STREAMED
        on_wire "$1" "$2" tachyon ours "$1" "$2" stream $STREAMED
    done
    runs=0
    for run in 1 2 3 4 5; do
        theirs "$1" "$2" lat $PING_PONGS || {
            # It waits for what was lost, and would again; ours is then told alone.
            say failed "$1 $2" lat
            [ $run -gt 1 ] || ours "$1" "$2" pingpong $PING_PONGS
            break
        }
        ours "$1" "$2" pingpong $PING_PONGS || break
        say pair "$1 $2" "$run"
        if calm; then runs=$((runs + 1)); fi
        [ $runs -lt 3 ] || break
    done
    if [ "$1" = ring ]; then
        # Beside it, what a write takes that nobody is told of.
        for run in 1 2 3; do perftest "$1" "$2" ib_write_bw -n $STREAMED -l 32 -Q 32 || say failed "$1 $2" ib_write_bw; done
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

phase boot 60
load crc32_generic rdma_rxe ib_uverbs veth sch_netem af_packet
ip link add va mtu 4200 type veth peer name vb mtu 4200
ip link set va up
ip link set vb up
ip address add $a/24 dev va
ip address add $b/24 dev vb
for name in va vb all; do
    echo 1 >/proc/sys/net/ipv4/conf/$name/accept_local
    echo 0 >/proc/sys/net/ipv4/conf/$name/rp_filter
done
ip -batch - <<RULES
rule add pref 100 iif va lookup local
rule add pref 101 iif vb lookup local
rule add pref 102 from $a to $b lookup 11
rule add pref 103 from $b to $a lookup 12
rule add pref 200 lookup local
rule delete pref 0
RULES
ways
rdma link add rxea type rxe netdev va
rdma link add rxeb type rxe netdev vb
# The place of the IPv4 address among a device's, the same on both.
index=$(cd /sys/class/infiniband/rxea/ports/1/gids && grep -l 'ffff:0a09:0101$' *)

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
