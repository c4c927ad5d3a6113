# tachyond owns the middle two of four cards: load (nic0) - east (nic1) west (nic2) - load (nic3).
# This script does and says; what must hold is written in dpdk.rs, which listens.

ctl() { timeout 30 tachyon --socket /run/tachyon/control.sock "$@"; }
shows() { ctl ports >/tmp/ports && grep -q "^$1 *$2 " /tmp/ports; }
# Waits until port PORT is in state STATE.
becomes() { within 30 shows "$1" "$2" >/tmp/became || { cat /tmp/ports; return 1; }; }
tell() { say status "$1" "$(ctl status --json)"; }

# Writes the node file of a node in DIR with WORKERS.
node_file() {
    sed "s|{dir}|$1|; s|{workers}|$2|; s|{east}|$(card 1)|; s|{west}|$(card 2)|" /etc/tachyon/node.toml >/tmp/node.toml
}

# Starts a node that must not start, and says how it ended: NAME.
refused() {
    code=0
    timeout 60 tachyond --config /tmp/node.toml >/tmp/refused 2>&1 || code=$?
    say refused "$1" "$code" "$(wc -l </tmp/refused)" "$(tail -n 1 /tmp/refused)"
}

is_gone() { [ ! -e "/sys/bus/pci/devices/$1" ]; }
listens() { ! kill -0 "$tachyond" 2>/dev/null || [ -S /run/tachyon/tachyond.sock ]; }
connected() { ctl status | grep -q '^data plane *connected'; }
start_node() {
    node_file /run/tachyon "$1"
    tachyond --config /tmp/node.toml >/tmp/tachyond 2>&1 &
    tachyond=$!
    within 60 listens
    kill -0 "$tachyond" || { cat /tmp/tachyond; return 1; }
    within 60 grep -q 'ready:' /tmp/tachyond
}

listen=10.0.2.2 # where its subscriber is, at nic3
# Offers load over nic0 for SECONDS and says the report: NAME SECONDS [more words].
run_load() {
    name=$1 seconds=$2
    shift 2
    code=0
    timeout 90 tachyon-load run --control /run/tachyon/control.sock --json --progress --listen "$listen" \
        --topics 64 --sessions 4 --frame-bytes 1408 --messages-per-frame 4 --rate 2000 --seconds "$seconds" "$@" >"/tmp/load.$name" 2>&1 ||
        code=$? # 2: it ran, and something is not accounted for, which may be meant
    case $code in 0 | 2) say load "$name" "$(tail -n 1 "/tmp/load.$name")" ;; *) tail -n 3 "/tmp/load.$name" /tmp/tachyond; return 1 ;; esac
}
# The same in the background; returns once frames are on their way.
begin_load() {
    run_load "$@" &
    load=$!
    within 60 grep -q '"elapsed_ms"' "/tmp/load.$1" >/tmp/begun
}
end_load() { wait "$load"; }

phase boot 60
load vfio_iommu_type1 vfio_pci
own 1
own 2
load igb
nic0=$(device 0)
nic3=$(device 3)
for name in "$nic0" "$nic3"; do echo 1 >"/proc/sys/net/ipv6/conf/$name/disable_ipv6"; done
ip link set "$nic0" up
ip link set "$nic3" up
ip address add 10.0.1.2/24 dev "$nic0"
ip address add 10.0.2.2/24 dev "$nic3"
mkdir -p /run/tachyon

phase pages 60
node_file /run/tachyon 2
refused pages
echo 160 >/proc/sys/vm/nr_hugepages # 64 MiB of DPDK's own for two nodes, 32 MiB of buffers for each worker, and some
say pages "$(cat /proc/sys/vm/nr_hugepages)"

phase two 120
start_node 2
tachyon-control --config /etc/tachyon/control.toml >/tmp/control 2>&1 &
within 60 connected
ctl rules apply /etc/tachyon/rules.toml
becomes east ready
becomes west ready
say ping "$(ping -c 5 -i 0.2 -W 5 10.0.1.1 | grep -o '[0-9]* packets received')"
run_load two 3
tell two

phase second 60
node_file /run/second 2
begin_load second 4
refused second
end_load

phase stop 60
begin_load stopped 4
ctl ports stop west
becomes west stopped
end_load
ctl ports start west
ctl ports stop east
becomes east stopped
ctl ports start east
becomes east ready
becomes west ready
run_load started 2

phase links 120
for side in west:2 east:1; do
    name=${side%:*}
    begin_load "$name-off" 5
    host link "nic${side#*:}" off
    becomes "$name" link_down
    tell "$name-off"
    host link "nic${side#*:}" on
    becomes "$name" ready
    end_load
    run_load "$name-on" 2
done

phase junk 60
begin_load junk 5
tell before
tachyon-lab-junk "$nic0" 52:54:00:00:00:01 10.0.1.2 10.0.1.1 100
sleep 0.5
end_load
tell after

phase four 120
kill "$tachyond"
wait "$tachyond" || true
start_node 4
within 60 connected
becomes east ready
becomes west ready
run_load four 3
tell four

phase ipv6 60
echo 0 >"/proc/sys/net/ipv6/conf/$nic0/disable_ipv6"
echo 0 >"/proc/sys/net/ipv6/conf/$nic3/disable_ipv6"
ip address add fd00:1::2/64 dev "$nic0" nodad
ip address add fd00:2::2/64 dev "$nic3" nodad
say ping "$(ping -c 5 -i 0.2 -W 5 fd00:1::1 | grep -o '[0-9]* packets received')"
listen=fd00:2::2
run_load ipv6 2 --node fd00:1::1
listen=10.0.2.2

# Last, because the slot stays empty. vfio asks whoever has the card to let go of it, and waits.
phase gone 60
address=$(card 2)
begin_load gone 5
host remove nic2
becomes west failed
within 30 is_gone "$address"
tell gone
end_load
