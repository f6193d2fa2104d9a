"""What the ops are tested on: a file per family, with SPECS, REFUSED and FUZZED (see cases.py)."""
