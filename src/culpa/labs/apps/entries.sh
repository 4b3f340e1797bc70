#!/bin/sh
# A ledger kept by a shell script: `entries.sh each|kept|once FILE COUNT`.
#
# each   hands every entry through a pipe to a program that syncs it
# kept   the same, and the program leaves the rest to the kernel
# once   hands all of them through one pipe to a program that leaves the rest to the kernel
set -eu
way=$1 file=$2 count=$3

entries() {
    left=$count
    while [ "$left" -gt 0 ]; do
        echo "entry $left"
        left=$((left - 1))
    done
}

one_by_one() {
    entries | while read -r entry; do
        echo "$entry" | dd of="$file" oflag=append conv="$1" status=none
    done
}

each() {
    one_by_one notrunc,fsync
}

kept() {
    one_by_one notrunc
}

once() {
    entries | dd of="$file" oflag=append conv=notrunc status=none
}

"$way"
