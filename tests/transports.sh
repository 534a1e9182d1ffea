#!/usr/bin/env bash
# Runs the tests with real processes, and applications under faults, once for each transport:
#
#   transports.sh PYTHON [TRANSPORT...]      shm, tcp and rdma, or those that are named
#
# RDMA is run in the guest of tests/rdma, with those modules that bear its one slow processor. What
# fails does not keep the rest from running; the exit status says whether anything did.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$1
shift
[ $# -gt 0 ] || set -- shm tcp rdma
export PYTHONPATH=$PWD/src PYTHONSAFEPATH=1
minutes=${CHAOS_MINUTES:-1}
failed=()

check() {  # NAME COMMAND...: runs it and remembers whether it failed
    local name=$1 began=$SECONDS status=0
    shift
    echo "== $name"
    "$@" || status=$?
    echo "== $name: status $status after $((SECONDS - began)) s"
    [ "$status" -eq 0 ] || failed+=("$name")
}

guest() {
    GUEST_MEGABYTES=${GUEST_MEGABYTES:-4096} GUEST_SECONDS=${GUEST_SECONDS:-2400} \
        tests/rdma/run.sh "$python" "$@"
}

for transport in "$@"; do
    export LUCIOLE_TEST_TRANSPORT=$transport
    if [ "$transport" = rdma ]; then
        check "rdma alone" guest -m pytest -rs tests/rdma
        modules=()
        for name in administration coherence kvcache locks ranges sharing small_files trees; do
            modules+=("tests/integration/test_$name.py")
        done
        check "integration, rdma" guest -m pytest -rs "${modules[@]}"
        # On one processor a node needs a while to come back, and the next fault waits for that.
        check "chaos, rdma" guest -m luciole.tests.chaos --transport rdma --minutes "$minutes" \
            --nodes 3 --replicas 3 --targets-per-node 1 --managers 1 --metas 1 --every 12
    else
        check "integration, $transport" "$python" -m pytest -rs tests/integration
        check "chaos, $transport" "$python" -m luciole.tests.chaos --transport "$transport" \
            --minutes "$minutes"
    fi
done
if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
echo "everything holds by $*"
