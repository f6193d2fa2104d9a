"""What accelerate() did, place by place, and why not more."""


class Report:
    """Prints as a table. `rows` are dicts: where, what, runs, milliseconds, best_other; `notes`
    are sentences about the whole."""

    def __init__(self, name):
        self.name, self.rows, self.notes = name, [], []
        self.error = self.own_seconds = self.seconds = None

    def note(self, text):
        if text not in self.notes:
            self.notes.append(text)

    def row(self, where, what, runs):
        """A layer's; the last that is said of it holds."""
        known = next((row for row in self.rows if row["where"] == where), None)
        if known is None:
            known = {"where": where, "milliseconds": None, "best_other": None}
            self.rows.append(known)
        known |= {"what": what, "runs": runs}

    def timed(self, where, ours, theirs):
        row = next(row for row in self.rows if row["where"] == where)
        best, other = sorted((ours, theirs))
        row |= {"milliseconds": best * 1e3, "best_other": other * 1e3}

    def measured(self, error, own, fast):
        self.error, self.own_seconds, self.seconds = error, own, fast

    def places(self, places):
        self.rows = [_row(place) for place in places]

    def __str__(self):
        lines = [self._head()]
        lines += [f"  {note}" for note in self.notes]
        if self.rows:
            width = max(len(row["where"]) for row in self.rows)
            lines.append(f"  {'place':{width}}  {'ms':>8}  {'else':>8}  runs")
        for row in self.rows:
            lines.append(
                f"  {row['where']:{width}}  {_ms(row['milliseconds'])}  {_ms(row['best_other'])}"
                f"  {row['runs']}: {row['what']}"
            )
        return "\n".join(lines)

    __repr__ = __str__

    def _head(self):
        if self.seconds is None:
            return f"{self.name}: nothing was accelerated yet"
        return (
            f"{self.name}: {self.seconds * 1e3:.2f} ms, by itself {self.own_seconds * 1e3:.2f} ms"
            f" ({self.own_seconds / self.seconds:.2f}x); error {self.error:.1e};"
            f" {sum(row['runs'].startswith('torchext') for row in self.rows)} of"
            f" {len(self.rows)} places by torchext"
        )


def _row(place):
    times = list(place.times)
    mine = times.pop(place.chosen) if times else None
    return {
        "where": place.where,
        "what": place.what,
        "runs": place.candidates[place.chosen].name,
        "milliseconds": mine and mine * 1e3,
        "best_other": min(times) * 1e3 if times else None,
    }


def _ms(value):
    return f"{value:8.3f}" if value is not None else " " * 8
