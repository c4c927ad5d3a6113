# Two soft RoCE devices on the two ends of one veth: rxea (va, 10.9.1.1) - rxeb (vb, 10.9.2.1).
# Both jobs on them begin with this: the devices, what they count, and perftest between them.
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

phase boot 60
load crc32_generic rdma_rxe ib_uverbs veth sch_netem sch_prio cls_u32 af_packet
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
