#!/bin/sh
# A ledger kept by a shell script: `entries.sh each|once FILE COUNT`.
#
# each   hands every entry through a pipe to a program that syncs it
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

each() {
    entries | while read -r entry; do
        echo "$entry" | dd of="$file" oflag=append conv=notrunc,fsync status=none
    done
}

once() {
    entries | dd of="$file" oflag=append conv=notrunc status=none
}

"$way"
