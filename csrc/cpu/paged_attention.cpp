// Attention in the order of FlashAttention (arXiv:2205.14135): for a stretch of keys at a time, the scores, the softmax
// so far and the values weighted by it. A tile's rows are its tokens' query heads of one KV head, so that these share
// every load of keys and values.
#include "attention_plan.h"
#include "level.h"
#include "matrix.h"
#include "parallel.h"

namespace octavo::cpu::OCTAVO_LEVEL {
namespace {

constexpr int kStretch = 64;
constexpr int kPackedKeys = 2 * W;
constexpr float kLowest = -1e30f;
constexpr float kLog2E = 1.44269504f;

template <class Unit>
struct Scratch {
    alignas(64) Unit q[kTileRows * kMaxHeadSize];        // [rows, D]
    alignas(64) float sums[kTileRows * kMaxHeadSize];    // [rows, D], values weighted so far
    alignas(64) float scores[kTileRows * kStretch];      // [rows, kStretch]
    alignas(64) Unit weights[kTileRows * kStretch];      // [rows, kStretch]
    alignas(64) Unit keys[kPackedKeys * kMaxHeadSize];   // [D, kPackedKeys], transposed
    alignas(64) Unit values[kBlockSize * kMaxHeadSize];  // [kBlockSize, D]
    float maximum[kTileRows], total[kTileRows];          // of each row's softmax so far
};

template <class T>
class Tile {
    using Unit = typename Packed<T>::Unit;
    static constexpr int kValues = Packed<T>::kValues;

  public:
    Tile(const PagedAttention& a, const AttentionItem& item, int64_t kv_head)
        : a_(a), item_(item), kv_head_(kv_head), group_(a.q_heads / a.kv_heads), rows_(item.tokens * group_), size_(a.head_size) {}

    void attend() {
        pack_queries();
        for (int64_t row = 0; row < rows_; row++) {
            scratch_.maximum[row] = kLowest;
            scratch_.total[row] = 0.0f;
        }
        for (int64_t i = 0; i < rows_ * size_; i += W) store(scratch_.sums + i, Vec{});
        for (int first = item_.key_begin / kBlockSize * kBlockSize; first < item_.key_end; first += kStretch) {
            const int last = min(first + kStretch, item_.key_end);
            score(first, last);
            for (int64_t row = 0; row < rows_; row++) soften(row, first, last);
            add_values(first, last);
        }
    }

    // Rows divided by their totals, into `out`.
    void write_out() {
        for (int64_t row = 0; row < rows_; row++) {
            const float factor = 1.0f / scratch_.total[row];
            T* out = out_row(row);
            for (int64_t i = 0; i < size_; i += W) store(out + i, load(scratch_.sums + row * size_ + i) * factor);
        }
    }

    // Keeps this part's rows for whoever ends last.
    void write_partials(float* partials) {
        for (int64_t row = 0; row < rows_; row++) {
            float* to = partials + (part(item_.split) + row) * (size_ + 2);
            to[0] = scratch_.maximum[row];
            to[1] = scratch_.total[row];
            for (int64_t i = 0; i < size_; i += W) store(to + 2 + i, load(scratch_.sums + row * size_ + i));
        }
    }

    // Joins all parts of the tile, in their order, into `out`.
    void join_partials(const float* partials) {
        for (int64_t row = 0; row < rows_; row++) {
            const auto from = [&](int split) { return partials + (part(split) + row) * (size_ + 2); };
            float maximum = kLowest, total = 0.0f;
            for (int split = 0; split < item_.splits; split++) maximum = max(maximum, from(split)[0]);
            float* sums = scratch_.sums;
            for (int64_t i = 0; i < size_; i += W) store(sums + i, Vec{});
            for (int split = 0; split < item_.splits; split++) {
                const float factor = exp2(broadcast(from(split)[0] - maximum))[0];
                total += factor * from(split)[1];
                for (int64_t i = 0; i < size_; i += W) store(sums + i, load(sums + i) + factor * load(from(split) + 2 + i));
            }
            T* out = out_row(row);
            for (int64_t i = 0; i < size_; i += W) store(out + i, load(sums + i) * (1.0f / total));
        }
    }

  private:
    int64_t part(int split) const { return (kv_head_ * item_.splits + split) * rows_; }

    T* out_row(int64_t row) const {
        const int64_t token = item_.token + row / group_, head = kv_head_ * group_ + row % group_;
        return static_cast<T*>(a_.out) + (token * a_.q_heads + head) * size_;
    }

    // The keys or values of this head from `key` on, up to the end of its block.
    const T* cached(const void* cache, int key) const {
        const int64_t block = a_.block_tables[item_.sequence * a_.table_blocks + key / kBlockSize];
        return static_cast<const T*>(cache) + ((block * a_.kv_heads + kv_head_) * kBlockSize + key % kBlockSize) * size_;
    }

    void pack_queries() {
        for (int64_t row = 0; row < rows_; row++) {
            const int64_t token = item_.token + row / group_, head = kv_head_ * group_ + row % group_;
            pack(scratch_.q + row * (size_ / kValues), static_cast<const T*>(a_.q) + token * a_.q_stride + head * size_, size_);
        }
    }

    // Transposes keys [key, key + kPackedKeys) into scratch; those from `last` on are left as they were.
    void pack_keys(int key, int last) {
        const int64_t units = size_ / kValues;
        for (int part = 0; part < kPackedKeys && key + part < last; part += W) {
            const T* from = cached(a_.keys, key + part);
            for (int64_t column = 0; column < units; column += W) {
                Vec rows[W];
#pragma GCC unroll 16
                for (int i = 0; i < W; i++) rows[i] = load_units(from + i * size_, column, units);
                transpose(rows);
                Unit* to = scratch_.keys + column * kPackedKeys + part;
#pragma GCC unroll 16
                for (int i = 0; i < W; i++) store(reinterpret_cast<float*>(to + i * kPackedKeys), rows[i]);
            }
        }
    }

    void score(int first, int last) {
        const int64_t units = size_ / kValues;
        for (int key = first; key < last; key += kPackedKeys) {
            pack_keys(key, last);
            multiply<2, false, Unit>({scratch_.q, units}, {scratch_.keys, kPackedKeys}, {scratch_.scores + key - first, kStretch}, rows_,
                                     units);
        }
    }

    // One row's weights for keys [first, last), as powers of 2 relative to the maximum so far.
    void soften(int64_t row, int first, int last) {
        const int position = static_cast<int>(item_.position + row / group_);
        const int begin = a_.window > 0 ? static_cast<int>(max<int64_t>(item_.key_begin, position - a_.window + 1)) : item_.key_begin;
        const IntVec from = IntVec{} + (begin - first), to = IntVec{} + (min(last, position + 1) - first);
        const float scale = a_.scale * kLog2E;
        float* scores = scratch_.scores + row * kStretch;
        Vec largest_of_lane = broadcast(kLowest);
        for (int i = 0; i < last - first; i += W) {
            const IntVec lane = lane_numbers(Lanes{}) + i;
            const Vec score = select((lane >= from) & (lane < to), load(scores + i) * scale, broadcast(-kInfinity));
            store(scores + i, score);
            largest_of_lane = max(largest_of_lane, score);
        }
        const float before = scratch_.maximum[row], maximum = max(before, largest(largest_of_lane));
        Vec total = {};
        for (int i = 0; i < last - first; i += W) {
            const Vec weight = exp2(load(scores + i) - maximum);
            total += weight;
            pack(scratch_.weights + row * kStretch + i / kValues, weight);
        }
        if (maximum > before) {
            const float factor = exp2(broadcast(before - maximum))[0];
            float* sums = scratch_.sums + row * size_;
            for (int64_t i = 0; i < size_; i += W) store(sums + i, load(sums + i) * factor);
            scratch_.total[row] *= factor;
            scratch_.maximum[row] = maximum;
        }
        scratch_.total[row] += sum(total);
    }

    // sums += weights values, without touching keys outside of the item's: their values may be anything.
    void add_values(int first, int last) {
        for (int key = first; key < last; key += kBlockSize) {
            const int from = max(item_.key_begin - key, 0) / kValues * kValues, to = min(last - key, kBlockSize);
            const Unit* block = pack_block(scratch_.values, cached(a_.values, key), max(item_.key_begin - key, 0), to, size_);
            const Matrix<const Unit> weights = {scratch_.weights + (key - first + from) / kValues, kStretch};
            const int64_t depth = (to - from + kValues - 1) / kValues;
            int64_t column = 0;
            for (; column + 2 * W <= size_; column += 2 * W)
                multiply<2, true, Unit>(weights, {block + from / kValues * size_ + column, size_}, {scratch_.sums + column, size_}, rows_,
                                        depth);
            if (column < size_)
                multiply<1, true, Unit>(weights, {block + from / kValues * size_ + column, size_}, {scratch_.sums + column, size_}, rows_,
                                        depth);
        }
    }

    const PagedAttention& a_;
    const AttentionItem& item_;
    const int64_t kv_head_, group_, rows_, size_;
    Scratch<Unit> scratch_;
};

template <class T>
void run(const PagedAttention& a, const AttentionPlan& plan) {
    parallel_for(plan.count * a.kv_heads, 1, [&](int64_t index) {
        const AttentionItem& item = plan.items[index / a.kv_heads];
        const int64_t kv_head = index % a.kv_heads;
        Tile<T> tile(a, item, kv_head);
        tile.attend();
        if (item.splits == 1) {
            tile.write_out();
            return;
        }
        tile.write_partials(plan.partials + item.partials);
        if (__atomic_sub_fetch(plan.unfinished + item.unfinished + kv_head, 1, __ATOMIC_ACQ_REL) == 0)
            tile.join_partials(plan.partials + item.partials);
    });
}

}  // namespace

void paged_attention(const PagedAttention& a, const AttentionPlan& plan, DType dtype) {
    dtype == DType::kFloat32 ? run<float>(a, plan) : run<BFloat16>(a, plan);
}

}  // namespace octavo::cpu::OCTAVO_LEVEL
