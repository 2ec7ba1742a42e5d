"""Plants bugs in the CUDA kernels and in the device layer, and demands that their tests see every one.

    cuda_mutation_test.py --source DIR --work DIR --compile "COMPILER FLAGS" --link COMPILER --libraries "FILES" \\
                          --objects PROGRAM="FILES" [--objects ...]

Each mutant replaces one piece of one file. The mutated file alone is compiled, for the emulator, and linked before the library, whose own
version of it is then not taken (the linker takes the first definition). A mutant that passes its program has survived, and fails this test; so does one whose text is not
found exactly once, which means that the code went on without it. An eighth of them is planted, or what TIERCEL_MUTANTS in the
environment says: tests/mutant_choice.py.
"""

import argparse
import concurrent.futures
import os
import pathlib
import shlex
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))
from tests.mutant_choice import chosen  # noqa: E402

# (what it is, file, text, replacement, program that must see it, its cases)
KERNELS, SAMPLING, DEVICE, NCCL = "cuda_kernels_test", "cuda_sampling_test", "device_test", "nccl_test"
MODEL, MODEL_RANKS, SERVING = "device_model_test", "device_ranks_test", "device_serving_test"
LLAMA, FORWARD, STEPS = "src/model/device_llama.cc", "src/model/device_forward.cc", "src/engine/step_loop_compute.cc"
RANKS, OPERATIONS, LOADS = "src/device/nccl_communicator.cc", "src/device/nccl_operations.cc", "src/device/device_loads.cc"
OF_STAGES, UPLOAD = "src/model/llama_ranks.cc", "src/model/device_llama_weights.cc"
ENGINE, SOURCE = "engine_gpu_ranks_test", "src/engine/model_source.cc"
LINEAR, PARTS = "kernels/group_linear.cu", "kernels/weight_parts.h"
SUMS = "CudaGroupLinear.AgreesWithSums*"
MUTANTS = [
    ("decode: warps' results are read before they are written", "kernels/decode_attention.cu",
     "  __syncthreads();\n\n  for (int i = thread", "  for (int i = thread", KERNELS, "CudaDecode*"),
    ("decode: splits are not weighed", "kernels/decode_attention.cu",
     "const float factor = exp2f(partials", "const float factor = 1.0f + 0.0f * exp2f(partials", KERNELS, "CudaDecode*"),
    ("decode: the last token of a split is seen by nobody", "kernels/decode_attention.cu",
     "* kSlots + slot >= end) scores", "* kSlots + slot >= end - 1) scores", KERNELS, "CudaDecode*"),
    ("decode: rows read each other's tables", "kernels/decode_attention.cu",
     "(a.row_sequences == nullptr ? row : a.row_sequences[row])", "row", KERNELS, "CudaDecode*"),
    ("decode: the upper half of int4 has the lower one's scale", "kernels/decode_attention.cu",
     "reinterpret_cast<const unsigned*>(scales)[upper_half]", "reinterpret_cast<const unsigned*>(scales)[upper_half && false]", KERNELS, "CudaDecode*"),
    ("prefill: a query does not see itself", "kernels/prefill_attention.cu",
     "<= rows.position(own[r])", "< rows.position(own[r])", KERNELS, "CudaPrefill*"),
    ("prefill: keys are read before they have come", "kernels/prefill_attention.cu",
     "__pipeline_wait_prior(1);  // for the keys", "__pipeline_wait_prior(2);  // for the keys", KERNELS, "CudaPrefill*"),
    ("prefill: values are overwritten while they are read", "kernels/prefill_attention.cu",
     "    __syncthreads();\n    if (begin + kTile < end) begin_tile<T, kHeadDim>(values",
     "    if (begin + kTile < end) begin_tile<T, kHeadDim>(values", KERNELS, "CudaPrefill*"),
    ("prefill: sums keep the scale of an older maximum", "kernels/prefill_attention.cu",
     "sums[n][2 * r + 1] *= factor;", "", KERNELS, "CudaPrefill*"),
    ("append: one pair too many is rotated", "kernels/kv_append.cu",
     "pair < static_cast<int>(a.pairs)", "pair <= static_cast<int>(a.pairs)", KERNELS, "CudaKvAppend*"),
    ("append: values are rotated too", "kernels/kv_append.cu", "!is_value && pair", "pair", KERNELS, "CudaKvAppend*"),
    ("append: int4 scales are rounded down", "kernels/kv_append.cu",
     "(__float_as_uint(value) + 0xffffu) >> 16", "__float_as_uint(value) >> 16", KERNELS, "CudaKvAppend*"),
    ("linear: warps' sums are read before they are written", LINEAR, "  __syncthreads();\n  for (int i = threadIdx.x; i < rows",
     "  for (int i = threadIdx.x; i < rows", KERNELS, SUMS),
    ("linear: the last warp's sums are left out", LINEAR, "w < kDecodeWarps; ++w", "w < kDecodeWarps - 1; ++w", KERNELS, SUMS),
    ("linear: warps take each other's groups too", LINEAR, "first += kAtOnce * kDecodeWarps", "first += kDecodeWarps", KERNELS, SUMS),
    ("linear: the remainder of the split is nobody's", LINEAR, "if (group >= groups) break;", "if (group + 1 >= groups) break;", KERNELS, SUMS),
    ("linear: warps are added up in an order of rows", LINEAR, "Pack<float>::load(partials[w][row], four)",
     "Pack<float>::load(partials[(w + first_row / 8 + row) % kDecodeWarps][row], four)", KERNELS, "CudaGroupLinear.ARowHasTheSameBits*"),
    ("linear: minima are not applied", LINEAR, "sum[i] = __fmaf_rn(minima[j], i % 2 == 0 ? x_sums.x : x_sums.y, sum[i]);", "{}", KERNELS, SUMS),
    ("linear: minima take the sum of the first row of two", LINEAR, "i % 2 == 0 ? x_sums.x : x_sums.y", "x_sums.x", KERNELS, SUMS),
    ("linear: half of the columns are summed for the minima", LINEAR, "multiply_add<T>(c, kAllOnes, b[1]);", "", KERNELS, SUMS),
    ("linear: an output has its neighbour's scale", LINEAR, "scales[j], c[i], sum[i]", "scales[j ^ 1], c[i], sum[i]", KERNELS, SUMS),
    ("linear: one output too many is written", LINEAR, "if (output + j < outputs)", "if (output + j <= outputs)", KERNELS, SUMS),
    ("linear: four outputs are written where fewer are left", LINEAR, "if (output + 4 <= outputs &&", "if (", KERNELS, "CudaGroupLinear.*"),
    ("linear: lanes of float32 swap rows", LINEAR, "if (row / 2 == t)", "if (row % 4 == t)", KERNELS, SUMS),
    ("linear: prefill multiplies the stage after it", LINEAR, "stages[group % kStages].weights[warp % kTiles], lane",
     "stages[(group + 1) % kStages].weights[warp % kTiles], lane", KERNELS, SUMS),
    ("linear: prefill has the sums of another stage", LINEAR, "float2*>(&x_sums[group % 2][kRowsOfTile * own_rows(n) + 2 * t]);",
     "float2*>(&x_sums[0][kRowsOfTile * own_rows(n) + 2 * t]);", KERNELS, SUMS),
    ("linear: prefill reads a stage before it has come", LINEAR, "__pipeline_wait_prior(kStages - 2)", "__pipeline_wait_prior(kStages - 1)", KERNELS, SUMS),
    ("linear: prefill reads and overwrites stages at any time", LINEAR, "    __syncthreads();\n    begin_stage", "    begin_stage", KERNELS, SUMS),
    ("linear: prefill sums a row of another lane's", LINEAR, "rows_of_x(group, first + warp).sums()", "rows_of_x(group, first + (warp ^ 1)).sums()",
     KERNELS, SUMS),
    ("linear: prefill writes one row too many", LINEAR, "if (own >= rows) continue;", "if (own > rows) continue;", KERNELS, SUMS),
    ("linear: prefill's warps share a tile that is not theirs", LINEAR, ".weights[warp % kTiles], lane", ".weights[0], lane", KERNELS, SUMS),
    ("linear: prefill's later blocks write over the first ones'", LINEAR, "first_row + own, tile * kOutputs + 4 * g",
     "first_row + own, tile % 2 * kOutputs + 4 * g", KERNELS, SUMS),
    ("linear: rows of a block are in one warp's order in every warp", LINEAR, "return kRowWarps * n + warp / kTiles;",
     "return kRowWarps * n;", KERNELS, "CudaGroupLinear.ARowHasTheSameBits*"),
    ("embedding: a token has another one's columns", "kernels/embedding.cu", "output / 4 * 4 + eight % 4", "output / 4 * 4 + (eight + 1) % 4",
     KERNELS, "CudaEmbedding*"),
    ("gather: rows stay where they are", "kernels/embedding.cu", "a.rows[i] * a.from_stride", "i * a.from_stride", KERNELS, "CudaGather*"),
    ("norm: warps' sums are read before they are written", "kernels/rms_norm.cu", "  __syncthreads();\n", "", KERNELS, "CudaRmsNorm*"),
    ("SwiGLU: rows read the first one's second half", "kernels/swiglu.cu", "gates + a.width", "gates + a.width * (row == 0)", KERNELS, "CudaSwiglu*"),
    ("copy: the last 16 bytes stay behind", "kernels/block_copy.cu",
     "< units) to[", "+ 1 < units) to[", KERNELS, "CudaBlockCopy*"),
    ("sampling: equal logits rank by id upwards", "kernels/sampling.cu", "(0xffffffffu - static_cast<unsigned>(i))", "static_cast<unsigned>(i)",
     SAMPLING, "*"),
    ("sampling: top-p counts what top-k left out", "kernels/sampling.cu", "row.key(i) >= last ? row.units(i) : 0", "row.units(i)", SAMPLING, "*"),
    ("sampling: a digit is counted before it is cleared", "kernels/sampling.cu",
     "shared.digits[d] = 0;\n    __syncthreads();", "shared.digits[d] = 0;", SAMPLING, "*"),
    ("sampling: log-probabilities are those after the temperature", "kernels/sampling.cu", "  row.scale = kLog2E;", "  row.scale = kLog2E / fmaxf(0.1f, options.temperature);",
     SAMPLING, "*"),
    ("copies: a load does not wait for kernels that read its blocks", "src/device/copy_engine.cc",
     "TIERCEL_RETURN_IF_ERROR(stream.wait(computed_));", "", DEVICE, "*"),
    ("copies: a ticket's end does not wait", "src/device/copy_engine.cc", "(void)finish();", "", DEVICE, "*"),
    ("copies: a layer is waited for by the first one's event", "src/device/copy_engine.cc", "layer / layers_per_event_", "0 * layer", DEVICE, "*"),
    ("copies: a failed load goes on behind the caller's back", "src/device/copy_engine.cc", "(void)stream.synchronize();", "", DEVICE, "*"),
    ("blocks: a part of a block is not there when the call returns", "src/device/device_block_memory.cc",
     "  return within_.synchronize();", "  return {};", DEVICE, "*LeadingTokens*"),
    ("blocks: one token too few is copied", "src/device/device_block_memory.cc", "bytes(rows, tokens * layout.head_dim",
     "bytes(rows, (tokens - 1) * layout.head_dim", DEVICE, "*LeadingTokens*"),
    ("model: what a layer adds is left out", FORWARD, "norm(index == 0 ? nullptr : workspace_.delta", "norm(nullptr", MODEL, "*LogitsAgree*/Plain"),
    ("model: V is K", FORWARD, ".v = workspace_.qkv + row_bytes(query_width + config_.kv_width())",
     ".v = workspace_.qkv + row_bytes(query_width)",
     MODEL, "*LogitsAgree*/Plain"),
    ("model: prefill attention has the tables of decoding sequences", FORWARD,
     "planned(at.tables) + plan_.decode_sequences() * plan_.table_stride()", "planned(at.tables)", MODEL, "*SameBits*"),
    ("model: a graph is taken for one of other rows", LLAMA, ".rows = plan_.rows(),\n                                 .wanted",
     ".rows = 0,\n                                 .wanted", MODEL, "*Graphs*"),
    ("model: a graph is for sequences of any length", LLAMA, "std::bit_ceil(std::max(plan_.longest_decode(), kLeastGraphLength))",
     "kLeastGraphLength", MODEL, "*Graphs*"),
    ("model: logits are read before they have come", LLAMA, "    return done_.synchronize();", "    return {};", MODEL, "*ARowHasTheSameBits*"),
    ("model: a graph that draws no token is taken for one that does", LLAMA, ".drawn = plan_.drawn(),", ".drawn = 0,", SERVING, "*AStepDraws*"),
    ("model: tokens are drawn from rows that are returned", FORWARD, "workspace_.logits + (plan_.wanted() - plan_.drawn()) * vocabulary",
     "workspace_.logits", SERVING, "*AStepDraws*"),
    ("steps: a draft's tokens are all drawn with one random number", STEPS, "sampler->next_draw(i)", "sampler->next_draw(0)", SERVING, "*Answers*"),
    ("steps: a token that the GPU drew is no draw", STEPS, "  sequence.sampler->drew_elsewhere();\n", "", SERVING, "*Answers*"),
    ("loads: a layer does not wait for its blocks", FORWARD, "    TIERCEL_RETURN_IF_ERROR(before_blocks(index));\n", "", MODEL, "*AStepBegins*"),
    ("loads: a graph does not wait for its blocks", LLAMA,
     "    if (load > 0) TIERCEL_RETURN_IF_ERROR(loads_->order(stream_, load, shape_.layers - 1));\n", "", MODEL, "*AStepBegins*"),
    ("loads: a graph waits for the first layer only", LLAMA, "order(stream_, load, shape_.layers - 1)", "order(stream_, load, 0)", MODEL, "*AStepBegins*"),
    ("loads: all layers wait for the first one's part", LOADS, "ticket->order(stream, layer)", "ticket->order(stream, 0)", DEVICE, "*DeviceLoads*"),
    ("loads: the last load to a block is not the one that is waited for", LOADS, "last_[id] = newest_;", "last_[id] = std::max<std::uint64_t>(last_[id], 1);",
     DEVICE, "*DeviceLoads*"),
    ("loads: host memory is given back before it was read", LOADS, "Status status = ticket->finish();", "Status status; ticket->arrived().status();",
     DEVICE, "*DeviceLoads*"),
    ("loads: a save does not wait for what is on its way", "src/device/device_block_memory.cc",
     "  TIERCEL_RETURN_IF_ERROR(settle(blocks));\n", "", DEVICE, "*DeviceLoads*"),
    ("loads: a copy of a block does not wait for what is on its way", "src/device/device_block_memory.cc",
     "  TIERCEL_RETURN_IF_ERROR(settle(touched));\n", "", DEVICE, "*DeviceLoads*"),
    ("profile: attention counts as appending", FORWARD, "  TIERCEL_RETURN_IF_ERROR(enter(StepPart::Attention));\n", "", MODEL, "*Timed*"),
    ("profile: the last part of a step has no end", LLAMA, "    if (profile_) TIERCEL_RETURN_IF_ERROR(profile_->enter(StepPart::Copy, stream_));\n", "",
     MODEL, "*Timed*"),
    ("model: after a failure it goes on", LLAMA, "  if (!failure_.ok()) return failure_;\n  const CurrentDevice", "  const CurrentDevice",
     MODEL, "*EveryCall*"),
    ("model: parts of a matrix are packed over each other", "src/model/device_llama_weights.cc", "output += part.rows();", "", MODEL,
     "*LogitsAgree*/Plain"),
    ("model of ranks: what attention adds is not summed up", FORWARD,
     "workspace_.delta));\n  TIERCEL_RETURN_IF_ERROR(add_up_ranks());", "workspace_.delta));", MODEL_RANKS, "*LogitsAgree*/0"),
    ("model of ranks: logits of all are the first one's", "src/model/device_ranks.cc", "(logits + first, row_bytes",
     "(logits, row_bytes", MODEL_RANKS, "*LogitsAgree*/0"),
    ("model of ranks: a part's rows are taken for one", OF_STAGES, "parts += floats;", "parts += floats / rows;",
     MODEL_RANKS, "*LogitsAgree*/0"),
    ("model of ranks: parts are put in their places before they have come", "src/model/device_ranks.cc",
     "cudaMemcpyDeviceToDevice, stream_->get())", "cudaMemcpyDeviceToDevice, nullptr)", MODEL_RANKS, "*LogitsAgree*/1"),
    ("model of ranks: tokens are drawn from parts", FORWARD, ".logits = workspace_.logits + (plan_", ".logits = workspace_.parts + (plan_",
     SERVING, "*RanksSampling.AStepDraws*/0"),
    ("model of ranks: which tokens are drawn is the first one's secret", "src/engine/rank_messages.cc", ".is_drawn = !chunk.draws.empty()",
     ".is_drawn = false", SERVING, "*RanksSampling.AStepDraws*/0"),
    ("stages: what the last layer adds is not handed on", FORWARD,
     "  TIERCEL_RETURN_IF_ERROR(norm(workspace_.delta, weights_.output_norm));\n  TIERCEL_RETURN_IF_ERROR(enter(StepPart::Exchange));", "",
     MODEL_RANKS, "*BitsOfOne*/0"),
    ("stages: micro-batches are told at one place", LLAMA, "index * plan_.offsets().words;", "0 * index;", MODEL_RANKS, "*BitsOfOne*"),
    ("stages: logits of micro-batches lie over each other", FORWARD, "workspace_.wanted + to * row_bytes(hidden)", "workspace_.wanted + 0 * to",
     MODEL_RANKS, "*BitsOfOne*/0"),
    ("stages: a step is not cut", LLAMA, "count_device_micro_batches(rows, options_.shard.stages);", "1;", MODEL_RANKS, "*AtTheSameTime*/0"),
    ("stages: the first rank runs ahead of the last stage", OF_STAGES, "if (rows == 0) return await_last_stage(parts);", "if (rows == 0) return {};",
     MODEL_RANKS, "*AtTheSameTime*/0"),
    ("stages: all have the embedding", UPLOAD, "if (shard.is_first_stage()) upload", "upload", MODEL_RANKS, "*LayersAlone*/0"),
    ("groups: one of them is not ended by a failure", OPERATIONS, "ncclCommAbort(comm);\n  under_way_", "{ ncclCommAbort(comm); break; }\n  under_way_",
     NCCL, "*LostInAGroup*/0"),
    ("groups: a rank keeps its number", RANKS, "      rank, static_cast<std::uint32_t>(ranks.size()), stream_", "      rank_, static_cast<std::uint32_t>(ranks.size()), stream_",
     NCCL, "*GroupsAddUp*/0"),
    ("groups: all of them have one id", RANKS, "(*ids)[ranks.front()];", "ids->front();", NCCL, "*GroupMayBe*/0"),
    ("groups: nobody says that there is no id", RANKS, "  if (id == NcclId{}) {", "  if (id == NcclId{} && false) {", NCCL, "*OpeningAGroup*"),
    ("plan: a row's position is that of its chunk", "src/model/device_step_plan.cc",
     "static_cast<std::uint32_t>(position);", "static_cast<std::uint32_t>(chunk.first_position);", MODEL, "DeviceStepPlan*"),
    ("status: an error surfaces in a later call", "src/device/cuda_status.cc", "cudaGetLastError();", "", DEVICE, "*"),
    ("ranks: NCCL's kernels stay after a failure", OPERATIONS, "ncclCommAbort(comm);\n  under_way_", "{}\n  under_way_", NCCL, "*OpeningFails*/0"),
    ("ranks: what is in progress is taken for done", OPERATIONS, "  // As long as it is in progress,",
     "  if (result == ncclInProgress) result = ncclSuccess;\n  // As long as it is in progress,", NCCL, "*SumsOfIntegers*/8"),
    ("ranks: what is under way is not waited for", OPERATIONS, "if (under_way_.empty()) return {};", "return {};", NCCL, "*EverybodyGets*/10"),
    ("ranks: the end of an operation is not marked", OPERATIONS,
     "if (Status recorded = begun.through.record(stream_); !recorded.ok()) return fail(std::move(recorded));", "", NCCL, "*EverybodyGets*/10"),
    ("ranks: an operation is in another stream", RANKS, "static_cast<int>(root), comm_, stream_.get()",
     "static_cast<int>(root), comm_, nullptr", NCCL, "*EverybodyGets*/1"),
    ("ranks: a message to the next rank", RANKS, "ncclSend(data, bytes, ncclInt8, static_cast<int>(to)",
     "ncclSend(data, bytes, ncclInt8, static_cast<int>((to + 1) % size_)", NCCL, "*MessagesGo*/3"),
    ("ranks: the last byte is not gathered", RANKS, "ncclAllGather(mine, all, bytes,", "ncclAllGather(mine, all, bytes - 1,", NCCL, "*EverybodyGets*/8"),
    ("ranks: bfloat16 is summed as half", RANKS, "return ncclBfloat16", "return ncclFloat16", NCCL, "*Bfloat16*/1"),
    ("ranks: what NCCL says later is not heard", OPERATIONS,
     "if (error != ncclSuccess && error != ncclInProgress) return fail(oldest, comm, error);", "", NCCL, "*ADeadRank*/1"),
    ("ranks: events are of the caller's GPU", OPERATIONS, "const CurrentDevice current(device_);", "", NCCL, "*AnyThread*/1"),
    ("ranks: one leaves without a word", OPERATIONS, "ncclResult_t result = ncclCommFinalize(comm);", "ncclResult_t result = ncclSuccess;",
     NCCL, "*Barrier*"),
    ("ranks: a failure is not final", OPERATIONS, "{\n  if (!failure_.ok()) return failure_;\n  while", "{\n  while", NCCL, "*AHungRank*/0"),
    ("ranks: a failed opening leaves a communicator", OPERATIONS, "if (result != ncclSuccess) return fail(opening, comm, result);",
     "if (result != ncclSuccess) return Status::unavailable(\"\");", NCCL, "*OpeningFails*/1"),
    ("engine of ranks: a block is copied by the first alone", "src/engine/rank_follower.cc",
     "memory_->copy_leading_tokens(layout_, copy.from, copy.to, copy.tokens)", "Status()", ENGINE, "*SameBits*/0"),
    ("engine of ranks: what a tier has stays on the host", "src/kv/block_reader.cc",
     "memory_->begin_load(staging.bytes.get(), block_bytes_, blocks);", "Result<std::uint64_t>(std::uint64_t{0});", ENGINE, "*HostMemory*/2"),
    ("loads of ranks: steps do not wait for them", LLAMA, "loads_ ? awaited_load(chunks) : 0;", "loads_ && !ranks_ ? awaited_load(chunks) : 0;",
     SERVING, "*RanksLoads*/1"),
    ("loads of ranks: steps of the first one alone wait for them", LLAMA, "loads_ ? awaited_load(chunks) : 0;",
     "loads_ && has_logits() ? awaited_load(chunks) : 0;", SERVING, "*RanksLoads*/1"),
    ("engine of ranks: each has settings of its own", SOURCE, "    take_settings(settings, options);\n", "", ENGINE, "*OfOne*/0"),
    ("engine of ranks: all are on one GPU", SOURCE, "source.device_options_.device = device.number;", "", ENGINE, "*OfOne*/0"),
    ("engine of ranks: whoever lacks a GPU keeps silent", "src/engine/rank_messages.cc",
     "  TIERCEL_RETURN_IF_ERROR(usable);\n", "", ENGINE, "*NotThere*"),
    ("engine of ranks: CPUs and GPUs mix", "src/engine/rank_messages.cc", "all[rank].on_gpu != all[0].on_gpu",
     "all[rank].on_gpu && rank == 0", ENGINE, "*BesideCpus*"),
    ("engine of ranks: a step goes on after its failure", LLAMA, "    static_cast<void>(stream_.synchronize());\n", "", ENGINE,
     "*RankLoss*"),
    ("engine of ranks: blocks are on the host", "src/engine/engine.cc", "&tiers, reserve);", "&tiers);", ENGINE, "*WithoutRoom*"),
]


def arguments():
    parser = argparse.ArgumentParser()
    for name in ("source", "work", "compile", "link", "libraries"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--objects", action="append", required=True)
    return parser.parse_args()


def run(command, **options):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)


class Test:
    def __init__(self, args):
        self.args = args
        self.source, self.work = pathlib.Path(args.source), pathlib.Path(args.work)
        self.objects = dict(pair.split("=", 1) for pair in args.objects)

    def misplaced(self, mutant):
        """What is wrong with a mutant's text, or None."""
        what, file, text, *_ = mutant
        count = (self.source / file).read_text().count(text)
        return None if count == 1 else f"{what}: the text is in {file} {count} times"

    def problem(self, mutant):
        """What is wrong with a mutant, or None where its program sees it."""
        what, file, text, replacement, program, cases = mutant
        number = MUTANTS.index(mutant)
        original = (self.source / file).read_text()
        directory = self.work / str(number)
        directory.mkdir(parents=True, exist_ok=True)
        mutant, code, binary = directory / pathlib.Path(file).name, directory / "mutant.cc", directory / program
        mutant.write_text(original.replace(text, replacement))
        run(["cmake", f"-DIN={mutant}", f"-DOUT={code}", "-P", self.source / "tests/cuemu/shared_memory.cmake"])
        built = run([*shlex.split(self.args.compile), "-c", code, "-o", directory / "mutant.o"])
        if built.returncode == 0:
            built = run([*shlex.split(self.args.link), directory / "mutant.o", *self.objects[program].split(), *self.args.libraries.split(), "-o", binary])
        if built.returncode != 0:
            return f"{what}: does not build\n{built.stdout[-2000:]}"
        try:
            passed = run([binary, f"--gtest_filter={cases}"], timeout=45).returncode == 0  # some mutants never end
        except subprocess.TimeoutExpired:
            passed = False
        binary.unlink()
        return f"{what}: survived {program}" if passed else None


def main():
    test = Test(arguments())
    mutants = chosen(MUTANTS, test.source)
    problems = list(filter(None, map(test.misplaced, MUTANTS)))
    if not problems:
        with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            problems = list(filter(None, pool.map(test.problem, mutants)))
    print("\n".join(problems) or f"{len(mutants)} of {len(MUTANTS)} mutants, each seen")
    sys.exit(1 if problems or not mutants else 0)


if __name__ == "__main__":
    main()
