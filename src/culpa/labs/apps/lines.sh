#!/bin/sh
# Counts the lines of a file: `lines.sh each|once FILE`.
#
# each   reads them in a loop of the shell, which asks for one byte at a time: it must not read past the line's end
# once   has one program read the file
set -eu
way=$1 file=$2

each() {
    count=0
    while read -r line; do
        count=$((count + 1))
    done <"$file"
    echo "$count"
}

once() {
    wc -l <"$file"
}

"$way"
