// From logits to token ids in one kernel: penalties, temperature, min_p, top_k, top_p and the draw.
//
// A cluster of CTAs holds one row of logits in shared memory, so that they are read once from device memory. Thresholds
// of top_k and top_p are found by radix selection over the bits of the probabilities, eight bits a pass, by count and by
// mass. A draw is looked up in the running sum of the probabilities in vocabulary order, and its number depends on the
// row's seed and the token's position alone, as on the CPU (engine/octavo/runner/sampler.py).
#include <cooperative_groups.h>
#include <cuda_bf16.h>

#include "launch.h"
#include "step.h"

namespace cg = cooperative_groups;

namespace octavo::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / 32;
constexpr int kBins = 256;
constexpr int kPerCta = 48 * 1024;  // logits that a CTA holds: 192 KiB
constexpr float kSmallest = 1.17549435e-38f;

struct Parameters {
    float temperature, top_p, min_p, repetition, presence, frequency;
    int top_k, prompt;
    uint32_t seed_low, seed_high;
    int barred_until, enders;
    int ender[kEnders];
};
static_assert(sizeof(Parameters) == kParameters * 4, "the words of a row");

struct Shared {
    float floats[kWarps];
    int ints[kWarps];
    float best;
    int best_index;
    float sum;
    int count[kBins];
    float mass[kBins];
    uint32_t prefix;
    float above_mass;
    int above_count;
    int chosen;
    float before;
};

__device__ __forceinline__ uint64_t mix(uint64_t x) {
    x += 0x9E3779B97F4A7C15ull;
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9ull;
    x = (x ^ x >> 27) * 0x94D049BB133111EBull;
    return x ^ x >> 31;
}

// In [0, 1).
__device__ __forceinline__ double uniform(uint64_t seed, uint64_t position) {
    return double(mix(mix(seed) + position * 0x9E3779B97F4A7C15ull) >> 11) * 0x1p-53;
}

__device__ __forceinline__ void take_larger(float& best, int& index, float other, int other_index) {
    if (other > best || (other == best && other_index < index)) best = other, index = other_index;
}

// The largest of all CTAs' logits and the first place where it is; every thread gets them.
__device__ void cluster_argmax(cg::cluster_group cluster, Shared& shared, float best, int index, float& out, int& out_index) {
    for (int d = 16; d; d /= 2) take_larger(best, index, __shfl_xor_sync(~0u, best, d), __shfl_xor_sync(~0u, index, d));
    if (threadIdx.x % 32 == 0) shared.floats[threadIdx.x / 32] = best, shared.ints[threadIdx.x / 32] = index;
    __syncthreads();
    if (threadIdx.x < 32) {
        best = shared.floats[threadIdx.x], index = shared.ints[threadIdx.x];
        for (int d = 16; d; d /= 2) take_larger(best, index, __shfl_xor_sync(~0u, best, d), __shfl_xor_sync(~0u, index, d));
        if (threadIdx.x == 0) shared.best = best, shared.best_index = index;
    }
    cluster.sync();
    best = -INFINITY, index = INT_MAX;
    for (unsigned r = 0; r < cluster.num_blocks(); r++) {
        const Shared* other = cluster.map_shared_rank(&shared, r);
        take_larger(best, index, other->best, other->best_index);
    }
    out = best, out_index = index;
}

__device__ float block_sum(Shared& shared, float x) {
    for (int d = 16; d; d /= 2) x += __shfl_xor_sync(~0u, x, d);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared.floats[threadIdx.x / 32] = x;
    __syncthreads();
    x = shared.floats[threadIdx.x % 32];
    for (int d = 16; d; d /= 2) x += __shfl_xor_sync(~0u, x, d);
    return x;
}

// Repetition counts tokens of prompt and answer, presence and frequency those of the answer.
__device__ void penalise(const Parameters& p, const int32_t* tokens, int length, float* logits, uint32_t* seen, int first, int count) {
    const int words = (count + 31) / 32;
    uint32_t* answered = seen + words;
    for (int i = threadIdx.x; i < 2 * words; i += kThreads) seen[i] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < length; i += kThreads) {
        const int token = tokens[i] - first;
        if (token < 0 || token >= count) continue;
        const uint32_t bit = 1u << token % 32;
        if (!(atomicOr(&seen[token / 32], bit) & bit))
            logits[token] = logits[token] > 0 ? logits[token] / p.repetition : logits[token] * p.repetition;
    }
    __syncthreads();
    for (int i = p.prompt + threadIdx.x; i < length; i += kThreads) {
        const int token = tokens[i] - first;
        if (token < 0 || token >= count) continue;
        const uint32_t bit = 1u << token % 32;
        const bool again = atomicOr(&answered[token / 32], bit) & bit;
        atomicAdd(&logits[token], -p.frequency - (again ? 0.0f : p.presence));
    }
    __syncthreads();
}

// The least probability of those that are likeliest together: by count (the k-th largest) or by mass (the last one
// before which less than `mass` has been taken). Radix selection from the highest bits down.
__device__ float threshold(cg::cluster_group cluster, Shared& shared, const float* probabilities, int count, float least, bool by_count,
                           int k, float mass) {
    uint32_t prefix = 0;
    float taken_mass = 0.0f;
    int taken_count = 0;
    for (int shift = 24; shift >= 0; shift -= 8) {
        for (int i = threadIdx.x; i < kBins; i += kThreads) shared.count[i] = 0, shared.mass[i] = 0.0f;
        __syncthreads();
        for (int i = threadIdx.x; i < count; i += kThreads) {
            const float x = probabilities[i];
            const uint32_t bits = __float_as_uint(x);
            if (x < least || x < kSmallest || (shift < 24 && (bits >> (shift + 8)) != prefix)) continue;
            const int bin = bits >> shift & (kBins - 1);
            if (by_count)
                atomicAdd(&shared.count[bin], 1);
            else
                atomicAdd(&shared.mass[bin], x);
        }
        cluster.sync();
        if (threadIdx.x < 32) {
            // each lane has eight bins, the last lane the highest
            float mine = 0.0f;
            float bins[8];
            for (int j = 0; j < 8; j++) {
                bins[j] = 0.0f;
                for (unsigned r = 0; r < cluster.num_blocks(); r++) {
                    const Shared* other = cluster.map_shared_rank(&shared, r);
                    bins[j] += by_count ? float(other->count[threadIdx.x * 8 + j]) : other->mass[threadIdx.x * 8 + j];
                }
                mine += bins[j];
            }
            float above = mine;
            for (int d = 1; d < 32; d *= 2) {
                const float x = __shfl_down_sync(~0u, above, d);
                if (threadIdx.x + d < 32) above += x;
            }
            above += (by_count ? float(taken_count) : taken_mass) - mine;
            // the highest bin with which the target is reached; nothing reaches it: the lowest bin that holds anything
            const float target = by_count ? float(k) : mass;
            int found = -1, lowest = -1;
            float found_above = 0.0f, lowest_above = 0.0f;
            for (int j = 7; j >= 0; j--) {
                if (bins[j] > 0.0f) {
                    if (found < 0 && above + bins[j] >= target) found = threadIdx.x * 8 + j, found_above = above;
                    lowest = threadIdx.x * 8 + j, lowest_above = above;
                }
                above += bins[j];
            }
            const unsigned who = __ballot_sync(~0u, found >= 0), any = __ballot_sync(~0u, lowest >= 0);
            const int owner = who ? 31 - __clz(who) : __ffs(any) - 1;
            const int bin = __shfl_sync(~0u, who ? found : lowest, owner);
            const float before = __shfl_sync(~0u, who ? found_above : lowest_above, owner);
            if (threadIdx.x == 0) shared.prefix = bin, shared.before = before;
        }
        cluster.sync();
        prefix = prefix << 8 | shared.prefix;
        taken_mass = shared.before, taken_count = int(shared.before);
        __syncthreads();
    }
    return __uint_as_float(prefix);
}

__global__ void __launch_bounds__(kThreads, 1) sample_kernel(const Rows rows, const Sample a) {
    extern __shared__ __align__(16) float logits[];
    __shared__ Shared shared;
    auto cluster = cg::this_cluster();
    wait_for_predecessor();
    const int n = blockIdx.x / cluster.num_blocks(), rank = cluster.block_rank();
    const int share = ((a.vocabulary + cluster.num_blocks() - 1) / cluster.num_blocks() + 7) / 8 * 8;
    const int first = rank * share, count = max(0, min(share, a.vocabulary - first));
    const int64_t row = a.rows[n];
    const int position = a.positions[n];
    const auto& p = *reinterpret_cast<const Parameters*>(rows.parameters + row * kParameters);
    int32_t* tokens = rows.tokens + row * rows.max_len;
    const auto* source = static_cast<const __nv_bfloat16*>(a.logits) + int64_t(n) * a.vocabulary + first;
    const bool barred = position < p.barred_until;
    const bool penalised = p.repetition != 1.0f || p.presence != 0.0f || p.frequency != 0.0f;
    const bool greedy = p.temperature == 0.0f;

    float best = -INFINITY;
    int index = INT_MAX;
    const bool keep = !greedy || barred || penalised;
    if (reinterpret_cast<uintptr_t>(source) % 16 == 0) {
#pragma unroll 4
        for (int i = threadIdx.x * 8; i < count / 8 * 8; i += kThreads * 8) {
            const uint4 raw = __ldcs(reinterpret_cast<const uint4*>(source + i));
            const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const float low = __uint_as_float(words[j] << 16), high = __uint_as_float(words[j] & 0xffff0000u);
                if (keep) logits[i + 2 * j] = low, logits[i + 2 * j + 1] = high;
                if (low > best) best = low, index = first + i + 2 * j;
                if (high > best) best = high, index = first + i + 2 * j + 1;
            }
        }
    }
    const int rest = reinterpret_cast<uintptr_t>(source) % 16 == 0 ? count / 8 * 8 : 0;
    for (int i = rest + threadIdx.x; i < count; i += kThreads) {
        const float x = __bfloat162float(source[i]);
        if (keep) logits[i] = x;
        if (x > best) best = x, index = first + i;
    }
    if (barred || penalised) {
        __syncthreads();
        if (barred && threadIdx.x < p.enders) {
            const int token = p.ender[threadIdx.x] - first;
            if (token >= 0 && token < count) logits[token] = -INFINITY;
        }
        __syncthreads();
        if (penalised) penalise(p, tokens, position, logits, reinterpret_cast<uint32_t*>(logits + share), first, count);
        best = -INFINITY, index = INT_MAX;
        for (int i = threadIdx.x; i < count; i += kThreads) {
            if (logits[i] > best) best = logits[i], index = first + i;
        }
    }
    cluster_argmax(cluster, shared, best, index, best, index);
    int chosen = index;
    if (!greedy) {
        const float scale = 1.4426950408889634f / p.temperature;
        float sum = 0.0f;
        for (int i = threadIdx.x; i < count; i += kThreads) {
            const float x = exp2f((logits[i] - best) * scale);
            logits[i] = x;
            sum += x;
        }
        __syncthreads();
        float least = p.min_p;
        if (p.top_k > 0 && p.top_k < a.vocabulary)
            least = fmaxf(least, threshold(cluster, shared, logits, count, least, true, p.top_k, 0.0f));
        auto all = [&](float x) {  // the sum over the cluster of what is kept
            const float mine = block_sum(shared, x);
            if (threadIdx.x == 0) shared.sum = mine;
            cluster.sync();
            float total = 0.0f;
            for (unsigned r = 0; r < cluster.num_blocks(); r++) total += cluster.map_shared_rank(&shared, r)->sum;
            cluster.sync();
            return total;
        };
        auto kept = [&]() {
            float x = 0.0f;
            for (int i = threadIdx.x; i < count; i += kThreads) x += logits[i] >= least ? logits[i] : 0.0f;
            return x;
        };
        if (p.top_p < 1.0f)
            least = fmaxf(least, threshold(cluster, shared, logits, count, least, false, 0, p.top_p * all(least > 0.0f ? kept() : sum)));
        // warp w of a CTA has a run of logits, so that the order of the sums is the vocabulary's
        const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, run = (share + kWarps - 1) / kWarps;
        const int begin = min(warp * run, count), end = min(begin + run, count);
        float mine = 0.0f;
        for (int i = begin + lane; i < end; i += 32) mine += logits[i] >= least ? logits[i] : 0.0f;
        for (int d = 16; d; d /= 2) mine += __shfl_xor_sync(~0u, mine, d);
        __syncthreads();
        if (lane == 0) shared.floats[warp] = mine;
        __syncthreads();
        if (threadIdx.x == 0) {
            float x = 0.0f;
            for (int w = 0; w < kWarps; w++) x += shared.floats[w];
            shared.sum = x;
            shared.chosen = -1;
        }
        cluster.sync();
        float total = 0.0f, before = 0.0f;
        int last = 0;
        for (unsigned r = 0; r < cluster.num_blocks(); r++) {
            const float x = cluster.map_shared_rank(&shared, r)->sum;
            if (int(r) < rank) before += x;
            total += x;
            if (x > 0.0f) last = r;
        }
        const uint64_t seed = uint64_t(p.seed_high) << 32 | p.seed_low;
        const float target = fminf(float(uniform(seed, position) * total), nextafterf(total, 0.0f));
        const bool here = target >= before && (target < before + shared.sum || rank == last);
        if (here && shared.sum > 0.0f) {
            // this CTA's warps, then the warp's lanes; rounding never leads past the last token that has any probability
            float at = before;
            int owner = -1, last_warp = 0;
            for (int w = 0; w < kWarps; w++) {
                if (shared.floats[w] > 0.0f) {
                    last_warp = w;
                    if (owner < 0 && target < at + shared.floats[w]) owner = w;
                    if (owner < 0) at += shared.floats[w];
                }
            }
            if (owner < 0) owner = last_warp, at -= shared.floats[last_warp];
            if (warp == owner) {
                int found = -1, fallback = -1;
                for (int base = begin; base < end && found < 0; base += 32) {
                    const int i = base + lane;
                    const float x = i < end && logits[i] >= least ? logits[i] : 0.0f;
                    float upto = x;
                    for (int d = 1; d < 32; d *= 2) {
                        const float y = __shfl_up_sync(~0u, upto, d);
                        if (lane >= d) upto += y;
                    }
                    const unsigned over = __ballot_sync(~0u, x > 0.0f && at + upto > target), any = __ballot_sync(~0u, x > 0.0f);
                    if (over) found = base + __ffs(over) - 1;
                    if (any) fallback = base + 31 - __clz(any);
                    at += __shfl_sync(~0u, upto, 31);
                }
                if (lane == 0) shared.chosen = first + (found >= 0 ? found : fallback);
            }
        }
        cluster.sync();
        for (unsigned r = 0; r < cluster.num_blocks(); r++) {
            const int x = cluster.map_shared_rank(&shared, r)->chosen;
            if (x >= 0) chosen = x;
        }
    }
    cluster.sync();  // nobody leaves while its shared memory is read
    if (rank == 0 && threadIdx.x == 0) {
        a.token_ids[n] = chosen;
        if (position < rows.max_len) tokens[position] = chosen;
    }
}

}  // namespace

void sample(const Rows& rows, const Sample& a, cudaStream_t stream) {
    int cluster = 1;
    while ((a.vocabulary + cluster - 1) / cluster > kPerCta) cluster *= 2;
    const int share = ((a.vocabulary + cluster - 1) / cluster + 7) / 8 * 8;
    const int bytes = share * 4 + (share + 31) / 32 * 8;  // logits, and a bit each for seen in all and in the answer
    static const cudaError_t prepared = cudaFuncSetAttribute(sample_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, 220 * 1024);
    check(prepared, "sample");
    launch_clustered(sample_kernel, dim3(a.n * cluster), dim3(kThreads), bytes, cluster, stream, rows, a);
}

}  // namespace octavo::cuda
