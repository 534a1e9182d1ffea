#!/usr/bin/env bash
# Runs the RDMA tests in the guest: run.sh PYTHON [PYTEST ARGUMENT...]
#
# Debian's pyverbs is for Debian's own Python; another one of the same minor version loads it too.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$1
shift
modules=$(mktemp -d)
trap 'rm -rf "$modules"' EXIT
ln -s /usr/lib/python3/dist-packages/pyverbs "$modules/pyverbs"
PYTHONPATH=${PYTHONPATH:+$PYTHONPATH:}$modules "$here/guest.sh" "$python" "$@"
