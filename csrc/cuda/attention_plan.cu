// How decodes are divided among the chip's processors: made on the GPU once a step, so that nothing of it depends on the
// host, and read by every layer of a group.
#include "attention.h"
#include "cuda.h"
#include "launch.h"

namespace octavo::cuda {
namespace {

constexpr int kMinChunk = 4;  // pages: one for each warp of a CTA
constexpr int kThreads = 1024;

// What a part costs beside its pages, in pages: starting, and where its sequence is split, merging.
constexpr int kStartCost = 1, kMergeCost = 3;
constexpr int kCandidates = 16;

// Candidate c: the longest sequence in so many parts.
__device__ __forceinline__ int parts_of_longest(int c) {
    return c < 8 ? c + 1 : c < 12 ? (c - 7) * 4 + 8 : (c - 11) * 32 + 0;
}

__device__ __forceinline__ int block_sum(int x, int* shared) {
    for (int d = 16; d; d /= 2) x += __shfl_xor_sync(~0u, x, d);
    __syncthreads();
    if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int w = 0; w < int(blockDim.x) / 32; w++) x += shared[w];
    return x;
}

// One block: cuts every sequence into parts of at most `chunk` pages, the chunk for which the slowest CTA is estimated to
// end first. Parts of split sequences come first, because they are the longest and wait for one another.
__global__ void plan_kernel(const int32_t* context_lens, int sequences, int kv_heads, int window, int ctas, PlanHead* head, Part* parts) {
    __shared__ int shared_sum[32], shared_split[32], shared_parts[kCandidates], shared_longest, shared_pages, shared_chunk;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warps = blockDim.x / 32;
    wait_for_predecessor();
    if (threadIdx.x < kCandidates) shared_parts[threadIdx.x] = 0;
    if (threadIdx.x == 0) shared_longest = shared_pages = 0;
    __syncthreads();
    int longest = 0, pages = 0;
    for (int s = threadIdx.x; s < sequences; s += blockDim.x) {
        const int context = context_lens[s], count = (context + kBlockSize - 1) / kBlockSize - first_page(context, window);
        longest = max(longest, count);
        pages += count;
    }
    longest = __reduce_max_sync(~0u, longest), pages = __reduce_add_sync(~0u, pages);
    if (lane == 0) atomicMax(&shared_longest, longest), atomicAdd(&shared_pages, pages);
    __syncthreads();
    int counts[kCandidates] = {};
    for (int s = threadIdx.x; s < sequences; s += blockDim.x) {
        const int context = context_lens[s], count = (context + kBlockSize - 1) / kBlockSize - first_page(context, window);
#pragma unroll
        for (int c = 0; c < kCandidates; c++) {
            const int p = parts_of_longest(c), chunk = max(kMinChunk, (shared_longest + p - 1) / p);
            counts[c] += max(1, (count + chunk - 1) / chunk);
        }
    }
#pragma unroll
    for (int c = 0; c < kCandidates; c++) {
        const int sum = __reduce_add_sync(~0u, counts[c]);
        if (lane == 0 && sum) atomicAdd(&shared_parts[c], sum);
    }
    __syncthreads();
    if (warp == 0) {
        const int c = lane % kCandidates, p = parts_of_longest(c), chunk = max(kMinChunk, (shared_longest + p - 1) / p);
        const int64_t items = int64_t(shared_parts[c]) * kv_heads, waves = (items + ctas - 1) / ctas;
        const float cost = kStartCost + (shared_parts[c] > sequences ? kMergeCost : 0);
        const float average = float(shared_pages) / shared_parts[c];
        const float estimate = fmaxf(waves * (average + cost), chunk + cost) + (items > ctas ? 0.0f : 0.001f * p);
        const bool fits = shared_parts[c] <= sequences + ctas * kItemsPerCta;
        const unsigned key = fits || c == 0 ? __float_as_uint(estimate) : ~0u;
        const unsigned best = __reduce_min_sync(~0u, key);
        const int winner = __ffs(__ballot_sync(~0u, key == best)) - 1;
        if (lane == winner) shared_chunk = chunk;
    }
    __syncthreads();
    const int chunk = shared_chunk;
    int mine_split = 0;
    for (int s = threadIdx.x; s < sequences; s += blockDim.x) {
        const int context = context_lens[s],
                  count = ((context + kBlockSize - 1) / kBlockSize - first_page(context, window) + chunk - 1) / chunk;
        mine_split += count > 1 ? count : 0;
    }
    const int all_splits = block_sum(mine_split, shared_sum);
    int whole_base = 0, split_base = 0;
    for (int start = 0; start < sequences; start += blockDim.x) {
        const int s = start + threadIdx.x;
        const int context = s < sequences ? context_lens[s] : 0;
        const int begin = first_page(context, window), end = (context + kBlockSize - 1) / kBlockSize;
        const int count = s < sequences ? max(1, (end - begin + chunk - 1) / chunk) : 0;
        const int whole = count == 1, split = count > 1 ? count : 0;
        int sum = whole, split_sum = split;
        for (int d = 1; d < 32; d *= 2) {
            const int x = __shfl_up_sync(~0u, sum, d), y = __shfl_up_sync(~0u, split_sum, d);
            if (lane >= d) sum += x, split_sum += y;
        }
        __syncthreads();
        if (lane == 31) shared_sum[warp] = sum, shared_split[warp] = split_sum;
        __syncthreads();
        int before = 0, split_before = 0, all = 0, all_split = 0;
        for (int w = 0; w < warps; w++) {
            if (w < warp) before += shared_sum[w], split_before += shared_split[w];
            all += shared_sum[w], all_split += shared_split[w];
        }
        const int slot = split_base + split_before + split_sum - split;
        const int at = split ? slot : all_splits + whole_base + before + sum - whole;
        const int each = count ? (end - begin + count - 1) / count : 0;
        for (int i = 0; i < count; i++) {
            parts[at + i] = {s, context, min(begin + i * each, end), min(begin + (i + 1) * each, end), i, count, slot, 0};
        }
        whole_base += all, split_base += all_split;
    }
    if (threadIdx.x == 0) *head = {all_splits + whole_base, 0, 0, chunk};
}

int processors() {
    static const int count = [] {
        int device = 0, found = 0;
        check(cudaGetDevice(&device), "cudaGetDevice");
        check(cudaDeviceGetAttribute(&found, cudaDevAttrMultiProcessorCount, device), "cudaDeviceGetAttribute");
        return found;
    }();
    return count;
}

int64_t aligned(int64_t bytes) {
    return (bytes + 255) / 256 * 256;
}

}  // namespace

int decode_ctas(int64_t sequences, int64_t kv_heads, int64_t head_size) {
    const int most = head_size <= 64 ? 4 : head_size <= 128 ? 2 : 1;
    return processors() * (sequences * kv_heads >= 2 * processors() ? most : 1);
}

Workspace workspace_at(void* base, int64_t sequences, int64_t q_heads, int64_t kv_heads, int64_t head_size) {
    const int64_t parts = sequences + int64_t(processors()) * 4 * kItemsPerCta + 1;
    const int64_t tiles = kv_heads * ((q_heads / kv_heads + kTileHeads - 1) / kTileHeads);
    Workspace w = {};
    int64_t at = 0;
    const auto take = [&](int64_t bytes) {
        char* place = static_cast<char*>(base) + at;
        at += aligned(bytes);
        return place;
    };
    w.head = reinterpret_cast<PlanHead*>(take(sizeof(PlanHead)));
    w.parts = reinterpret_cast<Part*>(take(parts * int64_t(sizeof(Part))));
    w.arrived = reinterpret_cast<int*>(take(parts * tiles * 4));
    w.statistics = reinterpret_cast<float2*>(take(parts * tiles * kTileHeads * 8));
    w.partial = reinterpret_cast<float*>(take(parts * tiles * kTileHeads * head_size * 4));
    w.bytes = at;
    return w;
}

int64_t attention_workspace_bytes(int64_t sequences, int64_t q_heads, int64_t kv_heads, int64_t head_size) {
    return workspace_at(nullptr, sequences, q_heads, kv_heads, head_size).bytes;
}

void plan_attention(const AttentionPlan& a, cudaStream_t stream) {
    const Workspace w = workspace_at(a.workspace, a.plan_sequences, a.q_heads, a.kv_heads, a.head_size);
    const int ctas = decode_ctas(a.sequences, a.kv_heads, a.head_size);
    const int tiles = int(a.kv_heads * ((a.q_heads / a.kv_heads + kTileHeads - 1) / kTileHeads));
    if (a.sequences)
        launch(plan_kernel, dim3(1), dim3(kThreads), 0, stream, a.context_lens, int(a.sequences), tiles, int(a.window), ctas, w.head,
               w.parts);
}

}  // namespace octavo::cuda
