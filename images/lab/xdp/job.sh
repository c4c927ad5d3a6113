# The pre-filter and XDP sockets on this kernel: what its verifier says, both ways of attaching, and the tests of both.
# This script does and says; what must hold is written in xdp.rs, which listens.

# Runs the test program NAME for SECONDS at most, and says how it ended, what failed and what it left out: NAME SECONDS.
tests() {
    phase "$1" "$2"
    code=0
    "xdp_$1" --nocapture --test-threads 2 >/tmp/tests 2>&1 || code=$?
    [ $code = 0 ] || cat /tmp/tests
    say ended "$code" "$(grep '^test result: ' /tmp/tests)"
    # Words of tests that run beside each other may stand in one line.
    grep -o 'not tested: .*\|skipped: .*' /tmp/tests | sort -u >/tmp/skipped || true
    while read -r line; do say skipped "$line"; done </tmp/skipped
}

load veth af_packet
mkdir -p /sys/fs/bpf
mount -t bpf bpf /sys/fs/bpf

phase verifier 120
say verifier "$(prefilter verify)"
say jit "$(cat /proc/sys/net/core/bpf_jit_enable)"

phase attach 120
ip link add va type veth peer name vb
ip link set va up
ip link set vb up
for word in attach generic; do
    prefilter $word va >/tmp/attached
    say "$word" "$(grep -o 'mode: [A-Za-z]*' /tmp/attached) $(grep 'generic XDP is used' /tmp/attached || true)"
    prefilter detach va
done
ip link delete va

export PREFILTER_FRAMES=$FRAMES PREFILTER_VECTORS=/vectors
tests differential 900
tests verdicts 900
tests deny 900
tests interface 300
tests killed 900
tests conformance 900
tests kernel 300
tests faults 300
