// A step on the device: permanent rows take in what is new, and the batch is gathered from them.
//
// The host sends one packed buffer of int32 a step. It begins with what every step has, at places that do not depend on
// the step, so that a graph can read it; records of new rows and new blocks follow. engine/octavo/runner/packed_step.py
// writes it.
#include <cuda_runtime.h>

#include "launch.h"
#include "step.h"

namespace octavo::cuda {
namespace {

constexpr int kBlock = 16;

// A record: its kind, and for sampling parameters (0) the row and their words; for tokens (1) the row, the first place, the
// count and the tokens; for new blocks (2) their count, and of each the group, the row, the index in the table and the block.
__global__ void apply_kernel(const Rows rows, const int32_t* step, int offsets) {
    wait_for_predecessor();
    const int32_t* record = step + step[offsets + blockIdx.x];
    if (record[0] == 0) {
        const int64_t row = record[1];
        for (int i = threadIdx.x; i < kParameters; i += blockDim.x) rows.parameters[row * kParameters + i] = record[2 + i];
    } else if (record[0] == 1) {
        int32_t* tokens = rows.tokens + record[1] * rows.max_len + record[2];
        for (int i = threadIdx.x; i < record[3]; i += blockDim.x) tokens[i] = record[4 + i];
    } else {
        for (int i = threadIdx.x; i < record[1]; i += blockDim.x) {
            const int32_t* entry = record + 2 + 4 * i;
            rows.tables[(entry[0] * rows.count + entry[1]) * rows.table_blocks + entry[2]] = entry[3];
        }
    }
}

// One CTA a sequence.
__global__ void gather_kernel(const Rows rows, const int32_t* step, int max_sequences, const StepBatch batch) {
    wait_for_predecessor();
    const int s = blockIdx.x;
    const int64_t row = step[s];
    const int start = step[max_sequences + s], begin = step[2 * max_sequences + s], end = step[2 * max_sequences + s + 1];
    const int context = start + end - begin, blocks = (context + kBlock - 1) / kBlock;
    if (threadIdx.x == 0) batch.context_lens[s] = context, batch.query_start[s] = begin;
    if (threadIdx.x == 0 && s == int(gridDim.x) - 1) batch.query_start[s + 1] = end;
    const int32_t* tokens = rows.tokens + row * rows.max_len;
    for (int i = threadIdx.x; i < end - begin; i += blockDim.x) {
        batch.token_ids[begin + i] = tokens[start + i];
        batch.positions[begin + i] = start + i;
    }
    for (int g = 0; g < rows.groups; g++) {
        const int32_t* table = rows.tables + (int64_t(g) * rows.count + row) * rows.table_blocks;
        int32_t* target = batch.block_tables + (int64_t(g) * max_sequences + s) * rows.table_blocks;
        for (int i = threadIdx.x; i < blocks; i += blockDim.x) target[i] = table[i];
        for (int i = threadIdx.x; i < end - begin; i += blockDim.x) {
            const int position = start + i;
            batch.slots[g * batch.max_tokens + begin + i] = int64_t(table[position / kBlock]) * kBlock + position % kBlock;
        }
    }
}

}  // namespace

void apply_step(const Rows& rows, const int32_t* step, int records, int offsets, cudaStream_t stream) {
    if (records) launch(apply_kernel, dim3(records), dim3(256), 0, stream, rows, step, offsets);
}

void gather_step(const Rows& rows, const int32_t* step, int max_sequences, int sequences, const StepBatch& batch, cudaStream_t stream) {
    launch(gather_kernel, dim3(sequences), dim3(128), 0, stream, rows, step, max_sequences, batch);
}

}  // namespace octavo::cuda
