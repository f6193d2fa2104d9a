"""Bugs, each planted in a real kernel, and what the emulator must say of them.

Those of a source are compiled at once: `before`, an expression or whole statements, becomes both,
and a switch chooses. As a program: `planted_bugs.py LIBRARY NUMBER...` prints what is found.
"""

import ctypes
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from torchext import _load

CUDA = Path(__file__).parent.parent / "csrc/cuda"


@dataclass(frozen=True)
class Bug:
    op: str  # whose cases show it
    source: str  # the kernel's file
    file: str  # where it is planted
    before: str
    after: str
    kinds: str  # of findings, any of which will do; "result": only the numbers are wrong

    def __str__(self):
        return f"{self.file}: {' '.join(self.after.split())[:50]}"


RACE = "race-shared uninitialised-shared"
ADD_LINES = (  # of tile/reduce.cuh
    "if (line < half) {\n#pragma unroll\n      for (int k = 0; k < V; ++k)"
    " found[k] += shared[k * kThreads + thread + half * lanes];\n    }"
)

BUGS = [
    Bug(
        "max_pool2d_inference",
        "max_pool2d.cu",
        "max_pool2d.cu",
        "if (index >= p.g.count) return;",
        "if (index > p.g.count) return;",
        "bounds-global",
    ),
    Bug(
        "max_pool2d_inference",
        "max_pool2d.cu",
        "max_pool2d.cu",
        "taps_inside(p.g.h, o.h, I(p.g.H))",
        "taps_inside(p.g.h, o.h, I(p.g.H + 1))",
        "bounds-global",
    ),
    Bug(
        "max_pool2d_inference",
        "max_pool2d.cu",
        "max_pool2d.cu",
        "tile::store_narrow(p.y + index * V, best);",
        "tile::store_narrow(p.y + index / 2 * V, best);",
        "race-global",
    ),
    Bug(
        "max_pool2d_inference",
        "max_pool2d.cu",
        "max_pool2d.cu",
        "tile::load<V>(x + (row + (left + j * p.g.w.dilation) * p.x_stride.w))",
        "tile::load<V>(x + (row + (left + j * p.g.w.dilation) * p.x_stride.w + V / 2))",
        "misaligned",
    ),
    Bug(
        "max_pool2d",
        "max_pool2d.cu",
        "max_pool2d.cu",
        "if (kSaves) store_winners(p.offsets, p.wide_offsets, index * V, winner);",
        "if (kSaves && index > 0) store_winners(p.offsets, p.wide_offsets, index * V, winner);",
        "result",
    ),
    Bug(
        "max_pool2d_backward",
        "max_pool2d.cu",
        "max_pool2d.cu",
        "tile::store_narrow(p.grad_x + index * V, sum);",
        "tile::store_narrow(const_cast<T*>(p.grad_y), sum);",
        "read-only",
    ),
    Bug(
        "adaptive_avg_pool2d_inference",
        "avg_pool2d.cu",
        "tile/reduce.cuh",
        f"__syncthreads();\n    {ADD_LINES}",
        ADD_LINES,
        RACE,
    ),
    Bug(
        "adaptive_avg_pool2d_inference",
        "avg_pool2d.cu",
        "tile/reduce.cuh",
        "shared[k * kThreads + thread + half * lanes]",
        "shared[k * kThreads + thread + (half + 1) * lanes]",
        f"{RACE} bounds-shared",
    ),
    Bug(
        "adaptive_avg_pool2d_inference",
        "avg_pool2d.cu",
        "tile/reduce.cuh",
        "shared_array<Found>()",
        "shared_array<Found>() + kThreads",
        "bounds-shared",
    ),
    Bug(
        "adaptive_avg_pool2d_inference",
        "avg_pool2d.cu",
        "avg_pool2d.cu",
        "tile::over_lines<kThreads>(sum, p.lanes, p.parts);",
        "tile::over_lines<kThreads>(sum, p.lanes, made ? p.parts : 1);",
        "exited deadlock",
    ),
    Bug(
        "softmax_inference",
        "softmax.cu",
        "tile/reduce.cuh",
        "if (lane == 0) of_warps[warp] = value;",
        "if (lane == 0 && warp > 0) of_warps[warp] = value;",
        "uninitialised-shared",
    ),
    Bug(
        "softmax_inference",
        "softmax.cu",
        "tile/reduce.cuh",
        "if (lane == 0) of_warps[warp] = value;\n  __syncthreads();",
        "if (lane == 0) of_warps[warp] = value;",
        RACE,
    ),
    Bug(
        "softmax_inference",
        "softmax.cu",
        "tile/reduce.cuh",
        "__syncthreads();",
        ";",
        "race-shared",
    ),
    Bug(
        "softmax_inference",
        "softmax.cu",
        "tile/reduce.cuh",
        "__syncthreads();",
        "if (lane < 7) {\n    __syncthreads();\n  } else {\n    __syncthreads();\n  }",
        "divergent-barrier",
    ),
    Bug(
        "softmax_inference",
        "softmax.cu",
        "tile/reduce.cuh",
        "__shfl_xor_sync(0xffffffffu, value, distance)",
        "__shfl_xor_sync(0x0000ffffu, value, distance)",
        "lane-mask",
    ),
    Bug(
        "softmax_inference",
        "softmax.cu",
        "tile/reduce.cuh",
        "__shfl_xor_sync(0xffffffffu, value, distance)",
        "__shfl_xor_sync(threadIdx.x % 32 < 16 ? 0x0000ffffu : 0xffff0000u, value, distance)",
        "inactive-lane",
    ),
    Bug(
        "softmax_inference",
        "softmax.cu",
        "tile/reduce.cuh",
        "value = Combine()(value, __shfl_xor_sync(0xffffffffu, value, distance));",
        "if (threadIdx.x % 32 < 16) {\n"
        "      value = Combine()(value, __shfl_xor_sync(0xffffffffu, value, distance));\n    }",
        "lane-mismatch deadlock exited",
    ),
    Bug(
        "softmax_inference",
        "softmax.cu",
        "softmax.cu",
        "if (row >= p.outer) return;",
        "if (row >= p.outer || threadIdx.x == 5) return;",
        "exited",
    ),
    Bug(
        "softmax_backward",
        "softmax.cu",
        "softmax.cu",
        "p.grad_y + row * p.size",
        "p.grad_y + row * p.size + 1",
        "misaligned bounds-global",
    ),
    Bug(
        "layer_norm",
        "layer_norm.cu",
        "layer_norm.cu",
        "threadIdx.x % kTeam == 0",
        "threadIdx.x % kTeam <= 1",
        "race-global",
    ),
    Bug(
        "layer_norm",
        "layer_norm.cu",
        "layer_norm.cu",
        "tile::store_narrow(p.y + row * p.size + at, y);",
        "tile::store_narrow(const_cast<T*>(p.x) + row * p.size + at, y);",
        "read-only",
    ),
    Bug(
        "layer_norm_backward",
        "layer_norm.cu",
        "layer_norm.cu",
        "min_of((team + 1) * p.rows_of_team, p.rows)",
        "(team + 1) * p.rows_of_team",
        "bounds-global",
    ),
    Bug(
        "layer_norm_backward",
        "layer_norm.cu",
        "layer_norm.cu",
        "p.parts + team * 2 * p.size",
        "p.parts + team / 2 * 4 * p.size",
        "race-global bounds-global",
    ),
    Bug(
        "layer_norm_backward",
        "layer_norm.cu",
        "column_sums.cuh",
        "of_warps[warp * tile::kWarp + lane] = sum;",
        "of_warps[warp * (tile::kWarp + 1) + lane] = sum;",
        "bounds-shared",
    ),
    Bug(
        "layer_norm_backward",
        "layer_norm.cu",
        "column_sums.cuh",
        "row < p.rows",
        "row <= p.rows",
        "bounds-global uninitialised-global",
    ),
    Bug(
        "batch_norm",
        "channel_norm.cu",
        "tile/reduce.cuh",
        f"__syncthreads();\n    {ADD_LINES}",
        ADD_LINES,
        RACE,
    ),
    Bug(
        "batch_norm",
        "channel_norm.cu",
        "tile/reduce.cuh",
        "shared[k * kThreads + thread + half * lanes]",
        "shared[k * kThreads + thread + half * lanes + 1]",
        f"{RACE} bounds-shared",
    ),
    Bug(
        "batch_norm",
        "channel_norm.cu",
        "channel_norm.cu",
        "min_of(begin + s.pixels_of_part, s.pixels_of_segment)",
        "(begin + s.pixels_of_part)",
        "bounds-global",
    ),
    Bug(
        "group_norm_backward",
        "channel_norm.cu",
        "channel_norm.cu",
        "p.of_g[at + k] = found[k].a;",
        "if (at + k > 0) p.of_g[at + k] = found[k].a;",
        "uninitialised-global",
    ),
    Bug(
        "batch_norm_backward",
        "channel_norm.cu",
        "channel_norm.cu",
        "if (threadIdx.x % tile::kWarp != 0) return;\n  p.grad_weight[channel] ="
        " static_cast<F>(of_products);",
        "p.grad_weight[channel] = static_cast<F>(of_products);\n"
        "  if (threadIdx.x % tile::kWarp != 0) return;",
        "race-global",
    ),
    Bug(
        "cross_entropy",
        "cross_entropy.cu",
        "cross_entropy.cu",
        "if (threadIdx.x == 0) p.parts[blockIdx.x] = own;",
        "p.parts[blockIdx.x] = own;",
        "race-global",
    ),
    Bug(
        "cross_entropy",
        "cross_entropy.cu",
        "cross_entropy.cu",
        "p.x[begin + target.given]",
        "p.x[begin + target.given + p.classes]",
        "bounds-global result",
    ),
    Bug(
        "conv2d_inference",
        "conv2d.cu",
        "product.cuh",
        "tile::wait_for_copies<kStages - 2>();",
        ";",
        "in-flight uninitialised-shared",
    ),
    Bug(
        "conv2d_inference",
        "conv2d.cu",
        "product.cuh",
        "tile::wait_for_copies<kStages - 2>();",
        "tile::wait_for_copies<kStages - 1>();",
        "in-flight uninitialised-shared",
    ),
    Bug(
        "conv2d_inference",
        "conv2d.cu",
        "product.cuh",
        "__syncthreads();",
        ";",
        "race-shared in-flight uninitialised-shared",
    ),
    Bug(
        "conv2d_inference",
        "conv2d.cu",
        "product.cuh",
        "(stage + kStages - 1) % kStages",
        "stage",
        "in-flight race-shared result",
    ),
    Bug(
        "conv2d_inference",
        "conv2d.cu",
        "product.cuh",
        "min_of(begin + parts.k_of_split, a.depth())",
        "(begin + parts.k_of_split)",
        "bounds-global result",
    ),
    Bug(
        "conv2d_inference",
        "conv2d.cu",
        "conv2d.cu",
        "place.h + i * h.dilation",
        "place.h + i * h.dilation + 1",
        "result",
    ),
    Bug(
        "conv2d_inference",
        "conv2d.cu",
        "conv2d.cu",
        "static_cast<unsigned>(column) < static_cast<unsigned>(W)",
        "static_cast<unsigned>(column) <= static_cast<unsigned>(W)",
        "bounds-global result",
    ),
    Bug(
        "conv2d_inference",
        "conv2d_few_channels.cu",
        "conv2d_few_channels.cu",
        "h >= 0 && h < p.H",
        "h >= 0 && h <= p.H",
        "bounds-global",
    ),
    Bug(
        "conv2d_inference",
        "conv2d_few_channels.cu",
        "conv2d_few_channels.cu",
        "if (first % 2) places[i][half] += p.second() + 1;",
        ";",
        "misaligned",
    ),
    Bug(
        "conv2d_inference",
        "conv2d_few_channels.cu",
        "conv2d_few_channels.cu",
        "tile::wait_for_copies<0>();",
        ";",
        "in-flight",
    ),
    Bug(
        "conv2d_backward_input",
        "conv2d.cu",
        "conv2d.cu",
        "place.h - i * p.of_h.output_step",
        "place.h + i * p.of_h.output_step",
        "result",
    ),
    Bug(
        "conv2d_backward_weight",
        "conv2d_backward_weight.cu",
        "bias_gradient.cuh",
        "min_of(begin + p.pixels_of_part, p.pixels)",
        "(begin + p.pixels_of_part)",
        "bounds-global",
    ),
    Bug(
        "conv2d_backward_weight",
        "conv2d_backward_weight.cu",
        "lay_out.cuh",
        "tile::store(p.to + (pixel * p.vectors + vector) * V, pack);",
        "if (pixel > 0) tile::store(p.to + (pixel * p.vectors + vector) * V, pack);",
        "uninitialised-global",
    ),
    Bug(
        "conv2d_backward_weight",
        "depthwise.cu",
        "tile/reduce.cuh",
        f"__syncthreads();\n    {ADD_LINES}",
        ADD_LINES,
        RACE,
    ),
    Bug(
        "conv2d_inference",
        "depthwise.cu",
        "depthwise.cu",
        "iw >= 0 && iw < p.W",
        "iw < p.W",
        "bounds-global result",
    ),
    Bug(
        "dropout_inference",
        "dropout.cu",
        "dropout.cu",
        "p.count - at",
        "p.count - at + 1",
        "bounds-global",
    ),
    Bug(
        "local_response_norm_inference",
        "local_response_norm.cu",
        "local_response_norm.cu",
        "min_of(after, C - 1 - c)",
        "min_of(after, C - c)",
        "bounds-global result",
    ),
    Bug(
        "activation_inference",
        "activation.cu",
        "activation.cu",
        "tile::store_part(p.y + at, pack, left);",
        "tile::store_part(p.y + (at & ~int64_t{31}), pack, left);",
        "race-global",
    ),
    Bug(
        "attention_inference",
        "attention.cu",
        "attention.cuh",
        "tile::wait_for_copies<0>();\n    __syncthreads();",
        "__syncthreads();",
        "in-flight",
    ),
    Bug(
        "attention_inference",
        "attention.cu",
        "attention.cuh",
        "if (stages == 2) bring(tile + 1, 1 - stage);",
        "if (stages == 2) bring(tile + 1, stage);",
        "race-shared in-flight",
    ),
    Bug(
        "attention_inference",
        "attention.cu",
        "attention.cu",
        "sum[r] == 0",
        "false",
        "result",
    ),
    Bug(
        "attention",
        "attention.cu",
        "attention.cu",
        "f.logsumexp && row < rows",
        "f.logsumexp && row <= rows",
        "race-global bounds-global",
    ),
    Bug(
        "attention_inference",
        "attention.cu",
        "attention.cuh",
        "first + r < L && c < columns",
        "first + r <= L && c < columns",
        "bounds-global",
    ),
    Bug(
        "attention_inference",
        "attention.cu",
        "attention.cuh",
        "Warp::put(sums, own, own_row);\n  __syncwarp();",
        "Warp::put(sums, own, own_row);",
        RACE,
    ),
    Bug(
        "attention_inference",
        "attention.cu",
        "tile/warp_product.cuh",
        "put(p, spare, kRow);\n    __syncwarp();",
        "put(p, spare, kRow);",
        RACE,
    ),
    Bug(
        "attention_backward",
        "attention_backward.cu",
        "attention_backward.cu",
        "from + kStep <= min_of(seen_from(first), seen_from(other.L))",
        "from <= first",
        "result",
    ),
    Bug(
        "attention_backward",
        "attention_backward.cu",
        "attention.cuh",
        "__syncthreads();  // the tile was multiplied\n      bring(tile + 1, 0);",
        "bring(tile + 1, 0);",
        "race-shared in-flight",
    ),
    Bug(
        "attention_backward",
        "attention_backward.cu",
        "attention_backward.cu",
        "sums[int64_t{query} * a.Lk + key] = total.at(r, c);",
        "sums[int64_t{query} * a.Lk + key / 2] = total.at(r, c);",
        "race-global",
    ),
    Bug(
        "window_attention_inference",
        "window_attention.cu",
        "window_attention.cu",
        "if (pixel >= s.H * s.W) return;",
        "if (pixel > s.H * s.W) return;",
        "bounds-global race-global",
    ),
    Bug(
        "lstm_inference",
        "recurrent.cu",
        "tile/grid.cuh",
        "__threadfence();\n    atomicAdd(counter, 1u);",
        "atomicAdd(counter, 1u);",
        "race-global",
    ),
    Bug(
        "lstm_inference",
        "recurrent.cu",
        "recurrent.cu",
        "static_cast<unsigned>((s + 1) * p.plan.team)",
        "static_cast<unsigned>(s * p.plan.team)",
        "race-global",
    ),
    Bug(
        "gru_inference",
        "recurrent.cu",
        "recurrent.cu",
        "static_cast<unsigned>((s + 1) * p.plan.team)",
        "static_cast<unsigned>((s + 2) * p.plan.team)",
        "deadlock",
    ),
    Bug(
        "lstm_inference",
        "recurrent.cu",
        "recurrent.cu",
        "fetch(s, row);\n        __syncthreads();",
        "fetch(s, row);",
        RACE,
    ),
    Bug(
        "gru_inference",
        "recurrent.cu",
        "recurrent.cu",
        "if (alone) next[in_tile * h_row + at] = h;",
        "if (alone) state[in_tile * h_row + at] = h;",
        "race-shared",
    ),
    Bug(
        "lstm_backward",
        "recurrent_backward.cu",
        "recurrent_backward.cu",
        "of_batch < after && of_batch < end_row",
        "of_batch <= after && of_batch < end_row",
        "bounds-global race-global uninitialised-global",
    ),
]


def is_statement(text):
    return text[-1] in ";}"


def variants():
    """[(source, its bugs)]: as many sources as it takes for no two edits to overlap."""
    found = []
    for bug in BUGS:
        for source, bugs in found:
            if source == bug.source and not any(overlap(bug, other) for other in bugs):
                bugs.append(bug)
                break
        else:
            found.append((bug.source, [bug]))
    return found


def overlap(a, b):
    return a.file == b.file and (a.before in b.before or b.before in a.before)


def with_bug(text, bug):
    """The text with both ways, of which a switch chooses."""
    assert bug.before in text, f"{bug}: its place is gone"
    switch = f"planted({BUGS.index(bug)})"
    if is_statement(bug.before):
        both = f"if ({switch}) {{\n{bug.after}\n}} else {{\n{bug.before}\n}}"
    else:
        both = f"({switch} ? ({bug.after}) : ({bug.before}))"
    return text.replace(bug.before, both, 1)


SWITCH = """#pragma once
extern "C" __attribute__((weak)) int torchext_planted = -1;
inline bool planted(int bug) { return torchext_planted == bug; }
"""


def build(folder):
    """Compiles all variants; returns [(library, bugs)]."""
    info = _load.build_info()
    (folder / "planted.h").write_text(SWITCH)
    emulator = _load.library_directory() / "libtorchext_emulator.so"
    compiler = info["emulated"].split(" -std")[0]  # whose linker would add the sanitizer's library
    lines = [
        "rule compile",
        f"  command = {info['emulated']} -include {folder}/planted.h -c $in -o $out.o"
        f" && {compiler} -shared $out.o {emulator} -o $out",
    ]
    libraries = []
    for number, (source, bugs) in enumerate(variants()):
        csrc = folder / str(number) / "csrc"
        shutil.copytree(CUDA.parent, csrc, ignore=shutil.ignore_patterns("cpu", "emulator"))
        for bug in bugs:
            file = csrc / "cuda" / bug.file
            file.write_text(with_bug(file.read_text(), bug))
        libraries.append((folder / f"{number}.so", bugs))
        lines.append(f"build {folder}/{number}.so: compile {csrc}/cuda/{source}")
    (folder / "build.ninja").write_text("\n".join(lines) + "\n")
    subprocess.run(["ninja", "-C", folder], check=True, stdout=subprocess.DEVNULL)
    return libraries


def found_by(library, numbers):
    """{number: what was found}, in a process of its own: the library's kernels come before the
    emulator's."""
    command = [sys.executable, __file__, str(library), *map(str, numbers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {int(number): text for number, text in json.loads(done.stdout.splitlines()[-1]).items()}


def found_of(bug):
    """The first finding in the op's cases; "result", or "nothing"."""
    import harness

    backend = harness.EMULATOR
    for case in harness.SPECS[bug.op].cases:
        for dtype in (torch.float32, torch.bfloat16):
            call = harness.call_of(bug.op, case, dtype)
            try:
                harness.check_accurate(backend(bug.op, *call.args), call)
            except RuntimeError as error:
                return str(error).split("emulator: ", 1)[1]
            except AssertionError:
                return "result"
    return "nothing"


def main(library, *numbers):
    switch = ctypes.c_int.in_dll(ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL), "torchext_planted")
    found = {}
    for number in map(int, numbers):
        switch.value = number
        found[number] = found_of(BUGS[number])
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
