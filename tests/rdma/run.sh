#!/usr/bin/env bash
# Runs Python in the guest, with pyverbs: run.sh PYTHON [ARGUMENT...]
#
# Debian's pyverbs is for Debian's own Python; another one of the same minor version loads it too.
# Exit status 77: there is no guest here, and why not. The rest is as guest.sh says.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=$1
shift
modules=$(mktemp -d)
trap 'rm -rf "$modules"' EXIT
ln -s /usr/lib/python3/dist-packages/pyverbs "$modules/pyverbs"
export PYTHONPATH=${PYTHONPATH:+$PYTHONPATH:}$modules
if [ ! -e "$modules/pyverbs/__init__.py" ]; then
    echo "Debian's package python3-pyverbs is missing: \`make rdma-guest\` installs it" >&2
    exit 77
fi
if ! "$python" -c 'import pyverbs.device'; then
    echo "$python cannot load Debian's pyverbs: use $(/usr/bin/python3 --version)" >&2
    exit 77
fi
"$here/guest.sh" "$python" "$@"
