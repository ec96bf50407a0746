#include <cstring>
#include <stdexcept>
#include <string>

#include "cpu.h"

namespace octavo::cpu {

void copy_blocks(const CopyBlocks& a) {
    for (const int64_t* blocks : {a.sources, a.targets})
        for (int64_t i = 0; i < a.count; i++)
            if (blocks[i] < 0 || blocks[i] >= a.num_blocks)
                throw std::out_of_range("copy_blocks: block " + std::to_string(blocks[i]) + " in a cache of " +
                                        std::to_string(a.num_blocks));
    const auto bytes = static_cast<size_t>(a.block_bytes);
    for (char* cache : {static_cast<char*>(a.keys), static_cast<char*>(a.values)})
        for (int64_t i = 0; i < a.count; i++)
            std::memcpy(cache + a.targets[i] * a.block_bytes, cache + a.sources[i] * a.block_bytes, bytes);
}

}  // namespace octavo::cpu
