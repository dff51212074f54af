"""Compile every CUDA kernel for some architectures, without a GPU, and see what comes out.

    python benchmarks/compile_kernels.py --output benchmarks/results/kernels.csv

For each kernel and each tile of its table: registers a thread, shared memory, spilled bytes, the
matrix instructions in its PTX, how many of these and of the copies to shared memory a loop leaves
under way, whether the assembler makes them wait for each other, which costs time, and the
processor time of its compilation. The exit status is 1 if anything spills, does not fit into an SM,
or makes no use of the tensor cores where it should.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import triton
from measuring import shown, write
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from avcontrast.ops.triton import tiles
from avcontrast.ops.triton.kernels import adjacency, finish, maximum, prepare, products, softmax

CHANNELS = 512
SHARED_BYTES = {
    80: 163 * 1024,
    86: 99 * 1024,
    89: 99 * 1024,
    90: 227 * 1024,
    100: 227 * 1024,
    120: 99 * 1024,
}
"""What a block may use on each architecture."""

TENSOR_MEMORY = 512
"""Columns that a block may use where there is such memory."""

SERIALIZED = re.compile(r"C751[45]\b")
"""What the assembler calls matrix instructions that it makes wait for each other."""

PRODUCTS_LEFT = r"wgmma\.wait_group\S*\s+(\d+)"
COPIES_LEFT = r"cp\.async\.wait_group\s+(\d+)"
"""Instructions that wait until no more than so many are under way."""

COUNTS = ("images", "audios", "rows", "count", "tiles", "inner", "images_each")
OFFSETS = ("first_positive", "first_row")


class Case(NamedTuple):
    """A kernel with everything that is fixed when it is compiled."""

    name: str
    kernel: Any
    constants: dict[str, Any]
    tile: tiles.Tile
    matrix: bool  # whether it has to use tensor cores
    types: dict[str, str]


class Outcome(NamedTuple):
    """What the compiler made of it."""

    registers: int
    shared: int
    spilled: int
    matrix_instructions: int
    tensor_memory: int = 0
    serialized: bool = False
    products_under_way: int = 0
    copies_under_way: int = 0
    compile_seconds: float = 0.0


def map_constants(positions: int) -> dict[str, Any]:
    """Return the sizes of a map."""
    return {"POSITIONS": positions, "CHANNELS": CHANNELS, "CHANNELS_PADDED": CHANNELS}


def cases(arch: int, sizes: Sequence[int]) -> Iterator[Case]:
    """Yield every kernel with every tile of its table, for maps of some sizes."""
    table = tiles.TILES[max(key for key in tiles.TILES if key <= arch)]
    for positions in sizes:
        for precision in ("raw", "single", "split"):
            for tile in table[f"maximum {precision}"]:
                constants = {
                    **tile.sizes(),
                    "POSITIONS": positions,
                    "CHANNELS_PADDED": CHANNELS,
                    "RAW": precision == "raw",
                    "SPLIT": precision == "split",
                    "INDEX": True,
                    "SOFTMAX": True,
                    "IGNORE": True,
                    "MATCH": "rows",
                }
                name = f"maximum {precision} {positions}"
                types = raw_types(maximum.maximum_kernel) if precision == "raw" else {}
                yield Case(name, maximum.maximum_kernel, constants, tile, True, types)
        for precision in ("single", "split"):
            for tile in table[f"to vectors {precision}"]:
                constants = {**map_constants(positions), **tile.sizes()}
                constants["SPLIT"] = precision == "split"
                name = f"to vectors {precision} {positions}"
                yield Case(name, products.to_vectors_kernel, constants, tile, True, {})
            for tile in table[f"to maps {precision}"]:
                constants = {**map_constants(positions), **tile.sizes()}
                constants |= {"SPLIT": precision == "split", "NORMALIZE": True}
                name = f"to maps {precision} {positions}"
                yield Case(name, products.to_maps_kernel, constants, tile, True, {})
        yield from position_cases(positions)
    yield from matrix_cases(table)
    yield from plain_cases(table)


def raw_types(kernel: Any) -> dict[str, str]:  # noqa: ANN401
    """Return the types of what comes in bf16, as it does under autocast."""
    return {n: "*bf16" for n in kernel.arg_names if is_operand(n) or n in ("maps", "audio")}


def position_cases(positions: int) -> Iterator[Case]:
    """Yield the kernels that take a program an image."""
    padded, block = tiles.map_block(positions)
    warps = tiles.Tile(0, 0, 0, tiles.MAP_WARPS, 1)
    sizes = {**map_constants(positions), "POSITIONS_PADDED": padded, "BLOCK": block}
    for precision in ("raw", "single", "split"):
        for soft in (False, True):
            constants = {
                **sizes,
                "NORMALIZE": True,
                "OPERAND": precision,
                "POOLED": True,
                "SOURCES": True,
                "SOFT": soft,
            }
            types = raw_types(prepare.prepare_kernel) if precision == "raw" else {}
            name = f"prepare {precision}{' soft' if soft else ''} {positions}"
            yield Case(name, prepare.prepare_kernel, constants, warps, False, types)
    padded, block = tiles.map_block(positions, tiles.FINISH_LEAST)
    sizes |= {"BLOCK": block}
    for soft in (False, True):
        constants = {
            **{name: value for name, value in sizes.items() if name != "CHANNELS_PADDED"},
            "NORMALIZE": True,
            "POOLED": True,
            "SOURCES": True,
            "SOFT": soft,
            "MAPS": True,
            "ADD": True,
        }
        name = f"finish{' soft' if soft else ''} {positions}"
        yield Case(name, finish.finish_kernel, constants, warps, False, {})
    constants = {
        "POSITIONS": positions,
        "POSITIONS_PADDED": padded,
        "COLUMNS": tiles.along_columns(positions),
    }
    yield Case(f"along {positions}", products.along_kernel, constants, warps, False, {})


def matrix_cases(table: dict[str, tuple[tiles.Tile, ...]]) -> Iterator[Case]:
    """Yield the kernels that work on b x b matrices."""
    constants: dict[str, Any]
    for precision in ("single", "split"):
        split = {"CHANNELS_PADDED": CHANNELS, "SPLIT": precision == "split"}
        for tile in table[f"statistics {precision}"]:
            constants = {**tile.sizes(), **split}
            kernel = adjacency.statistics_kernel
            yield Case(f"statistics {precision}", kernel, constants, tile, True, {})
            constants = {"ROWS": tile.rows, "COLUMNS": tile.columns}
            constants |= {"IGNORE": True, "MATCH": "rows"}
            kernel = softmax.softmax_kernel
            yield Case(f"softmax {precision}", kernel, constants, tile, False, {})
        for tile in table[f"matrices {precision}"]:
            terms = dict.fromkeys(("FNS_AUDIO", "FNS_VISUAL", "TNE"), True)
            directions = dict.fromkeys(("CE_AUDIO", "CE_VISUAL"), True)
            for anchor in ("visual", "audio"):
                constants = {**tile.sizes(), **split, **terms, "BY_COLUMN": anchor == "audio"}
                constants["LEAVES_OUT"] = True
                name = f"terms {precision} {anchor}"
                yield Case(name, adjacency.terms_kernel, constants, tile, True, {})
                del constants["LEAVES_OUT"]
                constants = {**constants, **directions, "DETACH": False}
                constants |= {"IGNORE": True, "ELIMINATE": True}
                name = f"gradients {precision} {anchor}"
                yield Case(name, adjacency.gradients_kernel, constants, tile, True, {})
        for tile in table[f"product {precision}"]:
            for form, stride in (("", "inner_stride"), (" transposed", "row_stride")):
                constants = {**tile.sizes(), **split, "CHANNELS": CHANNELS, stride: 1}
                kernel = products.product_kernel
                yield Case(f"product {precision}{form}", kernel, constants, tile, True, {})
    combine = adjacency.combine_kernel
    yield Case("combine", combine, {"BLOCK": 128}, tiles.Tile(0, 0, 0, 4, 1), False, {})


def plain_cases(table: dict[str, tuple[tiles.Tile, ...]]) -> Iterator[Case]:
    """Yield the kernels with everything switched off that a call may not need."""
    sizes = map_constants(49)
    off: dict[str, Any]
    tile = table["maximum single"][0]
    off = dict.fromkeys(("RAW", "SPLIT", "INDEX", "SOFTMAX", "IGNORE"), False)
    constants = {
        **tile.sizes(),
        "POSITIONS": 49,
        "CHANNELS_PADDED": CHANNELS,
        **off,
        "MATCH": "none",
    }
    yield Case("maximum alone", maximum.maximum_kernel, constants, tile, True, {})
    tile = table["matrices single"][0]
    off = dict.fromkeys(("SPLIT", "FNS_AUDIO", "FNS_VISUAL", "TNE", "BY_COLUMN"), False)
    off |= dict.fromkeys(("IGNORE", "ELIMINATE"), False)
    constants = {**tile.sizes(), "CHANNELS_PADDED": CHANNELS, **off}
    constants |= {"CE_AUDIO": True, "CE_VISUAL": True, "DETACH": True}
    yield Case("gradients alone", adjacency.gradients_kernel, constants, tile, False, {})
    tile = table["to maps single"][0]
    constants = {**sizes, **tile.sizes(), "SPLIT": False, "NORMALIZE": False}
    yield Case("to maps alone", products.to_maps_kernel, constants, tile, True, {})
    padded, block = tiles.map_block(49)
    warps = tiles.Tile(0, 0, 0, tiles.MAP_WARPS, 1)
    constants = {**sizes, "POSITIONS_PADDED": padded, "BLOCK": block, "OPERAND": "none"}
    constants |= dict.fromkeys(("NORMALIZE", "POOLED", "SOURCES", "SOFT"), False)
    yield Case("prepare alone", prepare.prepare_kernel, constants, warps, False, {})


def type_of(name: str, given: dict[str, str]) -> str:
    """Return the type of an argument of a kernel."""
    if name in given:
        return given[name]
    if name.endswith("_stride") or name in (*COUNTS, *OFFSETS):
        return "i32"
    if name == "threshold":
        return "fp32"
    if name in ("index", "ignore"):
        return "*u8"
    return "*fp16" if is_operand(name) else "*fp32"


def is_operand(name: str) -> bool:
    """Return whether an argument is an operand of a matrix product."""
    return name.endswith(("high", "low"))


def compile_case(case: Case, arch: int) -> Outcome:
    """Compile a kernel and let the assembler say what it takes."""
    names = case.kernel.arg_names
    signature = {
        name: "constexpr" if name in case.constants else type_of(name, case.types) for name in names
    }
    multiples = {
        (number,): [["tt.divisibility", 16]]
        for number, name in enumerate(names)
        if signature[name].startswith("*") or signature[name] == "i32"
    }
    source = ASTSource(case.kernel, signature, case.constants, multiples)
    options = {"num_warps": case.tile.warps, "num_stages": case.tile.stages}
    before = os.times()
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    ptx = compiled.asm["ptx"]
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        target = f"--gpu-name=sm_{arch}{'a' if arch >= 90 else ''}"
        command = [str(assembler(arch)), "-v", target, file.name, "-o", "/dev/null"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.findall(r"(\d+) bytes spill", said)
    if registers is None or not spills:
        raise RuntimeError(f"the assembler said nothing of {case.name}: {said}")
    matrix = r"wgmma\.mma_async|mma\.sync|tcgen05\.mma"
    return Outcome(
        int(registers.group(1)),
        compiled.metadata.shared,
        sum(map(int, spills)),
        len(re.findall(matrix, ptx)),
        getattr(compiled.metadata, "tmem_size", 0) or 0,
        SERIALIZED.search(said) is not None,
        most(PRODUCTS_LEFT, ptx),
        most(COPIES_LEFT, ptx),
        round(sum(os.times()[:4]) - sum(before[:4]), 2),
    )


def most(pattern: str, ptx: str) -> int:
    """Return the largest number that instructions wait down to, or 0 without them."""
    return max(map(int, re.findall(pattern, ptx)), default=0)


def assembler(arch: int) -> Path:
    """Return the assembler that comes with Triton, which has one of its own for new cards."""
    folder = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    newer = folder / "ptxas-blackwell"
    return newer if arch >= 100 and newer.exists() else folder / "ptxas"


def faults(case: Case, outcome: Outcome, arch: int) -> list[str]:
    """Return what is wrong with a kernel."""
    found = []
    if outcome.spilled:
        found.append(f"spills {outcome.spilled} bytes")
    if outcome.shared > SHARED_BYTES[arch] or outcome.tensor_memory > TENSOR_MEMORY:
        found.append("does not fit")
    if case.matrix and not outcome.matrix_instructions:
        found.append("no tensor cores")
    return found


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the results."""

    arch: int
    kernel: str
    tile: str
    warps: int
    stages: int
    registers: int
    shared_bytes: int
    spilled_bytes: int
    matrix_instructions: int
    tensor_memory: int
    serialized: bool
    products_under_way: int
    copies_under_way: int
    compile_seconds: float
    faults: str
    triton: str


def row_of(case: Case, arch: int) -> Row:
    """Return what became of a kernel."""
    outcome = compile_case(case, arch)
    tile = "x".join(map(str, case.tile[:3])) if case.tile.rows else ""
    found = ", ".join(faults(case, outcome, arch))
    return Row(
        arch,
        case.name,
        tile,
        case.tile.warps,
        case.tile.stages,
        *outcome,
        found,
        triton.__version__,
    )


def line_of(row: Row) -> str:
    """Return a result as a line of the table."""
    return (
        f"{row.kernel:28} {row.tile or '-':>12} {row.warps:5} {row.stages:6} {row.registers:9} "
        f"{row.shared_bytes / 1024:9.0f} {row.spilled_bytes:7} {row.matrix_instructions:6} "
        f"{'waits' if row.serialized else '':6} {row.faults}"
    ).rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--arch", type=int, nargs="+", default=[*SHARED_BYTES], choices=SHARED_BYTES
    )
    parser.add_argument("--positions", type=int, nargs="+", default=[49, 196, 1024])
    parser.add_argument("--only", default="", help="kernels whose name contains this")
    parser.add_argument("--output", type=Path, metavar="CSV", help="file of results, if wanted")
    options = parser.parse_args(arguments)
    if tiles.INTERPRETED:
        parser.error("TRITON_INTERPRET is set, and the interpreter compiles nothing")
    rows: list[Row] = []
    for arch in options.arch:
        print(f"sm_{arch}")
        print(f"{'kernel':28} {'tile':>12} warps stages registers shared/KB spilled matrix")
        for case in cases(arch, options.positions):
            if options.only in case.name:
                rows.append(row_of(case, arch))
                print(line_of(rows[-1]), flush=True)
    if options.output is not None:
        write(rows, options.output)
        print(f"wrote {shown(options.output)}")
    wrong = sum(bool(row.faults) for row in rows)
    print(f"{wrong} of these kernels have a fault" if wrong else "no kernel has a fault")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
