// Loops over threads. They run on the OpenMP runtime that torch has loaded: docs/decisions says why.
#pragma once

#include <cstdint>

namespace octavo::cpu {

// Threads that a loop may use. More than one needs an OpenMP runtime in the process; throws without.
void set_threads(int count);

using LoopBody = void (*)(const void* context, int64_t index);

// Calls body(context, i) for every i below `count`, in any order, on one thread for each `grain` of them at most.
void run_loop(int64_t count, int64_t grain, LoopBody body, const void* context);

template <class Body>
inline void parallel_for(int64_t count, int64_t grain, const Body& body) {
    run_loop(count, grain, [](const void* context, int64_t index) { (*static_cast<const Body*>(context))(index); }, &body);
}

}  // namespace octavo::cpu
