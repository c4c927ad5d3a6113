# tachyond has rxea; publishers and subscribers are at rxeb. This script does and says; what must hold is in governed.rs.

ctl() { timeout 20 tachyon --socket /run/tachyon/control.sock "$@"; }
# What the node says of itself: NAME WHAT...
tell() {
    name=$1
    shift
    for what in "$@"; do
        asked=$(cut -d' ' -f1 /proc/uptime)
        say "$what" "$name $(ctl "$what" --json)"
        say took "$what $asked $(cut -d' ' -f1 /proc/uptime)"
    done
}
connected() { ctl status | grep -q '^data plane *connected'; }

# A load: NAME MODE SECONDS [more words]; its lines go to /tmp/load.NAME.
load_by() {
    name=$1 mode=$2 seconds=$3
    shift 3
    case $mode in
    udp) where="--listen $b" ;;
    ud) where="--fabric-address $b --fabric rdma-datagram" ;;
    rc) where="--fabric-address $b --fabric rdma-connection" ;;
    ring) where="--fabric-address $b --fabric rdma-ring" ;;
    esac
    exec tachyon-load run --control /run/tachyon/control.sock --json --progress $where --cpu 1 --threads together \
        --topics 64 --sessions 2 --topic-prefix load.a --seconds "$seconds" "$@" >"/tmp/load.$name" 2>&1
}
# A subscriber to the same in a process of its own: NAME MODE SECONDS [more words]. It publishes on other topics, and next to
# nothing; and it has other names than the load beside it, because RDMA binds no ports.
listener() {
    name=$1 mode=$2 seconds=$3
    shift 3
    case $mode in ud) fabric=rdma-datagram ;; rc) fabric=rdma-connection ;; ring) fabric=rdma-ring ;; esac
    exec tachyon-load run --control /run/tachyon/control.sock --json --progress --fabric-address $b --fabric $fabric --cpu 1 \
        --threads together --topics 16 --sessions 1 --topic-prefix load.b --subscribe 'load.a*' --listen-port 27640 \
        --rate 20 --seconds "$seconds" "$@" >"/tmp/load.$name" 2>&1
}
# It says nothing before the load beside it is over, because it waits until the node's counters stand still.
listened() { ctl routes --json | grep -q '"subscribers":.[0-9]*,[0-9]'; }
# Says a load's report: NAME CODE.
report() {
    case $2 in
    0 | 2) say load "$1 $(tail -n 1 "/tmp/load.$1")" ;; # 2: it ran, and something is not accounted for, which may be meant
    *) say failed "$1 $2 $(tail -n 3 "/tmp/load.$1" | tr '\n' ' ')" ;;
    esac
}
run_load() {
    code=0
    (load_by "$@") || code=$?
    report "$1" $code
}
received() { tail -n 1 "/tmp/load.$1" | sed -n 's/.*"received_copies":\([0-9]*\).*/\1/p'; }
offered() { tail -n 1 "/tmp/load.$1" | sed -n 's/.*"offered_frames":\([0-9]*\).*/\1/p'; }
has_more() { now=$(received "$1") && [ "${now:-0}" -gt "$2" ]; }
# Begins a load: as load_by.
begin_load() {
    : >"/tmp/load.$1" # what an earlier one of this name said is not its word
    (load_by "$@") &
    pid=$!
}
# Waits until a load has more copies than that: NAME [COPIES].
arrives() {
    within 15 has_more "$1" "${2:-63}" >/tmp/arrives && return 0
    tail -n 3 "/tmp/load.$1" /tmp/tachyond
    return 1
}
must_arrive() { arrives "$@" || say failed "no copies: $*"; }
# Waits for the end of a load and says its report: NAME PID.
end_load() {
    code=0
    wait "$2" || code=$?
    report "$1" $code
}

# Hundredths of a second that both processors spent in programs, in the kernel for them, in its packets, and idle; then those that a
# process spent in itself and in the kernel: PID...
spent() {
    figures=$(awk '/^cpu / { print $2 + $3, $4, $7 + $8, $5 + $6 }' /proc/stat)
    for pid in "$@"; do figures="$figures $(sed 's/.*) //' "/proc/$pid/stat" | cut -d' ' -f12,13)"; done
    echo "$figures"
}
# What a frame costs, and who: MODE. The load's processor is shared with whoever looks, so this is a run of its own.
profile() {
    begin_load profile "$1" 8 --rate max
    load=$pid
    must_arrive profile
    sleep 1
    before="$(offered profile) $(spent $tachyond $load)"
    sleep 4
    say spent "$1 $before $(offered profile) $(spent $tachyond $load)"
    wait $load || true
}

phase node 90
mkdir -p /run/tachyon
tachyond --config /etc/tachyon/node.toml >/tmp/tachyond 2>&1 &
tachyond=$!
within 60 grep -q 'ready:' /tmp/tachyond || { cat /tmp/tachyond; exit 1; }
tachyon-control --config /etc/tachyon/control.toml >/tmp/control 2>&1 &
control=$!
within 60 connected || { cat /tmp/control; exit 1; }
ctl rules apply /etc/tachyon/rules.toml
tell node ports

# By turns with perftest, which has both processors for itself meanwhile.
for mode in ud rc ring; do
    phase "rate-$mode" 150
    for run in 1 2 3; do
        kill -STOP $tachyond $control
        theirs $mode 64 bw $STREAMED || say skipped "perftest $run"
        theirs $mode 4096 bw $STREAMED || say skipped "perftest $run" # what a frame is to the device
        kill -CONT $tachyond $control
        run_load rate $mode 3 --rate max
    done
    profile $mode
done

# RDMA's packets are lost and others are not: copies of a lane go by UDP after the last try, and back again. The queues are there
# before any load and stay until it is over, because a device drops whatever is sent while its queues are exchanged.
queues() {
    for name in va vb; do
        tc qdisc replace dev $name root handle 1: prio bands 4
        tc qdisc replace dev $name parent 1:4 netem loss 100%
    done
}
block() {
    for name in va vb; do
        tc filter add dev $name parent 1: protocol ip u32 match ip protocol 17 0xff match ip dport 4791 0xffff flowid 1:4
    done
}
unblock() { for name in va vb; do tc filter delete dev $name parent 1:; done; }
carries() { ctl routes --json >/tmp/routes && grep -q "$1" /tmp/routes; }
for mode in rc ring; do
    case $mode in rc) lane=rdma_connection ;; ring) lane=rdma_ring ;; esac
    phase "fallback-$mode" 200
    queues
    begin_load publisher udp 35 --rate 5k
    load=$pid
    must_arrive publisher
    (listener subscriber $mode 100 --fabric-fall-back) &
    subscriber=$!
    within 15 listened >/tmp/listened || say failed "no subscriber"
    tell lane routes lanes
    block
    within 20 carries 'udp (fell back)' >/tmp/fell || say failed "nothing fell back"
    # As it was seen then: on a slow machine the lane is offered again before anybody can ask twice.
    say routes "udp $(cat /tmp/routes)"
    tell udp lanes
    unblock
    within 20 carries "\"$lane\"" >/tmp/stands || say failed "no lane came back"
    tell back routes lanes
    sleep 2
    end_load publisher $load
    tell rest status
    must_arrive subscriber # only then does it say what it has
    say subscriber "$(received subscriber) $(offered subscriber)"
    kill $subscriber
    wait $subscriber || true
    for name in va vb; do tc qdisc delete dev $name root; done
done

# Two subscribe to the same; one is killed, and the other has a load and a proof of its own.
for mode in ud rc ring; do
    phase "killed-$mode" 150
    begin_load witness $mode 15 --rate 10k
    load=$pid
    must_arrive witness
    (listener victim $mode 60) &
    victim=$!
    within 15 listened >/tmp/listened || say failed "no victim"
    tell before lanes routes
    kill -9 $victim
    wait $victim || true
    must_arrive witness $(($(received witness) + 10000))
    tell after lanes routes
    end_load witness $load
    tell rest status
done

# Somebody offers a lane from an address of our network that nobody answers for; the route goes with the link later on.
phase ways 60
ip route replace 10.9.3.1/32 dev va
verbs_ways --a rxea:$a --to 10.9.3.1 --limit 50 >/tmp/ways 2>&1 || say failed "ways: $(tr '\n' ' ' </tmp/ways)"
ip route delete 10.9.3.1/32 dev va
say ways "$(tail -n 1 /tmp/ways)"

phase one-memory 60
verbs_one_memory --a rxea:$a --b rxeb:$b --limit 50 >/tmp/memory 2>&1 || say failed "one memory: $(tr '\n' ' ' </tmp/memory)"
say memory "$(tail -n 1 /tmp/memory)"

for fault in "loss:loss 5%" "delay:delay 1ms"; do
    for name in va vb; do tc qdisc replace dev $name root netem ${fault#*:}; done
    for mode in ud rc ring; do
        phase "${fault%%:*}-$mode" 60
        run_load "${fault%%:*}" $mode 3 --rate 10k
    done
done
for name in va vb; do tc qdisc delete dev $name root; done

for mode in ud rc ring; do
    phase "exact-$mode" 90
    tachyon-lab-capture va 1000 >/tmp/capture &
    capture=$!
    within 10 grep -q ready /tmp/capture >/tmp/listens
    before=$(wire)
    begin_load exact $mode 5 --rate 20k
    load=$pid
    must_arrive exact
    tell exact lanes routes ports status
    end_load exact $load
    say wire "$mode $before $(wire)"
    wait $capture
    sed 1d /tmp/capture | while read -r line; do say captured "$mode $line"; done
done

for mode in ud rc ring; do
    phase "link-$mode" 150
    begin_load link $mode 12 --rate 10k
    load=$pid
    must_arrive link
    ip link set va down
    sleep 1.5
    down=$(received link)
    tell down lanes status
    ip link set va up
    ways
    back=1
    arrives link $((down + 2000)) || back=0
    say link "$mode $down $back"
    tell up lanes
    end_load link $load
done
