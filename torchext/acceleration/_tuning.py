"""The choice among candidates, by time, each place where it stands: the whole graph runs with the
first candidates, with the second ones, and so on in turn. So weights come from memory and inputs
from the caches as they will, which a place that is timed by itself would not show."""

import time

import torch
from torch import fx

from ._capture import evaluate
from ._timing import waiter

PATIENCE = 2  # rounds without news after which minima are believed
MOST_SECONDS = 5.0  # for more rounds than these:
LEAST_ROUNDS = 3
NEWS = 0.99  # of the sum of all times


def tune(graph, places, env):
    """Gives each place the fastest of its candidates; env: values of inputs and constants."""
    steps = [node for node in graph.nodes if node.op == "call_function" and node not in env]
    wait = waiter(env.values())
    races = {place.node: _Race(place, wait) for place in places}
    done = _done_after(steps, races, env)
    turns = max((len(place.candidates) for place in places), default=0)
    known, end = {}, time.perf_counter() + MOST_SECONDS
    rounds, quiet, total = 0, 0, float("inf")
    while turns and quiet < PATIENCE and (rounds < LEAST_ROUNDS or time.perf_counter() < end):
        rounds += 1
        for turn in range(turns):
            values = dict(env)
            for node in steps:
                race = races.get(node)
                values[node] = race.run(turn, values, known) if race else evaluate(node, values)
                for value in done.get(node, ()):
                    del values[value]
        before, total = total, sum(map(sum, known.values()))
        quiet = quiet + 1 if total > NEWS * before else 0
    for race in races.values():
        race.decide()


class _Race:
    """A place's candidates and their least times, which places alike share."""

    def __init__(self, place, wait):
        self.place, self.wait, self.times = place, wait, None

    def run(self, turn, values, known):
        candidates = self.place.candidates
        index = turn % len(candidates)
        if self.times is None:
            calls = [(str(c.target), _signature(c.args, values)) for c in candidates]
            self.times = known.setdefault(repr(calls), [float("inf")] * len(candidates))
        args = fx.map_arg(candidates[index].args, values.__getitem__)
        self.wait()
        start = time.perf_counter()
        value = candidates[index].target(*args)
        self.wait()
        self.times[index] = min(self.times[index], time.perf_counter() - start)
        return value

    def decide(self):
        self.place.times = tuple(self.times)
        self.place.choose(choice(self.place.times))


def choice(times):
    """The first candidate, if none is clearly faster."""
    best = times.index(min(times))
    return best if times[best] < 0.97 * times[0] else 0


def _done_after(steps, races, env):
    """For each step, the values that nobody needs after it."""
    last = {}
    for node in steps:
        candidates = races[node].place.candidates if node in races else ()
        wanted = (node.args, node.kwargs, [c.args for c in candidates])
        fx.map_arg(wanted, lambda value, node=node: last.update({value: node}))
    done = {}
    for value, node in last.items():
        if value not in env:
            done.setdefault(node, []).append(value)
    return done


def _signature(args, values):
    args = fx.map_arg(args, values.__getitem__)
    return [
        (tuple(a.shape), str(a.dtype), a.layout == torch.strided and a.stride())
        if isinstance(a, torch.Tensor)
        else str(a)
        for a in args
    ]
