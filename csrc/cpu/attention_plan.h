// How a batch's attention is cut into items that threads can take: query tile x range of keys, for each KV head.
#pragma once

#include <cstdint>

#include "../operations.h"

namespace octavo::cpu {

// Query rows of a tile at most: its tokens x the query heads of a KV head. Queries, scores, sums and the keys and values
// in work then take less than 200 KiB for the largest heads, which leaves L2 caches room for the keys and values to come.
constexpr int kTileRows = 64;

// A sequence with few query tokens has its keys cut at multiples of this, so that one long context keeps all threads
// busy. Fixed, so that a result depends neither on the number of threads nor on the rest of the batch.
constexpr int kSplitKeys = 256;
constexpr int kMaxSplitTokens = 8;

// Tokens [token, token + tokens) of the batch, the first at `position` of its sequence, and keys [key_begin, key_end).
struct AttentionItem {
    int32_t sequence, token, tokens, position;
    int32_t key_begin = 0, key_end = 0;
    int32_t split = 0, splits = 1;  // which part of its tile's keys this is, of how many
    int64_t partials = 0;           // with several splits: where the tile's partial results start
    int64_t unfinished = 0;         // with several splits: where the tile's counters start, one for each KV head
};

struct AttentionPlan {
    const AttentionItem* items;
    int64_t count;
    float* partials;      // of a tile: [Hkv, splits, rows] x (maximum, sum, D weighted values)
    int32_t* unfinished;  // of a tile: [Hkv] splits that are still computed
};

using Attend = void (*)(const PagedAttention&, const AttentionPlan&, DType);

// Checks the batch, throws std::out_of_range where it leaves the tensors, and has `attend` compute it.
void attend_as_planned(const PagedAttention& a, Attend attend, DType dtype);

}  // namespace octavo::cpu
