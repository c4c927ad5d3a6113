# Two cards of four are DPDK's, two are the kernel's: nic0 (left) - nic1 (testpmd) nic2 - nic3 (right).
# This script does and says; what must hold is written in smoke.rs, which listens.
load vfio_iommu_type1 vfio_pci
own 1
own 2
load igb
place 0 left 10.77.0.1/24
place 3 right 10.77.0.2/24
# No ARP: every packet that is counted is one that was sent on purpose.
left() { ip netns exec left "$@"; }
right() { ip netns exec right "$@"; }
ip -n left neighbour add 10.77.0.2 dev net0 lladdr "$(right cat /sys/class/net/net0/address)"
ip -n right neighbour add 10.77.0.1 dev net0 lladdr "$(left cat /sys/class/net/net0/address)"

mkfifo /tmp/testpmd.in
# Its output is a file, so without help it would keep most of an answer back.
LD_PRELOAD=/usr/libexec/coreutils/libstdbuf.so _STDBUF_O=L dpdk-testpmd -l 0,1 --in-memory -a "$(card 1)" -a "$(card 2)" -- \
    --interactive --nb-cores=1 --rxq=4 --txq=4 --rss-udp --forward-mode=io --total-num-mbufs=8192 \
    </tmp/testpmd.in >/tmp/testpmd.out 2>&1 &
testpmd=$!
exec 8>/tmp/testpmd.in

prompts() { grep -o 'testpmd> ' /tmp/testpmd.out | wc -l; }
# Whether testpmd has asked for its Nth command; a testpmd that died will not, so that ends the waiting too.
prompted() { ! kill -0 $testpmd || [ "$(prompts)" -ge "$1" ]; }
# Gives testpmd a command and prints what it answers.
pmd() {
    before=$(prompts)
    size=$(wc -c </tmp/testpmd.out)
    echo "$*" >&8
    within 20 prompted $((before + 1)) || return 1
    kill -0 $testpmd || { cat /tmp/testpmd.out; return 1; }
    tail -c +$((size + 1)) /tmp/testpmd.out
}
# How many packets each queue of nic1 took since the last time, as QUEUE:PACKETS.
queues() {
    pmd show fwd stats all >/tmp/stats
    pmd clear fwd stats all >/tmp/cleared
    sed -n '/RX Port= 0\/Queue=/{s/.*Port= 0\/Queue= \([0-9]*\).*/\1/;N;s/\n *RX-packets: \([0-9]*\).*/:\1/p}' /tmp/stats | tr '\n' ' '
}
# Sends datagrams from left to right: FIRST_PORT PORTS COUNT. Prints how many came.
stream() { right tachyon-lab-udp receive 10.77.0.2 "$@" | left tachyon-lab-udp send 10.77.0.1 10.77.0.2 "$@"; }
# What each of nic0 to nic3 thinks of its link, as left, testpmd and right see it: 1 or 0.
links() {
    pmd show port summary all >/tmp/summary
    ours=$(awk '$1 ~ /^[01]$/ { print $5 == "up" ? 1 : 0 }' /tmp/summary)
    echo "$(left cat /sys/class/net/net0/carrier)" $ours "$(right cat /sys/class/net/net0/carrier)"
}
links_are() { [ "$(links)" = "$1" ]; }
events() { grep -c 'link state change event' /tmp/testpmd.out; }

within 30 prompted 1
pmd start >/tmp/started || { cat /tmp/testpmd.out; exit 1; }
within 20 links_are "1 1 1 1"
say spread "$(stream 24640 16 4000)" "$(queues)"

# A key with one bit, the 120th, leaves of the hash of an IPv4/UDP packet only the low seven bits of its destination port,
# in reverse; so the table of 128 queues becomes one from ports to queues. Here ports in fours: 24640 to 24643 to queue 0.
# The low seven bits of 24640 are 64, which is the 1 at the end of every index.
pmd port config 0 rss-hash-key ipv4-udp \
    00000000000000000000000000000080000000000000000000000000000000000000000000000000 >/tmp/key
table=
for port in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    reversed=$(((port & 1) * 64 + (port & 2) * 16 + (port & 4) * 4 + (port & 8) + 1))
    table="$table,($reversed,$((port / 4)))"
done
pmd port config 0 rss reta "${table#,}" >/tmp/table
for first in 24640 24644 24648 24652; do
    say steered "$first" "$(stream $first 4 64)" "$(queues)"
done

before=$(events)
for step in "nic1 off" "nic1 on" "nic0 off" "nic0 on"; do
    case $step in
    "nic1 off") want="1 0 1 1" ;;
    "nic0 off") want="0 1 1 1" ;;
    *) want="1 1 1 1" ;;
    esac
    host link $step
    within 15 links_are "$want" || true # smoke.rs tells what is wrong from what is said
    say links "$step" "$(links)"
done
say events $(($(events) - before))
say again "$(stream 24640 16 400)" "$(queues)"
echo quit >&8
wait $testpmd
