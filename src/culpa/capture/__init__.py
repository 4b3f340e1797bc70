"""The contract between collecting and judging: tables, manifest, and the file that holds them."""
