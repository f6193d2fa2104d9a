"""One file per family of ops, each with `cases()`: the list of its Case objects."""
