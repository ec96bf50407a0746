#include "attention_plan.h"

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace octavo::cpu {
namespace {

struct Span {
    int32_t first, tokens, context;  // first token in the batch, tokens in the batch, tokens in the cache
};

[[noreturn]] void refuse(int64_t sequence, const std::string& what) {
    throw std::out_of_range("paged_attention: sequence " + std::to_string(sequence) + ": " + what);
}

// First key that a query at `position` attends to.
int32_t first_key(const PagedAttention& a, int32_t position) {
    return a.window > 0 ? static_cast<int32_t>(std::max<int64_t>(0, position - a.window + 1)) : 0;
}

Span checked_span(const PagedAttention& a, int64_t sequence) {
    const int32_t first = a.query_start[sequence], end = a.query_start[sequence + 1];
    if (first < 0 || end < first || end > a.tokens)
        refuse(sequence, "query_start leaves the " + std::to_string(a.tokens) + " tokens of the batch");
    const Span span = {first, end - first, a.context_lens[sequence]};
    if (span.context < span.tokens || span.context > a.table_blocks * kBlockSize)
        refuse(sequence, "context of " + std::to_string(span.context) + " tokens, with " + std::to_string(span.tokens) +
                             " of them queries and a block table of " + std::to_string(a.table_blocks));
    const int32_t* table = a.block_tables + sequence * a.table_blocks;
    for (int32_t i = first_key(a, span.context - span.tokens) / kBlockSize; i * kBlockSize < span.context; i++)
        if (table[i] < 0 || table[i] >= a.num_blocks)
            refuse(sequence, "block " + std::to_string(table[i]) + " in a cache of " + std::to_string(a.num_blocks));
    return span;
}

class Planner {
  public:
    explicit Planner(const PagedAttention& a) : a_(a), group_(a.q_heads / a.kv_heads) {
        const auto tile_tokens = static_cast<int32_t>(std::max<int64_t>(1, kTileRows / group_));
        for (int64_t sequence = 0; sequence < a.sequences; sequence++) {
            const Span span = checked_span(a, sequence);
            for (int32_t done = 0; done < span.tokens; done += tile_tokens) {
                const int32_t position = span.context - span.tokens + done;
                add_tile({static_cast<int32_t>(sequence), span.first + done, std::min(tile_tokens, span.tokens - done), position}, span);
            }
        }
    }

    void run(Attend attend, DType dtype) {
        const std::unique_ptr<float[]> partials(new float[static_cast<size_t>(partials_)]);
        attend(a_, {items_.data(), static_cast<int64_t>(items_.size()), partials.get(), unfinished_.data()}, dtype);
    }

  private:
    void add_tile(AttentionItem item, const Span& span) {
        const int32_t begin = first_key(a_, item.position), end = item.position + item.tokens;
        const int32_t split_keys = span.tokens <= kMaxSplitTokens ? kSplitKeys : end;
        const int32_t first = begin / split_keys;
        item.splits = (end - 1) / split_keys - first + 1;
        item.partials = partials_;
        item.unfinished = static_cast<int64_t>(unfinished_.size());
        for (item.split = 0; item.split < item.splits; item.split++) {
            item.key_begin = std::max(begin, (first + item.split) * split_keys);
            item.key_end = std::min(end, (first + item.split + 1) * split_keys);
            items_.push_back(item);
        }
        if (item.splits == 1) return;
        partials_ += a_.kv_heads * item.splits * item.tokens * group_ * (a_.head_size + 2);
        unfinished_.insert(unfinished_.end(), static_cast<size_t>(a_.kv_heads), item.splits);
    }

    const PagedAttention& a_;
    int64_t group_;
    std::vector<AttentionItem> items_;
    std::vector<int32_t> unfinished_;
    int64_t partials_ = 0;
};

}  // namespace

void attend_as_planned(const PagedAttention& a, Attend attend, DType dtype) {
    Planner(a).run(attend, dtype);
}

}  // namespace octavo::cpu
