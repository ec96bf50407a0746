// The permanent rows of requests and a step's batch, in device memory.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace octavo::cuda {

// Words of a row's sampling parameters: temperature, top_p, min_p, repetition, presence, frequency (floats), top_k,
// prompt tokens, seed (two words), the number of tokens before which the row's enders are barred, how many enders, the enders.
constexpr int kEnders = 20;
constexpr int kParameters = 12 + kEnders;

struct Rows {
    int32_t* tokens;      // [count, max_len]
    int32_t* parameters;  // [count, kParameters]
    int32_t* tables;      // [groups, count, table_blocks]
    int64_t count, max_len, table_blocks;
    int groups;
};

struct StepBatch {
    int64_t *token_ids, *positions;  // [max_tokens]
    int64_t* slots;                  // [groups, max_tokens]
    int32_t* block_tables;           // [groups, max_sequences, table_blocks]
    int32_t *query_start, *context_lens;
    int64_t max_tokens;
};

// Takes in the step's records; the place of record i is word `offsets` + i of the step.
void apply_step(const Rows& rows, const int32_t* step, int records, int offsets, cudaStream_t stream);

// Gathers the batch of the step's first `sequences` rows.
void gather_step(const Rows& rows, const int32_t* step, int max_sequences, int sequences, const StepBatch& batch, cudaStream_t stream);

struct Sample {
    const void* logits;        // [n, vocabulary], bfloat16
    const int32_t* rows;       // [n]
    const int32_t* positions;  // [n]: of the sampled token in its row
    int32_t* token_ids;        // [n]
    int n, vocabulary;
};

// Chooses a token for each row of logits, and appends it to its row.
void sample(const Rows& rows, const Sample& a, cudaStream_t stream);

}  // namespace octavo::cuda
