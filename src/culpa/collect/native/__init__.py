"""Native stacks: registers and a slice of stack -> return addresses -> functions, files and lines.

Reads programs' files and /proc, never writes. Every file and every name in it is hostile input: sizes are bounded, no
file is mapped (one that is cut short would kill the reader), and what does not check out is treated as not there.
"""
