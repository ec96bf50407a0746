#include "parallel.h"

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>

namespace octavo::cpu {
namespace {

// GCC's entry to an OpenMP parallel region; the runtimes of LLVM and Intel have it too.
using Fork = void (*)(void (*body)(void*), void* context, unsigned threads, unsigned flags);

struct Pool {
    Fork fork = nullptr;
    int threads = 1;
};

Pool& pool() {
    static Pool instance;
    return instance;
}

struct Loop {
    std::atomic<int64_t> next{0};
    int64_t count;
    LoopBody body;
    const void* context;

    void work() {
        for (int64_t i = next.fetch_add(1, std::memory_order_relaxed); i < count; i = next.fetch_add(1, std::memory_order_relaxed))
            body(context, i);
    }
};

}  // namespace

void set_threads(int count) {
    if (count < 1) throw std::invalid_argument("threads must be at least 1, not " + std::to_string(count));
    if (pool().fork == nullptr) pool().fork = reinterpret_cast<Fork>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    if (count > 1 && pool().fork == nullptr)
        throw std::runtime_error("no OpenMP runtime in this process: import torch before setting threads");
    pool().threads = count;
}

void run_loop(int64_t count, int64_t grain, LoopBody body, const void* context) {
    const int64_t threads = std::min<int64_t>(pool().threads, count / std::max<int64_t>(grain, 1));
    if (threads <= 1) {
        for (int64_t i = 0; i < count; i++) body(context, i);
        return;
    }
    Loop loop;
    loop.count = count;
    loop.body = body;
    loop.context = context;
    pool().fork([](void* shared) { static_cast<Loop*>(shared)->work(); }, &loop, static_cast<unsigned>(threads), 0);
}

}  // namespace octavo::cpu
